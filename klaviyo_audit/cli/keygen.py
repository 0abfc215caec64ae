"""``klaviyo-audit keygen``: a key to seal journals with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from klaviyo_audit.cli.location import fail


@click.command(short_help="Make a key that seals journals.")
@click.option(
    "--name",
    metavar="NAME",
    help="What the log is called in its checkpoints, such as example.com/loyalty/audit.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sealing.key"),
    show_default=True,
    metavar="FILE",
    help="New file (0600) for the private key.",
)
def keygen(name: str | None, out: Path) -> None:
    """Write a new Ed25519 private key to a file, and print its public key.

    Give the private key to the sealing program in KLAVIYO_AUDIT_SIGNING_KEY; publish the public
    one, or pin it in KLAVIYO_AUDIT_PUBLIC_KEY. An existing file is never replaced.
    """
    import secrets

    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.journal.note import generate_key

    try:
        signer = generate_key(name or f"klaviyo-audit/{secrets.token_hex(8)}")
    except ConfigurationError as error:
        fail(f"--name: {error}")
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{str(out)!r} is there already, and a key is never overwritten: name another --out")
    except OSError as error:
        fail(f"the key cannot be written: {error}")
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{signer.to_text()}\n")
        file.flush()
        os.fsync(descriptor)
    click.echo(signer.verifier.to_text())
    click.echo(f"the private key is in {str(out)!r}: keep it away from the journal", err=True)
