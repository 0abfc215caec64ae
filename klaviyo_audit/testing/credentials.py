"""Klaviyo's beta endpoints for API keys, of which the SDK knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from klaviyo_audit.testing.exchange import Answer, error

if TYPE_CHECKING:
    from klaviyo_audit.testing.access import Access
    from klaviyo_audit.testing.http_server import Request

PATH = "/api/api-keys"
_REVISION = "2026-07-15.pre"


def respond(access: Access, request: Request) -> Answer:
    """The answer to a request below `PATH`."""
    if request.headers.get("revision") != _REVISION:
        return error(404, "The beta revision is not asked for")
    needed = "credentials:read" if request.method == "GET" else "credentials:write"
    refusal = access.refusal(request.headers.get("authorization"), [needed])
    if refusal is not None:
        return refusal
    key_id = request.path.rstrip("/").removeprefix(PATH).strip("/")
    listed = access.listed()
    if not key_id and request.method == "GET":
        return _document([_resource(access, key, one) for one, key in listed.items()])
    key = listed.get(key_id)
    if key is None:
        return error(404)
    if request.method == "PATCH":
        refusal = _change(access, key, request.body)
        if refusal is not None:
            return refusal
    elif request.method != "GET":
        return error(405)
    return _document(_resource(access, key, key_id))


def _change(access: Access, key: str, body: bytes) -> Answer | None:
    try:
        status = orjson.loads(body)["data"]["attributes"]["status"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return error(400)
    if status == "disabled":
        access.disable(key)
    elif status == "enabled":
        access.enable(key)
    else:
        return error(400, f"{status!r} is no status")
    return None


def _resource(access: Access, key: str, key_id: str) -> dict[str, Any]:
    scopes = access.scopes(key)
    return {
        "type": "api-key",
        "id": key_id,
        "attributes": {
            "name": f"key {key_id}",
            "status": "disabled" if access.is_disabled(key) else "enabled",
            "scopes": ["*"] if scopes is None else sorted(scopes),
            "created": access.created(key),
            "redacted_key": f"{key[:-34]}{'*' * 28}{key[-6:]}",
        },
    }


def _document(data: Any) -> Answer:
    return Answer(200, orjson.dumps({"data": data, "links": {"next": None}}))
