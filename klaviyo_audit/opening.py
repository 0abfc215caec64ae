"""What a writer says of itself: its first line, and where its entries come from."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING, Any

from klaviyo_audit._version import __version__

if TYPE_CHECKING:
    from klaviyo_audit.guard import Guard
    from klaviyo_audit.privacy.gate import Gate
    from klaviyo_audit.settings import Settings


def origin_facts(settings: Settings, gate: Gate) -> dict[str, str | None]:
    """Service, environment and host, for the entries' ``origin``."""
    facts = {
        "service": settings.service or program_name(),
        "environment": settings.environment,
        "host": settings.host,
    }
    return {name: value and gate.setting(value) for name, value in facts.items()}


def program_name() -> str:
    """The name of the running script."""
    return os.path.basename(sys.argv[0] if sys.argv else "") or "python"  # noqa: PTH119


def system_user() -> str:
    """The operating system's user; the number of one without a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # as in a container
        return str(os.getuid())


def opening_facts(settings: Settings, gate: Gate, guard: Guard | None) -> dict[str, Any]:
    """Versions, and digests of what is in force, for the ``metadata`` of a first line."""
    from klaviyo_audit.launch import run_id

    facts: dict[str, Any] = {
        "versions": _versions(),
        "settings": settings.digest(),
        "privacy": gate.describe(),
    }
    if guard is not None:
        facts["guard"] = guard.describe()
    run = run_id()
    return facts if run is None else facts | {"run": run[:32]}


def _versions() -> dict[str, str]:
    from importlib import metadata  # it imports the e-mail package, so not before it is needed

    names = ("klaviyo-api", "wrapt", "orjson")
    found = {"klaviyo-audit": __version__, "python": sys.version.partition(" ")[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
