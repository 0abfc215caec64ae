"""Reading the lines that a journal's checkpoints are about, whatever became of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.findings import Finding, Kind, Severity
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.lease import SEGMENTS_NAME
from klaviyo_audit.journal.leaves import LeafReader
from klaviyo_audit.journal.merkle import MAX_SIZE
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.segments import (
    file_name,
    locate,
    rotated_files,
    spans,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.merkle import CompactRange
    from klaviyo_audit.journal.segments import Segment, Span

_LINES: Final = 4096


class SealedLines:
    """The tree of a journal's lines as they are now, grown step by step.

    Args:
        directory: The journal's folder.
        segments: Which file has which lines.
        removed: The tree of the lines that are no longer there.
    """

    def __init__(self, directory: Path, segments: Sequence[Segment], removed: CompactRange) -> None:
        self.tree = removed
        self.problem: Finding | None = None
        """Why no further line can be read, beyond there being none."""
        self.is_short = False
        """A line was asked for that is not there."""
        self._directory = directory
        self._segments = segments
        self._live = max((segment.file for segment in segments), default=None)
        self._spans = spans(segments, removed.size, MAX_SIZE)
        self._span: Span | None = None
        self._reader: LeafReader | None = None
        self._offsets: dict[int, int] = {}
        self._begin = removed.size

    def close(self) -> None:
        """Close what is open."""
        if self._reader:
            self._offsets[self._reader.file] = self._reader.offset
            self._reader.close()
        self._reader = None

    def offsets(self) -> dict[str, int]:
        """By name, up to which byte of its content each file was read."""
        read = dict(self._offsets)
        if self._reader:
            read[self._reader.file] = self._reader.offset
        return {self._name(file): offset for file, offset in read.items()}

    def on_to(self, size: int) -> bool:
        """Grow the tree to a size; False when it cannot be."""
        try:
            while self.tree.size < size and not self.is_short and self.problem is None:
                self._grow(size)
        except JournalCorrupt as error:
            assert self._span
            path = locate(self._directory, self._span.file, live=self._live)
            kind = Kind.MISSING_FILE if path is None else Kind.UNREADABLE_FILE
            self._fail(kind, str(error), self._name(self._span.file))
        return self.tree.size == size

    def _grow(self, size: int) -> None:
        if self._span is None or self.tree.size == self._span.end:
            self._next_span()
            return
        reader = self._reader
        assert reader
        hashes = reader.take(min(_LINES, size - self.tree.size, self._span.end - self.tree.size))
        if not hashes and reader.at_end:
            is_live = self._name(reader.file) == JOURNAL_NAME
            hashes = [] if is_live else reader.take_tail()
            self.is_short = not hashes
        self.tree = self.tree.extended(hashes)

    def _next_span(self) -> None:
        self.close()
        span = next(self._spans, None)
        if span is None:
            self.is_short = True
            return
        self._span = span
        if span.start != self.tree.size or span.offset != self._offsets.get(span.file, 0):
            self._fail(
                Kind.SIDE_FILE,
                f"it leaves out bytes of {file_name(span.file)} before its byte {span.offset} or "
                "has them twice: it was changed, or goes with another state of the journal",
                SEGMENTS_NAME,
            )
            return
        self._reader = LeafReader(self._directory, span.file, live=self._live, offset=span.offset)

    def rest(self) -> Iterator[Finding]:
        """What there is beyond the last line that was asked for."""
        self.close()
        files = rotated_files(self._directory)
        known = {segment.file for segment in self._segments}
        begun = {segment.file for segment in self._segments if segment.index >= self._begin}
        for file, path in files.items():
            if file not in known:
                yield _stray(path.name, "no line of it is in the journal's tree: it was put there")
        unsealed = 0
        for file in sorted(begun):
            where = locate(self._directory, file, live=self._live)
            if where is None:
                continue
            try:
                count = self._count(file)
            except JournalCorrupt as error:
                yield Finding(
                    kind=Kind.UNREADABLE_FILE,
                    severity=Severity.ERROR,
                    file=where.name,
                    message=str(error),
                )
                continue
            if count and where.suffix != ".jsonl":
                yield _stray(
                    where.name, f"{count} lines at its end were put in after it was sealed"
                )
            else:
                unsealed += count
        live = self._directory / JOURNAL_NAME
        if live.exists() and (
            self._live is None or locate(self._directory, self._live, live=self._live) != live
        ):
            # Not one line of the file was sealed yet.
            with open_journal(live) as opened:
                unsealed += _count_lines(opened)
        if unsealed:
            yield Finding(
                kind=Kind.UNSEALED,
                severity=Severity.NOTE,
                message=f"{unsealed:,} lines at the end are not sealed yet: only their checksums "
                "and numbers protect them",
            )

    def _count(self, file: int) -> int:
        reader = LeafReader(
            self._directory, file, live=self._live, offset=self._offsets.get(file, 0)
        )
        try:
            count = 0
            while hashes := reader.take(_LINES):
                count += len(hashes)
            while not reader.at_end:
                count += len(reader.take(_LINES))
            return count + (self._name(file) != JOURNAL_NAME and len(reader.take_tail()))
        finally:
            reader.close()

    def _name(self, file: int) -> str:
        path = locate(self._directory, file, live=self._live)
        return file_name(file) if path is None else path.name

    def _fail(self, kind: Kind, message: str, name: str) -> None:
        self.problem = Finding(
            kind=kind,
            severity=Severity.ERROR,
            file=name,
            message=f"{message}. The lines from {self.tree.size:,} on (counted from 0) could not "
            "be compared with their checkpoints",
        )


def _stray(name: str, message: str) -> Finding:
    return Finding(kind=Kind.STRAY_FILE, severity=Severity.ERROR, file=name, message=message)


def _count_lines(file: BinaryIO) -> int:
    count = 0
    while chunk := file.read(1 << 20):
        count += chunk.count(b"\n")
    return count
