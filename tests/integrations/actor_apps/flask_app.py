"""Flask: the user is found by the program's own code, inside the request."""

import os

from flask import Flask, g, request
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import audit
from klaviyo_audit.integrations.wsgi import ActorMiddleware

klaviyo = audit(KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"]))
app = Flask(__name__)
app.wsgi_app = ActorMiddleware(app.wsgi_app, user=lambda environ: g.get("user_id"))


@app.before_request
def authenticate():
    g.user_id = request.headers["authorization"].removeprefix("User ")


@app.get("/plain/<number>")
def plain(number):
    klaviyo.Lists.get_list(f"L{number}")
    return ""


@app.get("/async/<number>")
def asynchronous(number):
    return plain(number)


@app.get("/streamed/<number>")
def streamed(number):
    from flask import stream_with_context

    def parts():
        yield "a"
        klaviyo.Lists.get_list(f"L{number}")
        yield "b"

    return app.response_class(stream_with_context(parts()))
