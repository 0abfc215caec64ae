"""A writer's identity with the file it writes to, and whether a thread has it in hand."""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
import time
from os import getpid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.journal import folder
    from klaviyo_audit.journal.locks import LifeLock

_GOODBYE_SECONDS: Final = 1.0
"""How long `JournalWriter.close` waits for threads that are just writing a line."""


class Identity:
    """One writer: its id, its counter, and the lock that shows it is alive."""

    __slots__ = ("id", "life", "next", "pid", "threads")

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.pid = getpid()
        self.next: Callable[[], int] = itertools.count().__next__
        self.life: LifeLock | None = None
        self.threads = threading.local()


class Pen:
    """An identity with the file it writes to. Threads take it whole, in one load."""

    __slots__ = ("fd", "file", "identity", "next", "pid", "threads", "writer")

    def __init__(self, identity: Identity, file: folder.AppendFile) -> None:
        self.identity = identity
        self.file = file
        self.fd = file.fd
        self.writer = identity.id
        self.pid = identity.pid
        self.next = identity.next
        self.threads = identity.threads

    def is_unlinked(self) -> bool:
        """Whether the file has no name any more: what is written is lost when it is closed."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError:
            return False

    def size(self) -> int | None:
        """Bytes in the file; None when that cannot be asked for."""
        try:
            return os.fstat(self.fd).st_size
        except OSError:
            return None


def without_frames(error: OSError) -> OSError:
    """An error that may be kept.

    Its traceback would keep the frames that have a pen in hand, in a cycle with themselves:
    `wait_until_unused` would take them for threads that write.
    """
    return error.with_traceback(None)


def _references(pen: object) -> int:
    return sys.getrefcount(pen)


def _references_when_alone() -> int:
    alone = object()
    return _references(alone)


_ALONE: Final = _references_when_alone()
"""What `_references` gives for an object that only a variable of its caller holds."""


def wait_until_unused(pen: Pen) -> bool:
    """Wait until no other thread has the pen in hand; its references tell."""
    deadline = time.monotonic() + _GOODBYE_SECONDS
    # Beside our own parameter there is our caller's variable.
    while _references(pen) > _ALONE + 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
