"""The lines of a journal that a sink has not got yet, across rotated files."""

from __future__ import annotations

import os
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.rotation import identity_of
from klaviyo_audit.journal.segments import decompressed, file_name, reading
from klaviyo_audit.sinks.bookmark import Bookmark, Place, Reached
from klaviyo_audit.sinks.cursor import Cursor, count_lines
from klaviyo_audit.sinks.files import JournalFile, journal_files
from klaviyo_audit.sinks.resume import (
    find_last,
    find_late,
    holds_line,
    open_fitting,
    open_place,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.line import Line

_GRACE_SECONDS: Final = 0.5
"""How long writers may take to leave a file that was set aside; they look every 0.25 s."""
_LOOK_SECONDS: Final = 0.2
"""How often is looked for other files once there is nothing more in the present one."""
_LATE_SECONDS: Final = 0.5
"""How often is looked for late lines in files that were set aside."""


class Backlog:
    """Reads a journal on from a bookmark.

    Args:
        directory: The journal's folder; it need not be there yet.
        bookmark: Where to go on; None to begin with the first line there is.
        marks: Gives the `sum` of entries that were delivered earlier, the latest last: the place
            is looked for by them if the bookmark does not fit the journal.
        search: Look for the place by them at once: the bookmark was lost.
        patient: Give writers time to leave a file that was set aside, before going on with the
            next one.
        tell: Called with a sentence about whatever is not as it should be.

    Raises:
        OSError: The journal cannot be read.
        JournalCorrupt: A compressed file is damaged.
    """

    def __init__(
        self,
        directory: Path,
        bookmark: Bookmark | None,
        *,
        marks: Callable[[], Sequence[str]] = tuple,
        search: bool = False,
        patient: bool = True,
        tell: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._tell = tell
        self._marks = marks
        self._grace = _GRACE_SECONDS if patient else 0.0
        self._before: tuple[Reached | None, Cursor]
        self._look_at = self._late_at = 0.0
        self._aside_at: float | None = None
        self._present: Cursor | None = None
        self._waiting: list[Cursor] = []
        self._start = bookmark or Bookmark()
        self._done = self._start.done
        self._last = self._start.last
        try:
            if search:
                self._search(self._start)
                self._wait_for_late()
            else:
                self._resume(self._start)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def at_end(directory: Path) -> Bookmark:
        """A bookmark after everything that is in a journal now.

        Raises:
            OSError: The journal cannot be read.
        """
        if not directory.is_dir():
            return Bookmark()
        files = journal_files(directory)
        done = max((file.number for file in files if file.number is not None), default=-1)
        if not files or files[-1].number is not None:
            return Bookmark(done=done)
        with open_journal(files[-1].path) as file:
            facts = os.fstat(file.fileno())
            return Bookmark(
                present=Place(None, facts.st_dev, facts.st_ino, facts.st_size), done=done
            )

    def close(self) -> None:
        """Close all files."""
        for cursor in (self._present, *self._waiting):
            if cursor:
                cursor.close()
        self._present, self._waiting = None, []

    def bookmark(self, counts: Bookmark) -> Bookmark:
        """A bookmark after everything that was taken, with the counts of another one."""
        return replace(
            counts,
            # One of which nothing was taken is found again by the files that are done with; its
            # inode alone could by then be another file's.
            present=self._present.place if self._present and self._present.place.offset else None,
            waiting=tuple(cursor.place for cursor in self._waiting),
            done=self._done,
            last=self._last,
        )

    def take(self) -> tuple[Line, ...]:
        """The next line: its entry, or the pieces of one that is damaged.

        Returns:
            Nothing when all lines were taken that are there.

        Raises:
            OSError: The journal cannot be read.
            JournalCorrupt: A compressed file is damaged.
        """
        while True:
            if self._present is not None and (lines := self._take_from(self._present)):
                return lines
            now = monotonic()
            if self._waiting and now >= self._late_at:
                if lines := self._take_late():
                    return lines
                self._late_at = now + _LATE_SECONDS
            if now < self._look_at:
                return ()
            if not self._look():
                self._look_at = now + _LOOK_SECONDS
                return ()

    def count_rest(self) -> int:
        """How many lines are left to take; much quicker than taking them. To be asked last.

        Raises:
            OSError: The journal cannot be read.
            JournalCorrupt: A compressed file is damaged.
        """
        cursors = [*self._waiting, *([self._present] if self._present else [])]
        present = self._present
        count = sum(cursor.count_rest() for cursor in cursors)
        known = {cursor.identity for cursor in cursors}
        self._present = None
        if present is not None:
            self._learn_number(present)
            self._done = self._done if present.number is None else max(self._done, present.number)
            present.close()
        for file in self._files():
            if file.identity in known or (file.number is not None and file.number <= self._done):
                continue
            with (
                open_journal(file.path) as opened,
                decompressed(opened, file.path.suffix) as content,
                reading(self._directory, file.number or 0),
            ):
                count += count_lines(content.read)
        return count

    def put_back(self) -> None:
        """Undo the last `take`, which gave something; once."""
        self._last, cursor = self._before
        cursor.put_back()

    def look_again(self) -> None:
        """Have the next `take` look for other files in any case."""
        self._look_at = self._late_at = 0.0

    def _take_from(self, cursor: Cursor) -> tuple[Line, ...]:
        lines = cursor.take()
        if lines:
            self._before = (self._last, cursor)
        members = next((line.members for line in reversed(lines) if line.members), None)
        if members:
            self._last = Reached(
                members["id"], members["phase"], members["sum"], members["timestamp"]
            )
        return lines

    def _take_late(self) -> tuple[Line, ...]:
        for cursor in list(self._waiting):
            if lines := self._take_from(cursor):
                return lines
            if cursor.is_ended:
                self._waiting.remove(cursor)
                cursor.close()
            elif cursor.end_if_final() and (lines := self._take_from(cursor)):
                return lines
        return ()

    def _look(self) -> bool:
        """See what became of the present file.

        Returns:
            Whether there may be more to take now.
        """
        cursor = self._present
        if cursor is None:
            return self._enter_next()
        if not cursor.fits():
            self._lose_place(cursor)
            return True
        if cursor.is_ended:
            return self._finish(cursor)
        if identity_of(self._directory / JOURNAL_NAME) == cursor.identity:
            self._aside_at = None
            return False
        self._learn_number(cursor)
        if cursor.end_if_final():
            return True  # what was written before its last writer left may not have been taken
        if self._aside_at is None:
            self._aside_at = monotonic()
        if monotonic() - self._aside_at < self._grace:
            return False
        self._waiting.append(cursor)
        return self._leave(cursor)

    def _finish(self, cursor: Cursor) -> bool:
        self._learn_number(cursor)
        try:
            return self._leave(cursor)
        finally:
            cursor.close()

    def _leave(self, cursor: Cursor) -> bool:
        self._present = self._aside_at = None
        if cursor.number is not None:
            self._done = max(self._done, cursor.number)
        elif not cursor.links:
            self._tell("the journal's file was deleted by somebody; what it still held was read")
        return self._enter_next()

    def _learn_number(self, cursor: Cursor) -> None:
        """Which file it is that was the live one."""
        if cursor.number is not None:
            return
        later = [file for file in self._files() if (file.number or 0) > self._done]
        for file in later:
            if file.number is not None and file.identity == cursor.identity:
                cursor.number = file.number
                return
        if cursor.links:
            return
        # It has no name any more: it was compressed, or deleted by somebody.
        for file in later:
            if file.number is not None and (other := open_fitting(file, cursor.place)):
                other.close()
                cursor.number = file.number
                return

    def _files(self) -> list[JournalFile]:
        """The journal's files. Listed twice: names change while a folder is read."""
        before: list[JournalFile] = []
        while (files := journal_files(self._directory)) != before:
            before = files
        return files

    def _enter_next(self) -> bool:
        """Open the file after those that are done with, if there is one."""
        taken = {cursor.identity for cursor in self._waiting}
        for file in self._files():
            if file.number is not None and file.number <= self._done:
                continue
            if file.identity in taken:
                continue
            try:
                cursor = Cursor(file.path, Place(file.number, 0, 0))
            except FileNotFoundError:
                return True  # renamed just now
            if file.number is None and self._was_overtaken(cursor):
                cursor.close()
                return True
            self._present = cursor
            return True
        return False

    def _was_overtaken(self, live: Cursor) -> bool:
        """Whether the live file was rotated before it was opened: then that one comes first."""
        others = []
        for file in self._files():
            if file.number is not None and file.number > self._done:
                if file.identity == live.identity:
                    live.number = file.number
                else:
                    others.append(file.number)
        return bool(others) and (live.number is None or min(others) < live.number)

    def _lose_place(self, cursor: Cursor) -> None:
        self._tell(
            "the journal's file was cut or changed before the place that was read up to; "
            "looking for the last line that is still there"
        )
        bookmark = self.bookmark(self._start)
        cursor.close()
        self._present = None
        self._search(bookmark)

    def _resume(self, bookmark: Bookmark) -> None:
        for place in bookmark.waiting:
            cursor = open_place(self._directory, place, self._files())
            if cursor is None:
                self._tell(
                    f"a file that could still get late lines is gone ({_name(place)}); "
                    "`klaviyo-audit verify` tells whether lines are missing"
                )
            else:
                self._waiting.append(cursor)
        if bookmark.present is not None:
            self._present = open_place(self._directory, bookmark.present, self._files())
            if self._present is None:
                self._tell(
                    f"the bookmark does not match the journal: {_name(bookmark.present)} is gone, "
                    f"was cut or holds something else at byte {bookmark.present.offset}"
                )
                self._search(bookmark)
        elif bookmark.last is not None and not self._has_left(bookmark.done, bookmark.last):
            self._tell(
                "the bookmark does not match the journal: the line it was set after is in none of "
                f"the files up to {file_name(bookmark.done)}"
            )
            self._search(bookmark)

    def _has_left(self, done: int, last: Reached) -> bool:
        """Whether the files that a bookmark has left behind are this journal's."""
        try:
            behind = [f for f in self._files() if f.number is not None and f.number <= done]
            return not behind or any(holds_line(file, last.sum) for file in reversed(behind))
        except FileNotFoundError:
            return self._has_left(done, last)  # compressed or removed just now

    def _search(self, bookmark: Bookmark) -> None:
        marks = [*self._marks(), *([bookmark.last.sum] if bookmark.last else [])]
        files = self._files()
        found = find_last(files, marks)
        limit = -1 if found is None else found[0].number
        for cursor in list(self._waiting):
            if limit is not None and (cursor.number is None or cursor.number >= limit):
                self._waiting.remove(cursor)
                cursor.close()
        earlier = [f.number for f in files if f.number is not None]
        self._done = max((n for n in earlier if limit is None or n < limit), default=-1)
        if found is None:
            self._last = None
            self._tell(
                "no line that was delivered earlier is in the journal; starting at its beginning: "
                "what is delivered twice has the same ids"
            )
            return
        file, place = found
        self._present = Cursor(file.path, place)
        self._tell(
            f"going on after the last line that matches, line {place.lines} of {file.path.name}; "
            "what is delivered twice has the same ids"
        )

    def _wait_for_late(self) -> None:
        """Without a bookmark nobody knows which late lines of the file before were delivered."""
        if self._present is None:
            return
        late = find_late(self._files(), self._present.number, self._marks())
        if late is not None:
            self._waiting.append(late)


def _name(place: Place) -> str:
    return JOURNAL_NAME if place.file is None else file_name(place.file)
