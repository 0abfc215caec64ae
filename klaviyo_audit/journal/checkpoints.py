"""Finding a checkpoint in the file of signed checkpoints beside the journal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO, Final

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint, StoredNote, last_note, read_notes
from klaviyo_audit.journal.lease import CHECKPOINTS_NAME
from klaviyo_audit.journal.note import parse_note
from klaviyo_audit.journal.reader import open_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NEAR_BYTES: Final = 16384


def last_checkpoint(directory: Path) -> bytes | None:
    """The journal's last checkpoint, verbatim and not verified; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with open_journal(directory / CHECKPOINTS_NAME) as file:
            stored = last_note(file)
    except FileNotFoundError:
        return None
    return stored.note if stored else None


def checkpoint_of_size(directory: Path, size: int) -> bytes | None:
    """The journal's checkpoint over that many lines, verbatim and not verified, if there is one.

    Raises:
        OSError: The file cannot be read.
    """
    stored = _of_size(directory, size)
    return stored.note if stored else None


def offset_of_size(directory: Path, size: int) -> int | None:
    """Where in its file the checkpoint over that many lines begins, if there is one.

    Raises:
        OSError: The file cannot be read.
    """
    stored = _of_size(directory, size)
    return stored.offset if stored else None


def _of_size(directory: Path, size: int) -> StoredNote | None:
    """The checkpoint over that many lines.

    A log's checkpoints only grow, so their file (some 20 MB a busy day) is searched by halves.
    """
    try:
        with open_journal(directory / CHECKPOINTS_NAME) as file:
            low, high = 0, file.seek(0, 2)
            while high - low > _NEAR_BYTES:
                middle = (low + high) // 2
                found = next(_notes_after(file, middle), None)
                if found is not None and found[0].offset < high and found[1] < size:
                    low = middle
                else:
                    high = middle
            for stored, covered in _notes_after(file, low):
                if covered >= size:
                    return stored if covered == size else None
    except FileNotFoundError:
        pass
    return None


def sealed_size(directory: Path) -> int:
    """How many leaves the last checkpoint covers (0: there is none); no signature is checked.

    Raises:
        JournalCorrupt: The last note is no checkpoint.
        OSError: The file cannot be read.
    """
    note = last_checkpoint(directory)
    return 0 if note is None else _size(note)


def _notes_after(file: BinaryIO, offset: int) -> Iterator[tuple[StoredNote, int]]:
    """The whole notes after a place that are checkpoints, with the sizes they are about."""
    notes = (stored for stored in read_notes(file, offset) if stored.note is not None)
    if offset:
        next(notes, None)  # the rest of a note can look like a whole one
    for stored in notes:
        assert stored.note is not None
        with contextlib.suppress(JournalCorrupt):
            yield stored, _size(stored.note)


def _size(note: bytes) -> int:
    return Checkpoint.from_text(parse_note(note).text).size
