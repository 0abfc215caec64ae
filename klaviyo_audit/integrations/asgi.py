"""Who acts in ASGI applications: FastAPI, Starlette, Quart, Litestar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit.integrations.actors import ActorRules, Request, RequestActor, RequestScope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ActorMiddleware:
    """ASGI middleware: what a request or websocket does is done by its user.

    The user is asked for when the first call to Klaviyo is recorded, so the middleware may stand
    before the one that authenticates.

    Args:
        app: The application.
        user: Gives the user's id for a connection's ASGI scope; not given: ``scope["user"]`` of
            Starlette's AuthenticationMiddleware, if it is authenticated.
        **rules: As for `klaviyo_audit.integrations.actors.ActorRules`.

    Raises:
        ConfigurationError: As for `ActorRules`.

    Example:
        >>> app.add_middleware(  # doctest: +SKIP
        ...     ActorMiddleware, user=lambda scope: scope["state"].get("user_id")
        ... )
    """

    def __init__(
        self, app: App, *, user: Callable[[Scope], str | None] | None = None, **rules: Any
    ) -> None:
        self._app = app
        self._user = user or _starlette_user
        self._rules = ActorRules(**rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = Request(
            user=lambda: self._user(scope),
            header=lambda name: _header(scope, name),
            peer=(scope.get("client") or ("",))[0],
        )
        with RequestScope(RequestActor(self._rules, request)):
            await self._app(scope, receive, send)


def _header(scope: Scope, name: str) -> list[str]:
    wanted = name.encode("latin-1")
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted]


def _starlette_user(scope: Scope) -> str | None:
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    for name in ("identity", "display_name", "username"):
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # what Starlette's base class raises
            continue
        if value:
            return str(value)
    return None
