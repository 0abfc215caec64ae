"""Klaviyo's webhooks in Django views, plain and async."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import AuditUnavailable, WebhookVerificationError
from klaviyo_audit.integrations import webhooks
from klaviyo_audit.integrations.webhooks import WebhookReceiver
from klaviyo_audit.integrations.wsgi_webhooks import environ_headers
from klaviyo_audit.klaviyo.webhook import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.klaviyo.webhook import WebhookDelivery

ATTRIBUTE: Final = "klaviyo_webhook"
"""Where the view finds the `WebhookDelivery` on the request."""
_CHUNK: Final = 65536


def klaviyo_webhook(secret: Any, **options: Any) -> Callable[[Any], Any]:
    """Decorate a view: only deliveries that Klaviyo signed reach it.

    The view is exempt from CSRF checks (the signature stands in their place), and finds the
    delivery as ``request.klaviyo_webhook``.

    Args:
        secret: The webhook's secret, or several.
        **options: As for `WebhookReceiver`.

    Raises:
        ConfigurationError: A secret has less than 16 characters, or there is none.

    Example:
        >>> @klaviyo_webhook(os.environ["KLAVIYO_WEBHOOK_SECRET"])  # doctest: +SKIP
        ... def sent_sms(request):
        ...     work_on(request.klaviyo_webhook.data)
        ...     return HttpResponse(status=204)
    """
    receiver = WebhookReceiver(secret, **options)

    def decorate(view: Any) -> Any:
        from django.views.decorators.csrf import csrf_exempt

        if inspect.iscoroutinefunction(view):

            @wraps(view)
            async def guarded_async(request: Any, *args: Any, **kwargs: Any) -> Any:
                delivery, refusal = _received(receiver, request)
                if delivery is None:
                    return refusal
                try:
                    response = await view(request, *args, **kwargs)
                except BaseException:
                    receiver.failed(delivery)
                    raise
                return _settled(receiver, delivery, response)

            guarded: Any = guarded_async
        else:

            @wraps(view)
            def guarded_plain(request: Any, *args: Any, **kwargs: Any) -> Any:
                delivery, refusal = _received(receiver, request)
                if delivery is None:
                    return refusal
                try:
                    response = view(request, *args, **kwargs)
                except BaseException:
                    receiver.failed(delivery)
                    raise
                return _settled(receiver, delivery, response)

            guarded = guarded_plain
        guarded.receiver = receiver
        return csrf_exempt(guarded)

    return decorate


def _received(receiver: WebhookReceiver, request: Any) -> tuple[WebhookDelivery | None, Any]:
    """The delivery, or the response of a refusal."""
    from django.http import HttpResponse

    headers = environ_headers(request.META)
    refused = HttpResponse(
        webhooks.REFUSED_BODY, status=webhooks.REFUSED_STATUS, content_type="text/plain"
    )
    body = _body(receiver, request, headers)
    if body is None:
        return None, refused
    try:
        delivery = receiver.receive(body, headers)
    except WebhookVerificationError:
        return None, refused
    except AuditUnavailable:
        return None, HttpResponse(
            webhooks.UNAVAILABLE_BODY, status=webhooks.UNAVAILABLE_STATUS, content_type="text/plain"
        )
    setattr(request, ATTRIBUTE, delivery)
    return delivery, None


def _body(receiver: WebhookReceiver, request: Any, headers: list[tuple[str, str]]) -> bytes | None:
    """The whole body; None when it is refused, which is recorded then.

    Read here and not by ``request.body``: that has a limit of its own, which also counts for
    everything else in the program, and answers with a 400 that tells what was wrong.
    """
    from django.http import RawPostDataException, UnreadablePostError

    if hasattr(request, "_body"):  # a middleware has read it
        return request.body  # type: ignore[no-any-return]
    announced = request.META.get("CONTENT_LENGTH") or ""
    read = request.read
    if not announced and request.META.get("wsgi.input_terminated"):
        # Django's own stream is empty when no length was announced.
        read = request.META["wsgi.input"].read
    parts: list[bytes] = []
    size = 0
    reason = None
    try:
        while size <= receiver.max_body:
            part = read(_CHUNK)
            if not part:
                break
            parts.append(part)
            size += len(part)
        else:
            reason = Refusal.TOO_LARGE
    except (RawPostDataException, UnreadablePostError):
        # Parsed as a form by a middleware, so that the raw body is gone; or the sender has gone.
        reason = Refusal.INCOMPLETE_BODY
    if reason is None and announced.isdecimal() and size < int(announced[:20]):
        reason = Refusal.INCOMPLETE_BODY
    if reason is not None:
        receiver.refuse(reason, headers, size)
        return None
    body = b"".join(parts)
    request._body = body  # noqa: SLF001  (what request.body gives once it is there)
    return body


def _settled(receiver: WebhookReceiver, delivery: WebhookDelivery, response: Any) -> Any:
    webhooks.Work(receiver, delivery).answers(response.status_code)
    return response
