"""Keeping below Klaviyo's rate limits ahead of time, on an account that others use as well."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MINUTE: Final = 60.0
_SECOND: Final = 1.0
_LAST_SECOND: Final = 0.4
"""Seconds that are taken to be left of a window that is in its last one."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Documented rate limit of one endpoint and account."""

    burst: int
    """Requests a second."""
    steady: int
    """Requests a minute."""


SINGLE: Final = Limit(350, 3500)
"""``POST /api/events`` (Klaviyo, *Create Event*)."""
BULK: Final = Limit(10, 150)
"""``POST /api/event-bulk-create-jobs`` (Klaviyo, *Bulk Create Events*)."""


class Budget:
    """The part of one endpoint's limit that a sink may use.

    Never more than its part in any second and in any minute, evenly spread as the part is small;
    and of what Klaviyo says is left in its window, never more than the part either, so that it
    slows when others use the account much.

    Args:
        limit: The documented limit.
        percent: How much of it, from 1 to 100.
        clock: Seconds, monotonic.
    """

    def __init__(self, limit: Limit, percent: int, clock: Callable[[], float] = monotonic) -> None:
        self._share = percent / 100
        self._burst = max(1, int(limit.burst * self._share))
        self._steady = max(1, int(limit.steady * self._share))
        self._clock = clock
        self._sent: deque[float] = deque(maxlen=self._steady)
        # When the last ones have reached Klaviyo at the latest, for the bound of a second: a first
        # request that was long on its way may arrive together with those of the next second.
        self._arrived: deque[float] = deque(maxlen=self._burst)
        self._tokens = float(self._burst)
        self._counted_at = clock()
        self._pace = self._steady / _MINUTE
        self._slow_until = 0.0
        self._blocked_until = 0.0

    def wait(self) -> float:
        """Seconds until the next request may go out; 0: now."""
        now = self._clock()
        self._refill(now)
        waits = [self._blocked_until - now, self._until(1 - self._tokens, now)]
        if len(self._sent) == self._steady:
            waits.append(self._sent[0] + _MINUTE - now)
        if len(self._arrived) == self._burst:
            waits.append(self._arrived[0] + _SECOND - now)
        return max(0.0, *waits)

    def spend(self) -> None:
        """Count a request that goes out now."""
        now = self._clock()
        self._refill(now)
        self._tokens -= 1
        self._sent.append(now)
        self._arrived.append(now)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take notice of the answer to the last request, and of its ``RateLimit-*`` headers."""
        if self._arrived:
            self._arrived[-1] = self._clock()
        try:
            remaining = int(headers["RateLimit-Remaining"])
            reset = int(headers["RateLimit-Reset"])
        except (KeyError, ValueError):
            return
        now = self._clock()
        self._refill(now)
        if reset <= 0:
            return
        self._slow_until = now + reset
        if remaining <= 0:
            self._blocked_until = max(self._blocked_until, now + reset)
        else:
            # Whole seconds, rounded up: spread over all of them, the last requests would miss it.
            left = max(reset - _SECOND, _LAST_SECOND)
            self._pace = min(self._steady / _MINUTE, self._share * remaining / left)

    def block(self, seconds: float) -> None:
        """Let nothing go out for a time, as ``Retry-After`` asks."""
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    def _until(self, tokens: float, now: float) -> float:
        """Seconds in which that many tokens come together: slowly first, then at the usual pace."""
        slow = max(0.0, self._slow_until - now)
        if tokens <= slow * self._pace:
            return tokens / self._pace
        return slow + (tokens - slow * self._pace) / (self._steady / _MINUTE)

    def _rate(self, now: float) -> float:
        return self._pace if now < self._slow_until else self._steady / _MINUTE

    def _refill(self, now: float) -> None:
        gained = (now - self._counted_at) * self._rate(now)
        self._tokens = min(float(self._burst), self._tokens + gained)
        self._counted_at = now
