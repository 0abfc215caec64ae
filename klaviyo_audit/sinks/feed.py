"""Handing this process's own journal lines to its sinks, behind the program's back."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson

from klaviyo_audit.context import suppress_audit
from klaviyo_audit.entry import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klaviyo_audit.sinks.base import Sink

_POLL_SECONDS = 0.05
_CHUNK = 1 << 20

_log = logging.getLogger("klaviyo_audit")


class Feed:
    """A daemon thread that reads what this process appends, from now on, and delivers it.

    Args:
        path: The journal.
        sinks: Who gets the entries. One that raises is offered them again, and nobody waits
            for it but the other sinks of this feed.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink]) -> None:
        self._path = path
        self._sinks = tuple(sinks)
        self._file: int | None = None
        self._inode: tuple[int, int] | None = None
        self._skip_to_end = True
        self._start()
        _feeds.add(self)

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._rounds = 0
        self._wanted = 0
        self._stopping = False
        self._rest = b""
        self._pid = os.getpid()
        self._failed: set[str] = set()
        if self._skip_to_end:
            # What stands in the journal now is older than this feed.
            self._reopen()
            if self._file is not None:
                os.lseek(self._file, 0, os.SEEK_END)
            self._skip_to_end = False
        self._thread = threading.Thread(target=self._run, name="klaviyo-audit-feed", daemon=True)
        self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Wait until everything appended before now has been delivered.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False when the time was up first.
        """
        deadline = monotonic() + timeout
        with self._changed:
            # The round under way may have read before the last append; the next has not.
            target = self._rounds + 2
            self._wanted = target
            self._changed.notify_all()
            while self._rounds < target:
                left = deadline - monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._changed.wait(left)
        return not self._failed

    def close(self, timeout: float) -> bool:
        """Deliver what is left within the timeout (seconds), then end the thread."""
        done = self.flush(timeout)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(min(timeout, 1.0))
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                _log.warning("sink %s did not close: %s", sink.name, type(error).__name__)
        return done

    def _run(self) -> None:
        with suppress_audit():
            while True:
                self._pump()
                with self._changed:
                    self._rounds += 1
                    self._changed.notify_all()
                    if self._stopping:
                        break
                    if self._rounds >= self._wanted:
                        self._changed.wait(_POLL_SECONDS)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _pump(self) -> None:
        while True:
            entries = self._read()
            if not entries:
                return
            for sink in self._sinks:
                self._deliver(sink, entries)

    def _deliver(self, sink: Sink, entries: list[AuditEntry]) -> None:
        try:
            sink.deliver(entries)
        except Exception as error:
            if sink.name not in self._failed:
                self._failed.add(sink.name)
                _log.warning(
                    "sink %s did not take %d entries (%s); they are in the journal",
                    sink.name,
                    len(entries),
                    type(error).__name__,
                )
        else:
            self._failed.discard(sink.name)

    def _read(self) -> list[AuditEntry]:
        if self._file is None:
            self._reopen()
            if self._file is None:
                return []
        data = os.read(self._file, _CHUNK)
        if not data:
            # At the end: has the journal been replaced by another file?
            facts = self._stat()
            if facts is not None and facts != self._inode:
                self._reopen()
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [entry for line in lines if (entry := self._own(line)) is not None]

    def _own(self, line: bytes) -> AuditEntry | None:
        try:
            members: dict[str, Any] = orjson.loads(line)
            if members["origin"]["pid"] != self._pid:
                return None
            return AuditEntry.from_dict(members)
        except (ValueError, KeyError, TypeError):
            return None  # torn or foreign; verify reports it

    def _stat(self) -> tuple[int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_dev, facts.st_ino

    def _reopen(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        try:
            self._file = os.open(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return
        facts = os.fstat(self._file)
        self._inode = (facts.st_dev, facts.st_ino)
        self._rest = b""

    def _restart(self) -> None:
        """In a forked child: the thread is gone; what the parent wrote is not ours."""
        if self._stopping:
            return
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._skip_to_end = True
        self._start()


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for feed in list(_feeds):
        feed._restart()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
