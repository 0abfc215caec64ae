"""What a handler of one operation is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.testing.routes import Operation
    from klaviyo_audit.testing.store import Store


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, before the headers that all answers have."""

    status: int
    body: bytes = b""


class Refused(Exception):  # noqa: N818  (an answer, not a defect)
    """Klaviyo would refuse the request; carries the answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request for a known operation."""

    operation: Operation
    store: Store
    """Held for this request."""
    ids: tuple[str, ...]
    """Values of the path's parameters."""
    query_string: str
    body: bytes = field(repr=False)
    strict: bool
    """Whether ids and bodies that Klaviyo would refuse are refused."""
    lag: float = 0.0
    """Seconds before an event that was taken can be read."""

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def data(self) -> dict[str, Any]:
        """Member ``data`` of the body.

        Raises:
            Refused: The body is no JSON:API document about one resource.
        """
        data = self._data_member()
        if not isinstance(data, dict) or not isinstance(data.get("attributes", {}), dict):
            raise Refused(error(400, "The body has no resource object in /data", "/data"))
        return data

    def listed(self) -> list[dict[str, Any]]:
        """Member ``data`` of the body where it names several resources.

        Raises:
            Refused: The body is no JSON:API document with a list.
        """
        data = self._data_member()
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise Refused(error(400, "The body has no list of resources in /data", "/data"))
        return data

    def _data_member(self) -> Any:
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Refused(error(400, "The body is not JSON", "/data")) from None
        return document.get("data") if isinstance(document, dict) else None


def related(attributes: dict[str, Any], name: str) -> dict[str, Any]:
    """The resource object that an attribute holds, as in ``{"profile": {"data": {...}}}``."""
    holder = attributes.get(name)
    data = holder.get("data") if isinstance(holder, dict) else None
    return data if isinstance(data, dict) else {}


if TYPE_CHECKING:
    Handler = Callable[[Exchange], Answer]

_CODES = {
    400: ("invalid", "Invalid input."),
    401: ("authentication_failed", "Incorrect authentication credentials."),
    403: ("permission_denied", "You do not have permission to perform this action."),
    404: ("not_found", "Not found."),
    405: ("method_not_allowed", "Method not allowed."),
    409: ("conflict", "Conflict."),
    413: ("payload_too_large", "Payload too large."),
    429: ("throttled", "Request was throttled."),
}
_OTHER_CODE = ("error", "A server error occurred.")
_ERROR_ID = "{error id}"
"""Stands for the error's id, which is the request's own and put in last."""


def error(
    status: int,
    detail: str | None = None,
    pointer: str = "/data/",
    *,
    code: str | None = None,
    meta: dict[str, Any] | None = None,
) -> Answer:
    """An error in the form of Klaviyo's (JSON:API, one error).

    Args:
        status: HTTP status, 400 and more.
        detail: What was wrong; the title if left out.
        pointer: JSON pointer to what was wrong in the request.
        code: Klaviyo's code where it is not the status's usual one.
        meta: Member ``meta`` of the error.
    """
    usual, title = _CODES.get(status, _OTHER_CODE)
    body = {
        "id": _ERROR_ID,
        "status": status,
        "code": code or usual,
        "title": title,
        "detail": detail or title,
        "source": {"pointer": pointer},
        "links": {},
        "meta": meta or {},
    }
    return Answer(status, orjson.dumps({"errors": [body]}))


def with_error_id(body: bytes, error_id: str) -> bytes:
    """An error's body with the id of its own."""
    return body.replace(_ERROR_ID.encode(), error_id.encode(), 1)
