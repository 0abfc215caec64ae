"""A bare server of Klaviyo's bulk jobs: keeps the rate limits, counts the events, parses nothing.

`FakeKlaviyo` takes 60 ms of processor time for a job of 1,000 events, not much less than the sink,
and would be half of what is measured where both share two busy cores.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from klaviyo_audit.testing.http_server import HttpServer, Reply, Request

_PER_SECOND = 10
_PER_MINUTE = 150


class Jobs:
    """Answers 202 within the documented limits of bulk jobs, 429 above them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = {1: (0, 0), 60: (0, 0)}
        self._events = 0

    def respond(self, request: Request) -> Reply:
        """Take a job; a GET tells how many events there were."""
        if request.method == "GET":
            return Reply(200, {}, json.dumps({"events": self._events}).encode())
        now = int(time.time())
        with self._lock:
            for window, limit in ((1, _PER_SECOND), (60, _PER_MINUTE)):
                number, used = self._used[window]
                if number == now // window and used >= limit:
                    after = {"Retry-After": str(window - now % window)}
                    return Reply(429, after, b'{"errors": [{"detail": "throttled"}]}')
            for window in self._used:
                number, used = self._used[window]
                self._used[window] = (now // window, used + 1 if number == now // window else 1)
            self._events += request.body.count(b'"unique_id"')
            left = _PER_MINUTE - self._used[60][1]
        headers = {
            "RateLimit-Limit": str(_PER_MINUTE),
            "RateLimit-Remaining": str(left),
            "RateLimit-Reset": str(60 - now % 60),
        }
        return Reply(202, headers)


def main() -> None:
    """Print the URL, and serve until standard input ends."""
    server = HttpServer(Jobs().respond)
    print(json.dumps({"url": f"http://127.0.0.1:{server.port}"}), flush=True)
    sys.stdin.read()
    server.close()


if __name__ == "__main__":
    main()
