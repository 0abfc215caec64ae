"""One call from its beginning to its outcome in the journal."""

from __future__ import annotations

import contextlib
import logging
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import orjson
from opentelemetry import trace
from uuid_utils import uuid7

from klaviyo_audit import clock, context, privacy
from klaviyo_audit.entry import SCHEMA_VERSION, Phase, Result
from klaviyo_audit.errors import AuditUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.journal.behind import WriteBehind
    from klaviyo_audit.journal.writer import JournalWriter
    from klaviyo_audit.sinks.queue import QueueWriter

Intents = Literal["writes", "all", "none"]
OnFailure = Literal["continue", "block"]
Capture = Literal["none", "metadata", "request", "request_response"]

_INTENT: Final = Phase.INTENT.value
_OUTCOME: Final = Phase.OUTCOME.value


_log = logging.getLogger("klaviyo_audit")


class Target:
    """What is called: all that is the same for every call of one operation under one name.

    Args:
        action: The entries' ``action``.
        call: The members of the entries' ``call``, without ``revision``.
        writes: Whether the call changes data, so that an intent goes before it.
        revision: The API revision asked for unless a request says otherwise.
    """

    __slots__ = ("_call", "_fragments", "action", "revision", "writes")

    def __init__(
        self, action: str, call: Mapping[str, Any], *, writes: bool, revision: str | None = None
    ) -> None:
        self.action = action
        self.writes = writes
        self.revision = revision
        self._call = dict(call)
        self._fragments: dict[str | None, orjson.Fragment] = {}

    def fragment(self, revision: str | None) -> orjson.Fragment:
        """The entry's ``call``, encoded once a revision."""
        fragment = self._fragments.get(revision)
        if fragment is None:
            call = dict(self._call)
            if revision is not None:
                call["revision"] = privacy.clean_text(revision, 40)
            fragment = orjson.Fragment(orjson.dumps(call))
            if len(self._fragments) < 8:  # noqa: PLR2004  (a program may send any revision)
                self._fragments[revision] = fragment
        return fragment


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
    http: dict[str, Any] | None = None
    """The entry's ``http``, from the last attempt."""
    key: orjson.Fragment | None = None
    resource: str | None = None
    request: Any = None
    response: Any = None
    response_data: Any = None
    """The SDK's response, for capturing."""
    metadata: Mapping[str, Any] | None = None
    intent_written: bool = False
    transport_url: str | None = None
    """The URL object that is being sent now: tells an attempt from a call within a call."""

    def __init__(self, target: Target, parent: CallRecord | None, *, is_sdk: bool) -> None:
        self.target = target
        self.parent = parent
        self.is_sdk = is_sdk
        self.id = str(uuid7())
        self.revision = target.revision
        self.started = perf_counter_ns()


class _Rendered(NamedTuple):
    """An actor as the entries name it."""

    user_id: str
    actor: orjson.Fragment | None
    metadata: dict[str, Any]


class Recorder:
    """Makes entries and gives them to the journal; what can go wrong here stays here.

    Args:
        writer: The journal.
        default_user: Who acts when nobody is named.
        default_is_fallback: True when that is only service name and operating system user.
        intents: Which calls leave an intent.
        on_failure: What happens when the journal cannot take an entry.
        capture: How much of requests and responses the entries keep.
    """

    def __init__(
        self,
        writer: JournalWriter | WriteBehind | QueueWriter,
        *,
        default_user: str,
        default_is_fallback: bool,
        intents: Intents = "writes",
        on_failure: OnFailure = "continue",
        capture: Capture = "metadata",
    ) -> None:
        self._writer = writer
        self.captures_request = capture in ("request", "request_response")
        self.captures_response = capture == "request_response"
        self._intents = intents
        self._block = on_failure == "block"
        self._default = _Rendered(
            privacy.clean_identity(default_user),
            orjson.Fragment(b'{"fallback":true}') if default_is_fallback else None,
            {},
        )
        self._unwell = False
        self._warned = False

    def before_request(self, call: CallRecord) -> None:
        """Write the call's intent, if it is to have one. The next thing is the request.

        Raises:
            AuditUnavailable: The policy is ``block`` and the journal did not take it.
        """
        if call.intent_written:
            return
        wanted = self._intents == "all" or (call.target.writes and self._intents == "writes")
        # With ``block`` and a journal that failed last time, the intent of a read asks whether
        # the journal works again: no record, no call.
        if not wanted and not (self._block and self._unwell):
            return
        call.intent_written = True
        error: Exception | None
        try:
            members = self._members(call, _INTENT, None, None)
            error = self._writer.append(members, linked=self._block)
        except Exception as unforeseen:
            self._report(unforeseen)
            error = unforeseen
        self._unwell = error is not None
        if error is not None and self._block:
            raise AuditUnavailable(
                f"the audit journal in {self._writer.directory} cannot take a record "
                f"({_explain(error)}), so {call.target.action} was not sent: on_failure is "
                "'block'. Make room or mend the folder, or set on_failure='continue'."
            ) from None

    def outcome(
        self, call: CallRecord, result: Result, error: Mapping[str, str] | None = None
    ) -> None:
        """Write the call's outcome. Never raises: the call's own result is what counts."""
        try:
            members = self._members(call, _OUTCOME, result.value, error)
            # Only the next intent finds out whether the journal works again.
            if self._writer.append(members, linked=self._block) is not None:
                self._unwell = True
        except Exception as unforeseen:
            self._report(unforeseen)

    def event(
        self,
        action: str,
        *,
        resource: str | None = None,
        result: Result | None = None,
        metadata: Mapping[str, Any] | None = None,
        user_id: str | None = None,
    ) -> str | None:
        """Write an entry that is not about a call.

        Returns:
            The entry's id, or None when the journal could not take it.
        """
        entry_id = str(uuid7())
        rendered = self._actor()
        parent = context.CURRENT.get()
        members: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "id": entry_id,
            "writer": None,
            "n": None,
            "timestamp": clock.timestamp(time_ns()),
            "phase": Phase.EVENT.value,
            "action": privacy.clean_text(action, 200),
            "user_id": rendered.user_id if user_id is None else privacy.clean_identity(user_id),
        }
        if resource is not None:
            members["resource"] = privacy.clean_text(resource, 300)
        if result is not None:
            members["result"] = Result(result).value
        if parent is not None:
            members["parent_id"] = parent.id
        if rendered.actor is not None and user_id is None:
            members["actor"] = rendered.actor
        members["origin"] = None
        facts = {**rendered.metadata, **(privacy.clean_value(metadata) if metadata else {})}
        if facts:
            members["metadata"] = facts
        return None if self._writer.append(members) is not None else entry_id

    def about_journal(self, action: str, metadata: Mapping[str, Any]) -> None:
        """Write a line about the journal itself, e.g. what retention is about to remove.

        Raises:
            OSError: It could not be written; the loss is counted.
        """
        members: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "id": str(uuid7()),
            "writer": None,
            "n": None,
            "timestamp": clock.timestamp(time_ns()),
            "phase": Phase.JOURNAL.value,
            "action": action,
            "user_id": self._default.user_id,
            "origin": None,
            "metadata": dict(metadata),
        }
        error = self._writer.append(members)
        if error is not None:
            raise error

    def _members(
        self, call: CallRecord, phase: str, result: str | None, error: Mapping[str, str] | None
    ) -> dict[str, Any]:
        target = call.target
        rendered = self._actor()
        members: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "id": call.id,
            "writer": None,
            "n": None,
            "timestamp": clock.timestamp(time_ns()),
            "phase": phase,
            "action": target.action,
            "user_id": rendered.user_id,
        }
        if call.resource is not None:
            members["resource"] = call.resource
        if result is not None:
            members["result"] = result
            members["duration_ms"] = (perf_counter_ns() - call.started) // 1000 / 1000
        if call.parent is not None:
            members["parent_id"] = call.parent.id
        members["call"] = target.fragment(call.revision)
        if result is not None and call.http is not None:
            members["http"] = call.http
        if call.key is not None:
            members["key"] = call.key
        if rendered.actor is not None:
            members["actor"] = rendered.actor
        members["origin"] = None
        span = trace.get_current_span()
        if span is not trace.INVALID_SPAN:
            ids = span.get_span_context()
            if ids.is_valid:
                members["trace"] = {
                    "trace_id": f"{ids.trace_id:032x}",
                    "span_id": f"{ids.span_id:016x}",
                }
        if error is not None:
            members["error"] = error
        if call.request is not None:
            members["request"] = call.request
        if call.response is not None:
            members["response"] = call.response
        metadata = rendered.metadata
        if call.metadata:
            metadata = {**metadata, **privacy.clean_value(call.metadata)}
        if metadata:
            members["metadata"] = metadata
        return members

    def _actor(self) -> _Rendered:
        actor = context.ACTOR.get()
        if actor is None:
            return self._default
        if actor.rendered is not None and actor.rendered[0] is self:
            rendered: _Rendered = actor.rendered[1]
            return rendered
        facts: dict[str, str] = {}
        if actor.on_behalf_of is not None:
            facts["on_behalf_of"] = privacy.clean_identity(str(actor.on_behalf_of))
        if actor.reason is not None:
            facts["reason"] = privacy.clean_text(str(actor.reason))
        if actor.ip is not None:
            facts["ip"] = privacy.clean_text(str(actor.ip), 64)
        fragment = _fragment(facts) if facts else None
        metadata = privacy.clean_value(actor.metadata) if actor.metadata else {}
        rendered = _Rendered(privacy.clean_identity(actor.user_id), fragment, metadata)
        actor.rendered = (self, rendered)
        return rendered

    def lost(self, error: Exception) -> None:
        """Say once that the journal does not take entries (the writer counts them)."""
        if self._warned:
            return
        self._warned = True
        what = (
            "Calls that need a record are stopped."
            if self._block
            else "Calls go on unrecorded; set on_failure='block' to stop them instead."
        )
        _say(
            f"the audit journal {self._writer.path} cannot be written ({_explain(error)}). {what} "
            "What is lost is counted, and a gap entry will tell as soon as the journal works again."
        )

    def trouble(self, what: str, error: Exception, remedy: str) -> None:
        """Say that something behind the program's back went wrong, and what to try."""
        _say(f"{what} ({type(error).__name__}); the program is not affected. Try: {remedy}")

    def low_space(self, free: int, *, stopped: bool) -> None:
        """Say that the disk is getting full."""
        amount = f"{free // 2**20} MiB are free on the disk of {self._writer.directory}"
        if stopped:
            then = (
                "calls that need a record are stopped" if self._block else "calls go on unrecorded"
            )
            _say(f"{amount}: less than low_space_stop, so {then} until there is room.")
        else:
            _say(f"{amount}; low_space_warn and low_space_stop say when that is told.")

    def _report(self, error: Exception) -> None:
        """An error of our own making: it must not reach the audited program, nor hide."""
        _say(
            f"an entry could not be made ({type(error).__name__}): this is a defect of "
            "klaviyo-audit, please report it."
        )


def describe_error(error: BaseException, stage: str) -> dict[str, str]:
    """The entry's ``error``: the exception's type, never its text."""
    kind = type(error)
    return {"type": kind.__name__[:100], "module": str(kind.__module__)[:200], "stage": stage}


def _say(message: str) -> None:
    # A logging filter of the program's own may raise; not even that may break the call.
    with contextlib.suppress(Exception):
        _log.warning(message)


def _fragment(facts: dict[str, str]) -> orjson.Fragment:
    from klaviyo_audit.journal.format import encodable

    return orjson.Fragment(orjson.dumps(encodable(facts)))


def _explain(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
