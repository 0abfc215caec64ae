"""Entries and checkpoints as OTLP log records."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from klaviyo_audit._version import __version__
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint
from klaviyo_audit.journal.note import parse_note
from klaviyo_audit.sinks.otlp.attributes import (
    ATTRIBUTES,
    CHECKPOINT_EVENT_NAME,
    EVENT_NAME,
    METADATA_PREFIX,
    REPEATED,
    RESOURCE,
    SCHEMA_URL,
    SHARED_GROUPS,
    UNIQUE,
    computed,
    severity,
    severity_text,
)
from klaviyo_audit.sinks.otlp.pieces import add, attribute, body, head, once, together, utf8
from klaviyo_audit.sinks.verbatim import line_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from klaviyo_audit.entry import AuditEntry, Trace

_REMEMBERED: Final = 4096


class Origin(NamedTuple):
    """What records of one resource have in common: the values of `RESOURCE`."""

    service: str | None = None
    environment: str | None = None
    host: str | None = None


class Encoded(NamedTuple):
    """A log record as bytes, with the origin it is filed under."""

    origin: Origin
    record: bytes


def encoded(entry: AuditEntry) -> Encoded:
    """The log record of an entry.

    Its body is the entry's line as text. A record's ``observed_time_unix_nano`` is now.
    """
    members = entry.to_dict()
    risk = entry.call.risk if entry.call else None
    record = b"".join(
        [
            _time(_nanoseconds(entry.timestamp)),
            _severity(entry.phase, entry.action, entry.result, risk),
            body(line_of(entry, members)),
            *_attributes(_OWN, members),
            # A call's intent and its outcome share the id.
            attribute("log.record.uid", f"{entry.id}-{entry.phase}"),
            *_trace(entry.trace),
            _observed(EVENT_NAME),
            *[
                _shared(group, orjson.dumps(members[group]))
                for group in SHARED_GROUPS
                if group in members
            ],
            together(_REPEATED_NAMES, *map(members.get, _REPEATED)),
            *_attributes(_REST, members),
            *_others(members),
        ]
    )
    origin = entry.origin
    if origin is None:
        return Encoded(Origin(), record)
    return Encoded(Origin(origin.service, origin.environment, origin.host), record)


def _rows(group: str) -> tuple[tuple[str, str], ...]:
    """The part of `ATTRIBUTES` for one group: member and name."""
    paths = ((path.rpartition("."), name) for path, name in ATTRIBUTES.items())
    return tuple((member, name) for (of, _, member), name in paths if of == group)


_OWN: Final = tuple(row for row in _rows("") if row[0] in UNIQUE)
_REPEATED: Final = tuple(member for member, _ in _rows("") if member in REPEATED)
_REPEATED_NAMES: Final = tuple(name for member, name in _rows("") if member in REPEATED)
_REST: Final = tuple(row for row in _rows("") if row[0] not in UNIQUE | REPEATED)
_HTTP: Final = _rows("http")
_RATE_LIMIT: Final = _rows("http.rate_limit")
_ERROR: Final = _rows("error")


def _others(members: Mapping[str, Any]) -> Iterator[bytes]:
    """The attributes of the groups that are not shared, the computed ones and the metadata."""
    if (http := members.get("http")) is not None:
        yield from _attributes(_HTTP, http)
        if (limit := http.get("rate_limit")) is not None:
            yield from _attributes(_RATE_LIMIT, limit)
    if (error := members.get("error")) is not None:
        yield from _attributes(_ERROR, error)
    for name, value in computed(members):
        yield attribute(name, value)
    for name, value in members.get("metadata", {}).items():
        if isinstance(value, str | bool | int | float):
            yield attribute(f"{METADATA_PREFIX}{utf8(name).decode()}", value)


def _attributes(rows: Iterable[tuple[str, str]], values: Mapping[str, Any]) -> list[bytes]:
    return [
        attribute(name, value) for member, name in rows if (value := values.get(member)) is not None
    ]


@lru_cache(_REMEMBERED)
def _shared(group: str, json: bytes) -> bytes:
    """The attributes of one group."""
    values = orjson.loads(json)
    return b"".join(
        [once(name, values[member]) for member, name in _rows(group) if member in values]
    )


@lru_cache(_REMEMBERED)
def _severity(phase: str, action: str, result: str | None, risk: str | None) -> bytes:
    return _severity_of(severity(phase, action, result, risk))


def _severity_of(number: int) -> bytes:
    record = LogRecord(severity_text=severity_text(number))
    record.severity_number = number  # type: ignore[assignment]  # the enum is plain integers
    return record.SerializeToString()


_TIME: Final = LogRecord(time_unix_nano=1).SerializeToString()[:-8]
_OBSERVED: Final = LogRecord(observed_time_unix_nano=1).SerializeToString()[:-8]


def _time(nanoseconds: int) -> bytes:
    return _TIME + nanoseconds.to_bytes(8, "little") if nanoseconds else b""


def _observed(event: str) -> bytes:
    return _OBSERVED + time_ns().to_bytes(8, "little") + _event(event)


@lru_cache(2)
def _event(name: str) -> bytes:
    return LogRecord(event_name=name).SerializeToString()


def _trace(trace: Trace | None) -> tuple[bytes, ...]:
    if trace is None:
        return ()
    return (
        LogRecord(
            trace_id=_identifier(trace.trace_id, 16), span_id=_identifier(trace.span_id, 8)
        ).SerializeToString(),
    )


def _identifier(text: str, size: int) -> bytes:
    """A trace or span id, or nothing where it is none (all zeros is none, too)."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return b""
    return value if len(value) == size and any(value) else b""


def _nanoseconds(timestamp: str) -> int:
    """Nanoseconds since 1970, or 0 (unknown) for what is no time."""
    try:
        microseconds = int(timestamp[20:-1].ljust(6, "0")[:6]) if timestamp[19:20] == "." else 0
        return _seconds(timestamp[:19]) * 1_000_000_000 + microseconds * 1_000
    except (ValueError, OverflowError):
        return 0


@lru_cache(64)
def _seconds(second: str) -> int:
    return max(0, int(datetime.fromisoformat(f"{second}+00:00").timestamp()))


def encoded_checkpoint(note: bytes, origin: Origin) -> Encoded:
    """The log record of a signed checkpoint: its body is the note, verbatim."""
    text = utf8(note.decode("utf-8", "backslashreplace"))
    try:
        checkpoint = Checkpoint.from_text(parse_note(note).text)
    except JournalCorrupt:  # it is for the reader to judge
        checkpoint = None
    pieces = [_severity_of(9), body(text)]
    if checkpoint is not None:
        pieces += [
            attribute(f"{CHECKPOINT_EVENT_NAME}.origin", checkpoint.origin),
            attribute(f"{CHECKPOINT_EVENT_NAME}.size", checkpoint.size),
            attribute(f"{CHECKPOINT_EVENT_NAME}.root", checkpoint.root.hex()),
        ]
        if checkpoint.sealed_at is not None:
            pieces.insert(0, _time(_nanoseconds(checkpoint.sealed_at)))
    return Encoded(origin, b"".join([*pieces, _observed(CHECKPOINT_EVENT_NAME)]))


def request_of(records: Iterable[Encoded], common: Mapping[str, str | bool | float]) -> bytes:
    """A serialised ``ExportLogsServiceRequest``, its records grouped by origin.

    Args:
        records: The records, in order.
        common: Resource attributes of all, where an origin does not say otherwise.
    """
    groups: dict[Origin, list[bytes]] = {}
    for origin, record in records:
        groups.setdefault(origin, []).append(record)
    # All of it is joined at once: joining inside out copies the records once for each layer.
    pieces: list[bytes] = []
    for origin, group in groups.items():
        pieces += _logs(origin, group, common)
    return b"".join(pieces)


def _logs(
    origin: Origin, records: Iterable[bytes], common: Mapping[str, str | bool | float]
) -> list[bytes]:
    """The field ``resource_logs`` of a request, of records that are serialised already."""
    scope = ScopeLogs(schema_url=SCHEMA_URL)
    scope.scope.name = "klaviyo_audit"
    scope.scope.version = __version__
    logs = ResourceLogs(schema_url=SCHEMA_URL)
    for name, value in _resource(origin, common).items():
        add(logs.resource, name, value)
    pieces = [scope.SerializeToString()]
    for record in records:
        pieces += (head(ScopeLogs.LOG_RECORDS_FIELD_NUMBER, len(record)), record)
    around = [
        logs.SerializeToString(),
        head(ResourceLogs.SCOPE_LOGS_FIELD_NUMBER, sum(map(len, pieces))),
    ]
    size = sum(map(len, around)) + sum(map(len, pieces))
    return [head(ExportLogsServiceRequest.RESOURCE_LOGS_FIELD_NUMBER, size), *around, *pieces]


def _resource(
    origin: Origin, common: Mapping[str, str | bool | float]
) -> dict[str, str | bool | float]:
    told = zip(RESOURCE.values(), origin, strict=True)
    return {
        "service.name": "unknown_service",
        **common,
        **{name: value for name, value in told if value is not None},
    }
