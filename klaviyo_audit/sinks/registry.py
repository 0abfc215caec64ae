"""Finding sinks by name: built-in ones and those of installed packages, by entry points."""

from __future__ import annotations

import difflib
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError, KlaviyoAuditError
from klaviyo_audit.privacy.text import without_secrets

if TYPE_CHECKING:
    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.base import Sink

GROUP: Final = "klaviyo_audit.sinks"
"""Entry point group: the name of a sink, and a callable that takes `Settings` and makes it."""

EPHEMERAL: Final = frozenset({"console", "memory"})
"""Sinks of this package that keep nothing, have no bookmark, and need no file of the journal."""

_EXTRAS: Final = {"otlp": "otel", "kafka": "kafka"}
"""What to install for a sink of this package that needs more than the package itself."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def known_sinks() -> dict[str, metadata.EntryPoint]:
    """The sinks that are installed, by name. None of them is imported."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def make_sink(name: str, settings: Settings) -> Sink:
    """Make a sink by its name.

    Raises:
        ConfigurationError: There is none of that name, its package cannot be imported, or the
            settings are not enough for it.
    """
    point = find_sink(name)
    try:
        make: Any = point.load()
        sink = make(settings)
    except ImportError as error:
        raise ConfigurationError(_missing(point, error)) from error
    except KlaviyoAuditError:
        raise
    except (Exception, SystemExit) as error:  # code of others, which may raise anything
        raise ConfigurationError(
            f"the sink {name!r} ({point.value}) cannot be made: it raised {type(error).__name__}"
        ) from error
    return checked(sink, f"the sink {name!r} ({point.value})")


def find_sink(name: str) -> metadata.EntryPoint:
    """Find a sink by its name, without importing it.

    Raises:
        ConfigurationError: There is none of that name.
    """
    points = known_sinks()
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigurationError(
            f"there is no sink {without_secrets(name)!r}{hint} The sinks here are: "
            f"{', '.join(sorted(points))} (setting sinks, KLAVIYO_AUDIT_SINKS); a package adds one "
            f"by the entry point group {GROUP}"
        )
    return points[name]


def _missing(point: metadata.EntryPoint, error: ImportError) -> str:
    package = point.dist.name if point.dist else ""
    extra = _EXTRAS.get(point.name) if package == "klaviyo-audit" else None
    if extra is None:
        return f"the sink {point.name!r} ({point.value}) cannot be imported: {error}"
    return (
        f"the sink {point.name!r} needs {error.name or 'a package'}, which is not installed: "
        f"pip install 'klaviyo-audit[{extra}]'"
    )


def checked(sink: Any, what: str) -> Sink:
    """The sink, if it is one.

    Raises:
        ConfigurationError: It lacks what a sink has, or its name cannot name a folder.
    """
    lacks = [name for name in ("deliver", "close") if not callable(getattr(sink, name, None))]
    if lacks or not isinstance(getattr(sink, "name", None), str):
        missing = ", ".join([*lacks, *(() if lacks else ("name",))])
        raise ConfigurationError(
            f"{what} is no sink: it lacks {missing} (klaviyo_audit.sinks.base.Sink says what a "
            "sink has)"
        )
    for limit in ("max_batch_entries", "max_batch_bytes"):
        most = getattr(sink, limit, 1)
        if type(most) is not int or most < 1:
            raise ConfigurationError(
                f"{limit} of {what} is {str(most)[:80]!r}; it has to be a whole number from 1"
            )
    if not _NAME.fullmatch(sink.name):
        raise ConfigurationError(
            f"{what} is called {sink.name[:80]!r}; a sink's name is small letters, digits, - and "
            "_, since a folder is named by it"
        )
    result: Sink = sink
    return result
