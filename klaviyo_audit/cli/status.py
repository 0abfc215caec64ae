"""``klaviyo-audit status``: how the journal and its sinks do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate

if TYPE_CHECKING:
    from pathlib import Path


_SECONDS: Final = len("2026-11-23T19:00:00")


@click.command(short_help="Show how the journal and its sinks do.")
@journal_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(directory: Path | None, *, as_json: bool) -> None:
    """Show the state of the journal in DIR (the setting dir, if not given) and of each sink.

    Nothing is changed. Times are UTC.
    """
    from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
    from klaviyo_audit.settings import load
    from klaviyo_audit.sinks.status import sinks_status

    path = locate(directory)
    if not path.is_dir():
        fail(f"{str(path)!r} is not a journal's folder")
    try:
        names = load().sinks
        found = {"journal": journal_status(path), "sinks": sinks_status(path, names)}
    except (ConfigurationError, JournalCorrupt, OSError) as error:
        fail(f"the journal's state cannot be read: {error}")
    if as_json:
        import orjson

        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        _print(found)


def journal_status(directory: Path) -> dict[str, Any]:
    """The journal's size, files, seals and writers.

    Raises:
        JournalCorrupt: Its checkpoints cannot be read.
        OSError: It cannot be read.
    """
    from klaviyo_audit.journal.checkpoint import Checkpoint
    from klaviyo_audit.journal.checkpoints import last_checkpoint
    from klaviyo_audit.journal.folder import WRITERS_NAME
    from klaviyo_audit.journal.locks import is_life_lock, is_locked
    from klaviyo_audit.journal.note import parse_note
    from klaviyo_audit.journal.removals import read_removed
    from klaviyo_audit.sinks.files import journal_files

    files = journal_files(directory)
    note = last_checkpoint(directory)
    writers = directory / WRITERS_NAME
    locks = (
        [path for path in writers.iterdir() if is_life_lock(path.name)]
        if (writers.is_dir())
        else []
    )
    alive = [path.name for path in locks if is_locked(path)]
    return {
        "directory": str(directory.absolute()),
        "files": len(files),
        "rotated": sum(file.number is not None for file in files),
        "bytes": sum(file.path.stat().st_size for file in files),
        "sealed_lines": Checkpoint.from_text(parse_note(note).text).size if note else 0,
        "removed_lines": read_removed(directory).size,
        "writers_alive": len(alive),
        "writers_dead": len(locks) - len(alive),
    }


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from klaviyo_audit.rendering import clean

    journal = found["journal"]
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"journal   {clean(journal['directory'], 500)}"))
    console.print(
        f"          {journal['bytes']:,} bytes in {journal['files']} files, sealed up to line "
        f"{journal['sealed_lines']:,}"
        + (f", {journal['removed_lines']:,} lines removed" if journal["removed_lines"] else "")
    )
    dead = journal["writers_dead"]
    console.print(
        f"writers   {journal['writers_alive']} alive"
        + (f", {dead} died (klaviyo-audit resolve closes what they left open)" if dead else "")
    )
    if not found["sinks"]:
        console.print("sinks     none (setting sinks)")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("sink", "state", "lag", "delivered", "dead", "last acknowledged", "last error"):
        table.add_column(
            title,
            justify="right" if title in ("delivered", "dead") else "left",
            overflow="fold",
        )
    for sink in found["sinks"]:
        lag = f"{sink['lag_entries']:,} entries"
        if sink["lag_entries"]:
            lag += f", {sink['lag_seconds']:,.0f} s"
        overdue = sink["attempts_overdue"]
        table.add_row(
            Text(clean(sink["sink"], 100)),
            Text(clean(str(sink["state"]), 100) + (f" ({overdue} overdue)" if overdue else "")),
            lag,
            f"{sink.get('delivered', 0):,}",
            f"{sink['dead_letters']:,}"
            + (f" + {torn:,} unreadable" if (torn := sink["dead_letters_unreadable"]) else ""),
            Text(clean(str(sink["acknowledged_at"] or "never")[:_SECONDS].replace("T", " "), 100)),
            Text(clean(str(sink["error"] or ""), 200)),
        )
    console.print(table)
