"""What retention has removed: the records in the file ``removed``, each signed by the sealer.

Without the signature anybody could take the oldest files away and write that retention did: the
tree at their end can be computed from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.lease import REMOVED_NAME
from klaviyo_audit.journal.merkle import CompactRange
from klaviyo_audit.journal.note import SIGNATURE_START, open_note, signature_on
from klaviyo_audit.journal.reader import open_journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klaviyo_audit.journal.note import Signer, Verifier

# No checkpoint has such a first line before a line that is no number; the sealer's state is JSON.
_HEADER: Final = "klaviyo-audit/removal@v1"
_SIGNATURE: Final = b',"signature":"'
_END: Final = b'"}'


@dataclass(frozen=True, slots=True)
class Removal:
    """What one record says of files that retention has removed. Nothing is verified."""

    facts: Mapping[str, Any]
    """Its members, those excepted that are of use in this place only: edge and signature."""
    tree: CompactRange
    """The tree of all lines that were removed, by this removal and by those before."""
    body: bytes
    """The bytes that are signed: the record up to its signature."""
    signature: str
    """Key id and signature, in base64; empty if there is none."""

    def is_signed_by(self, *verifiers: Verifier) -> bool:
        """Whether one of the keys has signed just these bytes as a removal from its log."""
        return any(self._is_signed_by(verifier) for verifier in verifiers)

    def _is_signed_by(self, verifier: Verifier) -> bool:
        try:
            text = _signed_text(self.body, verifier.name)
            line = f"{SIGNATURE_START}{verifier.name} {self.signature}"
            open_note(f"{text}\n{line}\n".encode(), verifier)
        except (JournalCorrupt, UnicodeDecodeError):
            return False
        return True


def _signed_text(body: bytes, log: str) -> str:
    return f"{_HEADER}\n{log}\n{body.decode()}\n"


def signed_record(facts: Mapping[str, Any], tree: CompactRange, signer: Signer) -> bytes:
    """The line of the file ``removed`` for a removal.

    Args:
        facts: What is to be said of it.
        tree: The tree of all lines that are gone after it.
        signer: The journal's key.
    """
    record = {**facts, **tree.to_dict(), "root": tree.root().hex()}
    body = orjson.dumps(record).removesuffix(b"}")
    signature = signature_on(_signed_text(body, signer.name), signer)
    return body + _SIGNATURE + signature.encode() + _END + b"\n"


def read_removals(directory: Path) -> list[Removal]:
    """What the file ``removed`` says of each removal, the oldest first; no signature is checked.

    Raises:
        JournalCorrupt: The file does not hold what a sealer can have written.
        OSError: It cannot be read.
    """
    path = directory / REMOVED_NAME
    try:
        with open_journal(path) as file:
            *lines, _torn = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    try:
        removals = [_parsed(line) for line in lines]
    except (ValueError, JournalCorrupt) as error:
        raise JournalCorrupt(f"{path} can't be used: {error}; restore it from a backup") from error
    if any(later.tree.size <= one.tree.size for one, later in pairwise(removals)):
        raise JournalCorrupt(f"{path} can't be used: sizes do not rise; restore it from a backup")
    return removals


def _parsed(line: bytes) -> Removal:
    members = orjson.loads(line)
    tree = CompactRange.from_dict(members)
    body, found, rest = line.rpartition(_SIGNATURE)
    if not found or not rest.endswith(_END):
        body, rest = line, b""
    signature = rest.removesuffix(_END).decode()
    facts = {name: members[name] for name in members if name not in ("edge", "signature")}
    return Removal(facts, tree, body, signature)


def read_removed(directory: Path, *verifiers: Verifier) -> CompactRange:
    """The tree of the leaves that retention has removed; the empty one if it never did.

    Args:
        directory: The journal's folder.
        verifiers: If given, one of these keys must have signed the last record. Those before it
            need not be looked at: whoever signed it had found them good.

    Raises:
        JournalCorrupt: As for `read_removals`, or the signature is missing or wrong.
        OSError: The file cannot be read.
    """
    removals = read_removals(directory)
    if not removals:
        return CompactRange()
    if verifiers and not removals[-1].is_signed_by(*verifiers):
        raise JournalCorrupt(
            f"{directory / REMOVED_NAME} can't be used: its last record was not signed by the "
            "journal's key, so somebody else wrote or changed it; restore it, and the files it "
            "names, from a backup"
        )
    return removals[-1].tree
