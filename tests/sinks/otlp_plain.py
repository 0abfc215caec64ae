"""An entry's log record in the plain way: one attribute after the other, all by protobuf.

What the sink puts together from remembered pieces has to be the same bytes.
"""

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from klaviyo_audit.sinks.otlp.attributes import (
    ATTRIBUTES,
    EVENT_NAME,
    METADATA_PREFIX,
    computed,
    severity,
    severity_text,
)
from klaviyo_audit.sinks.otlp.records import _identifier, _nanoseconds
from klaviyo_audit.sinks.verbatim import line_of

OWN = ("id", "n", "resource", "duration_ms", "parent_id", "sum")
GROUPS = ("call", "key", "actor", "origin", "", "http", "http.rate_limit", "error")
"""The order of the attributes that follow those, the identifier and the record's other fields."""


def text_of(text):
    return text.encode("utf-8", "backslashreplace").decode()


def fill(target, value):
    if isinstance(value, str):
        target.string_value = text_of(value)
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for item in value:
            fill(target.array_value.values.add(), item)
    else:
        target.string_value = str(value)


def add(record, name, value):
    attribute = record.attributes.add()
    attribute.key = name
    fill(attribute.value, value)


def plain(entry, observed):
    members = entry.to_dict()
    number = severity(
        entry.phase, entry.action, entry.result, entry.call.risk if entry.call else None
    )
    record = LogRecord(
        time_unix_nano=_nanoseconds(entry.timestamp),
        observed_time_unix_nano=observed,
        severity_number=number,
        severity_text=severity_text(number),
        event_name=EVENT_NAME,
    )
    record.body.string_value = line_of(entry, members).decode()
    if entry.trace is not None:
        record.trace_id = _identifier(entry.trace.trace_id, 16)
        record.span_id = _identifier(entry.trace.span_id, 8)
    for member in OWN:
        if member in members:
            add(record, ATTRIBUTES[member], members[member])
    add(record, "log.record.uid", f"{entry.id}-{entry.phase}")
    rest = LogRecord()
    for group in GROUPS:
        values = members
        for part in filter(None, group.split(".")):
            values = values.get(part) or {}
        for path, name in ATTRIBUTES.items():
            of, _, member = path.rpartition(".")
            if of == group and path not in OWN and member in values:
                add(rest, name, values[member])
    for name, value in computed(members):
        add(rest, name, value)
    for name, value in members.get("metadata", {}).items():
        if isinstance(value, str | bool | int | float):
            add(rest, METADATA_PREFIX + text_of(name), value)
    return record.SerializeToString() + rest.SerializeToString()
