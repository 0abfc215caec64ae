"""How much harm each operation of Klaviyo's API can do."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from klaviyo_audit.entry import Risk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_RISING = tuple(Risk)
_PARAMETER = re.compile(r"\{[^/{}]*\}")
_LITERAL = re.compile(r"[a-z][a-z-]*")
_PREFIXES = frozenset({"api", "client"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of Klaviyo's API. HTTP method with path template is its stable identity."""

    group: str
    """Property of ``KlaviyoAPI`` that it is under (``Web_Feeds``)."""
    name: str
    """Canonical name in the installed SDK; names flip between major versions."""
    method: str
    """HTTP method, upper case."""
    path: str
    """Path template without a trailing slash (``/api/profiles/{id}``)."""
    scopes: tuple[str, ...]
    """OAuth scopes that Klaviyo documents for it, sorted."""
    risk: Risk
    personal_data: bool
    """Request or response can be about an identifiable person, ids of profiles included."""
    writes: bool
    """It changes data at Klaviyo, so an intent is recorded before it is sent."""
    effects: tuple[str, ...]
    """What makes it risky: ``message-send``, ``irreversible``, ``mass-data`` and the like."""
    known: bool
    """False: newer than the table, so its classes come from `by_rule`."""


def key(method: str, path: str) -> tuple[str, str]:
    """What an operation is found by: names of path parameters and a trailing slash don't count."""
    return method.upper(), _PARAMETER.sub("{}", path.rstrip("/"))


@cache
def table() -> Mapping[tuple[str, str], Operation]:
    """Every operation of `klaviyo-api` 17.0.0 to 25.0.0 by `key`, read at first use.

    Methods, paths, names and scopes are the SDK's own (names those of 25.0.0); the other columns
    are this project's judgement. ``/api/api-keys`` is a beta resource that no SDK has.
    """
    import csv
    from importlib import resources

    text = resources.files(__package__).joinpath("risks.csv").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            key(row["method"], row["path"]): Operation(
                group=row["group"],
                name=row["name"],
                method=row["method"],
                path=row["path"],
                scopes=tuple(row["scopes"].split()),
                risk=Risk(row["risk"]),
                personal_data=row["personal_data"] == "yes",
                writes=row["writes"] == "yes",
                effects=tuple(row["effects"].split()),
                known=True,
            )
            for row in csv.DictReader(text.splitlines())
        }
    )


def severity(risk: Risk) -> int:
    """Place of a risk in rising order, from 0."""
    return _RISING.index(risk)


def by_rule(
    method: str,
    path: str,
    *,
    group: str | None = None,
    name: str | None = None,
    scopes: tuple[str, ...] = (),
    rows: Collection[Operation] | None = None,
) -> Operation:
    """Judge an operation that the table does not know, never less strictly than its siblings.

    A *sibling* is a row of the same API group, or one whose collection (first segment after
    ``/api``) shares its first word with any collection or relationship in `path`: for
    ``/api/lists/{id}/tags`` all of ``/api/lists``, ``/api/tags`` and ``/api/tag-groups``. Then:

    - ``writes`` is true unless the method is GET, HEAD or OPTIONS.
    - ``risk`` is at least that of every sibling with the same ``writes``; at least medium for a
      write and high for a DELETE. With no such sibling it is high for a write, else medium.
    - ``personal_data`` is true for a write, if that of any sibling is, or if there is no sibling.

    Args:
        method: HTTP method.
        path: Path template.
        group: API group, where the SDK tells it; else guessed from the siblings.
        name: Name in the SDK, where it has one; else the method in lower case.
        scopes: OAuth scopes, where the SDK tells them.
        rows: The known operations; the table if not given.
    """
    rows = table().values() if rows is None else rows
    method, path = method.upper(), path.rstrip("/")
    writes = method not in _READING
    words = {_first_word(segment) for segment in _collections(path)}
    related = [row for row in rows if _first_word(_collections(row.path)[0]) in words]
    group = group or _likely_group(path, related)
    siblings = [*related, *(row for row in rows if row.group == group)]
    return Operation(
        group=group,
        name=name or method.lower(),
        method=method,
        path=path,
        scopes=scopes,
        risk=_strictest(method, [row.risk for row in siblings if row.writes == writes]),
        personal_data=writes or not siblings or any(row.personal_data for row in siblings),
        writes=writes,
        effects=("destructive",) if method == "DELETE" else (),
        known=False,
    )


def template_of(url_path: str) -> str:
    """The likely template of a concrete path: whatever may be an id is ``{id}``.

    Klaviyo's paths alternate a collection, an id, and what is related to it, all literals in lower
    case with hyphens. Ids must not stay: they can be about a person, and are without number.
    """
    segments = url_path.strip("/").split("/")
    start = 1 if segments[0] in _PREFIXES else 0
    template = [
        segment if place != start + 1 and _LITERAL.fullmatch(segment) else "{id}"
        for place, segment in enumerate(segments)
    ]
    return "/" + "/".join(template)


def _strictest(method: str, risks: Iterable[Risk]) -> Risk:
    writes = method not in _READING
    floor = Risk.HIGH if method == "DELETE" else Risk.MEDIUM if writes else Risk.LOW
    unheard_of = Risk.HIGH if writes else Risk.MEDIUM
    return max(floor, max(risks, key=severity, default=unheard_of), key=severity)


def _collections(path: str) -> list[str]:
    """The literal segments that name something: not the prefix, nor ``relationships``."""
    segments = path.strip("/").split("/")
    start = 1 if segments[0] in _PREFIXES else 0
    names = [s for s in segments[start:] if s != "relationships" and not s.startswith("{")]
    return names or [""]


def _first_word(segment: str) -> str:
    return segment.partition("-")[0].removesuffix("s")


def _likely_group(path: str, related: Iterable[Operation]) -> str:
    collection = _collections(path)[0]
    word = _first_word(collection)
    groups = Counter(row.group for row in related if _first_word(_collections(row.path)[0]) == word)
    if groups:
        return groups.most_common(1)[0][0]
    return "_".join(part.title() for part in collection.split("-")) or "Unknown"
