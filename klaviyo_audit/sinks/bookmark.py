"""How far a sink has got in the journal, kept in a small file beside its receipts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from klaviyo_audit import clock
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.format import checksum_holds, encode
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.sidefile import replace_file

if TYPE_CHECKING:
    from pathlib import Path

BOOKMARK_NAME: Final = "bookmark"

_VERSION: Final = 1
_SYNC_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """How far one file of the journal was read."""

    file: int | None
    """Which one: the tree index of its first line. None as long as that is not known."""
    device: int
    inode: int
    offset: int = 0
    """Start of the first line that was not taken yet: byte of what the file holds, uncompressed."""
    lines: int = 0
    """How many lines of the file are before that, damaged ones included."""
    mark: int = 0
    """The byte after the last whole entry that was taken, its newline not counted."""
    size: int = 0
    """How many bytes that entry has."""
    sum: str = ""
    """Its `sum`: it shows whether the file is still the one that was read."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The last entry that was taken."""

    id: str
    phase: str
    sum: str
    timestamp: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything before this was acknowledged, filtered out or put to the dead letters."""

    present: Place | None = None
    """The file that is being read."""
    waiting: tuple[Place, ...] = ()
    """Earlier files that a writer may still have open, and add late lines to."""
    done: int = -1
    """The highest number of a file that was left behind; -1: none was."""
    last: Reached | None = None
    delivered: int = 0
    """Entries that were acknowledged so far."""
    filtered: int = 0
    """Entries that the sink's filter left out so far."""
    damaged: int = 0
    """Pieces of the journal so far that are no entries."""
    dead: int = 0
    """Entries that went to the dead letters so far."""

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> Self:
        """Build one from the members that `to_dict` gave.

        Raises:
            ValueError: They are not what a shipper can have written.
        """
        try:
            if members["v"] != _VERSION:
                raise ValueError(f"version {members['v']!r} is not known to this version")
            present, last = members["present"], members["last"]
            return cls(
                present=Place(**present) if present else None,
                waiting=tuple(Place(**place) for place in members["waiting"]),
                done=int(members["done"]),
                last=Reached(**last) if last else None,
                **{name: int(members[name]) for name in _COUNTS},
            )
        except (LookupError, TypeError) as error:
            raise ValueError(f"it lacks what a bookmark has ({error})") from error

    def to_dict(self) -> dict[str, Any]:
        """The members as JSON has them."""
        return {"v": _VERSION, **dataclasses.asdict(self)}


_COUNTS: Final = ("delivered", "filtered", "damaged", "dead")


def load_bookmark(folder: Path) -> Bookmark | None:
    """A sink's bookmark; None if it has none yet.

    Args:
        folder: The sink's folder.

    Raises:
        JournalCorrupt: There is one, and it is not as it was saved.
        OSError: It cannot be read.
    """
    path = folder / BOOKMARK_NAME
    try:
        with open_journal(path) as file:
            line = file.read().removesuffix(b"\n")
    except FileNotFoundError:
        return None
    try:
        return Bookmark.from_dict(orjson.loads(line) if checksum_holds(line) else {})
    except ValueError as error:
        raise JournalCorrupt(f"the bookmark {path} can't be used: {error}") from error


class BookmarkFile:
    """Saves one sink's bookmark, each time whole: after a crash it is an old one or the new one.

    A bookmark that a power loss took costs repeated deliveries and nothing else, so that it is
    forced to the disk once a second and at the end, not each time.

    Args:
        folder: The sink's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sync_at = 0.0

    def save(self, bookmark: Bookmark, *, last: bool = False) -> None:
        """Replace the saved bookmark.

        Args:
            bookmark: The new one.
            last: No other will follow soon.

        Raises:
            OSError: It cannot be written; the old one is still there.
        """
        members = {**bookmark.to_dict(), "saved_at": clock.now()}
        now = monotonic()
        sync = last or now >= self._sync_at
        replace_file(self._folder / BOOKMARK_NAME, encode(members), sync=sync)
        if sync:
            self._sync_at = now + _SYNC_SECONDS
