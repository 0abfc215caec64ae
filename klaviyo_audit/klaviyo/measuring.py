"""Working out what a request touches before it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from klaviyo_audit.guard.radius import BlastRadius
from klaviyo_audit.klaviyo import estimate
from klaviyo_audit.klaviyo.blast import in_body, wholes_in
from klaviyo_audit.klaviyo.readings import is_override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.klaviyo.blast import Count


@dataclass(frozen=True, slots=True)
class Request:
    """What ``call_api`` was given."""

    method: str
    overridden: str | None
    """The method that a header asks for in its place."""
    url: str
    headers: Mapping[str, Any] | None
    body: Any
    send: Callable[..., Any]
    """The ``call_api`` itself, to ask Klaviyo for numbers with."""


def measure(
    count: Count, request: Request, guard: Guard, *, action: str, limit: int | None
) -> BlastRadius:
    """Work out what a request touches.

    Args:
        count: Where its operation says so.
        request: The request.
        guard: Says whether Klaviyo is asked.
        action: The call.
        limit: What it is held against.
    """
    number = in_body(count, request.body)
    source = "request" if number is not None else "the request does not say"
    path = request.url.partition("#")[0].partition("?")[0]
    last = unquote(path.rstrip("/").rpartition("/")[2])
    wholes = list(wholes_in(count, request.body, last))
    if wholes:
        line = _line(request) if guard.estimate else None
        if line is None:
            number, source = None, f"all of a {wholes[0][0]}, and Klaviyo is not asked"
        else:
            people, source = estimate.people_in(wholes, line, timeout=guard.estimate_timeout)
            number = None if people is None else people + (number or 0)
    return BlastRadius(action, number, count.unit, source, limit)


def _line(request: Request) -> estimate.Line | None:
    start = request.url.find("/api/", request.url.find("://") + 3)
    if start < 0:
        return None
    headers = request.headers or {}
    kept = {
        name: value
        for name, value in headers.items()
        if name.lower() != "content-type" and not is_override(name)
    }
    return estimate.Line(request.send, request.url[:start], kept)
