"""Room on the disk: watermarks before it is full, and a reserve for the last lines."""

from __future__ import annotations

import contextlib
import errno
import os
from enum import IntEnum
from typing import TYPE_CHECKING

from klaviyo_audit.journal.folder import FILE_MODE, close

if TYPE_CHECKING:
    from pathlib import Path

RESERVE_NAME = "reserve"


class Level(IntEnum):
    """How much room there is. The members are in rising order of trouble."""

    ENOUGH = 0
    LOW = 1
    """Below the first watermark: warn."""
    STOP = 2
    """Below the second: entries are not written any more, so that the last lines still fit."""


class Space:
    """Watches the free space of the journal's file system.

    Args:
        directory: The journal's folder.
        warn: Bytes below which a warning is given; 0 for never.
        stop: Bytes below which no more entries are written; 0 for never.
        reserve: Bytes held back in a file that is given up for the last lines; 0 for none.
    """

    __slots__ = ("_directory", "_reserve", "_stop", "_warn", "free")

    def __init__(self, directory: Path, *, warn: int = 0, stop: int = 0, reserve: int = 0) -> None:
        self._directory = directory
        self._warn = warn
        self._stop = stop
        self._reserve = reserve
        self.free = 0
        """Bytes that were free at the last look."""

    def look(self) -> Level:
        """How much room there is now. A file system that does not tell has enough."""
        try:
            facts = os.statvfs(self._directory)
        except OSError:
            return Level.ENOUGH
        self.free = facts.f_bavail * facts.f_frsize
        if self.free < self._stop:
            return Level.STOP
        return Level.LOW if self.free < self._warn else Level.ENOUGH

    def hold_reserve(self) -> None:
        """Take the reserve if it is not held. Where there is no room, there is none to hold."""
        path = self._directory / RESERVE_NAME
        if not self._reserve or _size(path) >= self._reserve:
            return
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            fd = os.open(path, flags, FILE_MODE)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, self._reserve)
                else:
                    os.pwrite(fd, bytes(self._reserve), 0)
            except OSError:
                path.unlink(missing_ok=True)
            finally:
                close(fd)

    def give_up_reserve(self, error: OSError) -> bool:
        """Free the reserve if the error says that the disk is full.

        Returns:
            Whether there is room now that was not there before.
        """
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve:
            return False
        try:
            (self._directory / RESERVE_NAME).unlink()
        except OSError:
            return False
        return True


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
