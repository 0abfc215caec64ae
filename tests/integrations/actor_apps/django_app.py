"""Django in one file, for WSGI and ASGI servers, with its own sessions and users."""

import asyncio
import os
from pathlib import Path

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "db.sqlite3",
            "OPTIONS": {"init_command": "PRAGMA synchronous=OFF", "timeout": 100},
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "klaviyo_audit.integrations.django.KlaviyoAudit",
    ],
    MIDDLEWARE=[
        # Before those that it depends on: it asks late.
        "klaviyo_audit.integrations.django.ActorMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    KLAVIYO_AUDIT={"service": "shop", "user_id": "nobody", "actor": {"ip": "full"}},
)
django.setup()

from django.contrib.auth import get_user_model, login  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from klaviyo_api import KlaviyoAPI  # noqa: E402

klaviyo = KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"])


def log_in(request, user):
    login(request, get_user_model().objects.get(username=user))
    return HttpResponse()


def plain(request, number):
    klaviyo.Lists.get_list(f"L{number}")
    return HttpResponse()


async def asynchronous(request, number):
    await asyncio.sleep(0.001)
    # Straight from the loop, where Django allows no database.
    klaviyo.Lists.get_list(f"L{number}")
    return HttpResponse()


def streamed(request, number):
    def parts():
        yield "a"
        klaviyo.Lists.get_list(f"L{number}")
        yield "b"

    return StreamingHttpResponse(parts())


async def async_streamed(request, number):
    async def parts():
        yield "a"
        await asyncio.sleep(0.001)
        klaviyo.Lists.get_list(f"L{number}")
        yield "b"

    return StreamingHttpResponse(parts())


def untouched(request):
    return HttpResponse()


urlpatterns = [
    path("login/<user>", log_in),
    path("plain/<number>", plain),
    path("async/<number>", asynchronous),
    path("streamed/<number>", streamed),
    path("asyncstreamed/<number>", async_streamed),
    path("untouched", untouched),
]
wsgi = get_wsgi_application()
asgi = get_asgi_application()

if __name__ == "__main__":
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    users = [get_user_model()(username=f"u{number}") for number in range(100)]
    get_user_model().objects.bulk_create(users)
    Path("ready").touch()
