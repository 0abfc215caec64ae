"""Where the journal is that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Callable

CANNOT_CHECK = 2
"""Exit code when a command could not do its work at all."""


def journal_argument(function: Callable[..., None]) -> Callable[..., None]:
    """Add the argument DIR to a command, as ``directory``: a `Path`, or None."""
    argument = click.argument(
        "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path)
    )
    return argument(function)


def locate(given: Path | None) -> Path:
    """The journal's folder, or one file of it: as given, else as the settings say.

    Exits with `CANNOT_CHECK`, saying what was tried, when it is not there.
    """
    path, source = (given, "given as DIR") if given is not None else _from_settings()
    if not path.exists():
        fail(
            f"there is no journal at {str(path.absolute())!r} ({source}). Name the folder: "
            "klaviyo-audit COMMAND DIR, or set KLAVIYO_AUDIT_DIR."
        )
    return path


def fail(message: str) -> NoReturn:
    """Print what went wrong, without secrets, and exit with `CANNOT_CHECK`."""
    from klaviyo_audit.privacy.text import without_secrets
    from klaviyo_audit.rendering import clean

    # A key that was typed where its variable's name belongs would end up in the log of a CI job.
    click.echo(f"klaviyo-audit: {clean(without_secrets(message), 2000)}", err=True)
    raise SystemExit(CANNOT_CHECK)


def _from_settings() -> tuple[Path, str]:
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.settings import load

    try:
        settings = load()
    except ConfigurationError as error:
        fail(str(error))
    return settings.dir, f"setting dir, from {settings.sources['dir']}"
