"""Django: settings, the actor of a request, auditing from the start.

In ``settings.py``::

    INSTALLED_APPS = [..., "klaviyo_audit.integrations.django.KlaviyoAudit"]
    MIDDLEWARE = [..., "klaviyo_audit.integrations.django.ActorMiddleware"]
    KLAVIYO_AUDIT = {"service": "shop", "instrument": True, "actor": {"ip": "none"}}

The app configures the process's default auditor, in web servers, management commands and workers
alike; the middleware says who acts. ``actor`` holds the arguments of
`klaviyo_audit.integrations.actors.ActorRules` and, as ``user``, a function of the request or its
dotted path; ``instrument`` is whether every client of the process is audited (True if not given);
everything else is a setting of klaviyo-audit.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.utils.module_loading import import_string

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.integrations.actors import ActorRules, Request, RequestActor, RequestScope

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

_OWN = ("instrument", "actor")


class KlaviyoAudit(AppConfig):  # type: ignore[misc]  # Django ships no type information
    """The app to name in ``INSTALLED_APPS``."""

    name = "klaviyo_audit.integrations"
    label = "klaviyo_audit"
    verbose_name = "klaviyo-audit"

    def ready(self) -> None:
        """Configure the default auditor by ``settings.KLAVIYO_AUDIT``.

        Raises:
            ConfigurationError: A setting is unknown or has a value that is not allowed.
        """
        from klaviyo_audit import configure, instrument

        given = _settings()
        configure(**{name: value for name, value in given.items() if name not in _OWN})
        if given.get("instrument", True):
            instrument()


class ActorMiddleware:
    """Django middleware, plain and async: what a request does is done by ``request.user``.

    That includes answers that are made while they are sent (``StreamingHttpResponse``). The user
    is asked for when the first call to Klaviyo is recorded: a page that makes none neither loads
    its session for it nor becomes uncacheable.

    Raises:
        ConfigurationError: ``settings.KLAVIYO_AUDIT["actor"]`` is not what `ActorRules` takes.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._next = get_response
        given = _settings().get("actor", {})
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f'settings.KLAVIYO_AUDIT["actor"] is a {type(given).__name__}; it has to be a dict'
            )
        rules = dict(given)
        user = rules.pop("user", None)
        self._user = import_string(user) if isinstance(user, str) else user or _user
        try:
            self._rules = ActorRules(**rules)
        except TypeError as error:  # it names the argument that there is not
            raise ConfigurationError(f'settings.KLAVIYO_AUDIT["actor"]: {error}') from None
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Serve one request."""
        scope = RequestScope(RequestActor(self._rules, self._facts(request)))
        if self._is_async:
            return self._serve(request, scope)
        with scope:
            response = self._next(request)
        return _acting(response, scope)

    async def _serve(self, request: Any, scope: RequestScope) -> Any:
        with scope:
            response = await self._next(request)
        return _acting(response, scope)

    def _facts(self, request: Any) -> Request:
        return Request(
            user=lambda: _asked(self._user, request),
            header=lambda name: _header(request, name),
            peer=request.META.get("REMOTE_ADDR") or "",
            session=lambda: _asked(_session, request),
        )


def _acting(response: Any, scope: RequestScope) -> Any:
    """The same response; if it is made while it is sent, that is done by the request's user."""
    # A server may send a file with one system call, and no code of the program runs in it.
    if getattr(response, "streaming", False) and getattr(response, "file_to_stream", None) is None:
        parts = response.streaming_content
        steps = _async_steps if response.is_async else _steps
        response.streaming_content = steps(parts, scope)
    return response


def _steps(parts: Iterable[Any], scope: RequestScope) -> Iterator[Any]:
    with scope:
        parts = iter(parts)
    while True:
        with scope:
            part = next(parts, None)
        if part is None:
            return
        yield part


async def _async_steps(parts: AsyncIterable[Any], scope: RequestScope) -> AsyncIterator[Any]:
    with scope:
        steps = aiter(parts)
    while True:
        with scope:
            part = await anext(steps, None)
        if part is None:
            return
        yield part


def _settings() -> Mapping[str, Any]:
    given = getattr(settings, "KLAVIYO_AUDIT", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"settings.KLAVIYO_AUDIT is a {type(given).__name__}; it has to be a dict of settings, "
            'for example {"service": "shop"}'
        )
    return given


def _asked(question: Callable[[Any], str | None], request: Any) -> str | None:
    """Ask about a request, in a thread of its own where Django wants none of this one."""
    try:
        return question(request)
    except SynchronousOnlyOperation:
        # A call to Klaviyo straight from an async view: it holds the loop up anyway.
        found: list[str | None] = []
        thread = threading.Thread(target=lambda: found.append(question(request)))
        thread.start()
        thread.join()
        return found[0] if found else None


def _user(request: Any) -> str | None:
    user = getattr(request, "user", None)
    session: Any = getattr(request, "session", None)
    was_read = getattr(session, "accessed", True)
    try:
        return str(user.get_username() or user.pk) if user and user.is_authenticated else None
    finally:
        if not was_read:
            # That the audit has read it must not add ``Vary: Cookie`` to the page.
            session.accessed = False


def _session(request: Any) -> str | None:
    session = getattr(request, "session", None)
    return None if session is None else session.session_key


def _header(request: Any, name: str) -> list[str]:
    from klaviyo_audit.integrations.wsgi import environ_header

    return environ_header(request.META, name)
