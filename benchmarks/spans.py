"""What live spans add to an audited call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.harness import (
    Effort,
    Reading,
    difference,
    difference_noise,
    interleave,
    medians,
    timed,
)
from benchmarks.server import running
from benchmarks.subject import without_http

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "spans"
_CALLS = 5


class _Nowhere(SpanExporter):
    def export(self, _spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def run(effort: Effort) -> list[Reading]:
    """Microseconds without a tracer provider, and the ratio to a bare span with one."""
    rounds = effort.rounds(2_400, 600)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    folder = effort.folder
    with (
        running() as url,
        without_http(folder / "off", url, telemetry="off") as off,
        without_http(folder / "idle", url) as idle,
        without_http(folder / "traced", url) as traced,
    ):
        traced.auditor.observe(tracer_provider=provider)
        calls = {
            "off": off.held()["audited"],
            "idle": idle.held()["audited"],
            "traced": traced.held()["audited"],
            "bare": off.held()["bare"],
            "bare in a span": _in_a_span(provider, off.held()["bare"]),
        }
        taken = interleave({name: timed(call, _CALLS) for name, call in calls.items()}, rounds)
    provider.shutdown()
    detail = medians(taken, "us")
    # In place, where the processor's caches are the SDK's: in a loop of its own it takes half.
    bare = difference(taken["bare in a span"], taken["bare"])
    noise = difference_noise(taken["off"])
    added = difference(taken["traced"], taken["off"])
    return [
        Reading(
            ROW,
            "added by spans where there is no tracer provider",
            difference(taken["idle"], taken["off"]),
            "us",
            6,
            detail,
            noise,
        ),
        Reading(
            ROW,
            "spans with a batch processor against spans by hand with the same attributes",
            added / bare,
            "x",
            1.2,
            detail,
            noise / bare,
        ),
    ]


def _in_a_span(provider: TracerProvider, inner: Callable[[], object]) -> Callable[[], object]:
    """A call in a span by hand, which is current while it lasts."""
    tracer = provider.get_tracer("by hand")
    first = {
        "http.request.method": "GET",
        "url.template": "/api/profiles/{id}",
        "klaviyo.operation": "get_profile",
        "klaviyo.resource_type": "profiles",
        "klaviyo.audit.risk": "medium",
        "klaviyo.audit.id": "01a20e08-ef33-7140-81fc-6e328cd6e806",
    }
    last: dict[str, Any] = {
        "klaviyo.audit.result": "success",
        "klaviyo.revision": "2026-10-15",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": 41533,
        "url.full": "http://127.0.0.1:41533/api/profiles/01GDDKASAP8TKDDA2GRZDS0001",
    }

    def call() -> None:
        span = tracer.start_span(
            "GET /api/profiles/{id}", kind=trace.SpanKind.CLIENT, attributes=first
        )
        token = context.attach(trace.set_span_in_context(span))
        inner()
        context.detach(token)
        span.set_attributes(last)
        span.end()

    return call
