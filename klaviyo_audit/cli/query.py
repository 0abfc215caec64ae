"""``klaviyo-audit query``: entries about a person, of an action, since a time."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
import orjson

from klaviyo_audit.cli.location import fail, journal_argument, locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@click.command(short_help="Find entries: about a person, of an action, since a time.")
@journal_argument
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="PERSON",
    help="About this person: an e-mail address, a phone number (+...), an external id, or "
    "KIND:VALUE with KIND email, phone, external_id, anonymous_id, name or user.",
)
@click.option("--action", metavar="GLOB", help="Of these actions, e.g. 'klaviyo.profiles.*'.")
@click.option("--since", metavar="TIME", help="Since a time (RFC 3339), or 90s, 15m, 12h, 7d, 4w.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one entry a line.")
def query(
    directory: Path | None,
    *,
    subjects: tuple[str, ...],
    action: str | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Find entries in the journal in DIR, rotated files included, oldest first.

    A person is found by their pseudonyms, by every key there is. Exit code 1: nothing was found.
    """
    from klaviyo_audit.analysis import query as queries
    from klaviyo_audit.cli.person import names_of, settings_for, understood
    from klaviyo_audit.errors import KlaviyoAuditError

    path = locate(directory)
    names = names_of(subjects, settings_for(path)) if subjects else None
    try:
        question = queries.Question(names, action, None if since is None else queries.since(since))
    except ValueError:
        fail(f"--since: {since!r} is no time; write 2026-11-23T19:00:00Z, or 90s, 15m, 12h, 7d, 4w")
    show = _print_json if as_json else _printer()
    count = 0
    try:
        for members in queries.find(path, question):
            show(members)
            count += 1
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return  # whoever reads has seen enough
    except (KlaviyoAuditError, OSError) as error:
        fail(f"the journal cannot be read: {error}")
    if not count:
        told = ""
        if subjects:
            told = f" (--subject was read as {understood(subjects)}; KIND:VALUE says which it is)"
        click.echo(f"no entry fits{told}", err=True)
        raise SystemExit(1)


def _printer() -> Callable[[dict[str, Any]], None]:
    from pydantic import ValidationError

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.rendering import clean, printer

    show = printer(sys.stdout)

    def print_one(members: dict[str, Any]) -> None:
        try:
            show(AuditEntry.from_dict(members))
        except ValidationError:
            click.echo(f"an entry that is not as the schema says: {clean(str(members['id']))}")

    return print_one


def _print_json(members: dict[str, Any]) -> None:
    if sys.stdout.isatty():
        import json

        # Escaped, since a terminal would obey what stands in the texts.
        click.echo(json.dumps(members, separators=(",", ":")))
    else:
        click.echo(orjson.dumps(members))
