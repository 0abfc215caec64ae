"""Entries that a sink will not take: kept with the reason, and sent again on demand."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

import orjson

from klaviyo_audit import clock
from klaviyo_audit.journal.folder import FILE_MODE
from klaviyo_audit.sinks.lines import append_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from klaviyo_audit.sinks.batch import DeadLetter

DEAD_NAME: Final = "dead.jsonl"

_VERSION: Final = 1
_LOCK_NAME: Final = "dead.lock"
_LONGEST_WHY: Final = 500


def bury(folder: Path, letters: Sequence[DeadLetter]) -> None:
    """Add dead letters to a sink's; they are on the disk when this returns.

    Raises:
        OSError: They could not be written; none of them is there then.
    """
    if not letters:
        return
    now = clock.now()
    lines = [
        {
            "v": _VERSION,
            "buried_at": now,
            "why": letter.why[:_LONGEST_WHY],
            "entry": orjson.Fragment(letter.raw),
        }
        for letter in letters
    ]
    with _locked(folder):
        append_lines(folder / DEAD_NAME, lines, sync=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a shipper from adding dead letters while they are taken out, and the other way."""
    fd = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
