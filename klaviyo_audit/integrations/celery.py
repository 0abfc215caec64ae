"""Celery: what a task does is done by whoever has sent it."""

from __future__ import annotations

import sys
from typing import Any, Final

from celery import signals

from klaviyo_audit.context import ACTOR, CURRENT, ActorContext

HEADER: Final = "klaviyo_audit"
"""Header of a task's message that carries the actor."""

_TRACE: Final = "trace"
_BEFORE: Final = "klaviyo_audit_before"


def propagate_actor() -> None:
    """Have the actor and the trace travel with every task that this process sends or runs.

    To be called once where the Celery app is made, which both the sending program and the worker
    import. Tasks that are sent outside `acting_as` act for the worker's own user. Anybody who can
    write to the broker can name any actor, as they can run any task.

    Retries and tasks that a task sends keep the actor. The trace is only taken over where no other
    instrumentation of Celery has begun a span for the task.
    """
    signals.before_task_publish.connect(_before_publish, dispatch_uid=f"{HEADER}.publish")
    signals.task_prerun.connect(_before_task, dispatch_uid=f"{HEADER}.prerun")
    signals.task_postrun.connect(_after_task, dispatch_uid=f"{HEADER}.postrun")


def stop_propagating() -> None:
    """Undo `propagate_actor`."""
    signals.before_task_publish.disconnect(dispatch_uid=f"{HEADER}.publish")
    signals.task_prerun.disconnect(dispatch_uid=f"{HEADER}.prerun")
    signals.task_postrun.disconnect(dispatch_uid=f"{HEADER}.postrun")


def _before_publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is None:
        return
    facts = _carried()
    if facts:
        headers[HEADER] = facts


def _carried() -> dict[str, Any]:
    facts: dict[str, Any] = {}
    actor = ACTOR.get()
    if actor is not None:
        facts = {
            "user_id": actor.user_id,
            "reason": actor.reason,
            "on_behalf_of": actor.on_behalf_of,
            "ip": actor.ip,
            "metadata": {name: _plain(value) for name, value in actor.metadata.items()},
        }
        if not actor.named:
            facts["unnamed"] = True
    call = CURRENT.get()
    if call is not None:
        facts["parent_id"] = call.id
    trace = _propagated()
    if trace:
        facts[_TRACE] = trace
    return facts


def _before_task(task: Any = None, **_: Any) -> None:
    if task is None or task.request.is_eager:
        return  # it runs in its sender's own context
    carried = (task.request.headers or {}).get(HEADER)
    facts = carried if isinstance(carried, dict) else {}
    before = ACTOR.get()
    ACTOR.set(_actor(facts) or before)
    trace = facts.get(_TRACE)
    token = _attach(trace) if isinstance(trace, dict) else None
    setattr(task.request, _BEFORE, (before, token))


def _after_task(task: Any = None, **_: Any) -> None:
    if task is None or task.request.is_eager:
        return
    before, token = getattr(task.request, _BEFORE, None) or (None, None)
    ACTOR.set(before)
    if token is not None:
        from opentelemetry import context

        context.detach(token)


def _actor(facts: dict[str, Any]) -> ActorContext | None:
    user = facts.get("user_id")
    if not isinstance(user, str) or not user:
        return None
    texts = (facts.get(name) for name in ("reason", "on_behalf_of", "ip"))
    reason, on_behalf_of, ip = (text if isinstance(text, str) else None for text in texts)
    metadata = facts.get("metadata")
    known = dict(metadata) if isinstance(metadata, dict) else {}
    if isinstance(facts.get("parent_id"), str):
        known["sent_by"] = facts["parent_id"]
    named = not facts.get("unnamed")
    return ActorContext(user, reason, on_behalf_of, ip, known, None, named=named)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _propagated() -> dict[str, str]:
    """The current trace in W3C headers; nothing where nobody traces."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def _attach(carrier: dict[str, str]) -> Any:
    from opentelemetry import context, trace
    from opentelemetry.propagate import extract

    if trace.get_current_span() is not trace.INVALID_SPAN:
        return None
    return context.attach(extract(carrier))
