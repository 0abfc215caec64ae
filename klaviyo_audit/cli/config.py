"""``klaviyo-audit config``: the settings in force, and the rule that decides about an operation."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.klaviyo.risks import Operation
    from klaviyo_audit.privacy.policy import Policy, Rule, Verdict
    from klaviyo_audit.settings import Settings


@click.group(short_help="The settings in force, and which rule decides about an operation.")
def config() -> None:
    """Show the settings in force, and explain the policy."""


@config.command(short_help="The effective settings, each with its source.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(*, as_json: bool) -> None:
    """Show each setting with its value and where that comes from. Secrets are masked."""
    from klaviyo_audit.rendering import clean

    settings = _load()
    values, sources = settings.describe(), settings.sources
    if as_json:
        found = {name: {"value": values[name], "source": sources[name]} for name in values}
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = "-" if value is None else json.dumps(value) if not isinstance(value, str) else value
        click.echo(f"{name.ljust(width)}  {clean(shown)}  ({clean(sources[name])})")


@config.command(short_help="Check the rules; explain which decides about an operation.")
@click.argument("operation", required=False)
@click.option("--user", metavar="ID", help="As if this user acted; not given: the setting user_id.")
@click.option("--environment", metavar="NAME", help="As if in this environment.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    operation: str | None, *, user: str | None, environment: str | None, as_json: bool
) -> None:
    """Explain which privacy rule decides about OPERATION, what an entry keeps, and the guard.

    Without OPERATION: check the settings and all rules, those of the guard too, for what is
    misspelt or fits nothing. Exit code 0: all is well, 1: something is misspelt, 2: the settings or
    the policy file cannot be used. With it, what is misspelt is told besides.

    OPERATION is a name (profiles.get_profile, get_profile), a method and path ('DELETE
    /api/lists/{id}'), or the action of an audited function.
    """
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.guard.assembly import make_guard
    from klaviyo_audit.klaviyo.misfits import misfits
    from klaviyo_audit.privacy.assembly import make_policy
    from klaviyo_audit.privacy.gate import Gate
    from klaviyo_audit.rendering import clean

    settings = _load(environment)
    try:
        policy = make_policy(settings)
        guard = make_guard(settings)
    except ConfigurationError as error:
        fail(str(error))
    wrong = misfits(guard, policy, settings.environment)
    if operation is None:
        _print_check(guard, policy, wrong, as_json=as_json)
        sys.exit(1 if wrong else 0)
    for sentence in wrong:
        click.echo(f"klaviyo-audit: warning: {clean(sentence, 1000)}", err=True)
    found = _find(operation)
    user = user or settings.user_id or ""
    from klaviyo_audit.klaviyo.targets import subject_of
    from klaviyo_audit.privacy.policy import Subject

    subject = Subject((operation,)) if found is None else subject_of(found)
    gate = Gate(policy=policy, environment=settings.environment)
    verdict = policy.explain(gate.located(subject), user)
    guarded = None if found is None or guard is None else _guard(guard, found, settings, user)
    if as_json:
        told = {**_as_dict(operation, found, verdict, policy), "guard": guarded}
        click.echo(json.dumps(told, indent=2))
    else:
        _print(operation, found, verdict, policy, settings)
        if guarded is not None:
            click.echo(f"guard: {clean(str(guarded['decision']))}, {clean(str(guarded['rule']))}")


def _print_check(guard: Guard | None, policy: Policy, wrong: list[str], *, as_json: bool) -> None:
    from klaviyo_audit.rendering import clean

    if as_json:
        told = {
            "guard": None if guard is None else guard.source,
            "policy": policy.source,
            "misspelt": wrong,
        }
        click.echo(json.dumps(told, indent=2))
        return
    for sentence in wrong:
        click.echo(clean(sentence, 1000))
    if not wrong:
        rules = "no guard" if guard is None else f"guard from {guard.source}"
        click.echo(f"nothing is misspelt: {clean(rules)}, privacy from {clean(policy.source)}")


def _guard(guard: Guard, found: Operation, settings: Settings, user: str) -> dict[str, object]:
    """What the guard decides about an operation by this user.

    Rules that ask for a key fit none here.
    """
    from klaviyo_audit.guard.policy import Ruling
    from klaviyo_audit.klaviyo.guardplan import facts_of
    from klaviyo_audit.klaviyo.targets import target_for

    verdict = Ruling(guard, facts_of(target_for(found)), settings.environment).verdict(user, ("",))
    return {
        "decision": "allow" if verdict.allows else "deny",
        "rule": verdict.told,
        "mode": guard.mode,
        "limit": verdict.limit,
        "source": guard.source,
    }


def _load(environment: str | None = None) -> Settings:
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.settings import load

    try:
        return load(environment=environment)
    except ConfigurationError as error:
        fail(str(error))


def _find(text: str) -> Operation | None:
    """The operation of that name; None for a function of the program's own."""
    from klaviyo_audit.klaviyo.risks import key, table

    method, _, path = text.partition(" ")
    if path.startswith("/"):
        found = table().get(key(method, path))
        if found is None:
            fail(
                f"no operation of Klaviyo's API is {text!r}; templates look like /api/lists/{{id}}"
            )
        return found
    name = text.lower().removeprefix("klaviyo.")
    fitting = [
        one for one in table().values() if name in (one.name, f"{one.group.lower()}.{one.name}")
    ]
    if len(fitting) > 1:
        names = ", ".join(f"{one.group.lower()}.{one.name}" for one in fitting)
        fail(f"{text!r} may be {names}: say which")
    if fitting:
        return fitting[0]
    if text.lower().startswith("klaviyo.") or "." not in text:
        fail(f"no operation of Klaviyo's API is called {text!r}{_hint(name)}")
    return None


def _hint(name: str, nearness: float = 0.6) -> str:
    import difflib

    from klaviyo_audit.klaviyo.risks import table

    known = [f"{one.group.lower()}.{one.name}" for one in table().values()]
    known += [one.name for one in table().values()]
    near = difflib.get_close_matches(name, known, cutoff=nearness)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _rule_name(number: int | None, rule: Rule | None) -> str:
    if rule is None:
        return "no rule"
    return f"rule {number}" + (f' "{rule.name}"' if rule.name else "")


def _keeps(level: str) -> str:
    from klaviyo_audit.privacy.policy import Level

    return {
        Level.NONE: "its bare facts: who, what, when, how it ended",
        Level.METADATA: "also reason, metadata, and whom it is about (pseudonyms)",
        Level.REQUEST: "also what the allow-list keeps of the request",
        Level.REQUEST_RESPONSE: "also what the allow-list keeps of request and response",
    }[Level(level)]


def _print(
    text: str,
    found: Operation | None,
    verdict: Verdict,
    policy: Policy,
    settings: Settings,
) -> None:
    from klaviyo_audit.rendering import clean

    if found is None:
        click.echo(f"{clean(text)}: an action of the program's own{_hint(text.lower(), 0.85)}")
    else:
        click.echo(
            f"{found.group.lower()}.{found.name}  {found.method} {found.path}  risk "
            f"{found.risk.value}, scopes {' '.join(found.scopes) or '-'}"
        )
    click.echo(f"environment {clean(settings.environment or '-')}, policy {clean(policy.source)}")
    for number, condition in verdict.passed_over:
        rule = policy.rules[number - 1]
        click.echo(f"  {clean(_rule_name(number, rule))} does not fit: {condition}")
    decides = clean(_rule_name(verdict.number, verdict.rule))
    if verdict.rule is None:
        click.echo(f"  {decides} fits: the default counts")
    else:
        click.echo(f"  {decides} fits")
    click.echo(f"level {verdict.level.value}: {_keeps(verdict.level)}")


def _as_dict(
    text: str, found: Operation | None, verdict: Verdict, policy: Policy
) -> dict[str, object]:
    return {
        "operation": text if found is None else f"{found.group.lower()}.{found.name}",
        "known": found is not None,
        "level": verdict.level.value,
        "rule": verdict.number,
        "rule_name": verdict.rule.name if verdict.rule is not None else None,
        "policy": policy.source,
        "passed_over": [
            {"rule": number, "condition": condition} for number, condition in verdict.passed_over
        ],
    }
