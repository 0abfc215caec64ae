"""``klaviyo-audit tail``: the end of the trail, for people."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.journal.line import Line

_POLL_SECONDS: Final = 0.2


@click.command(short_help="Show the latest entries, and follow them.")
@journal_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as entries are added.")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many entries to begin with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they are: JSON.")
@click.option("--intents", is_flag=True, help="Also show calls that were about to be sent.")
@click.option("--all", "everything", is_flag=True, help="Also show lines about the journal itself.")
def tail(
    directory: Path | None,
    *,
    follow: bool,
    count: int,
    as_json: bool,
    intents: bool,
    everything: bool,
) -> None:
    """Show the latest entries of the journal in DIR (the setting dir, if not given).

    One line each: when, who, what, on what, result, how long, why.
    """
    from klaviyo_audit.journal.folder import JOURNAL_NAME

    path = locate(directory)
    if path.is_dir():
        path /= JOURNAL_NAME
    wanted = _filter(intents=intents, everything=everything)
    show = _print_json if as_json else _printer()
    try:
        _tail(path, count, wanted, show, follow=follow)
        sys.stdout.flush()
    except FileNotFoundError:
        fail(f"there is no journal yet: {str(path.absolute())!r} does not exist (-f waits for it)")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"the journal cannot be read: {error}")
    except KeyboardInterrupt:
        pass  # that is how one ends it


def _tail(
    path: Path,
    count: int,
    wanted: Callable[[Line], bool],
    show: Callable[[Line | str], None],
    *,
    follow: bool,
) -> None:
    from klaviyo_audit.journal.follow import follow as follow_file
    from klaviyo_audit.journal.follow import last_lines

    offset = 0
    if path.exists() or not follow:
        lines, offset = last_lines(path, count, wanted)
        for line in lines:
            show(line)
    if follow:
        for item in follow_file(path, offset=offset, idle=_idle):
            if isinstance(item, str) or wanted(item):
                show(item)


def _idle() -> bool:
    """Wait a moment; False if nobody reads what is printed any more."""
    sys.stdout.flush()
    poll = select.poll()
    # Asked for nothing, it reports errors and hang-ups only; so this is the pause as well.
    poll.register(sys.stdout.fileno(), 0)
    events = poll.poll(_POLL_SECONDS * 1000)
    if not events:
        return True
    if events[0][1] & (select.POLLERR | select.POLLHUP):
        return False
    time.sleep(_POLL_SECONDS)  # a kind of file that cannot be polled
    return True


def _filter(*, intents: bool, everything: bool) -> Callable[[Line], bool]:
    """Which lines to show; damage always."""
    from klaviyo_audit.entry import Phase, Result

    phases = {Phase.OUTCOME, Phase.EVENT, Phase.GAP}
    if intents:
        phases.add(Phase.INTENT)

    def wanted(line: Line) -> bool:
        if everything or line.members is None:
            return True
        return line.members["phase"] in phases or line.members.get("result") == Result.DENIED

    return wanted


def _printer() -> Callable[[Line | str], None]:
    from pydantic import ValidationError

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.journal.damages import describe
    from klaviyo_audit.rendering import clean, printer, wants_colour

    show_entry = printer(sys.stdout)
    colour = wants_colour(sys.stdout)

    def show(line: Line | str) -> None:
        if isinstance(line, str):
            click.secho(f"-- {line}", dim=True, color=colour)
            return
        if line.problem is not None:
            what = f"!! byte {line.offset}: {describe(line)}; see klaviyo-audit verify"
            click.secho(what, fg="red", color=colour)
        if line.members is None:
            return
        try:
            show_entry(AuditEntry.from_dict(line.members))
        except ValidationError:
            what = f"!! byte {line.offset}: an entry that is not as the schema says"
            click.secho(f"{what}: {clean(line.raw.decode(), 1000)}", fg="red", color=colour)

    return show


def _print_json(line: Line | str) -> None:
    from klaviyo_audit.journal.damages import describe

    if isinstance(line, str):
        click.echo(f"-- {line}", err=True)
    elif line.members is None:
        click.echo(f"!! byte {line.offset}: {describe(line)}; see klaviyo-audit verify", err=True)
    elif sys.stdout.isatty():
        import json

        # Escaped, since a terminal would obey what stands in the texts.
        click.echo(json.dumps(line.members, separators=(",", ":")))
    else:
        click.echo(line.raw)
