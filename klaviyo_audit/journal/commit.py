"""Group commit: one ``fdatasync`` for all threads that wait for their line to be durable."""

from __future__ import annotations

import errno
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


class _Bell:
    """What one thread sleeps at until another rings."""

    __slots__ = ("_fd", "_lock")

    def __init__(self) -> None:
        self._fd = -1
        try:
            # More than twice the entries a second of a lock with 64 threads (48,000 to 20,000).
            self._fd = os.eventfd(0)
        except (AttributeError, OSError):  # not Linux, or no descriptor left
            self._lock = threading.Lock()
            self._lock.acquire()

    def __del__(self) -> None:
        if self._fd >= 0:
            close(self._fd)

    def wait(self) -> BaseException | None:
        """Sleep until it rings.

        Returns:
            What a signal's handler raised meanwhile. Others rely on this thread: it has to come
            to the end of its turn before it goes where the handler wants it.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                if self._fd >= 0:
                    os.eventfd_read(self._fd)
                else:
                    self._lock.acquire()
            except InterruptedError:
                continue
            except BaseException as raised:
                interrupt = raised
                continue
            return interrupt

    def ring(self) -> None:
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)
        else:
            self._lock.release()


class _Place:
    __slots__ = ("batch", "bell", "error", "file")

    def __init__(self) -> None:
        self.bell = _Bell()
        self.file: _Open | None = None
        self.error: NotDurable | None = None
        # Set when this thread is to lead: the places its sync counts for.
        self.batch: list[_Place] | None = None


class GroupCommit:
    """The first thread that comes syncs for itself; those that come meanwhile wait.

    When it is done, the first of those leads the next round for all of them: a sync only counts
    for what was written before it began.
    """

    __slots__ = ("_busy", "_mutex", "_places", "_queue")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._busy = False
        self._queue: list[_Place] = []
        # Of this object alone: a forked child, which makes a new one, must not share bells.
        self._places = threading.local()

    def commit(self, file: _Open) -> NotDurable | None:
        """Return when what this thread wrote to the file is on the disk.

        Args:
            file: An open file; kept open (by reference) until the sync is done.

        Returns:
            None, or the error of the sync.
        """
        place: _Place | None = None
        with self._mutex:
            if self._busy:
                place = self._place()
                place.file = file
                self._queue.append(place)
            else:
                self._busy = True
        if place is None:
            try:
                return _sync_file(file)
            finally:
                self._hand_over()
        interrupt = place.bell.wait()
        if place.batch is not None:
            self._lead(place, place.batch)
        # Nothing of this round is kept: a file that somebody holds is not closed.
        error, place.error, place.file, place.batch = place.error, None, None, None
        if interrupt is not None:
            raise interrupt
        return error

    def _place(self) -> _Place:
        try:
            place: _Place = self._places.own
        except AttributeError:
            place = self._places.own = _Place()
        return place

    def _lead(self, leader: _Place, batch: list[_Place]) -> None:
        # After a rotation some may have written to the old file, some to the new.
        files = {place.file.fd: place.file for place in batch if place.file is not None}
        errors: dict[int, NotDurable | None] = {}
        try:
            errors.update((fd, _sync_file(file)) for fd, file in files.items())
        finally:
            self._hand_over()
            for place in batch:
                assert place.file is not None
                place.error = errors.get(place.file.fd, NotDurable(errno.EINTR, "interrupted"))
                if place is not leader:
                    place.bell.ring()

    def _hand_over(self) -> None:
        with self._mutex:
            batch, self._queue = self._queue, []
            if not batch:
                self._busy = False
                return
        batch[0].batch = batch
        batch[0].bell.ring()


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
