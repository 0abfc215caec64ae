"""``klaviyo-audit verify-proof``: checking a proof without the journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail
from klaviyo_audit.cli.trusted_keys import KEY_HELP, verifiers

if TYPE_CHECKING:
    from klaviyo_audit.journal.note import Verifier

_DAMAGED = 1
_MOST_BYTES = 1 << 26
"""Far more than the longest line in base64 and its checkpoint: what is longer is no proof."""


@click.command("verify-proof", short_help="Check a proof without the journal.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--key", metavar="KEY|FILE", help=KEY_HELP)
def verify_proof(file: Path, *, key: str | None) -> None:
    """Check a proof that `klaviyo-audit prove` made.

    The key is that of --key, else that of the setting public_key. Exit code 0: it holds, 1: it
    does not, 2: it could not be checked.
    """
    from klaviyo_audit.errors import JournalCorrupt
    from klaviyo_audit.rendering import clean

    trusted = verifiers(key)
    if not trusted:
        fail("a proof is worth what its key is: give the public key with --key")
    try:
        with file.open("rb") as source:
            message = _checked(source.read(_MOST_BYTES), *trusted)
    except OSError as error:
        fail(f"the proof cannot be read: {error}")
    except JournalCorrupt as error:
        click.echo(f"the proof does not hold: {clean(str(error), 2000)}")
        raise SystemExit(_DAMAGED) from None
    click.echo(message)


def _checked(data: bytes, *trusted: Verifier) -> str:
    from klaviyo_audit.journal.proof import check, check_consistency
    from klaviyo_audit.rendering import clean

    if data.startswith(b"klaviyo-audit/consistency-proof"):
        old, new = check_consistency(data, *trusted)
        return (
            f"the proof holds: the first {old.size:,} of the {new.size:,} lines of "
            f"{clean(new.origin)!r} are those that were sealed before"
        )
    proved = check(data, *trusted)
    sealed = proved.checkpoint.sealed_at
    when = "" if sealed is None else f", sealed {sealed}"
    line = clean(proved.line.decode(errors="replace"), 1 << 20)
    return (
        f"the proof holds: line {proved.index} of {proved.checkpoint.size:,} of "
        f"{clean(proved.checkpoint.origin)!r}{when}\n{line}"
    )
