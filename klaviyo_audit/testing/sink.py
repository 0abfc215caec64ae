"""The in-memory sink, where tests look for it."""

from klaviyo_audit.sinks.memory import InMemorySink

__all__ = ["InMemorySink"]
