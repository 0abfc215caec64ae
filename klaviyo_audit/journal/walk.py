"""A place in the journal's tree, and the files it takes to go on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.lease import SEGMENTS_NAME
from klaviyo_audit.journal.leaves import LeafReader
from klaviyo_audit.journal.segments import file_name, locate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.segments import Segment


class Walk:
    """Follows the segments of a journal from file to file.

    Args:
        directory: The journal's folder.
        segments: Its segments; more may be added.
        followed: How many of them were begun already.
        files: How far (bytes) each file is read that may have more.

    Raises:
        JournalCorrupt: A file is missing.
        OSError: A file cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        segments: Sequence[Segment],
        *,
        followed: int = 0,
        files: Mapping[int, int] | None = None,
    ) -> None:
        self._directory = directory
        self.segments = segments
        self.followed = followed
        self.waiting = dict(files or {})
        """Files that may still grow, but for the present one, and how far they are read."""
        self.reader: LeafReader | None = None
        """Of the present file; None when that is done with, or there was none yet."""
        self.live: LeafReader | None = None
        """Of the live file, once its reading has begun."""
        last = max((segment.file for segment in segments), default=None)
        present = segments[followed - 1].file if followed else None
        try:
            if last is not None and self.path(last) == directory / JOURNAL_NAME:
                # Also when it is not the present one: an open file keeps its inode's number.
                self._open(last, self.waiting.setdefault(last, 0))
            if present in self.waiting:
                self._enter(present, self.waiting[present])
        except BaseException:
            self.close()
            raise

    def path(self, file: int) -> Path | None:
        """Where a file is at the moment."""
        last = max(segment.file for segment in self.segments)
        return locate(self._directory, file, live=last)

    def next_segment(self) -> Segment | None:
        """The next segment that was recorded, if there is one."""
        return self.segments[self.followed] if self.followed < len(self.segments) else None

    def follow(self) -> None:
        """Go on with the next segment.

        Raises:
            JournalCorrupt: Its file is missing, or it does not begin where that file was left.
            OSError: Its file cannot be opened.
        """
        segment = self.segments[self.followed]
        self.leave()
        if self.waiting.get(segment.file, 0) != segment.offset:
            raise JournalCorrupt(
                f"{self._directory / SEGMENTS_NAME} leaves bytes of {file_name(segment.file)} out, "
                f"or has them twice, before its byte {segment.offset}; restore it from a backup"
            )
        later = self.segments[self.followed + 1 : self.followed + 2]
        if later and later[0].index == segment.index:
            # Nothing was read of it: its file may be one that retention has removed since.
            self.waiting[segment.file] = segment.offset
        else:
            self._enter(segment.file, segment.offset)
        self.followed += 1

    def leave(self) -> None:
        """Let the present file wait."""
        if self.reader:
            self.waiting[self.reader.file] = self.reader.offset
            self.finish()

    def finish(self) -> None:
        """Be done with the present file."""
        if self.reader and self.reader is not self.live:
            self.reader.close()
        self.reader = None

    def set_aside(self) -> None:
        """The live file was rotated."""
        if self.live and self.live is not self.reader:
            self.live.close()
        self.live = None

    def close(self) -> None:
        """Close all files."""
        for reader in (self.reader, self.live):
            if reader:
                reader.close()

    def _enter(self, file: int, offset: int) -> None:
        if self.live and self.live.file == file:
            self.reader = self.live
        else:
            self.reader = self._open(file, offset)
        self.waiting.pop(file, None)

    def _open(self, file: int, offset: int) -> LeafReader:
        last = max(segment.file for segment in self.segments)
        reader = LeafReader(self._directory, file, live=last, offset=offset)
        if self.path(file) == self._directory / JOURNAL_NAME:
            self.live = reader
        return reader
