"""A sealer in a thread of its own, beside the program that is audited."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.journal.sealer import Sealer
from klaviyo_audit.threads import can_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 60.0

_log = logging.getLogger("klaviyo_audit")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


class SealerThread:
    """A daemon thread that seals a journal, in the process that has started it last.

    Args:
        make: Makes the sealer; called at each start.
    """

    def __init__(self, make: Callable[[], Sealer]) -> None:
        self._make = make
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        _threads.add(self)

    @property
    def is_running(self) -> bool:
        """Whether the thread runs in this process; not in a child that was forked off it."""
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    @property
    def was_started(self) -> bool:
        """Whether it runs, or ran in the process this one was forked off."""
        return self._thread is not None and not self._stop.is_set()

    def start(self) -> bool:
        """Start the thread unless it runs, also in a forked child.

        Returns:
            Whether it runs now: at the interpreter's shutdown no thread can be started.
        """
        if self.is_running:
            return True
        if not can_run(self.start):
            return False
        stop = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(stop,), name="klaviyo-audit-sealer", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # can't start new thread at interpreter shutdown
            thread.start()
            self._stop, self._thread, self._pid = stop, thread, os.getpid()
        return self.is_running

    def _run(self, stop: threading.Event) -> None:
        """Seal until told to stop; what `Sealer.run` does not foresee is told and tried again."""
        wait = _RETRY_SECONDS
        while True:
            try:
                self._make().run(stop)
            except Exception as error:
                _log.warning("the journal is not sealed now (%s); trying again", _reason(error))
            else:
                return
            if stop.wait(wait):
                return
            wait = min(wait * 2, _LONGEST_RETRY_SECONDS)

    def stop(self, timeout: float = 5.0) -> bool:
        """Have everything sealed that is in the journal now, and end the thread.

        Args:
            timeout: How long to wait for that, in seconds.

        Returns:
            Whether the thread has ended, or did not run.
        """
        if not self.is_running or self._thread is None:
            return True
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()


def background(directory: Path, **options: Any) -> SealerThread:
    """Start sealing a journal in a thread of its own.

    Args:
        directory: The journal's folder.
        options: As for `Sealer`.

    Raises:
        ConfigurationError: As for `Sealer`.
    """
    make = partial(Sealer, directory, **options)
    make()  # what is wrong with the options is known here, not in the thread
    thread = SealerThread(make)
    thread.start()
    return thread


_threads: weakref.WeakSet[SealerThread] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The parent may end before the child (a daemon does that): then the child seals.
    for thread in list(_threads):
        if thread.was_started:
            thread.start()


os.register_at_fork(after_in_child=_after_fork_in_child)
