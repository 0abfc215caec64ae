"""``klaviyo-audit verify``: is the journal what was written?"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from klaviyo_audit.cli.against import kept_checkpoints
from klaviyo_audit.cli.location import fail, journal_argument, locate
from klaviyo_audit.cli.trusted_keys import KEY_HELP, verifiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klaviyo_audit.journal.findings import Finding, Report

DAMAGED: Final = 1
"""Exit code for a journal that was tampered with or damaged."""

_MEGABYTE: Final = 1_000_000
_COLOURS: Final = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(short_help="Check that nothing in the journal was changed or removed.")
@journal_argument
@click.option("--key", metavar="KEY|FILE", help=KEY_HELP)
@click.option(
    "--since",
    type=click.IntRange(min=1),
    metavar="SIZE",
    help="Size of a checkpoint (its second line) up to which the journal was verified before: "
    "earlier lines are only hashed, since nothing else shows that they were not changed since.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Go on from where the last verification with this FILE ended, if it is there, and write "
    "to it where this one ends. Lines before are not read: changes in them do not show. Keep FILE "
    "where nobody writes who could change the journal, and verify all of it now and then.",
)
@click.option(
    "--against",
    metavar="FILE|otlp-export:FILE|klaviyo",
    help="A file of checkpoints (or of one) that was kept elsewhere; what an OpenTelemetry "
    "collector's file exporter wrote of the sink otlp; or those that the sink klaviyo has recorded "
    "at Klaviyo. Shows a tail that was cut off together with its checkpoints.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def verify(
    directory: Path | None,
    *,
    key: str | None,
    since: int | None,
    resume: Path | None,
    against: str | None,
    as_json: bool,
) -> None:
    """Check the journal in DIR (the setting dir, if not given), or the lines of one file of it.

    Lists everything that was found. Exit code 0: intact, 1: tampered with or damaged, 2: could
    not be checked. Without --key or the setting public_key, checkpoints are checked with the key
    beside the journal, which whoever can change the journal can replace.
    """
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.journal.sidefile import replace_file
    from klaviyo_audit.journal.verified import Verified
    from klaviyo_audit.journal.verify import verify as verify_journal

    path = locate(directory)
    _check_options(path, since, resume, against)
    trusted = verifiers(key)
    try:
        begin = Verified.read(resume) if resume else since
        with _progress() as progress:
            report = verify_journal(
                path,
                verifiers=trusted,
                since=begin or 0,
                against=kept_checkpoints(against, path),
                progress=progress,
            )
    except (OSError, LookupError, ConfigurationError) as error:
        if as_json:
            click.echo(_to_json({"error": str(error)}))
        fail(f"the journal could not be checked: {error}")
    code = 0 if report.intact else DAMAGED
    try:
        if as_json:
            click.echo(_to_json(report.to_dict()))
        else:
            _print(path, report)
            if resume and report.intact:
                click.echo(_next_time(resume, report))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; the verdict is still the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if resume and report.verified:
        try:
            replace_file(resume, report.verified.to_bytes(), sync=True)
        except OSError as error:
            fail(f"--resume: where the next verification goes on could not be written: {error}")
    raise SystemExit(code)


def _check_options(path: Path, since: int | None, resume: Path | None, against: str | None) -> None:
    if since and resume:
        raise click.UsageError("--since and --resume both say where to begin: give one of them")
    if not path.is_dir() and (since or resume or against):
        raise click.UsageError(
            "--since, --resume and --against are about checkpoints: name the journal's folder, "
            "not one file of it"
        )
    if resume and resume.resolve().is_relative_to(path.resolve()):
        raise click.UsageError(
            f"--resume: {str(resume)!r} is in the journal's folder, where whoever changes the "
            "journal can change it as well: keep it elsewhere"
        )
    if resume and not resume.parent.is_dir():
        raise click.UsageError(f"--resume: there is no folder {str(resume.parent)!r}")


def _next_time(resume: Path, report: Report) -> str:
    from klaviyo_audit.rendering import clean

    name = clean(str(resume), 1000)
    if report.verified is None:
        why = "a writer's lines are still to come" if report.sealed else "nothing is sealed"
        return f"{name} was left as it was, since {why}"
    return f"{name}: the next verification goes on after line {report.verified.tree.size:,}"


def _print(path: Path, report: Report) -> None:
    from klaviyo_audit.journal.findings import Severity
    from klaviyo_audit.rendering import clean, wants_colour

    colour = wants_colour(sys.stdout)
    for finding in report.findings:
        click.echo(_line(finding), color=colour)
    files = f" in {len(report.files)} files" if len(report.files) > 1 else ""
    sealed = f"{_count(report.sealed, 'line')} sealed" if report.sealed else "nothing is sealed"
    click.echo(
        f"{clean(str(path), 1000)}: {_count(report.entries, 'entry', 'entries')} of "
        f"{_count(report.writers, 'writer')}, {_size(report.bytes)}{files}; {sealed}"
    )
    counts = [
        _count(report.count(severity), severity.value)
        for severity in Severity
        if report.count(severity)
    ]
    verdict = "intact" if report.intact else "tampered with or damaged"
    style = click.style(verdict, fg="green" if report.intact else "red", bold=True)
    if report.skipped:
        style += f" after the first {_count(report.skipped, 'line')}, which were not looked at"
    click.echo(f"{style}{': ' if counts else ''}{', '.join(counts)}", color=colour)


def _line(finding: Finding) -> str:
    from klaviyo_audit.rendering import clean

    severity = click.style(finding.severity.value.ljust(7), fg=_COLOURS[finding.severity.value])
    where = "journal" if finding.file is None else finding.file
    if finding.line is not None:
        where += f" line {finding.line}"
    if finding.offset is not None:
        where += f", byte {finding.offset}"
    if finding.writer is not None:
        where += f", writer {finding.writer}"
        where += "" if finding.n is None else f", number {finding.n}"
        where += "" if finding.last is None else f" to {finding.last}"
    return f"{severity}  {clean(where)}: {finding.kind.value}: {clean(finding.message, 2000)}"


def _size(size: int) -> str:
    if size < _MEGABYTE:
        return f"{size:,} bytes"
    return f"{size / _MEGABYTE:,.1f} MB"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _to_json(value: object) -> str:
    import json

    return json.dumps(value)  # ASCII: safe for a terminal too


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on the terminal, which is gone when the work is done; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
