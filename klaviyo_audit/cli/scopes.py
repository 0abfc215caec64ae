"""``klaviyo-audit scopes``: the scopes that keys really need."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail, locate

if TYPE_CHECKING:
    from klaviyo_audit.security.code_scopes import CodeScopes, Reference
    from klaviyo_audit.security.keyuse import KeyUse

_MOST_PLACES = 3


@click.command(short_help="Scopes that keys really need, from the trail or from source.")
@click.option(
    "--journal", type=click.Path(path_type=Path), help="The journal's folder.  [default: setting]"
)
@click.option(
    "--code", type=click.Path(path_type=Path), metavar="PATH", help="Read Python source instead."
)
@click.option("--key", "fingerprint", help="Only the key whose fingerprint starts so.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def scopes(journal: Path | None, code: Path | None, fingerprint: str | None, form: str) -> None:
    """Print which scopes each key in the trail was used with, and the fewest a new key needs.

    With --code: which scopes the Python files in PATH need, from the names of the SDK's operations
    in them, so that a key can be made before the first run.

    A key's scopes cannot be changed later. Exit code 0: told; 2: something could not be read.
    """
    if code is not None:
        _from_code(code, form)
        return
    from klaviyo_audit.security.keyuse import key_uses
    from klaviyo_audit.security.trail import members_of

    try:
        found = key_uses(members_of(locate(journal)))
    except OSError as error:
        fail(str(error))
    uses = [
        use
        for use in found.values()
        if use.kind != "public" and use.fingerprint.startswith(fingerprint or "")
    ]
    if not uses:
        fail("no such key is in the trail" if fingerprint else "no private key is in the trail")
    if form == "json":
        click.echo(json.dumps([_facts(use) for use in uses], indent=1))
        return
    for use in uses:
        _print(use)


def _facts(use: KeyUse) -> dict[str, object]:
    from klaviyo_audit.security.scopes import minimal_scopes, refused_scopes

    return {
        "fingerprint": use.fingerprint,
        "labels": sorted(use.labels),
        "used": dict(sorted(use.scopes.items())),
        "refused": refused_scopes([use]),
        "minimal": list(minimal_scopes([use])),
    }


def _print(use: KeyUse) -> None:
    from klaviyo_audit.security.scopes import minimal_scopes, refused_scopes

    click.echo(_clean(f"{use.fingerprint}  {', '.join(sorted(use.labels)) or 'no variable'}"))
    for scope, calls in sorted(use.scopes.items()):
        click.echo(_clean(f"  {calls:>8,}  {scope}"))
    for scope, calls in refused_scopes([use]).items():
        click.echo(_clean(f"  {calls:>8,}  {scope}  refused (403): it lacks this, or should"))
    click.echo(_clean(f"  a new key needs: {' '.join(minimal_scopes([use])) or 'nothing yet'}"))


def _from_code(path: Path, form: str) -> None:
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.security.code_scopes import read_code

    try:
        result = read_code(path)
    except (KlaviyoAuditError, ImportError) as error:
        fail(str(error))
    needed = result.scopes()
    if form == "json":
        click.echo(
            json.dumps(
                {
                    "scopes": {
                        scope: [_place_facts(one) for one in references]
                        for scope, references in needed.items()
                    },
                    "dynamic": [{"path": path, "line": line} for path, line in result.dynamic],
                    "unread": [{"path": path, "why": why} for path, why in result.unread],
                },
                indent=1,
            )
        )
    else:
        _print_code(result, needed)
    for name, why in result.unread[:20]:
        click.echo(f"klaviyo-audit: not read: {_clean(name)} ({_clean(why)})", err=True)
    sys.exit(2 if result.unread else 0)


def _place_facts(reference: Reference) -> dict[str, object]:
    return {
        "operation": reference.operation.name,
        "path": reference.path,
        "line": reference.line,
        "certain": reference.is_certain,
    }


def _print_code(result: CodeScopes, needed: dict[str, list[Reference]]) -> None:
    for scope, references in needed.items():
        click.echo(_clean(scope))
        for one in references[:_MOST_PLACES]:
            doubt = "" if one.is_certain else "  (by its name alone)"
            click.echo(_clean(f"  {one.path}:{one.line}: {one.operation.name}{doubt}"))
        if len(references) > _MOST_PLACES:
            click.echo(f"  and {len(references) - _MOST_PLACES} more")
    for path, line in result.dynamic:
        click.echo(_clean(f"not known before it runs: {path}:{line}"))
    if needed:
        click.echo(_clean(f"a key needs: {' '.join(needed)}"))
    else:
        click.echo(f"no operation of the SDK is named in {result.files} files")


def _clean(text: str) -> str:
    from klaviyo_audit.rendering import clean

    return clean(text, 2000)
