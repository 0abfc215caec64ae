"""Checking a journal's lines against the checkpoints that have sealed them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoints import checkpoint_of_size
from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity
from klaviyo_audit.journal.lease import CHECKPOINTS_NAME, REMOVED_NAME, SEGMENTS_NAME
from klaviyo_audit.journal.merkle import CompactRange
from klaviyo_audit.journal.removals import Removal, read_removals
from klaviyo_audit.journal.sealedlines import SealedLines
from klaviyo_audit.journal.segments import file_name, read_segments
from klaviyo_audit.journal.verified import Verified
from klaviyo_audit.journal.witnesses import Witnesses

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.note import Verifier
    from klaviyo_audit.journal.segments import Segment
    from klaviyo_audit.journal.witnesses import Kept, Witness


class Seals:
    """Recomputes a journal's tree, and compares it with every checkpoint on the way.

    The lines come through `lines`, file by file, in any amounts; memory does not grow with them.

    Args:
        directory: The journal's folder.
        verifiers: The keys that are trusted; none: the one that lies beside the journal.
        since: Size of a checkpoint: signatures of earlier ones are not looked at. Or up to where
            the journal was verified: lines before that are not to be given to `lines`.
        against: A file of checkpoints, or of one, that was kept elsewhere; or the checkpoints.

    Raises:
        OSError: A file cannot be read.
        LookupError: There is no checkpoint of the size `since`, or none in `against`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        verifiers: Sequence[Verifier] = (),
        since: int | Verified = 0,
        against: Path | Kept | None = None,
    ) -> None:
        if isinstance(since, int) and since and checkpoint_of_size(directory, since) is None:
            raise LookupError(f"since: {directory} has no checkpoint over exactly {since} lines")
        self.names: dict[int, str] = {}
        """What each file is called in findings."""
        self._directory = directory
        self._findings: list[Finding] = []
        # Each of these is written before the next one here, or says less.
        before = self._read_segments(quietly=True)
        self._begun = before[-1].index if before else 0
        self._removals = self._read_removals()
        self.removed = self._removals[-1].tree if self._removals else CompactRange()
        """The tree of the lines that are not there any more."""
        self._witnesses = Witnesses(directory, verifiers, since, against)
        before_now = self._witnesses.verified
        self._since = before_now.tree.size if before_now else since if isinstance(since, int) else 0
        self._forged = self._check_removals()
        self.segments = self._read_segments()
        """Which file has which lines."""
        self._last_visits = {one.file: number for number, one in enumerate(self.segments)}
        self._unconfirmed = {
            one.tree.size: one.tree.root() for one in self._removals if one.tree.size >= self._since
        }
        self.tree = self.removed
        self.skipped = 0
        """So many lines at the beginning were verified before, and are not looked at."""
        if before_now and before_now.tree.size > self.removed.size:
            self.tree = before_now.tree
            self.skipped = self.tree.size
        self.lines = SealedLines(self.segments, self.removed.size, self._grow, start=self.tree.size)
        """Takes the lines."""
        self._good = self.tree.size
        self._held: tuple[Witness, CompactRange] | None = None
        """The last of the journal's own checkpoints that held, and its tree."""
        self._good_at: Place | None = None
        self._bad = False
        self._coming = iter(self._witnesses)
        self._next = next(self._coming, None)
        self._missed = 0
        """Greatest size that a witness spoke of and there were not lines enough for."""
        self._compare()

    @property
    def are_there(self) -> bool:
        """Whether anything was ever sealed, by what can be seen."""
        return bool(self._witnesses.are_there or self.segments)

    def verified(self) -> Verified | None:
        """The last of the journal's own checkpoints that held, for another verification."""
        if self._held is None:
            return None
        witness, tree = self._held
        note = checkpoint_of_size(self._directory, witness.size)
        with contextlib.suppress(JournalCorrupt):
            return Verified(note, tree) if note else None
        return None  # the file was changed meanwhile

    @property
    def sealed(self) -> int:
        """Lines that the last checkpoint covers, when all has been read."""
        return self._witnesses.last

    def is_known(self, file: int) -> bool:
        """Whether a file has lines in the tree."""
        return file in self._last_visits

    def passes_over(self, file: int, *, is_packed: bool) -> bool:
        """Whether no line of a file is to be looked at: not one of later ones it may get, either.

        Args:
            file: Its number.
            is_packed: It is compressed, and so has no writer any more.
        """
        return self.lines.is_passed_over(file) and (is_packed or self._was_done_with(file))

    def _grow(
        self, hashes: Sequence[bytes], file: int, place: Callable[[int], tuple[int, int]]
    ) -> None:
        done = 0
        while self._next is not None and done < len(hashes):
            room = self._next.size - self.tree.size
            part = hashes[done : done + room]
            if self._good_at is None:
                self._good_at = Place(self._name(file), *place(done))
            self.tree = self.tree.extended(part)
            done += len(part)
            self._compare()

    def _compare(self) -> None:
        """Compare the tree with what is said of it at its size."""
        while (witness := self._next) is not None and witness.size <= self.tree.size:
            if witness.file == CHECKPOINTS_NAME and (
                self._unconfirmed.get(witness.size) == witness.root
            ):
                del self._unconfirmed[witness.size]
            skipped = witness.size < max(self.removed.size, self._since)
            if not skipped and witness.size == self.tree.size and not self._bad:
                if witness.root == self.tree.root():
                    self._good, self._good_at = witness.size, None
                    if witness.file == CHECKPOINTS_NAME:
                        self._held = (witness, self.tree)
                else:
                    self._bad = True
                    at = "" if witness.offset is None else f", byte {witness.offset}"
                    self._tell_change(witness.size, f"{witness.file}{at}")
            self._next = next(self._coming, None)

    def _tell_change(self, size: int, where: str) -> None:
        place = self._good_at
        self._add(
            Kind.CHANGED,
            f"in the lines {self._good} to {size - 1} of the journal (counted from 0, over all "
            "its files), of which this is the first, something was changed, removed, put in or put "
            "in another order after it was sealed: their tree is not the one that the checkpoint "
            f"over {size} lines says ({where}); changes in later lines cannot be told apart from "
            "this one",
            file=place.file if place else None,
            line=place.line if place else None,
            offset=place.offset if place and place.offset >= 0 else None,
        )

    def finish(
        self,
        *,
        unreadable: Container[int],
        packed: Container[int],
        live: int | None,
        announced: Iterable[tuple[Place, Mapping[str, Any]]],
    ) -> list[Finding]:
        """What was found, when all lines were taken.

        Args:
            unreadable: Files that could not be read to their end, which was told already.
            packed: Files that are compressed.
            live: Number of the file that is written to.
            announced: What lines in the journal say that retention has removed, with their places.
        """
        while self._next is not None:
            self._missed = self._next.size
            self._next = next(self._coming, None)
        self._witnesses.check_last(self._begun)
        for file, facts in self.lines.files.items():
            if facts.misplaced:
                self._add(
                    Kind.SIDE_FILE,
                    f"it leaves out bytes of {file_name(file)}, or has them twice: it was changed, "
                    "or goes with another state of the journal",
                    file=SEGMENTS_NAME,
                )
        missing_in = self.lines.waiting_for
        if self._missed > self.tree.size and missing_in not in unreadable:
            self._tell_cut(missing_in, is_live=missing_in == live)
        self._check_removed(announced)
        self._check_rest(packed, live)
        if self.skipped:
            self._add(
                Kind.SKIPPED,
                f"the first {self.skipped:,} lines were not looked at, and changes in them since "
                "do not show: an earlier verification was intact up to there, and the journal goes "
                "on from the checkpoint that it had reached",
                severity=Severity.NOTE,
            )
        return [*self._findings, *self._witnesses.findings]

    def _tell_cut(self, file: int | None, *, is_live: bool) -> None:
        missing = f"{self._missed:,} lines were sealed, and after {self.tree.size:,} of them "
        if file is None:
            missing += "no file is said to have the next"
        elif is_live:
            missing += f"the live file ends: {self._missed - self.tree.size:,} are missing"
        else:
            missing += (
                f"{self._name(file)} ends too early; later lines could not be compared with their "
                "checkpoints"
            )
        self._add(
            Kind.CUT_OFF,
            f"the journal was cut off: {missing}",
            file=SEGMENTS_NAME if file is None else self._name(file),
        )

    def _check_removed(self, announced: Iterable[tuple[Place, Mapping[str, Any]]]) -> None:
        for size in self._unconfirmed:
            self._add(
                Kind.SIDE_FILE,
                f"it says that the first {size:,} lines were removed by retention, but no signed "
                "checkpoint is about just these lines",
                file=REMOVED_NAME,
                line=[one.tree.size for one in self._removals].index(size) + 1,
            )
        if self.removed.size and not self._forged and self.removed.size not in self._unconfirmed:
            self._add(
                Kind.REMOVED,
                f"the first {self.removed.size:,} lines were removed by retention; they were "
                "sealed",
                severity=Severity.NOTE,
                file=REMOVED_NAME,
            )
        try:
            records = [one.facts for one in read_removals(self._directory)]
        except JournalCorrupt:
            return  # that was told
        for place, facts in announced:
            if facts not in records:
                self._add(
                    Kind.SIDE_FILE,
                    f"it does not say of the first {facts.get('size')!r} lines what this line says "
                    "that retention has removed",
                    file=place.file,
                    line=place.line,
                    offset=place.offset,
                )

    def _check_rest(self, packed: Container[int], live: int | None) -> None:
        unsealed = max(0, self.lines.size - max(self._witnesses.last, self.removed.size))
        for file, facts in self.lines.files.items():
            if not facts.beyond or facts.misplaced:
                continue
            if file in packed or (file != live and self._was_done_with(file)):
                self._add(
                    Kind.STRAY_FILE,
                    f"{facts.beyond} lines at its end were put in after it was sealed",
                    file=self._name(file),
                )
            else:
                unsealed += facts.beyond
        if unsealed and self._missed <= self.tree.size:
            self._add(
                Kind.UNSEALED,
                f"{unsealed:,} lines at the end are not sealed yet: only their checksums and "
                "numbers protect them",
                severity=Severity.NOTE,
            )

    def _was_done_with(self, file: int) -> bool:
        """Whether the sealer had read all of a file, so that it had no writer any more."""
        state = self._witnesses.state
        if state is None or file in state.growing:
            return False
        last = self._last_visits.get(file)
        return last is not None and last < state.followed

    def _read_segments(self, *, quietly: bool = False) -> list[Segment]:
        try:
            return read_segments(self._directory)
        except JournalCorrupt as error:
            if not quietly:
                self._add(Kind.SIDE_FILE, str(error), file=SEGMENTS_NAME)
            return []

    def _read_removals(self) -> list[Removal]:
        try:
            return read_removals(self._directory)
        except JournalCorrupt as error:
            self._add(Kind.SIDE_FILE, str(error), file=REMOVED_NAME)
            return []

    def _check_removals(self) -> bool:
        """Whether there is a record of a removal that the sealer did not write."""
        keys, forged = self._witnesses.verifiers, False
        sizes = [0, *(one.tree.size for one in self._removals)]
        for number, (one, before) in enumerate(zip(self._removals, sizes, strict=False), 1):
            size = one.tree.size
            wrong = None
            if keys and not one.is_signed_by(*keys):
                forged = True
                wrong = (
                    f"its record that the first {size:,} lines were removed by retention is not "
                    "signed by the journal's key: it was forged or changed, or is another log's; "
                    "whoever did that may have removed lines"
                )
            elif [one.facts.get(name) for name in ("from", "lines", "root")] != [
                before,
                size - before,
                one.tree.root().hex(),
            ]:
                wrong = f"what it says of the first {size:,} lines does not fit together"
            if wrong:
                self._add(Kind.SIDE_FILE, wrong, file=REMOVED_NAME, line=number)
        return forged

    def _name(self, file: int) -> str:
        return self.names.get(file) or file_name(file)

    def _add(
        self, kind: Kind, message: str, *, severity: Severity = Severity.ERROR, **where: Any
    ) -> None:
        self._findings.append(Finding(kind=kind, severity=severity, message=message, **where))
