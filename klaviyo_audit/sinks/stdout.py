"""A sink that writes one JSON object a line to standard output, for container logs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO

from klaviyo_audit.journal.format import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings


class StdoutSink:
    """Writes each entry as the journal has it: one line of JSON, no line separator inside it.

    Args:
        stream: Where to write instead of standard output.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self.name = "stdout"
        self._stream = stream

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Write the entries, and flush them."""
        stream = self._stream or sys.stdout.buffer
        for entry in entries:
            members = entry.to_dict()
            members.pop("sum", None)
            stream.write(encode(members))
        stream.flush()

    def close(self) -> None:
        """The stream is not ours to close."""


def from_settings(_: Settings) -> StdoutSink:
    """The sink ``stdout``."""
    return StdoutSink()
