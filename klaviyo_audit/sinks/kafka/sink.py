"""The sink that sends entries and checkpoints to a Kafka topic."""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal.note import Verifier
from klaviyo_audit.journal.signing import PUBLIC_NAME
from klaviyo_audit.sinks.base import Rejected
from klaviyo_audit.sinks.kafka.outbox import Outbox
from klaviyo_audit.sinks.kafka.settings import complete_config, read_config
from klaviyo_audit.sinks.verbatim import line_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings

DEFAULT_TOPIC: Final = "klaviyo-audit"


class KafkaSink:
    """Sends entries as messages of one topic, and waits for the brokers' reports.

    A message's key is the journal's name, so that the lines of one journal keep their order (one
    partition); its value is the journal's line; its headers say what it is.

    Args:
        config: Properties of librdkafka; ``bootstrap.servers`` has to be among them.
        topic: The topic.
        key: The journal's name.
        name: The sink's name.
        timeout: Seconds to wait for the reports of one batch, before the shipper is told to come
            again. Nothing is sent anew by then: what is on its way stays on its way.

    Raises:
        ConfigurationError: A property is not allowed, or the extra ``kafka`` is not installed.

    Example:
        >>> KafkaSink({"bootstrap.servers": "kafka-1:9092"}, key="shop")  # doctest: +SKIP
    """

    max_batch_entries = 5_000

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        key: str,
        topic: str = DEFAULT_TOPIC,
        name: str = "kafka",
        timeout: float = 10.0,
    ) -> None:
        try:
            import confluent_kafka  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "the Kafka sink needs confluent-kafka, which is not installed: "
                "pip install 'klaviyo-audit[kafka]'"
            ) from error
        self.name = name
        self.acknowledgement: Mapping[str, object] = {}
        self._config = complete_config(config)
        self._topic = topic
        self._key = key.encode()
        self._timeout = timeout
        self._outbox: Outbox | None = None
        self._pid = os.getpid()

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Send the entries and wait until the brokers have reported on each.

        Raises:
            Retry: Not all reports have come. What is on its way is not sent a second time.
            Rejected: Messages are larger than the brokers take.
            ConfigurationError: The brokers do not let us in, or do not have the topic.
        """
        outbox = self._ready()
        letters: dict[Hashable, AuditEntry] = {
            (entry.id, entry.phase, entry.writer, entry.n, entry.sum): entry for entry in entries
        }
        outbox.keep_only(letters)
        for key, entry in letters.items():
            outbox.post(key, lambda entry=entry: (line_of(entry), _headers(entry)))  # type: ignore[misc]  # a default binds the loop's variable
        refused = outbox.wait(monotonic() + self._timeout)
        self.acknowledgement = outbox.offsets()
        outbox.clear()
        if refused:
            raise Rejected([letters[key] for key in refused], next(iter(refused.values())))

    def deliver_checkpoints(self, notes: Sequence[bytes]) -> None:
        """Send signed checkpoints to the same topic, as messages with their own content type.

        Raises:
            Retry: As for `deliver`.
            ConfigurationError: As for `deliver`.
        """
        outbox = self._ready()
        outbox.keep_only(notes)
        for note in notes:
            outbox.post(note, lambda note=note: (note, _CHECKPOINT_HEADERS))  # type: ignore[misc]  # as above
        refused = outbox.wait(monotonic() + self._timeout)
        outbox.clear()
        if refused:
            raise Rejected((), next(iter(refused.values())))

    def close(self) -> None:
        """Wait a little for what is on its way, then let go of the producer."""
        self._leave_the_parents()
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.close(min(self._timeout, 5.0))

    def _ready(self) -> Outbox:
        self._leave_the_parents()
        if self._outbox is None:
            self._outbox = Outbox(self._config, self._topic, self._key)
        return self._outbox

    def _leave_the_parents(self) -> None:
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        if self._outbox is not None:
            self._outbox.leave_to_parent()  # once more, since uWSGI forks past the hooks
            self._outbox = None


_CHECKPOINT_HEADERS: Final = (
    ("content-type", b"text/plain; charset=utf-8"),
    ("klaviyo-audit-type", b"checkpoint"),
)


def _headers(entry: AuditEntry) -> tuple[tuple[str, bytes], ...]:
    return (
        ("content-type", b"application/json"),
        ("klaviyo-audit-type", b"entry"),
        ("klaviyo-audit-version", str(entry.v).encode()),
        ("klaviyo-audit-id", entry.id.encode("utf-8", "backslashreplace")),
        ("klaviyo-audit-phase", entry.phase.encode()),
    )


def from_settings(settings: Settings) -> KafkaSink:
    """The sink for the entry point ``kafka``."""
    config = settings.kafka_config
    return KafkaSink(
        read_config(config.get_secret_value()) if config is not None else {},
        topic=settings.kafka_topic,
        key=settings.origin or journal_name(settings.dir, settings.host),
    )


def journal_name(directory: Path, host: str | None) -> str:
    """What identifies a journal: the name of the key that seals it, else host and folder.

    Args:
        directory: The journal's folder.
        host: The machine's name.
    """
    try:
        return Verifier.from_text((directory / PUBLIC_NAME).read_text()).name
    except (OSError, ValueError, ConfigurationError):
        return f"{host or socket.gethostname()}:{directory.absolute()}"
