"""``klaviyo-audit schema``: what a line of the journal looks like."""

from __future__ import annotations

import click


@click.command(short_help="Print the JSON Schema of an entry.")
def schema() -> None:
    """Print the JSON Schema (2020-12) of one line of the journal."""
    import json

    from klaviyo_audit.entry import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
