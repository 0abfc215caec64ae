"""Klaviyo's rate limits as a `FakeKlaviyo` has them: fixed windows of a second and of a minute."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klaviyo_audit.testing.routes import operation_of

if TYPE_CHECKING:
    from klaviyo_audit.testing.routes import Route

_MINUTE = 60
_SECOND = 1


@dataclass(frozen=True, slots=True)
class Limited:
    """What the limits say to one request."""

    refused: bool
    headers: dict[str, str]
    """``RateLimit-*`` of the steady window, or ``Retry-After`` where the request is refused."""


class RateLimits:
    """Counts the requests of each operation, for the whole account.

    Args:
        enforced: Whether more than the documented number is refused; else it is only told.
    """

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._lock = threading.Lock()
        self._used: dict[tuple[Route, int], tuple[int, int]] = {}

    def count(self, route: Route, at: float) -> Limited:
        """Count a request that came at a time, in seconds since the epoch."""
        operation = operation_of(route)
        with self._lock:
            in_minute = self._in_window(route, _MINUTE, at)
            in_second = self._in_window(route, _SECOND, at)
            if self._enforced and in_minute >= operation.steady:
                return Limited(True, {"Retry-After": str(_MINUTE - int(at) % _MINUTE)})
            if self._enforced and in_second >= operation.burst:
                return Limited(True, {"Retry-After": str(_SECOND)})
            for window, used in ((_MINUTE, in_minute), (_SECOND, in_second)):
                self._used[route, window] = (int(at) // window, used + 1)
        headers = {
            "RateLimit-Limit": str(operation.steady),
            "RateLimit-Remaining": str(max(0, operation.steady - in_minute - 1)),
            "RateLimit-Reset": str(_MINUTE - int(at) % _MINUTE),
        }
        return Limited(False, headers)

    def _in_window(self, route: Route, window: int, at: float) -> int:
        number, used = self._used.get((route, window), (-1, 0))
        return used if number == int(at) // window else 0
