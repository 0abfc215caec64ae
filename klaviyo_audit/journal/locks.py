"""Advisory file locks, so that processes can tell who is alive and what is in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from klaviyo_audit.journal.folder import FILE_MODE, close

if TYPE_CHECKING:
    from pathlib import Path

_UNFINISHED = ".new"

# Files this process holds a lock on, with its pid. POSIX record locks do not show to their own
# process, and it loses them when it closes any descriptor of the file: it must not even look.
_held: dict[str, int] = {}


class LifeLock:
    """A file that is locked as long as this process lives.

    POSIX record locks (``lockf``) belong to the process: a forked child does not inherit them,
    so a child cannot keep its dead parent looking alive.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        """Create the file (0600) and lock it.

        The file gets its name when it is locked: nobody ever sees it there unlocked while its
        owner lives.

        Raises:
            OSError: It cannot be created, or another process has it locked.
        """
        self.path = path
        if _holds(path):
            raise BlockingIOError(f"this process has {path} locked already")
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
        exists = path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._fd = os.open(path if exists else unfinished, flags, FILE_MODE)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not exists:
                # A link fails where a rename would replace what somebody else has just locked.
                os.link(unfinished, path)
        except OSError:
            close(self._fd)
            raise
        finally:
            if not exists:
                unfinished.unlink(missing_ok=True)
        _held[os.path.realpath(path)] = os.getpid()

    def release(self, *, remove: bool) -> None:
        """Give the lock up; remove the file if nobody needs it any more."""
        if self._fd < 0:
            return
        if remove:
            # The folder may have been taken away; then there is nothing to remove.
            with contextlib.suppress(OSError):
                self.path.unlink()
        _held.pop(os.path.realpath(self.path), None)
        close(self._fd)
        self._fd = -1

    def forget(self) -> None:
        """In a forked child: drop the inherited descriptor. The parent's lock stays."""
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1


def _holds(path: Path) -> bool:
    return _held.get(os.path.realpath(path)) == os.getpid()


def is_locked(path: Path) -> bool:
    """Whether a process, this one included, holds a `LifeLock` on the file.

    False where there is no file.
    """
    if _holds(path):
        return True
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        close(fd)
    return False


def is_life_lock(name: str) -> bool:
    """Whether a file in the ``writers`` folder is a writer's, and not one in the making."""
    return not name.startswith(".")
