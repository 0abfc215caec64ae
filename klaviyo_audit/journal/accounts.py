"""Keeping account of each writer's lines: which numbers came, and what was said about the rest."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.entry import Phase
from klaviyo_audit.journal import statements
from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity
from klaviyo_audit.journal.heads import writer_field, writer_id
from klaviyo_audit.journal.statements import is_number, is_writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klaviyo_audit.journal.heads import Heads
    from klaviyo_audit.journal.reader import Run
    from klaviyo_audit.journal.statements import Range, Recovery, ToldTorn

_SPECIAL: Final = frozenset({Phase.GAP.value, Phase.JOURNAL.value})
_TIMESTAMP: Final = re.compile(rb'"timestamp":"([^"]{1,40})"')


@dataclass(frozen=True, slots=True)
class Hole:
    """Numbers that are not in the journal, and the line that follows them."""

    first: int
    last: int
    place: Place
    timestamp: str


@dataclass(slots=True)
class Account:
    """What is known of one writer."""

    writer: str
    begin: Place | None = None
    """Its first line."""
    first: int = 0
    """Number of that line."""
    first_at: str = ""
    """Its timestamp."""
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
    end: tuple[int, int] | None = None
    """The first place at which it is said to have ended: file, by its place, and line."""
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

    def __init__(self, order: Mapping[str, int]) -> None:
        """Begin.

        Args:
            order: The place of each file among the others, by name.
        """
        self._order = order
        self._all: dict[bytes, Account] = {}
        self._running: dict[bytes, Account] = {}
        self.findings: list[Finding] = []
        self.torn: list[ToldTorn] = []
        self.removals: list[tuple[Place, dict[str, Any]]] = []
        """What lines say that retention has removed."""

    def __iter__(self) -> Iterator[Account]:
        return iter(self._all.values())

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take a run of lines and their heads."""
        if not _SPECIAL.isdisjoint(heads.phases):
            for index in range(len(heads)):
                self._one(file, run, heads, index)
            return
        running = self._running.get
        numbers = heads.numbers
        first = running(heads.writers[0])
        if (
            first is not None
            and first.next == numbers[0]
            and numbers == list(range(first.next, first.next + len(numbers)))
            and len(set(heads.writers)) == 1
        ):
            # The lines of one thread, in order: the usual case, and there it is twice as fast.
            first.next += len(numbers)
            first.latest = run.lines[-1]
            return
        columns = zip(run.lines, heads.writers, numbers, strict=True)
        for index, (line, writer, number) in enumerate(columns):
            account = running(writer)
            if account is not None and account.next == number:
                account.next = number + 1
                account.latest = line
            else:
                self._one(file, run, heads, index)

    def fill(self, file: str, run: Run, heads: Heads) -> bool:
        """Take an entry without a newline, when all others have been taken.

        A short write can leave all of a line but its newline, and the writer then tries again.

        Returns:
            Whether it counts: no other line has its number.
        """
        account = self._account(heads.writers[0])
        line, number = run.lines[0], heads.numbers[0]
        place = Place(file, *run.place(0))
        if not account.take(number, line, place):
            return False
        if account.begin is None:
            account.begin, account.first = place, number
            account.first_at = timestamp_of(line)
        if heads.phases[0] in _SPECIAL:
            self._special(account, number, line, place)
        return True

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
        if account.begin is None:
            account.begin, account.first = place, number
            account.first_at = timestamp_of(line)
        # Late lines are read later than their writer's end, but stand before it: in a file that was
        # rotated away before, where threads had it open.
        if account.end is not None and (self._order[place.file], place.line) > account.end:
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
        facts = statements.facts_of(members)
        action = members.get("action")
        if members["phase"] == Phase.GAP:
            self.torn += statements.torn(facts, place.file)
            writer = facts.get("writer")
            loser = self.of(writer) if is_writer(writer) else account
            loser.lost += statements.lost_numbers(facts)
            message = statements.describe_gap(facts)
            if message:
                self._find(Kind.GAP, Severity.WARNING, place, account, number, message)
        elif action == "journal.open" and number == 0:
            account.opened = True
            previous = facts.get("previous")
            account.previous = previous if is_writer(previous) else None
        elif action == "journal.close" and is_number(facts.get("lines")):
            if account.close is None and account.next > number + 1:
                message = f"its goodbye is number {number}, and it has number {account.next - 1}"
                self._find(Kind.AFTER_GOODBYE, Severity.ERROR, place, account, number, message)
            account.close = account.close or (facts["lines"], number, place)
            self._end(account, account.close[2])
        elif action == "journal.recover" and is_writer(facts.get("writer")):
            dead = self.of(facts["writer"])
            dead.recoveries.append(statements.recovery(facts, place))
            self.torn += statements.torn(facts, place.file)
            self._end(dead, place)
        elif action == statements.RETENTION:
            self.removals.append((place, facts))
        elif action == "journal.truncated":
            message = f"the writer saw the file shrink ({statements.describe_sizes(facts)})"
            self._find(Kind.TRUNCATED, Severity.ERROR, place, account, number, message)
        elif action == "journal.clock":
            message = statements.describe_step(facts)
            self._find(Kind.CLOCK, Severity.NOTE, place, account, number, message)
        elif action == "journal.reopen":
            message = f"the writer went over to a new file: {str(facts.get('reason'))[:80]!r}"
            self._find(Kind.REOPENED, Severity.NOTE, place, account, number, message)

    def _end(self, account: Account, place: Place) -> None:
        at = (self._order[place.file], place.line)
        account.end = at if account.end is None else min(account.end, at)
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
