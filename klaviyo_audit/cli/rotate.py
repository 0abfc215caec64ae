"""``klaviyo-audit keys rotate``: exchanging one key for another."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.keys import ADMIN, HOST, JOURNAL, key_in
from klaviyo_audit.cli.location import fail, locate

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="Exchange a key for another, step by step.")
@click.option("--old", "old_name", required=True, metavar="ENV", help="Variable with the old key.")
@click.option("--new", "new_name", required=True, metavar="ENV", help="Variable with the new key.")
@ADMIN
@click.option(
    "--idle", default="1h", show_default=True, help="How long the old key has to be unused."
)
@click.option("--wait", help="How long to wait for that at most.  [default: no limit]")
@click.option("--poll", default="2s", show_default=True, help="Time between looks at the trail.")
@JOURNAL
@HOST
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

    Exit code 0: done, 1: not done yet (run it again), 2: cannot be done like this: the same key
    twice, a new key that is not live, of another account or without scopes that are used.
    """
    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.klaviyo.account import KLAVIYO
    from klaviyo_audit.security.rotation import Plan, Rotation
    from klaviyo_audit.security.rotation_state import RotationImpossible, RotationStopped

    plan = Plan(
        old=key_in(old_name),
        new=key_in(new_name),
        old_name=old_name,
        new_name=new_name,
        admin=None if admin is None else key_in(admin),
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
    except RotationImpossible as error:
        fail(str(error))
    except RotationStopped as error:
        click.echo(f"klaviyo-audit: {_clean(str(error))}", err=True)
        sys.exit(1)
    except (KlaviyoAuditError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(1)


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

    from klaviyo_audit.settings.values import Duration

    try:
        return float(TypeAdapter(Duration).validate_python(text))
    except ValidationError:
        fail(f"{option}: {text!r} is no time; give seconds, or a number with s, m, h or d")


def _clean(text: str) -> str:
    from klaviyo_audit.rendering import clean

    return clean(text, 1000)
