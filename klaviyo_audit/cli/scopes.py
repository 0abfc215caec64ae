"""``klaviyo-audit scopes``: the scopes that keys really need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail, locate

if TYPE_CHECKING:
    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.security.scope_report import InEnvironment


@click.command(short_help="Scopes that keys really need, from the trail or from source.")
@click.option(
    "--journal", type=click.Path(path_type=Path), help="The journal's folder.  [default: setting]"
)
@click.option(
    "--code", type=click.Path(path_type=Path), metavar="PATH", help="Read Python source instead."
)
@click.option("--key", "fingerprint", help="Only the key whose fingerprint starts so.")
@click.option("--environment", metavar="NAME", help="Only what was called in this environment.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The policy file whose [guard] says what is granted.  [default: setting]",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def scopes(
    *,
    journal: Path | None,
    code: Path | None,
    fingerprint: str | None,
    environment: str | None,
    policy: Path | None,
    form: str,
) -> None:
    """Print what each key was used for, beside what the guard grants, and what a new key needs.

    For each environment and key in the trail: the scopes that it was used with, those that Klaviyo
    refused, what the guard's rules grant and nobody used, and what was used though they do not
    grant it. The rules are those of the settings and the policy file; those given in code are not
    seen.

    With --code: which scopes the Python files in PATH need, from the names of the SDK's operations
    in them, so that a key can be made before the first run.

    A key's scopes cannot be changed later. Exit code 0: told; 2: something could not be read.
    """
    from klaviyo_audit.cli.scopes_of_code import from_code
    from klaviyo_audit.cli.scopes_table import print_environment

    if code is not None:
        if journal is not None or fingerprint or environment or policy is not None:
            fail("--code reads source only; leave out --journal, --key, --environment, --policy")
        from_code(code, form)
        return
    found = _found(locate(journal), fingerprint, environment, _guard(policy))
    if form == "json":
        click.echo(json.dumps({"environments": [one.to_dict() for one in found]}, indent=1))
        return
    for one in found:
        print_environment(one)


def _guard(policy: Path | None) -> Guard | None:
    """The rules that the settings give; those of `policy`, if it is given."""
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.guard.assembly import read_guard
    from klaviyo_audit.settings import load

    try:
        return read_guard(load() if policy is None else load(policy=policy))
    except ConfigurationError as error:
        fail(str(error))


def _found(
    path: Path, fingerprint: str | None, environment: str | None, guard: Guard | None
) -> list[InEnvironment]:
    from klaviyo_audit.security.scope_report import report
    from klaviyo_audit.security.trail import members_of
    from klaviyo_audit.security.usage import usage_of

    try:
        usages = list(usage_of(members_of(path)).values())
    except OSError as error:
        fail(str(error))
    if not usages:
        fail("no private key is in the trail")
    names = sorted({usage.environment or "not set" for usage in usages})
    if environment is not None:
        usages = [usage for usage in usages if usage.environment == environment]
        if not usages:
            fail(f"no key was used in {environment!r}; the trail has {', '.join(names)}")
    if fingerprint and not any(usage.fingerprint.startswith(fingerprint) for usage in usages):
        fail(f"no key whose fingerprint starts with {fingerprint!r} is in the trail")
    return report(usages, guard, only=fingerprint or "")
