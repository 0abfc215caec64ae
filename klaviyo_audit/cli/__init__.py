"""The command line: one module a command."""

from __future__ import annotations

import sys
from typing import Any

import click

from klaviyo_audit._version import __version__
from klaviyo_audit.cli import (
    check,
    config,
    consent,
    forget,
    keygen,
    keys,
    prove,
    query,
    resolve,
    rotate,
    run,
    scan,
    schema,
    scopes,
    seal,
    ship,
    status,
    subject,
    tail,
    verify,
    verify_proof,
)


class _Commands(click.Group):
    """The commands; what is wrong with a command line is said without the secrets in it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            from klaviyo_audit.privacy.text import without_secrets

            vars(error)["message"] = without_secrets(error.message)  # final, for type checkers
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="klaviyo-audit")
def main() -> None:
    """Read and check the audit trail of a program's calls to Klaviyo."""
    from klaviyo_audit.privacy import notice

    notice.silence()  # what a command records of itself names nobody
    # A trail may hold any character, and the terminal's encoding may not have it.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


main.add_command(verify.verify)
main.add_command(tail.tail)
main.add_command(schema.schema)
main.add_command(resolve.resolve)
main.add_command(seal.seal)
main.add_command(keygen.keygen)
main.add_command(prove.prove)
main.add_command(verify_proof.verify_proof)
main.add_command(run.run)
main.add_command(scan.scan)
main.add_command(ship.ship)
main.add_command(status.status)
main.add_command(keys.keys)
keys.keys.add_command(rotate.rotate)
main.add_command(scopes.scopes)
main.add_command(query.query)
main.add_command(subject.subject)
main.add_command(consent.consent)
main.add_command(forget.forget)
main.add_command(config.config)
main.add_command(check.check)
