"""A sink that keeps the entries in a list, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry


class InMemorySink:
    """Keeps what it is given in `entries`, oldest first."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.entries: list[AuditEntry] = []

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Add the entries to the list."""
        self.entries.extend(entries)

    def close(self) -> None:
        """Nothing to let go of; the entries stay."""
