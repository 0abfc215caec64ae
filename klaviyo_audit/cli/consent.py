"""``klaviyo-audit consent``: who changed a person's consent, and the proof of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate

if TYPE_CHECKING:
    from klaviyo_audit.analysis.consent import ConsentChange, Proof


@click.command(short_help="Show who changed a person's consent, when, and for which list.")
@click.argument("person")
@journal_argument
@click.option("--list", "list_id", metavar="ID", help="Only changes for this list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the proofs in it.")
@click.option(
    "--proofs",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the proof of each change into a new file in FOLDER.",
)
def consent(
    person: str,
    directory: Path | None,
    *,
    list_id: str | None,
    as_json: bool,
    proofs: Path | None,
) -> None:
    """Show the changes of PERSON's consent that the journal in DIR holds, oldest first.

    Subscribe, unsubscribe, suppress and unsuppress calls, each with list, channels, source, actor,
    reason and result. What is sealed is proved: `klaviyo-audit verify-proof` checks a proof without
    the journal. Exit code 1: no change was found.
    """
    from klaviyo_audit.analysis import consent as ledger
    from klaviyo_audit.cli.person import names_of, settings_for
    from klaviyo_audit.errors import KlaviyoAuditError

    path = locate(directory)
    names = names_of((person,), settings_for(path))
    try:
        found = list(ledger.changes(path, names, list_id=list_id))
        proved = [ledger.prove(path, change) for change in found]
    except (KlaviyoAuditError, OSError) as error:
        fail(f"the journal cannot be read: {error}")
    if as_json:
        shown = [_as_dict(*pair) for pair in zip(found, proved, strict=True)]
        click.echo(json.dumps({"person": person, "changes": shown}, indent=2))
    else:
        for change, proof in zip(found, proved, strict=True):
            _print(change, proof)
    if proofs is not None:
        _write(proofs, found, proved)
    if not found:
        click.echo("no change of consent was found", err=True)
        raise SystemExit(1)


def _as_dict(change: ConsentChange, proof: Proof) -> dict[str, Any]:
    if proof.text is None:
        return {**change.to_dict(), "proof": None, "not_proved": proof.why_not}
    return {**change.to_dict(), "proof": proof.text.decode()}


def _print(change: ConsentChange, proof: Proof) -> None:
    from klaviyo_audit.analysis.subject import describe
    from klaviyo_audit.rendering import clean

    who = clean(change.user_id)
    if change.on_behalf_of:
        who += f" for {clean(change.on_behalf_of)}"
    why = f' because "{clean(change.reason)}"' if change.reason else ""
    where = clean("/".join(filter(None, (change.service, change.environment))) or "?")
    click.echo(f"{change.when}  {clean(describe(change), 400)}")
    click.echo(f"    by {who} ({where}){why}")
    sealed = "sealed and proved" if proof.text is not None else f"not proved: {proof.why_not}"
    click.echo(f"    entry {change.entry_id}: {clean(sealed, 400)}")


def _write(folder: Path, found: list[ConsentChange], proved: list[Proof]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for change, proof in zip(found, proved, strict=True):
            if proof.text is not None:
                (folder / f"{change.entry_id}.proof").write_bytes(proof.text)
    except OSError as error:
        fail(f"the proofs cannot be written: {error}")
