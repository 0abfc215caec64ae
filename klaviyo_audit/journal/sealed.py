"""Checking a journal against the checkpoints that have sealed it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

import orjson

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal.checkpoint import open_checkpoint, read_notes
from klaviyo_audit.journal.findings import Finding, Kind, Severity
from klaviyo_audit.journal.lease import (
    CHECKPOINTS_NAME,
    REMOVED_NAME,
    SEGMENTS_NAME,
)
from klaviyo_audit.journal.merkle import CompactRange
from klaviyo_audit.journal.note import (
    BLANK_LINE,
    MAX_NOTE_BYTES,
    SIGNATURE_START,
    Verifier,
    open_note,
)
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.sealedlines import SealedLines
from klaviyo_audit.journal.segments import read_removed, read_segments
from klaviyo_audit.journal.signing import PUBLIC_NAME
from klaviyo_audit.journal.treestate import STATE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.checkpoint import StoredNote

_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Seals:
    """What checking a journal against its checkpoints has shown."""

    findings: tuple[Finding, ...]
    removed: int
    """Lines that retention has removed, at the beginning."""
    sealed: int
    """Lines that the last checkpoint covers."""
    since: dict[str, int]
    """By name, the byte up to which each file had been read where the checking was to begin."""


@dataclass(frozen=True, slots=True, order=True)
class _Witness:
    size: int
    root: bytes
    file: str
    """Name of the file that says so."""
    offset: int | None = None


def check_seals(
    directory: Path,
    *,
    verifiers: Sequence[Verifier] = (),
    since: int | None = None,
    against: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Seals:
    """Recompute the journal's tree, and compare it with every checkpoint on the way.

    One pass over the lines, in memory that does not grow with them. The journal may be in use.

    Args:
        directory: The journal's folder.
        verifiers: The keys that are trusted; none: the one that lies beside the journal.
        since: Size of a checkpoint: what it and earlier ones say of earlier lines is not looked
            at, beyond its root.
        against: A file of checkpoints, or of one, that was kept elsewhere.
        progress: Called now and then with the number of lines that have been hashed.

    Raises:
        OSError: A file cannot be read.
        LookupError: There is no checkpoint of the size `since`.
        ConfigurationError: A file is compressed in a way this installation cannot read.
    """
    for _ in range(_TRIES):
        check = _Check(directory, verifiers, since, progress)
        seals = check.run(against)
        # Retention may have removed a file that was about to be read.
        if check.removed_size() == seals.removed:
            break
    return seals


class _Check:
    """One check under way."""

    def __init__(
        self,
        directory: Path,
        verifiers: Sequence[Verifier],
        since: int | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._directory = directory
        self._since = since
        self._progress = progress
        self._findings: list[Finding] = []
        self._verifiers = tuple(verifiers) or self._key_beside()
        self._good = 0
        """Size of the last checkpoint that the lines agree with."""
        self._bad: _Witness | None = None
        self._last = 0
        """Size of the last of the journal's own checkpoints."""
        self._since_offsets: dict[str, int] | None = None

    def removed_size(self) -> int:
        """What is recorded as removed by now; 0 if that cannot be read."""
        try:
            return read_removed(self._directory).size
        except JournalCorrupt:
            return 0

    def run(self, against: Path | None) -> Seals:
        # Each of these is written before the next one here, or says less.
        state = list(self._state())
        kept = sorted(self._kept(against)) if against else []
        removed = self._removed()
        end = _size(self._directory / CHECKPOINTS_NAME)
        lines = self._lines(removed)
        if not self._verifiers and (end or kept):
            self._add(
                Kind.KEY,
                Severity.ERROR,
                "no signature can be checked: there is no public key beside the journal, and none "
                "was given",
                file=PUBLIC_NAME,
            )
        own = self._own(end)
        found_since = not self._since
        confirmed = removed.size == 0
        for witness in heapq.merge(own, kept, state):
            if witness.file == CHECKPOINTS_NAME:
                self._last = witness.size
                confirmed = confirmed or (witness.size, witness.root) == (
                    removed.size,
                    removed.root(),
                )
                found_since = found_since or witness.size == self._since
            self._compare(witness, lines, removed)
        if not found_since:
            raise LookupError(
                f"since: {self._directory} has no checkpoint over exactly {self._since} lines"
            )
        self._check_removed(removed, confirmed=confirmed)
        self._check_last([*kept, *state], lines)
        if self._bad is None and lines.problem is None:
            self._findings += lines.rest()
        elif lines.problem is not None:
            self._findings.append(lines.problem)
        lines.close()
        return Seals(tuple(self._findings), removed.size, self._last, self._since_offsets or {})

    def _compare(self, witness: _Witness, lines: SealedLines, removed: CompactRange) -> None:
        if witness.size < max(removed.size, self._since or 0):
            return
        if not lines.on_to(witness.size):
            return
        if self._progress:
            self._progress(witness.size)
        if self._since_offsets is None and self._since:
            self._since_offsets = lines.offsets()
        if self._bad is not None:
            return
        if lines.tree.root() == witness.root:
            self._good = witness.size
            return
        self._bad = witness
        first = max(self._good, removed.size)
        self._add(
            Kind.CHANGED,
            Severity.ERROR,
            f"in the lines {first} to {witness.size - 1} of the journal (counted from 0, over all "
            "its files) something was changed, removed, put in or put in another order after it "
            f"was sealed: their tree is not the one that the checkpoint over {witness.size} lines "
            "says; changes in later lines cannot be told apart from this one",
            file=witness.file,
            offset=witness.offset,
        )

    def _check_last(self, others: Sequence[_Witness], lines: SealedLines) -> None:
        last = max(others, default=None)
        size = max(self._last, last.size if last else 0)
        if lines.tree.size < size and lines.is_short:
            self._add(
                Kind.CUT_OFF,
                Severity.ERROR,
                f"the journal was cut off: {size:,} lines were sealed, and {lines.tree.size:,} of "
                f"them can be read; {size - lines.tree.size:,} are missing",
            )
        if last and last.size > self._last:
            self._add(
                Kind.CHECKPOINT,
                Severity.ERROR,
                f"checkpoints were removed: {last.file} has one over {last.size:,} lines, and the "
                f"journal's last is over {self._last:,}",
                file=CHECKPOINTS_NAME,
            )

    def _check_removed(self, removed: CompactRange, *, confirmed: bool) -> None:
        if not removed.size:
            return
        if confirmed:
            self._add(
                Kind.REMOVED,
                Severity.NOTE,
                f"the first {removed.size:,} lines were removed by retention; they were sealed",
                file=REMOVED_NAME,
            )
        elif not (self._since and self._since > removed.size):
            self._add(
                Kind.SIDE_FILE,
                Severity.ERROR,
                f"it says that the first {removed.size:,} lines were removed by retention, but no "
                "signed checkpoint is about just these lines",
                file=REMOVED_NAME,
            )

    def _lines(self, removed: CompactRange) -> SealedLines:
        try:
            segments = read_segments(self._directory)
        except JournalCorrupt as error:
            self._add(Kind.SIDE_FILE, Severity.ERROR, str(error), file=SEGMENTS_NAME)
            segments = []
        return SealedLines(self._directory, segments, removed)

    def _removed(self) -> CompactRange:
        try:
            return read_removed(self._directory)
        except JournalCorrupt as error:
            self._add(Kind.SIDE_FILE, Severity.ERROR, str(error), file=REMOVED_NAME)
            return CompactRange()

    def _own(self, end: int) -> Iterator[_Witness]:
        """The journal's own checkpoints that hold, up to a byte of their file."""
        path = self._directory / CHECKPOINTS_NAME
        if not end:
            return
        size = 0
        for witness in self._opened(path, end):
            if witness.size < size:
                self._add(
                    Kind.CHECKPOINT,
                    Severity.ERROR,
                    f"it is over {witness.size} lines and comes after one over {size}: checkpoints "
                    "were put in another order, or put in",
                    file=witness.file,
                    offset=witness.offset,
                )
                continue
            size = witness.size
            yield witness

    def _kept(self, path: Path) -> Iterator[_Witness]:
        """Checkpoints that were kept elsewhere."""
        with open_journal(path) as source:
            # A single checkpoint, as it was handed to somebody, lacks the blank line at its end.
            data = source.read() + BLANK_LINE
        found = False
        for witness in self._witnesses(path.name, BytesIO(data), len(data)):
            found = True
            yield witness
        if not found:
            raise LookupError(f"against: {path} holds no checkpoint that can be used")

    def _opened(self, path: Path, end: int) -> Iterator[_Witness]:
        with open_journal(path) as file:
            yield from self._witnesses(path.name, file, end)

    def _witnesses(self, name: str, file: BinaryIO, end: int) -> Iterator[_Witness]:
        if not self._verifiers:
            return
        for stored in read_notes(file):
            if stored.offset >= end:
                return
            if stored.note is None:
                self._reject(name, stored, file)
                continue
            try:
                checkpoint = open_checkpoint(stored.note, *self._verifiers)
            except JournalCorrupt as error:
                self._add(
                    Kind.CHECKPOINT, Severity.ERROR, str(error), file=name, offset=stored.offset
                )
            else:
                yield _Witness(checkpoint.size, checkpoint.root, name, stored.offset)

    def _reject(self, name: str, stored: StoredNote, file: BinaryIO) -> None:
        """Say what a piece is that is no note. It may have to be read where reading goes on."""
        position = file.tell()
        file.seek(stored.offset)
        piece = file.read(min(stored.end - stored.offset, MAX_NOTE_BYTES))
        file.seek(position)
        torn = SIGNATURE_START.encode() not in piece
        self._add(
            Kind.CHECKPOINT,
            Severity.WARNING if torn else Severity.ERROR,
            "a piece of a checkpoint, as a full disk or a kill leaves it"
            if torn
            else "this is not a checkpoint (any more): it was changed",
            file=name,
            offset=stored.offset,
        )

    def _state(self) -> Iterator[_Witness]:
        """Where the sealer says that it stood: a checkpoint in another form."""
        try:
            with open_journal(self._directory / STATE_NAME) as file:
                text, _ = open_note(file.read(), *self._verifiers)
            tree = CompactRange.from_dict(orjson.loads(text))
        except (OSError, ValueError, JournalCorrupt):
            return  # only a cache
        if tree.size:
            yield _Witness(tree.size, tree.root(), STATE_NAME)

    def _key_beside(self) -> tuple[Verifier, ...]:
        try:
            with open_journal(self._directory / PUBLIC_NAME) as file:
                verifier = Verifier.from_text(file.read().decode("ascii", "replace"))
        except FileNotFoundError:
            return ()
        except ConfigurationError as error:
            self._add(Kind.KEY, Severity.ERROR, str(error), file=PUBLIC_NAME)
            return ()
        self._add(
            Kind.KEY,
            Severity.NOTE,
            f"checkpoints were checked with the key beside the journal, {verifier.to_text()}, "
            "which whoever can change the journal can replace; pin the key you know (--key, or the "
            "setting public_key)",
            file=PUBLIC_NAME,
        )
        return (verifier,)

    def _add(
        self,
        kind: Kind,
        severity: Severity,
        message: str,
        *,
        file: str | None = None,
        offset: int | None = None,
    ) -> None:
        self._findings.append(
            Finding(kind=kind, severity=severity, file=file, offset=offset, message=message)
        )


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
