"""Finding entries that are in the journal twice, with eight bytes of memory an entry."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klaviyo_audit.journal.heads import Heads
    from klaviyo_audit.journal.line import Line

_KEY_BYTES: Final = 8
_BUCKETS: Final = 1024
"""Keys are counted bucket by bucket: a set of all would take ten times their memory."""

Suspect = tuple[str, bytes]
"""A phase, and the key of an id that more than one entry of that phase has."""


class Repeats:
    """A pass over the journal that collects the key of every entry's id, phase by phase."""

    def __init__(self) -> None:
        self._keys: defaultdict[str, bytearray] = defaultdict(bytearray)

    def feed(self, heads: Heads) -> None:
        """Take the heads of some lines."""
        phases = set(heads.phases)
        if len(phases) == 1:
            self._keys[phases.pop()] += heads.ids
            return
        for index, phase in enumerate(heads.phases):
            self._keys[phase] += heads.ids[index * _KEY_BYTES : (index + 1) * _KEY_BYTES]

    def suspects(self) -> set[Suspect]:
        """The keys that came more than once; different ids can have the same by chance."""
        return {
            (phase, key.to_bytes(_KEY_BYTES, "little"))
            for phase, keys in self._keys.items()
            for key in _repeated(keys)
        }


def _repeated(keys: bytearray) -> Iterator[int]:
    buckets = [array("Q") for _ in range(_BUCKETS)]
    appends = [bucket.append for bucket in buckets]
    numbers = array("Q", bytes(keys))
    ...
