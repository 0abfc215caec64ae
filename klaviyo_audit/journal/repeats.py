"""Finding entries that are in the journal twice, with eight bytes of memory an entry."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import orjson

from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klaviyo_audit.journal.heads import Heads
    from klaviyo_audit.journal.reader import Run

_KEY_BYTES: Final = 8
_ONE_SET: Final = 1 << 18
"""So many keys go into one set; more are counted bucket by bucket, since a set takes ten times
the memory of what is in it."""
_BUCKET_BITS: Final = 10

Suspect = tuple[str, bytes]
"""A phase, and the key of an id that more than one entry of that phase has."""


class Repeats:
    """A pass over the journal that collects the key of every entry's id, phase by phase."""

    def __init__(self) -> None:
        self._keys: defaultdict[str, bytearray] = defaultdict(bytearray)

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take a run of lines and their heads."""
        del file, run  # where they are is found out when it is needed, by a `Locator`
        phases = set(heads.phases)
        if len(phases) == 1:
            self._keys[phases.pop()] += heads.ids
            return
        for index, phase in enumerate(heads.phases):
            self._keys[phase] += _key(heads, index)

    def suspects(self) -> set[Suspect]:
        """The keys that came more than once; different ids can have the same one by chance."""
        return {(phase, key) for phase, keys in self._keys.items() for key in _repeated(keys)}


class Locator:
    """A second pass, which finds out where suspected repetitions are and whether they are real."""

    def __init__(self, suspects: set[Suspect]) -> None:
        self._suspects = suspects
        self._first: dict[tuple[str, str], Place] = {}
        self.findings: list[Finding] = []

    def feed(self, file: str, run: Run, heads: Heads) -> None:
        """Take a run of lines and their heads."""
        for index, phase in enumerate(heads.phases):
            if (phase, _key(heads, index)) not in self._suspects:
                continue
            try:
                entry_id = orjson.loads(run.lines[index])["id"]
            except ValueError:
                continue
            place = Place(file, *run.place(index))
            first = self._first.setdefault((entry_id, phase), place)
            if first is not place:
                self.findings.append(
                    Finding(
                        kind=Kind.DUPLICATE_ENTRY,
                        severity=Severity.ERROR,
                        file=place.file,
                        line=place.line,
                        offset=place.offset,
                        n=heads.numbers[index],
                        message=f"the {phase} of {entry_id!r} is in line {first.line} "
                        f"of {first.file} already",
                    )
                )


def _key(heads: Heads, index: int) -> bytes:
    return heads.ids[index * _KEY_BYTES : (index + 1) * _KEY_BYTES]


def _repeated(keys: bytearray) -> Iterator[bytes]:
    numbers = memoryview(keys).cast("Q")
    if len(numbers) <= _ONE_SET and len(set(numbers)) == len(numbers):
        return
    buckets = [array("Q") for _ in range(1 << _BUCKET_BITS)]
    appends = [bucket.append for bucket in buckets]
    shift = 8 * _KEY_BYTES - _BUCKET_BITS
    for key in numbers:
        appends[key >> shift](key)
    for bucket in buckets:
        seen = set(bucket)
        if len(seen) == len(bucket):
            continue
        for key in bucket:
            if key in seen:
                seen.discard(key)
            else:
                yield array("Q", [key]).tobytes()
