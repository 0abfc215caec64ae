"""Making the guard that code, settings and policy file ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.guard.policy import Guard
from klaviyo_audit.policyfile import read_table, shown, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.settings import Settings

_OFF: Final = "off"
_SETTINGS: Final = (
    ("guard", "preset"),
    ("guard_mode", "mode"),
    ("require_actor", "require_actor"),
    ("require_reason", "require_reason"),
)
_DEFAULT: Final = "default"


def make_guard(settings: Settings, given: Guard | Mapping[str, Any] | None = None) -> Guard | None:
    """The guard of one configuration; None if there is none.

    What code gives counts alone. Else the table ``[guard]`` of the policy file does, with the
    settings, where they are given, in place of its members.

    Raises:
        ConfigurationError: Something in it is not understood.
    """
    guard = read_guard(settings, given)
    if guard is not None:
        guard.rules_in(settings.environment)  # a preset that is not there is told here
    return guard


def read_guard(settings: Settings, given: Guard | Mapping[str, Any] | None = None) -> Guard | None:
    """As `make_guard`, whether or not there are rules for the setting ``environment``."""
    if isinstance(given, Guard):
        return given
    if given is not None:
        if not hasattr(given, "keys"):
            raise ConfigurationError(
                f"guard is {shown(given)} (from code); give a preset's name, a mapping or a Guard"
            )
        return Guard.from_mapping(given, "code")
    set_here = {
        member: getattr(settings, name)
        for name, member in _SETTINGS
        if settings.sources[name] != _DEFAULT
    }
    if set_here.get("preset") == _OFF:
        return None
    table = {} if settings.policy is None else read_table(settings.policy, "guard")
    if table:
        assert settings.policy is not None
        return Guard.from_mapping({**table, **set_here}, source_of(settings.policy))
    asked = {"require_actor", "require_reason"} & set_here.keys()
    if "preset" not in set_here:
        if all(set_here[name] == _OFF for name in asked):
            return None
        return Guard.from_mapping(
            {**set_here, "default": "allow", "unknown": "allow"}, "settings require_*"
        )
    return Guard.from_mapping(set_here, settings.sources["guard"])
