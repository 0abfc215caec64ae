"""What lines about the journal itself say: gaps, recoveries, torn pieces.

Anybody can have written them, so what is malformed is passed over and explains nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.journal.findings import Place

RETENTION: Final = "journal.retention"
"""Action of the line that tells of files that are about to be removed."""

_WRITER: Final = re.compile(r"[0-9a-f]{16}")
_NAME_LENGTH: Final = 120

Range = tuple[int, int]
"""First and last number, both included."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a ``journal.recover`` line says about a dead writer."""

    place: Place
    last: int
    missing: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class ToldTorn:
    """A torn piece that a line in the journal accounts for."""

    file: str
    """The file of the line that says so. The piece is in it, unless it was rotated meanwhile."""
    offset: int
    length: int
    sha256: str | None


def is_writer(value: Any) -> TypeGuard[str]:
    """Whether a value is a writer's id."""
    return isinstance(value, str) and _WRITER.fullmatch(value) is not None


def is_number(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number, not negative."""
    return type(value) is int and value >= 0


def facts_of(members: Mapping[str, Any], name: str = "metadata") -> dict[str, Any]:
    """A member of a line that is an object; an empty one where it is something else."""
    facts = members.get(name)
    return facts if isinstance(facts, dict) else {}


def recovery(facts: Mapping[str, Any], place: Place) -> Recovery:
    """What a ``journal.recover`` line says about the numbers of its writer.

    Args:
        facts: The line's ``metadata``.
        place: Where the line is.
    """
    last = facts.get("last")
    missing = tuple((n, n) for n in _list(facts.get("missing")) if is_number(n))
    return Recovery(place, last if is_number(last) else -1, missing)


def lost_numbers(facts: Mapping[str, Any]) -> list[Range]:
    """Numbers that a gap entry says were used for lines which could not be written."""
    return [
        (pair[0], pair[1])
        for pair in _list(facts.get("numbers"))
        if isinstance(pair, list)
        and len(pair) == len(("first", "last"))
        and all(map(is_number, pair))
    ]


def torn(facts: Mapping[str, Any], file: str) -> list[ToldTorn]:
    """The torn pieces that a gap or a recovery accounts for.

    Args:
        facts: The line's ``metadata``.
        file: Name of the file that the line is in.
    """
    told = []
    for piece in _list(facts.get("torn")):
        if not isinstance(piece, dict):
            continue
        offset, length, digest = (piece.get(name) for name in ("offset", "length", "sha256"))
        if is_number(offset) and is_number(length) and isinstance(digest, str | None):
            told.append(ToldTorn(file, offset, length, digest))
    return told


def describe_gap(facts: Mapping[str, Any]) -> str:
    """A sentence about what was lost; empty if nothing was."""
    count = facts.get("count")
    if not is_number(count) or count == 0:
        return ""
    operations = ", ".join(f"{name} ({times})" for name, times in _counts(facts.get("operations")))
    reasons = ", ".join(name for name, _ in _counts(facts.get("reasons")))
    when = " to ".join(repr(str(facts.get(end))[:_NAME_LENGTH]) for end in ("from", "to"))
    return (
        f"{count} entries could not be written, {when} ({reasons or 'no reason given'}): "
        f"{operations}"
    )


def describe_sizes(facts: Mapping[str, Any]) -> str:
    """From what size to what size a file shrank, as far as the line says it."""
    sizes = (facts.get("size_seen"), facts.get("size"))
    return " to ".join(f"{size} bytes" for size in sizes if is_number(size)) or "no sizes given"


def describe_step(facts: Mapping[str, Any]) -> str:
    """A sentence about a wall clock that was set, as far as the line says by how much."""
    step = facts.get("step_ms")
    if type(step) is not int:
        return "the wall clock was set; the line does not say by how much"
    way = "back" if step < 0 else "forward"
    return (
        f"the wall clock was set {way} by {abs(step):,} ms: times before and after this line do "
        "not compare"
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _counts(value: Any) -> list[tuple[str, int]]:
    if not isinstance(value, dict):
        return []
    return [(repr(name[:_NAME_LENGTH]), n) for name, n in value.items() if is_number(n)]
