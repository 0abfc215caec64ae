"""What a verification found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from klaviyo_audit.journal.verified import Verified


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """The journal is not what was written."""
    WARNING = "warning"
    """It may not be, or something is missing that a crash explains as well."""
    NOTE = "note"
    """Good to know, and explained."""


class Kind(StrEnum):
    """What was found."""

    CHECKSUM = "checksum"
    """A line that is not what was written."""
    TORN = "torn"
    """A piece of a line."""
    FOREIGN = "foreign"
    """Something that no journal writer wrote."""
    MISSING_NUMBER = "missing-number"
    """Lines of a writer that are not there."""
    DUPLICATE_NUMBER = "duplicate-number"
    """A line of a writer that is there twice."""
    DUPLICATE_ENTRY = "duplicate-entry"
    """A second entry of the same phase about the same call."""
    NO_FIRST_LINE = "no-first-line"
    """A writer that does not begin with ``journal.open``."""
    MISSING_WRITER = "missing-writer"
    """A writer that left a trace, but not one line."""
    NO_GOODBYE = "no-goodbye"
    """A writer that does not end with ``journal.close``."""
    AFTER_GOODBYE = "after-goodbye"
    """A line of a writer after its end."""
    GAP = "gap"
    """Entries that could not be written, by the writer's own account."""
    TRUNCATED = "truncated"
    """A writer saw the file become shorter."""
    REOPENED = "reopened"
    """A writer saw the file replaced."""
    CLOCK = "clock"
    """A writer saw that the wall clock was set."""
    OPEN_INTENT = "open-intent"
    """A call whose outcome is not in the journal."""
    REMOVED = "removed"
    """Lines that retention has removed, by its own signed account."""
    KEY = "key"
    """The key that checkpoints were checked with."""
    CHECKPOINT = "checkpoint"
    """A checkpoint that does not hold, or is missing."""
    CHANGED = "changed"
    """Sealed lines that are not those that were sealed."""
    CUT_OFF = "cut-off"
    """Sealed lines that are not there any more."""
    MISSING_FILE = "missing-file"
    """A file of the journal that is not there."""
    UNREADABLE_FILE = "unreadable-file"
    """A compressed file that cannot be taken apart."""
    STRAY_FILE = "stray-file"
    """A file, or the end of one, that is named like the journal's and was never sealed."""
    SIDE_FILE = "side-file"
    """A file beside the journal that does not hold what a sealer wrote."""
    UNSEALED = "unsealed"
    """Lines that no checkpoint covers yet."""
    SKIPPED = "skipped"
    """Lines that were not looked at, since an earlier verification had been intact up to there."""


class Place(NamedTuple):
    """Where in a journal something is."""

    file: str
    """Name of the file."""
    line: int
    """Number of the line, from 1."""
    offset: int
    """Byte at which it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a verification found."""

    kind: Kind
    severity: Severity
    file: str | None = None
    line: int | None = None
    """Number of the line, from 1; for missing lines, that of the one which follows them."""
    offset: int | None = None
    """Byte at which the line or piece starts."""
    writer: str | None = None
    n: int | None = None
    """Number in the writer; the first of them where several lines are missing."""
    last: int | None = None
    """The last number, where it is not `n`."""
    message: str
    """What it means, in a sentence. Text from the journal in it is in repr form."""

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON has it: absent facts left out."""
        return {
            spec.name: value
            for spec in dataclasses.fields(self)
            if (value := getattr(self, spec.name)) is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a verification."""

    files: tuple[str, ...]
    """Names of the files that were read, in order."""
    entries: int
    """Entries whose checksum holds."""
    writers: int
    """Writers that have written them."""
    bytes: int
    """Bytes that were read, uncompressed."""
    sealed: int = 0
    """Lines that the last checkpoint covers, removed ones included."""
    removed: int = 0
    """Lines that retention has removed."""
    skipped: int = 0
    """So many lines at the beginning were not looked at, removed ones included."""
    verified: Verified | None = None
    """Up to where the journal is intact, for the next verification to go on from; None where it is
    not, nothing is sealed, or the next one may judge differently of what was found."""
    findings: tuple[Finding, ...]
    """All of them, in the journal's order; those about no place in it come last."""

    @property
    def intact(self) -> bool:
        """Whether nothing was found that is an error."""
        return not self.count(Severity.ERROR)

    def count(self, severity: Severity) -> int:
        """How many findings have that severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "intact": self.intact,
            "files": list(self.files),
            "entries": self.entries,
            "writers": self.writers,
            "bytes": self.bytes,
            "sealed": self.sealed,
            "removed": self.removed,
            "skipped": self.skipped,
            "findings": [finding.to_dict() for finding in self.findings],
        }
