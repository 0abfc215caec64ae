"""``klaviyo-audit scan``: exposed keys in files and in git history."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from klaviyo_audit.security.scan import Scan


@click.command(short_help="Find exposed Klaviyo keys in files and in git history.")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option("--history", is_flag=True, help="Also everything ever added to the repository.")
@click.option("--staged", is_flag=True, help="Only what the next commit adds or changes.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A baseline of detect-secrets: what it lists is allowed.  "
    "[default: PATH/.secrets.baseline]",
)
@click.option(
    "--update-baseline", is_flag=True, help="Add what is found to the baseline: it is allowed then."
)
@click.option("--verify", is_flag=True, help="Ask Klaviyo whether each find is live (one GET).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option("--host", default="", metavar="URL", help="Another host than Klaviyo's, for tests.")
@click.option("--plugin-path", is_flag=True, help="Print where the detect-secrets plugin is.")
def scan(
    path: Path,
    *,
    history: bool,
    staged: bool,
    baseline: Path | None,
    update_baseline: bool,
    verify: bool,
    form: str,
    output: Path | None,
    host: str,
    plugin_path: bool,
) -> None:
    """Look for private keys, OAuth tokens and webhook secrets in PATH (default: here).

    In a git work tree the tracked files and new ones are looked at, not those that git ignores;
    elsewhere every file. A find is shown masked, with the fingerprint it has in the trail. Lines
    with the comment "pragma: allowlist secret" are passed over, and what the baseline lists.

    Exit code 0: nothing found, 1: something found, 2: something could not be looked at.
    """
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.security import baseline as baselines
    from klaviyo_audit.security import scan as scanning

    if plugin_path:
        click.echo(Path(scanning.__file__).with_name("detect_secrets_plugin.py"))
        return
    if staged and history:
        fail("--staged and --history exclude each other")
    if update_baseline:
        folder = path if path.is_dir() else path.parent
        baseline = baseline or folder / baselines.NAME
        there = baseline if baseline.exists() else None
    else:
        there = baseline or baselines.default_baseline(path)
    try:
        result = scanning.scan(path, history=history, staged=staged, baseline=there)
    except KlaviyoAuditError as error:
        fail(str(error))
    if verify:
        _verify(result, host)
    _show(result, form, output)
    if update_baseline:
        assert baseline is not None
        _allow(result, baseline)
    if result.finds:
        sys.exit(1)
    if result.unread:
        sys.exit(2)


def _show(result: Scan, form: str, output: Path | None) -> None:
    from klaviyo_audit.security import scan_report
    from klaviyo_audit.security.patterns import without_keys

    if form == "json":
        text = scan_report.as_json(result) + "\n"
    elif form == "sarif":
        text = scan_report.as_sarif(result) + "\n"
    else:
        text = _text(result)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            fail(f"--output: {error}")
    for unread, why in result.unread[:20]:
        told = f"{_clean(without_keys(unread))} ({_clean(why)})"
        click.echo(f"klaviyo-audit: not looked at: {told}", err=True)


def _allow(result: Scan, baseline: Path) -> None:
    """Put what was found into the baseline; finds that cannot be there stay finds."""
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.security.baseline import add, allowed_in, hashed

    try:
        added = add(baseline, result.finds)
        known = allowed_in(baseline) if baseline.exists() else {}
    except (KlaviyoAuditError, OSError) as error:
        fail(f"--update-baseline: {error}")
    click.echo(
        f"klaviyo-audit: {added} added to {_clean(str(baseline))}; what it lists is allowed from "
        "now on, so look at each",
        err=True,
    )
    result.finds[:] = [
        find
        for find in result.finds
        if find.secret is None or hashed(find.secret) not in known.get(find.path, ())
    ]


def _verify(result: Scan, host: str) -> None:
    """Ask about each credential once, however often it was found."""
    from dataclasses import replace

    from klaviyo_audit.klaviyo.account import KLAVIYO, check_key
    from klaviyo_audit.security.patterns import Rule

    states: dict[str, str] = {}
    for index, find in enumerate(result.finds):
        if find.secret is None or find.rule not in {Rule.PRIVATE_KEY, Rule.OAUTH_TOKEN}:
            continue  # a webhook's secret cannot be asked about
        if find.secret not in states:
            checked = check_key(
                find.secret, host=host or KLAVIYO, oauth=find.rule is Rule.OAUTH_TOKEN
            )
            states[find.secret] = checked.state.value
        result.finds[index] = replace(find, state=states[find.secret])


def _text(result: Scan) -> str:
    from klaviyo_audit.security.patterns import without_keys
    from klaviyo_audit.security.scan_report import sentence

    lines = []
    for find in result.finds:
        place = find.path if find.line is None else f"{find.path}:{find.line}"
        lines.append(f"{_clean(without_keys(place))}: {_clean(sentence(find))}")
    amount = f"{result.files:,} files, {result.bytes / 1e6:,.1f} MB"
    if result.finds:
        lines.append(
            f"{len(result.finds)} found in {amount}. Take each for known to others: exchange it, "
            "then disable it; taking it out of the files is not enough."
        )
    else:
        lines.append(f"Nothing found in {amount}.")
    if result.allowed:
        lines.append(f"{result.allowed} allowed by comments or the baseline.")
    return "\n".join(lines) + "\n"


def _clean(text: str) -> str:
    from klaviyo_audit.rendering import clean

    return clean(text, 500)
