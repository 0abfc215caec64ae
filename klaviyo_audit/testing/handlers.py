"""The operations on profiles, lists and events that a `FakeKlaviyo` really carries out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from klaviyo_audit.testing.answers import body_of, document_of
from klaviyo_audit.testing.collection import BASE_URL, PageSize, filtered, page
from klaviyo_audit.testing.exchange import Answer, Refused, error, related
from klaviyo_audit.testing.store import EVENT, LIST, PROFILE, Resource

if TYPE_CHECKING:
    from klaviyo_audit.testing.exchange import Exchange, Handler

_PATHS = {PROFILE: "/api/profiles", LIST: "/api/lists", EVENT: "/api/events"}
_TIMES = ("datetime", "timestamp")
_SIZES = {PROFILE: PageSize(20, 100), LIST: PageSize(10, 10), EVENT: PageSize(200, 1000)}
"""From the descriptions of ``page_size`` in the SDK."""


def read_one(kind: str) -> Handler:
    """A handler of ``GET /api/<kind>s/{id}``."""

    def handle(exchange: Exchange) -> Answer:
        found = _find(exchange, kind, exchange.ids[-1])
        if found is None:
            return Answer(
                exchange.operation.status, body_of(exchange.operation).about(exchange.ids[-1])
            )
        return _one(exchange, found)

    return handle


def read_all(kind: str) -> Handler:
    """A handler of ``GET /api/<kind>s``."""

    def handle(exchange: Exchange) -> Answer:
        there = exchange.store.all(kind)
        if kind == EVENT and exchange.lag:
            there = [each for each in there if _is_readable(each, exchange)]
        found = filtered(exchange, there)
        if kind == EVENT and exchange.query.get("sort", "").lstrip("-") in (
            "datetime",
            "timestamp",
        ):
            return _sorted_events(exchange, found)
        numbered = ((each.number, each) for each in found)
        return _many(exchange, *page(exchange, _PATHS[kind], numbered, _SIZES[kind]))

    return handle


def _is_readable(event: Resource, exchange: Exchange) -> bool:
    return time.monotonic() - event.since >= exchange.lag


def _sorted_events(exchange: Exchange, events: list[Resource]) -> Answer:
    falling = exchange.query["sort"].startswith("-")
    events.sort(key=lambda event: event.attributes["timestamp"], reverse=falling)
    return _many(exchange, *page(exchange, _PATHS[EVENT], enumerate(events, 1), _SIZES[EVENT]))


def create_profile(exchange: Exchange) -> Answer:
    """``POST /api/profiles``: 409 where a profile has one of the identifiers."""
    attributes = exchange.data().get("attributes", {})
    _refuse_duplicate(exchange, attributes, None)
    return _one(exchange, exchange.store.add(PROFILE, attributes))


def create_or_update_profile(exchange: Exchange) -> Answer:
    """``POST /api/profile-import``: 200 where the profile was there, else 201."""
    data = exchange.data()
    attributes = data.get("attributes", {})
    profile = exchange.store.get(PROFILE, str(data.get("id")))
    profile = profile or exchange.store.same_profile(attributes)
    if profile is None:
        return _one(exchange, exchange.store.add(PROFILE, attributes), status=201)
    exchange.store.update(profile, attributes)
    return _one(exchange, profile, status=200)


def update(kind: str) -> Handler:
    """A handler of ``PATCH /api/<kind>s/{id}``."""

    def handle(exchange: Exchange) -> Answer:
        attributes = exchange.data().get("attributes", {})
        resource = _find(exchange, kind, exchange.ids[-1])
        if kind == PROFILE:
            _refuse_duplicate(exchange, attributes, resource)
        if resource is None:
            return _one(exchange, Resource(kind, exchange.ids[-1], 0, attributes))
        exchange.store.update(resource, attributes)
        return _one(exchange, resource)

    return handle


def request_profile_deletion(exchange: Exchange) -> Answer:
    """``POST /api/data-privacy-deletion-jobs``: the profile and its events are gone."""
    asked = related(exchange.data().get("attributes", {}), "profile")
    store = exchange.store
    profile = store.get(PROFILE, str(asked.get("id")))
    profile = profile or store.same_profile(asked.get("attributes") or {})
    if profile is not None:
        store.delete(PROFILE, profile.id)
        for event in store.all(EVENT):
            if event.sought_by.get("profile_id") == profile.id:
                store.delete(EVENT, event.id)
    return Answer(exchange.operation.status)


def create_list(exchange: Exchange) -> Answer:
    """``POST /api/lists``."""
    return _one(exchange, exchange.store.add(LIST, exchange.data().get("attributes", {})))


def delete_list(exchange: Exchange) -> Answer:
    """``DELETE /api/lists/{id}``."""
    _find(exchange, LIST, exchange.ids[-1])
    exchange.store.delete(LIST, exchange.ids[-1])
    return Answer(exchange.operation.status)


def add_to_list(exchange: Exchange) -> Answer:
    """``POST /api/lists/{id}/relationships/profiles``."""
    _find(exchange, LIST, exchange.ids[0])
    members = exchange.store.members(exchange.ids[0])
    members |= dict.fromkeys(str(each.get("id")) for each in exchange.listed())
    return Answer(exchange.operation.status)


def remove_from_list(exchange: Exchange) -> Answer:
    """``DELETE /api/lists/{id}/relationships/profiles``."""
    _find(exchange, LIST, exchange.ids[0])
    members = exchange.store.members(exchange.ids[0])
    for each in exchange.listed():
        members.pop(str(each.get("id")), None)
    return Answer(exchange.operation.status)


def read_list_profiles(exchange: Exchange) -> Answer:
    """``GET /api/lists/{id}/profiles``: those of its profiles that are remembered."""
    _find(exchange, LIST, exchange.ids[0])
    members = exchange.store.members(exchange.ids[0])
    profiles = [exchange.store.get(PROFILE, each) for each in members]
    found = filtered(exchange, [each for each in profiles if each is not None])
    path = f"{_PATHS[LIST]}/{exchange.ids[0]}/profiles"
    return _many(exchange, *page(exchange, path, enumerate(found, 1), _SIZES[PROFILE]))


def read_list_profile_ids(exchange: Exchange) -> Answer:
    """``GET /api/lists/{id}/relationships/profiles``."""
    _find(exchange, LIST, exchange.ids[0])
    members = enumerate(exchange.store.members(exchange.ids[0]), 1)
    path = f"{_PATHS[LIST]}/{exchange.ids[0]}/relationships/profiles"
    shown, links = page(exchange, path, members, _SIZES[PROFILE])
    data = [{"type": PROFILE, "id": each} for each in shown]
    body = {**document_of(exchange.operation), "data": data, "links": links}
    return Answer(exchange.operation.status, orjson.dumps(body))


def _find(exchange: Exchange, kind: str, resource_id: str) -> Resource | None:
    """A remembered resource, or ``None`` where an unknown one is taken as any.

    Raises:
        Refused: The resource was deleted, or is unknown and the fake is strict.
    """
    found = exchange.store.get(kind, resource_id)
    if found is not None and kind == EVENT and not _is_readable(found, exchange):
        raise Refused(error(404, f"An {kind} with id {resource_id} does not exist."))
    if found is None and (exchange.strict or exchange.store.is_deleted(kind, resource_id)):
        article = "An" if kind == EVENT else "A"
        raise Refused(error(404, f"{article} {kind} with id {resource_id} does not exist."))
    return found


def _refuse_duplicate(
    exchange: Exchange, attributes: dict[str, Any], resource: Resource | None
) -> None:
    other = exchange.store.same_profile(attributes)
    if other is not None and other is not resource:
        raise Refused(
            error(
                409,
                "A profile already exists with one of these identifiers.",
                "/data/attributes",
                code="duplicate_profile",
                meta={"duplicate_profile_id": other.id},
            )
        )


def _one(exchange: Exchange, resource: Resource, status: int | None = None) -> Answer:
    example = document_of(exchange.operation)
    body = {**example, "data": _rendered(example.get("data"), resource)}
    return Answer(status or exchange.operation.status, orjson.dumps(body))


def _many(exchange: Exchange, resources: list[Resource], links: dict[str, str | None]) -> Answer:
    example = document_of(exchange.operation)
    items = example.get("data") or [None]
    data = [_rendered(items[0], each) for each in resources]
    body = {**example, "data": data, "links": links}
    return Answer(exchange.operation.status, orjson.dumps(body))


def _rendered(example: Any, resource: Resource) -> dict[str, Any]:
    """A resource in the shape of the operation's response, whatever that has beyond it."""
    known: dict[str, Any] = example if isinstance(example, dict) else {}
    members = {
        **known,
        "type": resource.kind,
        "id": resource.id,
        "attributes": {**known.get("attributes", {}), **resource.attributes},
        "links": {"self": f"{BASE_URL}{_PATHS[resource.kind]}/{resource.id}/"},
    }
    if resource.relationships:
        members["relationships"] = resource.relationships
    return members
