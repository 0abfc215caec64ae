"""What became of each entry of a batch, so that a repeated batch sends only the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klaviyo_audit.sinks.base import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klaviyo_audit.entry import AuditEntry

_Key = tuple[str, int, str, str, str | None]

_MAX_REASONS = 3


class Progress:
    """Remembers, between the attempts at one batch, which entries the other end has answered for.

    A batch that a sink has to send in parts can fail after some of them were taken. `Retry` then
    brings all of it back, and what was taken would arrive twice.
    """

    def __init__(self) -> None:
        self._taken: set[_Key] = set()
        self._refused: dict[_Key, str] = {}

    def remaining(self, entries: Sequence[AuditEntry]) -> list[AuditEntry]:
        """The entries of the batch that nothing is known about; forgets all other batches."""
        keys = [_key(entry) for entry in entries]
        here = set(keys)
        self._taken &= here
        self._refused = {key: why for key, why in self._refused.items() if key in here}
        return [
            entry
            for key, entry in zip(keys, entries, strict=True)
            if key not in self._taken and key not in self._refused
        ]

    def taken(self, entries: Iterable[AuditEntry]) -> None:
        """The other end has acknowledged these."""
        self._taken.update(map(_key, entries))

    def refused(self, entries: Iterable[AuditEntry], why: str) -> None:
        """The other end will never take these."""
        for entry in entries:
            self._refused[_key(entry)] = why

    def finish(self, entries: Sequence[AuditEntry]) -> None:
        """All of the batch is answered for.

        Raises:
            Rejected: Some of it was refused.
        """
        refused = [entry for entry in entries if _key(entry) in self._refused]
        reasons = list(dict.fromkeys(self._refused.values()))
        self._taken.clear()
        self._refused = {}
        if refused:
            more = len(reasons) - _MAX_REASONS
            told = reasons[:_MAX_REASONS] + ([f"and {more} more reasons"] if more > 0 else [])
            raise Rejected(refused, "; ".join(told))


def _key(entry: AuditEntry) -> _Key:
    return entry.writer, entry.n, entry.id, entry.phase, entry.sum
