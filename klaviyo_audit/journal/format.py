"""How a journal line is made and checked: encoding, checksum, and nothing else."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from orjson import dumps

from klaviyo_audit.entry import SCHEMA_VERSION

LINE_START = b'{"v":'
"""Every line starts so; a reader finds the next one by it after a torn line."""

SUM_MEMBER = b',"sum":"'
SUM_DIGITS = 16
LINE_END = b'"}\n'
_TAIL = len(SUM_MEMBER) + SUM_DIGITS + len(b'"}')

# orjson escapes control characters but leaves U+2028 and U+2029 as they are, which some readers
# of logs take for line ends. They are replaced in the encoded text, where they can only be
# inside a string.


def encode(members: dict[str, Any]) -> bytes:
    """Encode one entry as a line of the journal, checksum and newline included.

    The lines of audited calls are put together from texts that were encoded before
    (`JournalWriter.append_line`); their bytes are the same.

    Args:
        members: The entry's members in order, without ``sum``.
    """
    return sealed(json_text(members)[:-1].encode())


def sealed(body: bytes) -> bytes:
    """A line, from its bytes up to where ``sum`` begins."""
    return b"".join((body, SUM_MEMBER, sha256(body).hexdigest()[:SUM_DIGITS].encode(), LINE_END))


def json_text(value: Any) -> str:
    """A value as the JSON text that stands in a line; see `encodable` for what JSON has not."""
    try:
        encoded = dumps(value)
    except TypeError:
        encoded = dumps(encodable(value))
    text = encoded.decode()
    if text.isascii():
        return text
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def line_of(writer: str, number: int, entry_id: str, facts: str, origin: str, rest: str) -> bytes:
    """A line from what `JournalWriter.append_line` takes, its writer and its number."""
    head = f'{{"v":{SCHEMA_VERSION},"id":"{entry_id}","writer":"{writer}","n":{number}'
    return sealed(f"{head},{facts}{origin}{rest}".encode())


def line_parts(members: dict[str, Any]) -> tuple[str, str, str, str]:
    """What `JournalWriter.append_line` takes, from an entry as `JournalWriter.append` takes it."""
    names = list(members)
    first, origin = names.index("n") + 1, names.index("origin")
    facts = json_text({name: members[name] for name in names[first:origin]})
    rest = json_text({name: members[name] for name in names[origin + 1 :]})
    return (
        str(members["action"]),
        str(members["id"]),
        facts[1:-1],
        f",{rest[1:-1]}" if len(rest) > len("{}") else "",
    )


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
        dumps(value)
    except TypeError:
        return f"[{type(value).__name__}]"
    return value
