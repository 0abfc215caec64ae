"""What an entry keeps of a request and a response: their shape, and a few harmless values."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from klaviyo_audit.privacy import MASKED_SECRET, clean_path, is_telling

MAX_MEMBERS = 50
MAX_DEPTH = 10
MAX_RESPONSE = 1_048_576
"""Bytes of a response that are looked at; of a larger one only the size is kept."""

# Query parameters whose values are names of fields, resources or sizes, never data.
_NAMING_PARAMETERS = re.compile(
    r"(?:fields|additional-fields)\[[a-z-]+\]\Z|include\Z|sort\Z|page\[size\]\Z|timeframe\Z"
)
_NAMING_VALUE = re.compile(r"[A-Za-z0-9_.,\-]{0,500}\Z")
_FILTER_TERM = re.compile(r"([a-z-]{2,30})\(([A-Za-z0-9_.\-]{1,80})")
_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]{0,63}\Z")
# JSON:API: a resource is named by its type and id (https://jsonapi.org/format/#document-resource-objects).
_IDENTIFIER = re.compile(r"[A-Za-z0-9_$:.\-]{1,100}\Z")
# Members whose own names are the customer's.
_FREE_FORM = frozenset({"properties", "metadata", "custom_metadata", "context", "value"})


def request_shape(url: str, body: Any) -> dict[str, Any]:
    """The entry's ``request``: the query's parameters and the body's shape.

    Args:
        url: The URL as it was sent.
        body: The body as JSON types, or None. It is read, never changed.
    """
    kept: dict[str, Any] = {}
    query = _query_shape(urlsplit(url).query)
    if query:
        kept["query"] = query
    if body is not None:
        kept["body"] = shape(body)
    return kept


def response_shape(data: bytes | None) -> Any:
    """The entry's ``response``: the shape of a JSON body.

    Args:
        data: The body as received; None when it was not read by the SDK.
    """
    if not data:
        return None
    if len(data) > MAX_RESPONSE:
        return {"bytes": len(data)}
    try:
        return shape(orjson.loads(data))
    except ValueError:
        return {"bytes": len(data), "json": False}


def _query_shape(query: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in islice(parse_qsl(query, keep_blank_values=True), MAX_MEMBERS):
        if name == "filter":
            # equals(email,"dana@example.com") keeps equals and email, not whose.
            kept[name] = [f"{operator}({field})" for operator, field in _FILTER_TERM.findall(value)]
        elif _NAMING_PARAMETERS.match(name) and _NAMING_VALUE.match(value):
            kept[name] = value
        elif name.replace("[", "").replace("]", "").replace("-", "").isidentifier():
            kept[name] = _scalar_shape(value)
    return kept


def shape(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The shape of a JSON value: names, types and sizes; truth values and JSON:API ids as such."""
    if isinstance(value, dict):
        return _object_shape(value, depth)
    if isinstance(value, list | tuple):
        members = [shape(member, depth - 1) for member in value[:1]] if depth > 0 else []
        return {"count": len(value), "first": members[0]} if members else {"count": len(value)}
    return _scalar_shape(value)


def _scalar_shape(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | bytes):
        return f"{type(value).__name__}({len(value)})"
    return type(value).__name__


def _object_shape(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    if depth <= 0:
        return {"[members]": len(value)}
    kept: dict[str, Any] = {}
    named = 0
    is_resource = isinstance(value.get("type"), str)
    for name, member in islice(value.items(), MAX_MEMBERS):
        if not isinstance(name, str) or _NAME.match(name) is None:
            continue
        named += 1
        if is_telling(name) and member is not None:
            kept[name] = MASKED_SECRET
        elif name in _FREE_FORM and isinstance(member, dict):
            kept[name] = {"[members]": len(member)}
        elif is_resource and name in ("type", "id") and _is_identifier(member):
            kept[name] = member
        else:
            kept[name] = shape(member, depth - 1)
    if named < len(value):
        kept["[left out]"] = len(value) - named
    return kept


def _is_identifier(value: Any) -> bool:
    return (
        isinstance(value, str)
        and _IDENTIFIER.match(value) is not None
        and clean_path(value) == value
    )
