"""What Klaviyo's credentials look like in a text, and what only looks like one."""

from __future__ import annotations

import math
import re
from collections import Counter
from enum import StrEnum
from typing import Final


class Rule(StrEnum):
    """What was found."""

    PRIVATE_KEY = "klaviyo-private-key"
    OAUTH_TOKEN = "klaviyo-oauth-token"  # noqa: S105  (a name)
    CLIENT_SECRET = "klaviyo-client-secret"  # noqa: S105  (a name)
    WEBHOOK_SECRET = "klaviyo-webhook-secret"  # noqa: S105  (a name)
    TRACKED_ENV = "tracked-env-file"


TITLES: Final = {
    Rule.PRIVATE_KEY: "Klaviyo private API key",
    Rule.OAUTH_TOKEN: "Klaviyo OAuth token",
    Rule.CLIENT_SECRET: "Klaviyo OAuth client secret",
    Rule.WEBHOOK_SECRET: "Klaviyo webhook secret",
    Rule.TRACKED_ENV: "Environment file under version control",
}

# ``pk_`` + 34 hexadecimal digits, and the newer ``pk_<6-character site id>_`` + 34.
KEY: Final = r"pk_(?:[A-Za-z0-9]{6}_)?[0-9a-fA-F]{34}(?![0-9a-fA-F])"
KEY_LENGTHS: Final = (37, 44)

NAME: Final = (
    r"(?:(?P<oauth>(?:access|refresh|oauth|bearer)[_-]?token)"
    r"|(?P<client>client[_-]?secret)"
    r"|(?P<webhook>(?:webhook|signing)[_-]?(?:signing[_-]?)?secret|secret[_-]?key))"
    r"[A-Za-z0-9_-]{0,20}"
)
"""A name that tells of a secret, in lower case."""
NAME_STEMS: Final = (b"token", b"secret")
"""One of them is in every such name."""
NAME_BEFORE: Final = len("webhook_signing_")
_QUOTED: Final = r"(?:[frbuFRBU]{0,2}\\?[\"'`](?P<quoted>[^\"'`\s\\]{16,512})\\?[\"'`])"
_BARE: Final = r"(?P<bare>[A-Za-z0-9_\-./+=~!@%^&*]{16,512})[ \t]*(?:#[^\r\n]*)?$"
_ASSIGNED: Final = r"\\?[\"']?\s{0,4}(?::=|=>|[:=])\s{0,4}"
LITERAL: Final = f"{_ASSIGNED}{_QUOTED}"
"""What follows a name that a literal is assigned to."""
BARE: Final = f"{_ASSIGNED}(?m:{_BARE})"
"""The same without quotes, as in the files whose values have none."""
ASSIGNMENT: Final = f"(?i:{NAME}){LITERAL}"
"""A telling name and a literal. Says nothing without the word klaviyo near it."""
BEARER: Final = r"(?i:bearer)[ +]{1,4}(?P<quoted>[A-Za-z0-9._~+/=-]{20,512})"

CONTEXT: Final = b"klaviyo"
CONTEXT_BYTES: Final = 300
"""How near to a name the word klaviyo has to be."""

BARE_SUFFIXES: Final = (
    ".env", ".yaml", ".yml", ".ini", ".cfg", ".conf", ".properties", ".toml", ".sh", ".tfvars",
)  # fmt: skip
"""Ends of the names of files in which values need no quotes."""

_KEY: Final = re.compile(KEY)
_MIN_DIGITS: Final = 6
_LONGEST_PERIOD: Final = 8
_SEQUENCES: Final = ("0123456789abcdef" * 4, "1234567890" * 5, "abcdef0123456789" * 4)
_PLACEHOLDER: Final = re.compile(
    r"(?i)your|example|change-?_?me|placeholder|xxxx|dummy|insert|replace|redacted|\*\*\*|"
    r"secret-here|environ|getenv|process\.|settings\.|config\.|self\.|\$\{|\{\{|<|://|\.\.\.|%\(|"
    # A field of an f-string.
    r"\{[A-Za-z_][\w.]*(?:[!:][^{}]*)?\}"
)
_REFERENCE: Final = re.compile(r"[A-Za-z_]+(?:[._/-][A-Za-z_]+)*")
_MIN_BITS: Final = 3.0


def is_made_up_key(key: str) -> bool:
    """Whether a key's digits are a placeholder: few different ones, a sequence, a repetition."""
    digits = key[-34:].lower()
    if len(set(digits)) < _MIN_DIGITS or any(digits in sequence for sequence in _SEQUENCES):
        return True
    return any(
        digits == (digits[:period] * len(digits))[: len(digits)]
        for period in range(1, _LONGEST_PERIOD + 1)
    )


def is_made_up_value(value: str) -> bool:
    """Whether what is assigned to a telling name is a placeholder, a reference or just words."""
    if _PLACEHOLDER.search(value) or _REFERENCE.fullmatch(value):
        return True
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return bits < _MIN_BITS


def rule_of(match: re.Match[bytes]) -> Rule:
    """Which rule a match of `NAME` is for."""
    if match["client"]:
        return Rule.CLIENT_SECRET
    return Rule.WEBHOOK_SECRET if match["webhook"] else Rule.OAUTH_TOKEN


def masked(rule: Rule, secret: str) -> str:
    """A credential as people may see it: enough to recognise one's own, useless to others."""
    if rule is Rule.PRIVATE_KEY:
        return f"{secret[:-34]}{secret[-34:-32]}...{secret[-2:]}"
    return f"{secret[:2]}...({len(secret)} characters)"


def without_keys(text: str) -> str:
    """A text in which each private key is masked: file names and messages may hold one."""
    return _KEY.sub(lambda found: masked(Rule.PRIVATE_KEY, found[0]), text)
