"""Proofs about the journal in files that can be checked without it.

An inclusion proof is C2SP's tlog-proof, version 1, whose ``extra`` line carries the journal's line
(source: c2sp.org/tlog-proof). C2SP has no file for a consistency proof; ours has the members of
tlog-witness's ``add-checkpoint`` request, with both checkpoints.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint, decode_decimal, open_checkpoint
from klaviyo_audit.journal.merkle import HASH_BYTES, consistency_holds, inclusion_holds, leaf_hash
from klaviyo_audit.journal.note import BLANK_LINE, decode_base64, parse_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.journal.note import Verifier

_INCLUSION_HEADER = "c2sp.org/tlog-proof@v1"
_CONSISTENCY_HEADER = "klaviyo-audit/consistency-proof@v1"
_MAX_PATH = 64  # a tree of 2**63 leaves needs 63 hashes to prove a leaf, 64 to prove consistency


@dataclass(frozen=True, slots=True)
class ProvedLine:
    """A line of the journal that is proved to be in it."""

    line: bytes
    """The line without its newline."""
    index: int
    """Number of the line in the journal, from 0, rotated files included."""
    checkpoint: Checkpoint
    """The signed checkpoint it was proved against."""


def make_inclusion(line: bytes, index: int, path: Sequence[bytes], note: bytes) -> bytes:
    """Make the file that proves a line to be in the journal.

    Args:
        line: The line without its newline. The file shows it to whoever gets it.
        index: Number of the line in the journal, from 0.
        path: What `klaviyo_audit.journal.merkle.inclusion_path` gave for the size of the
            checkpoint.
        note: The signed checkpoint, verbatim.

    Raises:
        ValueError: `line` has a newline.
        JournalCorrupt: The proof does not hold, or `note` is malformed. Its signature is not
            looked at, since the public key need not be at hand here.
    """
    if b"\n" in line:
        raise ValueError("a line has to be given without its newline")
    _check_inclusion(line, index, path, Checkpoint.from_text(parse_note(note).text))
    extra = f"extra {b64encode(line).decode()}"
    return _head(_INCLUSION_HEADER, extra, f"index {index}", *_encoded(path)) + note


def check(data: bytes, *verifiers: Verifier) -> ProvedLine:
    """Check a file that `make_inclusion` made, with nothing but the log's public key.

    Args:
        data: The file.
        verifiers: The public keys that are trusted.

    Raises:
        JournalCorrupt: The file is malformed, its checkpoint is not signed by one of the keys, or
            the line is not in the tree that the checkpoint commits to.
    """
    lines, note = _split(data, _INCLUSION_HEADER)
    try:
        line = decode_base64(_member(lines, "extra"))
        index = decode_decimal(_member(lines, "index"))
        path = _decoded(lines)
    except ValueError as error:
        raise JournalCorrupt(f"this is not a proof of one line: {error}") from error
    checkpoint = open_checkpoint(note, *verifiers)
    _check_inclusion(line, index, path, checkpoint)
    return ProvedLine(line, index, checkpoint)


def make_consistency(path: Sequence[bytes], old_note: bytes, note: bytes) -> bytes:
    """Make the file that proves the journal to have only grown between two checkpoints.

    Args:
        path: What `klaviyo_audit.journal.merkle.consistency_path` gave for the two sizes.
        old_note: The older signed checkpoint, verbatim.
        note: The newer one.

    Raises:
        JournalCorrupt: The proof does not hold, or a note is malformed. Signatures are not looked
            at.
    """
    old = Checkpoint.from_text(parse_note(old_note).text)
    _check_consistency(old, Checkpoint.from_text(parse_note(note).text), path)
    head = _head(_CONSISTENCY_HEADER, f"old {old.size}", *_encoded(path))
    return head + old_note + b"\n" + note


def check_consistency(data: bytes, *verifiers: Verifier) -> tuple[Checkpoint, Checkpoint]:
    """Check a file that `make_consistency` made, with nothing but the log's public key.

    Returns:
        The older and the newer checkpoint.

    Raises:
        JournalCorrupt: The file is malformed, a checkpoint is not signed by one of the keys, or
            the newer tree does not begin with the lines of the older one.
    """
    lines, notes = _split(data, _CONSISTENCY_HEADER)
    try:
        old_size = decode_decimal(_member(lines, "old"))
        path = _decoded(lines)
        old_text, old_signatures, note = notes.split(BLANK_LINE, 2)
    except ValueError as error:
        raise JournalCorrupt(f"this is not a proof of consistency: {error}") from error
    old = open_checkpoint(old_text + BLANK_LINE + old_signatures + b"\n", *verifiers)
    checkpoint = open_checkpoint(note, *verifiers)
    if old.size != old_size:
        raise JournalCorrupt(f"the proof is from size {old_size}, its checkpoint of {old.size}")
    _check_consistency(old, checkpoint, path)
    return old, checkpoint


def _check_inclusion(
    line: bytes, index: int, path: Sequence[bytes], checkpoint: Checkpoint
) -> None:
    if not inclusion_holds(leaf_hash(line), index, checkpoint.size, path, checkpoint.root):
        raise JournalCorrupt(
            f"the line is not number {index} of the {checkpoint.size} lines that the checkpoint "
            f"of {checkpoint.origin!r} commits to: line, number, path or checkpoint was changed"
        )


def _check_consistency(old: Checkpoint, new: Checkpoint, path: Sequence[bytes]) -> None:
    if old.origin != new.origin:
        raise JournalCorrupt(f"two logs can't be compared: {old.origin!r} with {new.origin!r}")
    if not consistency_holds(old.size, old.root, new.size, new.root, path):
        raise JournalCorrupt(
            f"the checkpoint over {new.size} lines is not proved to go on from the one over "
            f"{old.size}: the path is wrong, or {old.origin!r} has signed two histories"
        )


def _head(*lines: str) -> bytes:
    return "\n".join((*lines, "", "")).encode()


def _split(data: bytes, header: str) -> tuple[list[str], bytes]:
    """The lines after the header, in reverse order, with all that follows the first blank line."""
    head, blank, rest = data.partition(BLANK_LINE)
    first, *lines = head.decode(errors="replace").split("\n")
    if first != header or not blank:
        raise JournalCorrupt(f"this is not a proof: its first line is {first[:80]!r}, not {header}")
    return lines[::-1], rest


def _member(lines: list[str], name: str) -> str:
    """Take the next line, which must begin with a name; return what follows the space."""
    line = lines.pop() if lines else ""
    found, space, value = line.partition(" ")
    if found != name or not space:
        raise ValueError(f"{line[:80]!r} stands where the line {name!r} belongs")
    return value


def _encoded(path: Sequence[bytes]) -> list[str]:
    return [b64encode(node).decode() for node in path]


def _decoded(lines: list[str]) -> list[bytes]:
    if len(lines) > _MAX_PATH:
        raise ValueError(f"{len(lines)} hashes, more than any tree needs")
    path = [decode_base64(line) for line in reversed(lines)]
    if any(len(node) != HASH_BYTES for node in path):
        raise ValueError(f"a hash that has not {HASH_BYTES} bytes")
    return path
