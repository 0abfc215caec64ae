"""Finding entries that are there twice, and intents without an outcome, in little memory."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from klaviyo_audit.entry import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klaviyo_audit.journal.heads import Heads
    from klaviyo_audit.journal.reader import Run

_KEY_BYTES: Final = 8
_ONE_SET: Final = 1 << 18
"""So many keys go into one set; more are counted bucket by bucket, since a set takes ten times
the memory of what is in it."""
_BUCKET_BITS: Final = 10


class Stretch(NamedTuple):
    """Some lines of a file, to be read again."""

    file: str
    number: int
    offset: int
    end: int


@dataclass(slots=True)
class _Column:
    """The keys of all ids of one phase, eight bytes each, and where they came from."""

    keys: bytearray = field(default_factory=bytearray)
    starts: list[int] = field(default_factory=list)
    """Index of the first key of each stretch."""
    stretches: list[Stretch] = field(default_factory=list)

    def add(self, keys: bytes, stretch: Stretch) -> None:
        self.starts.append(len(self.keys) // _KEY_BYTES)
        self.stretches.append(stretch)
        self.keys += keys

    def where(self, wanted: set[int]) -> Iterator[Stretch]:
        for index, key in enumerate(memoryview(self.keys).cast("Q")):
            if key in wanted:
                yield self.stretches[bisect_right(self.starts, index) - 1]


class Repeats:
    """A pass over the journal that collects the key of every entry's id, phase by phase.

    Different ids can have the same key by chance: whoever reads the places again compares ids.
    """

    def __init__(self) -> None:
        self._columns: defaultdict[str, _Column] = defaultdict(_Column)

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take a run of lines and their heads."""
        stretch = Stretch(file, run.number, run.offset, run.end)
        phases = set(heads.phases)
        if len(phases) == 1:
            self._columns[phases.pop()].add(heads.ids, stretch)
            return
        for wanted in phases:
            keys = [
                _key(heads.ids, index)
                for index, phase in enumerate(heads.phases)
                if phase == wanted
            ]
            self._columns[wanted].add(b"".join(keys), stretch)

    def repeated(self) -> dict[str, set[int]]:
        """By phase, the keys that came more than once."""
        return {
            phase: keys
            for phase, column in self._columns.items()
            if (keys := set(_repeated(column.keys)))
        }

    def open_intents(self) -> set[int]:
        """The keys of intents of which there is no outcome."""
        intents = self._columns[Phase.INTENT.value].keys
        outcomes = self._columns[Phase.OUTCOME.value].keys
        if len(intents) <= _ONE_SET * _KEY_BYTES:
            left = set(memoryview(intents).cast("Q"))
            left.difference_update(memoryview(outcomes).cast("Q"))
            return left
        pairs = zip(_buckets(intents), _buckets(outcomes), strict=True)
        return {key for mine, others in pairs for key in set(mine).difference(others)}

    def where(self, phase: str, keys: set[int]) -> set[Stretch]:
        """The stretches that hold entries of a phase with one of the keys."""
        return set(self._columns[phase].where(keys))


def key_number(ids: bytes, index: int) -> int:
    """The key of one id of `Heads.ids`, as it is in the sets here."""
    return memoryview(_key(ids, index)).cast("Q")[0]


def _key(ids: bytes, index: int) -> bytes:
    return ids[index * _KEY_BYTES : (index + 1) * _KEY_BYTES]


def _repeated(keys: bytearray) -> Iterator[int]:
    numbers = memoryview(keys).cast("Q")
    if len(numbers) <= _ONE_SET and len(set(numbers)) == len(numbers):
        return
    for bucket in _buckets(keys):
        seen = set(bucket)
        if len(seen) == len(bucket):
            continue
        for key in bucket:
            if key in seen:
                seen.discard(key)
            else:
                yield key


def _buckets(keys: bytearray) -> Sequence[array[int]]:
    buckets = [array("Q") for _ in range(1 << _BUCKET_BITS)]
    appends = [bucket.append for bucket in buckets]
    shift = 8 * _KEY_BYTES - _BUCKET_BITS
    for key in memoryview(keys).cast("Q"):
        appends[key >> shift](key)
    return buckets
