"""Entries that a sink will not take: kept with the reason, and sent again on demand."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit import clock
from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.journal.folder import FILE_MODE
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.batch import DeadLetter, dead_letters
from klaviyo_audit.sinks.lines import append_lines, append_raw, decoded, raw_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

DEAD_NAME: Final = "dead.jsonl"

UNREADABLE_NAME: Final = "dead.unreadable"
"""Lines of the former that are no dead letters, byte for byte: torn by a crash, or edited."""

_VERSION: Final = 1
_LOCK_NAME: Final = "dead.lock"
_RETRY_LOCK_NAME: Final = "dead.retry.lock"
_TAKEN_NAME: Final = "dead.retried.jsonl"
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


def count_dead(folder: Path) -> int:
    """How many dead letters a sink has; lines that cannot be read as one count too.

    Raises:
        OSError: They cannot be read.
    """
    return sum(1 for name in (DEAD_NAME, _TAKEN_NAME) for _ in raw_lines(folder / name))


def count_unreadable(folder: Path) -> int:
    """How many lines were set aside since no dead letter could be read from them.

    Raises:
        OSError: They cannot be read.
    """
    return sum(1 for _ in raw_lines(folder / UNREADABLE_NAME))


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of dead letters that were sent again."""

    delivered: int
    kept: int
    """Those that were not taken this time either."""
    unreadable: tuple[int, ...] = ()
    """Numbers (from 1) of the lines that no letter could be read from, and that were set aside."""


def retry_dead(folder: Path, deliver: Callable[[Sequence[AuditEntry]], None], most: int) -> Retried:
    """Offer a sink's dead letters to it again.

    A letter is taken out when the sink has acknowledged it, or kept with the new reason. When
    this process dies meanwhile, those that were under way are offered again the next time. A line
    that is no letter goes to `UNREADABLE_NAME` as it is: nobody can say what to offer.

    Args:
        folder: The sink's folder.
        deliver: The sink's, which may raise as usual; after anything but `Rejected` what is left
            stays as it was.
        most: How many are offered at once.

    Raises:
        OSError: The files cannot be read or written.
        Retry: Another process is at it.
        Exception: What the sink has raised.
    """
    with _locked(folder, _RETRY_LOCK_NAME, wait=False):
        return _retry(folder, deliver, most)


def _retry(folder: Path, deliver: Callable[[Sequence[AuditEntry]], None], most: int) -> Retried:
    taken = folder / _TAKEN_NAME
    with _locked(folder):
        _set_aside(folder / DEAD_NAME, taken)
    delivered = kept = done = 0
    unreadable: list[int] = []
    try:
        for lines in _batches(raw_lines(taken), most):
            read = [_letter(line) for line in lines]
            letters = [letter for letter in read if letter is not None]
            dead = _offer(letters, deliver)
            bury(folder, dead)
            torn = [at for at, letter in enumerate(read) if letter is None]
            with _locked(folder):
                append_raw(folder / UNREADABLE_NAME, [lines[at] for at in torn], sync=True)
            unreadable += [done + at + 1 for at in torn]
            done += len(lines)
            kept += len(dead)
            delivered += len(letters) - len(dead)
    finally:
        with _locked(folder):
            for some in _batches(islice(raw_lines(taken), done, None), most):
                append_raw(folder / DEAD_NAME, some, sync=True)
            taken.unlink(missing_ok=True)
    return Retried(delivered, kept, tuple(unreadable))


def _letter(line: bytes) -> dict[str, Any] | None:
    """The dead letter in a line; None if there is none with an entry in it."""
    letter = decoded(line)
    return letter if letter is not None and isinstance(letter.get("entry"), dict) else None


def _set_aside(path: Path, taken: Path) -> None:
    """Move all letters to where no shipper adds any, after those left there by a crash."""
    if not taken.exists():
        with contextlib.suppress(FileNotFoundError):
            path.rename(taken)
        return
    append_raw(taken, raw_lines(path), sync=True)
    path.unlink(missing_ok=True)


def _offer(
    letters: Sequence[dict[str, Any]], deliver: Callable[[Sequence[AuditEntry]], None]
) -> list[DeadLetter]:
    """Deliver letters; give those back that can't be."""
    entries, raws = [], []
    dead: list[DeadLetter] = []
    for letter in letters:
        raw = orjson.dumps(letter["entry"])
        try:
            entry = AuditEntry.from_dict(letter["entry"])
        except (ValueError, LookupError, TypeError):
            dead.append(DeadLetter(raw, str(letter.get("why"))))
            continue
        entries.append(entry)
        raws.append(raw)
    if entries:
        try:
            deliver(entries)
        except Rejected as error:
            dead += dead_letters(entries, raws, error)
    return dead


def _batches(lines: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    iterator = iter(lines)
    while some := list(islice(iterator, most)):
        yield some


@contextlib.contextmanager
def _locked(folder: Path, name: str = _LOCK_NAME, *, wait: bool = True) -> Iterator[None]:
    """Keep a shipper from adding dead letters while they are taken out, and the other way.

    Raises:
        Retry: Another process has the lock, and is not waited for.
    """
    fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Retry(why="another process is sending its dead letters again") from None
        yield
    finally:
        os.close(fd)
