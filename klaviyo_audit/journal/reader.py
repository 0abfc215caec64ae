"""Reading a journal line by line, whatever happened to its file."""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from klaviyo_audit.journal.format import SUM_DIGITS, SUM_MEMBER
from klaviyo_audit.journal.line import MAX_LINE_BYTES, Line, decoded, is_intact, pieces
from klaviyo_audit.journal.merkle import LEAF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_BUFFER_BYTES: Final = 1 << 18
_PORTION_BYTES: Final = 1 << 16
"""What one read of a line takes at most: garbage without line ends must not fill the memory."""
_RUN_LINES: Final = 256
_TAIL: Final = len(SUM_MEMBER) + SUM_DIGITS + len(b'"}\n')


@dataclass(frozen=True, slots=True)
class Run:
    """Lines that stand one after the other in the file, and whose checksums hold."""

    number: int
    """Number of the first line."""
    offset: int
    """Byte of the file at which the first one starts."""
    lines: list[bytes]
    """With their newlines. Whether they hold an entry has not been looked at."""
    end: int
    """The byte after the last line."""

    @classmethod
    def at(cls, number: int, offset: int, lines: list[bytes]) -> Self:
        """The run of these lines, which begins there."""
        return cls(number, offset, lines, offset + sum(map(len, lines)))

    def place(self, index: int) -> tuple[int, int]:
        """Number and offset of one of the lines."""
        return self.number + index, self.offset + sum(map(len, self.lines[:index]))


@dataclass(frozen=True, slots=True)
class Damage:
    """One line of the file that is not one entry as it was written."""

    number: int
    offset: int
    end: int
    """The byte after it, its newline included."""
    pieces: tuple[Line, ...]
    """What it consists of, in order. The last can be an entry without a problem."""
    leaf: bytes
    """`klaviyo_audit.journal.merkle.leaf_hash` of the line."""
    ended: bool
    """It has a newline."""


def read(path: Path, *, offset: int = 0, number: int = 1, final: bool = False) -> Iterator[Line]:
    """Read the lines of a journal file that are there now.

    Args:
        path: The file.
        offset: Byte to start at: where a line starts.
        number: What number that line has.
        final: Nobody writes to the file any more: also give a last line without a newline.
            Otherwise it is taken to be in the act of being written, and left for the next time.

    Yields:
        Every entry, and every piece that is none, in the file's order; nothing is passed over.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    with open_journal(path) as file:
        for item in scan(file, offset=offset, number=number, final=final):
            yield from lines_of(item)


def open_journal(path: Path) -> BinaryIO:
    """Open a journal file for reading, never through a symbolic link.

    Raises:
        OSError: It cannot be opened, or it is not a regular file.
    """
    # Without O_NONBLOCK, opening a FIFO that somebody put there would never return.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link, which a journal never is")
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=_BUFFER_BYTES)


def scan(
    file: BinaryIO, *, offset: int = 0, number: int = 1, final: bool = False
) -> Iterator[Run | Damage]:
    """Read an open journal file in runs of intact lines, as fast as checksums allow.

    Args:
        file: As `open_journal` gives it.
        offset: As for `read`.
        number: As for `read`.
        final: As for `read`.
    """
    file.seek(offset)
    # readline gets lines at 0.2 us each; splitting chunks at newlines took 0.5.
    portions = iter(partial(file.readline, _PORTION_BYTES), b"")
    while batch := list(islice(portions, _RUN_LINES)):
        items: Iterable[Run | Damage]
        if _checksums_hold(batch):
            items = [Run.at(number, offset, batch)]
        else:
            items = _sorted_out(_joined(batch, portions), number, offset, final=final)
        for item in items:
            yield item
            number += len(item.lines) if isinstance(item, Run) else 1
            offset = item.end


def _sorted_out(
    lines: Iterable[tuple[bytes, int, bytes]], number: int, offset: int, *, final: bool
) -> Iterator[Run | Damage]:
    """Runs of intact lines, and the damaged lines between them."""
    good: list[bytes] = []
    for line, left_out, leaf in lines:
        ended = line.endswith(b"\n")
        if ended and not left_out and is_intact(line[:-1]):
            good.append(line)
            continue
        if good:
            run = Run.at(number, offset, good)
            yield run
            number, offset, good = number + len(good), run.end, []
        if ended or final:
            end = offset + left_out + len(line)
            found = tuple(pieces(line, number, offset, left_out))
            yield Damage(number, offset, end, found, leaf, ended)
            number, offset = number + 1, end
    if good:
        yield Run.at(number, offset, good)


def lines_of(item: Run | Damage) -> Iterator[Line]:
    """The lines of one part of a journal, decoded."""
    if isinstance(item, Damage):
        yield from item.pieces
        return
    offset = item.offset
    for number, line in enumerate(item.lines, item.number):
        yield decoded(number, offset, line[:-1])
        offset += len(line)


def _checksums_hold(lines: Sequence[bytes]) -> bool:
    """Whether all the lines (with newlines) carry their checksum: one comparison for all."""
    digests = b"".join([sha256(line[:-_TAIL]).digest() for line in lines])
    sums = memoryview(digests).cast("Q")[::4].tobytes().hex("|", 8)
    tails = f',"sum":"{sums}"}}\n'.replace("|", '"}\n,"sum":"')
    return tails.encode() == b"".join([line[-_TAIL:] for line in lines])


def _joined(
    batch: Sequence[bytes], portions: Iterable[bytes]
) -> Iterator[tuple[bytes, int, bytes]]:
    """Lines of the file from portions of them: how much of a front was left out, and leaf hashes.

    What is missing of the batch's last line is taken from further portions.
    """
    parts: deque[bytes] = deque()
    size = left_out = 0
    leaf = sha256(LEAF)
    for index, portion in enumerate(chain(batch, portions), 1):
        parts.append(portion)
        size += len(portion)
        ended = portion.endswith(b"\n")
        leaf.update(portion[:-1] if ended else portion)
        while size > MAX_LINE_BYTES:
            gone = len(parts.popleft())
            left_out += gone
            size -= gone
        if ended:
            yield b"".join(parts), left_out, leaf.digest()
            parts.clear()
            size = left_out = 0
            leaf = sha256(LEAF)
            if index >= len(batch):
                return
    if parts:
        yield b"".join(parts), left_out, leaf.digest()


def hashes_of(
    file: BinaryIO, offset: int, count: int, *, final: bool = False
) -> Iterator[list[tuple[bytes, int]]]:
    """The leaf hashes of so many lines from a place on, each with its length, and nothing else.

    Args:
        file: As `open_journal` gives it.
        offset: Byte at which a line starts.
        count: How many lines; fewer come where the file has not so many.
        final: What follows the last newline is a line as well.
    """
    file.seek(offset)
    portions = iter(partial(file.readline, _PORTION_BYTES), b"")
    while count > 0 and (batch := list(islice(portions, min(count, _RUN_LINES)))):
        if all(portion.endswith(b"\n") for portion in batch):
            found = [(sha256(LEAF + line[:-1]).digest(), len(line)) for line in batch]
        else:
            lines = _joined(batch, portions)
            found = [
                (leaf, left_out + len(line))
                for line, left_out, leaf in lines
                if final or line.endswith(b"\n")
            ]
            if not found:
                return
        yield found
        count -= len(found)


def past_lines(file: BinaryIO, offset: int, count: int, *, final: bool) -> tuple[int, int]:
    """Where the line after so many others begins, and how many of those are not there.

    Args:
        file: As `open_journal` gives it.
        offset: Byte at which a line starts.
        count: How many lines to go past, without looking at them.
        final: What follows the last newline is a line as well.
    """
    file.seek(offset)
    ended = True
    while count and (chunk := file.read(_BUFFER_BYTES)):
        newlines, end = chunk.count(b"\n"), len(chunk)
        if newlines >= count:
            end = 0
            for _ in range(count):
                end = chunk.index(b"\n", end) + 1
        offset += end
        count -= min(newlines, count)
        ended = chunk.endswith(b"\n")
    return offset, count - (final and count > 0 and not ended)
