"""Cleaning values of any type: into JSON, with secrets and persons out, and bounded in all ways."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.privacy import text as texts
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.secrets import CREDENTIALS, is_telling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klaviyo_audit.privacy.pseudonyms import Pseudonyms
    from klaviyo_audit.privacy.secrets import Credentials

MAX_ITEMS: Final = 50
"""Members of one mapping or sequence that are kept."""
MAX_DEPTH: Final = 8
"""Levels of nesting that are kept."""
MAX_NODES: Final = 1_000
"""Members of one value that are kept, on all levels together."""
MAX_CHARACTERS: Final = 32_768
"""Characters of the texts of one value that are kept, together."""
_MAX_NAME: Final = 100
_LONG_INTEGER: Final = 2**53

# Letters and few digits: no address, number or key; nearly all names are so, and need no search.
_PLAIN_NAME: Final = re.compile(
    r"(?!.*(?:[Pp][Kk]_|eyJ))[A-Za-z](?=(?:\D*\d){0,6}\D*\Z)[A-Za-z0-9_-]{0,39}\Z"
)
# What a member's name says about its value, whatever way the name is written.
_PERSONAL_NAMES: Final = (
    (re.compile(r"(?:^|_)e?_?mail(?:_?address)?$"), Kind.EMAIL),
    (
        re.compile(r"(?:^|_)(?:phone|mobile|cell|tel|telephone|fax)(?:_?(?:number|no))?$"),
        Kind.PHONE,
    ),
    (re.compile(r"(?:^|_)external_?id$"), Kind.EXTERNAL_ID),
    (
        re.compile(
            r"(?:^|_)(?:first|last|full|given|family|sur|middle|nick|customer|person|contact"
            r"|recipient|display)_?name$"
        ),
        Kind.NAME,
    ),
    (
        re.compile(
            r"(?:^|_)(?:birth_?da(?:y|te)|date_of_birth|dob|(?:street_?|postal_?)?address(?:_?\d)?"
            r"|street|zip(?:_?code)?|post(?:al)?_?code|latitude|longitude|lat|lng|lon|iban|ssn"
            r"|passport|tax_id|card_number)$"
        ),
        None,
    ),
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Cleaner:
    """Cleans one value; holds what is left of the bounds that count for all of it.

    Args:
        pseudonyms: As for `text.clean`.
        credentials: As for `text.clean`.
    """

    __slots__ = ("_characters", "_credentials", "_nodes", "_pseudonyms")

    def __init__(
        self, pseudonyms: Pseudonyms | None = None, credentials: Credentials = CREDENTIALS
    ) -> None:
        self._pseudonyms = pseudonyms
        self._credentials = credentials
        self._nodes = MAX_NODES
        self._characters = MAX_CHARACTERS

    def clean(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """The value as JSON types. It is never changed in place.

        Mappings and sequences keep at most 50 members and 8 levels, the whole at most 1,000 members
        and 32,768 characters; the value of a member whose name tells of a secret is masked, that of
        one whose name tells of a person becomes a pseudonym; types that JSON has not become their
        name. What is cut is marked with the size it had.
        """
        if type(value) is str:
            return self._text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self.clean(value.value, depth)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return value if -_LONG_INTEGER <= value <= _LONG_INTEGER else self._text(_digits(value))
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[bytes: {len(value)}]"
        if depth <= 0:
            return f"[cut: {_type_name(value)}]"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._sequence(value, len(value), depth)
        return f"[{_type_name(value)}]"

    def _text(self, value: str, limit: int = texts.MAX_TEXT) -> str:
        cleaned = texts.clean(
            value,
            min(limit, max(self._characters, 0)),
            pseudonyms=self._pseudonyms,
            credentials=self._credentials,
        )
        self._characters -= len(cleaned)
        return cleaned

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        taken = 0
        for name, member in islice(value.items(), MAX_ITEMS):
            if self._nodes <= 0:
                break
            self._nodes -= 1
            taken += 1
            is_text = isinstance(name, str)
            key = self._name(name) if is_text else self._text(str(self.clean(name, 0)), _MAX_NAME)
            # Two names may become the same when they are cleaned.
            while key in cleaned:
                key = f"{key[:_MAX_NAME]}~{taken}"
            if not is_text:
                cleaned[key] = self.clean(member, depth - 1)
                continue
            # Only a name that is kept as it is may be remembered.
            told = _remembered(name) if key is name else _told_by(name)
            if told is _NOT_PERSONAL or member is None:
                cleaned[key] = self.clean(member, depth - 1)
            elif told is _SECRET:
                cleaned[key] = texts.MASKED_SECRET
            else:
                cleaned[key] = self._member(told, member, depth - 1)
        if taken < len(value):
            cleaned["[cut]"] = f"{len(value)} members"
        return cleaned

    def _name(self, name: str) -> str:
        if _PLAIN_NAME.match(name) is not None and not self._credentials.found_in(name):
            self._characters -= len(name)
            return name
        return self._text(name, _MAX_NAME)

    def _member(self, told: Kind | None, member: Any, depth: int) -> Any:
        if isinstance(member, bool):
            return self.clean(member, depth)
        if isinstance(member, list | tuple | set | frozenset):
            # Each of them is what the name says of all.
            listed = list(islice(member, MAX_ITEMS))
            self._nodes -= len(listed)
            found = [self._personal(told, one) for one in listed]
            if len(listed) < len(member):
                found.append(f"[cut: {len(member)} members]")
            return found
        return self._personal(told, member)

    def _personal(self, kind: Kind | None, value: Any) -> str:
        if kind is not None and isinstance(value, str) and self._pseudonyms is not None:
            name = self._pseudonyms.of(kind, value)
            if name is not None:
                return name
        if kind is Kind.EMAIL:
            return texts.MASKED_EMAIL
        return texts.MASKED_PHONE if kind is Kind.PHONE else texts.MASKED_PERSONAL

    def _sequence(self, value: Iterable[Any], length: int, depth: int) -> list[Any]:
        cleaned: list[Any] = []
        for member in islice(value, MAX_ITEMS):
            if self._nodes <= 0:
                break
            self._nodes -= 1
            cleaned.append(self.clean(member, depth - 1))
        if len(cleaned) < length:
            cleaned.append(f"[cut: {length} members]")
        return cleaned


class _Told:
    """What a member's name says, where that is no kind of identifier."""


_NOT_PERSONAL: Final[Any] = _Told()
_SECRET: Final[Any] = _Told()


def _told_by(name: str) -> Any:
    """What a member's name says of its value: a secret, a kind, None (personal), or none of it."""
    if is_telling(name):
        return _SECRET
    plain = _CAMEL.sub("_", name[:_MAX_NAME]).lower().replace("-", "_").replace(" ", "_")
    for pattern, kind in _PERSONAL_NAMES:
        if pattern.search(plain):
            return kind
    return _NOT_PERSONAL


def is_personal(name: str) -> bool:
    """Whether a member's name tells that its value is about a person."""
    told = _told_by(name)
    return told is not _NOT_PERSONAL and told is not _SECRET


_remembered: Final = lru_cache(1_024)(_told_by)


def _type_name(value: Any) -> str:
    """The name of a value's type, as far as it is one that source code has."""
    name = type(value).__name__
    return name if _PLAIN_NAME.match(name.strip("_")) is not None else "object"


def _digits(value: int) -> str:
    # Python refuses to print integers of more than 4,300 digits.
    bits = value.bit_length()
    return str(value) if bits < 1_000 else f"[integer: {bits} bits]"  # noqa: PLR2004
