"""Reading back what the sink has recorded at Klaviyo. No other profile's events are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import orjson

from klaviyo_audit import clock
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.klaviyo.transport import NoReply, NotSent, Reply, Transport
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.klaviyo.events import takes_time, unique_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klaviyo_audit.entry import AuditEntry

_TIMEOUT: Final = (5.0, 30.0)
_PAGE: Final = "200"
_PAUSE: Final = timedelta(days=1)
"""Longer without an entry that is looked for, and what lies between is not read."""
_OK: Final = 200
_REFUSED: Final = (401, 403)
_ID: Final = re.compile(r"[A-Za-z0-9]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Which entries could be read back, by the ``unique_id`` of their events."""

    checked_at: str
    arrived: tuple[str, ...]
    missing: tuple[str, ...]
    unchecked: tuple[str, ...]
    """Entries whose time Klaviyo refuses: their events have the time of arrival and are not found
    by time."""


class Readback:
    """Reads events with ``GET /api/events``.

    Args:
        transport: Sends the requests.
        profile_of: The profile that an entry is recorded on.
        whose_key: Where the key comes from, for messages.
    """

    def __init__(
        self,
        transport: Transport,
        profile_of: Callable[[AuditEntry], dict[str, Any]],
        whose_key: str,
    ) -> None:
        self._transport = transport
        self._profile_of = profile_of
        self._whose_key = whose_key

    def confirm(self, entries: Sequence[AuditEntry]) -> Confirmation:
        """See `KlaviyoSink.confirm`."""
        now = datetime.now(UTC)
        unchecked = [unique_id(e) for e in entries if not takes_time(e.timestamp, now)]
        found: set[str] = set()
        groups: dict[str, tuple[dict[str, Any], list[AuditEntry]]] = {}
        for entry in entries:
            if takes_time(entry.timestamp, now):
                profile = self._profile_of(entry)
                groups.setdefault(str(profile), (profile, []))[1].append(entry)
        for profile, group in groups.values():
            profile_id = self._id_of(profile)
            if profile_id is not None:
                found |= self._found(profile_id, group)
        wanted = dict.fromkeys(unique_id(e) for _, group in groups.values() for e in group)
        return Confirmation(
            checked_at=clock.now(),
            arrived=tuple(one for one in wanted if one in found),
            missing=tuple(one for one in wanted if one not in found),
            unchecked=tuple(unchecked),
        )

    def checkpoints(self, profile: dict[str, Any]) -> Iterator[bytes]:
        """See `KlaviyoSink.checkpoints`."""
        profile_id = self._id_of(profile)
        if profile_id is None:
            return
        for properties in self._events(f'equals(profile_id,"{profile_id}")'):
            note = properties.get("checkpoint")
            if isinstance(note, str):
                yield (note.rstrip("\n") + "\n").encode()

    def _found(self, profile_id: str, entries: Sequence[AuditEntry]) -> set[str]:
        wanted = {(entry.id, str(entry.phase)): unique_id(entry) for entry in entries}
        found: set[str] = set()
        for begin, end in _spans(entries):
            condition = (
                f'equals(profile_id,"{profile_id}"),greater-or-equal(datetime,{_second(begin)}),'
                f"less-than(datetime,{_second(end + timedelta(seconds=1))})"
            )
            for properties in self._events(condition):
                unique = wanted.get((properties.get("id", ""), properties.get("phase", "")))
                if unique is not None:
                    found.add(unique)
        return found

    def _id_of(self, profile: dict[str, Any]) -> str | None:
        """The profile's id at Klaviyo; None where there is no such profile yet."""
        if "id" in profile:
            return str(profile["id"])
        name = orjson.dumps(profile["attributes"]["external_id"]).decode()
        query = [("filter", f"equals(external_id,{name})"), ("fields[profile]", "external_id")]
        found = self._get("/api/profiles", query, "profiles:read")["data"]
        return str(found[0]["id"]) if found else None

    def _events(self, condition: str) -> Iterator[dict[str, Any]]:
        """The properties of the events that a filter lets through, oldest first."""
        cursor = None
        while True:
            query = [
                ("fields[event]", "event_properties"),
                ("filter", condition),
                ("page[size]", _PAGE),
                ("sort", "datetime"),
            ]
            if cursor is not None:
                query.append(("page[cursor]", cursor))
            page = self._get("/api/events", query, "events:read")
            for event in page["data"]:
                properties = (event.get("attributes") or {}).get("event_properties")
                if isinstance(properties, dict):
                    yield properties
            following = (page.get("links") or {}).get("next")
            if not following:
                return
            cursor = parse_qs(urlsplit(following).query).get("page[cursor]", [""])[0]
            if not cursor:
                raise Retry(why="Klaviyo's link to the next page of events has no cursor")

    def _get(self, path: str, query: list[tuple[str, str]], scope: str) -> dict[str, Any]:
        try:
            reply = self._transport.send("GET", path, query=query, timeout=_TIMEOUT)
        except (NotSent, NoReply) as error:
            raise Retry(why=f"Klaviyo could not be asked ({error})") from None
        if reply.status in _REFUSED:
            raise self._refused(reply, scope)
        try:
            if reply.status == _OK:
                page: dict[str, Any] = orjson.loads(reply.body)
                return {**page, "data": list(page["data"])}
        except (ValueError, KeyError, TypeError):
            pass
        raise Retry(reply.retry_after(), why=f"Klaviyo could not be asked ({reply.why()})")

    def _refused(self, reply: Reply, scope: str) -> ConfigurationError:
        hint = (
            ", or name the profile by its id at Klaviyo: klaviyo_profile = id:..."
            if scope == "profiles:read"
            else ""
        )
        return ConfigurationError(
            f"Klaviyo refuses to be read with this key ({reply.why()}). It was given by "
            f"{self._whose_key}; reading back needs the scope {scope}{hint}"
        )


def _spans(entries: Sequence[AuditEntry]) -> Iterator[tuple[datetime, datetime]]:
    """Stretches of time that hold all entries, without the long pauses between them."""
    times = sorted(datetime.fromisoformat(entry.timestamp) for entry in entries)
    begin = end = times[0]
    for at in times:
        if at - end > _PAUSE:
            yield begin, end
            begin = at
        end = at
    yield begin, end


def _second(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
