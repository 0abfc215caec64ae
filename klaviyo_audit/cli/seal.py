"""``klaviyo-audit seal``: commit to what is in the journal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate
from klaviyo_audit.cli.stopping import stop_by_signal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klaviyo_audit.journal.sealer import Sealer


@click.command(short_help="Seal the journal with signed checkpoints.")
@journal_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until SIGINT or SIGTERM.")
def seal(directory: Path | None, *, follow: bool) -> None:
    """Seal what is in the journal in DIR (the setting dir, if not given), and rotate it if due.

    With --follow this is the sealer beside programs whose setting seal is external. What the
    settings for rotation, compression and retention ask for is done too; files that a sink of the
    settings has not got whole are not removed.
    """
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.journal.sealer import Sealer
    from klaviyo_audit.settings import load
    from klaviyo_audit.sinks.lag import needed_from

    path = locate(directory)
    if not path.is_dir():
        fail(f"{str(path)!r} is not a journal's folder")
    errors: list[Exception] = []
    try:
        settings = load()
        sealer = Sealer(
            path,
            **settings.sealing(),
            announce=partial(_announce, path),
            needed_from=partial(needed_from, path, settings.sinks),
            on_error=_told if follow else errors.append,
            pause=0,
        )
    except ConfigurationError as error:
        fail(str(error))
    if follow:
        _follow(sealer)
    else:
        _once(sealer, path, errors)


def _announce(path: Path, action: str, facts: Mapping[str, Any]) -> None:
    """Say in the journal what is about to be removed, as a writer of its own."""
    from klaviyo_audit.auditor import Auditor

    with Auditor(
        journal=path, sinks=(), seal="off", service="klaviyo-audit", on_failure="block"
    ) as auditor:
        auditor.recorder.about_journal(action, facts)


def _told(error: Exception) -> None:
    from klaviyo_audit.rendering import clean

    click.echo(f"klaviyo-audit: not sealed: {clean(str(error), 2000)}", err=True)


def _once(sealer: Sealer, path: Path, errors: list[Exception]) -> None:
    from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
    from klaviyo_audit.journal.checkpoints import sealed_size

    try:
        before = sealed_size(path)
        mine = _work(sealer)
        sealer.close(float("inf"))
        after = sealed_size(path)
    except JournalCorrupt as error:
        errors.append(error)
    except (ConfigurationError, OSError) as error:
        fail(f"the journal could not be sealed: {error}")
    if errors:
        _told(errors[0])
        raise SystemExit(1 if isinstance(errors[0], JournalCorrupt) else 2)
    if not mine:
        fail("another process is the journal's sealer at the moment; it seals what is written")
    click.echo(f"sealed {after - before:,} more lines: {after:,} in all")


def _work(sealer: Sealer) -> bool:
    """Do all that is due; whether this is the journal's sealer."""
    while sealer.step():
        pass
    return sealer.is_sealing


def _follow(sealer: Sealer) -> None:
    sealer.run(stop_by_signal())
