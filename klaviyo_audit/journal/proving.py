"""Proving to others what is in a journal: one line, or that it has only grown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from klaviyo_audit.entry import Phase
from klaviyo_audit.journal.checkpoint import Checkpoint
from klaviyo_audit.journal.checkpoints import checkpoint_of_size, last_checkpoint
from klaviyo_audit.journal.leaves import leaf_hashes, leaves
from klaviyo_audit.journal.line import pieces
from klaviyo_audit.journal.merkle import consistency_path, inclusion_path
from klaviyo_audit.journal.note import parse_note
from klaviyo_audit.journal.proof import make_consistency, make_inclusion
from klaviyo_audit.journal.removals import read_removed

if TYPE_CHECKING:
    from pathlib import Path


def prove(directory: Path, index_or_id: int | str, *, note: bytes | None = None) -> bytes:
    """Make the file that proves one line to be in the journal.

    Reads the whole journal, twice, in constant memory.

    Args:
        directory: The journal's folder.
        index_or_id: Number of the line in the journal, from 0, or the id of its entry. Of the
            lines with that id the outcome is proved, else the last one.
        note: The signed checkpoint to prove it against; not given: the journal's last one.

    Returns:
        What `klaviyo_audit.journal.proof.check` reads.

    Raises:
        LookupError: There is no such line in what the checkpoint covers, or no checkpoint.
        JournalCorrupt: The journal is not what was sealed, or a file is missing.
        OSError: A file cannot be read.
    """
    note = note or last_checkpoint(directory)
    if note is None:
        raise LookupError(f"nothing in {directory} is sealed yet: `klaviyo-audit seal` does that")
    size = Checkpoint.from_text(parse_note(note).text).size
    removed = read_removed(directory)
    if isinstance(index_or_id, str):
        index, line = _find(directory, index_or_id, size)
    else:
        index = index_or_id
        if not removed.size <= index < size:
            raise LookupError(
                f"there is no line {index} to prove in {directory}: the sealed lines that are "
                f"there have the numbers {removed.size} to {size - 1}"
            )
        line = next(
            line for at, line in enumerate(leaves(directory, end=size), removed.size) if at == index
        )
    hashes = leaf_hashes(directory, end=size)
    path = inclusion_path(index, size, hashes, removed=removed)
    return make_inclusion(line, index, path, note)


def consistency(directory: Path, old_size: int, new_size: int) -> bytes:
    """Make the file that proves the journal to have only grown between two checkpoints.

    Args:
        directory: The journal's folder.
        old_size: How many lines the older checkpoint covers.
        new_size: How many the newer one does.

    Returns:
        What `klaviyo_audit.journal.proof.check_consistency` reads.

    Raises:
        LookupError: There is no checkpoint of that size, or one from before what retention has
            removed.
        JournalCorrupt: The journal is not what was sealed, or a file is missing.
        OSError: A file cannot be read.
    """
    notes = []
    for size in (old_size, new_size):
        note = checkpoint_of_size(directory, size)
        if note is None:
            raise LookupError(f"{directory} has no checkpoint over exactly {size} lines")
        notes.append(note)
    removed = read_removed(directory)
    if not removed.size <= old_size <= new_size:
        raise LookupError(
            f"sizes {old_size} and {new_size} can't be compared: they have to rise, and the first "
            f"{removed.size} lines of {directory} were removed"
        )
    hashes = leaf_hashes(directory, end=new_size)
    path = consistency_path(old_size, new_size, hashes, removed=removed)
    return make_consistency(path, notes[0], notes[1])


def _find(directory: Path, entry_id: str, size: int) -> tuple[int, bytes]:
    found: tuple[int, bytes] | None = None
    # No entry has a text that is not UTF-8, as an argument of a command can be.
    wanted = orjson.dumps(entry_id.encode(errors="replace").decode())
    for index, line in enumerate(leaves(directory, end=size), read_removed(directory).size):
        if wanted not in line:
            continue
        # An entry can stand behind a torn piece.
        for piece in pieces(line, index, 0):
            if piece.members and piece.members["id"] == entry_id:
                found = (index, line)
                if piece.members["phase"] == Phase.OUTCOME.value:
                    return found
    if found is None:
        raise LookupError(
            f"no sealed line in {directory} has the id {entry_id!r}: it may not be sealed yet, or "
            "may have been removed by retention"
        )
    return found
