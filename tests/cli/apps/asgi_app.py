"""An ASGI program that calls Klaviyo in threads, as asynchronous ones have to."""

import asyncio
import os

from klaviyo_api import KlaviyoAPI

from klaviyo_audit import acting_as

klaviyo = KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"])


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    _, user, number = scope["path"].split("/")
    with acting_as(user):
        await asyncio.to_thread(klaviyo.Lists.get_list, f"L{number}")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'{"ok": true}'})
