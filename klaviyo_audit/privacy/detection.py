"""Finding e-mail addresses and phone numbers in text of any kind, in linear time.

Nothing here backtracks over more than a bounded stretch: addresses are found from their ``@``
outwards, phone numbers in possessive runs, and after `MAX_FINDINGS` the rest of a text is one
finding. A quadratic pattern would let whoever fills in a form stop the program.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from klaviyo_audit.privacy import identifiers
from klaviyo_audit.privacy.identifiers import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CANDIDATES: Final = 500
"""At signs, and runs of digits, that are looked at in one text; what follows is masked unread."""
_REACH: Final = 640
"""Characters on each side of an at sign that are looked at (an address has 320, encoded more)."""
_DECODINGS: Final = 3
"""How often a value may be percent-encoded."""

# All alternatives begin with a literal: then the search runs over other text at 3 ns a character
# instead of 300. The at sign as such, small and full-width, and as URLs, quoted-printable, JSON and
# HTML write it.
_AT: Final = re.compile(
    r"@|\ufe6b|\uff20"
    r"|%(?:25){0,3}(?:40|[Ee][Ff]%(?:25){0,3}[Bb][CcDd9]%(?:25){0,3}[AaBb][0Aa])|=40"
    r"|\\\\{0,7}+(?:u0040|U00000040|x40|u[Ff]{2}20|100)|&(?:#0{0,5}64|#[xX]0{0,5}40|commat);?"
)
# Where an address ends on its left and right, whatever way the text around it is written.
_DELIMITERS: Final = '"<>()[],:{}|` \t\r\n\f\v\0\u00a0\u2028\u2029\u3000'
_RIGHT: Final = re.compile(r"\[[0-9A-Za-z:.]{2,64}\]|[^\s\"<>()\[\],;:{}|`\0]{0,640}+")
_SPACE: Final = re.compile(r"\s")
_ESCAPE: Final = re.compile(r"\\{1,8}(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrtbf/\"'\\]))")
_LOCAL_PART: Final = r"[^\s@\"<>()\[\],;:{}|`\\=&?/#\x00-\x1f]"
_ADDRESS: Final = re.compile(
    rf"(?:\"[^\"\r\n@]{{1,62}}+\"|(?<!{_LOCAL_PART}){_LOCAL_PART}{{1,64}}+)"
    r"@[\w-]{1,63}+(?:[.\u3002][\w-]{1,63}+){0,10}+(?![\w%@-]|[.\u3002]\w)"
)
_AROUND: Final = "'.!?*_~-\\\u3002\uff61"
# A semicolon delimits, unless it is the end of a character as HTML writes it.
_SEMICOLON: Final = re.compile(r"(?:&#([xX][0-9A-Fa-f]{2,6}|[0-9]{2,7}))?;")
_LAST_SEMICOLON: Final = re.compile(_SEMICOLON.pattern + r"\Z")
_ENTITY_LENGTH: Final = 9
_QUOTED_LOCAL: Final = 66
_ASCII: Final = 128

_BETWEEN: Final = r" \u00a0().\-/\u2010-\u2015"
_ENCODED_BETWEEN: Final = rf"(?:[{_BETWEEN}\t\r\n_~*\[\]]|%(?:20|2[89DdEe]|2[Ff])|\+(?=[\d(]))"
_INTERNATIONAL: Final = re.compile(
    r"(?:\+|\uff0b|%(?:25){0,3}2[Bb]|&#43;|\\\\{0,7}+u002[Bb])"
    rf"{_ENCODED_BETWEEN}{{0,2}}+\d(?:{_ENCODED_BETWEEN}{{0,4}}+\d){{6,18}}+"
)
# A run of digits with what people write between them, from its first character on.
_RUN: Final = re.compile(rf"[\d{_BETWEEN}](?<![\d{_BETWEEN}].)[\d{_BETWEEN}]{{8,}}+", re.DOTALL)
_DIGITS: Final = b"0123456789"
_FEWEST_DIGITS: Final = 7
"""Digits of the shortest number that is recognised, one with a plus sign."""
_EDGES: Final = " \u00a0).-/\u2010\u2011\u2012\u2013\u2014\u2015"
_LONGEST_RUN: Final = 80
_NUMBER_DIGITS: Final = 9
"""Digits that a national spelling has at least; shorter ones are too like everything else."""
# Dates, and addresses of hosts.
_DATE_OR_HOST: Final = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-/.])(?:0\d|1[0-2])\1[0-3]\d(?: [0-2]\d(?!\d))?"
    r"|[0-3]?\d([./])[01]?\d\2(?:19|20)\d\d|\d{1,3}(?:\.\d{1,3}){3})(?!\d)"
)
_UUID: Final = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
)
_UUID_LENGTH: Final = 36
_PLAIN: Final = re.compile(r"[1-9]\d*(?:\.\d+)?\Z")
_TELLING: Final = re.compile(
    r"(?i)(?:phone|mobile|cell|\btel|telefon|\bsms|whatsapp|\bfax|\bcall|handy|number)\W{0,4}"
    r"(?:(?:is|no|nr|to|at|on|under|number)\W{0,4})?\Z"
)
_TELLING_REACH: Final = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """A stretch of a text that identifies somebody, or may."""

    start: int
    end: int
    kind: Kind | None
    """None: the rest of a text that has too many findings."""
    values: tuple[str, ...] = ()
    """The identifiers in their one spelling; none where the spelling cannot be told."""


def find(text: str, region: str | None = None) -> Iterator[Finding]:
    """The e-mail addresses and phone numbers of a text, in order, without overlaps.

    Args:
        text: Any text: prose, URLs, filters, JSON in JSON.
        region: As for `identifiers.normalise`.
    """
    end = 0
    phones = _phones(text, region) if may_hold_numbers(text) else iter(())
    for found in _merged(text, _emails(text), phones, region):
        if found.end > end:
            yield found
            end = found.end
        if found.kind is None:
            return


def may_hold_numbers(text: str) -> bool:
    """Whether a text has as many digits as the shortest number of a phone."""
    if not text.isascii():
        return True
    encoded = text.encode()
    return len(encoded) - len(encoded.translate(None, _DIGITS)) >= _FEWEST_DIGITS


def _merged(
    text: str, emails: Iterator[Finding], phones: Iterator[Finding], region: str | None
) -> Iterator[Finding]:
    """Both in order of place; digits in an address are part of it, those beside it are not."""
    email, phone = next(emails, None), next(phones, None)
    while email is not None or phone is not None:
        if email is None or (phone is not None and phone.end <= email.start):
            assert phone is not None
            yield phone
            phone = next(phones, None)
            continue
        while phone is not None and phone.start < email.end and phone.kind is not None:
            if phone.start < email.start:
                yield from _beginning(text, phone, email.start, region)
            if phone.end > email.end:
                rest = text[email.end : phone.end].lstrip(_EDGES)
                phone = Finding(phone.end - len(rest), phone.end, Kind.PHONE)
                break
            phone = next(phones, None)
        yield email
        email = next(emails, None)


def _beginning(text: str, phone: Finding, end: int, region: str | None) -> Iterator[Finding]:
    """What of a number is one without the digits with which an address begins."""
    offset = max(0, phone.start - _UUID_LENGTH)
    for one in _phones(text[offset:end], region):
        if offset + one.end > phone.start:
            start = max(offset + one.start, phone.start)
            yield Finding(start, offset + one.end, one.kind, one.values)


def _emails(text: str) -> Iterator[Finding]:
    end = 0
    for count, at in enumerate(_AT.finditer(text)):
        if count == MAX_CANDIDATES:
            yield Finding(max(end, at.start() - _REACH), len(text), None)
            return
        if at.start() < end:
            continue
        start = _left(text, at.start(), end)
        stop = _right(text, at.end())
        while stop > at.end() and text[stop - 1] in _AROUND:
            stop -= 1
        if start == at.start() or stop == at.end():
            continue
        end = stop
        start, values = _addresses(text, start, stop)
        yield Finding(start, stop, Kind.EMAIL, values)


def _left(text: str, at: int, floor: int) -> int:
    """Where the token that ends at an at sign begins."""
    floor = max(floor, at - _REACH)
    if at > floor and text[at - 1] == '"':
        # "dana miller"@example.com
        opening = text.rfind('"', max(floor, at - _QUOTED_LOCAL), at - 1)
        if opening >= 0:
            return opening
    start = max(floor - 1, *[text.rfind(one, floor, at) for one in _DELIMITERS]) + 1
    if text.find("&#", start, at) < 0:
        start = max(start, text.rfind(";", start, at) + 1)
    else:
        for semicolon in _SEMICOLON.finditer(text, start, at):
            if _delimits(semicolon):
                start = semicolon.end()
    if not text.isascii():
        for space in _SPACE.finditer(text, start, at):
            start = space.end()
    while start < at and text[start] in "'*~!":
        start += 1
    return start


def _right(text: str, at: int) -> int:
    """Where the token that begins behind an at sign ends."""
    last = at + _REACH
    match = _RIGHT.match(text, at)
    while match is not None:
        end = match.end()
        if end > last or text[end : end + 1] != ";":
            return end
        semicolon = _LAST_SEMICOLON.search(text, max(at, end - _ENTITY_LENGTH), end + 1)
        if semicolon is None or _delimits(semicolon):
            return end
        match = _RIGHT.match(text, end + 1)
    return at


def _delimits(semicolon: re.Match[str]) -> bool:
    entity = semicolon[1]
    if entity is None:
        return True
    number = int(entity[1:], 16) if entity[0] in "xX" else int(entity)
    return number < _ASCII and (chr(number) in _DELIMITERS or chr(number) in ";'")


def _addresses(text: str, start: int, end: int) -> tuple[int, tuple[str, ...]]:
    """Where the finding begins and the addresses in it, decoded and normalised."""
    raw = text[start:end]
    decoded = decode(raw)
    if not decoded.isascii():
        decoded = unicodedata.normalize("NFKC", identifiers.INVISIBLE.sub("", decoded))
    found = list(_ADDRESS.finditer(decoded))
    values = tuple(
        value
        for one in found
        for spelling in _readings(one[0].strip("'.!?*~"))
        if (value := identifiers.email(spelling)) is not None
    )
    if decoded == raw and len(found) == 1:
        # email=dana@example.com: the name before the sign may stay.
        before = decoded[: found[0].start()]
        if before.endswith("=") and before[:-1].replace("_", "").isalnum() and before.isascii():
            start += found[0].start()
    return start, values


def _readings(address: str) -> tuple[str, ...]:
    """What an address may be: after a domain with dots, an ideographic stop may end a sentence."""
    before, stop, _ = address.partition(identifiers.STOP)
    return (before, address) if stop and "." in before.rpartition("@")[2] else (address,)


def decode(text: str) -> str:
    """Undo percent-encoding (up to three times over), JSON's and HTML's escapes."""
    for _ in range(_DECODINGS):
        if "%" not in text:
            break
        text = unquote(text)
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text:
        text = _ESCAPE.sub(_unescape, text)
    return text.replace("=40", "@")


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    if code is not None:
        return chr(int(code, 16))
    return " " if match[3] in "nrtbf" else match[3]


def _phones(text: str, region: str | None) -> Iterator[Finding]:
    marked, runs = _marked(text), _runs(text, region)
    one, other = next(marked, None), next(runs, None)
    while one is not None or other is not None:
        # A number with its plus sign is found both ways: the longer finding counts.
        if other is None or (one is not None and one.start < other.end):
            assert one is not None
            while other is not None and other.start < one.end and other.kind is not None:
                if other.end > one.end:
                    one = Finding(min(one.start, other.start), other.end, Kind.PHONE)
                other = next(runs, None)
            yield one
            one = next(marked, None)
        else:
            yield other
            other = next(runs, None)


def _marked(text: str) -> Iterator[Finding]:
    """Numbers that begin with a plus sign in any encoding."""
    for count, match in enumerate(_INTERNATIONAL.finditer(text)):
        if count == MAX_CANDIDATES:
            yield Finding(match.start(), len(text), None)
            return
        decoded = decode(match[0]).replace("\uff0b", "+").lstrip(" +")
        number = identifiers.phone("+" + decoded.replace("+", " "))
        yield Finding(match.start(), match.end(), Kind.PHONE, () if number is None else (number,))


def _runs(text: str, region: str | None) -> Iterator[Finding]:
    """Numbers in national spelling, or with 00."""
    for count, match in enumerate(_RUN.finditer(text)):
        if count == MAX_CANDIDATES:
            yield Finding(match.start(), len(text), None)
            return
        raw = match[0].lstrip(_EDGES)
        start = match.end() - len(raw)
        raw = raw.rstrip(_EDGES + "(")
        if len(raw) > _LONGEST_RUN:
            yield Finding(start, start + len(raw), Kind.PHONE)
            continue
        rest = _DATE_OR_HOST.sub("", raw)
        if sum(map(rest.count, "0123456789")) < _NUMBER_DIGITS and (
            rest.isascii() or sum(map(str.isdigit, rest)) < _NUMBER_DIGITS
        ):
            continue
        is_plain = _PLAIN.match(raw) or (raw.isdigit() and _is_in_a_word(text, start, len(raw)))
        if is_plain and not _TELLING.search(text[max(0, start - _TELLING_REACH) : start]):
            continue
        if _is_in_a_uuid(text, start, start + len(raw)):
            continue
        number = identifiers.phone(raw, region)
        yield Finding(start, start + len(raw), Kind.PHONE, () if number is None else (number,))


def _is_in_a_word(text: str, start: int, length: int) -> bool:
    """Whether letters touch a run of digits, as in ids and digests."""
    before, after = text[max(0, start - 1) : start], text[start + length : start + length + 1]
    return before.isalpha() or after.isalpha()


def _is_in_a_uuid(text: str, start: int, end: int) -> bool:
    window = _UUID.finditer(text, max(0, start - _UUID_LENGTH), end + _UUID_LENGTH)
    return any(match.start() <= start and end <= match.end() for match in window)
