"""Entries and checkpoints as messages of a Kafka topic."""

from klaviyo_audit.sinks.kafka.sink import KafkaSink, from_settings, journal_name

__all__ = ["KafkaSink", "from_settings", "journal_name"]
