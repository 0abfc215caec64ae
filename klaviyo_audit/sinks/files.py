"""Which files the journal consists of at the moment, under whatever name they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.rotation import identity_of
from klaviyo_audit.journal.segments import being_rotated, locate, read_segments, rotated_files

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.journal.segments import Segment


@dataclass(frozen=True, slots=True)
class JournalFile:
    """One file of the journal."""

    path: Path
    number: int | None
    """The tree index of its first line; None for the live file."""

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode; None if it has no longer this name."""
        return identity_of(self.path)


def journal_files(directory: Path) -> list[JournalFile]:
    """The files of a journal, oldest first, the live one last.

    Raises:
        OSError: The folder cannot be read.
    """
    if not directory.is_dir():
        return []
    rotated = being_rotated(directory) | rotated_files(directory)
    files = [JournalFile(path, number) for number, path in sorted(rotated.items())]
    live = directory / JOURNAL_NAME
    return [*files, JournalFile(live, None)] if live.exists() else files


def find_identity(directory: Path, identity: tuple[int, int]) -> Path | None:
    """The file with a device and inode, also if somebody has given it a name of their own."""
    for path in directory.iterdir():
        if identity_of(path) == identity:
            return path
    return None


def live_number(directory: Path) -> int | None:
    """The number that the live file has, or will have when it is rotated; None: not known yet."""
    segments = read_segments(directory)
    last = max((segment.file for segment in segments), default=None)
    if last is None or locate(directory, last, live=last) != directory / JOURNAL_NAME:
        return None
    return last


def tree_index(segments: list[Segment], file: int | None, lines: int) -> int | None:
    """The index in the journal's tree of the line that so many lines of a file come before.

    None if no line of the file from there on is known to be sealed. The last stretch of the file
    is taken to go on.
    """
    for number, segment in enumerate(segments):
        if segment.file != file:
            continue
        end = segments[number + 1].index if number + 1 < len(segments) else None
        if end is None or lines < end - segment.index:
            return segment.index + lines
        lines -= end - segment.index
    return None
