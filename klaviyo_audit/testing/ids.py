"""Ids that look like Klaviyo's, the same ones in each run."""

from __future__ import annotations

from hashlib import sha256

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ULID_LENGTH = 26
_SHORT_LENGTH = 6
_EVENT_LENGTH = 11


def resource_id(kind: str, number: int) -> str:
    """The id of the n-th resource of a kind.

    Args:
        kind: JSON:API type. A profile's id looks like a ULID, an event's has 11 characters, all
            others have 6.
        number: Which one, from 1.
    """
    if kind == "profile":
        return "01" + _digits(kind, number, _CROCKFORD, _ULID_LENGTH - 2)
    return _digits(kind, number, _BASE62, _EVENT_LENGTH if kind == "event" else _SHORT_LENGTH)


def _digits(kind: str, number: int, alphabet: str, length: int) -> str:
    rest = int.from_bytes(sha256(f"{kind} {number}".encode()).digest())
    digits = []
    for _ in range(length):
        rest, digit = divmod(rest, len(alphabet))
        digits.append(alphabet[digit])
    return "".join(digits)
