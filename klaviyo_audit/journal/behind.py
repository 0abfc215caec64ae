"""Writing behind the caller's back: ``durability="async"``."""

from __future__ import annotations

import os
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.journal.format import line_parts
from klaviyo_audit.threads import can_run

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.journal.writer import JournalWriter

_CAPACITY: Final = 100_000
"""Entries that may wait; about 100 MB."""
_CLOSE_SECONDS: Final = 5.0


class WriteBehind:
    """A journal writer whose `append` only puts the entry into a bounded queue.

    No input or output happens on the caller's thread. What is in the queue when the process is
    killed is lost (some milliseconds); what does not fit into it is counted as lost.
    """

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self._start()

    def _start(self) -> None:
        self._queue: deque[tuple[str, str, str, str, str]] = deque()
        self._pid = os.getpid()
        self._filled = threading.Event()
        self._idle = True
        self._closing = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """See `JournalWriter.id`."""
        return self._writer.id

    @property
    def directory(self) -> Path:
        """The journal's folder."""
        return self._writer.directory

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._writer.path

    @property
    def lost(self) -> int:
        """Entries lost by this writer."""
        return self._writer.lost

    @property
    def untold(self) -> int:
        """See `JournalWriter.untold`."""
        return self._writer.untold

    def is_ready(self) -> bool:
        """See `JournalWriter.is_ready`."""
        return self._writer.is_ready()

    def open(self) -> OSError | None:
        """See `JournalWriter.open`."""
        return self._writer.open()

    def append(self, members: dict[str, Any], *, linked: bool = False) -> OSError | None:
        """Queue one entry; see `JournalWriter.append`."""
        return self.append_line(*line_parts(members), linked=linked)

    def append_line(
        self, action: str, entry_id: str, facts: str, rest: str = "", *, linked: bool = False
    ) -> OSError | None:
        """Queue one entry.

        Args:
            action: As for `JournalWriter.append_line`, like ``entry_id``, ``facts``, ``rest``.
            entry_id: Likewise.
            facts: Likewise.
            rest: Likewise.
            linked: Not known here; the settings refuse ``async`` together with ``block``.

        Returns:
            None, or why it could not be queued; the loss is counted.
        """
        del linked
        if self._pid != os.getpid():
            self._start()  # what the parent had queued, the parent writes
        if len(self._queue) >= _CAPACITY:
            return self._writer.refuse(action, OSError("the queue of entries is full"))
        self._queue.append((action, entry_id, facts, rest, self._writer.origin()))
        if self._thread is None or not self._thread.is_alive():
            self._start_thread()
        if self._idle:
            self._filled.set()
        return None

    def flush(self, timeout: float) -> bool:
        """Wait until everything queued before now is in the file.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it is.
        """
        deadline = monotonic() + timeout
        while (self._queue or not self._idle) and monotonic() < deadline:
            if self._thread is None or not self._thread.is_alive():
                self._drain()
            else:
                self._filled.set()
                threading.Event().wait(0.001)
        return not self._queue

    def close(self) -> None:
        """Write what is queued, then see `JournalWriter.close`."""
        if self._pid != os.getpid():
            self._start()
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._closing = True
            self._filled.set()
            thread.join(_CLOSE_SECONDS)
        self._drain()
        self._writer.close()
        self._closing = False
        self._thread = None

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            if not can_run():
                self._drain()
                return
            thread = threading.Thread(target=self._run, name="klaviyo-audit-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down and allows no new thread: write here and now.
                self._drain()
                return
            self._thread = thread

    def _run(self) -> None:
        while not self._closing:
            self._idle = False
            self._drain()
            self._filled.clear()
            self._idle = True
            if not self._queue:
                # An append that saw the flag before it was set is found by the timeout.
                self._filled.wait(0.05)

    def _drain(self) -> None:
        queue, append_line = self._queue, self._writer.append_line
        while True:
            try:
                action, entry_id, facts, rest, origin = queue.popleft()
            except IndexError:
                return
            append_line(action, entry_id, facts, rest, origin=origin)
