"""Showing the intact lines of a journal file to whatever has to look at each of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO, Protocol

from klaviyo_audit.journal.heads import HeadCutter, Heads, heads_of
from klaviyo_audit.journal.line import Line, Problem, decoded
from klaviyo_audit.journal.reader import Run, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Pass(Protocol):
    """Something that looks at every intact line of a journal."""

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take some lines that stand one after the other in a file, and their heads."""


class FilePass:
    """Takes passes over one file, and goes on where it stopped.

    Args:
        name: The file's name in findings.
        file: As `open_journal` gives it.
        passes: Who gets the entries.
        damaged: Gets every piece that is not an entry, with its problem.
    """

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        passes: Sequence[Pass],
        damaged: Callable[[str, Line], None],
    ) -> None:
        self.name = name
        self.offset = 0
        """The byte up to which the file has been read."""
        self.entries = 0
        """Entries shown to the passes."""
        self._number = 1
        self._file = file
        self._passes = passes
        self._damaged = damaged
        self._cutter = HeadCutter()

    def size(self) -> int:
        """The file's present length in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def on_to(
        self, end: int, *, final: bool = False, progress: Callable[[int], None] | None = None
    ) -> None:
        """Read on until a byte of the file has been reached, or its last whole line.

        Args:
            end: A byte of the file.
            final: As for `klaviyo_audit.journal.reader.read`.
            progress: Called now and then with the byte that has been reached.
        """
        if self.offset >= end:
            return
        for item in scan(self._file, offset=self.offset, number=self._number, final=final):
            if isinstance(item, Run):
                self._feed(item)
                self._number += len(item.lines)
            else:
                for piece in item.pieces:
                    self._take(piece)
                self._number += 1
            self.offset = item.end
            if progress is not None:
                progress(self.offset)
            if self.offset >= end:
                return

    def _feed(self, run: Run) -> None:
        heads = self._cutter.cut(run.lines)
        if heads is not None:
            self._show(run, heads)
            return
        for index, line in enumerate(run.lines):
            self._take(decoded(*run.place(index), line[:-1]))

    def _take(self, line: Line) -> None:
        if line.problem is None:
            alone = Run.at(line.number, line.offset, [line.raw + b"\n"])
            heads = self._cutter.cut(alone.lines) or heads_of(line.members)
            if heads is not None:
                self._show(alone, heads)
                return
            line = Line(line.number, line.offset, line.raw, line.members, Problem.FOREIGN)
        self._damaged(self.name, line)

    def _show(self, run: Run, heads: Heads) -> None:
        self.entries += len(heads)
        for one in self._passes:
            one.feed(self.name, run, heads)
