"""How an entry's members are called in OpenTelemetry, and how severe it is.

Names without the prefix ``klaviyo.`` are those of the OpenTelemetry semantic conventions 1.44.0
(https://opentelemetry.io/docs/specs/semconv/). docs/sinks-otlp.md has the same tables.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.entry import Phase, Result, Risk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EVENT_NAME: Final = "klaviyo.audit"
"""Event name of an entry's log record."""

CHECKPOINT_EVENT_NAME: Final = "klaviyo.audit.checkpoint"
"""Event name of the log record of a signed checkpoint; also the prefix of its attributes."""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

METADATA_PREFIX: Final = "klaviyo.audit.metadata."
"""Before the name of each member of ``metadata`` that is text, a number or a truth value."""

RESOURCE: Mapping[str, str] = MappingProxyType(
    {
        "origin.service": "service.name",
        "origin.environment": "deployment.environment.name",
        "origin.host": "host.name",
    }
)
"""Attributes of the resource, by the entry's member."""

ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {
        "v": "klaviyo.audit.version",
        "id": "klaviyo.audit.id",
        "writer": "klaviyo.audit.writer",
        "n": "klaviyo.audit.n",
        "phase": "klaviyo.audit.phase",
        "action": "klaviyo.audit.action",
        "user_id": "user.id",
        "resource": "klaviyo.audit.resource",
        "result": "klaviyo.audit.result",
        "duration_ms": "klaviyo.audit.duration_ms",
        "parent_id": "klaviyo.audit.parent_id",
        "subjects": "klaviyo.audit.subjects",
        "sum": "klaviyo.audit.sum",
        "call.group": "klaviyo.operation.group",
        "call.operation": "klaviyo.operation.name",
        "call.called_as": "klaviyo.operation.called_as",
        "call.variant": "klaviyo.operation.variant",
        "call.method": "http.request.method",
        "call.path": "url.template",
        "call.scopes": "klaviyo.operation.scopes",
        "call.risk": "klaviyo.operation.risk",
        "call.personal_data": "klaviyo.operation.personal_data",
        "call.sdk": "klaviyo.sdk.version",
        "call.revision": "klaviyo.revision",
        "http.attempts": "klaviyo.http.attempts",
        "http.requests": "klaviyo.http.requests",
        "http.server": "klaviyo.http.server",
        "http.status": "http.response.status_code",
        "http.request_id": "klaviyo.request_id",
        "http.revision": "klaviyo.response.revision",
        "http.error_ids": "klaviyo.error.ids",
        "http.error_codes": "klaviyo.error.codes",
        "http.rate_limit.limit": "klaviyo.rate_limit.limit",
        "http.rate_limit.remaining": "klaviyo.rate_limit.remaining",
        "http.rate_limit.reset": "klaviyo.rate_limit.reset",
        "http.rate_limit.retry_after": "klaviyo.rate_limit.retry_after",
        "key.fingerprint": "klaviyo.key.fingerprint",
        "key.site": "klaviyo.key.site",
        "key.label": "klaviyo.key.label",
        "key.kind": "klaviyo.key.kind",
        "actor.on_behalf_of": "klaviyo.audit.actor.on_behalf_of",
        "actor.reason": "klaviyo.audit.actor.reason",
        "actor.ip": "client.address",
        "actor.agent": "user_agent.original",
        "actor.fallback": "klaviyo.audit.actor.fallback",
        "origin.pid": "process.pid",
        "origin.thread": "thread.name",
        "error.stage": "klaviyo.error.stage",
    }
)
"""Attributes of the log record, by the entry's member; `computed` adds those with a rule."""

BODY_ONLY: Final = frozenset({"consent", "request", "response"})
"""Nested data, which the body has."""

UNIQUE: Final = frozenset({"id", "n", "resource", "duration_ms", "parent_id", "sum"})
"""Members that differ from entry to entry, so that remembering their encoded form is useless."""

REPEATED: Final = frozenset({"v", "writer", "phase", "action", "user_id", "result"})
"""Members that come again together, so that their encoded form is remembered as one."""

SHARED_GROUPS: Final = ("call", "key", "actor", "origin")
"""Groups whose members repeat from entry to entry, so that their encoded form is remembered."""

_NUMBERS: Mapping[Result, tuple[int, int, int, int]] = MappingProxyType(
    {
        # For the risks low (and none), medium, high, critical.
        Result.SUCCESS: (9, 9, 10, 11),
        Result.DENIED: (13, 13, 14, 15),
        Result.FAILURE: (13, 13, 17, 18),
        Result.UNKNOWN: (14, 14, 18, 19),
    }
)
_RISKS: Final = tuple(Risk)
_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
_INFO, _WARN, _ERROR = 9, 13, 17

_ABOUT_JOURNAL: Mapping[str, int] = MappingProxyType(
    {
        "journal.truncated": _ERROR,
        "journal.recover": _WARN,
        "journal.reopen": _WARN,
        "journal.space": _WARN,
    }
)


def severity(phase: str, action: str, result: str | None, risk: str | None) -> int:
    """The severity number of an entry (OpenTelemetry logs data model, 1 to 24)."""
    if phase == Phase.GAP:
        return _ERROR
    if phase == Phase.JOURNAL:
        return _ABOUT_JOURNAL.get(action, _INFO)
    if result is None:
        return _INFO
    index = 0 if risk is None else _RISKS.index(Risk(risk))
    return _NUMBERS[Result(result)][index]


def severity_text(number: int) -> str:
    """The short name of a severity number: ``INFO``, ``INFO2``, ..."""
    level, step = divmod(number - 1, 4)
    return _LEVELS[level] + (str(step + 1) if step else "")


def computed(members: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Attributes that are not one member under another name.

    - ``error.type``: the exception's full name, else the status of an HTTP error.
    - ``http.request.resend_count``: requests beyond the first, only if there were any.
    """
    http = members.get("http") or {}
    error = members.get("error")
    if error is not None:
        module = error.get("module")
        known = module in (None, "builtins")
        yield "error.type", error["type"] if known else f"{module}.{error['type']}"
    elif http.get("status", 0) >= 400:  # noqa: PLR2004  (RFC 9110: 4xx and 5xx are errors)
        yield "error.type", str(http["status"])
    if (http.get("requests") or 0) > 1:
        yield "http.request.resend_count", http["requests"] - 1
