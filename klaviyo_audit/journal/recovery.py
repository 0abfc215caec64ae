"""Closing what writers that died left open: their intents, their missing numbers, torn lines."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from klaviyo_audit import clock
from klaviyo_audit.entry import SCHEMA_VERSION, Phase, Result
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal import folder, locks, statements
from klaviyo_audit.journal.contents import read_file
from klaviyo_audit.journal.line import Problem
from klaviyo_audit.journal.segments import being_rotated, file_name, rotated_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from klaviyo_audit.journal.line import Line
    from klaviyo_audit.journal.statements import Range

_LOCK_NAME = "recovery.lock"
_COPIED = ("action", "user_id", "resource", "parent_id", "call", "key", "actor", "request")
_MAX_LISTED = 1_000
_UNFINISHED_SECONDS = 60.0


class Pen(Protocol):
    """What recovery needs of a journal writer."""

    @property
    def directory(self) -> Path:
        """The journal's folder."""

    def append(self, members: dict[str, Any], *, linked: bool = False) -> OSError | None:
        """See `JournalWriter.append`."""


@dataclass(slots=True)
class LooseEnds:
    """What one writer left in the journal."""

    writer: str
    numbers: set[int] = field(default_factory=set)
    explained: list[Range] = field(default_factory=list)
    """Numbers that a gap entry names."""
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Intents without an outcome, by id."""
    ended: bool = False
    """It said goodbye, or was found dead before."""

    @property
    def last(self) -> int:
        """Highest number seen; -1 when there is none."""
        return max(self.numbers, default=-1)

    @property
    def missing(self) -> list[int]:
        """The first numbers below the last that are neither in the journal nor explained.

        There can be any number of them, and of those that are explained, as somebody wrote them.
        """
        missing: list[int] = []
        at = 0
        for first, last in sorted([*((n, n) for n in self.numbers), *self.explained]):
            room = _MAX_LISTED - len(missing)
            missing += range(at, min(first, self.last, at + room))
            at = max(at, last + 1)
        return missing


@dataclass(frozen=True, slots=True)
class Torn:
    """A piece of a line that was left by a kill or a full disk."""

    file: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did."""

    writers: tuple[str, ...]
    """Dead writers whose loose ends were tied."""
    resolved: tuple[dict[str, Any], ...]
    """The intents that were closed as unknown."""


def dead_writers(directory: Path, own: Iterable[str]) -> list[str]:
    """Writers that ended without a goodbye: their life lock's file is there, and unlocked.

    Args:
        directory: The journal's folder.
        own: Writers of this process, whose locks do not show.
    """
    living = set(own)
    try:
        names = sorted(path.name for path in (directory / folder.WRITERS_NAME).iterdir())
    except OSError:
        return []
    dead = []
    for name in names:
        if name in living or not locks.is_life_lock(name):
            continue
        with contextlib.suppress(OSError):
            if not locks.is_locked(directory / folder.WRITERS_NAME / name):
                dead.append(name)
    return dead


def recover(pen: Pen, own: Iterable[str], *, everything: bool = False) -> Recovered:
    """Tie the loose ends of dead writers, each once, whoever comes first.

    Args:
        pen: Where the lines about it are written.
        own: Writers of this process.
        everything: Also close intents of writers that did say goodbye, or were found dead before
            (their outcome was lost to a full disk, say).

    Returns:
        What was done; nothing when another process is at it.
    """
    directory = pen.directory
    own = set(own)
    dead = dead_writers(directory, own)
    if not dead and not everything:
        return Recovered((), ())
    try:
        lock = locks.LifeLock(directory / _LOCK_NAME)
    except OSError:
        return Recovered((), ())
    try:
        # Whoever held the lock before may have done it all.
        return _recover(pen, own, dead_writers(directory, own), everything=everything)
    finally:
        lock.release(remove=False)


def _recover(pen: Pen, own: set[str], dead: list[str], *, everything: bool) -> Recovered:
    if not dead and not everything:
        return Recovered((), ())
    _sweep(pen.directory / folder.WRITERS_NAME)
    ends, torn = survey(pen.directory, None if everything else set(dead))
    resolved: list[dict[str, Any]] = []
    tied: list[str] = []
    for name in dead:
        found = ends.get(name, LooseEnds(name))
        resolved += _close_intents(pen, found, "its writer died")
        if found.intents:
            continue  # the journal did not take it all; whoever comes next tries again
        metadata = {
            "writer": name,
            "last": found.last,
            "missing": found.missing,
            "torn": [
                {"file": t.file, "offset": t.offset, "length": t.length, "sha256": t.sha256}
                for t in torn[:_MAX_LISTED]
            ],
        }
        torn = []
        if pen.append(_about_journal("journal.recover", metadata)) is None:
            (pen.directory / folder.WRITERS_NAME / name).unlink(missing_ok=True)
            tied.append(name)
    if everything:
        for found in ends.values():
            if found.ended and found.writer not in own and found.writer not in dead:
                resolved += _close_intents(pen, found, "its outcome was never written")
    return Recovered(tuple(tied), tuple(resolved))


def _sweep(writers: Path) -> None:
    """Remove files of locks that were never finished: their makers were killed while at it."""
    for path in writers.iterdir():
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if not locks.is_life_lock(path.name) and age > _UNFINISHED_SECONDS:
                path.unlink()


def _close_intents(pen: Pen, ends: LooseEnds, why: str) -> list[dict[str, Any]]:
    closed = []
    for intent in ends.intents.values():
        members: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "id": intent["id"],
            "writer": None,
            "n": None,
            "timestamp": clock.now(),
            "phase": Phase.OUTCOME.value,
            "action": intent["action"],
            "user_id": intent["user_id"],
            "result": Result.UNKNOWN.value,
        }
        members |= {name: intent[name] for name in _COPIED if name in intent}
        members["origin"] = None
        members["metadata"] = {
            "resolved": {
                "why": why,
                "writer": ends.writer,
                "intent_at": intent["timestamp"],
                "known": "the intent was written; whether the request was sent is not known",
            }
        }
        if pen.append(members) is None:
            closed.append(intent)
    for intent in closed:
        del ends.intents[intent["id"]]
    return closed


def _about_journal(action: str, metadata: dict[str, Any]) -> dict[str, Any]:
    from uuid_utils import uuid7

    return {
        "v": SCHEMA_VERSION,
        "id": str(uuid7()),
        "writer": None,
        "n": None,
        "timestamp": clock.now(),
        "phase": Phase.JOURNAL.value,
        "action": action,
        "user_id": "klaviyo-audit",
        "origin": None,
        "metadata": metadata,
    }


def survey(
    directory: Path, wanted: set[str] | None = None
) -> tuple[dict[str, LooseEnds], list[Torn]]:
    """Read the journal for what its writers left open, and for torn pieces not told yet.

    Args:
        directory: The journal's folder.
        wanted: Read back no further than the first lines of these writers; None to read it all.
    """
    found = _Survey()
    for path in _newest_first(directory):
        # What is damaged, or was removed meanwhile, `verify` speaks of.
        with contextlib.suppress(FileNotFoundError, JournalCorrupt):
            for line in read_file(path):
                found.take(path.name, line)
        if wanted is not None and all(
            name in found.ends and 0 in found.ends[name].numbers for name in wanted
        ):
            break
    return found.ends, [piece for place, piece in found.torn.items() if place not in found.told]


class _Survey:
    """Collects loose ends; files may come in any order, lines of a file come in theirs."""

    def __init__(self) -> None:
        self.ends: dict[str, LooseEnds] = {}
        self.torn: dict[tuple[str, int], Torn] = {}
        self.told: set[tuple[str, int]] = set()
        self._intents: dict[str, LooseEnds] = {}
        self._outcomes: set[str] = set()

    def take(self, file: str, line: Line) -> None:
        members = line.members
        if members is None:
            # Only what a kill, a full disk or a power loss leaves is explained; what somebody
            # changed or put there stays a finding.
            if line.problem in (Problem.TORN, Problem.NUL):
                digest = sha256(line.raw).hexdigest()
                self.torn[file, line.offset] = Torn(file, line.offset, len(line.raw), digest)
            return
        of_writer = self._of(members["writer"])
        of_writer.numbers.add(members["n"])
        phase = members["phase"]
        if phase == Phase.INTENT:
            if members["id"] not in self._outcomes:
                of_writer.intents[members["id"]] = members
                self._intents[members["id"]] = of_writer
        elif phase == Phase.OUTCOME:
            self._outcomes.add(members["id"])
            holder = self._intents.pop(members["id"], None)
            if holder is not None:
                del holder.intents[members["id"]]
        elif phase == Phase.GAP:
            self._explain(file, members)
        elif members["action"] == "journal.close":
            of_writer.ended = True
        elif members["action"] == "journal.recover":
            facts = statements.facts_of(members)
            self._of(str(facts.get("writer"))).ended = True
            self._tell(file, facts)

    def _of(self, writer: str) -> LooseEnds:
        return self.ends.setdefault(writer, LooseEnds(writer))

    def _explain(self, file: str, gap: dict[str, Any]) -> None:
        facts = statements.facts_of(gap)
        of_writer = self._of(str(facts.get("writer", gap["writer"])))
        of_writer.explained += statements.lost_numbers(facts)
        self._tell(file, facts)

    def _tell(self, file: str, facts: dict[str, Any]) -> None:
        pieces = facts.get("torn")
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict) and statements.is_number(piece.get("offset")):
                self.told.add((str(piece.get("file", file)), piece["offset"]))


def _newest_first(directory: Path) -> Iterator[Path]:
    """The journal's files. One that is rotated meanwhile is given twice, and none left out."""
    live = directory / folder.JOURNAL_NAME
    yield live
    yield from (path for path in reversed(journal_files(directory)) if path != live)


def journal_files(directory: Path) -> list[Path]:
    """The journal's files, oldest first, the live one last; rotated ones may be compressed."""
    numbers = rotated_files(directory).keys() | being_rotated(directory).keys()
    rotated = [directory / file_name(number) for number in sorted(numbers)]
    live = directory / folder.JOURNAL_NAME
    return [*rotated, live] if live.exists() else rotated
