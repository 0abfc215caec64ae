"""What is left to deliver to a sink, seen from outside of the process that ships."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.sinks.backlog import Backlog
from klaviyo_audit.sinks.bookmark import Place, load_bookmark
from klaviyo_audit.sinks.files import journal_files, live_number
from klaviyo_audit.sinks.folder import SINKS_NAME
from klaviyo_audit.sinks.receipts import delivered_marks, missing_bookmark
from klaviyo_audit.sinks.registry import EPHEMERAL

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from klaviyo_audit.sinks.bookmark import Bookmark

_NOTHING: Final = 2**63 - 1
_TRIES: Final = 3
_TAIL_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a sink is behind the journal."""

    lines: int
    """Lines that were not acknowledged yet, those its filter will leave out included."""
    since: str | None
    """Timestamp of the first of them."""


def lag_of(folder: Path, bookmark: Bookmark | None) -> Lag:
    """How far a sink is behind.

    Args:
        folder: The sink's folder.
        bookmark: Its bookmark.

    Raises:
        OSError: The journal cannot be read.
        JournalCorrupt: A compressed file is damaged.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):  # compressed and removed at that moment
            return _lag_of(folder, bookmark)
    return _lag_of(folder, bookmark)


def _lag_of(folder: Path, bookmark: Bookmark | None) -> Lag:
    backlog = _backlog(folder, bookmark)
    try:
        lines = backlog.take()
        since = next((line.members["timestamp"] for line in lines if line.members), None)
        return Lag(bool(lines) + backlog.count_rest(), since)
    finally:
        backlog.close()


def journal_end(directory: Path) -> Place | None:
    """Where the last whole line of the journal's live file ends; None if it cannot be read."""
    try:
        with open_journal(directory / JOURNAL_NAME) as file:
            facts = os.fstat(file.fileno())
            start = max(0, facts.st_size - _TAIL_BYTES)
            tail = os.pread(file.fileno(), _TAIL_BYTES, start)
    except OSError:
        return None
    return Place(None, facts.st_dev, facts.st_ino, start + tail.rfind(b"\n") + 1)


def is_delivered_up_to(folder: Path, time: str, end: Place | None) -> bool:
    """Whether every entry that was in the journal at a time was acknowledged.

    Args:
        folder: The sink's folder.
        time: As entries have it. What is appended after it is stamped later, unless the clock was
            set back.
        end: Where the journal ended then, as `journal_end` tells.
    """
    try:
        bookmark = load_bookmark(folder)
        if bookmark is None or not _is_past(folder.parent.parent, bookmark, end):
            return False
        backlog = _backlog(folder, bookmark)
    except (OSError, JournalCorrupt):
        return False
    try:
        while lines := backlog.take():
            for line in lines:
                if line.members:
                    return bool(line.members["timestamp"] > time)
    except (OSError, JournalCorrupt):
        return False
    finally:
        backlog.close()
    return True


def _is_past(directory: Path, bookmark: Bookmark, end: Place | None) -> bool:
    """Whether a bookmark is after an end; also where nobody can tell any more."""
    if end is None:
        return True
    for place in (*bookmark.waiting, bookmark.present):
        if place and (place.device, place.inode) == (end.device, end.inode):
            return place.offset >= end.offset
    for file in journal_files(directory):
        if file.identity == (end.device, end.inode):
            return file.number is not None and file.number <= bookmark.done
    return True  # compressed or removed meanwhile


def _backlog(folder: Path, bookmark: Bookmark | None) -> Backlog:
    return Backlog(
        folder.parent.parent,
        bookmark,
        marks=lambda: delivered_marks(folder),
        search=bookmark is None and missing_bookmark(folder) is not None,
        patient=False,
        tell=lambda _: None,
    )


def needed_from(directory: Path, names: Iterable[str] = ()) -> int:
    """The number of the first file that a sink still needs, for retention.

    Args:
        directory: The journal's folder.
        names: Sinks that count even if they have not begun; those that have a folder beside the
            journal all count. Whoever gives up a sink removes its folder.

    Returns:
        The number; a very high one if no sink needs any.
    """
    folders = {directory / SINKS_NAME / name for name in names if name not in EPHEMERAL}
    sinks = directory / SINKS_NAME
    if sinks.is_dir():
        folders |= {path for path in sinks.iterdir() if path.is_dir()}
    return min((_needed(directory, folder) for folder in folders), default=_NOTHING)


def _needed(directory: Path, folder: Path) -> int:
    try:
        bookmark = load_bookmark(folder)
    except (OSError, JournalCorrupt):
        return 0  # it will be looked for in the whole journal
    if bookmark is None:
        return 0
    files = journal_files(directory)
    places = [*bookmark.waiting, *([bookmark.present] if bookmark.present else [])]
    needed = [_number(directory, place, {f.identity: f.number for f in files}) for place in places]
    if bookmark.present is None:
        later = [file.number for file in files if (file.number or 0) > bookmark.done]
        needed.append(min((number for number in later if number is not None), default=_NOTHING))
    return min(needed, default=_NOTHING)


def _number(
    directory: Path, place: Place, numbers: dict[tuple[int, int] | None, int | None]
) -> int:
    if place.file is not None:
        return place.file
    identity = (place.device, place.inode)
    if identity not in numbers:
        return 0  # nobody knows: everything is kept
    number = numbers[identity]
    number = live_number(directory) if number is None else number
    return _NOTHING if number is None else number
