"""A bounded queue in memory that stands in for the journal where there can be none."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
from collections import deque
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from klaviyo_audit import clock
from klaviyo_audit.entry import SCHEMA_VERSION, Phase
from klaviyo_audit.ids import late_uuid7
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.format import encode, json_text, line_of, line_parts
from klaviyo_audit.journal.line import decoded
from klaviyo_audit.journal.losses import Losses
from klaviyo_audit.sinks.attempts import is_delivering
from klaviyo_audit.sinks.bookmark import Bookmark

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.sinks.batch import Batch, DeadLetter
    from klaviyo_audit.sinks.condition import Condition

Overflow = Literal["drop_newest", "drop_oldest", "block"]

_WAIT_SECONDS: Final = 0.001

_log = logging.getLogger("klaviyo_audit")


class QueueFull(OSError):  # noqa: N818  (what happened, as a gap names it)
    """An entry found no room in a sink's queue."""


class _Queue:
    """What waits for one sink."""

    __slots__ = ("back", "lines", "losses", "name", "taken", "told")

    def __init__(self, name: str, writer: str) -> None:
        self.name = name
        self.lines: deque[bytes] = deque()
        self.back: bytes | None = None
        """The line that was put back: it comes first, and is not dropped."""
        self.losses = Losses(writer)
        self.told = False
        """What was taken last is a gap: an entry is next, if there is one."""
        self.taken = 0


class QueueWriter:
    """Takes the place of the journal's writer: each entry goes into a queue for each sink.

    A queue for each, so that a sink that hangs costs the others nothing.

    Args:
        directory: Where the journal would be.
        names: The sinks.
        user_id: Who is named in the lines about the trail itself.
        origin: Service, environment and host for the entries' ``origin``.
        opening: Facts for the first line's ``metadata``.
        capacity: How many entries wait for a sink at most.
        overflow: What happens to an entry that finds no room.
        block: Seconds it waits for room with ``block``.
        on_loss: Called with the error whenever an entry was lost.
        problem: Why there is no journal; it is told once.
        thread_name: What the name of a thread becomes in the entries' ``origin``.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[str],
        *,
        user_id: str,
        origin: Mapping[str, str | None],
        opening: Mapping[str, Any],
        capacity: int,
        overflow: Overflow,
        block: float,
        on_loss: Callable[[Exception], None],
        problem: OSError,
        thread_name: Callable[[str], str] = str,
    ) -> None:
        self.directory = directory
        self.path = directory / JOURNAL_NAME
        self._names = tuple(names)
        self._user_id = user_id
        self._origin = {name: value for name, value in origin.items() if value is not None}
        self._opening = dict(opening)
        self._capacity = capacity
        self._overflow = overflow
        self._block = block
        self._on_loss = on_loss
        self._thread_name = thread_name
        self._start()
        _log.warning(
            "the audit journal in %s cannot be opened (%s). At most %d entries wait in memory for "
            "each of the sinks %s instead: what a sink has not got when the program is killed is "
            "lost. Make the folder writable, or set KLAVIYO_AUDIT_DIR.",
            directory,
            problem.strerror or problem,
            capacity,
            ", ".join(names),
        )

    def _start(self) -> None:
        self.id = secrets.token_hex(8)
        self.pid = os.getpid()
        self.lost = 0
        """Entries that a sink will not get."""
        self._next: Callable[[], int] = itertools.count().__next__
        self._lock = threading.Lock()
        self._queues = {name: _Queue(name, self.id) for name in self._names}
        self._say("journal.open", {**self._opening, "queue": self._capacity})

    @property
    def untold(self) -> int:
        """What is lost here is told by the queues."""
        return 0

    def is_ready(self) -> bool:
        """There is nothing that could fail."""
        return True

    def open(self) -> OSError | None:
        """There is nothing that could fail."""
        return None

    def append(self, members: dict[str, Any], *, linked: bool = False) -> OSError | None:
        """Queue one entry.

        Args:
            members: As for `klaviyo_audit.journal.writer.JournalWriter.append`.
            linked: Has no meaning here.

        Returns:
            None, or the error if one of the sinks will not get it; the loss is counted already.
        """
        return self.append_line(*line_parts(members), linked=linked)

    def append_line(
        self,
        action: str,
        entry_id: str,
        facts: str,
        rest: str = "",
        *,
        linked: bool = False,
        origin: str | None = None,
    ) -> OSError | None:
        """Queue one entry whose members are JSON text already.

        Args:
            action: As for `klaviyo_audit.journal.writer.JournalWriter.append_line`, like all that
                follows.
            entry_id: Likewise.
            facts: Likewise.
            rest: Likewise.
            linked: Has no meaning here.
            origin: Likewise.

        Returns:
            See `append`.
        """
        del linked
        self._adopt_after_fork()
        number = self._next()
        line = line_of(self.id, number, entry_id, facts, origin or self.origin(), rest)
        error = None
        for queue in self._queues.values():
            error = self._put(queue, line, number, action) or error
        if error is not None:
            self._on_loss(error)
        return error

    def refuse(self, action: str, error: OSError) -> OSError:
        """Count an entry as lost that somebody before the queue could not take."""
        for queue in self._queues.values():
            self._lose(queue, action, None, error)
        return error

    def origin(self) -> str:
        """The ``origin`` of an entry made on this thread, as `append_line` takes it."""
        return f',"origin":{json_text(self._origin_facts())}'

    def _origin_facts(self) -> dict[str, Any]:
        thread = self._thread_name(threading.current_thread().name[:100])
        return {**self._origin, "pid": self.pid, "thread": thread}

    def close(self) -> None:
        """Say goodbye. An entry after this is still queued."""
        self._adopt_after_fork()
        self._say("journal.close", {})

    def give_up(self) -> None:
        """Say how many entries were not delivered; they are lost with the process."""
        for queue in self._queues.values():
            count = self.waiting(queue.name) + queue.taken + queue.losses.count
            if count:
                _log.warning(
                    "the sink %s did not get %d entries, which are lost: there was no journal",
                    queue.name,
                    count,
                )

    def waiting(self, name: str) -> int:
        """How many entries wait for a sink."""
        queue = self._queues[name]
        return len(queue.lines) + (queue.back is not None)

    def take(self, name: str) -> bytes | None:
        """The next line for a sink; before it, if it has lost any, the gap that says so."""
        self._adopt_after_fork()
        queue = self._queues[name]
        line: bytes | None
        if queue.back is not None:
            line, queue.back = queue.back, None
        elif queue.losses.count and not (queue.told and queue.lines):
            line, queue.told = self._gap(queue), True
        else:
            try:
                line = queue.lines.popleft()
            except IndexError:
                return None
            queue.told = False
        queue.taken += 1
        return line

    def put_back(self, name: str, line: bytes) -> None:
        """Undo a `take`."""
        queue = self._queues[name]
        queue.back = line
        queue.taken -= 1

    def acknowledge(self, name: str) -> None:
        """All that was taken for a sink has been delivered."""
        self._queues[name].taken = 0

    def _put(self, queue: _Queue, line: bytes, number: int, action: str) -> OSError | None:
        if len(queue.lines) >= self._capacity and self._overflow == "block":
            self._wait_for_room(queue)
        if len(queue.lines) < self._capacity:
            queue.lines.append(line)
            return None
        error = QueueFull(f"the queue of the sink {queue.name} is full ({self._capacity} entries)")
        if self._overflow == "drop_oldest":
            try:
                oldest = orjson.loads(queue.lines.popleft())
            except IndexError:
                oldest = None  # the sink was faster
            queue.lines.append(line)
            if oldest is not None:
                return self._lose(queue, oldest["action"], oldest["n"], error)
            return None
        return self._lose(queue, action, number, error)

    def _wait_for_room(self, queue: _Queue) -> None:
        until = monotonic() + (0.0 if is_delivering() else self._block)
        while len(queue.lines) >= self._capacity and monotonic() < until:
            sleep(_WAIT_SECONDS)

    def _lose(self, queue: _Queue, action: str, number: int | None, error: OSError) -> OSError:
        with self._lock:
            queue.losses.add(action, number, error)
            self.lost += 1
        return error

    def _gap(self, queue: _Queue) -> bytes:
        """The gap for a sink, which others see too: what this one will not get, they may have.

        It is made when it is taken and does not wait in the sink's own queue, where it could be
        dropped with all it counts.
        """
        with self._lock:
            losses, queue.losses = queue.losses, Losses(self.id)
        number = self._next()
        metadata = {**losses.metadata(), "sink": queue.name}
        line = self._line(number, "journal.gap", metadata, Phase.GAP)
        for other in self._queues.values():
            if other is queue:
                continue
            if len(other.lines) < self._capacity:
                other.lines.append(line)
            else:
                with self._lock:
                    other.losses.add("journal.gap", number, QueueFull())
        return line

    def _say(self, action: str, metadata: dict[str, Any]) -> None:
        """Tell all sinks something about the trail. Not bounded: it is done twice in a life."""
        number = self._next()
        if action == "journal.close":
            metadata = {**metadata, "lines": number + 1}
        line = self._line(number, action, metadata, Phase.JOURNAL)
        for queue in self._queues.values():
            queue.lines.append(line)

    def _line(self, number: int, action: str, metadata: dict[str, Any], phase: Phase) -> bytes:
        members = {
            "v": SCHEMA_VERSION,
            "id": late_uuid7(),
            "writer": self.id,
            "n": number,
            "timestamp": clock.now(),
            "phase": phase.value,
            "action": action,
            "user_id": self._user_id,
            "origin": self._origin_facts(),
            "metadata": metadata,
        }
        return encode(members)

    def _adopt_after_fork(self) -> None:
        """In a forked child: what the parent had queued, the parent delivers."""
        if self.pid != os.getpid():
            self._start()


class QueueBooks:
    """What a shipper needs to deliver from a queue, of which nothing is written down.

    Args:
        writer: The queues.
        name: The sink's name.
    """

    def __init__(self, writer: QueueWriter, name: str) -> None:
        self.is_lasting = False
        self._writer = writer
        self._name = name
        self._last: bytes | None = None

    @property
    def is_owner(self) -> bool:
        """See `klaviyo_audit.sinks.books.Books`, as for all that follows."""
        return True

    def own(self) -> bool:
        """Nobody else can."""
        return True

    def open(self, tell: Callable[[str], None]) -> tuple[QueueBooks, Bookmark]:
        """The queue is its own source."""
        del tell
        return self, Bookmark()

    def take(self) -> Sequence[Line]:
        """The next line of the queue."""
        self._last = self._writer.take(self._name)
        return () if self._last is None else (decoded(0, 0, self._last[:-1]),)

    def put_back(self) -> None:
        """Undo the last `take`."""
        if self._last is not None:
            self._writer.put_back(self._name, self._last)

    def look_again(self) -> None:
        """The queue is always looked at."""

    def bookmark(self, counts: Bookmark) -> Bookmark:
        """There is no place in a queue."""
        return counts

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Say what is lost: there is no place for dead letters."""
        for letter in letters:
            _log.warning(
                "sink %s: an entry is lost (%s); there is no folder to keep it in",
                self._name,
                letter.why,
            )

    def note(self, batch: Batch, *, rejected: int, attempts: int, facts: Mapping[str, Any]) -> None:
        """There is no place for receipts."""

    def save(self, bookmark: Bookmark, *, last: bool = False, lazily: bool = False) -> None:
        """There is no place for a bookmark; what was taken is done with."""
        del bookmark, last, lazily
        self._writer.acknowledge(self._name)

    def show(self, condition: Condition) -> None:
        """Nor for this."""

    def close(self) -> None:
        """Nothing is open."""

    def drop(self) -> None:
        """There is no lock."""

    def forget(self) -> None:
        """Likewise."""
