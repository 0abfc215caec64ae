"""What Klaviyo would answer to one HTTP request."""

from __future__ import annotations

import itertools
import secrets
import threading
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from klaviyo_audit.testing.answers import body_of
from klaviyo_audit.testing.exchange import Answer, Exchange, Refused, error, with_error_id
from klaviyo_audit.testing.failures import Failures
from klaviyo_audit.testing.http_server import Reply, Request
from klaviyo_audit.testing.ids import resource_id
from klaviyo_audit.testing.registry import HANDLERS
from klaviyo_audit.testing.routes import Match, Route, operation_of, sdk_route_table
from klaviyo_audit.testing.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from klaviyo_audit.testing.access import Access
    from klaviyo_audit.testing.exchange import Handler
    from klaviyo_audit.testing.failures import Failure

REQUEST_ID = "x-klaviyo-req-id"

_CONTENT_TYPE = "application/vnd.api+json"
_PUBLIC = "/client/"
"""Operations below it need no private key."""
_WINDOW = 60
"""Seconds of the steady rate limit's window."""
_THROTTLED = 429
_FIRST_ERROR = 400


class Service:
    """Answers requests from what it remembers, as the access rules and failures have it.

    Args:
        access: Which keys are good for what.
        scopes: Gives the scopes an operation needs from its method and path template; ``None``:
            its documentation does.
        strict: Refuse unknown ids and incomplete events.
    """

    def __init__(
        self,
        access: Access,
        *,
        scopes: Callable[[str, str], Collection[str]] | None,
        strict: bool,
    ) -> None:
        self.failures = Failures()
        self.store = Store()
        self.handlers: dict[tuple[str, str], Handler] = dict(HANDLERS)
        self._access = access
        self._scopes = scopes
        self._strict = strict
        self._lock = threading.Lock()
        self._used: dict[Route, tuple[int, int]] = {}
        self._numbers = itertools.count(1)
        self._seed = secrets.randbits(32)

    def respond(self, request: Request, at: float) -> Reply:
        """The reply to a request that came at a time, in seconds since the epoch."""
        path = request.path.rstrip("/")
        match = sdk_route_table().match(request.method, path)
        route = match.route if match else None
        failure = self.failures.take(request.method, path, route.template if route else None)
        if failure is not None and not failure.lets_work:
            answer = failure.refusal
        else:
            answer = self._answer(request, match)
        return self._reply(request, answer, route, failure, int(at))

    def _answer(self, request: Request, match: Match | None) -> Answer:
        if match is None:
            return error(404, f"No operation of the SDK has the path {request.path}")
        if match.route is None:
            return error(405, f"Method {request.method} is not allowed here.")
        try:
            return self._carry_out(request, match.route, match.values)
        except Refused as refused:
            return refused.answer
        except Exception as broken:
            # Said to the test that sent the request; a thread's traceback would reach nobody.
            return error(500, f"FakeKlaviyo itself failed: {type(broken).__name__}: {broken}")

    def _carry_out(self, request: Request, route: Route, ids: tuple[str, ...]) -> Answer:
        operation = operation_of(route)
        if not route.template.startswith(_PUBLIC):
            needed = operation.scopes
            if self._scopes is not None:
                needed = frozenset(self._scopes(route.method, route.template))
            refusal = self._access.refusal(request.headers.get("authorization"), needed)
            if refusal is not None:
                return refusal
        store = self.store
        handler = self.handlers.get((route.method, route.template))
        if handler is None:
            return Answer(operation.status, body_of(operation).about(self._about(route, ids)))
        with store.lock:
            return handler(
                Exchange(operation, store, ids, request.query, request.body, self._strict)
            )

    def _about(self, route: Route, ids: tuple[str, ...]) -> str:
        """The id of the resource in a generated answer."""
        if route.template.endswith("}"):
            return ids[-1]
        # What is created is new each time; what is read stays the same.
        number = next(self._numbers) if route.method == "POST" else 1
        return resource_id(route.template, number)

    def _reply(
        self,
        request: Request,
        answer: Answer,
        route: Route | None,
        failure: Failure | None,
        second: int,
    ) -> Reply:
        number = next(self._numbers)
        request_id = f"{self._seed:08x}-0000-4000-8000-{number:012x}"
        status, body = answer.status, answer.body
        if status >= _FIRST_ERROR:
            body = with_error_id(body, request_id)
        if failure is not None:
            status = failure.status or status
            body = body if failure.body is None else failure.body
        headers = {
            "Date": _http_date(second),
            REQUEST_ID: request_id,
            "CF-Ray": f"{self._seed:08x}{number:08x}-AMS",
        }
        if body:
            headers["Content-Type"] = _CONTENT_TYPE
        if revision := request.headers.get("revision"):
            headers["x-klaviyo-api-revision"] = revision
        if route is not None and status != _THROTTLED:
            headers |= self._rate_limit(route, second)
        if failure is None:
            return Reply(status, headers, body)
        headers |= failure.headers
        return Reply(status, headers, body, failure.delay, failure.reset, failure.truncate)

    def _rate_limit(self, route: Route, second: int) -> dict[str, str]:
        """The headers of the steady window. Nothing is refused for being above the limit."""
        window = second // _WINDOW
        with self._lock:
            used_in, used = self._used.get(route, (window, 0))
            used = used + 1 if used_in == window else 1
            self._used[route] = (window, used)
        limit = operation_of(route).steady
        return {
            "RateLimit-Limit": str(limit),
            "RateLimit-Remaining": str(max(0, limit - used)),
            "RateLimit-Reset": str(_WINDOW - second % _WINDOW),
        }


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
