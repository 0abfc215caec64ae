"""One call from its beginning to its outcome in the journal."""

from __future__ import annotations

import sys
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orjson import dumps
from uuid_utils import uuid7

from klaviyo_audit import context
from klaviyo_audit.alarms import Alarms, explain
from klaviyo_audit.clock import now
from klaviyo_audit.context import ACTOR
from klaviyo_audit.entry import SCHEMA_VERSION, Phase, Result
from klaviyo_audit.errors import AuditUnavailable
from klaviyo_audit.journal.format import json_text
from klaviyo_audit.privacy.carried import MAX_VALUES, unnamed
from klaviyo_audit.privacy.gate import Gate
from klaviyo_audit.privacy.policy import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from klaviyo_audit.calls import CallRecord
    from klaviyo_audit.journal.behind import WriteBehind
    from klaviyo_audit.journal.writer import JournalWriter
    from klaviyo_audit.klaviyo.guarding import Enforcer
    from klaviyo_audit.otel.telemetry import LiveCall, Telemetry
    from klaviyo_audit.privacy.identifiers import Kind
    from klaviyo_audit.sinks.queue import QueueWriter

Intents = Literal["writes", "all", "none"]
OnFailure = Literal["continue", "block"]
_NONE = Level.NONE


class _Rendered(NamedTuple):
    """An actor as the entries name it."""

    user_id: str
    """As JSON text."""
    actor: str
    """The member ``actor`` with a comma before it, or nothing."""
    bare: str
    """The same without what the caller has added."""
    facts: dict[str, str]
    """The members of ``actor``."""
    metadata: dict[str, Any]
    has_text: bool = False
    """There is a reason or metadata."""


class Recorder:
    """Makes entries and gives them to the journal; what can go wrong here stays here.

    Args:
        writer: The journal.
        default_user: Who acts when nobody is named.
        default_is_fallback: True when that is only service name and operating system user.
        intents: Which calls leave an intent.
        on_failure: What happens when the journal cannot take an entry.
        gate: What everything passes on its way into an entry.
        on_deletion: Destroys the keys of persons whose deletion was asked for.
        actor_baggage: Keys of OpenTelemetry baggage that name the actor where nobody else does.
        guard: What a call has to pass before it goes out.
    """

    def __init__(
        self,
        writer: JournalWriter | WriteBehind | QueueWriter,
        *,
        default_user: str,
        default_is_fallback: bool,
        intents: Intents = "writes",
        on_failure: OnFailure = "continue",
        gate: Gate | None = None,
        on_deletion: Callable[[Sequence[tuple[Kind, str]]], None] | None = None,
        actor_baggage: Iterable[str] = (),
        guard: Enforcer | None = None,
    ) -> None:
        self._writer = writer
        self.guard = guard
        self.gate = gate = Gate() if gate is None else gate
        self.on_deletion = on_deletion
        self.server = ("\0", "")
        """How URLs of the last server begin that was not Klaviyo's, and what entries say of it."""
        levels = gate.policy.levels
        self.notes_requests = not levels.isdisjoint((Level.REQUEST, Level.REQUEST_RESPONSE))
        """Some calls' requests are kept."""
        self.notes_responses = Level.REQUEST_RESPONSE in levels
        """Some calls' responses are kept."""
        self._may_be_bare = Level.NONE in levels
        self._only_level = None if gate.policy.rules else gate.policy.default
        self._default_user = default_user
        self._intents = intents
        self._block = on_failure == "block"
        self._user_id = default_user if default_is_fallback else gate.identity(default_user)
        fallback = ',"actor":{"fallback":true}' if default_is_fallback else ""
        self._default = _Rendered(json_text(self._user_id), fallback, fallback, {}, {})
        self.alarms = Alarms(writer.path, block=self._block)
        """Tell the program's log of trouble."""
        self._unwell = False
        self._baggage = tuple(filter(None, map(str.strip, actor_baggage)))
        self._new_telemetry: Callable[[], Telemetry] | None = None
        self._telemetry: Telemetry | None = None

    def observe(self, new_telemetry: Callable[[], Telemetry] | None) -> None:
        """Choose what tells OpenTelemetry about calls; it is made when the program has that."""
        self._new_telemetry = new_telemetry
        self._telemetry = None

    def begin(self, call: CallRecord) -> LiveCall | None:
        """Tell OpenTelemetry that a call begins, if the program has it and anybody listens."""
        if self._new_telemetry is None or _opentelemetry() is None:
            return None
        if self._telemetry is None:
            try:
                self._telemetry = self._new_telemetry()
            except Exception as error:
                self._new_telemetry = None
                self.alarms.telemetry_failed(error)
                return None
        actor = ACTOR.get()
        return self._telemetry.begin(call, self._default_user if actor is None else actor.user_id)

    def level(self, call: CallRecord) -> Level:
        """How much of a call is kept."""
        level = self._only_level or call.level
        if level is None:
            target = call.target
            actor = ACTOR.get()
            user = self._default_user if actor is None else actor.user_id
            level = call.level = self.gate.level(target, target.subject, user)
        return level

    def before_request(self, call: CallRecord) -> None:
        """Write the call's intent, if it is to have one. The next thing is the request.

        Raises:
            AuditUnavailable: The policy is ``block`` and the journal did not take it.
        """
        if call.intent_written:
            return
        writes = call.target.writes or call.overridden is not None
        wanted = self._intents == "all" or (writes and self._intents == "writes")
        # With ``block`` and a journal that failed last time, or has been taken away, the intent of
        # a read asks whether the journal works: no record, no call.
        if not wanted and not (self._block and (self._unwell or not self._writer.is_ready())):
            return
        call.intent_written = True
        error: Exception | None
        try:
            error = self._write(call, None, None)
        except Exception as unforeseen:
            self.alarms.defect(unforeseen)
            error = unforeseen
        self._unwell = error is not None
        if error is not None and self._block:
            raise AuditUnavailable(
                f"the audit journal in {self._writer.directory} cannot take a record "
                f"({explain(error)}), so {call.target.action} was not sent: on_failure is "
                "'block'. Make room or mend the folder, or set on_failure='continue'."
            ) from None

    def outcome(
        self, call: CallRecord, result: Result, error: Mapping[str, str] | None = None
    ) -> None:
        """Write the call's outcome. Never raises: the call's own result is what counts."""
        call.result = result
        try:
            # Only the next intent finds out whether the journal works again.
            if self._write(call, result, error) is not None:
                self._unwell = True
        except Exception as unforeseen:
            self.alarms.defect(unforeseen)

    def event(
        self,
        action: str,
        *,
        resource: str | None = None,
        result: Result | None = None,
        metadata: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        hides: bool = False,
    ) -> str | None:
        """Write an entry that is not about a call.

        Args:
            action: As for `Auditor.record`.
            resource: Likewise.
            result: Likewise.
            metadata: Likewise.
            user_id: Likewise.
            hides: As for `CallRecord`.

        Returns:
            The entry's id, or None when the journal could not take it.
        """
        entry_id = str(uuid7())
        actor = ACTOR.get()
        who = self._nobody() if actor is None else self._rendered(actor)
        parent = context.CURRENT.get()
        gate = self.gate
        action = gate.text(action, 200)
        facts = f'"timestamp":"{now()}","phase":"event","action":{json_text(action)}'
        if user_id is None:
            facts += f',"user_id":{who.user_id}'
        else:
            facts += f',"user_id":{json_text(gate.identity(user_id))}'
        carried = None if parent is None else parent.carried
        if resource is not None:
            resource = gate.text(resource, 300)
            if carried:
                resource = gate.without(resource, carried)
            facts += f',"resource":{json_text(resource)}'
        if result is not None:
            facts += f',"result":"{Result(result).value}"'
        if parent is not None:
            facts += f',"parent_id":"{parent.id}"'
        if user_id is None:
            told = self._told(who, carried)
            facts += unnamed(told) if hides else told
        rest = {**who.metadata, **(gate.value(metadata) if metadata else {})}
        if carried and rest:
            rest = gate.without(rest, carried)
        if hides:
            rest = unnamed(rest)
        error = self._writer.append_line(
            action, entry_id, facts, f',"metadata":{json_text(rest)}' if rest else ""
        )
        return None if error is not None else entry_id

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
            "timestamp": now(),
            "phase": Phase.JOURNAL.value,
            "action": action,
            "user_id": self._user_id,
            "origin": None,
            "metadata": dict(metadata),
        }
        error = self._writer.append(members)
        if error is not None:
            raise error

    def _write(
        self, call: CallRecord, result: Result | None, error: Mapping[str, str] | None
    ) -> OSError | None:
        """Write a call's intent (no result) or outcome.

        The line is put together from texts that were encoded once for all calls of a target, a
        key, an actor or a thread; what differs from call to call is encoded here.
        """
        target = call.target
        actor = ACTOR.get()
        who = self._nobody() if actor is None else self._rendered(actor)
        moment = now()
        resource = ""
        if call.resource is not None:
            named = call.resource
            if call.carried and not call.is_sdk:
                named = self.gate.without(named, call.carried)
            resource = f',"resource":{json_text(named)}'
        if result is None:
            what, ended, http = target.intent, "", ""
        else:
            what = target.outcome
            milliseconds = (perf_counter_ns() - call.started) // 1000 / 1000
            # Result is a string, and its attribute `value` takes longer than all of this line.
            ended = ',"result":"' + result + f'","duration_ms":{dumps(milliseconds).decode()}'
            http = "" if call.http is None else f',"http":{{{call.http}}}'
        parent = "" if call.parent is None else f',"parent_id":"{call.parent.id}"'
        key = "" if call.key is None else f',"key":{call.key}'
        bare = self._may_be_bare and self.level(call) is _NONE
        carried = call.carried
        if bare:
            carried = None
        elif call.says is not None or call.parent is not None:
            carried = self._carried(call, who)
        told = who.bare if bare else self._told(who, carried) if carried else who.actor
        if call.hides and not bare:
            told = unnamed(told)
        if call.agent is not None:
            told = _with_agent(told, call.agent)
        # At once: adding piece by piece copies what there is each time.
        facts = (
            f'"timestamp":"{moment}{what}{who.user_id}{resource}{ended}{parent}'
            f"{target.text(call.revision)}{http}{key}{told}"
        )
        rest = "" if _opentelemetry() is None else _trace()
        if error is not None:
            rest += f',"error":{json_text(error)}'
        if not bare:
            kept = self._kept(call, who, carried)
            rest += unnamed(kept) if call.hides else kept
        elif call.guarded is not None:
            rest += f',"metadata":{json_text(self.gate.value(call.guarded))}'
        telemetry = self._telemetry
        began = 0 if telemetry is None or not telemetry.measures else perf_counter_ns()
        refused = self._writer.append_line(target.action, call.id, facts, rest, linked=self._block)
        if began and telemetry is not None and refused is None:
            telemetry.appended("intent" if result is None else "outcome", result, began)
        return refused

    def _carried(self, call: CallRecord, who: _Rendered) -> dict[str, str] | None:
        """What the entry's free text must not repeat; found out only where there is any."""
        if call.says is not None and call.carried is None:
            has_text = who.has_text or call.metadata or call.guarded or call.consent
            if has_text or call.parent is not None:
                call.carried = self.gate.carried(call.says(call))
                outer = call.parent
                while outer is not None:
                    # What is written of them at their end may be about this person, too.
                    outer.carried = {**call.carried, **(outer.carried or {})}
                    outer = outer.parent if len(outer.carried) < MAX_VALUES else None
        if call.carried is None and call.parent is not None:
            return call.parent.carried
        return call.carried

    def _told(self, who: _Rendered, carried: Mapping[str, str] | None) -> str:
        """The member ``actor`` with a comma before it."""
        if not carried or "reason" not in who.facts:
            return who.actor
        reason = self.gate.without(who.facts["reason"], carried)
        return f',"actor":{json_text({**who.facts, "reason": reason})}'

    def _kept(self, call: CallRecord, who: _Rendered, carried: Mapping[str, str] | None) -> str:
        """The members that rules decide about, with a comma before each."""
        rest = ""
        if call.subjects:
            rest = f',"subjects":{json_text(call.subjects)}'
        consent, request = call.consent, call.request
        if carried:
            if consent is not None and "source" in consent:
                consent = {**consent, "source": self.gate.without(consent["source"], carried)}
            if request is not None and not call.is_sdk:
                request = self.gate.without(request, carried)
        if consent is not None:
            rest += f',"consent":{json_text(consent)}'
        if request is not None:
            rest += f',"request":{json_text(request)}'
        if call.response is not None:
            rest += f',"response":{json_text(call.response)}'
        metadata = who.metadata
        if call.metadata:
            metadata = {**metadata, **self.gate.value(call.metadata)}
        if call.guarded is not None:
            metadata = {**metadata, **self.gate.value(call.guarded)}
        if metadata:
            if carried:
                metadata = self.gate.without(metadata, carried)
            rest += f',"metadata":{json_text(metadata)}'
        return rest

    def _nobody(self) -> _Rendered:
        """Who acts where no `acting_as` says so."""
        if self._baggage and _opentelemetry() is not None:
            from opentelemetry import baggage

            for key in self._baggage:
                value = baggage.get_baggage(key)
                if isinstance(value, str) and value:
                    return self._rendered(
                        context.ActorContext(value, None, None, None, {"actor_source": key}, None)
                    )
        return self._default

    def _rendered(self, actor: context.ActorContext) -> _Rendered:
        if actor.rendered is not None and actor.rendered[0] is self:
            rendered: _Rendered = actor.rendered[1]
            return rendered
        gate = self.gate
        facts: dict[str, str] = {}
        if actor.on_behalf_of is not None:
            facts["on_behalf_of"] = gate.identity(str(actor.on_behalf_of))
        bare = f',"actor":{json_text(facts)}' if facts else ""
        if actor.reason is not None:
            facts["reason"] = gate.text(str(actor.reason))
        if actor.ip is not None:
            facts["ip"] = gate.text(str(actor.ip), 64)
        rendered = _Rendered(
            json_text(gate.identity(actor.user_id)),
            f',"actor":{json_text(facts)}' if facts else "",
            bare,
            facts,
            gate.value(actor.metadata) if actor.metadata else {},
            bool(actor.metadata) or actor.reason is not None,
        )
        actor.rendered = (self, rendered)
        return rendered


def describe_error(error: BaseException, stage: str, gate: Gate) -> dict[str, str]:
    """The entry's ``error``: the exception's type, never its text."""
    kind = type(error)
    return {
        "type": gate.name(kind.__name__),
        "module": gate.name(str(kind.__module__)),
        "stage": stage,
    }


def _with_agent(actor: str, agent: str) -> str:
    """The member ``actor`` with the agent added."""
    facts = actor.removeprefix(',"actor":{').removesuffix("}")
    return f',"actor":{{"agent":{json_text(agent)}{f",{facts}" if facts else ""}}}'


def _opentelemetry() -> Any:
    """OpenTelemetry's API, if the program has it: what nobody imported has no current span."""
    return sys.modules.get("opentelemetry.trace")


def _trace() -> str:
    """The entry's ``trace`` with a comma before it, or nothing."""
    # Another thread may be importing it at this moment.
    current = getattr(_opentelemetry(), "get_current_span", None)
    ids = current().get_span_context() if current is not None else None
    if ids is None or not ids.is_valid:
        return ""
    return f',"trace":{{"trace_id":"{ids.trace_id:032x}","span_id":"{ids.span_id:016x}"}}'
