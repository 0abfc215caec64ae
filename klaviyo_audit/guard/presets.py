"""The ready rule sets of the guard."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from klaviyo_audit.guard.rules import Decision, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

READ: Final = ("*:read",)
WRITE: Final = ("*:read", "*:write")

_READING: Final = Rule(decision=Decision.ALLOW, name="reading", scopes=READ)

STAGING_WRITES: Final = (
    "catalogs:write",
    "coupon-codes:write",
    "coupons:write",
    "custom-objects:write",
    "events:write",
    "images:write",
    "lists:write",
    "profiles:write",
    "push-tokens:write",
    "segments:write",
    "tags:write",
    "templates:write",
    "translations:write",
)
"""Scopes to make and change test data with. Not among them: what sends, publishes, subscribes,
configures the account or hands data to others."""

PRESETS: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {
        "development": (_READING,),
        "staging": (
            _READING,
            Rule(
                decision=Decision.DENY,
                name="nothing that reaches people or cannot be undone",
                effects=("message-send", "consent", "irreversible", "mass-data"),
            ),
            Rule(
                decision=Decision.ALLOW,
                name="test data",
                methods=("POST", "PATCH", "PUT"),
                scopes=(*READ, *STAGING_WRITES),
            ),
        ),
        "production": (),
    }
)
"""Rules by name; what none of them allows is denied.

- ``development``: operations that need nothing but read scopes.
- ``staging``: those, and making and changing single objects of test data; nothing is deleted.
- ``production``: only what is listed beside the preset.
"""
