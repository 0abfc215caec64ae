"""The places outside of code that settings are read from: the environment or one TOML file."""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings.values import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

ENV_PREFIX = "KLAVIYO_AUDIT_"
"""What the environment variable of each setting starts with; the rest is its name, upper case."""

FILE_NAME = "klaviyo-audit.toml"
"""Settings file of its own: the settings are top-level keys."""

PROJECT_FILE_NAME = "pyproject.toml"
"""Settings file shared with other tools: the settings are in ``[tool.klaviyo_audit]``."""

OTHER_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "KLAVIYO_AUDIT_LIVE": "the demo reads a real account",
        "KLAVIYO_AUDIT_RUN": "set by `klaviyo-audit run` for the processes it starts",
        "KLAVIYO_AUDIT_REQUIRE_PEERS": "a test whose peer is missing fails",
    }
)
"""Variables with the prefix that are no settings, so that they are no errors either."""

PATHS = frozenset({"dir", "policy", "pseudonym_key_file"})
"""Settings that are paths: in a file a relative one starts at the file's folder."""

_SECTION = "klaviyo_audit"


@dataclass(frozen=True, slots=True)
class Given:
    """One value on its way into the model, with the place it came from."""

    value: Any = field(repr=False)  # it may be a secret
    source: str


def variable(name: str) -> str:
    """The environment variable of the setting `name`."""
    return f"{ENV_PREFIX}{name.upper()}"


def printable(text: str) -> str:
    """`text` on one line, whatever it holds."""
    return text if text.isprintable() else ascii(text)


def from_environment(specs: Mapping[str, FieldInfo]) -> dict[str, Given]:
    """What the environment variables give; an unknown one by its own name, to be refused."""
    names = {variable(name): name for name in specs}
    given = {}
    for key, value in os.environ.items():
        if not key.startswith(ENV_PREFIX) or key in OTHER_VARIABLES:
            continue
        name = names.get(key, key)
        keep = name in specs and is_secret(specs[name])
        given[name] = Given(
            value if keep else value.strip(), f"environment variable {printable(key)}"
        )
    return given


def from_file() -> dict[str, Given]:
    """What the nearest settings file gives, from the current folder upwards.

    Raises:
        ConfigurationError: A file on the way cannot be read.
    """
    try:
        start = Path.cwd()
    except FileNotFoundError:  # the current folder was deleted
        return {}
    for folder in (start, *start.parents):
        for name in (FILE_NAME, PROJECT_FILE_NAME):
            path = folder / name
            if (table := _read_table(path)) is not None:
                return dict(_located(path, table))
        if os.path.lexists(folder / ".git"):
            break
    return {}


def _located(path: Path, table: dict[str, Any]) -> Iterator[tuple[str, Given]]:
    prefix = f"tool.{_SECTION}." if path.name == PROJECT_FILE_NAME else ""
    for name, value in table.items():
        source = f"{printable(str(path))}, key {prefix}{printable(name)}"
        if name in PATHS and isinstance(value, str) and value and not value.startswith("~"):
            # The trail must not move with the folder the program happens to be started in.
            yield name, Given(str(path.parent / value), source)
        else:
            yield name, Given(value, source)


def _read_table(path: Path) -> dict[str, Any] | None:
    """The settings in a file, or None if it has none."""
    where = printable(str(path))
    try:
        if not _is_trusted_file(path):
            return None
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {where}: {error.strerror}; let the program read it, or start the "
            "program in another folder"
        ) from None
    shared = path.name == PROJECT_FILE_NAME
    if shared and _SECTION.encode() not in content:
        return None  # another tool's file, and not ours to complain about
    try:
        table = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        fault = f"not UTF-8 (at line {line})"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    else:
        return _section(table, where) if shared else table
    # Raised out here because TOMLDecodeError carries the whole document in Python 3.14.
    raise ConfigurationError(f"cannot read {where}: {fault}; correct the file")


def _is_trusted_file(path: Path) -> bool:
    """Whether `path` is a file, and not one that anyone could have put into a shared folder."""
    file = path.stat()
    folder = path.parent.stat().st_mode
    if folder & stat.S_ISVTX and folder & stat.S_IWOTH:  # like /tmp
        return {file.st_uid, path.lstat().st_uid} <= {0, os.geteuid()}
    return stat.S_ISREG(file.st_mode)


def _section(document: dict[str, Any], where: str) -> dict[str, Any] | None:
    tool = document.get("tool")
    section = tool.get(_SECTION) if isinstance(tool, dict) else None
    if section is None or isinstance(section, dict):
        return section
    raise ConfigurationError(
        f"tool.{_SECTION} is not a table (from {where}); write the settings under [tool.{_SECTION}]"
    )
