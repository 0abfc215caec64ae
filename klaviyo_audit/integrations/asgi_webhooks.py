"""Klaviyo's webhooks in ASGI applications: FastAPI, Starlette, Quart, Django on ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import AuditUnavailable, WebhookVerificationError
from klaviyo_audit.integrations import webhooks
from klaviyo_audit.integrations.webhooks import WebhookReceiver
from klaviyo_audit.klaviyo.webhook import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY: Final = "klaviyo_webhook"
"""Where the application finds the `WebhookDelivery` in the request's scope."""


class KlaviyoWebhooks:
    """ASGI middleware: only deliveries that Klaviyo signed reach the application.

    The body is read first, at most `max_body` of it, and given to the application again. The
    delivery stands in ``scope["klaviyo_webhook"]``; read it there, and a request that came
    around the middleware fails instead of being believed.

    Args:
        app: The application.
        secret: The webhook's secret, or several.
        path: Path or paths of the webhook in the application; ``None``: every request.
        **options: As for `WebhookReceiver`.

    Raises:
        ConfigurationError: A secret has less than 16 characters, or there is none.

    Example:
        >>> app.add_middleware(  # doctest: +SKIP
        ...     KlaviyoWebhooks, secret=os.environ["KLAVIYO_WEBHOOK_SECRET"], path="/klaviyo"
        ... )
    """

    def __init__(
        self, app: App, secret: Any, *, path: str | Iterable[str] | None, **options: Any
    ) -> None:
        self._app = app
        self._paths = webhooks.normal_paths(path)
        self.receiver = WebhookReceiver(secret, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or not self._is_webhook(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._deliver(scope, receive, send)
        else:  # a websocket is no delivery
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _is_webhook(self, scope: Scope) -> bool:
        path: str = scope["path"]
        # Whether the path holds that of the mount depends on the framework's version.
        root: str = scope.get("root_path", "")
        return webhooks.matches(self._paths, path) or (
            bool(root)
            and path.startswith(root)
            and webhooks.matches(self._paths, path[len(root) :])
        )

    async def _deliver(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        if body is None:
            await _answer(send, webhooks.REFUSED_STATUS, webhooks.REFUSED_BODY)
            return
        try:
            delivery = self.receiver.receive(body, scope["headers"])
        except WebhookVerificationError:
            await _answer(send, webhooks.REFUSED_STATUS, webhooks.REFUSED_BODY)
            return
        except AuditUnavailable:
            await _answer(send, webhooks.UNAVAILABLE_STATUS, webhooks.UNAVAILABLE_BODY)
            return
        work = webhooks.Work(self.receiver, delivery)
        is_answered = False

        async def watched(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                work.answers(message["status"])
            await send(message)

        try:
            await self._app({**scope, SCOPE_KEY: delivery}, _replay(body, receive), watched)
        except BaseException:
            work.fails()
            raise
        if not is_answered:
            work.fails()

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when it is refused, which is recorded then."""
        limit = self.receiver.max_body
        announced = _content_length(scope)
        if announced > limit:
            self.receiver.refuse(Refusal.TOO_LARGE, scope["headers"], announced)
            return None
        body = bytearray()  # and no list: pieces may be of one byte
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.receiver.refuse(Refusal.INCOMPLETE_BODY, scope["headers"], len(body))
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                self.receiver.refuse(Refusal.TOO_LARGE, scope["headers"], len(body))
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read already, and then what the connection says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
