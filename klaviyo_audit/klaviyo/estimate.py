"""Asking Klaviyo how many people a list, a segment or a campaign has."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from klaviyo_audit.context import suppress_audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from klaviyo_audit.klaviyo.blast import Whole

_OK: Final = 200
_MAX_ANSWER: Final = 1_048_576
_ATTRIBUTES: Final = ("data", "attributes")

# https://developers.klaviyo.com/en/reference/get_list, get_segment (additional-fields),
# get_campaign_recipient_estimation, get_campaign_id_for_campaign_message.
_QUESTIONS: Final[Mapping[Whole, tuple[str, tuple[str, ...]]]] = {
    "list": (
        "/api/lists/{id}?additional-fields[list]=profile_count",
        (*_ATTRIBUTES, "profile_count"),
    ),
    "segment": (
        "/api/segments/{id}?additional-fields[segment]=profile_count",
        (*_ATTRIBUTES, "profile_count"),
    ),
    "campaign": (
        "/api/campaign-recipient-estimations/{id}",
        (*_ATTRIBUTES, "estimated_recipient_count"),
    ),
    "campaign-message": (
        "/api/campaign-messages/{id}/relationships/campaign",
        ("data", "id"),
    ),
}


class _Unanswered(Exception):  # noqa: N818  (a fact, and never seen outside)
    """Klaviyo did not say."""


@dataclass(frozen=True, slots=True)
class Line:
    """How to ask with a call's own key and connection."""

    send: Callable[..., Any]
    """The ``call_api`` of the client the call is made with."""
    base: str
    """What its URLs begin with, before ``/api``."""
    headers: Mapping[str, Any]

    def ask(self, path: str, timeout: float) -> Any:
        """One GET; its body as JSON types.

        Raises:
            _Unanswered: With why, in a few words.
        """
        if timeout <= 0:
            raise _Unanswered("no answer in time")
        url = self.base + path
        response = self.send("GET", url, dict(self.headers), None, [], _request_timeout=timeout)
        data = response.read()
        if response.status != _OK:
            raise _Unanswered(f"status {response.status}")
        if not data or len(data) > _MAX_ANSWER:
            raise _Unanswered("no answer that could be read")
        return orjson.loads(data)


def people_in(
    wholes: Iterable[tuple[Whole, str]], line: Line, *, timeout: float
) -> tuple[int | None, str]:
    """How many people are in all of these together, those in several counted several times.

    Asked in a thread, so that retries below the SDK cannot hold the call up for longer. Not
    audited.

    Args:
        wholes: Kinds and ids.
        line: How to ask.
        timeout: Seconds for all of it.

    Returns:
        The number and ``klaviyo``; or None and why it is not known.
    """
    wanted = tuple(wholes)
    answer: list[tuple[int | None, str]] = []
    asking = threading.Thread(
        target=_ask_all,
        args=(wanted, line, time.monotonic() + timeout, answer),
        name="klaviyo-audit-estimate",
        daemon=True,
    )
    try:
        asking.start()
    except RuntimeError:  # the interpreter ends
        return None, "klaviyo: not asked, the program is ending"
    asking.join(timeout)
    return answer[0] if answer else (None, "klaviyo: no answer in time")


def _ask_all(
    wholes: tuple[tuple[Whole, str], ...],
    line: Line,
    deadline: float,
    answer: list[tuple[int | None, str]],
) -> None:
    try:
        with suppress_audit():  # a thread begins with a context of its own
            answer.append((sum(_ask(*one, line, deadline) for one in wholes), "klaviyo"))
    except _Unanswered as why:
        answer.append((None, f"klaviyo: {why}"))
    except Exception as error:
        answer.append((None, f"klaviyo: {type(error).__name__}"))


def _ask(kind: Whole, identifier: str, line: Line, deadline: float) -> int:
    path, place = _QUESTIONS[kind]
    found = line.ask(path.replace("{id}", quote(identifier, safe="")), deadline - time.monotonic())
    for step in place:
        found = found.get(step) if isinstance(found, dict) else None
    if kind == "campaign-message" and isinstance(found, str):
        return _ask("campaign", found, line, deadline)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _Unanswered("the answer has no number")
    return found
