"""Who acts in WSGI applications: Flask, Pyramid, Bottle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit.integrations.actors import ActorRules, Request, RequestActor, RequestScope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Environ = dict[str, Any]
    App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class ActorMiddleware:
    """WSGI middleware: what a request does is done by its user, streamed answers included.

    The user is asked for when the first call to Klaviyo is recorded, so the middleware may stand
    before what authenticates.

    Args:
        app: The application.
        user: Gives the user's id for a request's environ; not given: ``REMOTE_USER``, which
            servers and authentication middleware set (and no client can).
        **rules: As for `klaviyo_audit.integrations.actors.ActorRules`.

    Raises:
        ConfigurationError: As for `ActorRules`.

    Example:
        >>> app.wsgi_app = ActorMiddleware(  # doctest: +SKIP
        ...     app.wsgi_app, user=lambda environ: session.get("user_id")
        ... )
    """

    def __init__(
        self, app: App, *, user: Callable[[Environ], str | None] | None = None, **rules: Any
    ) -> None:
        self._app = app
        self._user = user or (lambda environ: environ.get("REMOTE_USER"))
        self._rules = ActorRules(**rules)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        request = Request(
            user=lambda: self._user(environ),
            header=lambda name: environ_header(environ, name),
            peer=environ.get("REMOTE_ADDR") or "",
        )
        scope = RequestScope(RequestActor(self._rules, request))
        with scope:
            answer = self._app(environ, start_response)
        if isinstance(answer, list | tuple) or _is_file(environ, answer):
            return answer  # nothing of the program runs while it is sent
        return _Answer(answer, scope)


class _Answer:
    """An answer that is made while it is sent."""

    def __init__(self, answer: Iterable[bytes], scope: RequestScope) -> None:
        self._answer = answer
        self._scope = scope

    def __iter__(self) -> Iterator[bytes]:
        with self._scope:
            parts = iter(self._answer)
        while True:
            with self._scope:
                part = next(parts, None)
            if part is None:
                return
            yield part

    def close(self) -> None:
        close = getattr(self._answer, "close", None)
        if close is not None:
            with self._scope:
                close()


def _is_file(environ: Environ, answer: Iterable[bytes]) -> bool:
    # A server sends its own file wrapper with one system call, and knows it by its type.
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(answer, wrapper)


def environ_header(environ: Environ, name: str) -> list[str]:
    """The value of a header in a WSGI environ, by its name in lower case; several are joined."""
    value = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
    return [] if value is None else [str(value)]
