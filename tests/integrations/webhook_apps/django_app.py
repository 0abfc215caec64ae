"""The Django recipe of docs/webhooks.md, as a program of its own."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from klaviyo_audit.integrations.django_webhooks import klaviyo_webhook
from klaviyo_audit.integrations.replays import SharedReplayMemory

settings.configure(
    SECRET_KEY="only for this test",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
)


@klaviyo_webhook(
    os.environ["SECRETS"].split(","),
    max_body=100_000,
    replays=SharedReplayMemory(os.environ["REPLAYS"]),
)
def receive(request):
    if b"break this" in request.body:
        raise RuntimeError("the program fails")
    delivery = request.klaviyo_webhook
    return JsonResponse(
        {"events": len(delivery.data), "bytes": len(request.body), "pid": os.getpid()}
    )


@klaviyo_webhook(os.environ["SECRETS"].split(","), max_body=100_000)
async def receive_async(request):
    if b"break this" in request.body:
        raise RuntimeError("the program fails")
    return JsonResponse({"events": len(request.klaviyo_webhook.data), "pid": os.getpid()})


@csrf_exempt
def other(request):
    return HttpResponse(request.body)


urlpatterns = [
    path("klaviyo", receive),
    path("klaviyo-async", receive_async),
    path("other", other),
]
app = get_wsgi_application()
asgi_app = get_asgi_application()
