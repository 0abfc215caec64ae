"""A live span around each call, by the semantic conventions for HTTP clients.

Names and attributes: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ (stable since
1.23.0), attributes of errors ../general/recording-errors/. Texts of exceptions are never recorded:
the SDK's hold headers and bodies.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from klaviyo_audit._version import __version__
from klaviyo_audit.entry import Result
from klaviyo_audit.privacy.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.trace import Span, Tracer, TracerProvider

    from klaviyo_audit.calls import CallRecord, Target

    Hook = Callable[["Span", "CallFacts"], None]

SCOPE: Final = "klaviyo_audit"
"""Name of the instrumentation scope."""
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# What opentelemetry.instrumentation.utils, which is no dependency of the core, goes by.
_SUPPRESS_HTTP: Final[str] = getattr(
    context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", "suppress_http_instrumentation"
)
_CLIENT_ERRORS: Final = 400
_UNKNOWN: Final = object()
_NOBODY: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_ERROR: Final = Status(StatusCode.ERROR)
_MASKING: Final = Gate()


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What a hook is told of a call."""

    id: str
    """Of its entries."""
    action: str
    call: dict[str, Any]
    """The entries' ``call``."""
    result: Result | None = None
    """None before the call."""
    status: int | None = None
    """The HTTP status of its last attempt."""
    requests: int | None = None
    """HTTP requests that were sent."""


class Spans:
    """Makes the spans of one auditor's calls.

    Args:
        provider: Whose spans; the process's own if not given, which may be set later.
        request_hook: Called with each span that is recorded, before the call.
        response_hook: The same after it, before the span ends.
        suppress_http: Have no spans of HTTP instrumentations below these.
        user: Gives ``user.id`` for an actor's user id; None: it is left out.
        name: What the name of an exception's class becomes.
    """

    def __init__(
        self,
        provider: TracerProvider | None = None,
        *,
        request_hook: Hook | None = None,
        response_hook: Hook | None = None,
        suppress_http: bool = False,
        user: Callable[[str], str | None] = lambda _: None,
        name: Callable[[str], str] = _MASKING.name,
    ) -> None:
        self._given = provider is not None
        trace.get_tracer_provider()  # makes the one that the environment names
        self._tracer: Tracer = trace.get_tracer(
            SCOPE, __version__, tracer_provider=provider, schema_url=SCHEMA_URL
        )
        self._request_hook = request_hook
        self._response_hook = response_hook
        self._suppress_http = suppress_http
        self._user = user
        self._name = name
        self._known: dict[Target, tuple[str, SpanKind, dict[str, Any]]] = {}

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to make spans for."""
        if self._given:
            return True
        # The public function asks the environment each time, which takes longer than all the rest
        # of a call that nobody traces; it was asked once when this was made.
        provider = getattr(trace, "_TRACER_PROVIDER", _UNKNOWN)
        if provider is _UNKNOWN:
            provider = trace.get_tracer_provider()
        return provider is not None and not isinstance(provider, _NOBODY)

    def begin(self, call: CallRecord, user_id: str | None) -> LiveSpan:
        """Start the span of a call; it is not the current one yet."""
        target = call.target
        known = self._known.get(target)
        if known is None:
            known = self._known[target] = _described(target)
        name, kind, attributes = known
        attributes = {**attributes, "klaviyo.audit.id": call.id}
        user = None if user_id is None else self._user(user_id)
        if user is not None:
            attributes["user.id"] = user
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        if self._request_hook is not None and span.is_recording():
            _told(self._request_hook, span, CallFacts(call.id, target.action, target.call))
        return LiveSpan(
            span, self._response_hook, suppress_http=self._suppress_http, name=self._name
        )


class LiveSpan:
    """The span of one call under way."""

    __slots__ = ("_context", "_hook", "_name", "span")

    def __init__(
        self,
        span: Span,
        hook: Hook | None,
        *,
        suppress_http: bool,
        name: Callable[[str], str] = _MASKING.name,
    ) -> None:
        self.span = span
        self._name = name
        self._hook = hook
        self._context = trace.set_span_in_context(span)
        if suppress_http:
            self._context = context.set_value(_SUPPRESS_HTTP, value=True, context=self._context)

    def attach(self) -> Token[Any]:
        """Make it the current span."""
        return context.attach(self._context)

    def detach(self, token: Token[Any]) -> None:
        """Let the one before be current again, if it is the current one here."""
        # A coroutine that its owner goes on with in another context cannot be reset there, and
        # `detach` would log an error.
        if trace.get_current_span() is self.span:
            context.detach(token)

    def end(self, call: CallRecord, result: Result, error: BaseException | None) -> None:
        """Say what became of the call, and end the span."""
        span = self.span
        if span.is_recording():
            span.set_attributes(_outcome(call, result))
            kind = error_type(call, result, error, self._name)
            if kind is not None:
                span.set_attribute("error.type", kind)
                span.set_status(_ERROR)
            if error is not None:
                span.add_event("exception", {"exception.type": self._name(_qualified(error))})
            if self._hook is not None:
                target = call.target
                facts = CallFacts(
                    call.id, target.action, target.call, result, call.status, call.requests
                )
                _told(self._hook, span, facts)
        span.end()


def error_type(
    call: CallRecord,
    result: Result,
    error: BaseException | None,
    name: Callable[[str], str] = _MASKING.name,
) -> str | None:
    """The value of ``error.type``: the HTTP status where there is one, else the exception."""
    status = call.status
    if status is not None and status >= _CLIENT_ERRORS:
        return str(status)
    if error is not None:
        return name(_qualified(error))
    return None if result is Result.SUCCESS else result.value


def server_of(url: str) -> tuple[str, int] | None:
    """Host name and port of a URL; None where it has none."""
    return _server(_origin(url))


def _origin(url: str) -> str:
    return url[: url.find("/", 8)]


@lru_cache(maxsize=64)
def _server(origin: str) -> tuple[str, int] | None:
    with contextlib.suppress(ValueError):
        parts = urlsplit(origin)
        if parts.hostname:
            return parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    return None


def _described(target: Target) -> tuple[str, SpanKind, dict[str, Any]]:
    """Name, kind and attributes that are the same for all calls of a target."""
    call = target.call
    if "method" not in call:
        return target.action, SpanKind.INTERNAL, {"code.function.name": target.action}
    method, path = str(call["method"]), str(call["path"])
    attributes = {
        "http.request.method": method,
        "url.template": path,
        "klaviyo.operation": str(call["operation"]),
        "klaviyo.resource_type": str(call["group"]).lower(),
        "klaviyo.audit.risk": str(call["risk"]),
    }
    return f"{method} {path}", SpanKind.CLIENT, attributes


def _outcome(call: CallRecord, result: Result) -> dict[str, Any]:
    attributes: dict[str, Any] = {"klaviyo.audit.result": result.value}
    if not call.is_sdk:
        return attributes
    if call.revision is not None:
        attributes["klaviyo.revision"] = call.revision
    if call.status is not None:
        attributes["http.response.status_code"] = call.status
    sent = call.attempts if call.requests is None else call.requests
    if sent > 1:
        attributes["http.request.resend_count"] = sent - 1
    if call.url is not None:
        origin = _origin(call.url)
        server = _server(origin)
        if server is not None:
            attributes["server.address"], attributes["server.port"] = server
            # Without the query: filters hold e-mail addresses.
            scheme, _, host = origin.partition("://")
            # Nor the user and password that an address may have.
            attributes["url.full"] = f"{scheme}://{host.rpartition('@')[2]}{call.resource}"
    return attributes


def _qualified(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__[:200]
    return f"{kind.__module__}.{kind.__qualname__}"[:300]


def _told(hook: Hook, span: Span, facts: CallFacts) -> None:
    # The program's own, which must not break its call.
    with contextlib.suppress(Exception):
        hook(span, facts)
