"""What is written down about a sink beside the journal, and the lock that says who may."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from klaviyo_audit import clock
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.segments import read_segments
from klaviyo_audit.sinks.backlog import Backlog
from klaviyo_audit.sinks.bookmark import Bookmark, BookmarkFile, load_bookmark
from klaviyo_audit.sinks.deadletters import bury
from klaviyo_audit.sinks.files import tree_index
from klaviyo_audit.sinks.folder import SinkLock, make_sink_folder, sink_folder
from klaviyo_audit.sinks.receipts import delivered_marks, missing_bookmark, write_receipt
from klaviyo_audit.sinks.state import save_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.sinks.batch import Batch, DeadLetter
    from klaviyo_audit.sinks.condition import Condition

_STATE_SECONDS: Final = 1.0
_SAVE_SECONDS: Final = 1.0


class Source(Protocol):
    """Where a shipper takes lines from."""

    def take(self) -> Sequence[Line]:
        """The next line; nothing when there is none now."""

    def put_back(self) -> None:
        """Undo the last `take`, which gave something."""

    def look_again(self) -> None:
        """There may be something new."""

    def bookmark(self, counts: Bookmark) -> Bookmark:
        """The place after what was taken."""

    def close(self) -> None:
        """Let go of it."""


class Books(Protocol):
    """Where a shipper starts, and what it writes down."""

    is_lasting: bool
    """What is not delivered now can be delivered by another process."""

    @property
    def is_owner(self) -> bool:
        """Whether this process is the one that ships."""

    def own(self) -> bool:
        """Become the one that ships, if nobody else is; whether it is now."""

    def open(self, tell: Callable[[str], None]) -> tuple[Source, Bookmark]:
        """The lines that were not delivered yet, and the bookmark before them."""

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep what can't be delivered. Raises OSError where that is not possible."""

    def note(self, batch: Batch, *, rejected: int, attempts: int, facts: Mapping[str, Any]) -> None:
        """Write a receipt. Raises OSError where that is not possible."""

    def save(self, bookmark: Bookmark, *, last: bool = False, lazily: bool = False) -> None:
        """Move the bookmark. Raises OSError where that is not possible."""

    def show(self, condition: Condition) -> None:
        """Say how the sink does, and save what was put off. Raises OSError."""

    def drop(self) -> None:
        """Give up the right to ship."""

    def forget(self) -> None:
        """In a forked child: let go of what the parent has, and keeps."""


class JournalBooks:
    """The files in ``<journal>/sinks/<name>``.

    Args:
        directory: The journal's folder; it need not be there yet.
        name: The sink's name.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.is_lasting = True
        self.folder = sink_folder(directory, name)
        self._directory = directory
        self._name = name
        self._lock = SinkLock(self.folder)
        self._saver = BookmarkFile(self.folder)
        self._unsaved: Bookmark | None = None
        self._save_at = self._show_at = 0.0
        self._shown: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}

    @property
    def is_owner(self) -> bool:
        """See `Books.is_owner`."""
        return self._lock.held

    def own(self) -> bool:
        """See `Books.own`."""
        self._unsaved = None
        make_sink_folder(self._directory, self._name)
        return self._lock.take()

    def open(self, tell: Callable[[str], None]) -> tuple[Source, Bookmark]:
        """See `Books.open`."""
        bookmark, lost = None, False
        try:
            bookmark = load_bookmark(self.folder)
        except JournalCorrupt as error:
            tell(str(error))
            lost = True
        if bookmark is None and not lost and (why := missing_bookmark(self.folder)):
            tell(why)
            lost = True
        backlog = Backlog(
            self._directory,
            bookmark,
            marks=partial(delivered_marks, self.folder),
            search=lost,
            tell=tell,
        )
        return backlog, bookmark or Bookmark()

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See `Books.bury`."""
        bury(self.folder, letters)

    def note(self, batch: Batch, *, rejected: int, attempts: int, facts: Mapping[str, Any]) -> None:
        """See `Books.note`."""
        segments = read_segments(self._directory)
        begin, end = (
            tree_index(segments, place.file, place.lines) if place else None
            for place in (batch.begin, batch.end.present)
        )
        write_receipt(
            self.folder,
            self._name,
            batch,
            rejected=rejected,
            attempts=attempts,
            facts=facts,
            tree=(begin, end),
        )

    def save(self, bookmark: Bookmark, *, last: bool = False, lazily: bool = False) -> None:
        """See `Books.save`; lazily: at most once a second, since nothing was delivered."""
        self._unsaved = bookmark
        now = monotonic()
        if lazily and now < self._save_at:
            return
        self._save_at = now + _SAVE_SECONDS
        self._saver.save(bookmark, last=last)
        self._unsaved = None

    def show(self, condition: Condition) -> None:
        """See `Books.show`."""
        if self._unsaved is not None:
            self.save(self._unsaved, lazily=True)
        now = monotonic()
        said = condition.to_dict()
        said.pop("caught_up_at", None)  # an idle sink is no reason to write
        urgent = any(said.get(n) != self._shown.get(n) for n in ("state", "error", "overdue"))
        self._latest = said
        if said != self._shown and (now >= self._show_at or urgent):
            self._show_at = now + _STATE_SECONDS
            self._save_state()

    def _save_state(self) -> None:
        said = self._shown = self._latest
        who = {"v": 1, "at": clock.now(), "host": socket.gethostname(), "pid": os.getpid()}
        save_state(self.folder, {**who, **said})

    def drop(self) -> None:
        """See `Books.drop`."""
        try:
            if self._unsaved is not None and self._lock.held:
                self._saver.save(self._unsaved, last=True)
            if self._latest != self._shown and self._lock.held:
                self._save_state()  # else a short run would leave its beginning
        finally:
            self._lock.drop()

    def forget(self) -> None:
        """In a forked child: let go of the parent's lock, which the parent keeps."""
        self._lock.drop()


class EphemeralBooks:
    """For a sink that keeps nothing: it begins at the journal's end, and leaves no trace.

    Args:
        directory: The journal's folder.
    """

    def __init__(self, directory: Path) -> None:
        self.is_lasting = True  # in the journal, that is
        self._directory = directory
        self._place = Backlog.at_end(directory)

    @property
    def is_owner(self) -> bool:
        """See `Books.is_owner`."""
        return True

    def own(self) -> bool:
        """See `Books.own`."""
        return True

    def open(self, tell: Callable[[str], None]) -> tuple[Source, Bookmark]:
        """See `Books.open`."""
        backlog = Backlog(self._directory, self._place, tell=tell)
        return backlog, self._place

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """They are in the journal."""

    def note(self, batch: Batch, *, rejected: int, attempts: int, facts: Mapping[str, Any]) -> None:
        """Nobody could show it to anybody."""

    def save(self, bookmark: Bookmark, *, last: bool = False, lazily: bool = False) -> None:
        """Remember where to go on if the journal has to be opened again."""
        del last, lazily
        self._place = replace(bookmark)

    def show(self, condition: Condition) -> None:
        """The condition itself is all there is."""

    def drop(self) -> None:
        """There is no lock."""

    def forget(self) -> None:
        """Likewise."""
