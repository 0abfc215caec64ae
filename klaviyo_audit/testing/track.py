"""Klaviyo's track API as a `FakeKlaviyo` has it: what becomes of an event that is sent."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from klaviyo_audit.testing.exchange import Answer, Refused, error, related
from klaviyo_audit.testing.ids import resource_id
from klaviyo_audit.testing.store import EVENT, IDENTIFIERS, PROFILE

if TYPE_CHECKING:
    from klaviyo_audit.testing.exchange import Exchange
    from klaviyo_audit.testing.store import Store

_METRIC_NAME_LIMIT = 128
"""Characters; a name has fewer (Klaviyo, *Create Event*)."""


def create_event(exchange: Exchange) -> Answer:
    """``POST /api/events``: 202, and the event is kept if it is the first of its unique id.

    An event without a metric's name or a profile's identifier is refused by a strict fake; another
    one takes it and keeps nothing.
    """
    attributes = exchange.data().get("attributes", {})
    fault = _fault(attributes)
    if fault is None:
        _record(exchange.store, attributes)
    elif exchange.strict:
        raise Refused(error(400, *fault))
    return Answer(exchange.operation.status)


def _fault(attributes: dict[str, Any]) -> tuple[str, str] | None:
    """What Klaviyo would say is wrong with an event, and where."""
    name = _metric_name(attributes)
    if not isinstance(name, str) or not 0 < len(name) < _METRIC_NAME_LIMIT:
        return (
            "An event needs the name of a metric, shorter than 128 characters",
            "/data/attributes/metric",
        )
    profile = related(attributes, "profile")
    given = profile.get("attributes") or {}
    if not profile.get("id") and not any(given.get(each) for each in IDENTIFIERS):
        return ("An event needs an identifier of its profile", "/data/attributes/profile")
    if not isinstance(attributes.get("properties"), dict):
        return ("An event needs properties", "/data/attributes/properties")
    return None


def _metric_name(attributes: dict[str, Any]) -> Any:
    return (related(attributes, "metric").get("attributes") or {}).get("name")


def _record(store: Store, attributes: dict[str, Any]) -> None:
    profile_id = _profile_of(store, related(attributes, "profile"))
    metric = _metric_name(attributes)
    unique_id = attributes.get("unique_id")
    if not store.is_first(profile_id, metric, unique_id):
        return
    happened = _time_of(attributes.get("time"))
    properties = dict(attributes["properties"])
    if unique_id is not None:
        properties["$event_id"] = unique_id
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
        happened = datetime.fromtimestamp(time.time(), UTC)
    if happened.tzinfo is None:
        happened = happened.replace(tzinfo=UTC)
    return happened.replace(microsecond=0)
