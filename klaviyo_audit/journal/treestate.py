"""Where sealing stood at some checkpoint, kept so that the next start is short.

It is signed like a checkpoint: a changed offset would have lines left out, or sealed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.merkle import CompactRange
from klaviyo_audit.journal.note import open_note, sign_note
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.segments import locate
from klaviyo_audit.journal.sidefile import replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.lease import Lease
    from klaviyo_audit.journal.note import Signer, Verifier
    from klaviyo_audit.journal.segments import Segment
    from klaviyo_audit.journal.walk import Walk

STATE_NAME: Final = "tree"

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class TreeState:
    """A tree, with the place in the journal's files that it reaches to.

    Only a cache: the last checkpoint says whether it is right.
    """

    tree: CompactRange
    followed: int
    """How many segments were begun."""
    files: Mapping[int, tuple[int, int | None]]
    """Files that may still grow: how far they are sealed (bytes), and their inodes."""

    @classmethod
    def of(cls, tree: CompactRange, walk: Walk) -> TreeState:
        """The state that a walk has come to."""
        files = dict(walk.waiting)
        if walk.reader:
            files[walk.reader.file] = walk.reader.offset
        found = {file: (offset, _inode(walk.path(file))) for file, offset in files.items()}
        return cls(tree, walk.followed, found)


def save_state(lease: Lease, directory: Path, signer: Signer, state: TreeState) -> None:
    """Replace the journal's state.

    Raises:
        LeaseLost: Another process is the sealer now.
        OSError: It cannot be written; the old one is still there.
    """
    members = {
        "v": _VERSION,
        **state.tree.to_dict(),
        "segments": state.followed,
        "files": {str(file): facts for file, facts in state.files.items()},
    }
    note = sign_note(f"{orjson.dumps(members).decode()}\n", signer)
    replace(lease, directory / STATE_NAME, note)


def load_state(
    directory: Path, verifier: Verifier, segments: Sequence[Segment]
) -> TreeState | None:
    """The journal's state, unless it is missing or can't be about the journal that is there."""
    try:
        with open_journal(directory / STATE_NAME) as file:
            text, _ = open_note(file.read(), verifier)
        members: dict[str, Any] = orjson.loads(text)
        state = TreeState(
            CompactRange.from_dict(members),
            int(members["segments"]),
            {int(file): (int(offset), inode) for file, (offset, inode) in members["files"].items()},
        )
        known = members["v"] == _VERSION
    except (OSError, ValueError, LookupError, TypeError, AttributeError, JournalCorrupt):
        return None
    return state if known and _fits(directory, segments, state) else None


def _fits(directory: Path, segments: Sequence[Segment], state: TreeState) -> bool:
    if not 0 <= state.followed <= len(segments):
        return False
    begun, to_come = segments[: state.followed], segments[state.followed :]
    if any(segment.index > state.tree.size for segment in begun):
        return False
    if any(segment.index < state.tree.size for segment in to_come):
        return False
    last = max((segment.file for segment in segments), default=None)
    # Another inode: put back from a backup, or replaced. All of it has to be read.
    return all(
        _inode(locate(directory, file, live=last)) == inode
        for file, (_, inode) in state.files.items()
    )


def _inode(path: Path | None) -> int | None:
    if path is None:
        return None
    try:
        return path.stat(follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None
