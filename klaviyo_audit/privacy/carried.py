"""Taking out of free text what the same call's request says of persons: names, addresses.

Nothing tells a name in prose from another word. But a `reason` or `metadata` that repeats one is
mostly about the person of the call, and whom the call is about stands in its request.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.journal.format import json_text
from klaviyo_audit.privacy.plain import is_plain, plain
from klaviyo_audit.privacy.pseudonyms import PATTERN
from klaviyo_audit.privacy.text import MASKED_PERSONAL

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VALUES: Final = 2_000
"""Values of one call, and of the calls in an audited function, that are looked for."""
MAX_LENGTH: Final = 200
_SHORTEST: Final = 3
_SHORTEST_NUMBER: Final = 4
_SHORTEST_OTHER: Final = 2
_FIRST_UNSPACED: Final = "\u0e00"
"""From here on come scripts that put no spaces between words (Thai, Chinese, Japanese)."""
_SPACES: Final = re.compile(r"\s+")
_REPEATED: Final = re.compile(r"\[personal\](?:[ ,]{1,2}\[personal\])+")


def folded(text: str) -> str:
    """The spelling that texts are compared in: NFKC, case-folded, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _SPACES.sub(" ", text.casefold()).strip()


def worth(value: str) -> str | None:
    """A value in the spelling it is looked for in; None if it is too short to mean anything."""
    if len(value) > MAX_LENGTH:
        return None
    text = folded(value)
    least = _SHORTEST if text.isascii() else _SHORTEST_OTHER
    if text.isdigit():
        least = _SHORTEST_NUMBER
    return text if len(text) >= least else None


def without(value: Any, carried: Mapping[str, str]) -> Any:
    """A value that was cleaned already, without what a call carries.

    Whole words only, in any case. In time linear in the text for each value that is carried.

    Args:
        value: JSON types. It is never changed in place.
        carried: What to take out, as `worth` spells it, each with what stands there instead.
    """
    everything = json_text(value)
    text = folded(everything if is_plain(everything) else plain(everything) or everything)
    present = {one: mask for one, mask in carried.items() if one in text}
    return _Taker(present).take(value) if present else value


def unnamed(value: Any) -> Any:
    """A value that was cleaned already, without pseudonyms: for entries that must name nobody."""
    if isinstance(value, str):
        return PATTERN.sub(MASKED_PERSONAL, value)
    if isinstance(value, dict):
        return {unnamed(name): unnamed(member) for name, member in value.items()}
    return [unnamed(one) for one in value] if isinstance(value, list) else value


class _Taker:
    __slots__ = ("_masks", "_pattern")

    def __init__(self, masks: dict[str, str]) -> None:
        self._masks = masks
        # The longest first: "Dana Miller" before "Dana".
        words = "|".join(map(_word, sorted(masks, key=len, reverse=True)))
        self._pattern = re.compile(words, re.IGNORECASE)

    def take(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            found: dict[str, Any] = {}
            for name, member in value.items():
                key = self._text(name)
                while key in found:
                    key += "~"
                found[key] = self.take(member)
            return found
        return [self.take(one) for one in value] if isinstance(value, list) else value

    def _text(self, text: str) -> str:
        found = self._pattern.sub(self._mask, text)
        # Otherwise spelled, or encoded: as full-width letters, `M%C3%BCller`, STRASSE for Straße.
        if not is_plain(found):
            decoded = unicodedata.normalize("NFKC", plain(found) or found)
            if self._pattern.search(decoded):
                found = self._pattern.sub(self._mask, decoded)
        if not found.isascii() and self._pattern.search(folded(found)):
            return MASKED_PERSONAL
        return found if found is text else _REPEATED.sub(MASKED_PERSONAL, found)

    def _mask(self, match: re.Match[str]) -> str:
        return self._masks.get(folded(match[0]), MASKED_PERSONAL)


def _word(value: str) -> str:
    """A pattern of a value as a word of its own, with any spaces between its words."""
    pattern = r"\s{1,8}".join(map(re.escape, value.split(" ")))
    before = r"(?<!\w)" if value[0].isalnum() and value[0] < _FIRST_UNSPACED else ""
    after = r"(?!\w)" if value[-1].isalnum() and value[-1] < _FIRST_UNSPACED else ""
    return f"{before}{pattern}{after}"
