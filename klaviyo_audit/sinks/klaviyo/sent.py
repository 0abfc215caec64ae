"""Which entries may have been sent before, so that a bulk job never holds one that was.

A repeated ``unique_id`` makes a whole bulk job fail, so before anything is sent a note goes to
disk: for each writer the highest line number that was ever sent. What is not above it may have
been sent, in this process or in one that was killed, and goes out as a single event, of which
Klaviyo keeps the first. The note also outlives a bookmark that is set back.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.clock import now
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.folder import FOLDER_MODE
from klaviyo_audit.journal.sidefile import write_new

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from klaviyo_audit.entry import AuditEntry

_MAX_WRITERS: Final = 1_000
"""Writers that are kept apart; the ones seen last."""

_JOURNAL: Final = 2
"""Which of the note's parents is the journal's folder: ``<journal>/sinks/<name>/...``."""
_NO_JOURNAL: Final = (errno.EROFS, errno.EACCES, errno.EPERM)

Marks = dict[str, tuple[int, str]]


class SentNote:
    """The note of one sink and journal.

    Args:
        path: Its file ``<journal>/sinks/<name>/...``, replaced whole at each change. Where there
            is or can be no journal the note is kept in memory only, since entries do not outlive
            the process either.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: Marks = {}
        self._floor = ""
        self._seen: tuple[int, int, int] | None = None

    def refresh(self) -> None:
        """Read the file if another process has written it since.

        Raises:
            OSError: It cannot be read.
        """
        facts = self._facts()
        if facts == self._seen:
            return
        self._marks, self._floor = {}, ""
        if facts is not None:
            try:
                self._load(orjson.loads(self._path.read_bytes()))
            except (ValueError, KeyError, TypeError, AttributeError):
                # Unreadable: whatever is older than this moment may have been sent.
                self._marks, self._floor = {}, now()
        self._seen = facts

    def has(self, entry: AuditEntry) -> bool:
        """Whether an entry may have been sent before."""
        mark = self._marks.get(entry.writer)
        return entry.timestamp <= self._floor if mark is None else entry.n <= mark[0]

    def add(self, entries: Iterable[AuditEntry]) -> Marks:
        """Note, durably, that entries are about to be sent.

        Returns:
            What was noted before, for `withdraw`.

        Raises:
            OSError: It cannot be noted; nothing may be sent.
        """
        before = dict(self._marks)
        for entry in entries:
            number, at = self._marks.get(entry.writer, (-1, ""))
            self._marks[entry.writer] = (max(number, entry.n), max(at, entry.timestamp))
        if self._marks == before:
            return before
        self._prune()
        try:
            self._save()
        except OSError:
            self._marks = before
            raise
        return before

    def withdraw(self, before: Marks) -> None:
        """Take back the last `add`: nothing of it was sent, or it was certainly refused."""
        if self._marks == before:
            return
        self._marks = before
        try:
            self._save()
        except OSError:
            # The file says more than was sent, which costs single events and loses none.
            self._seen = self._facts()

    def _prune(self) -> None:
        if len(self._marks) <= _MAX_WRITERS:
            return
        by_age = sorted(self._marks, key=lambda writer: self._marks[writer][1])
        for writer in by_age[: len(by_age) - _MAX_WRITERS]:
            self._floor = max(self._floor, self._marks.pop(writer)[1])

    def _load(self, found: dict[str, Any]) -> None:
        self._floor = str(found["floor"])
        self._marks = {str(w): (int(n), str(at)) for w, (n, at) in found["writers"].items()}

    def _save(self) -> None:
        if not self._path.parents[_JOURNAL].is_dir():
            return  # there is no journal
        found = {"v": 1, "floor": self._floor, "writers": self._marks}
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            write_new(new, orjson.dumps(found))
            new.replace(self._path)
        except OSError as error:
            if error.errno in _NO_JOURNAL:
                return  # nor can there be a lock or a bookmark: a queue in memory is delivered
            raise
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
        sync_folder(self._path.parent)
        self._seen = self._facts()

    def _facts(self) -> tuple[int, int, int] | None:
        try:
            facts = self._path.lstat()
        except (FileNotFoundError, PermissionError):
            return None
        except NotADirectoryError as error:
            raise ConfigurationError(f"{self._path} cannot be there: {error.strerror}") from None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size
