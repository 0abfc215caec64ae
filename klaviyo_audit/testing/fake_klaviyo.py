"""A Klaviyo on loopback: a real HTTP server that answers every operation of the installed SDK."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from klaviyo_audit.testing.access import Access
from klaviyo_audit.testing.failures import Failure
from klaviyo_audit.testing.http_server import HttpServer, Reply, Request
from klaviyo_audit.testing.received import Received, ReceivedRequest, RequestLog
from klaviyo_audit.testing.routes import sdk_route_table
from klaviyo_audit.testing.service import REQUEST_ID, Service
from klaviyo_audit.testing.store import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping

    from klaviyo_audit.testing.exchange import Handler

__all__ = ["FakeKlaviyo", "ReceivedRequest"]

_KEY = "pk_fake_klaviyo"
_THROTTLED = 429


class FakeKlaviyo:
    """A threaded HTTP server on 127.0.0.1 that stands in for ``a.klaviyo.com``.

    It answers every operation of the installed ``klaviyo-api`` with a body that the SDK's models
    accept. Profiles, lists, their members and events are remembered: what was created can be read,
    listed, changed and deleted, and is a 404 after that. An id that it does not know is taken as
    any, unless it is strict. ``filter`` knows ``equals`` and ``any``, and the time of events, by
    which they can be sorted; sparse fieldsets, ``include`` and other sorting change nothing. It
    starts in a ``with`` block or by `start`::

        with FakeKlaviyo() as fake:
            fake.client().Profiles.get_profile("01HPROFILE")
            fake.requests[-1].path

    Args:
        keys: The keys that exist, each with its scopes (``None``: all of them). Without it any key
            is good for anything.
        scopes: Gives the scopes that an operation needs, from its HTTP method and path template;
            without it the operation's documentation does.
        strict: Be as particular as Klaviyo: unknown profiles, lists and events are a 404,
            events that are incomplete or beyond a limit a 400.
        rate_limits: Answer 429 with ``Retry-After`` to what is above the documented rate limits.
        lag: Seconds before an event that was taken can be read.
        bulk_repeat_status: Answer to a bulk job with a repeated ``unique_id``, of which nothing is
            kept. Klaviyo's documents do not say which it is; 202: as if all was well.
        keep: How many requests to remember, the latest ones.
        port: Port to listen on; 0 takes a free one.
        requests_log: File to which one JSON line is appended for each request before it is
            answered: its method, path and when it came.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, Collection[str] | None] | None = None,
        scopes: Callable[[str, str], Collection[str]] | None = None,
        strict: bool = False,
        rate_limits: bool = False,
        lag: float = 0.0,
        bulk_repeat_status: int = 400,
        keep: int = 10_000,
        port: int = 0,
        requests_log: str | os.PathLike[str] | None = None,
    ) -> None:
        self._access = Access(keys)
        self._service = Service(
            self._access,
            scopes=scopes,
            strict=strict,
            rate_limits=rate_limits,
            lag=lag,
            bulk_repeat_status=bulk_repeat_status,
        )
        self._received = Received(keep)
        self._port = port
        self._log_path = requests_log
        self._log: RequestLog | None = None
        self._server: HttpServer | None = None
        self._starting = threading.RLock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Begin to serve. A second call does nothing.

        Raises:
            LookupError: No SDK is installed.
            OSError: The port or the log cannot be had.
        """
        with self._starting:
            if self._server is None:
                sdk_route_table()
                if self._log_path is not None:
                    self._log = RequestLog(self._log_path)
                try:
                    self._server = HttpServer(self._respond, port=self._port)
                except OSError:
                    self._close_log()
                    raise
        return self

    def close(self) -> None:
        """End all connections and stop serving. A second call does nothing."""
        with self._starting:
            server, self._server = self._server, None
            if server is None:
                return
            server.close()
            self._close_log()

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            log.close()

    @property
    def url(self) -> str:
        """Where it serves, for ``KlaviyoAPI(test_host=...)``.

        Raises:
            RuntimeError: It does not serve.
        """
        if self._server is None:
            raise RuntimeError("This FakeKlaviyo does not serve: use it in `with`, or start() it")
        return f"http://127.0.0.1:{self._server.port}"

    def client(self, api_key: str = _KEY, **settings: Any) -> Any:
        """A ``KlaviyoAPI`` that talks to this server.

        Args:
            api_key: The private key.
            **settings: What else ``KlaviyoAPI`` takes.
        """
        from klaviyo_api import KlaviyoAPI

        return KlaviyoAPI(api_key, test_host=self.url, **settings)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests that came, oldest first, as many as are kept.

        One is there before it is answered, and before a delay.
        """
        return self._received.latest()

    @property
    def count(self) -> int:
        """How many requests came since the start or `clear`."""
        return self._received.count

    def clear(self) -> None:
        """Forget the requests."""
        self._received.clear()

    def forget(self) -> None:
        """Forget all profiles, lists and events, and which of them were deleted."""
        self._service.store = Store()

    def disable_key(self, key: str) -> None:
        """Answer 401 to a key from now on."""
        self._access.disable(key)

    def enable_key(self, key: str) -> None:
        """Take a key again that was disabled."""
        self._access.enable(key)

    def key_created(self, key: str, at: str) -> None:
        """Say when a key was made (ISO 8601), as the beta endpoint for keys tells it."""
        self._access.set_created(key, at)

    def on(self, method: str, template: str, handler: Handler) -> None:
        """Have an operation answered by a function of one's own.

        Args:
            method: HTTP method.
            template: The operation's path template, ``/api/profiles/{id}``.
            handler: Takes an `exchange.Exchange` and gives an `exchange.Answer`; runs on the
                connection's thread, one handler at a time.
        """
        self._service.handlers[method.upper(), template.rstrip("/")] = handler

    def fail(
        self,
        status: int | None = _THROTTLED,
        *,
        times: int | None = 1,
        method: str | None = None,
        path: str | None = None,
        retry_after: int | str | None = None,
        delay: float = 0.0,
        reset: bool = False,
        truncate: bool = False,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next requests go wrong. Several failures happen in the order they were told.

        A request that gets an error status is not carried out. With ``None`` or a status below
        400 it is, and then its answer goes wrong: late, cut short, unreadable, or never sent.

        Args:
            status: HTTP status; ``None``: the one that the request would have got.
            times: How many requests; ``None``: all, until `heal`.
            method: Only requests with this HTTP method.
            path: Only requests for this path template, concrete path, or pattern with ``*``.
            retry_after: Header ``Retry-After``, seconds or an HTTP date.
            delay: Seconds to wait before answering.
            reset: Read the request, then end the connection with RST instead of answering.
            truncate: Send only half of the body that ``Content-Length`` promises, then close.
            body: Send these bytes as the body, whatever they are.
            headers: More headers of the answer.

        Raises:
            ValueError: A number is out of its range.
        """
        more = dict(headers or {})
        if retry_after is not None:
            more["Retry-After"] = str(retry_after)
        failure = Failure(
            status=status,
            method=None if method is None else method.upper(),
            path=None if path is None else path.rstrip("/"),
            delay=delay,
            reset=reset,
            truncate=truncate,
            body=body,
            headers=more,
        )
        self._service.failures.add(failure, times)

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._service.failures.clear()

    def _respond(self, request: Request) -> Reply:
        at = time.time()
        if self._log is not None:
            self._log.append(request.method, request.path, at)
        reply = self._service.respond(request, at)
        self._received.add(
            ReceivedRequest(
                request.method,
                request.path,
                request.query,
                request.headers,
                request.body,
                None if reply.reset else reply.status,
                at,
                reply.headers[REQUEST_ID],
            )
        )
        return reply


if __name__ == "__main__":
    from klaviyo_audit.testing.process import main

    sys.exit(main())
