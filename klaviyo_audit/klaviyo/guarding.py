"""Letting a call go out, or not: the guard's rules on what is really sent."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.context import ACTOR
from klaviyo_audit.errors import AccessDenied
from klaviyo_audit.klaviyo import targets
from klaviyo_audit.klaviyo.guardplan import Plan
from klaviyo_audit.klaviyo.measuring import Request, measure
from klaviyo_audit.klaviyo.readings import Unreadable, readings
from klaviyo_audit.privacy.text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.calls import CallRecord, Target
    from klaviyo_audit.context import ActorContext
    from klaviyo_audit.guard.policy import Guard, Verdict
    from klaviyo_audit.guard.radius import BlastRadius
    from klaviyo_audit.recorder import Recorder

BREAK_GLASS: Final = "klaviyo_audit.break_glass"
"""``action`` of the entry that a break-glass leaves before its call goes out."""

_log = logging.getLogger("klaviyo_audit")


class _Denial(Exception):  # noqa: N818  (turned into an AccessDenied, or a note)
    """Why a call may not go out."""

    def __init__(self, rule: str, remedy: str, plan: Plan | None = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.remedy = remedy
        self.plan = plan


class Enforcer:
    """Holds every call of one recorder against a guard.

    Safe for threads.

    Args:
        guard: The rules.
        environment: The deployment.
        default_user: Who acts where nobody is named.
        is_fallback: Whether that is nobody in particular.
        outer: Another one that has to let a call go too.

    Raises:
        ConfigurationError: The guard has no preset for this environment.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        environment: str | None,
        default_user: str,
        is_fallback: bool,
        outer: Enforcer | None = None,
    ) -> None:
        guard.rules_in(environment)
        self.guard = guard
        self._environment = environment
        self._default_user = default_user
        self._is_fallback = is_fallback
        self._outer = outer
        self._plans: dict[Target, Plan] = {}

    def check(
        self,
        recorder: Recorder,
        call: CallRecord,
        send: Callable[..., Any],
        url: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Let a request go out, or not.

        Args:
            recorder: Where a break-glass is recorded.
            call: The call it belongs to; it takes what the entry is to say.
            send: The SDK's ``call_api``, to ask Klaviyo for numbers with.
            url: The URL among its arguments.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            AccessDenied: The guard does not allow it.
        """
        target = call.target
        plan = self._plans.get(target)
        if plan is None:
            plan = self._plan(target)
        method = args[0] if args else kwargs.get("method")
        if not (
            plan.plain
            and call.overridden is None
            and plan.method == method
            and plan.matches(url) is not None
            and (plan.free or self._verdict(plan, call).allows)
        ):
            headers = args[2] if len(args) > 2 else kwargs.get("header_params")  # noqa: PLR2004
            body = args[3] if len(args) > 3 else kwargs.get("body")  # noqa: PLR2004
            request = Request(str(method).upper(), call.overridden, url, headers, body, send)
            try:
                self._examine(recorder, call, plan, request)
                call.guarded_url = url
            except AccessDenied:
                raise
            except Exception as unforeseen:
                recorder.alarms.defect(unforeseen)
                if self.guard.mode == "enforce":
                    # What cannot be judged does not go out.
                    failed = _Denial("the guard itself failed", "report this defect")
                    raise self._denied(call, failed, plan) from unforeseen
        if self._outer is not None:
            self._outer.check(recorder, call, send, url, args, kwargs)

    def _verdict(self, plan: Plan, call: CallRecord) -> Verdict:
        actor = ACTOR.get()
        user = self._default_user if actor is None else actor.user_id
        return plan.verdict(user, call.key)

    def _plan(self, target: Target) -> Plan:
        plan = self._plans[target] = Plan(self.guard, target, self._environment)
        return plan

    def _examine(self, recorder: Recorder, call: CallRecord, asked: Plan, request: Request) -> None:
        actor = ACTOR.get()
        guard = self.guard
        passes = actor is not None and actor.break_glass is not None and guard.break_glass
        denial: _Denial | None = None
        plans: tuple[Plan, ...] = (asked,)
        limit: int | None = guard.limit
        try:
            plans = self._plans_for(asked, request)
            limit = _lowest([self._allowed(plan, call) for plan in plans])
            self._ask_who(plans, actor)
        except _Denial as why:
            denial = why
        if denial is None or passes:
            try:
                self._ask_radius(call, plans, request, limit, actor)
            except _Denial as why:
                denial = denial or why
        if denial is None:
            return
        if guard.mode == "observe":
            _note(call, "guard", {"would": "deny", **_told(denial, asked)})
        elif passes:
            assert actor is not None
            self._break_glass(recorder, call, denial, actor)
        else:
            _note(call, "guard", {"decision": "deny", **_told(denial, asked)})
            raise self._denied(call, denial, asked)

    def _plans_for(self, asked: Plan, request: Request) -> tuple[Plan, ...]:
        """What is really sent: the operation itself, unless its URL reads as something else.

        What a header asks for in its place counts too.
        """
        as_asked = request.method == asked.method and asked.matches(request.url) is not None
        if as_asked and request.overridden is None:
            return (asked,)
        try:
            found = readings(request.method, request.url)
            if request.overridden is not None:
                found += readings(request.overridden, request.url)
        except Unreadable:
            raise _Denial(
                "the guard lets no URL go that is encoded several times", "pass the id as it is"
            ) from None
        plans = []
        for operation in found:
            target = targets.target_for(operation)
            same = target.identity == asked.target.identity
            plans.append(asked if same else self._plans.get(target) or self._plan(target))
        return tuple(plans)

    def _allowed(self, plan: Plan, call: CallRecord) -> Verdict:
        verdict = self._verdict(plan, call)
        if not verdict.allows:
            raise _Denial(verdict.told, self.guard.remedy or plan.how_to_allow(), plan)
        return verdict

    def _ask_who(self, plans: tuple[Plan, ...], actor: ActorContext | None) -> None:
        guard = self.guard
        for plan in plans:
            if plan.needs_actor and not self._is_somebody(actor):
                raise _Denial(
                    f"require_actor is {guard.require_actor}, the call's risk {plan.facts.risk}, "
                    "and nobody is named who acts",
                    "say who acts: with acting_as(user_id): (or set KLAVIYO_AUDIT_USER_ID)",
                    plan,
                )
            if plan.needs_reason and not (actor is not None and actor.reason):
                raise _Denial(
                    f"require_reason is {guard.require_reason}, the call's risk "
                    f"{plan.facts.risk}, and no reason is given",
                    "give one: with acting_as(user_id, reason=...):",
                    plan,
                )

    def _is_somebody(self, actor: ActorContext | None) -> bool:
        return not self._is_fallback if actor is None else actor.named

    def _ask_radius(
        self,
        call: CallRecord,
        plans: tuple[Plan, ...],
        request: Request,
        limit: int | None,
        actor: ActorContext | None,
    ) -> None:
        """Work out what a call touches, note it, and hold it against the limit."""
        for plan in plans:
            if plan.count is None:
                continue
            radius = measure(
                plan.count, request, self.guard, action=plan.target.action, limit=limit
            )
            facts = radius.facts()
            _note(call, "blast_radius", facts)
            if radius.is_above:
                facts["confirmed_by"] = self._confirmed(radius, plan, actor)

    def _confirmed(self, radius: BlastRadius, plan: Plan, actor: ActorContext | None) -> str:
        """Who or what lets a call go that is above the limit."""
        confirm = self.guard.confirm
        if confirm is None:
            if actor is not None and actor.reason:
                return "reason"
            raise _Denial(
                radius.above(),
                "give a reason (with acting_as(user_id, reason=...):), let Guard(confirm=...) "
                "decide, or raise the limit",
                plan,
            )
        if self.guard.mode == "observe":
            raise _Denial(f"{radius.above()}; confirm was not asked", "", plan)
        try:
            agreed = confirm(radius)
        except Exception as error:
            raise _Denial(
                f"{radius.above()}, and confirm failed ({type(error).__name__})",
                "mend the function given as confirm",
                plan,
            ) from error
        if agreed:
            return "confirm"
        raise _Denial(f"{radius.above()}, and confirm did not agree", "have it confirmed", plan)

    def _break_glass(
        self, recorder: Recorder, call: CallRecord, denial: _Denial, actor: ActorContext
    ) -> None:
        facts = {"why": actor.break_glass, "rule": denial.rule, "source": self.guard.source}
        _note(call, "break_glass", facts)
        action = call.target.action
        with suppress(Exception):  # a logging filter of the program's own may raise
            _log.warning(
                "break-glass: %s goes out although the guard denies it (%s)",
                action,
                recorder.gate.text(denial.rule),
            )
        told = recorder.event(
            BREAK_GLASS, resource=call.resource, metadata={"action": action, **facts}
        )
        if told is None:
            unrecorded = _Denial(
                f"{denial.rule}, and breaking the glass could not be recorded",
                "mend the journal",
                denial.plan,
            )
            raise self._denied(call, unrecorded, self._plan(call.target))

    def _denied(self, call: CallRecord, denial: _Denial, asked: Plan) -> AccessDenied:
        plan = denial.plan or asked
        action = call.target.action
        really = "" if plan is asked else f" (its URL asks for {plan.target.action})"
        needed = tuple(sorted(plan.facts.scopes))
        scopes = f"It needs {', '.join(needed)}. " if needed else ""
        glass = ""
        if self.guard.break_glass:
            glass = ' In an emergency: acting_as(user_id, break_glass="why").'
        told = (
            f"{action}{really} was denied and nothing was sent: {denial.rule} (guard from "
            f"{self.guard.source}, environment {self._environment or 'not set'}). {scopes}"
            f"To let it go out: {denial.remedy}.{glass}"
        )
        # Rules are named by whoever wrote them.
        return AccessDenied(without_secrets(told), action, without_secrets(denial.rule), needed)


def _lowest(verdicts: list[Verdict]) -> int | None:
    """The lowest limit of several verdicts."""
    return min((one.limit for one in verdicts if one.limit is not None), default=None)


def _note(call: CallRecord, name: str, facts: dict[str, Any]) -> None:
    call.guarded = {**(call.guarded or {}), name: facts}


def _told(denial: _Denial, asked: Plan) -> dict[str, Any]:
    facts: dict[str, Any] = {"rule": denial.rule}
    if denial.plan is not None and denial.plan is not asked:
        facts["sent"] = denial.plan.target.action
    return facts
