"""The journal's signed checkpoints that a sink has not got yet."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson

from klaviyo_audit.journal.checkpoint import read_notes
from klaviyo_audit.journal.format import checksum_holds, encode
from klaviyo_audit.journal.lease import CHECKPOINTS_NAME
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.sidefile import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.journal.checkpoint import StoredNote

MARK_NAME: Final = "checkpoints"
"""The file in the sink's folder that says which checkpoint it got last."""

_VERSION: Final = 1
_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Notes:
    """Checkpoints that are delivered together."""

    notes: tuple[bytes, ...]
    end: int
    """The byte of the file of checkpoints after the last one."""


class CheckpointFeed:
    """Reads the file of checkpoints on from where a sink has got to.

    Args:
        directory: The journal's folder.
        folder: The sink's folder.
        tell: Called with a sentence about what is not as it should be.
    """

    def __init__(self, directory: Path, folder: Path, tell: Callable[[str], None]) -> None:
        self._path = directory / CHECKPOINTS_NAME
        self._mark = folder / MARK_NAME
        self._tell = tell
        self._end: int | None = None
        self._size = -1

    def next(self) -> Notes | None:
        """The next checkpoints, oldest first; None when there are none now.

        Raises:
            OSError: They cannot be read.
        """
        try:
            file = open_journal(self._path)
        except FileNotFoundError:
            return None
        with file:
            size = file.seek(0, 2)
            if self._end is not None and size == self._size:
                return None
            if self._end is None or size < self._end:
                self._end = self._resume()
            found = [n for n in islice(read_notes(file, self._end), _MOST) if n.note is not None]
        if not found:
            # Also when all there is now is damage: it may be a note that is being written.
            self._size = size
            return None
        return Notes(tuple(stored.note or b"" for stored in found), found[-1].end)

    def acknowledge(self, notes: Notes) -> None:
        """Note that a sink has them.

        Raises:
            OSError: It cannot be written; they are delivered again after a restart.
        """
        self._end = notes.end
        members = {
            "v": _VERSION,
            "offset": notes.end,
            "sha256": sha256(notes.notes[-1]).hexdigest(),
        }
        replace_file(self._mark, encode(members), sync=False)

    def _resume(self) -> int:
        """Where to go on: after the checkpoint that was delivered last."""
        try:
            with open_journal(self._mark) as file:
                line = file.read().removesuffix(b"\n")
        except FileNotFoundError:
            return 0
        members = orjson.loads(line) if checksum_holds(line) else {}
        wanted = members.get("sha256")
        with open_journal(self._path) as file:
            for stored in read_notes(file):
                if _digest(stored) == wanted:
                    return stored.end
        self._tell(
            "the checkpoint that was delivered last is not in the journal any more; all that are "
            "there are delivered again"
        )
        return 0


def _digest(stored: StoredNote) -> str:
    return "" if stored.note is None else sha256(stored.note).hexdigest()
