"""FastAPI: a plain endpoint, which runs in a thread, an async one, and a streamed answer."""

import asyncio
import os

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import audit
from klaviyo_audit.integrations.asgi import ActorMiddleware

klaviyo = audit(KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"]))


async def authenticate(request: Request):
    request.state.user_id = request.headers["authorization"].removeprefix("User ")


app = FastAPI(dependencies=[Depends(authenticate)])
app.add_middleware(ActorMiddleware, user=lambda scope: scope["state"].get("user_id"))


@app.get("/plain/{number}")
def plain(number: str):
    klaviyo.Lists.get_list(f"L{number}")


@app.get("/async/{number}")
async def asynchronous(number: str):
    await asyncio.sleep(0.01)
    await asyncio.to_thread(klaviyo.Lists.get_list, f"L{number}")


@app.get("/streamed/{number}")
async def streamed(number: str):
    def parts():
        yield "a"
        klaviyo.Lists.get_list(f"L{number}")
        yield "b"

    return StreamingResponse(parts())
