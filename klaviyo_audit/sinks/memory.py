"""A sink that keeps the entries in a list, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings


class InMemorySink:
    """Keeps what it is given in `entries`, oldest first."""

    ephemeral = True

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.entries: list[AuditEntry] = []

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Add the entries to the list."""
        self.entries.extend(entries)

    def close(self) -> None:
        """Nothing to let go of; the entries stay."""


def from_settings(_: Settings) -> InMemorySink:
    """The sink ``memory``."""
    return InMemorySink()
