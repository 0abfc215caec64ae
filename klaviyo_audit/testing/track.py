"""Klaviyo's track API as a `FakeKlaviyo` has it: what becomes of events that are sent."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from klaviyo_audit.testing.exchange import Answer, Refused, error, related
from klaviyo_audit.testing.ids import resource_id
from klaviyo_audit.testing.store import EVENT, IDENTIFIERS, PROFILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klaviyo_audit.testing.exchange import Exchange
    from klaviyo_audit.testing.store import Store

# Klaviyo, *Create Event*, *Bulk Create Events* and *Events API overview*, "Limitations". Of limits
# that differ between revisions, the one of the latest.
_METRIC_NAME_LIMIT = 128
"""Characters; a name has fewer."""
_MAX_EVENTS = 1_000
_MAX_PAYLOAD = 5_000_000
_MAX_STRING = 100_000
_MAX_PROPERTIES = 400
_MAX_LEVELS = 10
_MAX_ITEMS = 4_000
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=365)

_BULK = "events-bulk-create"
_SILENT = 202
_ACCESS_POINTER = "/data/attributes/unique_id"


@dataclass(frozen=True, slots=True)
class _Sent:
    """One event as it was sent, with the profile it is for."""

    attributes: dict[str, Any]
    profile: dict[str, Any]
    pointer: str


def create_event(exchange: Exchange) -> Answer:
    """``POST /api/events``: 202, and the event is kept if it is the first of its unique id.

    An event that breaks a rule is refused by a strict fake; another one takes it and keeps nothing.
    """
    attributes = exchange.data().get("attributes", {})
    sent = _Sent(attributes, related(attributes, "profile"), "/data/attributes")
    fault = _too_large(exchange.body) or _fault(sent)
    if fault is None:
        _record(exchange.store, sent)
    elif exchange.strict:
        raise Refused(error(*fault))
    return Answer(exchange.operation.status)


def bulk_create_events(repeat_status: int) -> Any:
    """A handler of ``POST /api/event-bulk-create-jobs``: all events of the job are kept, or none.

    A ``unique_id`` that is repeated, in the job or from before, fails the whole job: "the request
    will fail and no events will be processed" (Klaviyo, *Bulk Create Events*).

    Args:
        repeat_status: What such a job is answered with; 202: as if all was well.
    """

    def handle(exchange: Exchange) -> Answer:
        store = exchange.store
        events = list(_events_of(exchange))
        fault = _too_large(exchange.body) or _too_many(events)
        for sent in events:
            fault = fault or _fault(sent)
        if fault is not None:
            if exchange.strict:
                raise Refused(error(*fault))
            return Answer(exchange.operation.status)
        keys = [_key(store, sent) for sent in events]
        if len(set(keys)) < len(keys) or any(store.is_recorded(key) for key in keys):
            if repeat_status == _SILENT:
                return Answer(exchange.operation.status)
            raise Refused(error(repeat_status, "A unique_id is repeated", _ACCESS_POINTER))
        for sent in events:
            _record(store, sent)
        return Answer(exchange.operation.status)

    return handle


def _events_of(exchange: Exchange) -> Iterator[_Sent]:
    for number, item in enumerate(_listed(exchange.data().get("attributes", {}), _BULK)):
        pointer = f"/data/attributes/{_BULK}/data/{number}/attributes"
        attributes = item.get("attributes") or {}
        profile = related(attributes, "profile")
        for index, event in enumerate(_listed(attributes, "events")):
            given = event.get("attributes") or {}
            yield _Sent(given, profile, f"{pointer}/events/data/{index}/attributes")


def _listed(attributes: dict[str, Any], name: str) -> list[dict[str, Any]]:
    holder = attributes.get(name)
    data = holder.get("data") if isinstance(holder, dict) else None
    return [each for each in data or [] if isinstance(each, dict)]


_Fault = tuple[int, str, str]
"""Status, what Klaviyo would say is wrong, and where."""


def _too_large(body: bytes) -> _Fault | None:
    if len(body) > _MAX_PAYLOAD:
        return 413, "The payload exceeds 5 MB", "/data"
    return None


def _too_many(events: list[_Sent]) -> _Fault | None:
    if not 0 < len(events) <= _MAX_EVENTS:
        return 400, "A job has 1 to 1,000 events", f"/data/attributes/{_BULK}/data"
    return None


def _fault(sent: _Sent) -> _Fault | None:
    attributes = sent.attributes
    name = _metric_name(attributes)
    if not isinstance(name, str) or not 0 < len(name) < _METRIC_NAME_LIMIT:
        return (
            400,
            "An event needs the name of a metric, shorter than 128 characters",
            f"{sent.pointer}/metric",
        )
    given = sent.profile.get("attributes") or {}
    if not sent.profile.get("id") and not any(given.get(each) for each in IDENTIFIERS):
        pointer = sent.pointer.partition("/events/")[0]
        return 400, "An event needs an identifier of its profile", f"{pointer}/profile"
    properties = attributes.get("properties")
    if not isinstance(properties, dict):
        return 400, "An event needs properties", f"{sent.pointer}/properties"
    if len(properties) > _MAX_PROPERTIES:
        return 400, "An event has at most 400 properties", f"{sent.pointer}/properties"
    if (wrong := _beyond_limit(properties.values(), _MAX_LEVELS - 1)) is not None:
        return 400, wrong, f"{sent.pointer}/properties"
    if not _EARLIEST < _time_of(attributes.get("time")) < datetime.now(UTC) + _AHEAD:
        return 400, "The time is before 1990 or more than a year ahead", f"{sent.pointer}/time"
    return None


def _beyond_limit(values: Iterable[Any], levels: int) -> str | None:
    for value in values:
        wrong = None
        if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > _MAX_STRING:
            return "A string exceeds 100 KB"
        if isinstance(value, dict | list):
            if levels <= 0:
                return "Properties are nested in more than 10 levels"
            if isinstance(value, list) and len(value) > _MAX_ITEMS:
                return "An array has more than 4,000 elements"
            inner = value.values() if isinstance(value, dict) else value
            wrong = _beyond_limit(inner, levels - 1)
        if wrong is not None:
            return wrong
    return None


def _metric_name(attributes: dict[str, Any]) -> Any:
    return (related(attributes, "metric").get("attributes") or {}).get("name")


def _key(store: Store, sent: _Sent) -> tuple[str, str, str]:
    return store.event_key(
        _profile_of(store, sent.profile),
        _metric_name(sent.attributes),
        sent.attributes.get("unique_id"),
    )


def _record(store: Store, sent: _Sent) -> None:
    attributes = sent.attributes
    profile_id, metric, _ = key = _key(store, sent)
    if not store.is_first(key):
        return
    happened = _time_of(attributes.get("time"))
    properties = dict(attributes["properties"])
    if attributes.get("unique_id") is not None:
        properties["$event_id"] = attributes["unique_id"]
    if attributes.get("value") is not None:
        properties["$value"] = attributes["value"]
    metric_id = _metric_id(metric)
    store.add(
        EVENT,
        {
            "timestamp": int(happened.timestamp()),
            "event_properties": properties,
            "datetime": happened.isoformat(sep=" ", timespec="seconds"),
            "uuid": str(uuid.uuid1(node=0, clock_seq=0)),
        },
        relationships={
            "profile": {"data": {"type": PROFILE, "id": profile_id}},
            "metric": {"data": {"type": "metric", "id": metric_id}},
        },
        sought_by={"profile_id": profile_id, "metric_id": metric_id, "metric": metric},
    )


def _profile_of(store: Store, given: dict[str, Any]) -> str:
    """The id of an event's profile; the profile is made if there is none."""
    if given.get("id"):
        return str(given["id"])
    attributes = given.get("attributes") or {}
    profile = store.same_profile(attributes) or store.add(PROFILE, attributes)
    return profile.id


def _metric_id(name: str) -> str:
    return resource_id(f"metric {name}", 1)


def _time_of(given: Any) -> datetime:
    """When the event happened, cut to the second as Klaviyo does; now where it does not say."""
    try:
        happened = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        happened = datetime.now(UTC)
    if happened.tzinfo is None:
        happened = happened.replace(tzinfo=UTC)
    return happened.replace(microsecond=0)
