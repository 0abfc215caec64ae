"""``klaviyo-audit check``: the security checklist, on a project and this machine."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from klaviyo_audit.security.checklist import Result
    from klaviyo_audit.security.checks.project import Project

_COLOURS: Final = {"pass": "green", "warn": "yellow", "fail": "red", "not checked": "cyan"}
_OUTPUT: Final = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Check a project and its trail against the security checklist.")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option(
    "--journal", type=click.Path(path_type=Path), help="The journal's folder.  [default: setting]"
)
@click.option("--history", is_flag=True, help="Also look for keys in git's history.")
@click.option(
    "--no-trail", is_flag=True, help="Only look at the project's files, as on a CI machine."
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--junit", type=_OUTPUT, metavar="FILE", help="Also write JUnit's XML.")
@click.option("--sarif", type=_OUTPUT, metavar="FILE", help="Also write SARIF 2.1.0.")
def check(
    path: Path,
    *,
    journal: Path | None,
    history: bool,
    no_trail: bool,
    strict: bool,
    as_json: bool,
    junit: Path | None,
    sarif: Path | None,
) -> None:
    """Check the project in PATH (default: here), its settings, and the trail it leaves here.

    The settings are those of the environment and of the settings file in PATH. Nothing is sent and
    nothing is changed. A credential is shown masked.

    Exit code 0: nothing failed, 1: something did (with --strict: or is warned of), 2: the checks
    could not be run. What could not be checked says so, and is no failure.
    """
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.security import checklist_report
    from klaviyo_audit.security.checklist import CHECKS, is_passed, run_checks
    from klaviyo_audit.security.checks.project import Project
    from klaviyo_audit.settings import load

    if not path.is_dir():
        fail(f"{str(path)!r} is no folder; name the project's")
    if no_trail and journal is not None:
        fail("--no-trail and --journal exclude each other")
    checks = tuple(one for one in CHECKS if one.of_source or not no_trail)
    journal = journal.absolute() if journal is not None else None
    files = {"--junit": junit, "--sarif": sarif}
    wanted = {option: file.absolute() for option, file in files.items() if file is not None}
    try:
        # The settings file is looked for from the current folder upwards.
        with contextlib.chdir(path):
            project = Project(Path.cwd(), load(dir=journal), history=history)
            results = run_checks(project, checks)
    except (KlaviyoAuditError, OSError) as error:
        fail(f"the checks cannot be run: {error}")
    if junit is not None:
        text = checklist_report.as_junit(results, strict=strict)
        _write("--junit", wanted["--junit"], text)
    if sarif is not None:
        text = checklist_report.as_sarif(results, settings_file=_settings_file(project))
        _write("--sarif", wanted["--sarif"], text)
    if as_json:
        click.echo(checklist_report.as_json(results, strict=strict))
    else:
        _print(results, project)
    sys.exit(0 if is_passed(results, strict=strict) else 1)


def _write(option: str, file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{option}: {error}")


def _settings_file(project: Project) -> str:
    from klaviyo_audit.settings import FILE_NAME, PROJECT_FILE_NAME

    there = [one for one in (FILE_NAME, PROJECT_FILE_NAME) if (project.path / one).is_file()]
    return there[0] if there else PROJECT_FILE_NAME


def _print(results: Sequence[Result], project: Project) -> None:
    from klaviyo_audit.rendering import clean, wants_colour
    from klaviyo_audit.security.checklist_report import count
    from klaviyo_audit.security.checks.outcome import Status

    if wants_colour(sys.stdout):
        _print_table(results)
    else:
        for result in results:
            outcome = result.outcome
            evidence = clean(outcome.evidence, 2000)
            click.echo(f"{outcome.status.value:<11}  {result.check.id}: {evidence}")
            if outcome.remedy:
                click.echo(f"{'':<11}  -> {clean(outcome.remedy, 2000)}")
    counts = ", ".join(f"{count(results, one)} {one.value}" for one in Status)
    click.echo(clean(f"{project.path}: {counts}", 1000))


def _print_table(results: Sequence[Result]) -> None:
    from rich.table import Table
    from rich.text import Text

    from klaviyo_audit.rendering import clean

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "check", "evidence, and what to do"):
        table.add_column(title, no_wrap=title != "evidence, and what to do", overflow="fold")
    for result in results:
        outcome = result.outcome
        words = Text(clean(outcome.evidence, 2000))
        if outcome.remedy:
            words.append(f"\n-> {clean(outcome.remedy, 2000)}", style="dim")
        status = outcome.status.value
        table.add_row(Text(status, style=_COLOURS[status]), Text(result.check.title), words)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)
