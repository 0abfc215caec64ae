"""What is scanned: things to read as streams of bytes, among them the files of a folder."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import KlaviyoAuditError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_VERSION_CONTROL: Final = frozenset({".git", ".hg", ".svn", ".jj"})


class ScanFailed(KlaviyoAuditError):  # noqa: N818  (what happened, as in the other errors)
    """What was to be scanned cannot be read."""


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to scan."""

    path: str
    """As people know it: relative to what is scanned, with forward slashes."""
    read: Callable[[int], bytes]
    """Gives its next bytes, at most so many."""
    blob: str | None = None
    """Its object id, where it comes from git."""


def files(path: Path, unread: Callable[[str, str], None]) -> Iterator[Source]:
    """The regular files in a folder, or the one file; symbolic links are not followed.

    Args:
        path: A folder or a file.
        unread: Told of each file that cannot be read, and why.
    """
    if not path.is_dir():
        # Named by the user, so that a link may be followed.
        yield from open_source(path.resolve(), path.name, unread)
        return
    for folder, inner, names in os.walk(
        path, onerror=lambda error: unread(str(error.filename), error.strerror or "unreadable")
    ):
        inner[:] = sorted(set(inner) - _VERSION_CONTROL)
        for name in sorted(names):
            whole = Path(folder, name)
            yield from open_source(whole, whole.relative_to(path).as_posix(), unread)


def open_source(
    path: Path, shown: str, unread: Callable[[str, str], None], *, may_be_gone: bool = False
) -> Iterator[Source]:
    """One file as a source, closed when the next is asked for; nothing if it is no regular one.

    Args:
        path: The file.
        shown: Its name for people.
        unread: Told when it cannot be read, and why.
        may_be_gone: Whether that it is not there is nothing to tell.
    """
    # Without O_NONBLOCK, opening a FIFO would never return.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return
        descriptor = os.open(path, flags)
    except OSError as error:
        if not (may_be_gone and isinstance(error, FileNotFoundError)):
            unread(shown, error.strerror or "unreadable")
        return
    with os.fdopen(descriptor, "rb", buffering=0) as file:

        def read(size: int) -> bytes:
            try:
                return file.read(size) or b""
            except OSError as error:
                unread(shown, error.strerror or "unreadable")
                return b""

        yield Source(shown, read)
