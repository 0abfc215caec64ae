"""Checking that a journal is what was written."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal import folder, locks
from klaviyo_audit.journal.accounts import Account, Accounts
from klaviyo_audit.journal.damages import Damages
from klaviyo_audit.journal.findings import Finding, Kind, Report, Severity
from klaviyo_audit.journal.heads import heads_of, writer_id
from klaviyo_audit.journal.judgement import (
    Life,
    has_lines_in_flight,
    judge,
    killed_while_writing,
)
from klaviyo_audit.journal.passes import FilePass
from klaviyo_audit.journal.reader import Run, open_journal
from klaviyo_audit.journal.repeats import Locator, Repeats
from klaviyo_audit.journal.statements import is_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

_PATIENCE_SECONDS: Final = 0.5
"""How long to wait for lines that living writers may be about to finish."""
_POLL_SECONDS: Final = 0.02


def verify(
    path: Path,
    *,
    own: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a journal from its beginning to its present end, and list all that does not hold.

    It may be in use. What this can't show is said in docs/journal-format.md: chiefly, lines that
    somebody changed who also recomputed the checksum, before a checkpoint has sealed them.

    Args:
        path: The journal's folder, or one journal file.
        own: Writers that are known to live, beside those whose lock is held.
        progress: Called now and then with the bytes read and the bytes there are.

    Raises:
        OSError: There is no journal, or it cannot be read.
    """
    files = journal_files(path)
    with ExitStack() as stack:
        opened = [(file.name, stack.enter_context(open_journal(file))) for file in files]
        check = _Check(files[0].parent / folder.WRITERS_NAME, own)
        readings = [FilePass(name, file, check.passes, check.damages.take) for name, file in opened]
        _read_all(readings, progress)
        check.catch_up(readings[-1])
        findings = check.findings()
        suspects = check.repeats.suspects()
        if suspects:
            locator = Locator(suspects)
            for (name, file), reading in zip(opened, readings, strict=True):
                FilePass(name, file, [locator], lambda *_: None).on_to(reading.offset)
            findings += locator.findings
    order = {reading.name: index for index, reading in enumerate(readings)}
    findings.sort(key=lambda one: (order.get(one.file or "", len(order)), one.offset or 0))
    return Report(
        files=tuple(order),
        entries=sum(reading.entries for reading in readings) + check.filled,
        writers=sum(account.begin is not None for account in check.accounts),
        bytes=sum(reading.offset for reading in readings),
        findings=tuple(findings),
    )


def journal_files(path: Path) -> Sequence[Path]:
    """The files of a journal, oldest first, the one that is written to last.

    Args:
        path: The journal's folder, or one file.

    Raises:
        FileNotFoundError: There is no journal.
    """
    if path.is_dir():
        file = path / folder.JOURNAL_NAME
        if not (file.exists() or file.is_symlink()):
            raise FileNotFoundError(f"there is no journal in {path}: it has no {file.name}")
        return [file]
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return [path.resolve()]


def _read_all(readings: Sequence[FilePass], progress: Callable[[int, int], None] | None) -> None:
    sizes = [reading.size() for reading in readings]
    total, before = sum(sizes), 0
    for reading, size in zip(readings, sizes, strict=True):
        # Only the last file is still written to.
        final = reading is not readings[-1]
        if progress is None:
            reading.on_to(size, final=final)
        else:
            show = partial(_show_sum, progress, before, total)
            reading.on_to(size, final=final, progress=show)
        before += size


def _show_sum(progress: Callable[[int, int], None], before: int, total: int, offset: int) -> None:
    progress(min(before + offset, total), total)


class _Check:
    """One verification under way."""

    def __init__(self, writers: Path, own: Collection[str]) -> None:
        self.accounts = Accounts()
        self.repeats = Repeats()
        self.damages = Damages()
        self.passes = (self.accounts, self.repeats)
        self.filled = 0
        """Entries without a newline that count."""
        self._writers = writers
        self._own = frozenset(own)
        self._lives: dict[str, Life] = {}

    def catch_up(self, reading: FilePass) -> None:
        """Read on until what is missing at the end is missing for good.

        A writer holds its lock as long as it writes: all lines of one that is found dead are in
        the file by then. Of a living one, threads may be about to write numbers they have taken.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self._look_at_writers()
            size = reading.size()
            reading.on_to(size)
            waiting = reading.offset < size or any(
                has_lines_in_flight(account)
                for account in self.accounts
                if self._life_of(account) is Life.ALIVE
            )
            if not waiting or not self._anybody_lives() or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        # A beginning of a line that has not been finished in all that time.
        reading.on_to(size, final=True)

    def findings(self) -> list[Finding]:
        """What was found, when everything has been read."""
        excused = self._fill()
        for writer, number in self.damages.claims:
            self.accounts.claim(writer, number)
        living = {writer for writer, life in self._lives.items() if life is Life.ALIVE}
        found = [*self.damages.findings, *self.damages.torn(self.accounts.torn, living, excused)]
        found += self.accounts.findings
        for account in self.accounts:
            found += judge(account, self._life_of(account))
        return [*found, *self._missing_writers()]

    def _fill(self) -> dict[tuple[str, int], Severity]:
        """Count entries that lack their newline; which of them a kill explains."""
        excused = {}
        for file, line in self.damages.whole:
            heads = heads_of(line.members)
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
            if account.previous is not None
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
        return Finding(
            kind=Kind.MISSING_WRITER,
            severity=severity,
            writer=writer,
            message=f"not one line of this writer is in the journal, {why}",
        )

    def _lock_names(self) -> list[str]:
        try:
            return [path.name for path in self._writers.iterdir() if is_writer(path.name)]
        except OSError:
            return []

    def _anybody_lives(self) -> bool:
        names = {*self._lives, *self._lock_names()}
        return any(self._life(name) is not Life.DEAD for name in names)

    def _look_at_writers(self) -> None:
        for account in self.accounts:
            if not account.ended and self._lives.get(account.writer) is not Life.DEAD:
                self._lives[account.writer] = self._life(account.writer)

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
