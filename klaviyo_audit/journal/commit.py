"""Group commit: one ``fdatasync`` for all threads that wait for their line to be durable."""

from __future__ import annotations

import os
import threading
from typing import Protocol

from klaviyo_audit.journal.folder import close


class _Open(Protocol):
    @property
    def fd(self) -> int: ...


# macOS has no fdatasync in Python, and its fsync leaves the data in the drive's cache.
_sync = getattr(os, "fdatasync", os.fsync)


class NotDurable(OSError):  # noqa: N818  (a fact, like its siblings in errors.py)
    """A line was written, and the sync after it failed: nobody knows whether it is on the disk."""


class _Waiter:
    __slots__ = ("batch", "error", "file", "wake")

    def __init__(self, file: _Open) -> None:
        self.file = file
        self.error: NotDurable | None = None
        # Set when this waiter is to lead: the waiters its sync counts for.
        self.batch: list[_Waiter] | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit:
    """The first thread that comes syncs for itself; those that come meanwhile wait.

    When it is done, the first of those leads the next round for all of them: a sync only counts
    for what was written before it began.
    """

    __slots__ = ("_busy", "_mutex", "_queue")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._busy = False
        self._queue: list[_Waiter] = []

    def commit(self, file: _Open) -> NotDurable | None:
        """Return when what this thread wrote to the file is on the disk.

        Args:
            file: An open file; kept open (by reference) until the sync is done.

        Returns:
            None, or the error of the sync.
        """
        with self._mutex:
            if self._busy:
                waiter = _Waiter(file)
                self._queue.append(waiter)
            else:
                self._busy = True
                waiter = None
        if waiter is None:
            error = _sync_file(file)
            self._hand_over()
            return error
        waiter.wake.acquire()
        if waiter.batch is not None:
            self._lead(waiter)
        return waiter.error

    def _lead(self, leader: _Waiter) -> None:
        batch = leader.batch or []
        # After a rotation some may have written to the old file, some to the new.
        files = {waiter.file.fd: waiter.file for waiter in batch}
        errors = {fd: _sync_file(file) for fd, file in files.items()}
        self._hand_over()
        for waiter in batch:
            waiter.error = errors[waiter.file.fd]
            if waiter is not leader:
                waiter.wake.release()

    def _hand_over(self) -> None:
        with self._mutex:
            batch, self._queue = self._queue, []
            if not batch:
                self._busy = False
                return
        batch[0].batch = batch
        batch[0].wake.release()


def _sync_file(file: _Open) -> NotDurable | None:
    try:
        _sync(file.fd)
    except OSError as error:
        # A new one, without a traceback, whose frames would keep the file open.
        return NotDurable(error.errno, error.strerror)
    return None


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make names in a folder durable: files created, renamed or removed.

    Raises:
        OSError: The folder cannot be opened or synced.
    """
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        close(fd)
