"""What a person is told about settings that were refused, with no secret in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings.sources import ENV_PREFIX, Given, printable, variable
from klaviyo_audit.settings.values import allowed, choices, is_secret

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

# A key that was put into the wrong setting must not be repeated in the message about it.
_MAY_BE_KEY = re.compile(r"[A-Za-z0-9_+/=-]{20}")
_LONGEST_SHOWN = 80
_SHOWN_BITS = 128


def refusal(refused: Mapping[str, Given], specs: Mapping[str, FieldInfo]) -> ConfigurationError:
    """One error about all `refused` values, by setting; `specs` are all settings there are."""
    problems = [
        _wrong(name, given, specs[name]) if name in specs else _unknown(name, given.source, specs)
        for name, given in refused.items()
    ]
    if len(problems) == 1:
        return ConfigurationError(problems[0])
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigurationError(f"{len(problems)} settings are wrong:{lines}")


def is_misplaced(value: Any, spec: FieldInfo) -> bool:
    """Whether a credential was given where none belongs: it would name a folder, or a log."""
    from klaviyo_audit.privacy.secrets import is_credential

    if is_secret(spec):
        return False
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        members = [*value, *value.values()] if isinstance(value, Mapping) else value
        return any(is_misplaced(member, spec) for member in members)
    return isinstance(value, (str, PurePath)) and is_credential(str(value))


def _wrong(name: str, given: Given, spec: FieldInfo) -> str:
    if is_misplaced(given.value, spec):
        return (
            f"{name}: the value (not shown: it has a credential in it) is not allowed (from "
            f"{given.source}); allowed: {_words(spec)}. A key belongs into no setting but that of "
            "keys; exchange one that was put into a file or a log this way"
        )
    shown = "the value (a secret, not shown)" if is_secret(spec) else _shown(given.value)
    text = given.value.lower() if isinstance(given.value, str) else ""
    near = difflib.get_close_matches(text, choices(spec), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name}: {shown} is not allowed (from {given.source}); allowed: {_words(spec)}{hint}"


def _words(spec: FieldInfo) -> str:
    return allowed(spec).replace("`", "")


def _unknown(name: str, source: str, specs: Mapping[str, FieldInfo]) -> str:
    plain = name.removeprefix(ENV_PREFIX).lower()
    near = difflib.get_close_matches(plain, specs, n=1)
    if near:
        meant = variable(near[0]) if name.startswith(ENV_PREFIX) else near[0]
        hint = f"did you mean {meant}?"
    else:
        hint = f"the settings are {', '.join(sorted(specs))}"
    from klaviyo_audit.privacy.text import without_secrets

    return f"{without_secrets(printable(name))} is not a setting (from {source}); {hint}"


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
