"""What one auditor tells OpenTelemetry about its calls; nothing of it reaches the program."""

from __future__ import annotations

import os
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from klaviyo_audit.calls import CallRecord
    from klaviyo_audit.entry import Result
    from klaviyo_audit.otel.metrics import Metrics
    from klaviyo_audit.otel.spans import LiveSpan, Spans

_DISABLED: Final = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_NAME: Final = "klaviyo"


def is_disabled() -> bool:
    """Whether the environment names this instrumentation among the disabled ones."""
    names = os.environ.get(_DISABLED, "").split(",")
    return any(name.strip() in (_NAME, "*") for name in names)


class Telemetry:
    """Spans and metrics of one auditor.

    Args:
        spans: Makes the spans.
        metrics: Measures.
        report: Called with an error of this module's own making, at most once.
    """

    def __init__(self, spans: Spans, metrics: Metrics, report: Callable[[Exception], None]) -> None:
        self._spans = spans
        self._metrics = metrics
        self._report: Callable[[Exception], None] | None = report

    def begin(self, call: CallRecord, user_id: str | None) -> LiveCall | None:
        """A call begins. None: nobody listens."""
        try:
            has_spans, has_metrics = self._spans.is_on, self._metrics.is_on
            if not has_spans and not has_metrics:
                return None
            span = self._spans.begin(call, user_id) if has_spans else None
            return LiveCall(self, span, self._metrics if has_metrics else None)
        except Exception as error:  # an exporter, sampler or provider of the program's own
            self.trouble(error)
            return None

    @property
    def measures(self) -> bool:
        """Whether anybody wants to know of appends."""
        try:
            return self._metrics.is_on
        except Exception as error:
            self.trouble(error)
            return False

    def appended(self, phase: str, result: str | None, began: int) -> None:
        """An entry was appended; it began at that time of `perf_counter_ns`."""
        try:
            self._metrics.appended(phase, result, (perf_counter_ns() - began) / 1e9)
        except Exception as error:
            self.trouble(error)

    def trouble(self, error: Exception) -> None:
        """Say once that something here went wrong."""
        report, self._report = self._report, None
        if report is not None:
            report(error)


class LiveCall:
    """One call that somebody listens to."""

    __slots__ = ("_metrics", "_span", "_telemetry")

    def __init__(
        self, telemetry: Telemetry, span: LiveSpan | None, metrics: Metrics | None
    ) -> None:
        self._telemetry = telemetry
        self._span = span
        self._metrics = metrics

    def attach(self) -> Token[Any] | None:
        """Let its span be the current one."""
        try:
            return None if self._span is None else self._span.attach()
        except Exception as error:
            self._telemetry.trouble(error)
            return None

    def detach(self, token: Token[Any] | None) -> None:
        """Let the span before be the current one again."""
        if token is None or self._span is None:
            return
        try:
            self._span.detach(token)
        except Exception as error:
            self._telemetry.trouble(error)

    def finish(
        self, token: Token[Any] | None, call: CallRecord, error: BaseException | None
    ) -> None:
        """The call's outcome is recorded, while its span was the current one."""
        self.detach(token)
        result: Result | None = call.result
        if result is None:
            return
        try:
            if self._span is not None:
                self._span.end(call, result, error)
            if self._metrics is not None and call.is_sdk:
                seconds = (perf_counter_ns() - call.started) / 1e9
                self._metrics.called(call, result, error, seconds)
        except Exception as unforeseen:
            self._telemetry.trouble(unforeseen)
