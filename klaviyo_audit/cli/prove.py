"""``klaviyo-audit prove``: a file that shows others what is in the journal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate

_MOST_DIGITS = 19
"""Of the number of a line: no journal has 2**63 of them."""


@click.command(short_help="Prove that an entry is in the journal, or that it has only grown.")
@click.argument("what", metavar="[SEQ|ID]", required=False)
@journal_argument
@click.option(
    "--consistency",
    nargs=2,
    type=click.IntRange(min=0),
    default=None,
    metavar="OLD NEW",
    help="Prove that the journal only grew between the checkpoints of these sizes.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="New file for the proof."
)
def prove(
    what: str | None,
    directory: Path | None,
    *,
    consistency: tuple[int, int] | None,
    out: Path | None,
) -> None:
    """Make a proof for one line of the journal in DIR: its number (from 0) or its entry's id.

    The proof holds the line itself, and the signed checkpoint; `klaviyo-audit verify-proof`
    checks it without the journal. With --consistency no SEQ or ID is given.
    """
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.journal import proving

    if consistency is not None and what is not None and directory is None:
        directory, what = Path(what), None
    if (what is None) == (consistency is None):
        fail("say what to prove: a line's number or an entry's id, or --consistency OLD NEW")
    path = locate(directory)
    try:
        if consistency is not None:
            proof = proving.consistency(path, *consistency)
        else:
            assert what is not None
            is_number = what.isascii() and what.isdigit() and len(what) <= _MOST_DIGITS
            proof = proving.prove(path, int(what) if is_number else what)
    except (LookupError, KlaviyoAuditError, OSError) as error:
        fail(str(error.args[0] if isinstance(error, LookupError) else error))
    if out is None:
        sys.stdout.write(proof.decode())
        return
    try:
        with out.open("xb") as file:
            file.write(proof)
    except FileExistsError:
        fail(f"{str(out)!r} is there already: name another --out")
    except OSError as error:
        fail(f"the proof cannot be written: {error}")
