"""Up to where a journal was found intact, in a file that the next verification goes on from.

It holds the signed checkpoint that was reached and the edge of its tree. The edge needs no trust:
only the right one has the signed root, and no later checkpoint fits a tree that was grown on from
another one. Whether the lines before were looked at, only whoever keeps the file knows.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint
from klaviyo_audit.journal.merkle import CompactRange
from klaviyo_audit.journal.note import BLANK_LINE, MAX_NOTE_BYTES, decode_base64, parse_note
from klaviyo_audit.journal.reader import open_journal

if TYPE_CHECKING:
    from pathlib import Path

_HEADER: Final = "klaviyo-audit/verified@v1"
_MOST_BYTES: Final = MAX_NOTE_BYTES + 4096
"""Of a file: a tree of 2**63 leaves has 63 hashes at its edge, of 45 characters."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A checkpoint that a journal was found to hold to.

    Args:
        note: The signed checkpoint, verbatim. Its signature is not looked at here.
        tree: The tree it is about.
        name: Name of the file it was read from, for findings.

    Raises:
        JournalCorrupt: `note` is no checkpoint, or is about another tree.
    """

    note: bytes
    tree: CompactRange
    name: str = "the last verification"

    def __post_init__(self) -> None:
        checkpoint = Checkpoint.from_text(parse_note(self.note).text)
        if (checkpoint.size, checkpoint.root) != (self.tree.size, self.tree.root()):
            raise JournalCorrupt("its hashes do not give the root that its checkpoint says")

    def to_bytes(self) -> bytes:
        """What `read` reads."""
        edge = (b64encode(node).decode() for node in self.tree.edge)
        return "\n".join((_HEADER, *edge)).encode() + BLANK_LINE + self.note

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read what was kept; None where there is no file.

        Raises:
            LookupError: The file does not hold what `to_bytes` made.
            OSError: It cannot be read.
        """
        try:
            with open_journal(path) as file:
                data = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        try:
            return cls._parsed(data, path.name)
        except (ValueError, JournalCorrupt) as error:
            raise LookupError(
                f"{path} does not say where a verification ended: {error}; put it back from a "
                "backup, or remove it to have the whole journal verified"
            ) from error

    @classmethod
    def _parsed(cls, data: bytes, name: str) -> Self:
        if len(data) > _MOST_BYTES:
            raise ValueError("it is far longer than such a file")
        head, _, note = data.partition(BLANK_LINE)
        header, *hashes = head.decode("ascii").split("\n")
        if header != _HEADER:
            raise ValueError(f"its first line is {header[:80]!r}, not {_HEADER}")
        size = Checkpoint.from_text(parse_note(note).text).size
        return cls(note, CompactRange(size, tuple(map(decode_base64, hashes))), name)
