"""The page of all settings, made from the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ByteSize

from klaviyo_audit.settings.journal import host_name
from klaviyo_audit.settings.model import Settings
from klaviyo_audit.settings.sources import variable
from klaviyo_audit.settings.values import allowed, duration_text, size_text

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


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


def _default_words(spec: FieldInfo) -> str:
    if spec.default_factory is host_name:
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
