"""Reading the leaves of the journal's tree: its physical lines, in the order they were sealed."""

from __future__ import annotations

import contextlib
import os
from hashlib import sha256
from io import BufferedReader
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoints import sealed_size
from klaviyo_audit.journal.merkle import LEAF, leaf_hash
from klaviyo_audit.journal.reader import hashes_of
from klaviyo_audit.journal.removals import read_removed
from klaviyo_audit.journal.segments import (
    file_name,
    open_file,
    read_segments,
    reading,
    spans,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

_CHUNK_BYTES: Final = 1 << 17


def leaves(directory: Path, *, end: int | None = None) -> Iterator[bytes]:
    """The sealed lines of a journal that are still there, in tree order, without newlines.

    Reads while the journal is written to, sealed, rotated and compressed.

    Args:
        directory: The journal's folder.
        end: Leaf to stop before; not given: what the last checkpoint covers, whose signature is
            not looked at.

    Yields:
        The leaves from the first one that retention has left: number `read_removed` (its size).

    Raises:
        JournalCorrupt: A file is missing, or has fewer lines than were sealed.
        OSError: A file cannot be read.
    """
    end = sealed_size(directory) if end is None else end
    yield from _taken(directory, end, _lines)


def leaf_hashes(directory: Path, *, end: int) -> Iterator[bytes]:
    """The hashes of what `leaves` gives, in little memory however long a line is.

    Args:
        directory: The journal's folder.
        end: Leaf to stop before.

    Raises:
        As for `leaves`.
    """
    return _taken(directory, end, _hashes)


def _lines(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    file.seek(offset)
    return (line.removesuffix(b"\n") for line in islice(file, count))


def _hashes(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    for found in hashes_of(file, offset, count, final=True):
        yield from (leaf for leaf, _ in found)


def _taken(
    directory: Path, end: int, take: Callable[[BinaryIO, int, int], Iterator[bytes]]
) -> Iterator[bytes]:
    """What `take` gives of each stretch of leaves: a file, a place in it, and how many."""
    segments = read_segments(directory)
    live = max((segment.file for segment in segments), default=None)
    done = read_removed(directory).size
    for span in spans(segments, done, end):
        with open_file(directory, span.file, live=live) as file, reading(directory, span.file):
            for item in take(file, span.offset, span.end - span.start):
                yield item
                done += 1
        if done != span.end:
            raise JournalCorrupt(
                f"line {done} of the journal is missing: the file {file_name(span.file)} (or the "
                f"live one it still is) has fewer lines than were sealed"
            )
    if done < end:
        raise JournalCorrupt(
            f"line {done} of the journal is missing: no file is said to have it, though {end} "
            "lines were sealed; the file segments was cut"
        )


class LeafReader:
    """Reads one file as leaf hashes, a few at a time, while it grows.

    Lines are hashed as they come in, so that garbage without line ends takes no memory.

    Args:
        directory: The journal's folder.
        file: Number of the file.
        live: As for `klaviyo_audit.journal.segments.locate`.
        offset: Byte at which to start: the start of a line.

    Raises:
        JournalCorrupt: There is no such file.
        OSError: It cannot be read.
    """

    def __init__(self, directory: Path, file: int, *, live: int | None, offset: int) -> None:
        self.file = file
        """Number of the file."""
        self.offset = offset
        """Start of the first line that was not taken yet, in bytes."""
        self.at_end = False
        """The last `take` found nothing more in the file."""
        self._directory = directory
        self._closing = contextlib.ExitStack()
        self._source: BinaryIO = self._closing.enter_context(open_file(directory, file, live=live))
        with reading(directory, file):
            self._source.seek(offset)
        self.is_plain = isinstance(self._source, BufferedReader)
        """The file is not compressed."""
        self._read = offset
        self._hashes: list[bytes] = []
        self._ends: list[int] = []
        self._tail = sha256(LEAF)
        self._tail_bytes = 0

    def fileno(self) -> int:
        """Descriptor of the file, which may be compressed."""
        return self._source.fileno()

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file."""
        facts = os.fstat(self.fileno())
        return facts.st_dev, facts.st_ino

    def was_cut(self) -> bool:
        """Whether the file is now shorter than what was read of it."""
        return self.is_plain and os.fstat(self.fileno()).st_size < self._read

    def take(self, most: int) -> list[bytes]:
        """Hashes of the next complete lines, at most `most`; possibly none."""
        self.at_end = not self._hashes and not self._fill()
        hashes, self._hashes = self._hashes[:most], self._hashes[most:]
        if hashes:
            self.offset = self._ends[len(hashes) - 1]
            self._ends = self._ends[most:]
        return hashes

    def take_tail(self) -> list[bytes]:
        """What follows the last newline, as a leaf, at the end of a file nobody writes to."""
        if not self._tail_bytes:
            return []
        self.offset += self._tail_bytes
        self._tail_bytes = 0
        return [self._tail.digest()]

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def _fill(self) -> bool:
        with reading(self._directory, self.file):
            data = self._source.read(_CHUNK_BYTES)
        if not data:
            return False
        self._read += len(data)
        first, *rest = data.split(b"\n")
        self._tail.update(first)
        self._tail_bytes += len(first)
        if rest:
            *whole, tail = rest
            lengths = [self._tail_bytes, *map(len, whole)]
            self._hashes = [self._tail.digest(), *map(leaf_hash, whole)]
            # The front of the first line may have been read before.
            self._ends = [
                end + number for number, end in enumerate(accumulate(lengths, initial=self.offset))
            ][1:]
            self._tail = sha256(LEAF + tail)
            self._tail_bytes = len(tail)
        return True
