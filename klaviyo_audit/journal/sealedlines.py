"""Putting the lines of a journal, read file by file, into the order in which they were sealed."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.merkle import HASH_BYTES, MAX_SIZE
from klaviyo_audit.journal.segments import spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from klaviyo_audit.journal.segments import Segment, Span

    class Grow(Protocol):
        """Takes the next leaves of the tree."""

        def __call__(
            self, hashes: Sequence[bytes], file: int, place: Callable[[int], tuple[int, int]]
        ) -> None:
            """Take leaves of a file, and what gives line number and offset of each."""


_BATCH: Final = 4096


@dataclass(slots=True)
class _Part:
    """A span of the tree, as far as its lines have been read."""

    span: Span
    taken: int = 0
    first: int = 1
    """Number of its first line in the file."""
    kept: bytearray = field(default_factory=bytearray)
    """Hashes of leaves that came before their turn."""


@dataclass(slots=True)
class FileFacts:
    """What was found out about the leaves of one file."""

    beyond: int = 0
    """Lines after those that were sealed."""
    misplaced: bool = False
    """A stretch of it does not begin at the byte where ``segments`` says so."""


class SealedLines:
    """Takes each file's lines in their order, and gives all lines on in the tree's order.

    After late lines the stretches of two files interleave in the tree. Hashes of those that come
    before their turn are kept until then.

    Args:
        segments: Which file has which lines.
        removed: How many leaves are not there any more.
        grow: Gets the leaves in the tree's order.
        start: First leaf that is taken; those before are passed over.
    """

    def __init__(
        self, segments: Sequence[Segment], removed: int, grow: Grow, *, start: int = 0
    ) -> None:
        self._grow = grow
        self._start = max(start, removed)
        self._spans: defaultdict[int, list[Span]] = defaultdict(list)
        self._order: deque[_Part] = deque()
        self._of_file: defaultdict[int, deque[_Part]] = defaultdict(deque)
        for span in spans(segments, removed, MAX_SIZE):
            self._spans[span.file].append(span)
            if span.end > self._start:
                part = _Part(span, taken=max(0, self._start - span.start))
                self._order.append(part)
                self._of_file[span.file].append(part)
        self.files: defaultdict[int, FileFacts] = defaultdict(FileFacts)
        self.size = self._start
        """Leaves given on, with those before the first one."""

    def of(self, file: int, *, is_live: bool) -> FileLeaves:
        """What takes the lines of one file."""
        return FileLeaves(self, file, is_live=is_live)

    def before(self, file: int, size: int) -> int:
        """How many lines a file has among the first `size` leaves, removed ones left out."""
        return sum(max(0, min(span.end, size) - span.start) for span in self._spans[file])

    def passed_over(self, file: int) -> tuple[int, int, int]:
        """The lines of a file to go past before its first leaf that is taken.

        Only the last stretch of them: where that ends the next one has to begin.

        Returns:
            Byte and number of the line at which they begin, and how many there are.
        """
        begun = [span for span in self._spans[file] if span.start < self._start]
        if not begun:
            return 0, 1, 0
        last = begun[-1]
        count = min(last.end, self._start) - last.start
        return last.offset, 1 + self.before(file, last.start), count

    def is_passed_over(self, file: int) -> bool:
        """Whether a file has leaves, and all of them come before the first one that is taken."""
        return bool(self._spans[file]) and self._spans[file][-1].end <= self._start

    @property
    def waiting_for(self) -> int | None:
        """The file that has the next leaf; None where no file is said to have it."""
        return self._order[0].span.file if self._order else None

    def needs(self, file: int) -> bool:
        """Whether further lines of a file are leaves."""
        return bool(self._of_file.get(file))

    def take(
        self, file: int, hashes: Sequence[bytes], place: Callable[[int], tuple[int, int]]
    ) -> None:
        """Take the next lines of a file."""
        parts, done = self._of_file[file], 0
        while done < len(hashes):
            if not parts:
                self.files[file].beyond += len(hashes) - done
                return
            part = parts[0]
            if part.taken == 0:
                part.first, offset = place(done)
                if offset != part.span.offset:
                    # Its leaves are not those that were meant.
                    self.files[file].misplaced = True
                    parts.clear()
                    continue
            count = min(len(hashes) - done, part.span.end - part.span.start - part.taken)
            self._take_part(part, hashes[done : done + count], done, place)
            done += count
            if part.taken == part.span.end - part.span.start:
                parts.popleft()

    def _take_part(
        self,
        part: _Part,
        hashes: Sequence[bytes],
        start: int,
        place: Callable[[int], tuple[int, int]],
    ) -> None:
        part.taken += len(hashes)
        if part is not self._order[0]:
            part.kept += b"".join(hashes)
            return
        self._give(hashes, part.span.file, lambda index: place(start + index))
        while self._order and self.size == self._order[0].span.end:
            self._order.popleft()
            if self._order:
                self._give_kept(self._order[0])

    def _give_kept(self, part: _Part) -> None:
        kept, part.kept = memoryview(bytes(part.kept)), bytearray()
        hashes = [bytes(kept[at : at + HASH_BYTES]) for at in range(0, len(kept), HASH_BYTES)]
        for at in range(0, len(hashes), _BATCH):
            first = part.first + at
            self._give(
                hashes[at : at + _BATCH],
                part.span.file,
                lambda index, first=first: (first + index, -1),  # type: ignore[misc]
            )

    def _give(
        self, hashes: Sequence[bytes], file: int, place: Callable[[int], tuple[int, int]]
    ) -> None:
        self.size += len(hashes)
        self._grow(hashes, file, place)


class FileLeaves:
    """Takes the lines of one file for a `SealedLines`."""

    def __init__(self, lines: SealedLines, file: int, *, is_live: bool) -> None:
        self._lines = lines
        self._file = file
        self._is_live = is_live

    @property
    def is_wanting(self) -> bool:
        """As for `klaviyo_audit.journal.passes.LeafSink`."""
        return self._lines.needs(self._file)

    def take(self, hashes: Sequence[bytes], place: Callable[[int], tuple[int, int]]) -> None:
        """As for `klaviyo_audit.journal.passes.LeafSink`."""
        self._lines.take(self._file, hashes, place)

    def take_tail(self, leaf: bytes, number: int, offset: int) -> None:
        """A rotated file's tail is a leaf; a live one's may be in the act of being written."""
        if not self._is_live:
            self._lines.take(self._file, [leaf], lambda _: (number, offset))

    def count(self, lines: int) -> None:
        """As for `klaviyo_audit.journal.passes.LeafSink`."""
        self._lines.files[self._file].beyond += lines
