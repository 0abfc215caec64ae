"""The files of a journal, opened for reading while they are renamed, compressed and removed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from io import BufferedReader
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.reader import lines_of, open_journal, scan
from klaviyo_audit.journal.rotation import is_final
from klaviyo_audit.journal.segments import (
    COMPRESSED,
    being_rotated,
    decompressed,
    file_number,
    locate,
    open_raw,
    reading,
    rotated_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.journal.segments import Segment

_BUFFER_BYTES: Final = 1 << 18


class Contents:
    """One file of the journal, open, whatever it is called meanwhile.

    Args:
        path: Where it was found.
        raw: It, open.
        number: Its number in the journal; None for a live file of which nothing is sealed yet, and
            for a file that is looked at alone.

    Raises:
        ConfigurationError: It is compressed in a way this installation cannot read.
    """

    def __init__(self, path: Path, raw: BinaryIO, number: int | None) -> None:
        self.path = path
        self.number = number
        self._raw = raw
        self._closing = ExitStack()
        self._closing.enter_context(raw)
        self.is_packed = path.suffix in COMPRESSED.values()
        content = raw
        if self.is_packed:
            try:
                inner = self._closing.enter_context(decompressed(raw, path.suffix))
            except BaseException:
                raw.close()
                raise
            # Reading lines of it straight away would be a Python call each.
            content = BufferedReader(cast("BufferedReader", inner), _BUFFER_BYTES)
        self.file = content
        """What it holds, uncompressed."""
        facts = os.fstat(raw.fileno())
        self.identity = (facts.st_dev, facts.st_ino)
        """Device and inode."""
        self.is_live = path.name == JOURNAL_NAME

    def size(self) -> int:
        """Its size on the disk now, in bytes."""
        return os.fstat(self._raw.fileno()).st_size

    def position(self) -> int:
        """How much of that was read."""
        return self._raw.tell()

    def close(self) -> None:
        """Close it."""
        self._closing.close()


def numbers(directory: Path, segments: Sequence[Segment], removed: int) -> list[int]:
    """Numbers of the journal's files that should be there or are, the oldest first.

    Args:
        directory: The journal's folder.
        segments: Which file has which lines.
        removed: How many lines retention has removed.
    """
    kept = {segment.file for segment in segments if segment.index >= removed}
    gone = {segment.file for segment in segments} - kept
    return sorted(kept | (rotated_files(directory).keys() | being_rotated(directory).keys()) - gone)


def open_numbered(directory: Path, number: int, *, last: int | None) -> Contents:
    """Open a file by its number.

    Args:
        directory: The journal's folder.
        number: The file's number.
        last: The last number in ``segments``, which the live file has if it has one.

    Raises:
        JournalCorrupt: There is no such file.
        OSError: It cannot be opened.
        ConfigurationError: As for `Contents`.
    """
    raw, path = open_raw(directory, number, live=last)
    return Contents(path, raw, number)


def open_unnumbered(directory: Path, *, last: int | None) -> Contents | None:
    """Open the live file if nothing of it is sealed yet; None where there is no such file.

    Raises:
        OSError: It cannot be opened.
    """
    live = directory / JOURNAL_NAME
    if last is not None and locate(directory, last, live=last) == live:
        return None
    try:
        return Contents(live, open_journal(live), None)
    except FileNotFoundError:
        return None


def read_file(path: Path) -> Iterator[Line]:
    """Read the lines of one file of the journal, compressed or not; see `reader.read`.

    Raises:
        OSError: It cannot be read.
        JournalCorrupt: It is compressed, and damaged.
        ConfigurationError: As for `Contents`.
    """
    number = file_number(path.name)
    if number is None:
        contents = Contents(path, open_journal(path), None)
    else:
        # It may have been compressed since somebody saw it.
        contents = open_numbered(path.parent, number, last=None)
    try:
        with reading(path.parent, number or 0):
            # What stands behind the last newline of a file without writers stays as it is.
            final = number is not None and not may_grow(contents)
            for item in scan(contents.file, final=final):
                yield from lines_of(item)
    finally:
        contents.close()


def may_grow(contents: Contents) -> bool:
    """Whether a file has writers, or may get some."""
    if contents.is_packed:
        return False
    try:
        return contents.is_live or not is_final(contents.path)
    except FileNotFoundError:
        return True  # renamed just now
    except OSError:
        return False  # a file system without locks
