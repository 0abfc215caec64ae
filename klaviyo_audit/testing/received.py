"""The requests a `FakeKlaviyo` was sent."""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request a `FakeKlaviyo` was sent. Its `repr` shows no query, no header and no body."""

    method: str
    path: str
    """As sent, still quoted, without the query."""
    query: str = field(repr=False)
    """Without the question mark; empty if there was none."""
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    body: bytes = field(repr=False)
    status: int | None
    """Status of the answer; ``None``: the connection was reset instead."""
    at: float
    """When it had been received, in seconds since the epoch."""
    request_id: str
    """``x-klaviyo-req-id`` of the answer."""


class Received:
    """The latest requests, and how many there were.

    Args:
        keep: How many to keep.
    """

    def __init__(self, keep: int) -> None:
        self._lock = threading.Lock()
        self._latest: deque[ReceivedRequest] = deque(maxlen=keep)
        self.count = 0

    def add(self, request: ReceivedRequest) -> None:
        """Keep a request; the oldest one goes when there are too many."""
        with self._lock:
            self._latest.append(request)
            self.count += 1

    def latest(self) -> list[ReceivedRequest]:
        """The requests that are kept, oldest first."""
        with self._lock:
            return list(self._latest)

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._latest.clear()
            self.count = 0


class RequestLog:
    """A file with one JSON line a request, for tests that kill the programs which send them.

    Args:
        path: The file; it is appended to.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o600)

    def append(self, method: str, path: str, at: float) -> None:
        """Write one line, with one system call so that lines never mix.

        Args:
            method: HTTP method.
            path: Path without the query, which can hold personal data.
            at: When the request had been received, in seconds since the epoch.
        """
        line = {"method": method, "path": path, "at": at}
        os.write(self._descriptor, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
