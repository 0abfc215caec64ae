"""Keeping an event within Klaviyo's limits, with everything that is cut marked as cut.

Limits: Klaviyo, *Events API overview*, "Limitations", and *Create Event*. Where revisions differ
(300 or 400 properties), the smaller one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import orjson

MAX_EVENTS: Final = 1_000
"""Events of one bulk job."""
MAX_REQUEST: Final = 5_000_000
"""Bytes of one request's body."""
MAX_STRING: Final = 100_000
"""Bytes of one string."""
MAX_PROPERTIES: Final = 300
MAX_LEVELS: Final = 10
MAX_ITEMS: Final = 4_000

MAX_EVENT: Final = 1_000_000
"""Bytes that one event may have before its strings and lists are cut shorter."""

_TIGHT_STRING: Final = 1_000
_TIGHT_ITEMS: Final = 20
_SMALL: Final = 5 * MAX_PROPERTIES
"""Bytes in which there is no room for so many members, of five bytes each at least."""
_CUT: Final = "[cut]"


def bounded(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The properties within all limits.

    A string that is cut ends in ``[cut: <bytes> bytes, sha256 <16 hex>]``, about the whole string;
    a list in ``[cut: <number> items, sha256 ...]``; what is nested too deep becomes such a mark
    alone. Properties beyond the limit are counted in a property ``[cut]``.
    """
    if _is_small(properties):
        return dict(properties)
    kept = _fit(properties, MAX_STRING, MAX_ITEMS)
    if wire_size(kept) > MAX_EVENT:
        kept = _fit(properties, _TIGHT_STRING, _TIGHT_ITEMS)
    return kept if wire_size(kept) <= MAX_EVENT else {_CUT: _mark(properties, "event")}


def _is_small(properties: Mapping[str, Any]) -> bool:
    """Whether it is seen from its bytes that nothing is beyond a limit: 2 us instead of 30."""
    data = orjson.dumps(properties)
    return len(data) <= _SMALL and data.count(b"{") + data.count(b"[") <= MAX_LEVELS


def wire_size(value: Any) -> int:
    """Bytes of a value on the wire, at most: the SDK writes JSON with spaces, escaped to ASCII."""
    data = orjson.dumps(value)
    if not data.isascii():
        return len(json.dumps(value))
    return len(data) + data.count(b",") + data.count(b":")


def _fit(properties: Mapping[str, Any], string: int, items: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for number, (name, value) in enumerate(properties.items()):
        if number >= MAX_PROPERTIES - 1 and len(properties) > MAX_PROPERTIES:
            kept[_CUT] = f"{len(properties) - number} properties"
            break
        kept[_text(name, 200)] = _value(value, MAX_LEVELS - 1, string, items)
    return kept


def _value(value: Any, levels: int, string: int, items: int) -> Any:
    if isinstance(value, str):
        return _text(value, string)
    if isinstance(value, Mapping):
        return _mapping(value, levels, string, items)
    if isinstance(value, list | tuple):
        return _list(value, levels, string, items)
    return value


def _mapping(value: Mapping[str, Any], levels: int, string: int, items: int) -> Any:
    if levels <= 0:
        return _mark(value, "members")
    kept = {
        _text(str(name), 200): _value(one, levels - 1, string, items)
        for name, one in list(value.items())[: MAX_PROPERTIES - 1]
    }
    if len(value) >= MAX_PROPERTIES:
        kept[_CUT] = f"{len(value) - len(kept)} members"
    return kept


def _list(value: list[Any] | tuple[Any, ...], levels: int, string: int, items: int) -> Any:
    if levels <= 0:
        return _mark(value, "items")
    if len(value) <= items:
        return [_value(one, levels - 1, string, items) for one in value]
    kept = [_value(one, levels - 1, string, items) for one in value[: items - 1]]
    return [*kept, _mark(value, "items")]


def _text(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    mark = f"[cut: {len(data)} bytes, sha256 {sha256(data).hexdigest()[:16]}]"
    return data[: limit - len(mark)].decode("utf-8", "ignore") + mark


def _mark(value: Any, what: str) -> str:
    data = orjson.dumps(
        value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
    )
    counted = f"{len(value)} {what}" if what != "event" else f"{len(data)} bytes"
    return f"[cut: {counted}, sha256 {sha256(data).hexdigest()[:16]}]"
