"""Opening a journal's files for a verification: each once, the oldest first, while they change."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.contents import Contents, numbers, open_numbered, open_unnumbered
from klaviyo_audit.journal.rotation import identity_of
from klaviyo_audit.journal.segments import COMPRESSED, locate, read_segments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klaviyo_audit.journal.sealed import Seals

_OPEN_AHEAD: Final = 200
"""Files that are open at once; more are opened as others are closed."""


class Files:
    """The files of one journal that are to be read.

    Args:
        directory: The journal's folder.
        seals: What is sealed of it, and what of that is not looked at.
    """

    def __init__(self, directory: Path, seals: Seals) -> None:
        self.missing: dict[int, str] = {}
        """Numbers of files that are not there, and what is to be said of each."""
        self.passed_bytes = 0
        """Size of the files that are there and are not to be looked at."""
        self._directory = directory
        self._seals = seals
        self._known: set[int] = set()
        self._rotated: deque[int] = deque()
        """Numbers of files that are to be opened, and were all rotated."""
        self._pending: deque[Contents] = deque()
        """Open already, so that nobody can take them away before they are read."""
        self._identities: set[tuple[int, int]] = set()
        self._unnumbered: list[Contents] = []

    def next(self) -> Contents | None:
        """The next file; None when there is none at present. Whoever gets it closes it."""
        return self._pending.popleft() if self._pending else self._open_next()

    def open_ahead(self) -> None:
        """Open files that come next."""
        while len(self._pending) < _OPEN_AHEAD and (contents := self._open_next()) is not None:
            self._pending.append(contents)

    def close(self) -> None:
        """Close what nobody got."""
        for contents in self._pending:
            contents.close()

    def _open_next(self) -> Contents | None:
        while self._rotated:
            if (contents := self._open(self._rotated.popleft(), None)) is not None:
                return contents
        segments = self._seals.segments
        if self._identities or self._known:
            # More may have been recorded meanwhile.
            with contextlib.suppress(JournalCorrupt):
                segments = read_segments(self._directory)
        last = max((segment.file for segment in segments), default=None)
        present = numbers(self._directory, segments, self._seals.removed.size)
        self._number_the_live(present)
        unknown = [number for number in present if number not in self._known]
        # Of the last one it has to be known at once whether it is live; there can be thousands.
        self._rotated += [number for number in unknown if last is not None and number < last]
        if self._rotated:
            return self._open_next()
        for number in unknown:
            if (contents := self._open(number, last)) is not None:
                return contents
        live = open_unnumbered(self._directory, last=last)
        if live and live.identity in self._identities:
            live.close()
            return None
        if live:
            self._identities.add(live.identity)
            self._unnumbered.append(live)
        return live

    def _open(self, number: int, last: int | None) -> Contents | None:
        """Open a file by its number; None if it is missing, or nothing of it is to be looked at."""
        self._known.add(number)
        try:
            contents = open_numbered(self._directory, number, last=last)
        except JournalCorrupt as error:
            self.missing[number] = str(error)
            return None
        if self._seals.skipped and self._seals.passes_over(number, is_packed=contents.is_packed):
            self.passed_bytes += contents.size()
            contents.close()
            return None
        self._identities.add(contents.identity)
        return contents

    def _number_the_live(self, present: Sequence[int]) -> None:
        """A live file whose sealing has begun while it was read has a number now."""
        if not self._unnumbered:
            return
        live = self._unnumbered[0]
        newest = max(self._known, default=-1)
        later = [number for number in present if number > newest]
        for number in later:
            path = locate(self._directory, number, live=present[-1])
            # Compressed, it is another file; then it is the first after those that were known.
            packed = number == later[0] and path is not None and path.suffix in COMPRESSED.values()
            if packed or (path is not None and identity_of(path) == live.identity):
                live.number = number
                self._known.add(number)
                self._unnumbered.remove(live)
                return
