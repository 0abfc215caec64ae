"""What verification needs of each line, cut out of the line's fixed head by position."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import orjson

from klaviyo_audit.entry import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

# {"v":1,"id":"<36>","writer":"<16>","n":<digits>,"timestamp":"<27>","phase":"<letters>"
_START: Final = b'{"v":%d,"id":"' % SCHEMA_VERSION
_ID: Final = len(_START)
_ID_DIGITS: Final = 36
_WRITER: Final = _ID + _ID_DIGITS
_NUMBER: Final = _WRITER + len(b'","writer":"0123456789abcdef","n":')
_MOST_DIGITS: Final = 18
_AFTER_NUMBER: Final = b',"timestamp":"'
_TIMESTAMP_DIGITS: Final = len("2026-11-23T19:00:00.123456Z")
_LONGEST: Final = _NUMBER + 70
"""Where the slice ends that has the number, the timestamp and the phase in it."""

_PHASE_BYTES: Final = len(b'","phase":"outcome"')
_PHASES: Final = {
    f'","phase":"{phase}","action":"'.encode()[:_PHASE_BYTES]: phase
    for phase in ("outcome", "intent", "event", "gap", "journal")
}
_HEAD: Final = re.compile(
    rb'\{"v":%d,"id":"([^"\\]*)(","writer":"[0-9a-f]{16}","n":)(0|[1-9]\d{0,17}),'
    rb'"timestamp":"[^"\\]*","phase":"(outcome|intent|event|gap|journal)"' % SCHEMA_VERSION
)
_WRITER_FIELD: Final = re.compile(rb'","writer":"[0-9a-f]{16}","n":')

# Of the id, a UUID, the last 16 digits: those are the random ones.
_KEY: Final = _ID + 19
_KEY_COLUMNS: Final = (*range(_KEY, _KEY + 4), *range(_KEY + 5, _WRITER))
_KEY_TEXT: Final = 17
_KEY_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of some lines, column by column."""

    writers: Sequence[bytes]
    """Each line's writer as it stands in the line; `writer_id` makes an id of it."""
    numbers: Sequence[int]
    phases: Sequence[str]
    ids: bytes
    """Eight bytes of each line's id: enough to tell which two may be the same."""

    def __len__(self) -> int:
        return len(self.numbers)


def writer_id(field: bytes) -> str:
    """The writer's id from an item of `Heads.writers`."""
    return field[12:28].decode()


def writer_field(writer: str) -> bytes:
    """The item of `Heads.writers` for a writer's id."""
    return b'","writer":"%b","n":' % writer.encode()


class HeadCutter:
    """Cuts heads; remembers which writers' fields it has found to be well-formed."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def cut(self, lines: Sequence[bytes]) -> Heads | None:
        """The heads of lines whose checksums hold.

        Returns:
            None when a line is not laid out the way journal writers do it.
        """
        starts = b"".join([line[:_WRITER] for line in lines])
        if not _begin_well(starts, len(lines)):
            return None
        writers = [line[_WRITER:_NUMBER] for line in lines]
        if not (self._known.issuperset(writers) or self._are_writers(writers)):
            return None
        columns = _same_width(lines) or _any_width(lines)
        ids = _key_columns(starts, len(lines))
        if columns is None or ids is None:
            return None
        numbers, fields = columns
        kinds = set(fields)
        if not kinds <= _PHASES.keys():
            return None
        if len(kinds) == 1:
            phases = [_PHASES[kinds.pop()]] * len(lines)
        else:
            phases = [_PHASES[field] for field in fields]
        return Heads(writers, numbers, phases, ids)

    def _are_writers(self, fields: Sequence[bytes]) -> bool:
        new = set(fields) - self._known
        if not all(_WRITER_FIELD.fullmatch(field) for field in new):
            return False
        self._known |= new
        return True


def _key_columns(starts: bytes, count: int) -> bytes | None:
    """`_keys` of so many beginnings of lines, put together column by column."""
    if len(starts) != count * _WRITER or starts[_KEY + 4 :: _WRITER] != b"-" * count:
        return None
    digits = bytearray(count * len(_KEY_COLUMNS))
    for at, column in enumerate(_KEY_COLUMNS):
        digits[at :: len(_KEY_COLUMNS)] = starts[column::_WRITER]
    try:
        keys = bytes.fromhex(digits.decode())
    except ValueError:
        return None
    return keys if len(keys) == count * _KEY_BYTES else None


def _begin_well(starts: bytes, count: int) -> bool:
    """Whether each line begins as it should, and no id has a quote in it.

    Each is known to begin with ``{"v":``, since its checksum holds. With no more quotes than those
    of so many beginnings, each of these can only be at its place.
    """
    return (
        starts.count(_START) == count
        and starts.count(b'"') == count * _START.count(b'"')
        and b"\\" not in starts
    )


def head_of(line: bytes) -> Heads | None:
    """The head of one line whose checksum holds; None if it is not laid out as every line is."""
    head = _HEAD.match(line)
    if head is None:
        return None
    entry_id, writer, number, phase = head.groups()
    return Heads([writer], [int(number)], [phase.decode()], key_of(entry_id))


def key_of(entry_id: bytes) -> bytes:
    """The item of `Heads.ids` for an id."""
    keys = _keys([entry_id[19:]])
    return sha256(entry_id).digest()[:_KEY_BYTES] if keys is None else keys


def _same_width(lines: Sequence[bytes]) -> tuple[Sequence[int], Sequence[bytes]] | None:
    """Numbers and phases of lines whose numbers have as many digits as the first one's.

    That is nearly always so, and saves a tenth of the whole verification.
    """
    digits = lines[0].find(b",", _NUMBER) - _NUMBER
    count = len(lines)
    width = digits + len(_AFTER_NUMBER) + _TIMESTAMP_DIGITS
    end = _NUMBER + width
    # Number, name and time of all lines; a column of them is a slice.
    joined = b"".join([line[_NUMBER:end] for line in lines])
    if not 0 < digits <= _MOST_DIGITS or not _are_times(joined, count, width, digits):
        return None
    texts = bytearray(count * (digits + 1))
    for column in range(digits + 1):
        texts[column :: digits + 1] = joined[column::width]
    if texts.count(b",") != count:
        return None
    numbers = _integers(bytes(texts[:-1]), count)
    fields = [line[end : end + _PHASE_BYTES] for line in lines]
    return None if numbers is None else (numbers, fields)


def _are_times(texts: bytes, count: int, width: int, start: int = 0) -> bool:
    """Whether texts of a width all have ``,"timestamp":"`` at one place, and no quote else."""
    return (
        len(texts) == count * width
        and texts.count(b'"') == count * _AFTER_NUMBER.count(b'"')
        and b"\\" not in texts
        and all(
            texts[start + at :: width] == count * _AFTER_NUMBER[at : at + 1]
            for at in range(len(_AFTER_NUMBER))
        )
    )


def _any_width(lines: Sequence[bytes]) -> tuple[Sequence[int], Sequence[bytes]] | None:
    parts = [line[_NUMBER:_LONGEST].partition(_AFTER_NUMBER) for line in lines]
    times = b"".join([after + rest[:_TIMESTAMP_DIGITS] for _, after, rest in parts])
    if not _are_times(times, len(lines), len(_AFTER_NUMBER) + _TIMESTAMP_DIGITS):
        return None
    if max(len(number) for number, _, _ in parts) > _MOST_DIGITS:
        return None
    numbers = _integers(b",".join([number for number, _, _ in parts]), len(lines))
    end = _TIMESTAMP_DIGITS + _PHASE_BYTES
    fields = [rest[_TIMESTAMP_DIGITS:end] for _, _, rest in parts]
    return None if numbers is None else (numbers, fields)


def _integers(text: bytes, count: int) -> Sequence[int] | None:
    """So many numbers, separated by commas; None if it is something else."""
    if text.translate(None, b"0123456789,"):
        return None
    try:
        values = orjson.loads(b"[%b]" % text)
    except ValueError:
        return None
    # One of more than 64 bits would be a float.
    if len(values) != count or {*map(type, values)} != {int}:
        return None
    return values  # type: ignore[no-any-return]  # all are int


def _keys(texts: Sequence[bytes]) -> bytes | None:
    """Eight bytes each from ``xxxx-xxxxxxxxxxxx``."""
    joined = b"".join(texts)
    dashes = len(texts)
    if joined[4::_KEY_TEXT].count(b"-") != dashes or joined.count(b"-") != dashes:
        return None
    try:
        keys = bytes.fromhex(joined.replace(b"-", b"").decode())
    except ValueError:
        return None
    return keys if len(keys) == dashes * _KEY_BYTES else None
