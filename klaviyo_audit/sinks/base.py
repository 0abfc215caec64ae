"""What a sink is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry


@runtime_checkable
class Sink(Protocol):
    """A place entries are delivered to.

    It is called from one thread at a time, never from the audited program's own, and with
    auditing suppressed.
    """

    name: str

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Take the entries, in the journal's order.

        Returning means that they have arrived.

        Raises:
            Exception: They have not; they are offered again.
        """

    def close(self) -> None:
        """Let go of what the sink holds."""
