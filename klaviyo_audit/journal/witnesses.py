"""What is said of the journal's tree: its checkpoints, those kept elsewhere, the sealer's state."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import orjson

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint, is_torn, open_checkpoint, read_notes
from klaviyo_audit.journal.checkpoints import offset_of_size
from klaviyo_audit.journal.findings import Finding, Kind, Severity
from klaviyo_audit.journal.lease import CHECKPOINTS_NAME
from klaviyo_audit.journal.merkle import CompactRange
from klaviyo_audit.journal.note import (
    BLANK_LINE,
    MAX_NOTE_BYTES,
    Verifier,
    open_note,
    parse_note,
)
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.signing import PUBLIC_NAME
from klaviyo_audit.journal.treestate import STATE_NAME
from klaviyo_audit.journal.verified import Verified

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Witness:
    """What the tree's root was at one size."""

    size: int
    root: bytes
    file: str
    """Name of the file that says so."""
    offset: int | None = None


class Kept(NamedTuple):
    """Checkpoints that were kept elsewhere, perhaps among those of other journals."""

    name: str
    """Where they are, for findings."""
    notes: tuple[bytes, ...]
    """Signed notes; those of other logs than the journal's are left out of account."""


class Witnesses:
    """The witnesses of one journal, as they were when this was made.

    Args:
        directory: The journal's folder.
        verifiers: The keys that are trusted; none: the one that lies beside the journal.
        since: Signatures of checkpoints over fewer lines are not looked at; where it says up to
            where the journal was verified, nor is anything else of them.
        against: A file of checkpoints, or of one, that was kept elsewhere; or the checkpoints.

    Raises:
        OSError: A file cannot be read.
        LookupError: `against` holds no checkpoint that can be used.
    """

    def __init__(
        self,
        directory: Path,
        verifiers: Sequence[Verifier],
        since: int | Verified,
        against: Path | Kept | None,
    ) -> None:
        self.findings: list[Finding] = []
        self.last = 0
        """Size of the last of the journal's own checkpoints that were read."""
        self.done: frozenset[int] = frozenset()
        self._directory = directory
        self._pinned = bool(verifiers)
        self.verifiers = tuple(verifiers) or self._key_beside()
        """The keys that signatures are checked with."""
        self._since, self._begin = since if isinstance(since, int) else 0, 0
        self.verified = since if isinstance(since, Verified) and self._stands_for(since) else None
        """Up to where the journal was verified before, if the trusted key has signed that."""
        if self.verified:
            self._since = self.verified.tree.size
            self._begin = offset_of_size(directory, self._since) or 0
        # The state is written after the checkpoint it is about.
        self.state = self._state()
        """Size of the tree that the sealer says it stood at, the files it had been done with to
        come, and how many segments it had begun; None if that is not known."""
        self._kept = sorted(self._of_other(against)) if against else []
        self._end = _size(directory / CHECKPOINTS_NAME)
        self.others: list[Witness] = [*self._kept]
        if self.state:
            self.others.append(self.state.witness)
        if self.verified:
            self.others.append(Witness(self._since, self.verified.tree.root(), self.verified.name))
        self._check_keys()

    def _stands_for(self, verified: Verified) -> bool:
        """Whether one of the keys has signed the checkpoint that a verification had reached."""
        if not self.verifiers:
            return False
        try:
            open_checkpoint(verified.note, *self.verifiers)
        except JournalCorrupt as error:
            message = f"{error}; this is not the journal that was verified before, or not its key"
            self._add(Kind.CHECKPOINT, Severity.ERROR, message, file=verified.name)
            return False
        return True

    def _check_keys(self) -> None:
        if not self.verifiers and (self._end or self._kept):
            self._add(
                Kind.KEY,
                Severity.ERROR,
                "no signature can be checked: there is no public key beside the journal, and none "
                "was given",
                file=PUBLIC_NAME,
            )
        if self._pinned and not self._end:
            self._add(
                Kind.CHECKPOINT,
                Severity.ERROR,
                "a key was given that checkpoints have to be signed with, and there are none: the "
                "journal was never sealed, or they were removed",
                file=CHECKPOINTS_NAME,
            )

    @property
    def are_there(self) -> bool:
        """Whether there may be any."""
        return bool(self._end or self.others)

    def __iter__(self) -> Iterator[Witness]:
        """All of them by size; what is wrong with one is found when it comes."""
        return heapq.merge(self._own(), sorted(self.others))

    def check_last(self, begun: int) -> None:
        """When all were read: check that none was removed at the end.

        Args:
            begun: First leaf of the last segment, which was recorded after a checkpoint over what
                is before.
        """
        if not self.verifiers:
            return
        last = max(self.others, default=None)
        told, who = begun, "segments says that one"
        if last and last.size > begun:
            told, who = last.size, f"{last.file} has one"
        if told > self.last:
            self._add(
                Kind.CHECKPOINT,
                Severity.ERROR,
                f"checkpoints were removed: {who} over {told:,} lines was there, and the "
                f"journal's last is over {self.last:,}",
                file=CHECKPOINTS_NAME,
            )

    def _own(self) -> Iterator[Witness]:
        """The journal's own checkpoints that hold, up to what was its end."""
        if not self._end:
            return
        path = self._directory / CHECKPOINTS_NAME
        with open_journal(path) as file:
            for witness in self._witnesses(path.name, file, self._end, self._begin):
                if witness.size < self.last:
                    self._add(
                        Kind.CHECKPOINT,
                        Severity.ERROR,
                        f"it is over {witness.size} lines and comes after one over {self.last}: "
                        "checkpoints were put in another order, or put in",
                        file=witness.file,
                        offset=witness.offset,
                    )
                    continue
                self.last = witness.size
                yield witness

    def _of_other(self, against: Path | Kept) -> Iterator[Witness]:
        if isinstance(against, Kept):
            name = against.name
            data = b"".join(note + b"\n" for note in against.notes if self._is_ours(note))
        else:
            name = against.name
            with open_journal(against) as source:
                # A single checkpoint, as it was handed to somebody, lacks the blank line at its
                # end.
                data = source.read() + BLANK_LINE
        found, before = False, self._errors()
        for witness in self._witnesses(name, BytesIO(data), len(data)):
            found = True
            yield witness
        if not found and self._errors() == before:
            where = name if isinstance(against, Kept) else against
            raise LookupError(f"against: {where} holds no checkpoint that can be used")

    def _errors(self) -> int:
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    def _is_ours(self, note: bytes) -> bool:
        """Whether a note is about the log of one of the keys; what is none is not passed over."""
        origin = note.partition(b"\n")[0].decode("utf-8", "replace")
        return any(origin == verifier.name for verifier in self.verifiers) or not _is_note(note)

    def _witnesses(self, name: str, file: BinaryIO, end: int, begin: int = 0) -> Iterator[Witness]:
        if not self.verifiers:
            return
        for stored in read_notes(file, begin):
            if stored.offset >= end:
                return
            try:
                checkpoint = self._opened(stored.note)
            except JournalCorrupt as error:
                if self._is_torn(file, stored.offset, end):
                    self._add(
                        Kind.CHECKPOINT,
                        Severity.WARNING,
                        "the beginning of a checkpoint, as a full disk or a kill leaves it",
                        file=name,
                        offset=stored.offset,
                    )
                    return
                self._add(
                    Kind.CHECKPOINT, Severity.ERROR, str(error), file=name, offset=stored.offset
                )
            else:
                yield Witness(checkpoint.size, checkpoint.root, name, stored.offset)

    def _opened(self, note: bytes | None) -> Checkpoint:
        if note is None:
            raise JournalCorrupt("this is not a checkpoint (any more): it was changed")
        if self._since:
            checkpoint = Checkpoint.from_text(parse_note(note).text)
            if checkpoint.size < self._since:
                return checkpoint
        return open_checkpoint(note, *self.verifiers)

    def _is_torn(self, file: BinaryIO, offset: int, end: int) -> bool:
        """Whether from there on nothing follows but a checkpoint that was never finished."""
        if end - offset > MAX_NOTE_BYTES:
            return False
        position = file.tell()  # reading may have to go on
        file.seek(offset)
        piece = file.read(end - offset)
        file.seek(position)
        return any(is_torn(piece, verifier.name) for verifier in self.verifiers)

    def _state(self) -> SealerState | None:
        try:
            with open_journal(self._directory / STATE_NAME) as file:
                text, _ = open_note(file.read(), *self.verifiers)
            members = orjson.loads(text)
            tree = CompactRange.from_dict(members)
            return SealerState(
                Witness(tree.size, tree.root(), STATE_NAME),
                int(members["segments"]),
                frozenset(map(int, members["files"])),
            )
        except (OSError, ValueError, LookupError, TypeError, JournalCorrupt):
            return None  # only a cache

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
        file: str,
        offset: int | None = None,
    ) -> None:
        self.findings.append(
            Finding(kind=kind, severity=severity, file=file, offset=offset, message=message)
        )


@dataclass(frozen=True, slots=True)
class SealerState:
    """Where the sealer says that it stood: a checkpoint in another form, and signed likewise."""

    witness: Witness
    followed: int
    """How many segments were begun."""
    growing: frozenset[int]
    """Files that may have more lines to come."""


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _is_note(note: bytes) -> bool:
    try:
        Checkpoint.from_text(parse_note(note).text)
    except JournalCorrupt:
        return False
    return True
