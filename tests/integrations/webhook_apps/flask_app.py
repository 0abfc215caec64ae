"""The Flask recipe of docs/webhooks.md, as a program of its own."""

import os

from flask import Flask, request

from klaviyo_audit.integrations.replays import SharedReplayMemory
from klaviyo_audit.integrations.wsgi_webhooks import KlaviyoWebhooks

app = Flask(__name__)
app.wsgi_app = KlaviyoWebhooks(
    app.wsgi_app,
    os.environ["SECRETS"].split(","),
    path="/klaviyo",
    max_body=100_000,
    replays=SharedReplayMemory(os.environ["REPLAYS"]),
)


@app.post("/klaviyo")
def receive():
    delivery = request.environ["klaviyo_audit.webhook"]
    body = request.get_data()
    if b"break this" in body:
        raise RuntimeError("the program fails")
    return {"events": len(delivery.data), "bytes": len(body), "pid": os.getpid()}


@app.post("/other")
def other():
    return request.get_data()
