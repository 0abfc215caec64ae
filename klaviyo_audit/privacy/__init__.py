"""The gate that text and values pass on their way into an entry, and what it is made of.

The functions here are those of a gate without keys: what identifies a person is masked. An auditor
has a `Gate` of its own, by its settings.
"""

from __future__ import annotations

from typing import Final

from klaviyo_audit.privacy.gate import Gate
from klaviyo_audit.privacy.secrets import CREDENTIALS, Credentials, is_telling
from klaviyo_audit.privacy.text import (
    MASKED_EMAIL,
    MASKED_PERSONAL,
    MASKED_PHONE,
    MASKED_SECRET,
    MAX_TEXT,
)
from klaviyo_audit.privacy.values import MAX_DEPTH, MAX_ITEMS

__all__ = [
    "CREDENTIALS",
    "MASKED_EMAIL",
    "MASKED_PERSONAL",
    "MASKED_PHONE",
    "MASKED_SECRET",
    "MAX_DEPTH",
    "MAX_ITEMS",
    "MAX_TEXT",
    "Credentials",
    "Gate",
    "clean_identity",
    "clean_path",
    "clean_text",
    "clean_value",
    "is_telling",
]

_MASKING: Final = Gate()

clean_text = _MASKING.text
clean_identity = _MASKING.identity
clean_path = _MASKING.path
clean_value = _MASKING.value
