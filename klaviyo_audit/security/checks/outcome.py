"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN: Final = 5


class Status(StrEnum):
    """The verdict of one check."""

    PASS = "pass"  # noqa: S105  (a verdict)
    WARN = "warn"
    FAIL = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the project something stands."""

    path: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found."""

    status: Status
    evidence: str
    remedy: str = ""
    """A command or a setting to type, with what it is for; empty where nothing is to be done."""
    places: tuple[Place, ...] = ()


def passed(evidence: str) -> Outcome:
    """All is well."""
    return Outcome(Status.PASS, evidence)


def warned(evidence: str, remedy: str, places: Sequence[Place] = ()) -> Outcome:
    """It could be better."""
    return Outcome(Status.WARN, evidence, remedy, tuple(places))


def failed(evidence: str, remedy: str, places: Sequence[Place] = ()) -> Outcome:
    """It is wrong."""
    return Outcome(Status.FAIL, evidence, remedy, tuple(places))


def unchecked(why: str, remedy: str = "") -> Outcome:
    """Nobody knows: there is nothing to judge by, or it could not be looked at."""
    return Outcome(Status.NOT_CHECKED, why, remedy)


def listed(items: Sequence[str], most: int = _SHOWN) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
