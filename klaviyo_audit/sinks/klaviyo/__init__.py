"""Entries as events at Klaviyo, each exactly once."""

from klaviyo_audit.sinks.klaviyo.sink import KlaviyoSink

__all__ = ["KlaviyoSink"]
