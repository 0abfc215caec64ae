"""The journal's folder: its layout, its permissions, and opening its files safely."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL_NAME = "audit.jsonl"
WRITERS_NAME = "writers"
FILE_MODE = 0o600
FOLDER_MODE = 0o700

_GITIGNORE = b"# A journal is evidence, not source.\n*\n"


def make(directory: Path) -> None:
    """Create the folder (0700), its ``writers`` folder and its ``.gitignore`` where they lack.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    writers = directory / WRITERS_NAME
    if writers.is_dir():
        return
    # makedirs gives its mode to the last level only.
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=FOLDER_MODE, exist_ok=True)
    # First, and whole or not at all: the folder of writers says that the rest is there.
    ignore = directory / ".gitignore"
    if not ignore.exists():
        new = directory / f".gitignore.{secrets.token_hex(4)}"
        try:
            new.write_bytes(_GITIGNORE)
            new.rename(ignore)
        finally:
            new.unlink(missing_ok=True)
    writers.mkdir(mode=FOLDER_MODE, exist_ok=True)


def close(fd: int) -> None:
    """Close a descriptor. An error says nothing new: what was written is written."""
    with contextlib.suppress(OSError):
        os.close(fd)


class AppendFile:
    """A file open for appending, closed when the last thread that uses it lets go of it.

    An explicit close could hand the descriptor's number to another file while a thread is just
    about to write to it, so the reference count decides instead.
    """

    __slots__ = ("device", "fd", "inode")

    def __init__(self, path: Path) -> None:
        """Open (and create, 0600) a file for appending, never through a symbolic link.

        Raises:
            OSError: It cannot be opened, or it is no regular file.
        """
        self.fd = -1
        self.fd = os.open(
            path,
            os.O_WRONLY
            | os.O_APPEND
            | os.O_CREAT
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0),
            FILE_MODE,
        )
        facts = os.fstat(self.fd)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{path} is not a regular file; move it away")
        self.device, self.inode = facts.st_dev, facts.st_ino
        # Shared by all writers of the file; whoever gets it exclusively knows that no writer is
        # left. A file system without locks (some network ones) only loses that knowledge.
        with contextlib.suppress(OSError):
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __del__(self) -> None:
        if self.fd >= 0:
            close(self.fd)

    def is_at(self, path: Path) -> bool:
        """Whether the open file is the one that has this name now."""
        try:
            facts = path.stat(follow_symlinks=False)
        except OSError:
            return False
        return (facts.st_dev, facts.st_ino) == (self.device, self.inode)
