"""What a sealer says when a journal is not what was sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.segments import file_name

if TYPE_CHECKING:
    from pathlib import Path

_UNTIL = "nothing more is sealed until they are put back, or a new journal is started elsewhere"


def cut(directory: Path, size: int, file: int | None) -> JournalCorrupt:
    """Lines that were read of a file are not there any more.

    Args:
        directory: The journal's folder.
        size: Lines that were found up to there.
        file: The file's number; None: no file is said to have the lines.
    """
    why = "no file is said to have more" if file is None else f"{_name(file)} was cut"
    return JournalCorrupt(
        f"lines that were sealed are missing in {directory}, after the first {size} or earlier: "
        f"{why}; {_UNTIL}"
    )


def changed(directory: Path, size: int) -> JournalCorrupt:
    """The first `size` lines are others than those that were signed."""
    return JournalCorrupt(
        f"the first {size} lines in {directory} are not those that were sealed: some were changed, "
        f"removed or put in (`klaviyo-audit verify` tells more); {_UNTIL}"
    )


def out_of_step(directory: Path, size: int, mark: int) -> JournalCorrupt:
    """A segment or checkpoint at `mark` lines comes after `size` lines already."""
    return JournalCorrupt(
        f"{directory}: after {size} sealed lines there is a place where there should be {mark}: "
        "checkpoints, segments and removed do not go together; restore them from one backup"
    )


def replaced(directory: Path, file: int) -> JournalCorrupt:
    """The live file is not the one whose sealing has begun as number `file`."""
    return JournalCorrupt(
        f"{directory / JOURNAL_NAME} is not the file that was sealed as number {file}: another "
        "program has renamed, replaced or deleted it; if it still exists, rename it to "
        f"{file_name(file)}, and switch off what did it (this journal rotates itself)"
    )


def missing(directory: Path, file: int) -> JournalCorrupt:
    """A rotated file that may have more lines is gone."""
    return JournalCorrupt(
        f"{directory / file_name(file)} is missing, and not all of it was sealed; put it back, "
        "from a backup if need be"
    )


def _name(file: int) -> str:
    return f"{file_name(file)} (or the live file that it still is)"
