"""Bringing a journal's entries to one sink: at least once, in order, however it does."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit import clock
from klaviyo_audit.errors import ConfigurationError, JournalCorrupt, KlaviyoAuditError
from klaviyo_audit.journal.segments import read_segments
from klaviyo_audit.sinks.attempts import Attempts, Overdue
from klaviyo_audit.sinks.backlog import Backlog
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.batch import Batch, DeadLetter, Gathering
from klaviyo_audit.sinks.bookmark import Bookmark, BookmarkFile, load_bookmark
from klaviyo_audit.sinks.deadletters import DEAD_NAME, bury
from klaviyo_audit.sinks.files import tree_index
from klaviyo_audit.sinks.filters import Filter
from klaviyo_audit.sinks.folder import SinkLock, make_sink_folder, sink_folder
from klaviyo_audit.sinks.receipts import delivered_marks, write_receipt
from klaviyo_audit.sinks.registry import checked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.sinks.base import Sink

_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_AFTER_SECONDS: Final = 3600.0
_IDLE_SECONDS: Final = 0.1
_LOCK_SECONDS: Final = 1.0
_TROUBLE_SECONDS: Final = 1.0
_MOST_TOLD: Final = 100

_log = logging.getLogger("klaviyo_audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much is delivered at once, and how patiently."""

    batch_entries: int = 500
    """Entries that are delivered together at most."""
    batch_bytes: int = 1 << 20
    """Bytes of them at most, as they stand in the journal; a larger entry goes alone."""
    batch_age: float = 1.0
    """How long an entry waits for others to be delivered with, in seconds."""
    deadline: float = 30.0
    """Seconds an attempt may take."""
    retry_most: float = 300.0
    """The longest pause before an attempt is repeated, in seconds, unless the sink asks for a
    longer one."""


@dataclass(slots=True)
class Condition:
    """How one sink does, for whoever wants to show it. Plain numbers; read them from any thread."""

    state: str = "idle"
    """``idle``, ``waiting`` (another process ships), ``delivering``, ``retrying``, ``hung`` (two
    attempts have not come back), ``stopped`` (a setting has to be changed)."""
    delivered: int = 0
    """Entries acknowledged since this shipper was made."""
    batches: int = 0
    failures: int = 0
    """Attempts that failed."""
    rejected: int = 0
    """Entries that went to the dead letters."""
    filtered: int = 0
    damaged: int = 0
    error: str | None = None
    """What went wrong last; None again after a success."""
    retry_at: float | None = None
    """When it is tried again (monotonic seconds)."""
    acknowledged_at: str | None = None
    """Time of the last acknowledgement."""
    overdue: int = 0
    """Attempts that were given up and have not come back."""
    caught_up_at: float | None = None
    """When everything there was had been delivered the last time (monotonic seconds)."""


@dataclass(slots=True)
class _Delivery:
    """A batch on its way."""

    batch: Batch
    attempts: int = 0
    not_before: float = 0.0
    acknowledged: bool = False
    dead: list[DeadLetter] = field(default_factory=list)


class Shipper:
    """Delivers a journal to one sink, whenever this process has the sink's lock.

    Not for use by several threads at once. Any number of shippers, here and in other processes,
    may be made for a journal and a sink, of which one works.

    Args:
        directory: The journal's folder.
        sink: The sink. It is closed by `close`.
        pace: How much at once, and how patiently.
        passes: Which entries are delivered.
        tell: Called with each sentence that somebody should read; the same one not twice in a
            row. Not given: it is logged.

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
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = directory
        self.sink = checked(sink, f"the sink {type(sink).__name__}")
        self.name = self.sink.name
        self.condition = Condition()
        self.folder = sink_folder(directory, self.name)
        self._pace = pace or Pace()
        self._passes = passes or Filter()
        self._tell_to = tell or _log.warning
        self._told: set[str] = set()
        self._most = min(self._pace.batch_entries, getattr(sink, "max_batch_entries", 1 << 30))
        self._most_bytes = min(self._pace.batch_bytes, getattr(sink, "max_batch_bytes", 1 << 40))
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = SinkLock(self.folder)
        self._attempts = Attempts(f"klaviyo-audit-{self.name}")
        self._saver = BookmarkFile(self.folder)
        self._backlog: Backlog | None = None
        self._bookmark = Bookmark()
        self._gathering: Gathering | None = None
        self._delivery: _Delivery | None = None
        self._unsaved = False

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
        if self._pid != os.getpid():
            self.abandon()
        if self.condition.state == "stopped":
            return None
        try:
            if not self._own():
                self.condition.state = "waiting"
                return _LOCK_SECONDS
            return self._advance(urgent=urgent)
        except (OSError, JournalCorrupt, ConfigurationError) as error:
            # Of the journal or of the files beside it; what a sink raises is seen to elsewhere.
            self._trouble(f"the journal cannot be delivered on: {_reason(error)}")
            self._let_go()
            return _TROUBLE_SECONDS

    def close(self) -> None:
        """Give the lock back, and close the sink. What was not delivered stays in the journal."""
        if self._pid == os.getpid():
            self._save_rest()
            self._let_go()
            self._lock.drop()
        self._attempts.close()
        if self._attempts.overdue:
            return  # it is in use
        try:
            self.sink.close()
        except Exception as error:  # a sink may raise anything
            self._say(f"it did not close ({type(error).__name__})")

    def abandon(self) -> None:
        """In a forked child: begin anew; what the parent was about to do, the parent does."""
        self._let_go()
        self._lock.drop()
        self.condition = Condition()
        self._start()

    # From here on: the lock, the backlog, the batch, the attempt, the acknowledgement.

    def _own(self) -> bool:
        if self._lock.held:
            return True
        self._let_go()
        if not self.directory.is_dir():
            return True  # nothing is there to deliver, nor to lock
        make_sink_folder(self.directory, self.name)
        return self._lock.take()

    def _let_go(self) -> None:
        if self._backlog:
            self._backlog.close()
        self._backlog = self._gathering = self._delivery = None
        self._unsaved = False

    def _open(self) -> Backlog:
        if self._backlog is None:
            try:
                bookmark = load_bookmark(self.folder)
            except JournalCorrupt as error:
                self._say(str(error))
                bookmark, lost = None, True
            else:
                lost = False
            self._bookmark = bookmark or Bookmark()
            self._backlog = Backlog(
                self.directory,
                bookmark,
                marks=partial(delivered_marks, self.folder),
                search=lost,
                tell=self._say,
            )
        return self._backlog

    def _advance(self, *, urgent: bool) -> float | None:
        if not self.directory.is_dir():
            self.condition.state = "idle"
            return None
        if self._delivery is None:
            wait = self._gather(self._open(), urgent=urgent)
            if self._delivery is None:
                return wait
        return self._deliver(self._delivery)

    def _gather(self, backlog: Backlog, *, urgent: bool) -> float | None:
        gathering = self._gathering
        if gathering is None:
            gathering = self._gathering = Gathering(
                backlog,
                self._bookmark,
                passes=self._passes,
                most=self._most,
                most_bytes=self._most_bytes,
                tell=self._say,
            )
        if urgent:
            backlog.look_again()
        gathering.fill()
        if gathering.is_at_end and not urgent and gathering.since is not None:
            due = gathering.since + self._pace.batch_age - monotonic()
            if due > 0:
                self.condition.state = "idle"
                return min(due, _IDLE_SECONDS)
        if gathering.is_empty:
            self.condition.state = "idle"
            self.condition.caught_up_at = monotonic()
            self._save_rest()
            return None
        self._gathering = None
        self._delivery = _Delivery(gathering.batch())
        return 0.0

    def _deliver(self, delivery: _Delivery) -> float:
        wait = delivery.not_before - monotonic()
        if wait > 0:
            return wait
        if not delivery.acknowledged and delivery.batch.entries:
            self._attempt(delivery)
            if not delivery.acknowledged:
                return max(0.0, delivery.not_before - monotonic())
        self._settle(delivery)
        return 0.0

    def _attempt(self, delivery: _Delivery) -> None:
        condition, batch = self.condition, delivery.batch
        condition.state = "delivering"
        delivery.attempts += 1
        try:
            self._attempts.make(
                batch, partial(self.sink.deliver, batch.entries), self._pace.deadline
            )
        except Rejected as error:
            self._reject(delivery, error)
        except ConfigurationError as error:
            condition.state, condition.error = "stopped", str(error)
            condition.failures += 1
            self._say(
                f"it was stopped: {error}. Everything is kept in the journal and delivered when "
                "the program is started again with this put right"
            )
            delivery.not_before = float("inf")
        except Exception as error:  # a sink may raise anything; all of it means: not now
            self._postpone(delivery, error)
        else:
            delivery.acknowledged = True
        condition.overdue = self._attempts.overdue

    def _reject(self, delivery: _Delivery, error: Rejected) -> None:
        wanted = {(entry.id, entry.phase) for entry in error.entries}
        batch = delivery.batch
        for entry, raw in zip(batch.entries, batch.raws, strict=True):
            if (entry.id, entry.phase) in wanted:
                delivery.dead.append(DeadLetter(raw, error.why))
        if not delivery.dead:
            self._postpone(delivery, Retry(why=f"it rejected entries it was not given: {error}"))
            return
        delivery.acknowledged = True

    def _postpone(self, delivery: _Delivery, error: Exception) -> None:
        condition = self.condition
        condition.failures += 1
        condition.error = _reason(error)
        hung = isinstance(error, Overdue) and self._attempts.overdue > 1
        condition.state = "hung" if hung else "retrying"
        most = min(self._pace.retry_most, _FIRST_RETRY_SECONDS * 2 ** min(delivery.attempts, 30))
        wait = random.uniform(0, most)  # noqa: S311  (full jitter, not a secret)
        if isinstance(error, Retry) and error.after is not None:
            wait += min(max(error.after, 0.0), _LONGEST_AFTER_SECONDS)
        delivery.not_before = condition.retry_at = monotonic() + wait
        self._say(
            f"it did not take {len(delivery.batch.entries)} entries ({condition.error}); they are "
            "in the journal and are offered again"
        )

    def _settle(self, delivery: _Delivery) -> None:
        """Write down that a batch is done with; what can't be written now is tried again."""
        batch, condition = delivery.batch, self.condition
        try:
            bury(self.folder, [*batch.unreadable, *delivery.dead])
        except OSError as error:
            self._trouble(f"its dead letters cannot be written: {_reason(error)}")
            delivery.not_before = monotonic() + _TROUBLE_SECONDS
            return
        rejected = len(delivery.dead)
        dead = rejected + len(batch.unreadable)
        delivered = len(batch.entries) - rejected
        self._bookmark = replace(
            batch.end,
            delivered=batch.end.delivered - rejected,
            dead=batch.end.dead + dead,
        )
        self._delivery = None
        condition.state = "idle"
        condition.delivered += delivered
        condition.rejected += dead
        condition.filtered += batch.filtered
        condition.damaged += batch.damaged
        if dead:
            self._say(
                f"{dead} entries will never be taken; they are in {self.folder / DEAD_NAME} with "
                "the reason, and `klaviyo-audit ship --retry-dead` sends them again"
            )
        self._unsaved = True
        if batch.entries:
            condition.batches += 1
            condition.error = condition.retry_at = None
            condition.acknowledged_at = clock.now()
            self._told.clear()
            self._receipt(delivery)
            self._save()

    def _receipt(self, delivery: _Delivery) -> None:
        batch = delivery.batch
        facts: Any = getattr(self.sink, "acknowledgement", None)
        segments = read_segments(self.directory)
        begin, end = (
            tree_index(segments, place.file, place.lines) if place else None
            for place in (batch.begin, batch.end.present)
        )
        try:
            write_receipt(
                self.folder,
                self.name,
                batch,
                rejected=len(delivery.dead),
                attempts=delivery.attempts,
                facts=facts if isinstance(facts, Mapping) else {},
                tree=(begin, end),
            )
        except OSError as error:
            self._say(f"its receipts cannot be written: {_reason(error)}")

    def _save(self, *, last: bool = False) -> None:
        if not self._lock.held:
            # Somebody has removed the folder: another process may ship by now.
            self._let_go()
            self._say("its folder was removed; it begins anew")
            return
        try:
            self._saver.save(self._bookmark, last=last)
        except OSError as error:
            # What was delivered is delivered again after a restart, and nothing worse.
            self._say(f"its bookmark cannot be saved: {_reason(error)}")
        else:
            self._unsaved = False

    def _save_rest(self) -> None:
        if self._unsaved and self._lock.held:
            self._save(last=True)

    def _trouble(self, what: str) -> None:
        self.condition.state, self.condition.error = "retrying", what
        self.condition.failures += 1
        self._say(what)

    def _say(self, what: str) -> None:
        """Tell something, but not the same thing over and over."""
        if what in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add(what)
        with contextlib.suppress(Exception):  # a logging filter of the program's own may raise
            self._tell_to(f"sink {self.name}: {what}")


def _reason(error: BaseException) -> str:
    """What went wrong, with no text that somebody else has made: that may quote data."""
    if isinstance(error, KlaviyoAuditError):
        return str(error)
    return getattr(error, "strerror", None) or type(error).__name__
