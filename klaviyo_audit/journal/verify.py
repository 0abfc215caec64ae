"""Checking that a journal is what was written."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Final, Self

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal import folder
from klaviyo_audit.journal.contents import (
    Contents,
    may_grow,
    open_numbered,
)
from klaviyo_audit.journal.files import Files
from klaviyo_audit.journal.findings import Finding, Kind, Report, Severity
from klaviyo_audit.journal.lines import LineCheck
from klaviyo_audit.journal.passes import FilePass
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.removals import read_removed
from klaviyo_audit.journal.sealed import Seals
from klaviyo_audit.journal.segments import (
    file_name,
    file_number,
    locate,
    misnamed,
    read_segments,
    reading,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.note import Verifier
    from klaviyo_audit.journal.verified import Verified
    from klaviyo_audit.journal.witnesses import Kept

    Progress = Callable[[int, int], None]

_PATIENCE_SECONDS: Final = 0.5
"""How long to wait for lines that living writers may be about to finish."""
_POLL_SECONDS: Final = 0.02
_TRIES: Final = 5


def verify(
    path: Path,
    *,
    own: Collection[str] = (),
    verifiers: Sequence[Verifier] = (),
    since: int | Verified = 0,
    against: Path | Kept | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read a journal from its beginning to its present end, and list all that does not hold.

    It may be in use, rotated, compressed and under retention. Each file is read once, for the
    lines and for the tree. What this can't show is said in docs/guarantees.md.

    Args:
        path: The journal's folder, or one journal file: then only its lines are checked.
        own: Writers that are known to live, beside those whose lock is held.
        verifiers: The keys that may have signed checkpoints; none: the one beside the journal.
        since: Size of a checkpoint: lines before that are only hashed, not looked at. Or where an
            earlier verification has ended (`Report.verified`): lines before that are not even
            read, so that changes in them do not show.
        against: A file of checkpoints, or of one, that was kept elsewhere; or the checkpoints.
        progress: Called now and then with the bytes read and the bytes there are.

    Raises:
        OSError: There is no journal, or it cannot be read.
        LookupError: There is no checkpoint of the size `since`, or none in `against`.
        ConfigurationError: A file is compressed in a way this installation cannot read.
    """
    if not path.is_dir():
        return _verify_file(path, own, progress)
    for _ in range(_TRIES):
        seals = Seals(path, verifiers=verifiers, since=since, against=against)
        hashed = since if isinstance(since, int) else 0
        with _Reading(path, seals, LineCheck(path / folder.WRITERS_NAME, own), hashed) as check:
            report = check.run(progress)
        # Retention may have removed a file before it was opened.
        if report.intact or _removed_size(path) == seals.removed.size:
            break
    return report


def _removed_size(directory: Path) -> int:
    try:
        return read_removed(directory).size
    except JournalCorrupt:
        return 0


def _verify_file(path: Path, own: Collection[str], progress: Progress | None) -> Report:
    """Check the lines of one file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    path = path.resolve()
    check = LineCheck(path.parent / folder.WRITERS_NAME, own)
    # Of a file that others come before, the writers' first lines may be in those.
    check.whole = not file_number(path.name)
    with _Reading(path.parent, None, check, 0) as reading_:
        return reading_.run_alone(Contents(path, open_journal(path), None), progress)


class _Reading:
    """One verification under way: which files are read, and how far."""

    def __init__(self, directory: Path, seals: Seals | None, check: LineCheck, since: int) -> None:
        self._directory = directory
        self._seals = seals
        self._check = check
        self._since = since
        self._findings: list[Finding] = []
        self._opened: list[tuple[Contents, FilePass]] = []
        self._files = Files(directory, seals) if seals else None
        self._unreadable: set[int] = set()
        self._read_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._files:
            self._files.close()
        for contents, _file in self._opened:
            contents.close()

    def run(self, progress: Progress | None) -> Report:
        """Read everything, and say what was found."""
        seals, files = self._seals, self._files
        assert seals
        assert files
        self._check.whole = not (seals.removed.size or self._since or seals.skipped)
        total = 0
        if progress:
            total = sum(path.stat().st_size for path in self._directory.glob("audit*.jsonl*"))
        files.open_ahead()
        while (contents := files.next()) is not None:
            self._read(contents, progress, total)
            files.open_ahead()
        self._catch_up()
        if not self._opened and not seals.are_there:
            raise FileNotFoundError(
                f"there is no journal in {self._directory}: it has no {folder.JOURNAL_NAME}"
            )
        for number, message in files.missing.items():
            self._tell(Kind.MISSING_FILE, message, file_name(number))
        for name in misnamed(self._directory):
            self._tell(
                Kind.STRAY_FILE, "no sealer gives a file such a name: it was put there", name
            )
        lines = self._check.findings()
        lines += self._check.located(self._reopen)
        found = [*self._findings, *lines]
        if seals.are_there:
            found += seals.finish(
                unreadable=self._unreadable | files.missing.keys(),
                packed={c.number for c, _ in self._opened if c.is_packed and c.number is not None},
                live=self._live_number(),
                announced=self._check.accounts.removals,
            )
        report = self._report(
            found, sealed=seals.sealed, removed=seals.removed.size, skipped=seals.skipped
        )
        if not report.intact or self._is_unsettled(report):
            return report
        return dataclasses.replace(report, verified=seals.verified())

    def _is_unsettled(self, report: Report) -> bool:
        """Whether a line that is to come may make an error of something that was found."""
        return self._check.waits_for_lines() or any(
            one.severity is Severity.WARNING and one.kind in (Kind.MISSING_NUMBER, Kind.TORN)
            for one in report.findings
        )

    def run_alone(self, contents: Contents, progress: Progress | None) -> Report:
        """Read one file, and say what was found in its lines."""
        self._read(contents, progress, contents.size())
        self._catch_up()
        lines = self._check.findings()
        lines += self._check.located(self._reopen)
        return self._report([*self._findings, *lines])

    def _read(self, contents: Contents, progress: Progress | None, total: int) -> None:
        leaves = None
        number, seals = contents.number, self._seals
        if seals is not None and seals.are_there:
            leaves = seals.lines.of(-1 if number is None else number, is_live=contents.is_live)
        name = self._name(contents)
        if number is not None and seals is not None:
            seals.names[number] = name
        self._check.order[name] = len(self._opened)
        file = FilePass(name, contents.file, self._check.passes, self._check.damages.take, leaves)
        self._opened.append((contents, file))
        grows = may_grow(contents)
        end = None if contents.is_packed else contents.size()
        show: Callable[[], None] | None = None
        before = self._read_bytes + (self._files.passed_bytes if self._files else 0)
        if progress is not None:
            show = lambda: progress(min(before + contents.position(), total), total)  # noqa: E731
        try:
            with reading(self._directory, number or 0):
                if seals is not None and number is not None and seals.skipped:
                    self._pass_over(seals, file, number, final=not grows)
                elif seals is not None and number is not None and self._since:
                    file.skip(seals.lines.before(number, self._since))
                file.on_to(end, final=not grows, progress=show)
        except JournalCorrupt as error:
            self._unreadable.add(-1 if number is None else number)
            self._tell(Kind.UNREADABLE_FILE, str(error), name)
        self._read_bytes += contents.size()
        if seals is not None and number is not None and not contents.is_live:
            self._check_stray(number, name)
        if not grows:
            contents.close()

    def _pass_over(self, seals: Seals, file: FilePass, number: int, *, final: bool) -> None:
        offset, line, count = seals.lines.passed_over(number)
        missing = file.pass_over(offset, line, count, final=final)
        if missing:
            self._tell(
                Kind.CUT_OFF,
                f"the journal was cut off: {missing:,} lines that were verified before are missing "
                "at the end of this file",
                file.name,
            )

    def _check_stray(self, number: int, name: str) -> None:
        assert self._seals
        if self._seals.is_known(number):
            return
        with contextlib.suppress(JournalCorrupt):
            # Rotated since this verification has begun.
            if any(one.file == number for one in read_segments(self._directory)):
                return
        message = "no line of it is in the journal's tree: it was put there"
        self._tell(Kind.STRAY_FILE, message, name)

    def _catch_up(self) -> None:
        """Read on until what is missing at the end is missing for good.

        A writer holds its lock as long as it writes: all lines of one that is found dead are in
        the file by then. Of a living one, threads may be about to write numbers they have taken.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        begun: dict[str, int] = {}
        while True:
            self._check.look_at_writers()
            while self._files and (contents := self._files.next()) is not None:
                self._read(contents, None, 0)
            growing = [
                (contents, file) for contents, file in self._opened if not contents.file.closed
            ]
            unfinished = False
            for contents, file in growing:
                size = contents.size()
                file.on_to(size)
                unfinished = unfinished or file.offset < size
                begun.setdefault(file.name, file.offset if file.offset < size else -1)
            waiting = unfinished or self._check.waits_for_lines()
            alive = self._check.anybody_lives()
            if not waiting or not alive or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        for contents, file in growing:
            # A beginning of a line that has not been finished in all that time, or never will be.
            if not alive or begun[file.name] == file.offset:
                file.on_to(contents.size(), final=True)

    def _reopen(self, name: str) -> Contents | None:
        """Open a file that was read, again; None when it is gone."""
        contents = next(one for one, file in self._opened if file.name == name)
        if contents.number is None:
            return Contents(contents.path, open_journal(contents.path), None)
        try:
            return open_numbered(self._directory, contents.number, last=self._live_number())
        except JournalCorrupt:
            return None

    def _live_number(self) -> int | None:
        return max((one.number for one, _ in self._opened if one.number is not None), default=None)

    def _name(self, contents: Contents) -> str:
        """What a file is called while its lines are read: a name that no other has."""
        if contents.number is not None and contents.is_live:
            return file_name(contents.number)
        name = contents.path.name
        return f"{name} (new)" if name in self._check.order else name

    def _shown(self) -> dict[str, str]:
        """What the files are called now, by what they were called while they were read."""
        shown = {}
        for contents, file in self._opened:
            if contents.is_live and contents.number is not None:
                path = locate(self._directory, contents.number, live=self._live_number())
                shown[file.name] = path.name if path else file.name
        return shown

    def _report(
        self, findings: list[Finding], *, sealed: int = 0, removed: int = 0, skipped: int = 0
    ) -> Report:
        shown = self._shown()
        order = self._check.order
        findings.sort(
            key=lambda one: (order.get(one.file or "", len(order)), one.offset or 0, one.line or 0)
        )
        return Report(
            files=tuple(shown.get(file.name, file.name) for _, file in self._opened),
            entries=sum(file.entries for _, file in self._opened) + self._check.filled,
            writers=sum(account.begin is not None for account in self._check.accounts),
            bytes=sum(file.offset - file.begin for _, file in self._opened),
            sealed=sealed,
            removed=removed,
            skipped=skipped,
            findings=tuple(
                dataclasses.replace(one, file=shown.get(one.file or "", one.file))
                for one in findings
            ),
        )

    def _tell(self, kind: Kind, message: str, file: str) -> None:
        self._findings.append(
            Finding(kind=kind, severity=Severity.ERROR, file=file, message=message)
        )
