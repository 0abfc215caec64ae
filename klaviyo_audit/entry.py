"""The audit record: what one line of the trail says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA_VERSION = 1
"""Version of the entry's layout, its member ``v``."""


class Phase(StrEnum):
    """When in a call's life a line was written, or what else it is about."""

    INTENT = "intent"
    """A call that changes data is about to be sent."""
    OUTCOME = "outcome"
    """A call has ended."""
    EVENT = "event"
    """Something that is not a call: a webhook delivery, ``Auditor.record``."""
    GAP = "gap"
    """Entries were lost; the line says how many, from when to when, and which operations."""
    JOURNAL = "journal"
    """About the journal itself: a writer's first and last line, reopening, recovery."""


class Result(StrEnum):
    """What really happened, by what HTTP said and not by what was raised."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"
    """The guard stopped the call; nothing was sent."""
    UNKNOWN = "unknown"
    """A request may have reached Klaviyo and no response was seen."""


class Risk(StrEnum):
    """How much harm an operation can do. The members are in rising order."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


Variant = Literal["plain", "with_http_info", "without_preload_content"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the program asked for: one operation of the SDK, or one function of its own."""

    group: str
    """API group (``Profiles``), or the class or module of a function."""
    operation: str
    """Canonical name of the operation in the installed SDK."""
    called_as: str | None = None
    """The name it was called by, which may be an alias; absent where it cannot be known."""
    variant: Variant | None = None
    method: str | None = None
    """HTTP method, upper case."""
    path: str | None = None
    """Path template without a trailing slash; with `method` the operation's stable identity."""
    scopes: list[str] | None = None
    """OAuth scopes that Klaviyo documents for the operation."""
    risk: Risk | None = None
    personal_data: bool | None = None
    """Whether request or response can hold personal data."""
    sdk: str | None = None
    """Version of ``klaviyo-api``."""
    revision: str | None = None
    """API revision that was asked for (request header ``revision``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """Klaviyo's ``RateLimit-*`` headers: the steady window of the account."""

    limit: int | None = None
    """Requests allowed in the window."""
    remaining: int | None = None
    """Requests left in the window."""
    reset: int | None = None
    """Seconds until the window starts anew."""
    retry_after: str | None = None
    """``Retry-After`` as sent: seconds or an HTTP date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """What really went over HTTP."""

    status: int | None = None
    """Status of the last response; absent if none was seen."""
    attempts: int
    """Attempts the SDK made (calls of ``ApiClient.call_api``)."""
    requests: int | None = None
    """HTTP requests really sent, repeats below the SDK included; absent if it cannot be known."""
    server: str | None = None
    """Scheme, host and port that requests were sent to, where it was not ``https://a.klaviyo.com``:
    the key went there."""
    request_id: str | None = None
    """``x-klaviyo-req-id``, else ``CF-Ray``."""
    revision: str | None = None
    """Revision that answered, where it is not the one asked for."""
    rate_limit: RateLimit | None = None
    error_ids: list[str] | None = None
    """``errors[].id`` of Klaviyo's error body."""
    error_codes: list[str] | None = None
    """``errors[].code`` of Klaviyo's error body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Which credential a call was made with, never the credential."""

    fingerprint: str
    """First 12 hexadecimal digits of the SHA-256 of the key."""
    site: str | None = None
    """Site id of the account, where the key's format holds it."""
    label: str | None = None
    """Environment variable the key is in."""
    kind: Literal["private", "oauth", "public", "other"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """More about who acted, beside ``user_id``."""

    on_behalf_of: str | None = None
    reason: str | None = None
    ip: str | None = None
    agent: str | None = None
    """The User-Agent that was sent, where it is not the SDK's own: an AI agent's, for example."""
    fallback: bool | None = None
    """True: nobody was named, ``user_id`` is service name and operating system user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where in the world the line was written."""

    service: str | None = None
    environment: str | None = None
    host: str | None = None
    pid: int | None = None
    thread: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The OpenTelemetry span that was current, as lower-case hexadecimal."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """What the caller got instead of a result: its type, never its text (texts quote data)."""

    type: str
    """Class name of the exception."""
    module: str | None = None
    stage: Literal["before_request", "transport", "http", "after_response", "function"] | None = (
        None
    )
    """How far the call had come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One record of the trail; one JSON object, one line of the journal.

    An absent member means that the fact does not apply or could not be learnt. `id` names the
    call: the intent and the outcome of one call share it, so ``(id, phase)`` is unique.
    """

    v: int = SCHEMA_VERSION
    id: str
    """UUID version 7."""
    writer: str
    """The process that wrote the line, from its start (16 hexadecimal digits)."""
    n: int
    """Number of the line in its writer, from 0 without a gap."""
    timestamp: str
    """When the line was made: UTC, RFC 3339 with microseconds. A call began `duration_ms` before
    its outcome."""
    phase: Phase
    action: str
    """``klaviyo.<group>.<operation>``, or the name given to ``@audited`` or ``record``."""
    user_id: str
    resource: str | None = None
    """Path of the concrete resource, or what ``resource=`` was filled to."""
    result: Result | None = None
    """Absent in an intent."""
    duration_ms: float | None = None
    """Milliseconds, monotonic clock."""
    parent_id: str | None = None
    """`id` of the audited call this one was made in."""
    call: Call | None = None
    http: Http | None = None
    key: Key | None = None
    actor: Actor | None = None
    origin: Origin | None = None
    trace: Trace | None = None
    error: Error | None = None
    subjects: list[str] | None = None
    """Pseudonyms of the persons that the request names (docs/privacy.md)."""
    consent: dict[str, Any] | None = None
    """What the request changes in people's consent."""
    request: Any = None
    """What the privacy rules let through of the arguments."""
    response: Any = None
    """What the privacy rules let through of the response."""
    metadata: dict[str, Any] = field(default_factory=dict)
    sum: str | None = None
    """First 8 bytes of the SHA-256 over the line's bytes before ``,"sum"``, hexadecimal."""

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> AuditEntry:
        """Build an entry from the members of a line.

        Args:
            members: The decoded JSON object. Members this version does not know are ignored.

        Raises:
            pydantic.ValidationError: A member has the wrong type, or a required one is absent.
        """
        entry: AuditEntry = _adapter().validate_python(members)
        return entry

    @classmethod
    def from_json(cls, line: bytes | str) -> AuditEntry:
        """Build an entry from one line of a journal. The checksum is not looked at."""
        return cls.from_dict(orjson.loads(line))

    def to_dict(self) -> dict[str, Any]:
        """The members as a line has them: absent facts left out, in the line's order.

        The members of the classes here are therefore in the order that lines are written in.
        """
        return _compact(self)


def _compact(part: Any) -> dict[str, Any]:
    names, members_of = _PARTS[part.__class__]
    members = {}
    for name, member in zip(names, members_of(part), strict=True):
        if member is None or (name == "metadata" and not member):
            continue
        members[name] = _compact(member) if member.__class__ in _PARTS else member
    return members


def _members(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names of a dataclass's members, and what gets all of them."""
    names = tuple(spec.name for spec in dataclasses.fields(kind))
    return names, attrgetter(*names)


# `dataclasses.fields`, and `getattr` for one member after the other, took most of an entry's time.
_PARTS: Final = {
    kind: _members(kind)
    for kind in (AuditEntry, Call, RateLimit, Http, Key, Actor, Origin, Trace, Error)
}
"""An entry and what it is made of."""


@cache
def _adapter() -> Any:
    # pydantic comes with the SDK; building the validator takes milliseconds, so at first use.
    from pydantic import TypeAdapter

    return TypeAdapter(AuditEntry)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line of the journal, generated from `AuditEntry`."""
    schema: dict[str, Any] = _adapter().json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "klaviyo-audit entry",
        **schema,
    }
