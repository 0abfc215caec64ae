"""``klaviyo-audit resolve``: what became of calls that were cut short."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.auditor import Auditor

_FINDINGS = {
    "gone": "is not there (any more)",
    "exists": "is there",
    "unreadable": "could not be read",
}


@click.command(short_help="Close intents without an outcome; ask Klaviyo what became of them.")
@journal_argument
@click.option("--check", is_flag=True, help="Re-read the resources at Klaviyo (GET only).")
@click.option(
    "--key-env",
    default="KLAVIYO_API_KEY",
    show_default=True,
    metavar="NAME",
    help="Environment variable with the private key that --check reads with.",
)
@click.option("--host", default="", metavar="URL", help="Another host than Klaviyo's, for tests.")
def resolve(directory: Path | None, *, check: bool, key_env: str, host: str) -> None:
    """Close every intent in DIR that has no outcome as 'unknown', saying what is known.

    A program that is killed leaves intents behind: calls that may or may not have reached Klaviyo.
    They are also closed when a program opens the journal the next time. With --check the
    resource is read again where Klaviyo has an operation for that, and what it shows is recorded.
    """
    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.errors import KlaviyoAuditError

    path = locate(directory)
    if check and not os.environ.get(key_env):
        fail(f"--check needs a private key that may read, in the variable {key_env}; it is not set")
    try:
        with Auditor(
            journal=path, sinks=(), seal="off", service="klaviyo-audit", on_failure="block"
        ) as auditor:
            _close(auditor)
            if check:
                _check(auditor, path, os.environ[key_env], host)
    except (KlaviyoAuditError, OSError) as error:
        fail(str(error))


def _close(auditor: Auditor) -> None:
    closed = auditor.resolve()
    for intent in closed:
        click.echo(f"closed as unknown: {_name(intent)}")
    if not closed:
        click.echo("no intent is without an outcome")


def _check(auditor: Auditor, path: Path, key: str, host: str) -> None:
    from klaviyo_api import KlaviyoAPI

    from klaviyo_audit.analysis.unknowns import look_for_evidence, unknown_outcomes

    unknown = unknown_outcomes(path)
    api_client = KlaviyoAPI(key, test_host=host).api_client
    for members, found in look_for_evidence(auditor, api_client, unknown):
        if found is None:
            click.echo(f"no operation reads it:  {_name(members)}")
            continue
        text = _FINDINGS[found["finding"]]
        if "status" in found:
            text += f" (status {found['status']})"
        if found.get("changed_at"):
            since = "after" if found["changed_since"] else "before"
            text += f", changed at {found['changed_at']}, {since} the call"
        click.echo(f"{_name(members)}: {text}")
    if not unknown:
        click.echo("no outcome is unknown that has not been looked into")


def _name(members: dict[str, Any]) -> str:
    from klaviyo_audit.rendering import clean

    text = f"{members['timestamp']} {members['user_id']} {members['action']}"
    return clean(f"{text} {members.get('resource', '')}".rstrip(), 400)
