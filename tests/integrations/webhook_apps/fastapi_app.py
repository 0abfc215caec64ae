"""The FastAPI recipe of docs/webhooks.md, as a program of its own."""

import os

from fastapi import FastAPI, Request, Response

from klaviyo_audit.integrations.asgi_webhooks import KlaviyoWebhooks
from klaviyo_audit.integrations.replays import SharedReplayMemory

app = FastAPI()
app.add_middleware(
    KlaviyoWebhooks,
    secret=os.environ["SECRETS"].split(","),
    path="/klaviyo",
    max_body=100_000,
    replays=SharedReplayMemory(os.environ["REPLAYS"]),
)


@app.post("/klaviyo")
async def receive(request: Request):
    delivery = request.scope["klaviyo_webhook"]
    body = await request.body()  # there for the program too
    if b"break this" in body:
        raise RuntimeError("the program fails")
    return {"events": len(delivery.data), "bytes": len(body), "pid": os.getpid()}


@app.post("/other")
async def other(request: Request):
    return Response(await request.body())
