"""Finding entries: about a person, of an action, since a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.analysis.entries import entries
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.pseudonyms import PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klaviyo_audit.privacy.pseudonyms import Pseudonyms

_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Question:
    """Which entries are wanted; what is not given is not asked for."""

    names: tuple[str, ...] | None = None
    """Pseudonyms; an entry has to hold one. None: entries about anybody."""
    action: str | None = None
    """Glob over the entries' ``action``."""
    since: str | None = None
    """Earliest time, as entries write it (`since`)."""


def find(directory: Path, question: Question) -> Iterator[dict[str, Any]]:
    """The members of the entries that fit, oldest file first.

    Raises:
        JournalCorrupt: See `entries.entries`.
        OSError: A file cannot be read.
    """
    if question.names is not None and not question.names:
        return
    for members in entries(directory, [name.encode() for name in question.names or ()]):
        if question.since is not None and members["timestamp"] < question.since:
            continue
        if question.action is not None and not fnmatchcase(members["action"], question.action):
            continue
        yield members


def names_of(person: str, pseudonyms: Pseudonyms) -> tuple[str, ...]:
    """The pseudonyms that entries about a person may hold.

    Args:
        person: An e-mail address, a phone number or an external id; ``name:Dana Miller`` and the
            like say which kind it is. A pseudonym stands for itself.
        pseudonyms: By every key there is.

    Raises:
        ValueError: It is no identifier of the kind that it is said to be, or looks to be.
    """
    if PATTERN.fullmatch(person):
        return (person,)
    kind, value = identifier(person)
    found = tuple(pseudonyms.all_of(kind, value))
    if not found and _is_unreadable(kind, value, pseudonyms):
        raise ValueError(
            f"that is no {kind.value.replace('_', ' ')}; write a phone number with its country's "
            "prefix (+49...), or say what it is: external_id:<id>, name:<name>"
        )
    return found


def identifier(person: str) -> tuple[Kind, str]:
    """What kind of identifier somebody has given, and the identifier."""
    prefix, _, rest = person.partition(":")
    if rest and prefix in set(Kind):
        return Kind(prefix), rest
    if "@" in person:
        return Kind.EMAIL, person
    if re.fullmatch(r"[+(\d][\d ().\-/]{6,}", person):
        return Kind.PHONE, person
    return Kind.EXTERNAL_ID, person


def _is_unreadable(kind: Kind, value: str, pseudonyms: Pseudonyms) -> bool:
    from klaviyo_audit.privacy.identifiers import normalise

    return normalise(kind, value, pseudonyms.region) is None


def since(text: str, now: datetime | None = None) -> str:
    """A time as entries write it.

    Args:
        text: RFC 3339 (``2026-11-23``, ``2026-11-23T19:00:00Z``; without a zone it is UTC), or how
            long ago: ``90s``, ``15m``, ``12h``, ``7d``, ``4w``.
        now: For tests.

    Raises:
        ValueError: It is neither.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        seconds = int(ago[1]) * _SECONDS[ago[2]]
        time = (now or datetime.now(UTC)) - timedelta(seconds=seconds)
    else:
        time = datetime.fromisoformat(text.strip())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
