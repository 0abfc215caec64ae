"""The settings of one process: the typed model that code, environment or a TOML file fill.

Importing this module costs tens of milliseconds (pydantic-settings); import it when first used.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings_guard import GuardSettings
from klaviyo_audit.settings_kafka import KafkaSinkSettings
from klaviyo_audit.settings_keys import KeySettings
from klaviyo_audit.settings_klaviyo import KlaviyoSinkSettings
from klaviyo_audit.settings_messages import refusal
from klaviyo_audit.settings_privacy import PrivacySettings
from klaviyo_audit.settings_shipping import ShippingSettings
from klaviyo_audit.settings_sources import (
    ENV_PREFIX,
    FILE_NAME,
    OTHER_VARIABLES,
    PROJECT_FILE_NAME,
    Given,
    from_environment,
    from_file,
    variable,
)
from klaviyo_audit.settings_telemetry import TelemetrySettings
from klaviyo_audit.settings_types import (
    Count,
    DaysOrNone,
    Duration,
    Folder,
    Origin,
    Secret,
    Sinks,
    Size,
    SizeOrNone,
    SizeOrOff,
    Text,
    allowed,
    duration_text,
    size_text,
)
from klaviyo_audit.sinks.filters import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo
    from pydantic.functional_validators import ModelWrapValidatorHandler

__all__ = [
    "ENV_PREFIX",
    "FILE_NAME",
    "MASK",
    "OTHER_VARIABLES",
    "PROJECT_FILE_NAME",
    "Settings",
    "load",
    "reference_table",
]

MASK = "**********"
"""Stands for a secret in `Settings.describe`."""

_CODE = "code"
_DEFAULT = "default"


def _host_name() -> str | None:
    name = socket.gethostname().strip()
    return name if name and name.isprintable() else None


class _JournalSettings(BaseModel):
    """The part of the settings that is about recording."""

    dir: Folder = Field(
        Path("klaviyo-audit"),
        description="Folder of the journal; a relative path starts at the current folder, or at "
        "the folder of the settings file it is in.",
    )
    sinks: Sinks = Field((), description="Where entries are delivered to, beside the journal.")
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
    user_id: Text = Field(
        None, description="Who acts where no `acting_as` says so; not set: service and OS user."
    )
    environment: Text = Field(
        None, description="Deployment the program runs in, for example `production`."
    )
    service: Text = Field(
        None, description="Name of the program; not set: the file name it was started as."
    )
    host: Text = Field(default_factory=_host_name, description="Name of the machine in each entry.")
    signing_key: Secret = Field(None, description="Private Ed25519 key that signs the checkpoints.")
    public_key: Text = Field(
        None, description="Verifier key that checkpoints must be signed with; pins the signer."
    )
    origin: Origin = Field(
        None,
        description="Name of this log in its checkpoints (the origin of C2SP tlog-checkpoint).",
    )
    seal: Literal["background", "external", "off"] = Field(
        "background",
        description="Who seals the journal with signed checkpoints, rotates it and removes old "
        "files: a thread of the program (`background`), `klaviyo-audit seal --follow` beside it "
        "(`external`), or nobody (`off`).",
    )
    seal_interval: Duration = Field(
        1.0, description="Longest time between a line and the checkpoint that covers it."
    )
    seal_lines: Count = Field(
        10_000, description="Number of new lines after which a checkpoint is made earlier."
    )
    rotate_bytes: Size = Field(
        ByteSize(128 * 2**20), description="Size at which the journal file is rotated."
    )
    rotate_age: Duration = Field(86400.0, description="Age at which the journal file is rotated.")
    compress: Literal["zstd", "gzip", "none"] = Field(
        "zstd", description="How rotated files are compressed."
    )
    retain_days: DaysOrNone = Field(
        None, description="Age at which rotated files are removed, in days; not set: never."
    )
    retain_bytes: SizeOrNone = Field(
        None, description="Total size above which the oldest files are removed; not set: never."
    )
    low_space_warn: SizeOrOff = Field(
        ByteSize(512 * 2**20), description="Free space below which a warning is given."
    )
    low_space_stop: SizeOrOff = Field(
        ByteSize(64 * 2**20),
        description="Free space below which calls go on unrecorded or are blocked, as "
        "`on_failure` says; at most `low_space_warn`.",
    )
    reserve_bytes: SizeOrOff = Field(
        ByteSize(64 * 2**10),
        description="Space held back so that the last lines still fit on a full disk.",
    )


class Settings(
    GuardSettings,
    PrivacySettings,
    TelemetrySettings,
    KeySettings,
    KafkaSinkSettings,
    KlaviyoSinkSettings,
    ShippingSettings,
    _JournalSettings,
    BaseSettings,
):
    """The settings in force. Frozen; made by `load`.

    Times are seconds and sizes bytes, whatever unit they were given in, but for `retain_days`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

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
            InitSettingsSource(settings_cls, from_environment(settings_cls.model_fields)),
            InitSettingsSource(settings_cls, from_file()),
        )

    @model_validator(mode="wrap")
    @classmethod
    def _locate(cls, data: Any, handler: ModelWrapValidatorHandler[Settings]) -> Settings:
        given = {
            name: value if isinstance(value, Given) else Given(value, _CODE)
            for name, value in dict(data).items()
        }
        refused = {}
        try:
            settings = handler({name: item.value for name, item in given.items()})
        except ValidationError as error:
            names = (str(detail["loc"][0]) for detail in error.errors())
            refused = {name: given[name] for name in names}
        # Raised out here so that the error does not carry pydantic's, which quotes the values.
        if refused:
            raise refusal(refused, cls.model_fields)
        for name in cls.model_fields:
            settings._sources[name] = given[name].source if name in given else _DEFAULT  # noqa: SLF001  (its own class)
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
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}

    def sealing(self) -> dict[str, Any]:
        """What a sealer of the journal is told, as `klaviyo_audit.journal.sealer.Sealer` has it."""
        names = (
            "seal_interval",
            "seal_lines",
            "rotate_bytes",
            "rotate_age",
            "compress",
            "retain_days",
            "retain_bytes",
            "origin",
            "public_key",
        )
        key = self.signing_key
        return {
            **{name: getattr(self, name) for name in names},
            "signing_key": None if key is None else key.get_secret_value(),
        }

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
    private = {name: Given(None, _CODE) for name in code if name.startswith("_")}
    if private:
        raise refusal(private, Settings.model_fields)
    fields = Settings.model_fields
    return Settings(
        **{n: value for n, value in code.items() if value is not None or n not in fields}
    )


def reference_table() -> str:
    """All settings as the Markdown table of docs/settings.md."""
    rows = [
        "| setting | environment variable | default | allowed | meaning |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| `{name}` | `{variable(name)}` | {_default_words(spec)} | "
        f"{allowed(spec)} | {spec.description} |"
        for name, spec in Settings.model_fields.items()
    ]
    return "\n".join(rows) + "\n"


def _check_watermarks(settings: Settings) -> None:
    warn, stop = settings.low_space_warn, settings.low_space_stop
    if not warn or stop <= warn:
        return
    source = settings.sources
    raise ConfigurationError(
        f"low_space_stop: {size_text(stop)} (from {source['low_space_stop']}) is above "
        f"low_space_warn: {size_text(warn)} (from {source['low_space_warn']}); allowed: at most "
        "low_space_warn, unless that is 0 (off)"
    )


def _default_words(spec: FieldInfo) -> str:
    if spec.default_factory is _host_name:
        return "the machine's name"
    default = None if spec.default_factory else spec.default
    if default is None or default == ():
        return "not set"
    if isinstance(default, ByteSize):
        return f"`{size_text(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{duration_text(default)}`"
    return f"`{default}`"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return os.fsencode(value).decode(errors="backslashreplace")
    if isinstance(value, (tuple, frozenset)):
        return sorted(value) if isinstance(value, frozenset) else list(value)
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in sorted(value.items())}
    if isinstance(value, Filter):
        return {name: _plain(words) for name, words in value.parts().items()}
    return int(value) if isinstance(value, ByteSize) else value
