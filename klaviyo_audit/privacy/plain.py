"""What a text says once it is decoded: for what is written so that a search would pass it by."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Final
from urllib.parse import unquote

LAYERS: Final = 6
"""Encodings around one another that are undone."""

_ESCAPE: Final = re.compile(
    r"\\{1,8}(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|([nrtbf/\"'\\]))"
)
_HIGHEST: Final = 0x10FFFF
# RFC 2045, section 6.7: a line that goes on, and a character by its number.
LINE_GOES_ON: Final = re.compile(r"=[ \t]{0,4}\r?\n")
"""Quoted-printable's soft line break, which may be anywhere in a word."""
_QUOTED_PRINTABLE: Final = re.compile(r"=(?:3D){0,4}([2-7][0-9A-F])")
# Dashes, and dots that are put between the digits of numbers.
_ALIKE: Final = {
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2015, 0x2212, 0x2043), "-"),
    **dict.fromkeys((0x00B7, 0x2022, 0x2219, 0x22C5, 0x30FB), "."),
}
_INVISIBLE: Final = re.compile(
    "[\0\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f"
    "\ufeff\ud800-\udfff\U000e0000-\U000e007f]+"
)
# "dana @ example.com", "dana (at) example.com", as it is written for robots not to understand.
_SPACED_AT: Final = re.compile(
    r"(?<=[\w\"])(?:[ \t\r\n]{0,2}@[ \t\r\n]{0,2}|[ \t]?[\[({<] ?[aA][tT] ?[\])}>][ \t]?)"
    r"(?=\w[\w-]{0,62}\.\w)"
)
SIGNS: Final = ("@", "%", "&", "\\", "=", "\0", "at)", "at]", "at}", "at>", "at )", "at ]")
"""One of them, in lower case, is in every ASCII text that says more than it looks like."""


def is_plain(text: str) -> bool:
    """Whether a text surely says just what it looks like."""
    if not text.isascii():
        return False
    lowered = text.lower()
    return not any(sign in lowered for sign in SIGNS)


def plain(text: str) -> str | None:
    """The text without what encodes, hides or replaces its characters.

    Percent-encoding, HTML's entities, the escapes of JSON and Python, quoted-printable, full-width
    and other compatible letters, invisible characters, dashes of all kinds, spaces around an at
    sign, each up to `LAYERS` times over. In time linear in the text.

    Returns:
        None when there are more layers than that.
    """
    for _ in range(LAYERS):
        decoded = _once(text)
        if decoded == text:
            return text
        text = decoded
    return text if _once(text) == text else None


def _once(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_ALIKE)
    if "\0" in text or not text.isascii():
        text = _INVISIBLE.sub("", text)
    if "%" in text:
        text = unquote(text)
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text:
        text = _ESCAPE.sub(_unescape, text)
    if "=" in text:
        text = _quoted_printable(LINE_GOES_ON.sub("", text))
    return _SPACED_AT.sub("@", text) if "@" in text or "at" in text.lower() else text


def _quoted_printable(text: str) -> str:
    # Only where an at sign is among them: `height=30` is an assignment.
    if "=40" not in text and "=3D40" not in text:
        return text
    return _QUOTED_PRINTABLE.sub(lambda match: chr(int(match[1], 16)), text)


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is not None:
        number = int(code, 16)
        return chr(number) if number <= _HIGHEST else "\ufffd"
    return " " if match[4] in "nrtbf" else match[4]
