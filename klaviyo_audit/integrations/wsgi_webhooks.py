"""Klaviyo's webhooks in WSGI applications: Flask, Django on WSGI, Pyramid, Bottle."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import AuditUnavailable, WebhookVerificationError
from klaviyo_audit.integrations import webhooks
from klaviyo_audit.integrations.webhooks import WebhookReceiver
from klaviyo_audit.klaviyo.webhook import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from klaviyo_audit.klaviyo.webhook import WebhookDelivery

ENVIRON_KEY: Final = "klaviyo_audit.webhook"
"""Where the application finds the `WebhookDelivery` in the request's environ."""
_CHUNK: Final = 65536
_STATUS_LINES: Final = {401: "401 Unauthorized", 503: "503 Service Unavailable"}


class KlaviyoWebhooks:
    """WSGI middleware: only deliveries that Klaviyo signed reach the application.

    The body is read first, at most `max_body` of it, and given to the application again. The
    delivery stands in ``environ["klaviyo_audit.webhook"]``; read it there, and a request that
    came around the middleware fails instead of being believed.

    Args:
        app: The application.
        secret: The webhook's secret, or several.
        path: Path or paths of the webhook in the application; ``None``: every request.
        **options: As for `WebhookReceiver`.

    Raises:
        ConfigurationError: A secret has less than 16 characters, or there is none.

    Example:
        >>> app.wsgi_app = KlaviyoWebhooks(  # doctest: +SKIP
        ...     app.wsgi_app, secret=os.environ["KLAVIYO_WEBHOOK_SECRET"], path="/klaviyo"
        ... )
    """

    def __init__(
        self, app: WSGIApplication, secret: Any, *, path: str | Iterable[str] | None, **options: Any
    ) -> None:
        self._app = app
        self._paths = webhooks.normal_paths(path)
        self.receiver = WebhookReceiver(secret, **options)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not self._is_webhook(environ):
            return self._app(environ, start_response)
        headers = environ_headers(environ)
        body = self._body(environ, headers)
        if body is None:
            return _answer(start_response, webhooks.REFUSED_STATUS, webhooks.REFUSED_BODY)
        try:
            delivery = self.receiver.receive(body, headers)
        except WebhookVerificationError:
            return _answer(start_response, webhooks.REFUSED_STATUS, webhooks.REFUSED_BODY)
        except AuditUnavailable:
            return _answer(start_response, webhooks.UNAVAILABLE_STATUS, webhooks.UNAVAILABLE_BODY)
        given = {
            **environ,
            ENVIRON_KEY: delivery,
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
        }
        given.pop("HTTP_TRANSFER_ENCODING", None)
        return self._run(given, start_response, delivery)

    def _is_webhook(self, environ: WSGIEnvironment) -> bool:
        # WSGI hands paths over as Latin-1; what cannot be UTF-8 is no path that was named.
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        mount = environ.get("SCRIPT_NAME", "").encode("latin-1").decode("utf-8", "replace")
        return webhooks.matches(self._paths, path) or (
            bool(mount) and webhooks.matches(self._paths, mount + path)
        )

    def _run(
        self, environ: WSGIEnvironment, start_response: StartResponse, delivery: WebhookDelivery
    ) -> Iterable[bytes]:
        work = webhooks.Work(self.receiver, delivery)
        is_answered = False

        def watched(line: str, *rest: Any) -> Any:
            nonlocal is_answered
            is_answered = True
            work.answers(int(line[:3]))
            return start_response(line, *rest)

        try:
            parts = self._app(environ, watched)
        except BaseException:
            work.fails()
            raise
        return _Watched(parts, lambda: is_answered, work)

    def _body(self, environ: WSGIEnvironment, headers: list[tuple[str, str]]) -> bytes | None:
        """The whole body; None when it is refused, which is recorded then."""
        limit = self.receiver.max_body
        announced = environ.get("CONTENT_LENGTH") or ""
        length = int(announced[:20]) if announced.isdecimal() else None
        if length is None and not environ.get("wsgi.input_terminated"):
            length = 0
        if length is not None and length > limit:
            self.receiver.refuse(Refusal.TOO_LARGE, headers, length)
            return None
        wanted = limit + 1 if length is None else length
        parts: list[bytes] = []
        size = 0
        try:
            while size < wanted:
                part = environ["wsgi.input"].read(min(_CHUNK, wanted - size))
                if not part:
                    break
                parts.append(part)
                size += len(part)
        except OSError:  # the sender has gone
            self.receiver.refuse(Refusal.INCOMPLETE_BODY, headers, size)
            return None
        if size > limit or (length is not None and size < length):
            reason = Refusal.TOO_LARGE if size > limit else Refusal.INCOMPLETE_BODY
            self.receiver.refuse(reason, headers, size)
            return None
        return b"".join(parts)


class _Watched:
    """A response whose making may still fail while it is sent."""

    def __init__(
        self, parts: Iterable[bytes], is_answered: Callable[[], bool], work: webhooks.Work
    ) -> None:
        self._parts = parts
        self._is_answered = is_answered
        self._work = work

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._parts
        except GeneratorExit:  # the sender does not read on; the program did its work
            raise
        except BaseException:
            self._work.fails()
            raise

    def close(self) -> None:
        """Called by the server when the response is over, sent whole or not."""
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        finally:
            if not self._is_answered():
                self._work.fails()


def environ_headers(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """The request's headers. Servers join a repeated one with a comma, which no signature has."""
    return [
        (name[5:].replace("_", "-"), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]


def _answer(start_response: StartResponse, status: int, body: bytes) -> list[bytes]:
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response(_STATUS_LINES[status], headers)
    return [body]
