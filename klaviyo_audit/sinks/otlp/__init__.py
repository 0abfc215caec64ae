"""Entries and checkpoints as log records at an OpenTelemetry collector."""

from klaviyo_audit.sinks.otlp.sink import OtlpSink, from_settings

__all__ = ["OtlpSink", "from_settings"]
