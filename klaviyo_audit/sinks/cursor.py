"""Reading one file of the journal on from a place, line by line."""

from __future__ import annotations

import contextlib
import fcntl
import os
from functools import partial
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO, Final

from klaviyo_audit.forks import abandon, unforked
from klaviyo_audit.journal.format import SUM_DIGITS
from klaviyo_audit.journal.line import is_intact
from klaviyo_audit.journal.reader import Damage, lines_of, open_journal, scan
from klaviyo_audit.journal.segments import COMPRESSED, decompressed, reading
from klaviyo_audit.sinks.bookmark import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.journal.reader import Run

_CHUNK_BYTES: Final = 1 << 20
_LOOK_BYTES: Final = 1 << 16
_SEEN_BYTES: Final = 64
"""How many bytes before the end of that are looked at each time, to see that it is the same."""
_SEARCH_SECONDS: Final = 5.0
"""How often is searched anew what had no line end."""


class Cursor:
    """A file of the journal, open at a place.

    Args:
        path: Where the file is now.
        place: Where to go on; whether the file is the one it is about has not been looked at.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
        ConfigurationError: It is compressed in a way this installation cannot read.
    """

    def __init__(self, path: Path, place: Place) -> None:
        self._directory = path.parent
        self._pid = os.getpid()
        self._closing = contextlib.ExitStack()
        opened = self._closing.enter_context(open_journal(path))
        self._descriptor = opened.fileno()
        self.is_plain = path.suffix not in COMPRESSED.values()
        """The file is not compressed."""
        facts = os.fstat(self._descriptor)
        self.identity = facts.st_dev, facts.st_ino
        """Device and inode of the file."""
        self.number = place.file
        """The file's number, once that is known."""
        self._offset, self._count = place.offset, place.lines
        self._mark, self._size, self._sum = place.mark, place.size, place.sum
        try:
            content = decompressed(opened, path.suffix)
            self._file: BinaryIO = self._closing.enter_context(content)
        except BaseException:
            self._closing.close()
            raise
        self._items: Iterator[Run | Damage] | None = None
        self._lines: Iterator[tuple[tuple[Line, ...], int]] = iter(())
        self._grows = self.is_plain
        self._at_end = False
        self._searched = 0
        self._seen = b""
        self._search_at = monotonic() + _SEARCH_SECONDS
        self._before: tuple[tuple[Line, ...], int, tuple[int, int, int, int, str]]

    @property
    def place(self) -> Place:
        """How far the file was read."""
        return Place(
            self.number,
            *self.identity,
            self._offset,
            self._count,
            self._mark,
            self._size,
            self._sum,
        )

    @property
    def links(self) -> int:
        """How many names the file still has."""
        return os.fstat(self._descriptor).st_nlink

    @property
    def is_ended(self) -> bool:
        """Whether everything was taken, and nothing can come any more."""
        return self._at_end and not self._grows

    def end_if_final(self) -> bool:
        """Take it that the file has no writer any more, if that is so.

        To be asked of a file that was set aside. Its last line is then one without a newline too.
        """
        if not self._grows:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Said outright: a child forked just now has the descriptor too.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError:
            return False  # a writer has it open, or the file system has no locks
        self._grows = False
        return True

    def count_rest(self) -> int:
        """How many lines are left to take; much quicker than taking them. To be asked last."""
        if self.is_plain:
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
            return count_lines(partial(os.read, self._descriptor))
        count = 0
        while self.take():
            count += 1
        return count

    def close(self) -> None:
        """Close the file. In a forked child the parent's, too, if that can be done."""
        if self._pid != os.getpid() and abandon(self):
            return
        with unforked():
            self._closing.close()

    def fits(self) -> bool:
        """Whether the file still holds, at the place, what was read there."""
        if not self._offset:
            return True
        if self.is_plain and os.fstat(self._descriptor).st_size < self._offset:
            return False
        if not self._sum:
            return True
        self._items = None
        if self.is_plain:
            line = os.pread(self._descriptor, self._size, self._mark - self._size)
        else:
            with unforked():
                self._file.seek(self._mark - self._size)
                line = self._file.read(self._size)
        return line[-SUM_DIGITS - 2 : -2] == self._sum.encode() and is_intact(line)

    def take(self) -> tuple[Line, ...]:
        """The next line of the file: its entry, or the pieces of one that is damaged.

        Returns:
            Nothing when there is no further line for now.

        Raises:
            OSError: The file cannot be read.
            JournalCorrupt: It is compressed and damaged.
        """
        while True:
            found = next(self._lines, None)
            if found is not None:
                return self._taken(*found)
            if self._items is None:
                if self._grows and not self._has_line_end():
                    self._at_end = True
                    return ()
                if self.is_plain:
                    # Its buffer may hold a torn line that was cut off and written anew meanwhile.
                    # Seeking to a place inside of the buffer would keep it; to the end does not.
                    with unforked():
                        self._file.seek(0, os.SEEK_END)
                self._items = scan(
                    self._file,
                    offset=self._offset,
                    number=self._count + 1,
                    final=not self._grows,
                )
            with reading(self._directory, self.number or 0), unforked():
                item = next(self._items, None)
            self._at_end = item is None
            if item is None:
                # What is compressed never grows; to read it again would mean to unpack it again.
                if self.is_plain:
                    self._items = None
                return ()
            self._lines = physical_lines(item)

    def _has_line_end(self) -> bool:
        """Whether a line ends after the place; what was searched once is not read again.

        Otherwise megabytes without a line end, which somebody has put there, would be read as
        often as is looked for new lines. It is read again now and then: it may have been cut and
        written anew to the same length, with a line end in it.
        """
        now = monotonic()
        seen = os.pread(self._descriptor, len(self._seen), self._searched - len(self._seen))
        if seen != self._seen or now >= self._search_at or self._searched < self._offset:
            self._searched, self._seen = self._offset, b""
            self._search_at = now + _SEARCH_SECONDS
        while data := os.pread(self._descriptor, _LOOK_BYTES, self._searched):
            found = data.find(b"\n")
            if found >= 0:
                self._searched, self._seen = self._searched + found, b""
                return True
            self._searched += len(data)
            self._seen = data[-_SEEN_BYTES:]
        return False

    def put_back(self) -> None:
        """Undo the last `take` that gave something."""
        lines, end, place = self._before
        self._lines = chain([(lines, end)], self._lines)
        self._offset, self._count, self._mark, self._size, self._sum = place

    def _taken(self, lines: tuple[Line, ...], end: int) -> tuple[Line, ...]:
        last = lines[-1]
        self._before = (lines, end, (self._offset, self._count, self._mark, self._size, self._sum))
        self._offset, self._count = end, last.number
        if last.members is not None:
            self._mark, self._size = last.offset + len(last.raw), len(last.raw)
            self._sum = last.raw[-SUM_DIGITS - 2 : -2].decode()
        return lines


def physical_lines(item: Run | Damage) -> Iterator[tuple[tuple[Line, ...], int]]:
    """The lines of the file in one part of a journal, and where each ends."""
    if isinstance(item, Damage):
        yield item.pieces, item.end
        return
    for line in lines_of(item):
        yield (line,), line.offset + len(line.raw) + 1


def count_lines(read: Callable[[int], bytes]) -> int:
    """How many lines end in what is left of a file.

    Args:
        read: Reads at most so many bytes of it.
    """
    count = 0
    while data := read(_CHUNK_BYTES):
        count += data.count(b"\n")
    return count
