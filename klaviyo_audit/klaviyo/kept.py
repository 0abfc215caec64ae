"""What an entry may keep of an operation's request and response: the allow-list.

``kept.csv`` has a row for each member of a body whose value may stay: identifiers, choices (only
the values listed, which are the API's own words), counts and times. ``members.txt`` has the names
that the API itself gives to members. Truth values stay under any of those names. All else is kept
as its type and length; a name that is not the API's is only counted.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.secrets import is_telling

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COUNT: Final = 10**8
"""Larger whole numbers are no counts, but may be somebody's phone number."""
# RFC 3339, and Klaviyo's own format with a space and without a colon in the offset.
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?\Z", re.ASCII
)

PERSONAL: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "email": Kind.EMAIL,
        "phone_number": Kind.PHONE,
        "external_id": Kind.EXTERNAL_ID,
        "anonymous_id": Kind.ANONYMOUS_ID,
        "first_name": Kind.NAME,
        "last_name": Kind.NAME,
    }
)
"""Members that say who somebody is: kept as pseudonyms where there is a key."""

FREE_FORM: Final = frozenset(
    {"properties", "metadata", "custom_metadata", "context", "value", "record", "data_values"}
)
"""Members whose own members are the customer's: only counted."""

_EXCHANGE_ID: Final = "_kx"
"""Klaviyo's exchange id: whoever has it can act as the profile in the browser."""


class Treatment(Enum):
    """What becomes of the value of a member."""

    LEFT_OUT = auto()
    SECRET = auto()
    FREE_FORM = auto()
    PERSONAL = auto()
    IDENTIFIER = auto()
    CHOICE = auto()
    COUNT = auto()
    TIME = auto()
    SHAPE = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    member: str
    keeps: Treatment
    operations: tuple[str, ...]
    """Globs over ``METHOD /path/{id}``."""
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class Kept:
    """The allow-list of one operation."""

    rows: Mapping[str, Row]
    _known: dict[str, tuple[Treatment, frozenset[str]]] = field(default_factory=dict)

    def treatment(self, name: Any) -> tuple[Treatment, frozenset[str]]:
        """What becomes of a member's value, and the choices that may stay."""
        found = self._known.get(name)
        return found if found is not None else self._look(name)

    def _look(self, name: Any) -> tuple[Treatment, frozenset[str]]:
        if not isinstance(name, str) or name not in members():
            return _LEFT_OUT
        row = self.rows.get(name)
        if is_telling(name) or name == _EXCHANGE_ID:
            found = Treatment.SECRET
        elif name in FREE_FORM:
            found = Treatment.FREE_FORM
        elif name in PERSONAL:
            found = Treatment.PERSONAL
        else:
            found = Treatment.SHAPE if row is None else row.keeps
        # As many as the API has names, at most.
        self._known[name] = (found, frozenset() if row is None else row.values)
        return self._known[name]


_LEFT_OUT: Final[tuple[Treatment, frozenset[str]]] = (Treatment.LEFT_OUT, frozenset())


@lru_cache(maxsize=2048)
def kept_for(method: str, path: str) -> Kept:
    """The allow-list of an operation, by HTTP method and path template."""
    name = f"{method.upper()} {path}"
    return Kept(
        {
            row.member: row
            for row in table()
            if any(glob == "*" or fnmatchcase(name, glob) for glob in row.operations)
        }
    )


@cache
def table() -> tuple[Row, ...]:
    """The rows of ``kept.csv``, read at first use.

    Choices are the enumerations of Klaviyo's OpenAPI file (revision 2026-10-15) and of the models
    of `klaviyo-api` 25.0.0; that they may stay is this project's judgement.
    """
    return tuple(
        Row(
            row["member"],
            Treatment[row["keeps"].upper()],
            tuple(row["operations"].split(";")),
            frozenset(row["values"].split("|")) if row["values"] else frozenset(),
        )
        for row in csv.DictReader(_text("kept.csv").splitlines())
    )


@cache
def members() -> frozenset[str]:
    """The names that Klaviyo's API gives to members of bodies, read at first use."""
    return frozenset(_text("members.txt").split())


def is_time(value: str) -> bool:
    """Whether a text is a date or a time and nothing else."""
    return len(value) <= 40 and _TIME.match(value) is not None  # noqa: PLR2004


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
