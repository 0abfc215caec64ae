"""The small files beside the journal: appended to by its sealer, or replaced whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.folder import FILE_MODE

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.journal.lease import Lease

_TAIL_BYTES: Final = 65536


class SideFile:
    """A file that only grows, open for the one sealer. Each addition is durable, or undone.

    Args:
        path: The file; made (0600) when it is missing, never through a symbolic link.

    Raises:
        OSError: It cannot be opened.
    """

    __slots__ = ("_fd", "_size", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(
            path,
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK,
            FILE_MODE,
        )
        try:
            facts = os.fstat(self._fd)
            _check_regular(path, facts)
            self._size = facts.st_size
            if self._size == 0:
                sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, data: bytes) -> None:
        """Add bytes to the end; they are on the disk when this returns.

        Raises:
            OSError: They are not; what was written of them is taken back where that is possible.
            JournalCorrupt: The file is not as this sealer has left it.
        """
        size = os.fstat(self._fd).st_size
        if size != self._size:
            raise JournalCorrupt(
                f"{self.path} has {size} bytes and not {self._size}: something else has changed "
                "it; give it back its contents, from a backup if need be"
            )
        try:
            _write_whole(self._fd, data, self.path)
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def tail(self, count: int) -> bytes:
        """The last bytes of the file, as this sealer has left it."""
        count = min(count, self._size)
        return os.pread(self._fd, count, self._size - count)

    def close(self) -> None:
        """Close the file; once."""
        os.close(self._fd)

    def cut_torn_line(self) -> None:
        """Of a file of lines, cut what a crash left of the last one: nothing relied upon it.

        Raises:
            OSError: It cannot be cut.
        """
        tail = self.tail(_TAIL_BYTES)
        self.cut(self._size - len(tail) + tail.rfind(b"\n") + 1)

    def cut(self, size: int) -> None:
        """Cut off what follows so many bytes.

        Raises:
            OSError: It cannot be cut.
        """
        if size < self._size:
            os.ftruncate(self._fd, size)
            self._size = size


def _check_regular(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{path} is not a regular file; move it away")


def _write_whole(fd: int, data: bytes, path: Path) -> None:
    written = os.write(fd, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written", str(path))


def replace(lease: Lease, path: Path, content: bytes) -> None:
    """Replace a file whole (0600), so that after a crash it is the old one or the new one.

    Raises:
        OSError: It cannot be done; the old one is still there.
        LeaseLost: Another process is the sealer now; the file is as that one wants it.
    """
    new = lease.path(f"{path.name}.new")
    try:
        write_new(new, content)
        new.rename(path)
    except FileNotFoundError:
        lease.check()
        raise
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes, *, sync: bool) -> None:
    """Replace a file whole (0600): whoever reads it sees the old one or the new one.

    Args:
        path: The file.
        content: What is to be in it.
        sync: Return only when it is on the disk.

    Raises:
        OSError: It cannot be written; the old one is still there.
    """
    new = path.with_name(f".{path.name}.new")
    write_new(new, content, sync=sync)
    new.rename(path)
    if sync:
        sync_folder(path.parent)


def write_new(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file (0600) and make its contents durable; an old one there is written over."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(fd)
