"""Advisory file locks, so that processes can tell who is alive and what is in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from klaviyo_audit.journal.folder import FILE_MODE

if TYPE_CHECKING:
    from pathlib import Path


class LifeLock:
    """A file that is locked as long as this process lives.

    POSIX record locks (``lockf``) belong to the process: a forked child does not inherit them,
    so a child cannot keep its dead parent looking alive.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        """Create the file (0600) and lock it.

        Raises:
            OSError: It cannot be created, or another process has it locked.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise

    def release(self, *, remove: bool) -> None:
        """Give the lock up; remove the file if nobody needs it any more."""
        if self._fd < 0:
            return
        if remove:
            # The folder may have been taken away; then there is nothing to remove.
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._fd)
        self._fd = -1

    def forget(self) -> None:
        """In a forked child: drop the inherited descriptor. The parent's lock stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_locked(path: Path) -> bool:
    """Whether another process holds a `LifeLock` on the file. False where there is no file.

    A process's own locks do not show: it has to know by itself which files it holds.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
