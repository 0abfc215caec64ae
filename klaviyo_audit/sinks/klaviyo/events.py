"""What of an entry goes to Klaviyo, and in which form: events of one metric.

`permitted` alone decides what may leave, by a list of members; whatever is not on it stays in the
journal.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.entry import Phase
from klaviyo_audit.privacy import clean_path, clean_text
from klaviyo_audit.privacy.identifiers import Kind, normalise
from klaviyo_audit.privacy.keyring import KeyRing
from klaviyo_audit.privacy.pseudonyms import PATTERN, RingNaming
from klaviyo_audit.sinks.klaviyo.limits import bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klaviyo_audit.entry import AuditEntry

REVISION: Final = "2026-07-15"
"""First API revision whose description of events has ``backfill``."""

_WITHHELD: Final = "withheld"
_ID: Final = re.compile(r"(?!eyJ)[A-Za-z0-9.:-]{1,64}\Z")
_MAX_LIST: Final = 100
_MAX_IDENTIFIER: Final = 255
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_AHEAD: Final = timedelta(days=364)

# What of each part of an entry goes along, under its property's name. Everything here is written
# by this package or by Klaviyo; what programs and persons write freely (reason, on_behalf_of, ip,
# metadata, request, response, names of threads and hosts) is not on the list.
_ENTRY: Final = {
    "result": "result",
    "duration_ms": "duration_ms",
    "parent_id": "parent_id",
    "sum": "sum",
}
_CALL: Final = {
    "group": "call_group",
    "operation": "call_operation",
    "called_as": "call_called_as",
    "variant": "call_variant",
    "method": "call_method",
    "path": "call_path",
    "scopes": "call_scopes",
    "risk": "call_risk",
    "personal_data": "call_personal_data",
    "sdk": "call_sdk",
    "revision": "call_revision",
}
_HTTP: Final = {
    "status": "http_status",
    "attempts": "http_attempts",
    "requests": "http_requests",
    "request_id": "http_request_id",
    "revision": "http_revision",
    "error_ids": "http_error_ids",
    "error_codes": "http_error_codes",
}
_KEY: Final = {
    "fingerprint": "key_fingerprint",
    "site": "key_site",
    "label": "key_label",
    "kind": "key_kind",
}
_ORIGIN: Final = {"service": "service", "environment": "environment"}
_TRACE: Final = {"trace_id": "trace_id", "span_id": "span_id"}
_ERROR: Final = {"type": "error_type", "module": "error_module", "stage": "error_stage"}
_GAP: Final = ("count", "torn", "from", "to")
_FREE: Final = ("request", "response", "subjects", "consent")
_FREE_OF_ACTOR: Final = ("reason", "on_behalf_of", "ip")


def permitted(entry: AuditEntry, pseudonym_key: str | None) -> dict[str, Any]:
    """The properties of an entry's event: what may go to Klaviyo, flat, and nothing else.

    The actor goes as the keyed pseudonym that `klaviyo_audit.privacy` gives users, or not at all
    without a key. A property ``withheld`` names the members that the entry has and the event has
    not. All text is searched for secrets, e-mail addresses and phone numbers once more.

    Args:
        entry: The entry, redacted as the journal has it.
        pseudonym_key: The key, or several, as setting ``pseudonym_key`` has them.
    """
    kept: dict[str, Any] = {
        "id": _identifier(entry.id),
        "phase": str(entry.phase),
        "timestamp": _identifier(entry.timestamp),
        "action": _clean(entry.action),
        "writer": _identifier(entry.writer),
        "n": entry.n,
    }
    _take(kept, entry, _ENTRY)
    for part, names in (
        (entry.call, _CALL),
        (entry.http, _HTTP),
        (entry.key, _KEY),
        (entry.origin, _ORIGIN),
        (entry.trace, _TRACE),
        (entry.error, _ERROR),
    ):
        if part is not None:
            _take(kept, part, names)
    withheld = _withheld(entry)
    if pseudonym_key is None and not PATTERN.fullmatch(entry.user_id):
        withheld.append("user_id")
    else:
        kept["user"] = _pseudonym(entry.user_id, pseudonym_key or "")
    if entry.actor is not None and entry.actor.fallback:
        kept["user_is_fallback"] = True
    if entry.resource is not None:
        # Of an operation it is a path, whose ids are Klaviyo's own. Of a function it is free text.
        if entry.call is not None and entry.call.path is not None:
            kept["resource"] = clean_path(entry.resource)
        else:
            withheld.append("resource")
    if entry.phase is Phase.GAP:
        kept |= _gap(entry.metadata)
    if withheld:
        kept[_WITHHELD] = sorted(withheld)
    return kept


def _withheld(entry: AuditEntry) -> list[str]:
    """What the entry has of the members that never go."""
    names = [name for name in _FREE if getattr(entry, name) is not None]
    if entry.metadata:
        names.append("metadata")
    if entry.http is not None and entry.http.server is not None:
        names.append("server")
    if entry.actor is not None:
        names += [name for name in _FREE_OF_ACTOR if getattr(entry.actor, name) is not None]
    return names


def _gap(facts: dict[str, Any]) -> dict[str, Any]:
    """How many entries were lost, and from when to when."""
    found = {name: facts.get(name) for name in _GAP}
    return {
        f"gap_{name}": value
        for name, value in found.items()
        if isinstance(value, int) or (isinstance(value, str) and _ID.match(value))
    }


def _take(kept: dict[str, Any], part: Any, names: dict[str, str]) -> None:
    for member, name in names.items():
        value = getattr(part, member)
        if value is None:
            continue
        if isinstance(value, str):
            kept[name] = str(value) if _ID.match(value) else _clean(str(value))
        elif isinstance(value, list):
            kept[name] = [_clean(str(one)) for one in value[:_MAX_LIST]]
            if len(value) > _MAX_LIST:
                kept[name].append(f"[cut: {len(value)} items]")
        else:
            kept[name] = value


@lru_cache(maxsize=4096)
def _clean(text: str) -> str:
    return clean_text(text)


def _identifier(text: str) -> str:
    return text if _ID.match(text) else clean_text(text, 100)


@lru_cache(maxsize=1024)
def _pseudonym(user_id: str, keys: str) -> str:
    """The pseudonym that the trail would have: the same person is found in both by it."""
    if PATTERN.fullmatch(user_id):
        return user_id
    naming = RingNaming(KeyRing.from_text(keys))
    return naming.name(Kind.USER, normalise(Kind.USER, user_id) or user_id)


def unique_id(entry: AuditEntry) -> str:
    """``unique_id`` of an entry's event: the outcome's is the entry's id, others say the phase.

    The intent and the outcome of one call share an id.
    """
    if entry.phase is Phase.OUTCOME:
        return entry.id
    return f"{entry.id}:{entry.phase}"


def profile_of(service: str | None, fixed: str | None) -> dict[str, Any]:
    """The profile an event is recorded on, as the API's ``profile.data``.

    Args:
        service: The entry's service.
        fixed: Setting ``klaviyo_profile``: an external id, or ``id:`` and a profile's id.
    """
    if fixed is not None and fixed.startswith("id:"):
        return {"type": "profile", "id": fixed[3:], "attributes": {}}
    name = fixed or f"klaviyo-audit:{_clean(service or 'unknown')}"
    if len(name) > _MAX_IDENTIFIER:
        name = f"{name[:200]}~{sha256(name.encode()).hexdigest()[:16]}"
    return {"type": "profile", "attributes": {"external_id": name}}


def event_of(
    entry: AuditEntry, metric: str, pseudonym_key: str | None, now: datetime
) -> dict[str, Any]:
    """The event of an entry, without its profile, as an item of a bulk job.

    Args:
        entry: The entry.
        metric: Name of the metric.
        pseudonym_key: Setting ``pseudonym_key``.
        now: The present time. A time that Klaviyo refuses (before 2000, or a year ahead) is left
            out, so that the time of arrival stands in; ``timestamp`` has the entry's own.
    """
    properties = bounded(permitted(entry, pseudonym_key))
    attributes = _attributes(metric, unique_id(entry), properties)
    if takes_time(entry.timestamp, now):
        attributes["time"] = entry.timestamp
    else:
        properties["time_refused_by_klaviyo"] = True
    return {"type": "event", "attributes": attributes}


def takes_time(timestamp: str, now: datetime) -> bool:
    """Whether Klaviyo takes an event of that time."""
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        return False
    if at.tzinfo is None:
        return False
    return _EARLIEST <= at <= now + _AHEAD


def checkpoint_event(note: bytes, metric: str) -> dict[str, Any]:
    """The event of a signed checkpoint: property ``checkpoint`` is the note, byte for byte."""
    text = note.decode("utf-8")
    origin, size, *_ = text.split("\n", 2)
    properties = {"phase": "checkpoint", "checkpoint": text, "log": origin, "log_size": size}
    digest = sha256(note).hexdigest()[:32]
    return {
        "type": "event",
        "attributes": _attributes(metric, f"checkpoint:{digest}", bounded(properties)),
    }


def _attributes(metric: str, unique: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "properties": properties,
        "unique_id": unique,
        "backfill": True,
        "metric": {"data": {"type": "metric", "attributes": {"name": metric}}},
    }


def single(event: dict[str, Any], profile: dict[str, Any]) -> dict[str, Any]:
    """The body of *Create Event*."""
    attributes = {**event["attributes"], "profile": {"data": profile}}
    return {"data": {"type": "event", "attributes": attributes}}


def bulk(groups: Iterable[tuple[dict[str, Any], Sequence[dict[str, Any]]]]) -> dict[str, Any]:
    """The body of *Bulk Create Events*: profiles, each with its events."""
    items = [
        {
            "type": "event-bulk-create",
            "attributes": {
                "backfill": True,
                "profile": {"data": profile},
                "events": {"data": list(events)},
            },
        }
        for profile, events in groups
    ]
    jobs = {"events-bulk-create": {"data": items}}
    return {"data": {"type": "event-bulk-create-job", "attributes": jobs}}
