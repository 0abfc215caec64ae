"""``klaviyo-audit keys``: the keys in the trail, whether they are live, and exchanging them."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klaviyo_audit.cli.location import fail, locate

if TYPE_CHECKING:
    from klaviyo_audit.security.keyuse import Flag, KeyUse

_JOURNAL = click.option(
    "--journal", type=click.Path(path_type=Path), help="The journal's folder.  [default: setting]"
)
_HOST = click.option(
    "--host", default="", metavar="URL", help="Another host than Klaviyo's, for tests."
)
_ADMIN = click.option(
    "--admin",
    metavar="ENV",
    help="Environment variable with a key that has credentials:read (and credentials:write for "
    "rotate).",
)


@click.group(invoke_without_command=True, short_help="Keys in the trail; verify and rotate them.")
@click.pass_context
@_JOURNAL
@_ADMIN
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@_HOST
def keys(
    context: click.Context, journal: Path | None, admin: str | None, form: str, host: str
) -> None:
    """List every key in the trail: who used it, when, for what, and what is wrong with it.

    A key is flagged when it is older than the setting key_max_age (90 days), when it is used
    longer than key_max_overlap (7 days) after another took its place, or when it is still tried
    though Klaviyo does not take it. Age is from first use; with --admin, from Klaviyo for keys that
    are in an environment variable here.

    Exit code 0: nothing is flagged, 1: something is, 2: the trail cannot be read.
    """
    if context.invoked_subcommand is not None:
        return
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.security.keyuse import flags, key_uses
    from klaviyo_audit.security.trail import members_of
    from klaviyo_audit.settings import load

    try:
        settings = load()
        uses = key_uses(members_of(locate(journal)))
        if admin is not None:
            _ask_ages(uses, _key_in(admin), host)
    except (KlaviyoAuditError, OSError) as error:
        fail(str(error))
    now = datetime.now(UTC)
    wrong = flags(
        uses,
        now=now,
        max_age=timedelta(seconds=settings.key_max_age),
        max_overlap=timedelta(seconds=settings.key_max_overlap),
    )
    if form == "json":
        click.echo(json.dumps([_facts(use, wrong, now) for use in uses.values()], indent=1))
    else:
        _print(uses, wrong, now)
    sys.exit(1 if wrong else 0)


@keys.command(short_help="Ask Klaviyo whether keys are live.")
@click.option(
    "--env", "names", multiple=True, metavar="NAME", help="Environment variable with a key."
)
@_HOST
def verify(names: tuple[str, ...], host: str) -> None:
    """Ask Klaviyo about the keys in environment variables (one GET /api/accounts each).

    Without --env: about every variable whose value looks like a private key.

    Exit code 0: all are live, 1: one is dead, 2: there is none, or no answer tells.
    """
    from klaviyo_audit.klaviyo.account import KLAVIYO, KeyState, check_key
    from klaviyo_audit.klaviyo.keys import fingerprint
    from klaviyo_audit.security import patterns

    form = re.compile(patterns.KEY)
    chosen = names or tuple(sorted(n for n, value in os.environ.items() if form.fullmatch(value)))
    if not chosen:
        fail("no environment variable holds a private key; name one: --env NAME")
    found = {name: _key_in(name) for name in chosen}
    states = set()
    for name, key in found.items():
        checked = check_key(key, host=host or KLAVIYO)
        states.add(checked.state)
        words = {
            KeyState.LIVE: f"live, account {checked.account}",
            KeyState.LIVE_WITHOUT_SCOPE: "live, without accounts:read (403)",
            KeyState.DEAD: "dead (401): exchange it wherever it is still used",
            KeyState.UNKNOWN: f"not known: {checked.why}",
        }
        click.echo(f"{_clean(name)}  {fingerprint(key)}  {_clean(words[checked.state])}")
    if KeyState.DEAD in states:
        sys.exit(1)
    sys.exit(2 if KeyState.UNKNOWN in states else 0)


@keys.command(short_help="Exchange a key for another, step by step.")
@click.option("--old", "old_name", required=True, metavar="ENV", help="Variable with the old key.")
@click.option("--new", "new_name", required=True, metavar="ENV", help="Variable with the new key.")
@_ADMIN
@click.option(
    "--idle", default="1h", show_default=True, help="How long the old key has to be unused."
)
@click.option("--wait", help="How long to wait for that at most.  [default: no limit]")
@click.option("--poll", default="2s", show_default=True, help="Time between looks at the trail.")
@_JOURNAL
@_HOST
def rotate(
    *,
    old_name: str,
    new_name: str,
    admin: str | None,
    idle: str,
    wait: str | None,
    poll: str,
    journal: Path | None,
    host: str,
) -> None:
    """Walk through the exchange of one key for another.

    The new key is verified, and compared with the old one: same account, and (with --admin) the
    scopes that are used. Then the trail is watched until the old key was idle for --idle; who still
    uses it is told. Then it is disabled through Klaviyo's beta API with the key in --admin
    (credentials:write); without one, what to click is told. It is never deleted.

    May be stopped at any time: the same command goes on. Each step is an entry of the trail.

    Exit code 0: done, 1: not done yet, 2: cannot be done like this.
    """
    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.klaviyo.account import KLAVIYO
    from klaviyo_audit.security.rotation import Plan, Rotation
    from klaviyo_audit.security.rotation_state import RotationStopped

    plan = Plan(
        old=_key_in(old_name),
        new=_key_in(new_name),
        old_name=old_name,
        new_name=new_name,
        admin=None if admin is None else _key_in(admin),
        idle=_seconds("--idle", idle),
        wait=None if wait is None else _seconds("--wait", wait),
        poll=_seconds("--poll", poll),
        host=host or KLAVIYO,
    )
    path = locate(journal)
    _check_sink(plan.old)
    try:
        with Auditor(
            journal=path, sinks=(), seal="off", service="klaviyo-audit", on_failure="block"
        ) as auditor:
            Rotation(auditor, plan, lambda text: click.echo(_clean(text))).run()
    except RotationStopped as error:
        click.echo(f"klaviyo-audit: {_clean(str(error))}", err=True)
        sys.exit(1)
    except (KlaviyoAuditError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(1)


def _key_in(name: str) -> str:
    key = os.environ.get(name, "").strip()
    if not key:
        fail(f"the environment variable {name} is not set")
    return key


def _check_sink(old: str) -> None:
    """What the sink ``klaviyo`` sends is not in the trail, so its key would go unseen."""
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.settings import load

    try:
        settings = load()
    except ConfigurationError as error:
        fail(str(error))
    own = settings.klaviyo_key
    shared = own is None and "klaviyo" in settings.sinks and os.environ.get("KLAVIYO_API_KEY")
    if old in {own.get_secret_value() if own is not None else None, shared}:
        fail(
            "the sink klaviyo sends with the old key (setting klaviyo_key), and what it sends is "
            "not in the trail. Give it another key, restart what ships, and run this again"
        )


def _seconds(option: str, text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from klaviyo_audit.settings_types import Duration

    try:
        return float(TypeAdapter(Duration).validate_python(text))
    except ValidationError:
        fail(f"{option}: {text!r} is no time; give seconds, or a number with s, m, h or d")


def _ask_ages(uses: dict[str, KeyUse], admin: str, host: str) -> None:
    """Fill in when keys were made, of those that are in an environment variable here."""
    from klaviyo_audit.klaviyo.account import KLAVIYO
    from klaviyo_audit.klaviyo.apikeys import list_api_keys
    from klaviyo_audit.klaviyo.keys import fingerprint

    listed = list_api_keys(admin, host=host or KLAVIYO)
    for value in os.environ.values():
        use = uses.get(fingerprint(value))
        fitting = [one for one in listed if one.may_be(value)] if use is not None else []
        if use is not None and len(fitting) == 1:
            use.created = fitting[0].created


def _facts(use: KeyUse, wrong: dict[str, dict[Flag, str]], now: datetime) -> dict[str, Any]:
    from klaviyo_audit.security.keyuse import shown

    age = use.age(now)
    return {
        "fingerprint": use.fingerprint,
        "kind": use.kind,
        "site": use.site,
        "labels": sorted(use.labels),
        "services": {name: shown(at) for name, at in sorted(use.services.items())},
        "first": shown(use.first),
        "last": shown(use.last),
        "created": None if use.created is None else shown(use.created),
        "age_days": None if age is None else age.days,
        "calls": use.calls,
        "failures": use.failures,
        "scopes": dict(sorted(use.scopes.items())),
        "refused_scopes": dict(sorted(use.refused_scopes.items())),
        "flags": {flag.value: why for flag, why in wrong.get(use.fingerprint, {}).items()},
    }


def _print(uses: dict[str, KeyUse], wrong: dict[str, dict[Flag, str]], now: datetime) -> None:
    from klaviyo_audit.security.keyuse import shown

    if not uses:
        click.echo("no key is in the trail")
    for use in uses.values():
        age = use.age(now)
        days = "-" if age is None else f"{age.days} days"
        names = ", ".join(sorted(use.labels)) or "no variable"
        click.echo(_clean(f"{use.fingerprint}  {use.kind or '?'}  {use.site or '-'}  {names}"))
        click.echo(_clean(f"  used   {shown(use.first)} to {shown(use.last)}, age {days}"))
        click.echo(f"  calls  {use.calls:,}, of them {use.failures:,} failed")
        click.echo(_clean(f"  by     {', '.join(sorted(use.services))}"))
        click.echo(_clean(f"  scopes {', '.join(sorted(use.scopes)) or '-'}"))
        for flag, why in wrong.get(use.fingerprint, {}).items():
            click.secho(_clean(f"  ! {flag.value.replace('_', ' ')}: {why}"), fg="red")


def _clean(text: str) -> str:
    from klaviyo_audit.rendering import clean

    return clean(text, 1000)
