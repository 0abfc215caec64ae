"""The one typed model of all settings, and where its values come from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ByteSize, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings.guard import GuardSettings
from klaviyo_audit.settings.journal import JournalSettings
from klaviyo_audit.settings.kafka import KafkaSinkSettings
from klaviyo_audit.settings.keys import KeySettings
from klaviyo_audit.settings.klaviyo import KlaviyoSinkSettings
from klaviyo_audit.settings.messages import is_misplaced, refusal
from klaviyo_audit.settings.privacy import PrivacySettings
from klaviyo_audit.settings.shipping import ShippingSettings
from klaviyo_audit.settings.sources import Given, from_environment, from_file
from klaviyo_audit.settings.telemetry import TelemetrySettings
from klaviyo_audit.settings.values import size_text
from klaviyo_audit.sinks.filters import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.functional_validators import ModelWrapValidatorHandler

MASK = "**********"
"""Stands for a secret in `Settings.describe`."""

_CODE = "code"
_DEFAULT = "default"


class Settings(
    GuardSettings,
    PrivacySettings,
    TelemetrySettings,
    KeySettings,
    KafkaSinkSettings,
    KlaviyoSinkSettings,
    ShippingSettings,
    JournalSettings,
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
        specs = cls.model_fields
        refused = {
            name: item
            for name, item in given.items()
            if name in specs and is_misplaced(item.value, specs[name])
        }
        try:
            settings = handler({name: item.value for name, item in given.items()})
        except ValidationError as error:
            names = (str(detail["loc"][0]) for detail in error.errors())
            refused |= {name: given[name] for name in names}
        # Raised out here so that the error does not carry pydantic's, which quotes the values.
        if refused:
            raise refusal(refused, specs)
        for name in specs:
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
