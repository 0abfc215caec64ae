"""Finding credentials in bytes, in one piece or as a stream of any length."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klaviyo_audit.security import patterns
from klaviyo_audit.security.patterns import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES: Final = 1 << 22
_OVERLAP: Final = 4096
"""Longer than any match."""
_LINE_BYTES: Final = 2048
"""How much of a line is looked at for an allowing comment."""

_KEY: Final = re.compile(patterns.KEY.encode())
_NAME: Final = re.compile(patterns.NAME.encode())
_LITERAL: Final = re.compile(patterns.LITERAL.encode())
_BARE: Final = re.compile(patterns.BARE.encode())
_BEARER: Final = re.compile(patterns.BEARER.encode())
_BASE64_KEY: Final = re.compile(rb"cGtf[A-Za-z0-9+/]{46,56}")
"""A key that is encoded alone, as in the manifests of Kubernetes."""
_WIDE_START: Final = b"p\0k\0_\0"
_WIDE_KEY: Final = re.compile(rb"(?:[\x21-\x7e]\0){37,44}")

# What may stand between the parts of a key that is written over several lines or literals.
_JOINT: Final = re.compile(
    rb"""\\?["'`](?:\s|\\[nr]|\\(?=\s)|[+.&,()]|[fFrRbBuU](?=\\?["'`])){0,120}\\?["'`]"""
    rb"""|[\\=]\r?\n[ \t]{0,80}"""
    rb"""|\r?\n[ \t]{0,80}(?:[#*>|]|//)?[ \t]{0,80}"""
)
_SPLIT_START: Final = re.compile(rb"""pk_[A-Za-z0-9_]{0,40}(?=[\\"'`=\r\n])""")
_WORD: Final = re.compile(rb"[A-Za-z0-9_]+")
_SPLIT_BYTES: Final = 2048
_ALLOWED: Final = re.compile(rb"pragma: ?(?:allow|white)list[ -]secret")
_ALLOWED_NEXT: Final = re.compile(rb"pragma: ?allowlist[ -]nextline[ -]secret")


@dataclass(frozen=True, slots=True)
class Match:
    """One credential in a text."""

    rule: Rule
    offset: int
    """Byte at which it starts."""
    line: int
    """From 1."""
    secret: str = field(repr=False)
    allowed: bool = False
    """A comment on its line, or on the one before, says that it may be there."""


def search(read: Callable[[int], bytes], *, bare: bool = False) -> Iterator[Match]:
    """Find credentials in a stream, in bounded memory.

    Args:
        read: Gives the next bytes, at most so many; nothing at the end.
        bare: Whether values may stand without quotes in it.
    """
    kept, start, reported, line = b"", 0, 0, 1
    while True:
        chunk = read(CHUNK_BYTES)
        data = kept + chunk if kept else chunk
        limit = start + len(data) - (_OVERLAP if chunk else 0)
        counted = 0
        found_line = line
        for rule, offset, secret in sorted(_candidates(data, bare=bare), key=lambda c: c[1]):
            if not reported <= start + offset < limit:
                continue
            found_line += data.count(b"\n", counted, offset)
            counted = offset
            yield Match(rule, start + offset, found_line, secret, _is_allowed(data, offset))
        if not chunk:
            return
        reported = max(reported, limit)
        cut = max(0, limit - start - _OVERLAP)
        line += data.count(b"\n", 0, cut)
        kept, start = data[cut:], start + cut


def _candidates(data: bytes, *, bare: bool) -> Iterator[tuple[Rule, int, str]]:
    if b"pk_" in data:
        yield from _keys(data)
    if _WIDE_START in data:
        yield from _wide_keys(data)
    if b"cGtf" in data:
        yield from _encoded_keys(data)
    # Lower case first: a search that ignores case took ten times as long.
    lowered = data.lower()
    if patterns.CONTEXT in lowered:
        yield from _told_by_context(data, lowered, bare=bare)


def _keys(data: bytes) -> Iterator[tuple[Rule, int, str]]:
    for match in _KEY.finditer(data):
        key = match[0].decode()
        if not patterns.is_made_up_key(key):
            yield Rule.PRIVATE_KEY, match.start(), key
    for match in _SPLIT_START.finditer(data):
        split = _joined(data[match.start() : match.start() + _SPLIT_BYTES])
        if split is not None and not patterns.is_made_up_key(split):
            yield Rule.PRIVATE_KEY, match.start(), split


def _joined(text: bytes) -> str | None:
    """The key that a text starts with, its parts put together; None if there is none."""
    key = b""
    at = joints = 0
    longest = max(patterns.KEY_LENGTHS)
    while len(key) <= longest:
        word = _WORD.match(text, at)
        if word is not None:
            key += word[0]
            at = word.end()
            whole = _KEY.fullmatch(key)
            if whole is not None:
                return key.decode() if joints else None
        joint = _JOINT.match(text, at)
        if joint is None or joints > longest:
            return None
        joints += 1
        at = joint.end()
    return None


def _wide_keys(data: bytes) -> Iterator[tuple[Rule, int, str]]:
    """Keys in UTF-16, in either order of bytes."""
    at = data.find(_WIDE_START)
    while at >= 0:
        wide = _WIDE_KEY.match(data, at)
        match = _KEY.match(wide[0][::2]) if wide is not None else None
        if match is not None and not patterns.is_made_up_key(match[0].decode()):
            yield Rule.PRIVATE_KEY, at, match[0].decode()
        at = data.find(_WIDE_START, at + 1)


def _encoded_keys(data: bytes) -> Iterator[tuple[Rule, int, str]]:
    for encoded in _BASE64_KEY.finditer(data):
        text = encoded[0]
        try:
            plain = base64.b64decode(text[: len(text) // 4 * 4] + _rest(text))
        except binascii.Error:
            continue
        match = _KEY.match(plain)
        if match is not None and not patterns.is_made_up_key(match[0].decode()):
            yield Rule.PRIVATE_KEY, encoded.start(), match[0].decode()


def _rest(text: bytes) -> bytes:
    rest = text[len(text) // 4 * 4 :]
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""


def _told_by_context(data: bytes, lowered: bytes, *, bare: bool) -> Iterator[tuple[Rule, int, str]]:
    seen: set[int] = set()
    for begin, end in _windows(lowered):
        for rule, match in _assigned(data, lowered, begin, end, bare=bare):
            secret = match[1].decode("utf-8", "replace")
            offset = match.start(1)
            if offset in seen or _KEY.search(match[1]) or patterns.is_made_up_value(secret):
                continue
            seen.add(offset)
            yield rule, offset, secret


def _assigned(
    data: bytes, lowered: bytes, begin: int, end: int, *, bare: bool
) -> Iterator[tuple[Rule, re.Match[bytes]]]:
    """Telling names and what is assigned to them; the value is the match's only group."""
    # Only around the stems: one expression for all, tried at every byte, took 20 times as long.
    for stem in patterns.NAME_STEMS:
        at = lowered.find(stem, begin, end)
        while at >= 0:
            name = _NAME.search(lowered, max(0, at - patterns.NAME_BEFORE), at + 40)
            if name is not None:
                value = _LITERAL.match(data, name.end())
                if value is None and bare:
                    value = _BARE.match(data, name.end())
                if value is not None:
                    yield patterns.rule_of(name), value
            at = lowered.find(stem, at + 1, end)
    at = lowered.find(b"bearer", begin, end)
    while at >= 0:
        value = _BEARER.match(data, at)
        if value is not None:
            yield Rule.OAUTH_TOKEN, value
        at = lowered.find(b"bearer", at + 1, end)


def _windows(lowered: bytes) -> Iterator[tuple[int, int]]:
    """The stretches around the word klaviyo, each byte in one of them at most."""
    at = lowered.find(patterns.CONTEXT)
    while at >= 0:
        begin = max(0, at - patterns.CONTEXT_BYTES)
        end = at + patterns.CONTEXT_BYTES
        at = lowered.find(patterns.CONTEXT, at + 1)
        while 0 <= at <= end + patterns.CONTEXT_BYTES:
            end = at + patterns.CONTEXT_BYTES
            at = lowered.find(patterns.CONTEXT, at + 1)
        # To the end of a value that begins in it.
        yield begin, min(len(lowered), end + 512)


def _is_allowed(data: bytes, offset: int) -> bool:
    begin = max(data.rfind(b"\n", 0, offset) + 1, offset - _LINE_BYTES)
    end = data.find(b"\n", offset, offset + _LINE_BYTES)
    if _ALLOWED.search(data, begin, end if end >= 0 else offset + _LINE_BYTES):
        return True
    before = max(data.rfind(b"\n", 0, max(0, begin - 1)) + 1, begin - _LINE_BYTES)
    return _ALLOWED_NEXT.search(data, max(0, before), begin) is not None
