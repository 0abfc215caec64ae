"""The instrumentor that `opentelemetry-instrument` finds by its entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.sinks.shipping import Shipping


class KlaviyoInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Audits every ``klaviyo-api`` client of the process, with spans and metrics.

    `klaviyo_audit.instrument` does the same with the process's own providers. Switching it off
    (``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=klaviyo``, or ``OTEL_SDK_DISABLED`` for all) switches
    off what goes to OpenTelemetry; a trail that the program keeps itself goes on.

    Arguments of ``instrument``, all optional:

    - ``tracer_provider``, ``meter_provider``: instead of the process's own.
    - ``logger_provider``: also gets the process's entries as log records, while instrumented.
    - ``auditor``: the `klaviyo_audit.Auditor` to record with, instead of the default one.
    - ``request_hook(span, facts)``, ``response_hook(span, facts)``: called for every span that is
      recorded, with `klaviyo_audit.otel.spans.CallFacts`; what they raise is ignored.

    Example:
        >>> KlaviyoInstrumentor().instrument()  # doctest: +SKIP
    """

    _auditor: Auditor | None = None
    _logs: Shipping | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """What has to be installed for this to make sense."""
        return ("klaviyo-api >= 17",)

    def _instrument(self, **kwargs: Any) -> None:
        from klaviyo_audit import default

        given: Auditor | None = kwargs.get("auditor")
        used = given or default.default_auditor()
        names = ("tracer_provider", "meter_provider", "request_hook", "response_hook")
        used.observe(**{name: kwargs.get(name) for name in names})
        default.instrument(given)
        self._auditor = used
        provider = kwargs.get("logger_provider")
        if provider is not None:
            self._logs = _log_shipping(used, provider)
            self._logs.start()

    def _uninstrument(self, **_kwargs: Any) -> None:
        from klaviyo_audit import default

        default.uninstrument()
        if self._logs is not None:
            self._logs.close(timeout=2.0)
            self._logs = None
        if self._auditor is not None:
            self._auditor.observe()
            self._auditor = None


def _log_shipping(auditor: Auditor, provider: Any) -> Shipping:
    from klaviyo_audit.otel.logs import LoggerSink
    from klaviyo_audit.sinks.shipper import Shipper
    from klaviyo_audit.sinks.shipping import Shipping

    return Shipping([lambda: Shipper(auditor.journal, LoggerSink(provider))])
