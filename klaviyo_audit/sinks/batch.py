"""Gathering entries of the journal into batches for one sink."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from pydantic import ValidationError

from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.journal.damages import describe
from klaviyo_audit.journal.line import Problem
from klaviyo_audit.sinks.base import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.sinks.base import Rejected
    from klaviyo_audit.sinks.bookmark import Bookmark, Place
    from klaviyo_audit.sinks.books import Source

_SCAN_LINES = 20_000
"""How many lines are looked at for one batch at most, when few of them pass the filter."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A line of the journal that cannot be delivered."""

    raw: bytes
    """The line, without its newline."""
    why: str


def dead_letters(
    entries: Sequence[AuditEntry], raws: Sequence[bytes], error: Rejected
) -> list[DeadLetter]:
    """The lines of those entries that a sink has rejected.

    Args:
        entries: What it was given.
        raws: The line of each.
        error: What it raised.

    Raises:
        Retry: It was given none of what it has rejected, which then says nothing.
    """
    rejected = {(one.id, one.phase) for one in error.entries if isinstance(one, AuditEntry)}
    dead = [
        DeadLetter(raw, error.why)
        for entry, raw in zip(entries, raws, strict=True)
        if (entry.id, entry.phase) in rejected
    ]
    if not dead:
        raise Retry(why=f"it rejected entries that it was not given ({error.why})") from error
    return dead


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that are delivered together, and what was passed over on the way."""

    entries: tuple[AuditEntry, ...]
    raws: tuple[bytes, ...]
    """The line of each entry."""
    unreadable: tuple[DeadLetter, ...]
    """Whole lines that this version cannot make an entry of."""
    filtered: int
    damaged: int
    begin: Place | None
    """Where the first line is, if its file was open then."""
    end: Bookmark
    """The bookmark after it."""


class Gathering:
    """The batch in the making.

    Args:
        backlog: Where the lines come from.
        bookmark: The bookmark before the batch.
        wants: What the sink wants; None: everything.
        most: How many entries it takes at once.
        most_bytes: How many bytes of them (as they stand in the journal).
        tell: Called with a sentence about damage.
    """

    def __init__(
        self,
        backlog: Source,
        bookmark: Bookmark,
        *,
        wants: Callable[[AuditEntry], bool] | None,
        most: int,
        most_bytes: int,
        tell: Callable[[str], None],
    ) -> None:
        self._backlog = backlog
        self._before = bookmark
        self._wants = wants
        self._most = most
        self._most_bytes = most_bytes
        self._tell = tell
        self._entries: list[AuditEntry] = []
        self._raws: list[bytes] = []
        self._unreadable: list[DeadLetter] = []
        self._bytes = self._filtered = self._damaged = self._lines = 0
        self._begin = backlog.bookmark(bookmark).present
        self.since: float | None = None
        """When its first entry was read (monotonic seconds)."""
        self.is_full = False
        self.is_at_end = False
        """All lines were read that are there."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no line at all."""
        return not self._lines

    def fill(self) -> None:
        """Add what there is, until it is full.

        Raises:
            OSError: The journal cannot be read.
            JournalCorrupt: A compressed file is damaged.
        """
        self.is_at_end = False
        while not self.is_full:
            lines = self._backlog.take()
            if not lines:
                self.is_at_end = True
                return
            size = sum(len(line.raw) + 1 for line in lines)
            if self._entries and self._bytes + size > self._most_bytes:
                self._backlog.put_back()
                self.is_full = True
                return
            for line in lines:
                self._add(line)
            self._lines += 1
            self.is_full = (
                len(self._entries) >= self._most
                or self._bytes >= self._most_bytes
                or self._lines >= _SCAN_LINES
            )

    def batch(self) -> Batch:
        """What was gathered."""
        counts = replace(
            self._before,
            delivered=self._before.delivered + len(self._entries),
            filtered=self._before.filtered + self._filtered,
            damaged=self._before.damaged + self._damaged,
        )
        return Batch(
            entries=tuple(self._entries),
            raws=tuple(self._raws),
            unreadable=tuple(self._unreadable),
            filtered=self._filtered,
            damaged=self._damaged,
            begin=self._begin,
            end=self._backlog.bookmark(counts),
        )

    def _add(self, line: Line) -> None:
        if line.members is None:
            self._damaged += 1
            self._tell(
                f"the journal has a piece that is no entry ({describe(line)}); it is not delivered,"
                " and `klaviyo-audit verify` shows all of them"
            )
            return
        entry = self._entry(line)
        if entry is None:
            return
        if self._wants is not None and not self._wants(entry):
            self._filtered += 1
            return
        if self.since is None:
            self.since = monotonic()
        self._entries.append(entry)
        self._raws.append(line.raw)
        self._bytes += len(line.raw) + 1

    def _entry(self, line: Line) -> AuditEntry | None:
        assert line.members is not None
        if line.problem == Problem.VERSION:
            why = f"it has version {str(line.members.get('v'))[:20]}, which is newer than this"
        else:
            try:
                return AuditEntry.from_dict(line.members)
            except ValidationError as error:
                names = ", ".join(sorted({str(e["loc"][0]) for e in error.errors() if e["loc"]}))
                why = f"it is not as the schema says: {names}"
        self._unreadable.append(DeadLetter(line.raw, why))
        return None
