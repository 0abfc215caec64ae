"""How long an HTTP answer asks to wait."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_WAIT: Final = 3600.0
"""Seconds. Whoever answers garbage must not silence a sink until the program's end."""


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` (RFC 9110, 10.2.3) in seconds from now.

    A date is compared with the answer's own ``Date``, so that a clock of ours that is wrong, or
    was set just now, does not count.

    Args:
        headers: The answer's headers; upper and lower case make no difference to it.

    Returns:
        0 to `LONGEST_WAIT`; None if it is absent or unreadable.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), LONGEST_WAIT)
    until = _moment(value)
    if until is None:
        return None
    now = _moment(headers.get("Date"))
    return min(max(0.0, until - (time() if now is None else now)), LONGEST_WAIT)


def _moment(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
