"""What is called, and one call while it runs."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import uuid7

from klaviyo_audit.journal.format import json_text
from klaviyo_audit.privacy.policy import Level, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType

    from klaviyo_audit.entry import Result
    from klaviyo_audit.privacy.identifiers import Kind


class Target:
    """What is called: all that is the same for every call of one operation under one name.

    Args:
        action: The entries' ``action``.
        call: The members of the entries' ``call``, without ``revision``.
        writes: Whether the call changes data, so that an intent goes before it.
        revision: The API revision asked for unless a request says otherwise.
        subject: What it is to the rules of a policy.
        identity: HTTP method and path template of an operation of the SDK.
        place: Where its requests name persons, as steps into a body.
    """

    __slots__ = (
        "_texts",
        "action",
        "call",
        "identity",
        "intent",
        "outcome",
        "place",
        "revision",
        "subject",
        "writes",
    )

    def __init__(
        self,
        action: str,
        call: Mapping[str, Any],
        *,
        writes: bool,
        revision: str | None = None,
        subject: Subject | None = None,
        identity: tuple[str, str] | None = None,
        place: tuple[str, ...] | None = None,
    ) -> None:
        self.action = action
        self.writes = writes
        self.revision = revision
        self.subject = Subject((action,)) if subject is None else subject
        self.identity = identity
        self.place = place
        self.call = dict(call)
        """The members of the entries' ``call``, without ``revision``."""
        self._texts: dict[str | None, str] = {}
        named = f'"action":{json_text(action)},"user_id":'
        self.intent = f'","phase":"intent",{named}'
        """What stands in its intents between ``timestamp`` and ``user_id``."""
        self.outcome = f'","phase":"outcome",{named}'
        """The same of its outcomes."""

    def text(self, revision: str | None) -> str:
        """The entry's ``call`` with a comma before it, encoded once a revision."""
        text = self._texts.get(revision)
        if text is None:
            call = dict(self.call)
            if revision is not None:
                call["revision"] = revision
            text = f',"call":{json_text(call)}'
            if len(self._texts) < 8:  # noqa: PLR2004  (a program may send any revision)
                self._texts[revision] = text
        return text


JUDGING: Final = "(the guard is asked)"
"""In place of the URL that is sent. What the guard asks (``confirm``) may make calls of its own."""


class CallRecord:
    """One call while it runs. The HTTP tap and the wrappers write what they learn into it."""

    # Defaults of the class instead of slots: most calls set few of them, which halves the cost
    # of making a record (0.5 us instead of 1.0).
    attempts: int = 0
    """Attempts the SDK made."""
    requests: int | None = 0
    """HTTP requests really sent; None when that cannot be known."""
    status: int | None = None
    """Status of the last attempt; None when it got no answer."""
    http: str | None = None
    """The members of the entry's ``http`` as JSON text, from the last attempt."""
    server: str = ""
    """The member ``server`` of the entry's ``http`` as JSON text, with a comma before it."""
    key: str | None = None
    """The entry's ``key`` as JSON text."""
    resource: str | None = None
    url: str | None = None
    """As it was sent, query included: not for any record."""
    result: Result | None = None
    """Once the outcome is known."""
    agent: str | None = None
    """The User-Agent, cleaned, where it is not the SDK's own."""
    request: Any = None
    response: Any = None
    response_data: Any = None
    """The SDK's response, for capturing."""
    metadata: Mapping[str, Any] | None = None
    subjects: list[str] | None = None
    """Pseudonyms of the persons that the request names."""
    consent: dict[str, Any] | None = None
    """The entry's ``consent``."""
    forgets: list[tuple[Kind, str]] | None = None
    """Identifiers whose keys go when the call succeeds."""
    body: Any = None
    """The request's body, where ``says`` is to read it: not for any record."""
    says: Callable[[CallRecord], Iterable[tuple[Kind | None, str]]] | None = None
    """Tells what the call's request says of persons."""
    carried: dict[str, str] | None = None
    """That, and what those of calls within this one said, once somebody has asked."""
    hides: bool = False
    """It is about somebody who is to be forgotten, or a call within it is: whoever its free text
    names has no pseudonym there, since the time of the call tells who that is."""
    level: Level | None = None
    """How much of the call is kept, once that was asked."""
    overridden: str | None = None
    """The HTTP method that a header asks for in place of the request's own."""
    guarded: dict[str, Any] | None = None
    """What the guard has to say, for the entry's ``metadata``."""
    guarded_url: str | None = None
    """The URL that the guard has let go, if it had more to ask than whether a rule allows it."""
    intent_written: bool = False
    frame: FrameType | None = None
    """The frame of the SDK's operation."""
    transport_url: str | None = None
    """The URL object that is being sent now, or `JUDGING`: tells an attempt from a call within a
    call."""

    def __init__(self, target: Target, parent: CallRecord | None, *, is_sdk: bool) -> None:
        self.target = target
        self.parent = parent
        self.is_sdk = is_sdk
        self.id = str(uuid7())
        self.revision = target.revision
        self.started = perf_counter_ns()
