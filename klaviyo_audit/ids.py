"""Ids of entries that are made rarely, and at times very late."""

from __future__ import annotations

import secrets
import time
from uuid import UUID


def late_uuid7() -> str:
    """A UUID of version 7 (RFC 9562, 5.7), made without uuid_utils, which is ten times faster.

    uuid_utils panics, past `except Exception`, where Python's exit functions run after the C
    library's have taken thread-local storage away: in uWSGI, where the journal's goodbye is
    written.
    """
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    chance = secrets.randbits(74)
    value = milliseconds << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1
    return str(UUID(int=value))
