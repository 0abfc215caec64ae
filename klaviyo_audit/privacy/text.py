"""Cleaning one text: secrets masked, persons named by pseudonym or masked, what is too long cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klaviyo_audit.privacy import detection, secrets
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.plain import LAYERS, LINE_GOES_ON, SIGNS, is_plain, plain
from klaviyo_audit.privacy.secrets import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klaviyo_audit.privacy.pseudonyms import Pseudonyms
    from klaviyo_audit.privacy.secrets import Credentials

MAX_TEXT: Final = 1_000
"""Characters of a text that are kept."""
MASKED_SECRET: Final = "[secret]"  # noqa: S105  (the mask, not a secret)
MASKED_EMAIL: Final = "[email]"
MASKED_PHONE: Final = "[phone]"
MASKED_PERSONAL: Final = "[personal]"
_MASKS: Final = {Kind.EMAIL: MASKED_EMAIL, Kind.PHONE: MASKED_PHONE}
_BEYOND: Final = 1_500
"""Characters after the cut that are read, so that what reaches across it is recognised."""
_SIGNS: Final = (*SIGNS, *secrets.HINTS)
_NEVER_CUT: Final = 8
"""A shorter text takes less room than the mark of a cut."""
_SHORTEST: Final = 7
"""Shorter texts hold no number of a phone."""


def clean(
    text: str,
    limit: int = MAX_TEXT,
    *,
    pseudonyms: Pseudonyms | None = None,
    credentials: Credentials = CREDENTIALS,
) -> str:
    """Mask secrets, give persons their pseudonyms, and cut what is too long.

    Args:
        text: Any text.
        limit: Characters of it that are kept; what is cut is marked with the length it had, and
            with a keyed digest of the whole where there is a key.
        pseudonyms: Makes them; without, addresses and phone numbers are masked.
        credentials: Values that are secrets although they look like nothing.
    """
    length = len(text)
    if (length <= limit or length < _NEVER_CUT) and is_harmless(text, credentials):
        return text
    # What comes after the cut is not kept, so it costs nothing to speak of, whatever it holds.
    read = text if length <= limit + _BEYOND else text[: limit + _BEYOND]
    if "=" in read and "\n" in read:
        read = _lines_joined(read, None if pseudonyms is None else pseudonyms.region, credentials)
    kept, rest = _masked(read, limit, pseudonyms, credentials)
    if not is_plain(read):
        kept = _read_again(kept, rest, pseudonyms, credentials)
    if length > limit:
        return kept + cut_mark(text, pseudonyms)
    return kept


def _lines_joined(text: str, region: str | None, credentials: Credentials) -> str:
    """The text without the soft line breaks that go through what has to be masked.

    The others stay: joined with the name before it, what follows ``id=`` or ``token=`` in the next
    line would look like part of a word.
    """
    through: set[int] = set()
    # The sign may also be the one that gives a value: ``token=`` with a break in the value as well.
    for sign in ("", "="):
        joined = LINE_GOES_ON.sub(sign, text)
        found = [(one.start, one.end) for one in detection.find(joined, region)]
        spans = _joined(sorted([*secrets.find(joined, credentials), *found]))
        at = removed = 0
        for line_break in LINE_GOES_ON.finditer(text):
            place = line_break.start() - removed + len(sign)
            removed += len(line_break[0]) - len(sign)
            while at < len(spans) and spans[at][1] <= place:
                at += 1
            if at < len(spans) and spans[at][0] < place:
                through.add(line_break.start())
    return LINE_GOES_ON.sub(lambda one: "" if one.start() in through else one[0], text)


def is_harmless(text: str, credentials: Credentials = CREDENTIALS) -> bool:
    """Whether a text surely holds nothing that would be masked: most do, and need no search."""
    if not text.isascii():
        return False
    lowered = text.lower()
    # A search for a word takes 40 ns, and a loop is faster than `any`.
    for sign in _SIGNS:
        if sign in lowered:
            return False
    if len(text) >= _SHORTEST and detection.may_hold_numbers(text):
        return False
    return not credentials.found_in(text)


def _masked(
    read: str, limit: int, pseudonyms: Pseudonyms | None, credentials: Credentials
) -> tuple[str, str]:
    """The text up to a place with what has to be masked masked, and what comes after it."""
    parts: list[str] = []
    end = 0
    for start, stop, mask in _masks(read, pseudonyms, credentials):
        if start >= limit:
            break
        parts += (read[end:start], mask)
        end = stop
    if not parts:
        return read[:limit], read[limit:]
    parts.append(read[end:limit])
    return "".join(parts), read[max(end, limit) :]


def _read_again(
    kept: str, rest: str, pseudonyms: Pseudonyms | None, credentials: Credentials
) -> str:
    """The text itself, or, if decoding reveals what has to be masked, its decoded form without it.

    What follows the text is read too, so that what reaches across the cut is recognised.
    """
    decoded = plain(kept + rest)
    if decoded is None:
        return f"[not read: encoded more than {LAYERS} times]"
    if decoded == kept + rest:
        return kept
    length = len(kept) if not rest else len(plain(kept) or "")
    masks = _masks(decoded, pseudonyms, credentials)
    revealed = any(start < length and _is_new(decoded, start, stop) for start, stop, _ in masks)
    return _masked(decoded, length, pseudonyms, credentials)[0] if revealed else kept


def without_secrets(text: str, credentials: Credentials = CREDENTIALS) -> str:
    """The text with secrets masked and persons left as they are, for what names an actor."""
    if is_harmless(text, credentials):
        return text
    text = _hidden(text, _joined(secrets.find(text, credentials)))
    decoded = None if is_plain(text) else plain(text)
    if decoded is None or decoded == text:
        return text
    found = [span for span in secrets.find(decoded, credentials) if _is_new(decoded, *span)]
    return _hidden(decoded, _joined(found)) if found else text


def _hidden(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    end = 0
    for start, stop in spans:
        parts += (text[end:start], MASKED_SECRET)
        end = stop
    return "".join((*parts, text[end:])) if parts else text


def _is_new(text: str, start: int, stop: int) -> bool:
    """Whether a find is more than what was masked before: a name tells of its value again."""
    return text[start:stop] != MASKED_SECRET


def cut_mark(text: str, pseudonyms: Pseudonyms | None) -> str:
    """What stands where a text was cut."""
    if pseudonyms is None:
        return f"[cut: {len(text)} characters]"
    return f"[cut: {len(text)} characters, {pseudonyms.digest(text)}]"


def _masks(
    text: str, pseudonyms: Pseudonyms | None, credentials: Credentials
) -> Iterator[tuple[int, int, str]]:
    """What is replaced, in order of place and without overlaps."""
    hidden = _joined(secrets.find(text, credentials))
    region = None if pseudonyms is None else pseudonyms.region
    at = end = 0
    for found in detection.find(text, region):
        while at < len(hidden) and hidden[at][1] <= found.start:
            yield *hidden[at], MASKED_SECRET
            end = hidden[at][1]
            at += 1
        start, stop = max(found.start, end), found.end
        if at < len(hidden) and hidden[at][0] < stop:
            # A secret that touches a person is one secret.
            while at < len(hidden) and hidden[at][0] < stop:
                start, stop = min(start, max(hidden[at][0], end)), max(stop, hidden[at][1])
                at += 1
            yield start, stop, MASKED_SECRET
        elif start < stop:
            yield start, stop, _mask(found, pseudonyms)
        end = max(stop, end)
    for span in hidden[at:]:
        yield *span, MASKED_SECRET


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _mask(found: detection.Finding, pseudonyms: Pseudonyms | None) -> str:
    if found.kind is None:
        return f"[not read: {found.end - found.start} characters]"
    if pseudonyms is None or not found.values:
        return _MASKS[found.kind]
    kind = found.kind
    names = (pseudonyms.of_normal(kind, value) for value in found.values)
    return ",".join(name or _MASKS[kind] for name in names)
