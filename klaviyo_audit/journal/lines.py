"""What the lines of a journal say, whatever seals them: checksums, numbers, calls, writers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from klaviyo_audit.entry import Phase
from klaviyo_audit.journal import locks
from klaviyo_audit.journal.accounts import Account, Accounts
from klaviyo_audit.journal.damages import Damages
from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity
from klaviyo_audit.journal.heads import head_of, writer_id
from klaviyo_audit.journal.judgement import (
    Life,
    has_lines_in_flight,
    judge,
    killed_while_writing,
)
from klaviyo_audit.journal.passes import FilePass
from klaviyo_audit.journal.reader import Run
from klaviyo_audit.journal.repeats import Repeats, key_number
from klaviyo_audit.journal.statements import is_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from klaviyo_audit.journal.contents import Contents
    from klaviyo_audit.journal.heads import Heads
    from klaviyo_audit.journal.repeats import Stretch


class LineCheck:
    """Takes all lines of a journal, and says what is wrong with them.

    Args:
        writers: The folder of the writers' locks.
        own: Writers that are known to live, beside those whose lock is held.
    """

    def __init__(self, writers: Path, own: Collection[str]) -> None:
        self.whole = True
        """The journal is read from its beginning; see `judge`."""
        self.order: dict[str, int] = {}
        """The place of each file among the others, by name."""
        self.accounts = Accounts(self.order)
        self.repeats = Repeats()
        self.damages = Damages()
        self.passes = (self.accounts, self.repeats)
        self.filled = 0
        """Entries without a newline that count."""
        self._writers = writers
        self._own = frozenset(own)
        self._lives: dict[str, Life] = {}

    def look_at_writers(self) -> None:
        """See which writers live at present."""
        for account in self.accounts:
            if not account.ended and self._lives.get(account.writer) is not Life.DEAD:
                self._lives[account.writer] = self._life(account.writer)

    def waits_for_lines(self) -> bool:
        """Whether numbers are missing that living writers may be about to write."""
        return any(
            has_lines_in_flight(account, whole=self.whole)
            for account in self.accounts
            if self._life_of(account) is Life.ALIVE
        )

    def anybody_lives(self) -> bool:
        """Whether there is a writer that is not known to be dead."""
        names = {*self._lives, *self._lock_names()}
        return any(self._life(name) is not Life.DEAD for name in names)

    def findings(self) -> list[Finding]:
        """What was found, when everything has been read."""
        excused = self._fill()
        for writer, number in self.damages.claims:
            self.accounts.claim(writer, number)
        living = {writer for writer, life in self._lives.items() if life is Life.ALIVE}
        found = [*self.damages.findings, *self.damages.torn(self.accounts.torn, living, excused)]
        found += self.accounts.findings
        for account in self.accounts:
            found += judge(account, self._life_of(account), whole=self.whole)
        return [*found, *self._missing_writers()]

    def located(self, reopen: Callable[[str], Contents | None]) -> list[Finding]:
        """Repeated entries and open intents, after reading again where they seem to be."""
        repeated, intents = self.repeats.repeated(), self.repeats.open_intents()
        stretches: set[Stretch] = set()
        for phase, keys in repeated.items():
            stretches |= self.repeats.where(phase, keys)
        if intents:
            stretches |= self.repeats.where(Phase.INTENT.value, intents)
        first: dict[tuple[str, str], Place] = {}
        seen: set[Place] = set()
        found = []
        by_place = sorted(stretches, key=lambda one: (self.order[one.file], one.offset))
        for file, run, heads in _again(by_place, reopen):
            for index, phase in enumerate(heads.phases):
                key = key_number(heads.ids, index)
                is_open = phase == Phase.INTENT and key in intents
                if not is_open and key not in repeated.get(phase, ()):
                    continue
                place = Place(file, *run.place(index))
                if place in seen:  # what is read again can reach into the next stretch
                    continue
                seen.add(place)
                entry = orjson.loads(run.lines[index])
                earlier = first.setdefault((entry["id"], phase), place)
                if earlier is not place:
                    message = (
                        f"the {phase} of {entry['id']!r} is in line {earlier.line} of "
                        f"{earlier.file} already"
                    )
                    found.append(
                        _about(Kind.DUPLICATE_ENTRY, Severity.ERROR, place, heads, index, message)
                    )
                elif is_open:
                    found.append(self._open_intent(place, heads, index, entry["action"]))
        return found

    def _open_intent(self, place: Place, heads: Heads, index: int, action: str) -> Finding:
        account = self.accounts.of(writer_id(heads.writers[index]))
        severity, why = Severity.WARNING, "its outcome is not in the journal"
        if not account.ended and self._life_of(account) is Life.ALIVE:
            severity, why = Severity.NOTE, "the call is under way"
        return _about(
            Kind.OPEN_INTENT,
            severity,
            place,
            heads,
            index,
            f"a call was about to be sent ({action[:120]!r}): {why}",
        )

    def _fill(self) -> dict[tuple[str, int], Severity]:
        """Count entries that lack their newline; which of them a kill explains."""
        excused = {}
        for file, line in self.damages.whole:
            heads = head_of(line.raw)
            if heads is None:
                continue
            run = Run.at(line.number, line.offset, [line.raw + b"\n"])
            self.filled += self.accounts.fill(file, run, heads)
            writer, number = writer_id(heads.writers[0]), heads.numbers[0]
            severity = killed_while_writing(self.accounts.of(writer), number)
            if severity is not None:
                excused[writer, number] = severity
        return excused

    def _missing_writers(self) -> list[Finding]:
        """Writers that left a trace somewhere, but not one line."""
        known = {account.writer for account in self.accounts if account.begin is not None}
        known |= {account.writer for account in self.accounts if account.recoveries}
        traces = {
            account.previous: f"writer {account.writer} says that it came after this one"
            for account in self.accounts
            if account.previous is not None and self.whole
        }
        for name in self._lock_names():
            traces[name] = f"it has a lock file in {self._writers.name}/"
        return [
            self._missing_writer(writer, trace)
            for writer, trace in sorted(traces.items())
            if writer not in known
        ]

    def _missing_writer(self, writer: str, trace: str) -> Finding:
        severity, why = Severity.WARNING, f"but {trace}"
        if self._life(writer) is Life.ALIVE:
            severity, why = Severity.NOTE, "which is alive and may be about to write its first"
        where = "in the journal" if self.whole else "in what is there, or was looked at"
        return Finding(
            kind=Kind.MISSING_WRITER,
            severity=severity,
            writer=writer,
            message=f"not one line of this writer is {where}, {why}",
        )

    def _lock_names(self) -> list[str]:
        try:
            return [path.name for path in self._writers.iterdir() if is_writer(path.name)]
        except OSError:
            return []

    def _life_of(self, account: Account) -> Life:
        # One that came while we were reading, and has not been looked at, was alive then.
        return self._lives.get(account.writer, Life.ALIVE)

    def _life(self, writer: str) -> Life:
        if writer in self._own:
            return Life.ALIVE
        try:
            return Life.ALIVE if locks.is_locked(self._writers / writer) else Life.DEAD
        except OSError:
            return Life.UNKNOWN


class _Collected:
    """A pass that keeps what it is shown."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Run, Heads]] = []

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        self.items.append((file, run, heads))


def _again(
    stretches: Iterable[Stretch], reopen: Callable[[str], Contents | None]
) -> Iterator[tuple[str, Run, Heads]]:
    """Read stretches of the journal again; what is not there any more is passed over."""
    name, contents = "", None
    try:
        for stretch in stretches:
            if stretch.file != name:
                if contents is not None:
                    contents.close()
                name, contents = stretch.file, reopen(stretch.file)
            if contents is None:
                continue
            collected = _Collected()
            FilePass.at(stretch, contents.file, [collected]).on_to(stretch.end)
            yield from collected.items
    finally:
        if contents is not None:
            contents.close()


def _about(
    kind: Kind, severity: Severity, place: Place, heads: Heads, index: int, message: str
) -> Finding:
    return Finding(
        kind=kind,
        severity=severity,
        file=place.file,
        line=place.line,
        offset=place.offset,
        writer=writer_id(heads.writers[index]),
        n=heads.numbers[index],
        message=message,
    )
