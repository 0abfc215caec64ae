"""Counting what the journal could not take, until a gap entry can say so."""

from __future__ import annotations

import errno
from typing import Any

from klaviyo_audit import clock
from klaviyo_audit.journal.commit import NotDurable

_MAX_OPERATIONS = 50
_MAX_RANGES = 1_000


class Losses:
    """Entries that could not be written since the last gap entry.

    Not locked: the journal writer calls it under its own lock.

    Args:
        writer: The writer whose line numbers were used up.
    """

    __slots__ = (
        "_count",
        "_first",
        "_last",
        "_numbers",
        "_operations",
        "_reasons",
        "_torn",
        "_unsynced",
        "_writer",
    )

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._count = 0
        self._first = self._last = ""
        self._operations: dict[str, int] = {}
        self._numbers: list[list[int]] = []
        self._reasons: dict[str, int] = {}
        self._torn: list[dict[str, int]] = []
        self._unsynced: list[list[int]] = []

    def add(self, action: str, number: int | None, error: Exception) -> None:
        """Count one entry that was lost.

        Args:
            action: The entry's action.
            number: The line number that was used up for it, if one was.
            error: Why.
        """
        self._last = clock.now()
        self._first = self._first or self._last
        self._count += 1
        if action not in self._operations and len(self._operations) >= _MAX_OPERATIONS:
            action = "other"
        self._operations[action] = self._operations.get(action, 0) + 1
        if number is not None:
            self.add_number(number, error)
        reason = reason_of(error)
        self._reasons[reason] = self._reasons.get(reason, 0) + 1

    def add_number(self, number: int, error: Exception) -> None:
        """Note a line number that was used up, for a line about the journal itself, say."""
        _add(self._numbers, number)
        if isinstance(error, NotDurable):
            _add(self._unsynced, number)

    def add_torn(self, offset: int, length: int) -> None:
        """Note a piece of a line that was left in the file by a short write (bytes)."""
        self._torn.append({"offset": offset, "length": length})

    @property
    def count(self) -> int:
        """How many entries were lost."""
        return self._count

    def metadata(self) -> dict[str, Any]:
        """The facts for the gap entry's ``metadata``."""
        facts: dict[str, Any] = {"count": self._count}
        if self._count:
            facts |= {
                "from": self._first,
                "to": self._last,
                "operations": self._operations,
                "reasons": self._reasons,
            }
        if self._numbers:
            facts["writer"] = self._writer
            facts["numbers"] = _merged(self._numbers)
        if self._unsynced:
            facts["unsynced"] = _merged(self._unsynced)
        if self._torn:
            facts["torn"] = self._torn
        return facts

    def merge(self, later: Losses) -> None:
        """Add what was lost while a gap entry was tried in vain."""
        self._count += later._count
        self._first = self._first or later._first
        self._last = later._last or self._last
        for action, count in later._operations.items():
            self._operations[action] = self._operations.get(action, 0) + count
        for reason, count in later._reasons.items():
            self._reasons[reason] = self._reasons.get(reason, 0) + count
        self._numbers = _merged(self._numbers + later._numbers)
        self._torn += later._torn
        self._unsynced = _merged(self._unsynced + later._unsynced)


def reason_of(error: Exception) -> str:
    """A short name for why a write failed: ``ENOSPC``, or the exception's class."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__


def _add(ranges: list[list[int]], number: int) -> None:
    """Add a number to ranges, of which there are few however many numbers there are."""
    if ranges and number == ranges[-1][1] + 1:
        ranges[-1][1] = number
        return
    ranges.append([number, number])
    if len(ranges) > 2 * _MAX_RANGES:
        ranges[:] = _merged(ranges)


def _merged(ranges: list[list[int]]) -> list[list[int]]:
    """The ranges in order, those that touch as one; at most `_MAX_RANGES`, the first."""
    merged: list[list[int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return merged[:_MAX_RANGES]
