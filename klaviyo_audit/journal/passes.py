"""Showing the lines of a journal file to whatever has to look at each of them, in one reading."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from klaviyo_audit.journal.heads import HeadCutter, Heads, head_of
from klaviyo_audit.journal.line import Problem, decoded
from klaviyo_audit.journal.merkle import LEAF
from klaviyo_audit.journal.reader import Run, hashes_of, past_lines, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.journal.reader import Damage
    from klaviyo_audit.journal.repeats import Stretch


class Pass(Protocol):
    """Something that looks at every intact line of a journal."""

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take some lines that stand one after the other in a file, and their heads."""


class LeafSink(Protocol):
    """Something that takes the lines of one file as leaves of the journal's tree."""

    @property
    def is_wanting(self) -> bool:
        """Whether leaves have to be hashed; if not, they only have to be counted."""

    def take(self, hashes: Sequence[bytes], place: Callable[[int], tuple[int, int]]) -> None:
        """Take some leaves, and what gives number and offset of each of them."""

    def take_tail(self, leaf: bytes, number: int, offset: int) -> None:
        """Take what follows the last newline, which may be a leaf."""

    def count(self, lines: int) -> None:
        """Take so many lines that were not hashed."""


class FilePass:
    """Takes passes over one file, and goes on where it stopped.

    Args:
        name: The file's name in findings.
        file: What it holds, uncompressed.
        passes: Who gets the entries.
        damaged: Gets every piece that is not an entry, with its problem.
        leaves: Gets all its lines as leaves.
    """

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        passes: Sequence[Pass],
        damaged: Callable[[str, Line], None],
        leaves: LeafSink | None = None,
    ) -> None:
        self.name = name
        self.offset = 0
        """The byte up to which the file has been read."""
        self.begin = 0
        """The byte at which that began."""
        self.entries = 0
        """Entries shown to the passes."""
        self._number = 1
        self._file = file
        self._passes = passes
        self._damaged = damaged
        self._leaves = leaves
        self._cutter = HeadCutter()

    @classmethod
    def at(cls, stretch: Stretch, file: BinaryIO, passes: Sequence[Pass]) -> Self:
        """A reading that begins where a stretch does, and passes over damage."""
        reading = cls(stretch.file, file, passes, lambda *_: None)
        reading.offset, reading._number = stretch.offset, stretch.number
        return reading

    def skip(self, count: int) -> None:
        """Take so many lines as leaves only: they were looked at before.

        Raises:
            OSError: The file cannot be read.
        """
        for found in hashes_of(self._file, self.offset, count):
            places = []
            for number, (_, length) in enumerate(found, self._number):
                places.append((number, self.offset))
                self.offset += length
            self._number += len(found)
            if self._leaves is not None:
                self._leaves.take([leaf for leaf, _ in found], places.__getitem__)

    def pass_over(self, offset: int, number: int, count: int, *, final: bool) -> int:
        """Begin after so many lines from a place on, which are not looked at.

        Args:
            offset: Byte at which the first of them starts.
            number: Its number in the file.
            count: How many there are.
            final: As for `klaviyo_audit.journal.reader.read`.

        Returns:
            How many of them are not there.

        Raises:
            OSError: The file cannot be read.
        """
        self.offset, missing = past_lines(self._file, offset, count, final=final)
        self.begin = self.offset
        self._number = number + count - missing
        return missing

    def on_to(
        self,
        end: int | None = None,
        *,
        final: bool = False,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Read on until a byte of the file has been reached, or its last whole line.

        Args:
            end: A byte of the file; None: its end.
            final: As for `klaviyo_audit.journal.reader.read`.
            progress: Called now and then.

        Raises:
            OSError: The file cannot be read.
        """
        if end is not None and self.offset >= end:
            return
        for item in scan(self._file, offset=self.offset, number=self._number, final=final):
            if isinstance(item, Run):
                self._feed(item)
                self._number += len(item.lines)
            else:
                self._feed_damage(item)
                self._number += 1
            self.offset = item.end
            if progress is not None:
                progress()
            if end is not None and self.offset >= end:
                return

    def _feed(self, run: Run) -> None:
        leaves = self._leaves
        if leaves is not None:
            if leaves.is_wanting:
                # Not leaf_hash(): the call would cost a tenth.
                leaves.take([sha256(LEAF + line[:-1]).digest() for line in run.lines], run.place)
            else:
                leaves.count(len(run.lines))
        heads = self._cutter.cut(run.lines)
        if heads is not None:
            self._show(run, heads)
            return
        for index, line in enumerate(run.lines):
            # What verdict a line gets must not depend on those around it: as above, not parsed.
            if (alone := self._cutter.cut([line]) or head_of(line)) is not None:
                self._show(Run.at(*run.place(index), [line]), alone)
            else:
                bad = decoded(*run.place(index), line[:-1])
                self._damaged(self.name, replace(bad, problem=bad.problem or Problem.FOREIGN))

    def _feed_damage(self, line: Damage) -> None:
        if self._leaves is not None:
            if line.ended:
                self._leaves.take([line.leaf], lambda _: (line.number, line.offset))
            else:
                self._leaves.take_tail(line.leaf, line.number, line.offset)
        for piece in line.pieces:
            self._take(piece)

    def _take(self, line: Line) -> None:
        if line.problem is None:
            alone = Run.at(line.number, line.offset, [line.raw + b"\n"])
            heads = self._cutter.cut(alone.lines) or head_of(line.raw)
            if heads is not None:
                self._show(alone, heads)
                return
            line = replace(line, problem=Problem.FOREIGN)
        self._damaged(self.name, line)

    def _show(self, run: Run, heads: Heads) -> None:
        self.entries += len(heads)
        for one in self._passes:
            one.feed(self.name, run, heads)
