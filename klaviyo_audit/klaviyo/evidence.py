"""Re-reading a resource at Klaviyo to learn what became of a call whose outcome is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit import clock
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.klaviyo.readings import plain
from klaviyo_audit.privacy.pseudonyms import PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEAVING_A_TRACE: Final = ("DELETE", "PATCH", "PUT")
_GONE: Final = (404, 410)
_CHANGED_AT: Final = ("updated", "updated_at", "updated_datetime")
_MAX_BODY: Final = 1_048_576


def has_reader(intent: Mapping[str, Any]) -> bool:
    """Whether Klaviyo has an operation that reads the resource an intent is about.

    Whoever can write to the journal can have written the intent: a resource that is not just a path
    of that operation could make another host of Klaviyo's, which would get the key.
    """
    call, resource = intent.get("call"), intent.get("resource")
    path = call.get("path") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(path, str) or not isinstance(resource, str):
        return False
    if call.get("method") not in _LEAVING_A_TRACE or not path.endswith("}"):
        return False
    if "[masked" in resource or PATTERN.search(resource) or not resource.startswith("/"):
        return False
    # The host comes before the resource: here none.
    is_plain = plain(path).match(f"https://{resource}") is not None
    return is_plain and catalog.by_template("GET", path) is not None


def look(api_client: Any, intent: Mapping[str, Any]) -> dict[str, Any]:
    """Read the resource of an intent, and say what that shows.

    Args:
        api_client: An `ApiClient` with a key that may read the resource. One GET is sent.
        intent: The members of an intent for which `has_reader` is true.

    Returns:
        ``checked_at``, ``status`` and ``finding``: ``gone`` (a delete has happened, or somebody
        else's), ``exists`` (a delete has not), or ``unreadable``; ``changed_at`` as Klaviyo tells
        it and ``changed_since`` (not before the intent), where it does.
    """
    evidence: dict[str, Any] = {"checked_at": clock.now()}
    request = api_client.param_serialize(
        "GET", intent["resource"], header_params={"Accept": "application/vnd.api+json"},
        auth_settings=["Klaviyo-API-Key", "OAuth"],
    )  # fmt: skip
    try:
        response = api_client.call_api(*request)
        body = response.read()
    except Exception as error:
        return {**evidence, "finding": "unreadable", "error": type(error).__name__}
    evidence["status"] = response.status
    if response.status in _GONE:
        return {**evidence, "finding": "gone"}
    if response.status != 200:  # noqa: PLR2004  (HTTP 200: the only answer with a resource in it)
        return {**evidence, "finding": "unreadable"}
    evidence["finding"] = "exists"
    changed_at = _changed_at(body)
    if changed_at is not None:
        evidence["changed_at"] = changed_at
        # Klaviyo tells whole seconds and RFC 3339 in UTC: comparing texts compares times.
        evidence["changed_since"] = changed_at[:19] >= str(intent["timestamp"])[:19]
    return evidence


def _changed_at(body: bytes) -> str | None:
    if len(body) > _MAX_BODY:
        return None
    try:
        attributes = orjson.loads(body)["data"]["attributes"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(attributes, dict):
        return None
    for name in _CHANGED_AT:
        value = attributes.get(name)
        if isinstance(value, str) and len(value) <= 40 and value[:4].isdigit():  # noqa: PLR2004
            return value
    return None
