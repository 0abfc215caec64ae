"""``klaviyo-audit keys``: the keys in the trail, and whether they are live."""

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

JOURNAL = click.option(
    "--journal", type=click.Path(path_type=Path), help="The journal's folder.  [default: setting]"
)
HOST = click.option(
    "--host", default="", metavar="URL", help="Another host than Klaviyo's, for tests."
)
ADMIN = click.option(
    "--admin",
    metavar="ENV",
    help="Environment variable with a key that has credentials:read (and credentials:write for "
    "rotate).",
)


@click.group(invoke_without_command=True, short_help="Keys in the trail; verify and rotate them.")
@click.pass_context
@JOURNAL
@ADMIN
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@HOST
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
            _ask_ages(uses, key_in(admin), host)
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
@HOST
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
    found = {name: key_in(name) for name in chosen}
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


def key_in(name: str) -> str:
    """The key in an environment variable; exits when there is none."""
    key = os.environ.get(name, "").strip()
    if not key:
        fail(f"the environment variable {name} is not set")
    return key


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
        "servers": sorted(use.servers),
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
        click.echo(f"  calls  {use.calls:,}, of them {use.failures:,} failed or denied")
        click.echo(_clean(f"  by     {', '.join(sorted(use.services))}"))
        if use.servers:
            click.echo(_clean(f"  sent   also to {', '.join(sorted(use.servers))}"))
        click.echo(_clean(f"  scopes {', '.join(sorted(use.scopes)) or '-'}"))
        for flag, why in wrong.get(use.fingerprint, {}).items():
            click.secho(_clean(f"  ! {flag.value.replace('_', ' ')}: {why}"), fg="red")


def _clean(text: str) -> str:
    from klaviyo_audit.rendering import clean

    return clean(text, 1000)
