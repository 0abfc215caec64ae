"""Appending entries to the journal: one lock-free ``os.write`` a line, from any thread."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import weakref
from hashlib import sha256
from os import getpid, write
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit import clock
from klaviyo_audit.entry import SCHEMA_VERSION, Phase
from klaviyo_audit.ids import late_uuid7
from klaviyo_audit.journal import folder
from klaviyo_audit.journal.commit import GroupCommit, NotDurable, sync_folder
from klaviyo_audit.journal.format import encode, json_text, line_of, line_parts
from klaviyo_audit.journal.locks import LifeLock
from klaviyo_audit.journal.losses import Losses
from klaviyo_audit.journal.pen import Identity, Pen, wait_until_unused, without_frames
from klaviyo_audit.journal.space import Level, Space
from klaviyo_audit.journal.walltime import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_LOOK_SECONDS: Final = 0.25
"""How often a writer checks that its file is still the journal."""
_REOPEN_SECONDS: Final = 0.5
"""How long a writer that could not open the journal waits before it tries again."""
_STOP: Final = Level.STOP  # a look-up in an enumeration is 100 ns in Python 3.11


_Entry = tuple[str, str, str, "str | None"]
"""An entry's id, facts, rest and origin: see `JournalWriter.append_line`."""


class JournalWriter:
    """This process's pen. Threads share it; a forked child becomes a new writer by itself.

    Args:
        directory: The journal's folder; made when it is missing.
        user_id: Who is named in the lines about the journal itself.
        origin: Service, environment and host for the entries' ``origin``.
        opening: Facts for the first line's ``metadata``.
        on_loss: Called (under no lock) with the error whenever an entry was lost.
        sync: Make each line durable (survive power loss) before `append` returns.
        space: Watches the disk; None to write until it is full.
        thread_name: What the name of a thread becomes in the entries' ``origin``.
        on_low_space: Called (under the lock) with the level and the free bytes when it changes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        user_id: str,
        origin: Mapping[str, str | None],
        opening: Mapping[str, Any],
        on_loss: Callable[[Exception], None],
        sync: bool = False,
        space: Space | None = None,
        on_low_space: Callable[[Level, int], None] | None = None,
        thread_name: Callable[[str], str] = str,
    ) -> None:
        self.directory = directory
        self.path = directory / folder.JOURNAL_NAME
        self._user_id = user_id
        self._origin = {name: value for name, value in origin.items() if value is not None}
        self._opening = dict(opening)
        self._on_loss = on_loss
        self._syncs = sync
        self._space = space or Space(directory)
        self._on_low_space = on_low_space
        self._thread_name = thread_name
        self._previous: str | None = None
        self._start()
        _writers.add(self)

    def _start(self) -> None:
        """Become a process's writer that has written nothing."""
        self._identity = Identity()
        self._pen: Pen | None = None
        self._lock = threading.RLock()
        self._commit = GroupCommit() if self._syncs else None
        self._level = Level.ENOUGH
        self._losses: Losses | None = None
        self.lost = 0
        """Entries lost by this writer."""
        self._closing = False
        self._look_at = self._retry_at = 0.0
        self._open_error: OSError | None = None
        self._size_seen = 0
        self._clock = WallClock()

    @property
    def id(self) -> str:
        """The writer's id; another one in a forked child and after `close`."""
        return self._identity.id

    @property
    def pid(self) -> int:
        """The process the writer belongs to."""
        return self._identity.pid

    def open(self) -> OSError | None:
        """Open the journal now instead of at the first entry.

        Returns:
            What prevented it, or None.
        """
        with self._lock:
            self._retry_at = 0.0
            return None if self._ready() is not None else self._open_error

    def append(self, members: dict[str, Any], *, linked: bool = False) -> OSError | None:
        """Write one entry.

        Args:
            members: The entry in order, with room (any value) for ``writer``, ``n`` and
                ``origin``, which are filled in here.
            linked: Make sure that the line is in a file that has a name, at the cost of two
                ``fstat``: a deleted file takes writes without complaint.

        Returns:
            None when the line is in the file; else what went wrong. The loss is counted already.
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
        """Write one entry whose members are JSON text already.

        Args:
            action: The entry's action, for counting it should it be lost.
            entry_id: Its ``id``.
            facts: Its members from ``timestamp`` to what stands before ``origin``, as in
                ``"timestamp":"...","phase":"outcome"``.
            rest: Its members behind ``origin``, with a comma before each.
            linked: See `append`.
            origin: What `origin` gave on the entry's own thread; this thread's if not given.

        Returns:
            See `append`.
        """
        pen = self._pen
        if (
            pen is None
            or linked
            or self._commit is not None
            or self._losses is not None
            or self._level is _STOP
            or monotonic() >= self._look_at
            or pen.pid != getpid()
        ):
            return self._append_with_care(action, (entry_id, facts, rest, origin), linked=linked)
        # Everything is well: nothing but the line and its one system call. Each Python call here
        # and each name in another module was worth a measurable part of it.
        if origin is None:
            try:
                origin = pen.threads.origin
            except AttributeError:
                origin = self._origin_of(pen.identity)
        number = pen.next()
        body = (  # as in `line_of`
            f'{{"v":1,"id":"{entry_id}","writer":"{pen.writer}","n":{number},{facts}{origin}{rest}'
        ).encode()
        line = b"".join((body, b',"sum":"', sha256(body).hexdigest()[:16].encode(), b'"}\n'))
        try:
            written = write(pen.fd, line)
        except OSError as error:
            return self._lose(action, number, without_frames(error))
        if written == len(line):
            return None
        failure = self._write_again(pen, line, written)
        return None if failure is None else self._lose(action, number, failure)

    def refuse(self, action: str, error: OSError) -> OSError:
        """Count an entry as lost that somebody before the file could not take."""
        return self._lose(action, None, error)

    def origin(self) -> str:
        """The ``origin`` of an entry made on this thread, as `append_line` takes it."""
        return self._origin_of(self._identity)

    def _append_with_care(self, action: str, entry: _Entry, *, linked: bool) -> OSError | None:
        """`append_line` for a writer that is not open, not well, or has to do more."""
        pen = self._pen
        if pen is None or pen.pid != getpid():
            pen = self._ready()
            if pen is None:
                return self._lose(action, None, self._open_error or OSError("journal not open"))
        elif monotonic() >= self._look_at or (linked and pen.is_unlinked()):
            pen = self._look(pen)
        if self._level is _STOP:
            return self._lose(action, None, _no_space(self._space.free))
        if self._losses is not None:
            self._write_gap(pen)
        number = pen.next()
        error = self._write(pen, self._line(pen, entry, number))
        if linked and error is None and pen.is_unlinked():
            pen = self._look(pen)
            number = pen.next()
            error = (
                OSError("the journal was deleted and cannot be made again")
                if pen.is_unlinked()
                else self._write(pen, self._line(pen, entry, number))
            )
        if error is not None:
            return self._lose(action, number, error)
        if self._commit is not None:
            error = self._commit.commit(pen)
            if error is not None:
                return self._lose(action, number, error)
        return None

    def _line(self, pen: Pen, entry: _Entry, number: int) -> bytes:
        entry_id, facts, rest, origin = entry
        if origin is None:
            origin = self._origin_of(pen.identity)
        return line_of(pen.writer, number, entry_id, facts, origin, rest)

    @property
    def untold(self) -> int:
        """Entries that were lost and that no gap entry tells of yet."""
        losses = self._losses
        return 0 if losses is None else losses.count

    def is_ready(self) -> bool:
        """Whether nothing speaks against it that the next line will be written.

        A disk that is full or fails shows only when it is written to.
        """
        pen = self._pen
        if pen is None or pen.identity.pid != getpid():
            return False
        if monotonic() >= self._look_at:
            pen = self._look(pen)
        return self._level is not Level.STOP and not pen.is_unlinked()

    def _write(self, pen: Pen, line: bytes) -> OSError | None:
        try:
            written = write(pen.fd, line)
        except OSError as error:
            return without_frames(error)
        return None if written == len(line) else self._write_again(pen, line, written)

    def _write_again(self, pen: Pen, line: bytes, written: int) -> OSError | None:
        """After a short write. What got in is a torn piece; a second try may be whole."""
        self._note_torn(pen, written)
        try:
            written = write(pen.fd, line)
        except OSError as error:
            return without_frames(error)
        if written == len(line):
            return None
        self._note_torn(pen, written)
        return OSError(errno.ENOSPC, "only a part of the line could be written")

    def close(self) -> None:
        """Say goodbye and let go of the journal. An entry after this opens a new writer."""
        with self._lock:
            if self._identity.pid != getpid():
                self._adopt()
                return
            self._closing = True
            try:
                pen = self._end()
            finally:
                self._closing = False
        # With a thread still in the middle of a line there can be no last one. The lock stays as
        # long as the process does, and whoever finds it unlocked then looks after what is open.
        if pen is None or not wait_until_unused(pen):
            return
        with self._lock:
            self._closing = True
            try:
                number = pen.identity.next()
                refusal = self._say(pen, "journal.close", {"lines": number + 1}, number)
            finally:
                self._closing = False
        if pen.identity.life is not None:
            pen.identity.life.release(remove=refusal is None)

    def _end(self) -> Pen | None:
        """Tell what was lost, and let other threads open a new writer from here on.

        Returns:
            The pen that is left to say goodbye with; None where there is none.
        """
        pen = self._pen
        if pen is None and self._losses is not None:
            self._retry_at = 0.0  # the last chance to tell
            pen = self._ready()
        if pen is None:
            return None
        if self._losses is not None:
            self._write_gap(pen)
        self._pen = None
        self._previous = pen.identity.id
        self._identity = Identity()
        return pen

    # What follows happens seldom, and under the lock.

    def _ready(self) -> Pen | None:
        """The open pen, opened if need be; None when that is not possible now."""
        with self._lock:
            if self._identity.pid != getpid():
                self._adopt()
            if self._pen is not None:
                return self._pen
            now = monotonic()
            if now < self._retry_at:
                return None
            error = self._open_first()
            if error is not None:
                self._retry_at = now + _REOPEN_SECONDS
            self._open_error = error
            return self._pen

    def _open_first(self) -> OSError | None:
        identity = self._identity
        try:
            pen = self._open_file()
        except OSError as error:
            return without_frames(error)
        metadata = dict(self._opening)
        if self._previous is not None:
            metadata["previous"] = self._previous
        number = identity.next()
        refusal = self._say(pen, "journal.open", metadata, number)
        if isinstance(refusal, NotDurable):
            self._note_number(number, refusal)
            return refusal
        if refusal is not None:
            if number == 0:
                # Nothing of this writer is in the file yet: its numbers start anew.
                identity.next = itertools.count().__next__
            else:
                self._note_number(number, refusal)
            return refusal
        self._pen = pen
        return None

    def _open_file(self) -> Pen:
        folder.make(self.directory)
        identity = self._identity
        if identity.life is None:
            identity.life = LifeLock(self.directory / folder.WRITERS_NAME / identity.id)
        file = folder.AppendFile(self.path)
        while not file.is_at(self.path):
            # Rotated away between opening and locking; the next one is there or will be made.
            file = folder.AppendFile(self.path)
        if self._syncs:
            # Also the life lock's name: a power loss must not hide who died in it.
            sync_folder(self.directory / folder.WRITERS_NAME)
            sync_folder(self.directory)
            sync_folder(self.directory.parent)
        self._look_at = monotonic() + _LOOK_SECONDS
        self._size_seen = os.fstat(file.fd).st_size
        self._level = self._space.look()
        if self._level is Level.ENOUGH:
            self._space.hold_reserve()
        return Pen(identity, file)

    def _look(self, pen: Pen) -> Pen:
        """Check that the open file still is the journal; else open that one, and say so."""
        with self._lock:
            if self._pen is not pen:
                # Reopened by another thread, or closed: then this is the pen's last line.
                return self._pen if self._pen is not None else pen
            self._look_at = monotonic() + _LOOK_SECONDS
            self._look_at_clock(pen)
            self._look_at_space(pen)
            if pen.file.is_at(self.path):
                size = pen.size()
                if size is not None:
                    if size < self._size_seen:
                        sizes = {"size_seen": self._size_seen, "size": size}
                        self._tell(pen, "journal.truncated", sizes)
                    self._size_seen = size
                return pen
            try:
                other = self._open_file()
            except OSError as error:
                # The old file still takes lines, which is better than losing them.
                self._open_error = without_frames(error)
                return pen
            what = "deleted" if pen.is_unlinked() else "renamed or replaced"
            reason = {"reason": f"the journal was {what}"}
            self._tell(other, "journal.reopen", reason)
            self._pen = other
            return other

    def _look_at_clock(self, pen: Pen) -> None:
        step = self._clock.step()
        if step is not None:
            self._tell(pen, "journal.clock", step)

    def _look_at_space(self, pen: Pen) -> None:
        level, before = self._space.look(), self._level
        if level is Level.ENOUGH:
            self._space.hold_reserve()
        if level is before:
            return
        self._level = level
        facts = {"level": level.name.lower(), "free_bytes": self._space.free}
        self._tell(pen, "journal.space", facts)
        if self._on_low_space is not None:
            self._on_low_space(level, self._space.free)

    def _tell(self, pen: Pen, action: str, metadata: dict[str, Any]) -> None:
        number = pen.identity.next()
        error = self._say(pen, action, metadata, number)
        if error is not None:
            self._note_number(number, error)

    def _say(
        self,
        pen: Pen,
        action: str,
        metadata: dict[str, Any],
        number: int,
        phase: Phase = Phase.JOURNAL,
    ) -> OSError | None:
        """Write a line about the journal itself; the last ones if need be into the reserve.

        Earlier ones do not take it: entries would follow, and fill what is left of it.
        """
        members = {
            "v": SCHEMA_VERSION,
            "id": late_uuid7(),
            "writer": pen.writer,
            "n": number,
            "timestamp": clock.now(),
            "phase": phase.value,
            "action": action,
            "user_id": self._user_id,
            "origin": self._origin_facts(pen.identity),
            "metadata": metadata,
        }
        line = encode(members)
        error = self._write(pen, line)
        if error is not None and self._closing and self._space.give_up_reserve(error):
            error = self._write(pen, line)
        if error is None and self._commit is not None:
            error = self._commit.commit(pen)
        return error

    def _write_gap(self, pen: Pen) -> None:
        with self._lock:
            # A file that was deleted would take it without complaint.
            losses = None if pen.is_unlinked() else self._take_losses()
            if losses is None:
                return
            number = pen.identity.next()
            error = self._say(pen, "journal.gap", losses.metadata(), number, Phase.GAP)
            if error is not None:
                losses.add_number(number, error)
                meanwhile = self._take_losses()
                if meanwhile is not None:
                    losses.merge(meanwhile)
                self._losses = losses

    def _take_losses(self) -> Losses | None:
        losses, self._losses = self._losses, None
        return losses

    def _lose(self, action: str, number: int | None, error: OSError) -> OSError:
        with self._lock:
            self._loss().add(action, number, error)
            self.lost += 1
        self._on_loss(error)
        return error

    def _note_number(self, number: int, error: OSError) -> None:
        with self._lock:
            self._loss().add_number(number, error)

    def _note_torn(self, pen: Pen, written: int) -> None:
        # Where the position cannot be asked for, the piece is left for readers to find.
        with self._lock, contextlib.suppress(OSError):
            # With O_APPEND the position stands behind what this descriptor wrote last.
            end = os.lseek(pen.fd, 0, os.SEEK_CUR)
            self._loss().add_torn(end - written, written)

    def _loss(self) -> Losses:
        if self._losses is None:
            self._losses = Losses(self._identity.id)
        return self._losses

    def _origin_of(self, identity: Identity) -> str:
        """The member ``origin`` with a comma before it, encoded once a thread."""
        try:
            known: str = identity.threads.origin
        except AttributeError:
            known = f',"origin":{json_text(self._origin_facts(identity))}'
            identity.threads.origin = known
        return known

    def _origin_facts(self, identity: Identity) -> dict[str, Any]:
        thread = self._thread_name(threading.current_thread().name[:100])
        return {**self._origin, "pid": identity.pid, "thread": thread}

    def _adopt(self) -> None:
        """In a forked child: leave the parent's descriptors alone and become a new writer."""
        if self._identity.life is not None:
            self._identity.life.forget()
        self._previous = self._identity.id
        self._start()


def _no_space(free: int) -> OSError:
    return OSError(errno.ENOSPC, f"low space: {free} bytes free, less than low_space_stop")


_writers: weakref.WeakSet[JournalWriter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A lock that was held at the fork would never be released here; `_adopt` makes new ones.
    for writer in list(_writers):
        writer._adopt()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork_in_child)
