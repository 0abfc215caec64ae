"""What an entry keeps of a request and a response: what the allow-list names, else shapes."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson

from klaviyo_audit.klaviyo import kept
from klaviyo_audit.klaviyo.kept import MAX_COUNT, PERSONAL, Treatment, is_time
from klaviyo_audit.privacy.text import MASKED_SECRET

if TYPE_CHECKING:
    from klaviyo_audit.klaviyo.kept import Kept
    from klaviyo_audit.privacy.gate import Gate

MAX_MEMBERS: Final = 50
"""Members of one object that are kept."""
MAX_DEPTH: Final = 10
MAX_NODES: Final = 1_000
"""Values of one body that are looked at."""
MAX_RESPONSE: Final = 1_048_576
"""Bytes of a response that are looked at; of a larger one only the size is kept."""

# Query parameters whose values are names of members, resources or sizes.
_NAMING_PARAMETER: Final = re.compile(
    r"(?:(?:additional-)?fields\[[a-z-]{1,60}\]|include|sort|timeframe)\Z"
)
_PARAMETER: Final = re.compile(
    r"(?:(?:additional-)?fields\[[a-z-]{1,60}\]|page[\[_](?:size|cursor|number)\]?|include|sort"
    r"|filter|timeframe|company_id|page_cursor)\Z"
)
_SIZE: Final = re.compile(r"[0-9]{1,4}\Z")
# https://developers.klaviyo.com/en/docs/filtering_
_OPERATORS: Final = (
    r"equals|any|less-than|less-or-equal|greater-than|greater-or-equal|contains|contains-any"
    r"|contains-all|starts-with|ends-with|has|not|and|or|has-relationship"
)
_FILTER_TERM: Final = re.compile(rf"\b({_OPERATORS})\(\s{{0,4}}([A-Za-z0-9_.\-]{{0,80}})")
_WORDS: Final = re.compile(r"[.,]")
_MAX_NAMING: Final = 500


def request_shape(url: str, body: Any, allowed: Kept, gate: Gate) -> dict[str, Any]:
    """The entry's ``request``: the query's parameters and the body.

    Args:
        url: The URL as it was sent.
        body: The body as JSON types, or None. It is read, never changed.
        allowed: The operation's allow-list.
        gate: Makes pseudonyms, and judges ids.
    """
    found: dict[str, Any] = {}
    query = _query_shape(urlsplit(url).query)
    if query:
        found["query"] = query
    if body is not None:
        found["body"] = _Shaper(allowed, gate).shape(body, MAX_DEPTH)
    return found


def response_shape(data: bytes | None, allowed: Kept, gate: Gate) -> Any:
    """The entry's ``response``: what is kept of a JSON body.

    Args:
        data: The body as received; None when it was not read by the SDK.
        allowed: The operation's allow-list.
        gate: Makes pseudonyms, and judges ids.
    """
    if not data:
        return None
    if len(data) > MAX_RESPONSE:
        return {"bytes": len(data)}
    try:
        return _Shaper(allowed, gate).shape(orjson.loads(data), MAX_DEPTH)
    except ValueError:
        return {"bytes": len(data), "json": False}


def _query_shape(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    left_out = 0
    for name, value in islice(parse_qsl(query, keep_blank_values=True), MAX_MEMBERS):
        if _PARAMETER.match(name) is None:
            left_out += 1
        elif name == "filter":
            # equals(email,"dana@example.com") keeps equals and email, not whose.
            terms = _FILTER_TERM.findall(value[: _MAX_NAMING * 4])[:MAX_MEMBERS]
            found[name] = [f"{operator}({_name_or_not(member)})" for operator, member in terms]
        elif (_NAMING_PARAMETER.match(name) and _is_naming(value)) or (
            "size" in name and _SIZE.match(value)
        ):
            found[name] = value
        else:
            found[name] = _scalar_shape(value)
    if left_out:
        found["[left out]"] = left_out
    return found


def _is_naming(value: str) -> bool:
    """Whether a value consists of names that are the API's own."""
    if len(value) > _MAX_NAMING:
        return False
    return all(word.removeprefix("-") in kept.members() for word in _WORDS.split(value))


def _name_or_not(member: str) -> str:
    return member if _is_naming(member) else "?"


class _Shaper:
    """Goes through one body."""

    __slots__ = ("_allowed", "_gate", "_left")

    def __init__(self, allowed: Kept, gate: Gate) -> None:
        self._allowed = allowed
        self._gate = gate
        self._left = MAX_NODES

    def shape(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list | tuple):
            found: dict[str, Any] = {"count": len(value)}
            if value and depth > 0 and self._left > 0:
                found["first"] = self.shape(value[0], depth - 1)
            return found
        return _scalar_shape(value)

    def _object(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        if depth <= 0 or self._left <= 0:
            return {"[members]": len(value)}
        found: dict[str, Any] = {}
        kept_members = 0
        treatment_of = self._allowed.treatment
        for name, member in islice(value.items(), MAX_MEMBERS):
            treatment, choices = treatment_of(name)
            if treatment is Treatment.LEFT_OUT:
                continue
            kept_members += 1
            self._left -= 1
            if member is None or member is True or member is False:
                found[name] = member
            elif treatment is Treatment.SHAPE:
                found[name] = (
                    f"str({len(member)})" if type(member) is str else self.shape(member, depth - 1)
                )
            elif treatment is Treatment.SECRET:
                found[name] = MASKED_SECRET
            elif treatment is Treatment.FREE_FORM and isinstance(member, dict):
                found[name] = {"[members]": len(member)}
            else:
                found[name] = self._kept(name, member, treatment, choices, depth)
        if kept_members < len(value):
            found["[left out]"] = len(value) - kept_members
        return found

    def _kept(
        self, name: str, member: Any, treatment: Treatment, choices: frozenset[str], depth: int
    ) -> Any:
        if isinstance(member, str):
            if treatment is Treatment.CHOICE:
                if member in choices:
                    return member
            elif treatment is Treatment.IDENTIFIER:
                if self._gate.is_identifier(member):
                    return member
            elif treatment is Treatment.PERSONAL:
                pseudonym = self._gate.pseudonym(PERSONAL[name], member)
                if pseudonym is not None:
                    return pseudonym
            elif treatment is Treatment.TIME and is_time(member):
                return member
        elif isinstance(member, int) and treatment is Treatment.COUNT and 0 <= member < MAX_COUNT:
            return member
        elif isinstance(member, list) and treatment is Treatment.CHOICE:
            listed = member[:MAX_MEMBERS]
            if all(isinstance(one, str) and one in choices for one in listed):
                return listed
        return self.shape(member, depth - 1)


def _scalar_shape(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | bytes):
        return f"{type(value).__name__}({len(value)})"
    return type(value).__name__
