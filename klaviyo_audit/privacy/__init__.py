"""The one gate that text and values pass on their way into an entry."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TEXT = 1_000
"""Characters of a text that are kept."""
MAX_ITEMS = 50
"""Members of one mapping or sequence that are kept."""
MAX_DEPTH = 8
"""Levels of nesting that are kept."""
_MIN_CREDENTIAL = 8
_MAX_CREDENTIALS = 256
_FEW = 4
_LONG_INTEGER = 2**53

# Every pattern is anchored by a literal or bounded on both sides, so that matching is linear in
# the text; the usual e-mail pattern took 480 us on one 300-character run of letters.
_SECRET_PATTERNS = (
    r"pk_(?:[A-Za-z0-9]{6}_)?[0-9a-fA-F]{16,64}",
    r"(?i:Klaviyo-API-Key|Bearer)(?:\s|%20|\+){1,4}[^\s\"',;&}]{4,512}",
    r"eyJ[A-Za-z0-9_-]{8,2048}(?:\.[A-Za-z0-9_-]{0,2048}){0,2}",
    (
        r"(?i:(?:client_secret|secret_key|access_token|refresh_token|api_key|apikey|password)"
        r"[\"']?\s{0,4}[=:]\s{0,4}[\"']?)[^\s\"',;&}]{1,512}"
    ),
)
_EMAIL = (
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+'-]{1,64}(?:@|%40|\uff20)"
    r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}"
)
_EMAIL_INTERNATIONAL = r"[^\s@\"'<>(),;:]{1,64}@[^\s@\"'<>(),;:]{1,128}"
_PHONE = r"(?<![\w+])(?:\+|%2[Bb])[0-9](?:[ ().-]{0,2}[0-9]){6,14}"
_SECRET = re.compile("|".join(_SECRET_PATTERNS))
_PERSONAL = re.compile(f"(?P<email>{_EMAIL}|{_EMAIL_INTERNATIONAL})|(?P<phone>{_PHONE})")

_TELLING_NAME = re.compile(
    r"(?i)(?:secret|passw|token|api[_-]?key|authori[sz]ation|credential|private[_-]?key)"
)

# A path that only has these characters, and nothing that starts like a key, is kept as it is.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/_\-.:~$]{0,300}\Z")
_PLAIN_SEGMENT = re.compile(r"(?!.*(?:pk_|eyJ))[A-Za-z0-9_\-.:~$ ,!*()]{0,200}\Z")

MASKED_SECRET = "[secret]"  # noqa: S105  (the mask, not a secret)
MASKED_EMAIL = "[email]"
MASKED_PHONE = "[phone]"


class Credentials:
    """Every value that was used as a credential in this process, so that it can be masked.

    Kept in memory only, at most 256 of them (the newest), never written anywhere.
    """

    __slots__ = ("_few", "_lock", "_pattern", "_values")

    def __init__(self) -> None:
        self._values: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None
        # Most programs have one key, and to look for it is ten times faster than the pattern.
        self._few: tuple[str, ...] = ()
        self._lock = Lock()

    def add(self, value: str) -> None:
        """Remember a credential. Values shorter than 8 characters would mask ordinary words."""
        if len(value) < _MIN_CREDENTIAL or value in self._values:
            return
        with self._lock:
            self._values[value] = None
            while len(self._values) > _MAX_CREDENTIALS:
                del self._values[next(iter(self._values))]
            self._pattern = re.compile(
                "|".join(re.escape(one) for one in sorted(self._values, key=len, reverse=True))
            )
            self._few = tuple(self._values) if len(self._values) <= _FEW else ()

    def found_in(self, text: str) -> bool:
        """Whether a remembered credential stands in the text."""
        for value in self._few:
            if value in text:
                return True
        if self._few:
            return False
        pattern = self._pattern
        return pattern is not None and pattern.search(text) is not None

    def mask(self, text: str) -> str:
        """The text with every remembered credential replaced."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(MASKED_SECRET, text)


CREDENTIALS = Credentials()
"""The process's credentials; shared by all auditors, since one's key is another's secret."""


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Mask secrets, e-mail addresses and phone numbers, and cut what is too long.

    Args:
        text: Any text.
        limit: Characters kept; what is cut is marked with the length it had.
    """
    length = len(text)
    if length > limit:
        # A secret that the cut goes through would no longer be recognised: cut after masking,
        # but bound the work first.
        text = text[: limit * 2]
    text = CREDENTIALS.mask(text)
    text = _SECRET.sub(MASKED_SECRET, text)
    text = _PERSONAL.sub(_mask_personal, text)
    if length > limit:
        text = f"{text[:limit]}[cut: {length} characters]"
    return text


def clean_identity(text: str) -> str:
    """An actor's id: secrets are masked, an e-mail address is what names the actor and stays."""
    return _SECRET.sub(MASKED_SECRET, CREDENTIALS.mask(text[:256]))


def _mask_personal(match: re.Match[str]) -> str:
    return MASKED_EMAIL if match.lastgroup == "email" else MASKED_PHONE


def clean_path(path: str) -> str:
    """A resource's path: ids stay, anything that may be a secret or a person is masked.

    Args:
        path: The path of a URL, percent-encoded as it was sent, without the query.
    """
    if (
        "pk_" not in path  # a look-ahead in the pattern took longer than all the rest
        and "eyJ" not in path
        and _PLAIN_PATH.match(path) is not None
        and not CREDENTIALS.found_in(path)
    ):
        return path
    return "/".join(_clean_segment(segment) for segment in path.split("/"))


def _clean_segment(segment: str) -> str:
    # Decoded twice, since a value may arrive encoded already.
    decoded = unquote(unquote(segment))
    if _PLAIN_SEGMENT.match(decoded) is not None and not CREDENTIALS.found_in(decoded):
        return segment
    return f"[masked:{len(decoded)}]"


def url_path(url: str) -> str:
    """The path of a URL: no host, no user, no query, no fragment."""
    scheme = url.find("://")
    start = url.find("/", scheme + 3)
    if scheme <= 0 or start < 0 or "#" in url:
        return urlsplit(url).path
    end = url.find("?", start)
    return url[start:] if end < 0 else url[start:end]


def is_telling(name: str) -> bool:
    """Whether a member's name says that its value is a secret."""
    return _TELLING_NAME.search(name) is not None


def clean_value(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Bring a value of any type into JSON, cleaned and bounded. It is never changed in place.

    Mappings and sequences keep at most 50 members and 8 levels; the value of a member whose name
    tells of a secret is masked; types that JSON has not become their name.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return clean_value(value.value, depth)
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return value if -_LONG_INTEGER <= value <= _LONG_INTEGER else clean_text(_digits(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[bytes: {len(value)}]"
    if depth <= 0:
        return f"[cut: {type(value).__name__}]"
    if isinstance(value, Mapping):
        return _clean_mapping(value, depth)
    if isinstance(value, list | tuple | set | frozenset):
        return _clean_sequence(value, len(value), depth)
    return f"[{type(value).__name__}]"


def _digits(value: int) -> str:
    # Python refuses to print integers of more than 4,300 digits.
    bits = value.bit_length()
    return str(value) if bits < 1_000 else f"[integer: {bits} bits]"  # noqa: PLR2004


def _clean_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    for name, member in islice(value.items(), MAX_ITEMS):
        key = clean_text(name if isinstance(name, str) else str(clean_value(name, 0)), 100)
        masked = isinstance(name, str) and member is not None and is_telling(name)
        cleaned[key] = MASKED_SECRET if masked else clean_value(member, depth - 1)
    if len(value) > MAX_ITEMS:
        cleaned["[cut]"] = f"{len(value)} members"
    return cleaned


def _clean_sequence(value: Iterable[Any], length: int, depth: int) -> list[Any]:
    cleaned = [clean_value(member, depth - 1) for member in islice(value, MAX_ITEMS)]
    if length > MAX_ITEMS:
        cleaned.append(f"[cut: {length} members]")
    return cleaned
