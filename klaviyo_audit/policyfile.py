"""Reading the policy file: TOML, one table a subject, and a clear word about each mistake."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

VERSION: Final = 1
_TABLES: Final = frozenset({"version", "privacy", "guard"})
_MAX_BYTES: Final = 1_000_000
_SHOWN: Final = 80


def read_table(path: Path, name: str) -> dict[str, Any]:
    """One table of a policy file; empty if it has none of that name.

    Args:
        path: The file.
        name: ``privacy`` or ``guard``.

    Raises:
        ConfigurationError: The file cannot be read, is no TOML, is of another version or has a
            table nobody knows.
    """
    import tomllib  # not in each program's start

    where = source_of(path)
    if path.exists() and not path.is_file():
        # A FIFO would be waited for, and a device read until there is no memory left.
        raise ConfigurationError(f"{where} is no regular file; name one")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            # Of a part, the rules that follow would be missing.
            raise ConfigurationError(f"{where} is longer than {_MAX_BYTES:,} bytes; shorten it")
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where} is no TOML: {error}; correct the file") from None
    refuse_unknown(document, _TABLES, where)
    version = document.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise ConfigurationError(
            f"{where} has version {shown(version)}; this klaviyo-audit reads version {VERSION}"
        )
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where}: {name} is not a table; write [{name}]")
    return table


def source_of(path: Path) -> str:
    """What messages call a policy file."""
    from klaviyo_audit.privacy.text import without_secrets

    return f"policy {without_secrets(str(path))!r}"


def refuse_unknown(table: Mapping[str, Any], names: frozenset[str], where: str) -> None:
    """Refuse a member that is none of these: a misspelt condition would be met by every call.

    Raises:
        ConfigurationError: There is one; the message names the nearest that is known.
    """
    for name in table:
        if name not in names:
            import difflib

            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(names))}"
            raise ConfigurationError(f"{where}: {shown(name)} is not known; {hint}")


def texts(value: Any, where: str) -> Iterator[str]:
    """The items of a condition: one text, or several.

    Raises:
        ConfigurationError: It is neither, or has no item.
    """
    items = [value] if isinstance(value, str) else value
    if (
        not isinstance(items, list | tuple)
        or not items
        or not all(isinstance(one, str) for one in items)
    ):
        raise ConfigurationError(f"{where} is not a text, or a list of texts that is not empty")
    yield from items


def shown(value: Any) -> str:
    """A value as messages quote it, without secrets."""
    from klaviyo_audit.privacy.text import without_secrets

    if not isinstance(value, str | int | float):
        return type(value).__name__
    return without_secrets(repr(value)[: 2 * _SHOWN])[:_SHOWN]


def any_fits(globs: Iterable[str], values: Iterable[str]) -> bool:
    """Whether any of the globs fits any of the values, in any case."""
    return any(_pattern(glob).match(value) for glob in globs for value in values)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob), re.IGNORECASE)
