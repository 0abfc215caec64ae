"""Wall-clock time as the trail writes it: RFC 3339, UTC, microseconds."""

from __future__ import annotations

import time

_SECOND = 1_000_000_000
_cached: tuple[int, str] = (-1, "")


def timestamp(nanoseconds: int) -> str:
    """Format nanoseconds since the epoch, e.g. ``2026-11-23T19:00:00.123456Z``.

    The text of the whole second is kept from one call to the next: 0.3 us instead of the 1.7 us
    of ``datetime.isoformat``.
    """
    global _cached  # noqa: PLW0603  (a cache of one immutable pair, replaced whole: thread-safe)
    second, rest = divmod(nanoseconds, _SECOND)
    known, text = _cached
    if second != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _cached = (second, text)
    return f"{text}.{str(_SECOND + rest)[1:7]}Z"


def now() -> str:
    """The present time."""
    return timestamp(time.time_ns())
