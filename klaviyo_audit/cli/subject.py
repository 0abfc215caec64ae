"""``klaviyo-audit subject``: a person's own account of what was done with their data."""

from __future__ import annotations

import json
from pathlib import Path

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate


@click.command(short_help="A person's own account of processing (GDPR, Article 15).")
@click.argument("person")
@journal_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json", "html")),
    default="text",
    show_default=True,
    help="How to write it.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="New file to write it to."
)
@click.option(
    "--actors", is_flag=True, help="Also say who acted; they are persons with rights too."
)
def subject(
    person: str, directory: Path | None, *, form: str, out: Path | None, actors: bool
) -> None:
    """Write what the journal in DIR says was done with the data of PERSON.

    What, when, by which service, for whom, why and with what result, and the changes of consent.
    Exit code 1: the journal holds nothing about the person.
    """
    from klaviyo_audit import clock
    from klaviyo_audit.analysis import subject as accounts
    from klaviyo_audit.cli.person import names_of, settings_for
    from klaviyo_audit.errors import KlaviyoAuditError

    path = locate(directory)
    names = names_of((person,), settings_for(path))
    try:
        found = accounts.account(path, person, names, made_at=clock.now(), with_actors=actors)
    except (KlaviyoAuditError, OSError) as error:
        fail(f"the journal cannot be read: {error}")
    if form == "html":
        text = accounts.as_html(found)
    elif form == "json":
        text = json.dumps(found.to_dict(), indent=2) + "\n"
    else:
        text = accounts.as_text(found)
    if out is None:
        click.echo(text, nl=False)
    else:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            fail(f"{str(out)!r} is there already: name another --out")
        except OSError as error:
            fail(f"the account cannot be written: {error}")
    if not found.processings:
        click.echo("the journal holds nothing about this person", err=True)
        raise SystemExit(1)
