"""Finding keys, tokens and passwords in text of any kind, in linear time."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from math import log2
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIN_CREDENTIAL: Final = 8
_MAX_CREDENTIALS: Final = 256
MAX_FINDINGS: Final = 500
"""Findings of one kind in a text; what follows the last of them is masked unread."""

_UNDERSCORE: Final = r"(?:_|%(?:25){0,3}5f|\\{1,8}u005f)"
# Klaviyo's private keys in both formats: pk_ + 34 hexadecimal digits, pk_<site>_ + 34.
_KEY: Final = re.compile(
    rf"pk(?:{_UNDERSCORE}[a-z0-9]{{6}})?{_UNDERSCORE}[0-9a-f]{{16,}}+", re.ASCII
)
_VALUE: Final = r"[^\s\"'<>,;&}\\]"
_SCHEME: Final = re.compile(
    rf"(?:klaviyo-api-key|bearer|basic)(?:\s|%(?:25){{0,3}}20|\+){{1,4}}+({_VALUE}{{4,}}+)"
)
_WEB_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+){0,4}+", re.ASCII)

_PEM: Final = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")

_TELLING_WORDS: Final = (
    r"secret|passw|passphrase|pwd|token|api[_-]?key|apikey|authori[sz]ation|credential|cookie"
    r"|private[_-]?key|signing[_-]?key|session[_-]?id"
)
# What stands in each of them, and in schemes and keys: a search for it costs 40 ns.
_SCHEMES: Final = ("klaviyo-api-key", "bearer", "basic")
_HINTS: Final = (
    "secret", "passw", "passphr", "pwd", "token", "api", "authori", "credential", "cookie",
    "private", "signing", "session",
)  # fmt: skip
HINTS: Final = ("pk", "eyj", "bearer", "basic", *_HINTS)
"""One of them, in lower case, is in every text in which `find` finds a format that it knows."""
_TELLING_NAME: Final = re.compile(f"(?i)(?:{_TELLING_WORDS})")
_QUOTE: Final = r"(?:\\{0,8}[\"']|%(?:25){0,3}22|&quot;)"
# password=..., "secret_key": "...", \"token\": \"...\", api_key%3D...
_TOLD: Final = re.compile(
    rf"(?:{_TELLING_WORDS})[\w.\-\]]{{0,40}}+{_QUOTE}?\s{{0,4}}+"
    r"(?:=>?|:|%(?:25){0,3}3[ad])\s{0,4}+"
    rf"(?:{_QUOTE}([^\"'\\\n]{{1,}}+)|({_VALUE}{{1,}}+))"
)
# "the token is q8Zr0...": only what looks random.
_MENTIONED: Final = re.compile(
    rf"(?:{_TELLING_WORDS})[\w-]{{0,20}}+[\s\W]{{1,4}}?(?:is|was|of|be|to)?[\s\W]{{0,4}}?"
    r"(?<![\w+/=-])([\w+/=.~-]{16,}+)"
)
_BITS_A_CHARACTER: Final = 3.0


class Credentials:
    """Every value that was used as a credential in this process, so that it can be masked.

    Kept in memory only, at most 256 of them (the newest), never written anywhere.
    """

    __slots__ = ("_lock", "_spellings", "_values")

    def __init__(self) -> None:
        self._values: dict[str, None] = {}
        self._spellings: tuple[str, ...] = ()
        self._lock = Lock()

    def add(self, value: str) -> None:
        """Remember a credential. Values shorter than 8 characters would mask ordinary words."""
        if len(value) < _MIN_CREDENTIAL or value in self._values:
            return
        with self._lock:
            self._values[value] = None
            while len(self._values) > _MAX_CREDENTIALS:
                del self._values[next(iter(self._values))]
            encoded = (quote(one, safe="", errors="surrogatepass") for one in self._values)
            known = {*self._values, *encoded}
            self._spellings = tuple(sorted(known, key=len, reverse=True))

    def __len__(self) -> int:
        return len(self._values)

    def found_in(self, text: str) -> bool:
        """Whether a remembered credential stands in the text."""
        # One search each is faster than a pattern of alternatives, and a loop than `any`.
        for value in self._spellings:  # noqa: SIM110
            if value in text:
                return True
        return False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where remembered credentials stand in the text."""
        for value in self._spellings:
            at = text.find(value)
            while at >= 0:
                yield at, at + len(value)
                at = text.find(value, at + len(value))


CREDENTIALS = Credentials()
"""The process's credentials; shared by all auditors, since one's key is another's secret."""


def is_telling(name: str) -> bool:
    """Whether a member's name says that its value is a secret."""
    return _TELLING_NAME.search(name) is not None


def is_credential(text: str) -> bool:
    """Whether a text holds what can only be a credential, by its format or since it is used as one.

    Telling names do not count: a folder may be called ``token``.
    """
    return (
        CREDENTIALS.found_in(text)
        or "PRIVATE+KEY+" in text  # a signing key (golang.org/x/mod/sumdb/note)
        or _PEM.search(text) is not None
        or _WEB_TOKEN.search(text) is not None
        or _KEY.search(text.lower()) is not None
    )


def find(text: str, credentials: Credentials = CREDENTIALS) -> list[tuple[int, int]]:
    """Where keys, tokens, passwords and used credentials stand in a text, in order of place."""
    spans = list(islice(credentials.spans(text), MAX_FINDINGS))
    if len(spans) == MAX_FINDINGS:
        spans = [(0, len(text))]  # they come value by value, and not in order of place
    lowered = _lower(text)
    if "pk" in lowered:
        spans += _bounded(_matches(_KEY, lowered), text)
    if "eyJ" in text:
        spans += _bounded(_matches(_WEB_TOKEN, text), text)
    if _any_in(_SCHEMES, lowered):
        spans += _bounded(_matches(_SCHEME, lowered), text)
    if _any_in(_HINTS, lowered):
        spans += _bounded(_matches(_TOLD, lowered), text)
        mentioned = (one for one in _matches(_MENTIONED, lowered) if is_random(text[slice(*one)]))
        spans += _bounded(mentioned, text)
    spans.sort()
    return spans


def _any_in(words: tuple[str, ...], lowered: str) -> bool:
    for word in words:  # noqa: SIM110  (faster than `any`)
        if word in lowered:
            return True
    return False


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Where a pattern's last group matches, or all of it."""
    return (match.span(match.lastindex or 0) for match in pattern.finditer(text))


def _bounded(spans: Iterator[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    found = list(islice(spans, MAX_FINDINGS))
    if len(found) == MAX_FINDINGS:
        found.append((found[-1][0], len(text)))
    return found


def is_random(value: str) -> bool:
    """Whether a value looks made by chance: digits and letters, 3 bits a character or more.

    Args:
        value: At least 16 characters; a word of a language has about 2.5 bits at that length.
    """
    value = value[:200]
    if not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)):
        return False
    size = len(value)
    entropy = -sum(n / size * log2(n / size) for n in Counter(value).values())
    return entropy >= _BITS_A_CHARACTER


_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _lower(text: str) -> str:
    """The text in lower case, character for character: offsets stay what they are."""
    lowered = text.lower()
    # A few letters become two (U+0130).
    return lowered if len(lowered) == len(text) else text.translate(_ASCII_LOWER)
