"""A sink that prints entries for people, for development."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings


class ConsoleSink:
    """Prints one line an entry to standard error, in colour on a terminal.

    Args:
        stream: Where to print instead.
        all_phases: Also print intents and lines about the journal itself.
    """

    ephemeral = True

    def __init__(self, stream: TextIO | None = None, *, all_phases: bool = False) -> None:
        self.name = "console"
        self._stream = stream
        self._all_phases = all_phases

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Print the entries."""
        from klaviyo_audit.rendering import is_shown, printer

        show = printer(self._stream or sys.stderr)
        for entry in entries:
            if self._all_phases or is_shown(entry):
                show(entry)

    def close(self) -> None:
        """The stream is not ours to close."""


def from_settings(_: Settings) -> ConsoleSink:
    """The sink ``console``."""
    return ConsoleSink()
