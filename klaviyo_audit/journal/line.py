"""What a piece of a journal's file can be: an entry, or one of several kinds of damage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.entry import SCHEMA_VERSION
from klaviyo_audit.journal.format import LINE_START, SUM_DIGITS, SUM_MEMBER, checksum_holds

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES: Final = 1 << 24
"""The longest line that is looked at whole. The privacy rules keep real ones far below it."""

_MAX_HEADS: Final = 1_000
_MAX_TRIES: Final = 16
"""Checksums tried for one end: text made to look like many heads must not cost quadratic time."""

_HEAD: Final = re.compile(
    rb'\{"v":\d{1,9},"id":"[^"\\]{1,64}","writer":"([0-9a-f]{16})","n":(\d{1,18}),'
)
_END_BYTES: Final = 2 * (len(SUM_MEMBER) + SUM_DIGITS)
"""Where the checksum of a whole line is looked for, also if a byte was added or lost."""
_REQUIRED: Final = ("id", "writer", "timestamp", "phase", "action", "user_id")
_STRINGS: Final = [str] * len(_REQUIRED)


class Problem(StrEnum):
    """Why a piece of a journal is not an entry as it was written."""

    TORN = "torn"
    """The beginning of a line; its rest was never written, or was cut off."""
    NO_NEWLINE = "no newline"
    """A whole entry whose newline is missing; its members can be read."""
    NUL = "nul"
    """NUL bytes, which some file systems leave where a power loss took data away."""
    CHECKSUM = "checksum"
    """A whole line that is not what was written: its checksum does not hold."""
    CRLF = "crlf"
    """An entry that ends in CR LF: something has converted the file."""
    FOREIGN = "foreign"
    """Not written by a journal writer: no journal line, or one that holds no entry."""
    VERSION = "version"
    """An entry of a layout this version does not know; its members can be read."""
    EMPTY = "empty"
    """A line without any text."""
    ENCODING = "encoding"
    """Not a journal line, nor UTF-8."""
    TOO_LONG = "too long"
    """Longer than `MAX_LINE_BYTES`; only its end was kept."""


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a journal, or one piece of it that is none."""

    number: int
    """Line of the file, from 1 if reading began at its start. A torn piece and the entry that
    follows it without a newline share it."""
    offset: int
    """Byte of the file at which it starts."""
    raw: bytes
    """Its bytes, without the newline."""
    members: dict[str, Any] | None
    """The decoded entry. At least ``id``, ``writer``, ``n``, ``timestamp``, ``phase``,
    ``action`` and ``user_id`` are there and have the right type."""
    problem: str | None
    """None for an entry whose checksum holds; else a `Problem`."""


def claim(raw: bytes) -> tuple[str, int] | None:
    """Writer and number that a damaged line says it has, if it still says so."""
    head = _HEAD.match(raw)
    return None if head is None else (head[1].decode(), int(head[2]))


def is_intact(line: bytes) -> bool:
    """Whether a line (without its newline) is as it was written."""
    return line.startswith(LINE_START) and checksum_holds(line)


def pieces(line: bytes, number: int, offset: int, left_out: int = 0) -> Iterator[Line]:
    """Take a damaged line of the file apart into entries and what is between them.

    Args:
        line: The line, with its newline if it has one.
        number: Its number.
        offset: Byte of the file at which it starts.
        left_out: Bytes at its front that are not in `line`.
    """
    ended = line.endswith(b"\n")
    data = line[:-1] if ended else line
    for start, end, whole in _spans(data):
        raw = data[start:end]
        at = offset + left_out + start
        if whole:
            entry = decoded(number, at, raw)
            if entry.problem is None and not (ended and end == len(data)):
                entry = Line(number, at, raw, entry.members, Problem.NO_NEWLINE)
            yield entry
        elif start == 0 and left_out:
            yield Line(number, offset, raw, None, Problem.TOO_LONG)
        else:
            yield Line(number, at, raw, None, _problem_of(raw, followed=end < len(data)))


def _spans(data: bytes) -> list[tuple[int, int, bool]]:
    """Cut a damaged line at the heads of entries: start, end, and whether the checksum holds."""
    heads = [head.start() for head in _HEAD.finditer(data)][-_MAX_HEADS:]
    spans: list[tuple[int, int, bool]] = []
    end = len(data)
    while heads:
        # A captured value may look like a head, so an entry need not start at the last one.
        tries = reversed(heads[-_MAX_TRIES:])
        intact = next((head for head in tries if checksum_holds(data[head:end])), None)
        start = heads[-1] if intact is None else intact
        spans.append((start, end, intact is not None))
        end = start
        while heads and heads[-1] >= end:
            heads.pop()
    if end or not spans:
        spans.append((0, end, False))
    return spans[::-1]


def _problem_of(raw: bytes, *, followed: bool) -> Problem:
    if not raw:
        return Problem.EMPTY
    if raw.startswith(LINE_START):
        if raw.endswith(b"\r") and checksum_holds(raw[:-1]):
            return Problem.CRLF
        # A piece that another entry follows on the same line was cut off, be it in its checksum.
        whole = raw.endswith(b'"}') or (not followed and SUM_MEMBER in raw[-_END_BYTES:])
        return Problem.CHECKSUM if whole else Problem.TORN
    if LINE_START.startswith(raw):
        return Problem.TORN  # a write can end after its first byte
    if not raw.strip(b"\0"):
        return Problem.NUL
    try:
        raw.decode()
    except UnicodeDecodeError:
        return Problem.ENCODING
    return Problem.FOREIGN


def decoded(number: int, offset: int, raw: bytes) -> Line:
    """Decode a line whose checksum holds."""
    try:
        members = orjson.loads(raw)
    except ValueError:
        return Line(number, offset, raw, None, Problem.FOREIGN)
    if not is_entry(members):
        return Line(number, offset, raw, None, Problem.FOREIGN)
    problem = None if members.get("v") == SCHEMA_VERSION else Problem.VERSION
    return Line(number, offset, raw, members, problem)


def is_entry(members: Any) -> bool:
    """Whether a decoded line has the members that every entry has."""
    return (
        isinstance(members, dict)
        # Half the time that all() with a generator takes.
        and [type(members.get(name)) for name in _REQUIRED] == _STRINGS
        and type(members.get("n")) is int
        and members["n"] >= 0
    )
