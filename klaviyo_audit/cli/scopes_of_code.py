"""``klaviyo-audit scopes --code``: the scopes that a program's source needs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.security.code_scopes import CodeScopes, Reference

_MOST_PLACES = 3


def from_code(path: Path, form: str) -> None:
    """Print the scopes that the Python files below a path need; exits."""
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
