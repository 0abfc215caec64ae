"""Metrics of calls, entries, journal and sinks.

``http.client.request.duration`` is that of the semantic conventions for HTTP clients, the rest is
this package's own.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from klaviyo_audit._version import __version__
from klaviyo_audit.otel.spans import SCHEMA_URL, SCOPE, error_type, server_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import MeterProvider

    from klaviyo_audit.calls import CallRecord
    from klaviyo_audit.entry import Result

DURATION_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
)  # fmt: skip
"""Seconds, as the semantic conventions recommend for this histogram."""
APPEND_BUCKETS: Final = (
    0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.01, 0.1, 1,
)  # fmt: skip

_NOBODY: Final = ("_ProxyMeterProvider", "NoOpMeterProvider")
_LOOK_SECONDS: Final = 0.25
_REMAINING: Final = re.compile(r'"remaining":(\d+)')


class Metrics:
    """The instruments of one auditor.

    Args:
        provider: Whose meter; the process's own if not given, which may be set later.
        lost: Gives how many entries the journal could not take so far.
        sinks: Gives for each sink its delay in seconds and its failures so far.
    """

    def __init__(
        self,
        provider: MeterProvider | None = None,
        *,
        lost: Callable[[], int] = lambda: 0,
        sinks: Callable[[], Mapping[str, tuple[float, int]]] = dict,
    ) -> None:
        self._given = provider is not None
        meter = metrics.get_meter(
            SCOPE, __version__, meter_provider=provider, schema_url=SCHEMA_URL
        )
        self._is_on = False
        self._look_at = 0.0
        self._lost = lost
        self._sinks = sinks
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._entries = meter.create_counter(
            "klaviyo.audit.entries", unit="{entry}", description="Entries that were recorded."
        )
        self._append = meter.create_histogram(
            "klaviyo.audit.journal.append.duration",
            unit="s",
            description="Time the caller's thread spends on appending an entry.",
            explicit_bucket_boundaries_advisory=APPEND_BUCKETS,
        )
        self._remaining = meter.create_gauge(
            "klaviyo.rate_limit.remaining",
            unit="{request}",
            description="Requests that Klaviyo's steady window still allowed at the last answer.",
        )
        meter.create_observable_counter(
            "klaviyo.audit.gaps",
            [self._observe_lost],
            unit="{entry}",
            description="Entries that the journal could not take.",
        )
        meter.create_observable_gauge(
            "klaviyo.audit.sink.lag",
            [self._observe_lag],
            unit="s",
            description="Age of the oldest entry that a sink has not got.",
        )
        meter.create_observable_counter(
            "klaviyo.audit.sink.failures",
            [self._observe_failures],
            unit="{attempt}",
            description="Attempts to deliver that failed.",
        )

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to measure for; looked up four times a second."""
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            provider = type(metrics.get_meter_provider()).__name__
            self._is_on = self._given or provider not in _NOBODY
        return self._is_on

    def called(
        self, call: CallRecord, result: Result, error: BaseException | None, seconds: float
    ) -> None:
        """A call of the SDK has ended."""
        facts = call.target.call
        attributes: dict[str, Any] = {
            "http.request.method": str(facts["method"]),
            "url.template": str(facts["path"]),
        }
        if call.status is not None:
            attributes["http.response.status_code"] = call.status
        kind = error_type(call, result, error)
        if kind is not None:
            attributes["error.type"] = kind
        server = None if call.url is None else server_of(call.url)
        if server is not None:
            attributes["server.address"], attributes["server.port"] = server
        self._duration.record(seconds, attributes)
        found = None if call.http is None else _REMAINING.search(call.http)
        if found is not None:
            self._remaining.set(int(found[1]), {"url.template": str(facts["path"])})

    def appended(self, phase: str, result: str | None, seconds: float) -> None:
        """An entry was recorded."""
        attributes = {"klaviyo.audit.phase": phase}
        if result is not None:
            attributes["klaviyo.audit.result"] = result
        self._entries.add(1, attributes)
        self._append.record(seconds)

    def _observe_lost(self, _options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._lost())

    def _observe_lag(self, _options: CallbackOptions) -> Iterable[Observation]:
        for name, (lag, _failures) in self._sinks().items():
            yield Observation(lag, {"klaviyo.audit.sink": name})

    def _observe_failures(self, _options: CallbackOptions) -> Iterable[Observation]:
        for name, (_lag, failures) in self._sinks().items():
            yield Observation(failures, {"klaviyo.audit.sink": name})
