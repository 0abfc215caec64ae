"""Noticing that somebody has set the wall clock, by a clock that nobody sets."""

from __future__ import annotations

import time
from typing import Any, Final

from klaviyo_audit import clock

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux: goes on while the machine sleeps. Elsewhere a sleep would look like a step forward."""
_LEAST_NS: Final = 50_000_000
_SLEWED_NS: Final = 60 * 10**9
_DOUBT_NS: Final = 86_400 * 10**9
_DRIFT: Final = 1_000
"""One part in as many is how much faster or slower a clock is let run while it is put right."""


def _steady_ns() -> int:
    return time.monotonic_ns() if _BOOT is None else time.clock_gettime_ns(_BOOT)


class WallClock:
    """Compares the wall clock with a steady one, whenever it is asked to."""

    __slots__ = ("_steady", "_wall")

    def __init__(self) -> None:
        self._wall, self._steady = time.time_ns(), _steady_ns()

    def step(self) -> dict[str, Any] | None:
        """What is to be said of a step since the last time this was called.

        Returns:
            None where there was none of at least 50 ms; else ``step_ms`` (negative: back) and
            ``expected`` (what the wall clock would show now without it).
        """
        wall, steady = time.time_ns(), _steady_ns()
        elapsed = steady - self._steady
        expected = self._wall + elapsed
        self._wall, self._steady = wall, steady
        step = wall - expected
        if abs(step) < _LEAST_NS + elapsed // _DRIFT or (step > 0 and _BOOT is None):
            return None
        return {"step_ms": round(step / 1e6), "expected": clock.timestamp(expected)}


class CautiousClock:
    """The wall clock, which is believed a step forward only when it has stood for a day.

    For what cannot be undone and can wait: a clock that is wrong for some hours makes nothing old.
    A step of less than a minute between two looks is not taken for one.
    """

    __slots__ = ("_ahead", "_doubted", "_doubted_at")

    def __init__(self) -> None:
        self._ahead = self._doubted = time.time_ns() - _steady_ns()
        self._doubted_at: int | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        steady = _steady_ns()
        ahead = time.time_ns() - steady
        if ahead <= self._ahead + _SLEWED_NS:
            self._ahead, self._doubted_at = ahead, None
        elif self._doubted_at is None or abs(ahead - self._doubted) > _SLEWED_NS:
            self._doubted, self._doubted_at = ahead, steady
        elif steady - self._doubted_at >= _DOUBT_NS:
            self._ahead, self._doubted_at = ahead, None
        return (steady + self._ahead) / 1e9
