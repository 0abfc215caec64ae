"""Entries as log records of a program's own OpenTelemetry logger provider."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, trace
from opentelemetry._logs import LogRecord, SeverityNumber

from klaviyo_audit._version import __version__
from klaviyo_audit.otel.spans import SCOPE
from klaviyo_audit.sinks.otlp.attributes import (
    ATTRIBUTES,
    EVENT_NAME,
    SCHEMA_URL,
    severity,
    severity_text,
)
from klaviyo_audit.sinks.verbatim import line_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry._logs import LoggerProvider

    from klaviyo_audit.entry import AuditEntry

_PATHS: Final = tuple((tuple(path.split(".")), name) for path, name in ATTRIBUTES.items())


class LoggerSink:
    """Hands this process's entries to a logger provider, which exports them as it likes.

    What it loses is lost there (the journal has it); the sink ``otlp`` counts an entry as
    delivered when the collector has answered.

    Args:
        provider: The provider.
    """

    ephemeral = True
    name = "opentelemetry"

    def __init__(self, provider: LoggerProvider) -> None:
        self._logger = provider.get_logger(SCOPE, __version__, SCHEMA_URL)

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Emit a record for each."""
        for entry in entries:
            self._logger.emit(_record(entry))

    def close(self) -> None:
        """The provider is not ours to close."""


def _record(entry: AuditEntry) -> LogRecord:
    members = entry.to_dict()
    number = severity(
        entry.phase, entry.action, entry.result, entry.call.risk if entry.call else None
    )
    return LogRecord(
        timestamp=int(datetime.fromisoformat(entry.timestamp).timestamp() * 1e6) * 1000,
        context=_context(entry),
        severity_number=SeverityNumber(number),
        severity_text=severity_text(number),
        body=line_of(entry, members).decode(),
        attributes=_attributes(members),
        event_name=EVENT_NAME,
    )


def _attributes(members: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, name in _PATHS:
        value: Any = members
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found


def _context(entry: AuditEntry) -> context.Context:
    """A context in which the entry's span is the current one."""
    if entry.trace is None:
        return context.Context()
    try:
        ids = trace.SpanContext(
            int(entry.trace.trace_id, 16), int(entry.trace.span_id, 16), is_remote=False
        )
    except ValueError:
        return context.Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(ids), context.Context())
