"""Makes journals line by line, good ones and bad ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

from uuid_utils import uuid7

from klaviyo_audit.journal.format import encode

A = "aaaaaaaaaaaaaaaa"
B = "bbbbbbbbbbbbbbbb"
C = "cccccccccccccccc"

_BEGIN = datetime(2026, 11, 23, 19, tzinfo=UTC)
STEP_SECONDS = 60
"""Between two numbers of a writer: far enough for none to be in flight with the next."""


def line(writer, n, phase="outcome", *, action="klaviyo.profiles.get_profile", **members):
    """One line with its newline. Its time follows from its number."""
    when = _BEGIN + timedelta(seconds=n * STEP_SECONDS)
    entry = {
        "v": 1,
        "id": str(uuid7()),
        "writer": writer,
        "n": n,
        "timestamp": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "phase": phase,
        "action": action,
        "user_id": "dana",
        "resource": "/api/profiles/01HX",
        "result": "success",
        "duration_ms": 12.345,
    }
    return encode({**entry, **members})


def opening(writer, *, previous=None):
    metadata = {"versions": {"klaviyo-audit": "0.1.0"}, "settings": "0011"}
    if previous:
        metadata["previous"] = previous
    return line(writer, 0, "journal", action="journal.open", metadata=metadata)


def goodbye(writer, lines):
    """The last line of a writer that wrote so many, this one included."""
    return line(writer, lines - 1, "journal", action="journal.close", metadata={"lines": lines})


def gap(writer, n, /, **metadata):
    return line(writer, n, "gap", action="journal.gap", metadata=metadata)


def recovered(writer, n, dead, /, **metadata):
    """A line of `writer` that says it found `dead` dead."""
    metadata = {"writer": dead, "missing": [], "torn": [], **metadata}
    return line(writer, n, "journal", action="journal.recover", metadata=metadata)


def written(writer, entries=4, *, close=True):
    """All lines of a writer that wrote so many outcomes."""
    lines = [opening(writer), *(line(writer, n) for n in range(1, entries + 1))]
    return [*lines, goodbye(writer, entries + 2)] if close else lines


def resealed(text, old, new):
    """A line (with its newline) edited by somebody who recomputed the checksum."""
    body = text[: text.rindex(b',"sum":"')]
    assert old in body
    body = body.replace(old, new)
    return b'%b,"sum":"%b"}\n' % (body, sha256(body).hexdigest()[:16].encode())


def journal(folder, *lines):
    """Write the lines as the journal of a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit.jsonl"
    path.write_bytes(b"".join(lines))
    return path
