"""What a `FakeKlaviyo` is told to do wrong, and for which requests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from klaviyo_audit.testing.exchange import Answer, error

_LOWEST_STATUS = 200
_HIGHEST_STATUS = 599
_FIRST_ERROR = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What goes wrong, and for which requests."""

    status: int | None
    """Status to answer with; ``None``: the one the request would have got."""
    method: str | None = None
    """HTTP method, upper case; ``None``: any."""
    path: str | None = None
    """Template, concrete path, or a pattern with ``*`` and ``?``, without a trailing slash."""
    delay: float = 0.0
    reset: bool = False
    truncate: bool = False
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status is not None and not _LOWEST_STATUS <= self.status <= _HIGHEST_STATUS:
            raise ValueError(f"status is {self.status!r}; it is None or from 200 to 599")
        if self.delay < 0:
            raise ValueError(f"delay is {self.delay!r}; it is in seconds, 0 or more")

    @property
    def lets_work(self) -> bool:
        """Whether the request is carried out before its answer goes wrong."""
        return self.status is None or self.status < _FIRST_ERROR

    @property
    def refusal(self) -> Answer:
        """The answer to a request that is not carried out."""
        status = self.status or _FIRST_ERROR
        return error(status, f"FakeKlaviyo was told to answer {status}.")

    def concerns(self, method: str, path: str, template: str | None) -> bool:
        """Whether such a request meets the failure."""
        if self.method is not None and self.method != method:
            return False
        if self.path is None or self.path in (path, template):
            return True
        return fnmatchcase(path, self.path)


@dataclass(slots=True)
class _Armed:
    failure: Failure
    left: int | None


class Failures:
    """The failures that lie ahead, in the order they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    def add(self, failure: Failure, times: int | None) -> None:
        """Let a failure happen, behind those that were asked for before.

        Args:
            failure: What goes wrong.
            times: For how many requests; ``None``: for all.

        Raises:
            ValueError: ``times`` is below 1.
        """
        if times is not None and times < 1:
            raise ValueError(f"times is {times!r}; it is at least 1, or None for ever")
        with self._lock:
            self._armed.append(_Armed(failure, times))

    def clear(self) -> None:
        """Let nothing fail any more."""
        with self._lock:
            self._armed.clear()

    def take(self, method: str, path: str, template: str | None) -> Failure | None:
        """The failure that meets a request, which has happened once more by this."""
        if not self._armed:
            return None
        with self._lock:
            for armed in self._armed:
                if armed.failure.concerns(method, path, template):
                    if armed.left is not None:
                        armed.left -= 1
                        if not armed.left:
                            self._armed.remove(armed)
                    return armed.failure
        return None
