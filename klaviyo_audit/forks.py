"""When the process may be forked: not while a thread of this package holds what a child would need.

A forked child has only the thread that forked. What another one held at that moment is held for
ever: the lock of a module that it was importing, so that the child hangs in its own import of it,
and the lock inside of a file object that it was reading, so that the child hangs when it closes it.
So a fork waits for these, which are a matter of milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX: Final = "klaviyo-audit-"
"""How the names of all threads of this package begin."""
_LONGEST_WAIT: Final = 1.0
"""How long a fork waits, in seconds: a disk or an import that hangs must not hold the program."""
_IMPORT_SYSTEM: Final = "<frozen importlib."


class _Gate:
    """The locks of this process; a forked child has others."""

    def __init__(self, *, is_clean: bool = True) -> None:
        self.reading = threading.Lock()
        self.forking: set[int] = set()
        """Threads that are about to fork."""
        self.owner = 0
        """The one of them that nobody reads for."""
        self.is_clean = is_clean
        """Nobody was reading when this process was forked."""


_gate = _Gate()
_abandoned: Final[list[Any]] = []


@contextlib.contextmanager
def unforked() -> Iterator[None]:
    """Have no fork meanwhile. For what takes a millisecond."""
    gate = _gate
    if gate.forking:
        time.sleep(0.001)  # let it go first
    with gate.reading:
        yield


def abandon(thing: object) -> bool:
    """In a forked child: whether a file object of the parent's must be left alone, and is kept.

    That is so if the fork could not wait long enough. What nobody refers to would be closed.
    """
    if _gate.is_clean:
        return False
    _abandoned.append(thing)
    return True


def _before() -> None:
    gate, me = _gate, threading.get_ident()
    gate.forking.add(me)
    until = time.monotonic() + _LONGEST_WAIT
    while _is_importing() and time.monotonic() < until:
        time.sleep(0.001)
    if gate.reading.acquire(timeout=max(0.0, until - time.monotonic())):
        gate.owner = me


def _after_in_parent() -> None:
    gate, me = _gate, threading.get_ident()
    gate.forking.discard(me)
    if gate.owner == me:
        gate.owner = 0
        gate.reading.release()


def _after_in_child() -> None:
    global _gate  # noqa: PLW0603  (its locks are those of a process)
    _gate = _Gate(is_clean=_gate.owner == threading.get_ident())


def _is_importing() -> bool:
    """Whether a thread of this package is in the middle of an import."""
    ours = {one.ident for one in threading.enumerate() if one.name.startswith(_PREFIX)}
    if not ours:
        return False
    for ident, running in sys._current_frames().items():  # noqa: SLF001  (documented as it is)
        frame = running if ident in ours else None
        while frame is not None:
            if frame.f_code.co_filename.startswith(_IMPORT_SYSTEM):
                return True
            frame = frame.f_back
    return False


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
