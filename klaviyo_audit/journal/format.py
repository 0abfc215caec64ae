"""How a journal line is made and checked: encoding, checksum, and nothing else."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import orjson

LINE_START = b'{"v":'
"""Every line starts so; a reader finds the next one by it after a torn line."""

SUM_MEMBER = b',"sum":"'
SUM_DIGITS = 16
_TAIL = len(SUM_MEMBER) + SUM_DIGITS + len(b'"}')

# orjson escapes control characters but leaves U+2028 and U+2029 as they are, which some readers
# of logs take for line ends. They are replaced in the encoded bytes, where they can only be
# inside a string.
_LINE_SEPARATOR = "\u2028".encode()
_PARAGRAPH_SEPARATOR = "\u2029".encode()
_SEPARATOR_LEAD = b"\xe2\x80"


def encode(members: dict[str, Any]) -> bytes:
    """Encode one entry as a line of the journal, checksum and newline included.

    Args:
        members: The entry's members in order, without ``sum``. Values may be
            `orjson.Fragment`.

    Raises:
        TypeError: A value cannot be encoded as JSON (orjson's error, which quotes no value).
    """
    body = orjson.dumps(members)
    if _SEPARATOR_LEAD in body:
        body = body.replace(_LINE_SEPARATOR, b"\\u2028").replace(_PARAGRAPH_SEPARATOR, b"\\u2029")
    body = body[:-1]
    return b'%b,"sum":"%b"}\n' % (body, sha256(body).hexdigest()[:SUM_DIGITS].encode())


def checksum_holds(line: bytes) -> bool:
    """Whether a line (without its newline) carries the checksum of its own bytes."""
    body = line[:-_TAIL]
    return line[-_TAIL:] == b'%b%b"}' % (
        SUM_MEMBER,
        sha256(body).hexdigest()[:SUM_DIGITS].encode(),
    )


def encodable(value: Any) -> Any:
    """The same value in a form that JSON surely takes, for when `encode` has refused it.

    A lone surrogate, which UTF-8 has no bytes for, is written out as an escape; anything
    else that JSON does not have becomes the name of its type.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {str(encodable(name)): encodable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(member) for member in value]
    try:
        orjson.dumps(value)
    except TypeError:
        return f"[{type(value).__name__}]"
    return value
