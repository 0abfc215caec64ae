"""What Klaviyo would answer to one HTTP request."""

from __future__ import annotations

import itertools
import secrets
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from klaviyo_audit.testing import credentials
from klaviyo_audit.testing.answers import body_of
from klaviyo_audit.testing.exchange import Answer, Exchange, Refused, error, with_error_id
from klaviyo_audit.testing.failures import Failures
from klaviyo_audit.testing.http_server import Reply, Request
from klaviyo_audit.testing.ids import resource_id
from klaviyo_audit.testing.limits import RateLimits
from klaviyo_audit.testing.registry import BULK_EVENTS, HANDLERS
from klaviyo_audit.testing.routes import Match, Route, operation_of, sdk_route_table
from klaviyo_audit.testing.store import Store
from klaviyo_audit.testing.track import bulk_create_events

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from klaviyo_audit.testing.access import Access
    from klaviyo_audit.testing.exchange import Handler
    from klaviyo_audit.testing.failures import Failure

REQUEST_ID = "x-klaviyo-req-id"

_CONTENT_TYPE = "application/vnd.api+json"
_ACCOUNTS = "/api/accounts"
_PUBLIC = "/client/"
"""Operations below it need no private key."""
_THROTTLED = 429
_FIRST_ERROR = 400


class Service:
    """Answers requests from what it remembers, as the access rules and failures have it.

    Args:
        access: Which keys are good for what.
        scopes: Gives the scopes an operation needs from its method and path template; ``None``:
            its documentation does.
        strict: Refuse unknown ids and incomplete events.
        rate_limits: Refuse what is above the documented rate limits.
        lag: Seconds before an event that was taken can be read.
        bulk_repeat_status: Answer to a bulk job with a repeated ``unique_id``.
    """

    def __init__(
        self,
        access: Access,
        *,
        scopes: Callable[[str, str], Collection[str]] | None,
        strict: bool,
        rate_limits: bool = False,
        lag: float = 0.0,
        bulk_repeat_status: int = 400,
    ) -> None:
        self._limits = RateLimits(enforced=rate_limits)
        self._lag = lag
        self.failures = Failures()
        self.store = Store()
        self.handlers: dict[tuple[str, str], Handler] = dict(HANDLERS)
        self.handlers[BULK_EVENTS] = bulk_create_events(bulk_repeat_status)
        self._access = access
        self._scopes = scopes
        self._strict = strict
        self._numbers = itertools.count(1)
        self._seed = secrets.randbits(32)

    def respond(self, request: Request, at: float) -> Reply:
        """The reply to a request that came at a time, in seconds since the epoch."""
        path = request.path.rstrip("/")
        match = sdk_route_table().match(request.method, path)
        route = match.route if match else None
        limited = self._limits.count(route, at) if route is not None else None
        if limited is not None and limited.refused:
            answer = error(_THROTTLED, f"Expected available in {limited.headers['Retry-After']} s.")
            return self._reply(request, answer, limited.headers, None, int(at))
        failure = self.failures.take(request.method, path, route.template if route else None)
        if failure is not None and not failure.lets_work:
            answer = failure.refusal
        else:
            answer = self._answer(request, match)
        limits = limited.headers if limited is not None else {}
        return self._reply(request, answer, limits, failure, int(at))

    def _answer(self, request: Request, match: Match | None) -> Answer:
        if match is None and request.path.startswith(credentials.PATH):
            return credentials.respond(self._access, request)
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
            about = self._about(route, ids)
            if route.template == _ACCOUNTS:
                about = self._access.account(request.headers.get("authorization")) or about
            return Answer(operation.status, body_of(operation).about(about))
        with store.lock:
            return handler(
                Exchange(
                    operation, store, ids, request.query, request.body, self._strict, self._lag
                )
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
        limits: dict[str, str],
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
        if status != _THROTTLED or "Retry-After" in limits:
            headers |= limits
        if failure is None:
            return Reply(status, headers, body)
        headers |= failure.headers
        return Reply(status, headers, body, failure.delay, failure.reset, failure.truncate)


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
