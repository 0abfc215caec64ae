"""``klaviyo-audit run``: audit a program that is not changed for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from klaviyo_audit.analysis.runs import RunSummary

NOT_FOUND: Final = 127
"""Exit code when there is no such program, as the shell has it."""
NOT_STARTED: Final = 126
"""Exit code when the program cannot be started."""


@click.command(
    short_help="Run a program, and record its calls to Klaviyo.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Folder of the journal (the setting dir, if not given).",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing at the end.")
@click.argument(
    "command", metavar="-- COMMAND [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED
)
def run(directory: Path | None, command: tuple[str, ...], *, quiet: bool) -> None:
    """Run COMMAND, with every call to Klaviyo recorded that its Python processes make.

    \b
    klaviyo-audit run -- python app.py
    klaviyo-audit run -- gunicorn -w 4 shop:app

    The program needs no change; klaviyo-audit has to be installed for the Python it runs on. Its
    exit code and signals are passed through. At the end one line on standard error says how many
    calls were recorded, and where.
    """  # noqa: D301  (click takes \\b for "leave these lines as they are")
    from klaviyo_audit import launch
    from klaviyo_audit.analysis import runs
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.privacy import notice
    from klaviyo_audit.privacy.assembly import make_gate
    from klaviyo_audit.settings import load

    try:
        settings = load(dir=directory)
        gate = make_gate(settings)
    except ConfigurationError as error:
        fail(str(error))
    journal = settings.dir.absolute()
    before = runs.mark(journal)
    run, env = launch.environment(journal, settings.on_failure)
    try:
        status = launch.start_and_wait(command, env)
    except FileNotFoundError:
        _fail(f"there is no program {command[0]!r}", NOT_FOUND)
    except OSError as error:
        _fail(f"{command[0]!r} cannot be started: {error.strerror}", NOT_STARTED)
    if not quiet:
        try:
            found = runs.summary(journal, run, before)
            _tell(journal, found)
            if found.calls and notice.is_due(gate):
                _say(notice.NO_KEY)
        except OSError as error:
            _say(f"the journal in {journal} cannot be read: {error}")
    launch.end_like(status)


def _tell(journal: Path, found: RunSummary) -> None:
    if not found.writers:
        _say(
            "no call to Klaviyo was recorded: no Python process of this program has used Klaviyo's "
            "SDK (or it ignores PYTHONPATH: python -I, -E or -S)"
        )
        return
    parts = [f"{count:,} {result}" for result, count in sorted(found.results.items())]
    calls = _count(found.calls, "call")
    detail = f" ({', '.join(parts)})" if parts else ""
    by = _count(found.writers, "process", "processes")
    lost = f"; {_count(found.lost, 'entry', 'entries')} could NOT be recorded" * bool(found.lost)
    _say(f"{calls} recorded{detail} by {by} in {journal}{lost}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _say(message: str) -> None:
    from klaviyo_audit.rendering import clean

    click.echo(f"klaviyo-audit: {clean(message, 2000)}", err=True)


def _fail(message: str, code: int) -> None:
    _say(message)
    raise SystemExit(code)
