"""Which file of the journal is sealed next, and when the live one is set aside."""

from __future__ import annotations

import os
import time
from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal import refusals
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.pace import LINES
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.rotation import (
    begun_at,
    finish_interrupted,
    identity_of,
    is_final,
    set_aside,
)

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.journal.leaves import LeafReader
    from klaviyo_audit.journal.treelog import TreeLog

GRACE_SECONDS: Final = 0.5
"""How long the sealer waits for writers to leave a rotated file (they look every quarter of a
second), before it goes on with the new one and comes back for late lines."""

_LATE_SECONDS: Final = 0.5
"""How often it looks for late lines in rotated files."""
_CHUNK_BYTES: Final = 1 << 16


class Succession:
    """The order in which one journal's files are sealed.

    Args:
        log: The journal's history, caught up.
        rotate_bytes: Size of the live file at which it is rotated.
        rotate_age: Age of its first line at which it is, in seconds.
    """

    def __init__(self, log: TreeLog, *, rotate_bytes: int, rotate_age: float) -> None:
        self._log = log
        self._rotate_bytes = rotate_bytes
        self._rotate_age = rotate_age
        self._rotated_at = self._late_at = 0.0
        self._begun: tuple[int, float] | None = None

    def look(self, *, patient: bool = True) -> bool:
        """Rotate if it is time to, and go on with the file that has lines to seal.

        Args:
            patient: Give writers time to leave a file that was rotated.

        Returns:
            Whether there is another file to go on with.

        Raises:
            JournalCorrupt: A file was taken away or replaced.
            LeaseLost: Another process is the sealer now.
            OSError: A file cannot be opened, renamed or written.
        """
        self._rotate()
        self._finish_present()
        return self._turn(patient=patient)

    def _rotate(self) -> None:
        log, live = self._log, self._log.walk.live
        if live is None:
            return
        # The usual case first: each system call here lets the program have the interpreter, and
        # makes it give it back.
        if identity_of(log.directory / JOURNAL_NAME) == live.identity:
            if not self._is_due(live):
                return
            set_aside(log.lease, log.directory, live.file, live.identity)
        elif identity_of(self._path(live.file)) == live.identity:
            # By a look that got no further, or by somebody who put it right by hand.
            finish_interrupted(log.lease, log.directory)
        else:
            raise refusals.replaced(log.directory, live.file)
        log.walk.set_aside()
        self._rotated_at = monotonic()

    def _is_due(self, live: LeafReader) -> bool:
        if self._log.tree.size <= live.file:
            return False  # none of its lines was taken: the next file would get the same number
        if self._begun is None or self._begun[0] != live.file:
            self._begun = (live.file, begun_at(live.fileno()))
        return (
            os.fstat(live.fileno()).st_size >= self._rotate_bytes
            or time.time() - self._begun[1] >= self._rotate_age
        )

    def _finish_present(self) -> None:
        log = self._log
        reader = log.walk.reader
        if reader is None or reader is log.walk.live or not reader.at_end:
            return
        if reader.is_plain and not is_final(self._path(reader.file)):
            return
        # A line can have been written before the last writer left.
        while log.consume(LINES):
            log.lease.beat()
        log.finish()

    def _turn(self, *, patient: bool) -> bool:
        log, walk = self._log, self._log.walk
        reader = walk.reader
        at_end = reader is None or reader.at_end
        late = monotonic() >= self._late_at or not patient
        if late:
            self._late_at = monotonic() + _LATE_SECONDS
        for file in sorted(walk.waiting):
            is_live = walk.live is not None and walk.live.file == file
            if (at_end if is_live else late) and self._has_more(file, is_live=is_live):
                log.go_to(file)
                return True
        if walk.live or not at_end:
            return False
        if reader and patient and monotonic() - self._rotated_at < GRACE_SECONDS:
            return False
        if not has_line(log.directory / JOURNAL_NAME, 0):
            return False
        log.go_to(None)
        return True

    def _has_more(self, file: int, *, is_live: bool) -> bool:
        """Whether a waiting file has lines to seal; if it never will, it waits no longer."""
        walk = self._log.walk
        path, offset = self._path(file), walk.waiting[file]
        if is_live or (path.suffix == ".jsonl" and not is_final(path)):
            return has_line(path, offset)
        if path.suffix == ".jsonl" and path.stat().st_size > offset:
            return True
        del walk.waiting[file]
        self._log.finished += 1
        return False

    def _path(self, file: int) -> Path:
        path = self._log.walk.path(file)
        if path is None:
            raise refusals.missing(self._log.directory, file)
        return path


def has_line(path: Path, offset: int) -> bool:
    """Whether a file has a complete line from a place on; False where there is no file."""
    try:
        with open_journal(path) as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK_BYTES):
                if b"\n" in chunk:
                    return True
    except FileNotFoundError:
        pass
    return False
