"""The settings of one process: the typed model that code, environment or a TOML file fill.

Importing this module costs tens of milliseconds (pydantic-settings); import it when first used.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import socket
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo
    from pydantic.functional_validators import ModelWrapValidatorHandler

ENV_PREFIX = "KLAVIYO_AUDIT_"
"""What the environment variable of each setting starts with; the rest is its name, upper case."""

FILE_NAME = "klaviyo-audit.toml"
"""Settings file of its own: the settings are top-level keys."""

PROJECT_FILE_NAME = "pyproject.toml"
"""Settings file shared with other tools: the settings are in ``[tool.klaviyo_audit]``."""

OTHER_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "KLAVIYO_AUDIT_KLAVIYO_KEY": "reserved for the key the Klaviyo sink will use",
        "KLAVIYO_AUDIT_LIVE": "the demo reads a real account",
        "KLAVIYO_AUDIT_REQUIRE_PEERS": "a test whose peer is missing fails",
    }
)
"""Variables with the prefix that are no settings, so that they are no errors either."""

MASK = "**********"
"""Stands for a secret in `Settings.describe`."""

_SECTION = "klaviyo_audit"
_CODE = "code"
_DEFAULT = "default"

# ByteSize itself stops reading at the first thing it does not know: "10,000" would be 10 bytes.
# More digits overflow in it.
_SIZE = re.compile(r"\s*\d{1,19}(\.\d{1,9})?\s*([kmgtp]i?)?b?\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SINK_NAME = re.compile(r"[a-z][a-z0-9_-]*")

# A key that was put into the wrong setting must not be repeated in the message about it.
_MAY_BE_KEY = re.compile(r"[A-Za-z0-9_+/=-]{20}")
_LONGEST_SHOWN = 80
_SHOWN_BITS = 128


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What a setting may be, in words, for messages and for the reference page."""

    text: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class _Given:
    """One value on its way into the model, with the place it came from."""

    value: Any = field(repr=False)  # it may be a secret
    source: str


def _not_bool(value: Any) -> Any:
    # To pydantic True is the integer 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004  (pydantic reads ValueError only)
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str) and not _SIZE.fullmatch(value):
        raise ValueError("no size")
    return value.strip() if isinstance(value, str) else _not_bool(value)


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return _not_bool(value)
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError("no duration")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _folder(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    # Neither a shell nor TOML expands "~" here, and a folder of that name helps nobody.
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("no such user") from None
    if not str(value) or any(ord(character) < ord(" ") for character in str(value)):
        raise ValueError("no path")
    return path


def _sink_names(value: Any) -> Any:
    names = value
    if isinstance(value, str):
        names = [name.strip() for name in value.split(",")] if value.strip() else []
    if not isinstance(names, (list, tuple)) or not all(
        isinstance(name, str) and _SINK_NAME.fullmatch(name) for name in names
    ):
        raise ValueError("no sink names")
    if len(set(names)) < len(names):
        raise ValueError("a sink is named twice")
    return names


def _secret(value: SecretStr) -> SecretStr:
    # A variable that is not UTF-8 arrives with surrogates, and encoding them for use would fail
    # with an error that carries the secret.
    try:
        value.get_secret_value().encode()
    except UnicodeEncodeError:
        usable = False
    else:
        usable = True
    if not usable:
        raise ValueError("no text")
    return value


# The upper bounds are what is safe to encode in the journal (64 bits) and to wait for.
_MOST = 2**63 - 1
_CENTURY = 36525.0

_line = StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]+$")
_name = StringConstraints(strip_whitespace=True, pattern=r"^[^\s\p{Cc}+]+$")
_size_words = "bytes, or a number with a unit: KB, MB, GB, TB, KiB, MiB, GiB or TiB"
_finite = Field(gt=0, allow_inf_nan=False)

_Folder = Annotated[Path, BeforeValidator(_folder), _Allowed("a path; `~` is the home folder")]
_Sinks = Annotated[
    tuple[str, ...],
    BeforeValidator(_sink_names),
    _Allowed("sink names (small letters, digits, `-`, `_`), separated by commas, each once"),
]
_Text = Annotated[Annotated[str, _line] | None, _Allowed("one line of text, not empty")]
_Origin = Annotated[
    Annotated[str, _name] | None, _Allowed("a name without spaces and `+`, best a URL less scheme")
]
_Secret = Annotated[
    Annotated[SecretStr, Field(min_length=16), AfterValidator(_secret)] | None,
    _Allowed("a secret of 16 or more characters", secret=True),
]
_Size = Annotated[
    ByteSize, Field(gt=0, le=_MOST), BeforeValidator(_size), _Allowed(f"{_size_words}; above 0")
]
_SizeOrOff = Annotated[
    ByteSize, Field(ge=0, le=_MOST), BeforeValidator(_size), _Allowed(f"{_size_words}; 0 is off")
]
_SizeOrNone = Annotated[_Size | None, _Allowed(f"{_size_words}; above 0")]
_Duration = Annotated[
    float,
    _finite,
    Field(le=_CENTURY * 86400),
    BeforeValidator(_duration),
    _Allowed("seconds, or a number with a unit: ms, s, m, h, d or w; above 0, at most 100 years"),
]
_Count = Annotated[
    int, Field(gt=0, le=_MOST), BeforeValidator(_not_bool), _Allowed("a whole number above 0")
]
_DaysOrNone = Annotated[
    Annotated[float, _finite, Field(le=_CENTURY), BeforeValidator(_not_bool)] | None,
    _Allowed("days, above 0, at most 100 years; parts of a day are allowed"),
]


def _host_name() -> str | None:
    name = socket.gethostname().strip()
    return name if name and name.isprintable() else None


class Settings(BaseSettings):
    """The settings in force. Frozen; made by `load`.

    Times are seconds and sizes bytes, whatever unit they were given in, but for `retain_days`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

    dir: _Folder = Field(
        Path("klaviyo-audit"),
        description="Folder of the journal; a relative path starts at the current folder, or at "
        "the folder of the settings file it is in.",
    )
    sinks: _Sinks = Field((), description="Where entries are delivered to, beside the journal.")
    durability: Literal["flush", "fsync", "async"] = Field(
        "flush",
        description="What a record survives: `flush` a killed process, `fsync` also power loss, "
        "`async` neither, with no input or output on the caller's thread.",
    )
    on_failure: Literal["continue", "block"] = Field(
        "continue",
        description="What happens to a call that cannot be recorded: `continue` lets it go on "
        "and counts the loss, `block` raises `AuditUnavailable` before anything is sent.",
    )
    intents: Literal["writes", "all", "none"] = Field(
        "writes", description="Which calls leave a line before they are sent."
    )
    user_id: _Text = Field(
        None, description="Who acts where no `acting_as` says so; not set: service and OS user."
    )
    environment: _Text = Field(
        None, description="Deployment the program runs in, for example `production`."
    )
    service: _Text = Field(
        None, description="Name of the program; not set: the file name it was started as."
    )
    host: _Text = Field(
        default_factory=_host_name, description="Name of the machine in each entry."
    )
    capture: Literal["none", "metadata", "request", "request_response"] = Field(
        "metadata",
        description="How much of a call is kept, after redaction: `none` its bare facts, "
        "`metadata` also what the caller adds, `request` also its arguments, `request_response` "
        "also the response.",
    )
    pseudonym_key: _Secret = Field(
        None, description="Key of the HMAC that turns personal data into pseudonyms."
    )
    signing_key: _Secret = Field(
        None, description="Private Ed25519 key that signs the checkpoints."
    )
    public_key: _Text = Field(
        None, description="Verifier key that checkpoints must be signed with; pins the signer."
    )
    origin: _Origin = Field(
        None,
        description="Name of this log in its checkpoints (the origin of C2SP tlog-checkpoint).",
    )
    seal: Literal["background", "external", "off"] = Field(
        "background",
        description="Who seals the journal: a thread of the program, `klaviyo-audit seal` beside "
        "it, or nobody.",
    )
    seal_interval: _Duration = Field(
        1.0, description="Longest time between a line and the checkpoint that covers it."
    )
    seal_lines: _Count = Field(
        10_000, description="Number of new lines after which a checkpoint is made earlier."
    )
    rotate_bytes: _Size = Field(
        ByteSize(128 * 2**20), description="Size at which the journal file is rotated."
    )
    rotate_age: _Duration = Field(86400.0, description="Age at which the journal file is rotated.")
    compress: Literal["zstd", "gzip", "none"] = Field(
        "zstd", description="How rotated files are compressed."
    )
    retain_days: _DaysOrNone = Field(
        None, description="Age at which rotated files are removed, in days; not set: never."
    )
    retain_bytes: _SizeOrNone = Field(
        None, description="Total size above which the oldest files are removed; not set: never."
    )
    low_space_warn: _SizeOrOff = Field(
        ByteSize(512 * 2**20), description="Free space below which a warning is given."
    )
    low_space_stop: _SizeOrOff = Field(
        ByteSize(64 * 2**20),
        description="Free space below which calls go on unrecorded or are blocked, as "
        "`on_failure` says; at most `low_space_warn`.",
    )
    reserve_bytes: _SizeOrOff = Field(
        ByteSize(64 * 2**10),
        description="Space held back so that the last lines still fit on a full disk.",
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (ours know where a value is from)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (nothing reads .env files)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (likewise)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The places values come from, the strongest first (called by pydantic-settings)."""
        return (
            init_settings,
            _Layer(settings_cls, _environment()),
            _Layer(settings_cls, _settings_file()),
        )

    @model_validator(mode="wrap")
    @classmethod
    def _locate(cls, data: Any, handler: ModelWrapValidatorHandler[Settings]) -> Settings:
        given = {
            name: value if isinstance(value, _Given) else _Given(value, _CODE)
            for name, value in dict(data).items()
        }
        problems = []
        try:
            settings = handler({name: item.value for name, item in given.items()})
        except ValidationError as error:
            wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
            problems = [_problem(name, given[name]) for name in wrong]
        # Raised out here so that the error does not carry pydantic's, which quotes the values.
        if problems:
            raise _refusal(problems)
        for name in _SETTINGS:
            source = given[name].source if name in given else _DEFAULT
            settings._sources[name] = source  # noqa: SLF001  (its own class)
        _check_watermarks(settings)
        return settings

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value in force came from, by setting.

        ``code``, ``environment variable <NAME>``, ``<file>, key <key>`` or ``default``.
        """
        return MappingProxyType(self._sources)

    def describe(self) -> dict[str, Any]:
        """The values in force as plain JSON types, secrets as `MASK` or None, in model order."""
        return {name: _plain(getattr(self, name)) for name in _SETTINGS}

    def digest(self) -> str:
        """Tell one configuration from another: 16 hexadecimal digits.

        The start of the SHA-256 over `describe` as canonical JSON: of a secret only whether it is
        set counts, so the digest says nothing about its value.
        """
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(**code: Any) -> Settings:
    """Read the settings: code wins over environment, environment over file, file over default.

    Args:
        code: Values the program gives. None means that it gives none.

    Raises:
        ConfigurationError: A name is unknown, a value is not allowed or a file cannot be read.
            The message names setting, source and what is allowed, never the value of a secret.
    """
    # pydantic-settings takes names with an underscore for its own options.
    private = [_problem(name, _Given(None, _CODE)) for name in code if name.startswith("_")]
    if private:
        raise _refusal(private)
    return Settings(
        **{n: value for n, value in code.items() if value is not None or n not in _SETTINGS}
    )


def reference_table() -> str:
    """All settings as the Markdown table of docs/settings.md."""
    rows = [
        "| setting | environment variable | default | allowed | meaning |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| `{name}` | `{ENV_PREFIX}{name.upper()}` | {_default_words(spec)} | "
        f"{_allowed(spec)} | {spec.description} |"
        for name, spec in _SETTINGS.items()
    ]
    return "\n".join(rows) + "\n"


class _Layer(PydanticBaseSettingsSource):
    """The values of one place, for pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], given: dict[str, _Given]) -> None:
        super().__init__(settings_cls)
        self._given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  (the signature is the library's)
        return self._given.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._given)


def _environment() -> dict[str, _Given]:
    names = {f"{ENV_PREFIX}{name.upper()}": name for name in _SETTINGS}
    given = {}
    for variable, value in os.environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in OTHER_VARIABLES:
            continue
        # An unknown one goes in as it is, for the model to refuse it.
        name = names.get(variable, variable)
        given[name] = _Given(
            value if name in _SECRETS else value.strip(),
            f"environment variable {_printable(variable)}",
        )
    return given


def _settings_file() -> dict[str, _Given]:
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


def _located(path: Path, table: dict[str, Any]) -> Iterator[tuple[str, _Given]]:
    prefix = f"tool.{_SECTION}." if path.name == PROJECT_FILE_NAME else ""
    for name, value in table.items():
        source = f"{_printable(str(path))}, key {prefix}{_printable(name)}"
        if name == "dir" and isinstance(value, str) and value and not value.startswith("~"):
            # The trail must not move with the folder the program happens to be started in.
            yield name, _Given(str(path.parent / value), source)
        else:
            yield name, _Given(value, source)


def _read_table(path: Path) -> dict[str, Any] | None:
    """The settings in a file, or None if it has none."""
    where = _printable(str(path))
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


def _refusal(problems: list[str]) -> ConfigurationError:
    if len(problems) == 1:
        return ConfigurationError(problems[0])
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigurationError(f"{len(problems)} settings are wrong:{lines}")


def _problem(name: str, given: _Given) -> str:
    """Why one value was refused, for a person."""
    spec = _SETTINGS.get(name)
    if spec is None:
        return _unknown(name, given.source)
    shown = "the value (a secret, not shown)" if name in _SECRETS else _shown(given.value)
    text = given.value.lower() if isinstance(given.value, str) else ""
    near = difflib.get_close_matches(text, _choices(spec), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    allowed = _allowed(spec).replace("`", "")
    return f"{name}: {shown} is not allowed (from {given.source}); allowed: {allowed}{hint}"


def _unknown(name: str, source: str) -> str:
    plain = name.removeprefix(ENV_PREFIX).lower()
    near = difflib.get_close_matches(plain, _SETTINGS, n=1)
    if near:
        meant = f"{ENV_PREFIX}{near[0].upper()}" if name.startswith(ENV_PREFIX) else near[0]
        hint = f"did you mean {meant}?"
    else:
        hint = f"the settings are {', '.join(sorted(_SETTINGS))}"
    return f"{_printable(name)} is not a setting (from {source}); {hint}"


def _check_watermarks(settings: Settings) -> None:
    warn, stop = settings.low_space_warn, settings.low_space_stop
    if not warn or stop <= warn:
        return
    source = settings.sources
    raise ConfigurationError(
        f"low_space_stop: {_size_text(stop)} (from {source['low_space_stop']}) is above "
        f"low_space_warn: {_size_text(warn)} (from {source['low_space_warn']}); allowed: at most "
        "low_space_warn, unless that is 0 (off)"
    )


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _shown(value: Any) -> str:
    """A value as a message may repeat it: short, on one line, and no key by mistake."""
    if type(value) in (list, tuple) and all(type(item) is str for item in value):
        text = repr(list(value))
    elif type(value) is str:
        text = repr(value)
    elif type(value) in (bool, float) or (type(value) is int and value.bit_length() < _SHOWN_BITS):
        return repr(value)
    else:
        return f"a value of type {type(value).__name__}"
    if len(text) > _LONGEST_SHOWN or _MAY_BE_KEY.search(text):
        return "the value (not shown: it is long, or may be a key)"
    return text


def _choices(spec: FieldInfo) -> tuple[str, ...]:
    return get_args(spec.annotation) if get_origin(spec.annotation) is Literal else ()


def _allowed(spec: FieldInfo) -> str:
    if choices := [f"`{choice}`" for choice in _choices(spec)]:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    return _words(spec).text


def _words(spec: FieldInfo) -> _Allowed:
    return next((item for item in spec.metadata if isinstance(item, _Allowed)), _Allowed(""))


def _default_words(spec: FieldInfo) -> str:
    if spec.default_factory is not None:
        return "the machine's name"
    default = spec.default
    if default is None or default == ():
        return "not set"
    if isinstance(default, ByteSize):
        return f"`{_size_text(default)}`"
    if isinstance(default, float):
        return f"`{_duration_text(default)}`"
    return f"`{default}`"


def _size_text(size: int) -> str:
    for unit, factor in _UNITS:
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def _duration_text(seconds: float) -> str:
    unit = max((u for u in _SECONDS if seconds % _SECONDS[u] == 0), key=lambda u: _SECONDS[u])
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return os.fsencode(value).decode(errors="backslashreplace")
    if isinstance(value, tuple):
        return list(value)
    return int(value) if isinstance(value, ByteSize) else value


_SETTINGS: Mapping[str, FieldInfo] = MappingProxyType(Settings.model_fields)
_SECRETS = frozenset(name for name, spec in _SETTINGS.items() if _words(spec).secret)
