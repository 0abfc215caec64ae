"""Finding the place in the journal that a bookmark is about, whatever became of the files."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.format import SUM_DIGITS
from klaviyo_audit.journal.reader import open_journal, scan
from klaviyo_audit.journal.segments import decompressed, reading
from klaviyo_audit.sinks.bookmark import Place
from klaviyo_audit.sinks.cursor import Cursor, physical_lines
from klaviyo_audit.sinks.files import JournalFile, find_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_CHUNK_BYTES: Final = 1 << 20
_SUM: Final = slice(-SUM_DIGITS - 2, -2)
"""Where the checksum's digits are in a line without its newline."""


def open_place(directory: Path, place: Place, files: Sequence[JournalFile]) -> Cursor | None:
    """Open the file that a place is about, there; None if no file holds what was read there.

    Args:
        directory: The journal's folder.
        place: The place.
        files: The journal's files.

    Raises:
        OSError: A file cannot be read.
        JournalCorrupt: A compressed file is damaged.
    """
    identity = (place.device, place.inode)
    candidates = [file for file in files if place.file is not None and file.number == place.file]
    candidates += [file for file in files if file.identity == identity]
    renamed = find_identity(directory, identity)
    if renamed is not None:
        candidates.append(JournalFile(renamed, None))
    if place.sum:
        # Compressed, or put back from a backup.
        candidates += reversed(files)
    for file in candidates:
        if (cursor := open_fitting(file, place)) is not None:
            return cursor
    return None


def open_fitting(file: JournalFile, place: Place) -> Cursor | None:
    """Open a file at a place, if it holds there what was read; else None.

    Raises:
        OSError: It cannot be read.
        JournalCorrupt: It is compressed and damaged.
    """
    number = place.file if file.number is None else file.number
    try:
        cursor = Cursor(file.path, replace(place, file=number))
    except FileNotFoundError:
        return None
    try:
        with reading(file.path.parent, number or 0):
            if cursor.fits():
                return cursor
    except BaseException:
        cursor.close()
        raise
    cursor.close()
    return None


def find_last(
    files: Sequence[JournalFile], marks: Sequence[str]
) -> tuple[JournalFile, Place] | None:
    """Find the line that was delivered last among those that are still there.

    Args:
        files: The journal's files, oldest first.
        marks: The `sum` of lines that were delivered, the latest last.

    Returns:
        The newest file that has one of them, and the place after the latest of those.

    Raises:
        OSError: A file cannot be read.
        JournalCorrupt: A compressed file is damaged.
    """
    ranks = {mark.encode(): rank for rank, mark in enumerate(marks)}
    for file in reversed(files) if ranks else ():
        try:
            place = _latest(file, ranks)
        except FileNotFoundError:
            continue
        if place is not None:
            return file, place
    return None


def holds_line(file: JournalFile, mark: str) -> bool:
    """Whether a file has the line with a `sum`; much quicker than reading its lines.

    Raises:
        OSError: It cannot be read.
        JournalCorrupt: It is compressed and damaged.
    """
    wanted, before = b'"sum":"%s"}' % mark.encode(), b""
    with (
        open_journal(file.path) as opened,
        decompressed(opened, file.path.suffix) as content,
        reading(file.path.parent, file.number or 0),
    ):
        while data := content.read(_CHUNK_BYTES):
            if wanted in before + data:
                return True
            before = data[-len(wanted) :]
    return False


def find_late(
    files: Sequence[JournalFile], number: int | None, marks: Sequence[str]
) -> Cursor | None:
    """Open the file before another one, where there may be late lines that were not delivered.

    A writer may add to a file that was set aside while the next one is delivered already. Only a
    bookmark knows how far both were read, so without one the end of that file is taken once more.

    Args:
        files: The journal's files, oldest first.
        number: The number of the other file; None: it is the live one.
        marks: As for `find_last`.

    Returns:
        The file before, after its last line that is known to have been delivered, or at its
        beginning if none is. None if there is no such file.

    Raises:
        OSError: It cannot be read.
        JournalCorrupt: It is compressed and damaged.
    """
    earlier = [f for f in files if f.number is not None and (number is None or f.number < number)]
    if not earlier:
        return None
    ranks = {mark.encode(): rank for rank, mark in enumerate(marks)}
    return Cursor(earlier[-1].path, _latest(earlier[-1], ranks) or Place(earlier[-1].number, 0, 0))


def _latest(file: JournalFile, ranks: Mapping[bytes, int]) -> Place | None:
    best, found = -1, None
    with (
        open_journal(file.path) as opened,
        decompressed(opened, file.path.suffix) as content,
        reading(file.path.parent, file.number or 0),
    ):
        facts = os.fstat(opened.fileno())
        for item in scan(content):
            for lines, end in physical_lines(item):
                mark = lines[-1].raw[_SUM]
                rank = ranks.get(mark, -1)
                if rank > best and lines[-1].members:
                    best, last = rank, lines[-1]
                    found = Place(
                        file.number,
                        facts.st_dev,
                        facts.st_ino,
                        end,
                        last.number,
                        last.offset + len(last.raw),
                        len(last.raw),
                        mark.decode(),
                    )
    return found
