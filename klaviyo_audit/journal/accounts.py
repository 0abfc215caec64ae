"""Keeping account of each writer's lines: which numbers came, and what was said about the rest."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.entry import Phase
from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity
from klaviyo_audit.journal.heads import writer_field, writer_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klaviyo_audit.journal.heads import Heads
    from klaviyo_audit.journal.reader import Run

_SPECIAL: Final = frozenset({Phase.GAP.value, Phase.JOURNAL.value})
_WRITER: Final = re.compile(r"[0-9a-f]{16}")
_TIMESTAMP: Final = re.compile(rb'"timestamp":"([^"]{1,40})"')

Range = tuple[int, int]
"""First and last number, both included."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Numbers that are not in the journal, and the line that follows them."""

    first: int
    last: int
    place: Place
    timestamp: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a ``journal.recover`` line says about a dead writer."""

    place: Place
    last: int
    missing: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class ToldTorn:
    """A torn piece that a line in the journal accounts for."""

    file: str | None
    """None: the line does not say."""
    offset: int
    length: int
    sha256: str | None


@dataclass(slots=True)
class Account:
    """What is known of one writer."""

    writer: str
    begin: Place | None = None
    """Its first line in the file."""
    next: int = 0
    """One more than the highest number seen."""
    latest: bytes = b""
    """The line with the highest number."""
    holes: list[Hole] = field(default_factory=list)
    """In order of their numbers."""
    opened: bool = False
    previous: str | None = None
    """The writer this one names as its predecessor in the process."""
    close: tuple[int, int, Place] | None = None
    """The goodbye: how many lines it says there are, its own number, its place."""
    recoveries: list[Recovery] = field(default_factory=list)
    lost: list[Range] = field(default_factory=list)
    """Numbers that were used for lines which could not be written, by gap entries."""
    claimed: set[int] = field(default_factory=set)
    """Numbers on lines whose checksum does not hold."""

    @property
    def ended(self) -> bool:
        """Whether no further line of this writer can come."""
        return self.close is not None or bool(self.recoveries)

    def take(self, number: int, line: bytes, place: Place) -> bool:
        """Note a line; False if its number was there already."""
        if number >= self.next:
            if number > self.next:
                self.holes.append(Hole(self.next, number - 1, place, timestamp_of(line)))
            self.next, self.latest = number + 1, line
            return True
        index = bisect_right(self.holes, number, key=lambda hole: hole.first) - 1
        if index < 0 or number > self.holes[index].last:
            return False
        hole = self.holes[index]
        left = Hole(hole.first, number - 1, place, timestamp_of(line))
        right = Hole(number + 1, hole.last, hole.place, hole.timestamp)
        self.holes[index : index + 1] = [one for one in (left, right) if one.first <= one.last]
        return True


def timestamp_of(line: bytes) -> str:
    """The timestamp of an intact line, for what rarely needs it; empty if it has none."""
    found = _TIMESTAMP.search(line, 0, 400)
    return "" if found is None else found[1].decode("utf-8", "replace")


class Accounts:
    """A pass over the journal that accounts for every writer's numbers.

    `findings` has what is certain at once; what only shows at the end is in the accounts.
    """

    def __init__(self) -> None:
        self._all: dict[bytes, Account] = {}
        self._running: dict[bytes, Account] = {}
        self.findings: list[Finding] = []
        self.torn: list[ToldTorn] = []

    def __iter__(self) -> Iterator[Account]:
        return iter(self._all.values())

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take a run of lines and their heads."""
        if not _SPECIAL.isdisjoint(heads.phases):
            for index in range(len(heads)):
                self._one(file, run, heads, index)
            return
        running = self._running.get
        columns = zip(run.lines, heads.writers, heads.numbers, strict=True)
        for index, (line, writer, number) in enumerate(columns):
            account = running(writer)
            if account is not None and account.next == number:
                account.next = number + 1
                account.latest = line
            else:
                self._one(file, run, heads, index)

    def claim(self, writer: str, number: int) -> None:
        """Note that a damaged line is where this one would be."""
        self.of(writer).claimed.add(number)

    def of(self, writer: str) -> Account:
        """The account of a writer, new if need be."""
        return self._account(writer_field(writer))

    def _account(self, writer: bytes) -> Account:
        account = self._all.get(writer)
        if account is None:
            account = self._all[writer] = self._running[writer] = Account(writer_id(writer))
        return account

    def _one(self, file: str, run: Run, heads: Heads, index: int) -> None:
        line, number = run.lines[index], heads.numbers[index]
        account = self._account(heads.writers[index])
        place = Place(file, *run.place(index))
        account.begin = account.begin or place
        if account.ended:
            said = "its goodbye" if account.close else "it was found dead"
            self._find(
                Kind.AFTER_GOODBYE, Severity.ERROR, place, account, number, f"a line after {said}"
            )
        if not account.take(number, line, place):
            self._find(
                Kind.DUPLICATE_NUMBER,
                Severity.ERROR,
                place,
                account,
                number,
                f"number {number} of this writer is in the journal already",
            )
        if heads.phases[index] in _SPECIAL:
            self._special(account, number, line, place)

    def _special(self, account: Account, number: int, line: bytes, place: Place) -> None:
        """A line about the journal itself. What is malformed in it explains nothing."""
        try:
            members = orjson.loads(line)
        except ValueError:
            self._find(
                Kind.FOREIGN, Severity.ERROR, place, account, number, "the line is not valid JSON"
            )
            return
        facts = members.get("metadata")
        facts = facts if isinstance(facts, dict) else {}
        action = members.get("action")
        if members["phase"] == Phase.GAP:
            self._gap(account, number, facts, place)
        elif action == "journal.open" and number == 0:
            account.opened = True
            previous = facts.get("previous")
            account.previous = previous if _is_writer(previous) else None
        elif action == "journal.close" and _is_number(facts.get("lines")):
            account.close = account.close or (facts["lines"], number, place)
            self._end(account)
        elif action == "journal.recover" and _is_writer(facts.get("writer")):
            dead = self.of(facts["writer"])
            missing = _ranges([[n, n] for n in _list(facts.get("missing"))])
            last = facts.get("last")
            dead.recoveries.append(Recovery(place, last if type(last) is int else -1, missing))
            self.torn += _told(facts.get("torn"), None)
            self._end(dead)
        elif action == "journal.truncated":
            message = f"the writer saw the file shrink ({_sizes(facts)})"
            self._find(Kind.TRUNCATED, Severity.ERROR, place, account, number, message)
        elif action == "journal.reopen":
            message = f"the writer went over to a new file: {str(facts.get('reason'))[:80]!r}"
            self._find(Kind.REOPENED, Severity.NOTE, place, account, number, message)

    def _gap(
        self, account: Account, number: int, facts: Mapping[str, Any], place: Place
    ) -> None:
        writer = facts.get("writer", account.writer)
        if not _is_writer(writer):
            return
        self.of(writer).lost += _ranges(facts.get("numbers"))
        self.torn += _told(facts.get("torn"), place.file)
        count = facts.get("count")
        if not _is_number(count) or count == 0:
            return
        operations = ", ".join(f"{name} ({times})" for name, times in _items(facts, "operations"))
        reasons = ", ".join(name for name, _ in _items(facts, "reasons"))
        message = (
            f"{count} entries could not be written from {str(facts.get('from'))[:40]!r} to "
            f"{str(facts.get('to'))[:40]!r} ({reasons or 'no reason given'}): {operations}"
        )
        self._find(Kind.GAP, Severity.WARNING, place, account, number, message)

    def _end(self, account: Account) -> None:
        self._running.pop(writer_field(account.writer), None)

    def _find(
        self,
        kind: Kind,
        severity: Severity,
        place: Place,
        account: Account,
        number: int,
        message: str,
    ) -> None:
        self.findings.append(
            Finding(
                kind=kind,
                severity=severity,
                file=place.file,
                line=place.line,
                offset=place.offset,
                writer=account.writer,
                n=number,
                message=message,
            )
        )


def _is_writer(value: Any) -> bool:
    return isinstance(value, str) and _WRITER.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _ranges(value: Any) -> tuple[Range, ...]:
    return tuple(
        (pair[0], pair[1])
        for pair in _list(value)
        if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))  # noqa: PLR2004  (a pair)
    )


def _items(facts: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    value = facts.get(name)
    return [(repr(key[:120]), item) for key, item in value.items()] if isinstance(value, dict) else []


def _sizes(facts: Mapping[str, Any]) -> str:
    sizes = (facts.get("size_seen"), facts.get("size"))
    return " to ".join(f"{size} bytes" for size in sizes if _is_number(size)) or "no sizes given"


def _told(value: Any, file: str | None) -> list[ToldTorn]:
    told = []
    for piece in _list(value):
        if not isinstance(piece, dict):
            continue
        offset, length = piece.get("offset"), piece.get("length")
        if _is_number(offset) and _is_number(length):
            digest = piece.get("sha256")
            told.append(ToldTorn(piece.get("file", file), offset, length, digest))
    return told
