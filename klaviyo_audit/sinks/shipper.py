"""Bringing a journal's entries to one sink: at least once, in order, however it does."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from klaviyo_audit import clock
from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.sinks.attempts import Attempts, Overdue, file_trouble, reason_of
from klaviyo_audit.sinks.base import CheckpointSink, Rejected, Retry
from klaviyo_audit.sinks.batch import Batch, DeadLetter, Gathering, dead_letters
from klaviyo_audit.sinks.books import Books, EphemeralBooks, JournalBooks, Source
from klaviyo_audit.sinks.checkpointfeed import CheckpointFeed, Notes
from klaviyo_audit.sinks.condition import Condition, Pace
from klaviyo_audit.sinks.filters import Filter
from klaviyo_audit.sinks.folder import sink_folder
from klaviyo_audit.sinks.receipts import facts_of
from klaviyo_audit.sinks.registry import checked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.sinks.base import Sink
    from klaviyo_audit.sinks.bookmark import Bookmark

__all__ = ["Condition", "Pace", "Shipper"]

_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_AFTER_SECONDS: Final = 3600.0
_IDLE_SECONDS: Final = 0.1
_LOCK_SECONDS: Final = 1.0
_TROUBLE_SECONDS: Final = 1.0
_CHECKPOINT_SECONDS: Final = 1.0
_MOST_TOLD: Final = 100
_SILENT_SECONDS: Final = 3600.0
"""How long the same thing is not told again."""

_log = logging.getLogger("klaviyo_audit")

# Its own: drawing from the module's would change the numbers of a program that has seeded them.
_jitter: Final = random.Random()  # noqa: S311  (full jitter, nothing secret)


@dataclass(slots=True)
class _Errand:
    """Something that is to be delivered, until it was acknowledged."""

    load: Batch | Notes
    attempts: int = 0
    not_before: float = 0.0
    acknowledged: bool = False
    dead: list[DeadLetter] = field(default_factory=list)

    @property
    def wait(self) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self.not_before - monotonic())


class Shipper:
    """Delivers a journal to one sink, whenever this process has the sink's lock.

    Not for use by several threads at once. Any number of shippers, here and in other processes,
    may be made for a journal and a sink, of which one works.

    Args:
        directory: The journal's folder.
        sink: The sink. It is closed by `close`.
        pace: How much at once, and how patiently.
        passes: Which entries are delivered.
        books: Where to start and what to write down, if not in the journal's folder.
        tell: Called with each sentence that somebody should read; the same one not over and over.
            Not given: it is logged.

    Raises:
        ConfigurationError: The sink is none, or its name cannot name a folder.
    """

    def __init__(
        self,
        directory: Path,
        sink: Sink,
        *,
        pace: Pace | None = None,
        passes: Filter | None = None,
        books: Books | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = directory
        self.sink = checked(sink, f"the sink {type(sink).__name__}")
        self.name = self.sink.name
        self.folder = sink_folder(directory, self.name)
        self.condition = Condition()
        self.is_ephemeral = books is None and bool(getattr(sink, "ephemeral", False))
        self._pace = pace or Pace()
        self._passes = passes or Filter()
        self._tell_to = tell or _log.warning
        self._told: dict[str, float] = {}
        self._most = min(self._pace.batch_entries, getattr(sink, "max_batch_entries", 1 << 30))
        self._most_bytes = min(self._pace.batch_bytes, getattr(sink, "max_batch_bytes", 1 << 40))
        self._age = 0.0 if self.is_ephemeral else self._pace.batch_age
        self._pid = os.getpid()
        self._closed = False
        self._attempts = Attempts(f"klaviyo-audit-{self.name}")
        self._source: Source | None = None
        self._bookmark: Bookmark
        self._gathering: Gathering | None = None
        self._batch: _Errand | None = None
        self._checkpoints: _Errand | None = None
        self._look_for_checkpoints_at = 0.0
        self._feed: CheckpointFeed | None = None
        self._books: Books
        if books is not None:
            self._books = books
        elif self.is_ephemeral:
            self._books = EphemeralBooks(directory)
        else:
            self._books = JournalBooks(directory, self.name)
            if isinstance(sink, CheckpointSink):
                self._feed = CheckpointFeed(directory, self.folder, self._say)

    def run_once(self, timeout: float = float("inf")) -> bool:
        """Deliver everything that is in the journal now.

        Args:
            timeout: Seconds after which no further attempt is begun.

        Returns:
            Whether all of it was delivered, filtered out or put to the dead letters. False also
            when another process ships to this sink, or it is stopped.
        """
        until = monotonic() + timeout
        while True:
            wait = self.step(urgent=True)
            if self.condition.state in ("waiting", "stopped"):
                return False
            if wait is None:
                return True
            if monotonic() + wait >= until:
                return False
            sleep(wait)

    def step(self, *, urgent: bool = False) -> float | None:
        """Do what is due: read on, make one attempt, save.

        Args:
            urgent: Do not wait for a batch to fill.

        Returns:
            Seconds until there is something to do again, if nothing new is written; None: there
            is nothing to do at all before something is.
        """
        if self.condition.state == "stopped" or self._pid != os.getpid():
            return None
        if not self.directory.is_dir() and isinstance(self._books, JournalBooks):
            return None  # there is nothing to deliver yet, nor a place for the lock
        try:
            if not self._books.is_owner:
                # Another process may have got further meanwhile.
                self._let_go()
                if not self._books.own():
                    self.condition.state = "waiting"
                    return _LOCK_SECONDS
            wait = self._advance(urgent=urgent)
        except (OSError, JournalCorrupt, ConfigurationError) as error:
            # Of the journal or of the files beside it; what a sink raises is seen to elsewhere.
            self._trouble(f"the journal cannot be delivered on: {file_trouble(error)}")
            self._let_go()
            return _TROUBLE_SECONDS
        try:
            if self._is_owner():
                self._books.show(self.condition)
        except OSError as error:
            # No reason to let go: what was acknowledged meanwhile would be delivered once more.
            self._say(f"how it is doing cannot be written down: {file_trouble(error)}")
        return wait

    def close(self) -> None:
        """Give the lock back, and close the sink. What was not delivered stays in the journal."""
        if self._pid != os.getpid() or self._closed:
            return
        self._closed = True
        self._let_go()
        with contextlib.suppress(OSError):
            self._books.drop()
        self._attempts.close()
        if self._attempts.overdue:
            return  # it is in use
        try:
            self.sink.close()
        except Exception as error:  # a sink may raise anything
            self._say(f"it did not close ({type(error).__name__})")

    def forget(self) -> None:
        """In a forked child: let go of what the parent has open. This shipper is of no use then."""
        self._let_go()
        self._books.forget()

    def _is_owner(self) -> bool:
        """Whether what is there to be written down still is ours to write.

        While an attempt took its time, or the process was stopped, somebody may have removed the
        lock's file: another process has taken over then, and may have got further.
        """
        if self._books.is_owner:
            return True
        self._let_go()
        return False

    def _let_go(self) -> None:
        if self._source:
            self._source.close()
        self._source = self._gathering = self._batch = self._checkpoints = None

    def _advance(self, *, urgent: bool) -> float | None:
        if urgent:
            self._look_for_checkpoints_at = 0.0
        waits = [self._deliver_checkpoints()]
        if self.condition.state != "stopped":
            waits.append(self._deliver_entries(urgent=urgent))
        self.condition.overdue = self._attempts.overdue
        return min((wait for wait in waits if wait is not None), default=None)

    # Entries: gathered, offered, written down.

    def _deliver_entries(self, *, urgent: bool) -> float | None:
        if self._batch is None:
            wait = self._gather(urgent=urgent)
            if self._batch is None:
                return wait
        errand, batch = self._batch, self._batch.load
        assert isinstance(batch, Batch)
        if errand.wait:
            return errand.wait
        if (
            not errand.acknowledged
            and batch.entries
            and not self._attempt(errand, partial(self.sink.deliver, batch.entries))
        ):
            return errand.wait
        return self._settle(errand, batch) if self._is_owner() else 0.0

    def _gather(self, *, urgent: bool) -> float | None:
        if self._source is None:
            self._source, self._bookmark = self._books.open(self._say)
        gathering = self._gathering
        if gathering is None:
            gathering = self._gathering = Gathering(
                self._source,
                self._bookmark,
                wants=self._wants(),
                most=self._most,
                most_bytes=self._most_bytes,
                tell=self._say,
            )
        if urgent:
            self._source.look_again()
        gathering.fill()
        condition = self.condition
        if gathering.is_empty:
            condition.state = "idle"
            condition.waiting_since = None
            condition.caught_up_at = clock.now()
            place = self._source.bookmark(self._bookmark)
            if place != self._bookmark:
                # A file was left behind: retention need not keep it for this sink any more.
                self._bookmark = place
                self._books.save(place, lazily=True)
            return None
        if gathering.is_at_end and gathering.since is not None and not urgent:
            due = gathering.since + self._age - monotonic()
            if due > 0:
                condition.state = "idle"
                return min(due, _IDLE_SECONDS)
        self._gathering = None
        batch = gathering.batch()
        if batch.entries:
            condition.waiting_since = batch.entries[0].timestamp
        self._batch = _Errand(batch)
        return 0.0

    def _wants(self) -> Callable[[AuditEntry], bool] | None:
        passes = None if self._passes.is_open else self._passes.passes
        if not self.is_ephemeral:
            return passes
        pid = os.getpid()
        return lambda entry: (
            entry.origin is not None
            and entry.origin.pid == pid
            and (passes is None or passes(entry))
        )

    def _settle(self, errand: _Errand, batch: Batch) -> float:
        """Write down that a batch is done with; what can't be written now is tried again."""
        condition = self.condition
        try:
            self._books.bury([*batch.unreadable, *errand.dead])
        except OSError as error:
            self._trouble(f"its dead letters cannot be written: {file_trouble(error)}")
            errand.not_before = monotonic() + _TROUBLE_SECONDS
            return _TROUBLE_SECONDS
        rejected = len(errand.dead)
        dead = rejected + len(batch.unreadable)
        self._bookmark = replace(
            batch.end,
            delivered=batch.end.delivered - rejected,
            dead=batch.end.dead + dead,
        )
        self._batch = None
        condition.delivered += len(batch.entries) - rejected
        condition.rejected += dead
        condition.filtered += batch.filtered
        condition.damaged += batch.damaged
        if batch.end.last:
            condition.acknowledged_up_to = batch.end.last.timestamp
        if dead and isinstance(self._books, JournalBooks):
            self._say(
                f"it will never take some entries ({dead}): they are in "
                f"{self.folder / 'dead.jsonl'} with the reason, and `klaviyo-audit ship "
                "--retry-dead` sends them again"
            )
        self._write_down(errand, batch, rejected)
        return 0.0

    def _write_down(self, errand: _Errand, batch: Batch, rejected: int) -> None:
        try:
            if batch.entries:
                self._books.note(
                    batch,
                    rejected=rejected,
                    attempts=errand.attempts,
                    facts=facts_of(self.sink),
                )
        except OSError as error:
            self._say(f"its receipts cannot be written: {file_trouble(error)}")
        try:
            self._books.save(self._bookmark, lazily=not batch.entries)
        except OSError as error:
            # What was delivered is delivered again after a restart, and nothing worse.
            self._say(f"its bookmark cannot be saved: {file_trouble(error)}")

    # Checkpoints.

    def _deliver_checkpoints(self) -> float | None:
        if self._feed is None:
            return None
        if self._checkpoints is None:
            if monotonic() < self._look_for_checkpoints_at:
                return None
            found = self._feed.next()
            if found is None:
                self._look_for_checkpoints_at = monotonic() + _CHECKPOINT_SECONDS
                return None
            self._checkpoints = _Errand(found)
        errand = self._checkpoints
        assert isinstance(errand.load, Notes)
        notes = errand.load
        assert isinstance(self.sink, CheckpointSink)
        if errand.wait:
            return errand.wait
        if not self._attempt(errand, partial(self.sink.deliver_checkpoints, notes.notes)):
            return errand.wait
        if not self._is_owner():
            return 0.0
        self.condition.checkpoints += len(notes.notes)
        self._checkpoints = None
        try:
            self._feed.acknowledge(notes)
        except OSError as error:
            self._say(f"the place in its checkpoints cannot be saved: {file_trouble(error)}")
        return 0.0

    # One attempt.

    def _attempt(self, errand: _Errand, call: Callable[[], None]) -> bool:
        """Make one attempt; whether what is to be delivered counts as acknowledged."""
        condition, load = self.condition, errand.load
        condition.state = "delivering"
        errand.attempts += 1
        try:
            self._attempts.make(load, call, self._pace.deadline)
        except Rejected as error:
            if isinstance(load, Notes):
                self._say(f"it does not take checkpoints ({error.why})")
            else:
                try:
                    errand.dead = dead_letters(load.entries, load.raws, error)
                except Retry as again:
                    return self._postpone(errand, again)
        except ConfigurationError as error:
            condition.state, condition.error = "stopped", reason_of(error)
            condition.error_at = clock.now()
            condition.failures += 1
            errand.not_before = float("inf")
            kept = (
                "Everything is kept in the journal, and delivered when the program is started "
                "again with this put right"
                if self._books.is_lasting
                else "There is no journal: what it does not get is lost"
            )
            self._say(f"it was stopped: {error}. {kept}")
            return False
        except Exception as error:  # a sink may raise anything; all of it means: not now
            return self._postpone(errand, error)
        errand.acknowledged = True
        condition.state, condition.error, condition.retry_at = "idle", None, None
        condition.batches += 1
        condition.acknowledged_at = clock.now()
        return True

    def _postpone(self, errand: _Errand, error: Exception) -> bool:
        condition = self.condition
        hung = isinstance(error, Overdue) and self._attempts.overdue > 1
        most = min(self._pace.retry_most, _FIRST_RETRY_SECONDS * 2 ** min(errand.attempts - 1, 30))
        wait = _jitter.uniform(0, most)
        if isinstance(error, Retry) and error.after is not None:
            wait += min(error.after, _LONGEST_AFTER_SECONDS)
        errand.not_before = monotonic() + wait
        condition.retry_at = clock.timestamp(time.time_ns() + int(wait * 1e9))
        self._trouble(reason_of(error), "hung" if hung else "retrying")
        return False

    def _trouble(self, what: str, state: str = "retrying") -> None:
        condition = self.condition
        condition.state, condition.error, condition.error_at = state, what, clock.now()
        condition.failures += 1
        self._say(f"{what}; what it has not got is kept, and offered again")

    def _say(self, what: str) -> None:
        """Tell something, but not the same thing over and over."""
        now = monotonic()
        if now < self._told.get(what, 0.0):
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[what] = now + _SILENT_SECONDS
        with contextlib.suppress(Exception):  # a logging filter of the program's own may raise
            self._tell_to(f"sink {self.name}: {what}")
