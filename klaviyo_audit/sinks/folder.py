"""The folder beside the journal that a sink's bookmark, receipts and dead letters are in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.folder import FILE_MODE, FOLDER_MODE

if TYPE_CHECKING:
    from pathlib import Path

SINKS_NAME: Final = "sinks"
LOCK_NAME: Final = "lock"


def sink_folder(directory: Path, name: str) -> Path:
    """Where a sink's files are.

    Args:
        directory: The journal's folder.
        name: The sink's name.
    """
    return directory / SINKS_NAME / name


def make_sink_folder(directory: Path, name: str) -> Path:
    """Make a sink's folder (0700) where it lacks.

    Raises:
        OSError: It cannot be made.
    """
    folder = sink_folder(directory, name)
    folder.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return folder


class SinkLock:
    """The right to ship to one sink, which one process at a time has: an ``flock``.

    It goes with the process that dies. A forked child has to call `drop`.

    Args:
        folder: The sink's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether it was taken, and the file that is locked still is the one others look at."""
        if self._fd < 0:
            return False
        try:
            facts = self._path.stat(follow_symlinks=False)
        except OSError:
            return False
        own = os.fstat(self._fd)
        return (facts.st_dev, facts.st_ino) == (own.st_dev, own.st_ino)

    def take(self) -> bool:
        """Take the lock, if nobody has it.

        Raises:
            OSError: The folder is not there, or the file system has no locks.
        """
        if self.held:
            return True
        self.drop()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "It is not a regular file", str(self._path))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # For people who want to know who it is; nothing reads it.
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self.held

    def drop(self) -> None:
        """Give the lock up; in a forked child, let go of the parent's, which the parent keeps."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def is_locked(folder: Path) -> bool:
    """Whether some process ships to the sink now; this one counts too."""
    try:
        # Without O_NONBLOCK, opening a FIFO that somebody put there would never return.
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
