"""OpenTelemetry: live spans, metrics, and the instrumentor that its launcher finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klaviyo_audit.otel.instrumentor import KlaviyoInstrumentor

__all__ = ["KlaviyoInstrumentor"]


def __getattr__(name: str) -> Any:
    # It needs the extra otel; spans and metrics need the API only.
    if name != "KlaviyoInstrumentor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from klaviyo_audit.otel.instrumentor import KlaviyoInstrumentor

    return KlaviyoInstrumentor
