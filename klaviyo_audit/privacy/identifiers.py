"""The one spelling of each e-mail address, phone number, name and external id."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

MAX_EMAIL = 320
"""Characters of an address: 64 and 255 by RFC 5321, and the sign between."""
_MAX_IDENTIFIER = 1_000
_E164 = re.compile(r"\+[1-9][0-9]{6,14}\Z")  # ITU-T E.164, section 6: at most 15 digits
_INTERNATIONAL_PREFIX = "00"
_NOT_DIGITS = re.compile(r"\D+")
_SPACES = re.compile(r"\s+")
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]"
    "|(?<![^\0-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\0-\x7f])"
)
"""Soft hyphens, zero-width spaces, marks of direction, selectors of variants: no part of an
identifier. Joiners belong to the letters around them, but ASCII has none that join."""
STOP = "\u3002"
"""Stands for a dot in a domain, too (RFC 3490, 3.1); NFKC turns its two likes into it or a dot."""
# What is left of the address formats once the delimiters around them are gone.
_LOCAL = re.compile(r"[^\s@\"<>()\[\],;:\\\x00-\x1f\x7f]{1,64}\Z|\"[^\"\r\n]{1,62}\"\Z")
# What nearly all addresses look like; it only saves time.
_COMMON = re.compile(r"[a-z0-9._+'-]{1,64}@(?:[a-z0-9]{1,63}\.){1,4}[a-z0-9]{2,63}\Z")
# RFC 5322, section 3.2.4: quotes that are not needed say nothing, nor does a backslash in them.
_QUOTED_PAIR = re.compile(r"\\(.)")
_DOT_ATOM = re.compile(
    r"[^\s@\"<>()\[\],;:\\.\x00-\x1f\x7f]+(?:\.[^\s@\"<>()\[\],;:\\.\x00-\x1f\x7f]+)*\Z"
)
_MAILTO = "mailto:"
_LABEL = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?\Z")


class Kind(StrEnum):
    """What identifies a person; the first part of a pseudonym."""

    __hash__ = str.__hash__  # that of Enum is a call of Python code, at every look-up

    EMAIL = "email"
    PHONE = "phone"
    EXTERNAL_ID = "external_id"
    ANONYMOUS_ID = "anonymous_id"
    NAME = "name"
    USER = "user"
    """The acting person, where their own id is to be a pseudonym."""


def normalise(kind: Kind, value: str, region: str | None = None) -> str | None:
    """The spelling of an identifier that its pseudonym is made from.

    Args:
        kind: What it is.
        value: As somebody wrote it.
        region: Country (ISO 3166-1 alpha-2) whose national phone numbers are understood.

    Returns:
        None when it is no identifier of that kind.
    """
    if len(value) > _MAX_IDENTIFIER:
        return None
    if kind is Kind.EMAIL:
        return email(value)
    if kind is Kind.PHONE:
        return phone(value, region)
    text = unicodedata.normalize("NFKC", value).strip()
    if kind is Kind.NAME:
        text = _SPACES.sub(" ", text).casefold()
    elif kind is Kind.USER and "@" in text:
        text = email(text) or text
    return text or None


def email(value: str) -> str | None:
    """An address in lower case, NFKC, its domain as ASCII (IDNA 2008 with UTS 46 mapping).

    Dots and ``+tags`` in the local part stay: only the receiving host knows what they mean. Quotes
    around it go where it needs none, and so does ``mailto:`` before it.
    """
    if _COMMON.match(value) is not None:
        return value
    if len(value) > MAX_EMAIL * 2:
        return None
    text = value.strip().lower()
    if _COMMON.match(text) is not None:
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", value).strip()).lower()
    if text.startswith(_MAILTO):
        # RFC 6068: percent-encoded, and there may be more than the address.
        return email(unquote(text.removeprefix(_MAILTO).partition("?")[0]))
    local, _, domain = text.rpartition("@")
    domain = domain.replace(STOP, ".").removesuffix(".")
    if local.startswith('"'):
        local = _unquoted(local)
    if not local or _LOCAL.match(local) is None:
        return None
    if not domain.isascii():
        # Lower case can undo NFKC (as in U+0130).
        local = unicodedata.normalize("NFKC", local)
        domain = _ascii_domain(domain)
    elif not local.isascii():
        local = unicodedata.normalize("NFKC", local)
    labels = domain.split(".")
    if len(domain) > 253 or not all(_LABEL.match(label) for label in labels):  # noqa: PLR2004  (RFC 1035)
        return None
    return f"{local}@{domain}"


def _unquoted(local: str) -> str:
    """A local part without quotes, if it means the same without."""
    content = _QUOTED_PAIR.sub(r"\1", local[1:].removesuffix('"'))
    return content if local.endswith('"') and _DOT_ATOM.match(content) is not None else local


def _ascii_domain(domain: str) -> str:
    import idna  # only for domains that are not ASCII

    try:
        return idna.encode(domain, uts46=True, transitional=False).decode()
    except (idna.IDNAError, UnicodeError):
        return unicodedata.normalize("NFKC", domain)


def phone(value: str, region: str | None = None) -> str | None:
    """A phone number in E.164; national spellings only with a region.

    Raises:
        ConfigurationError: A region is given and the package phonenumbers is not installed.
    """
    text = value
    if _E164.match(text):
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    text = text.strip()
    digits = _digits(text)
    number = None
    if text.startswith("+"):
        # "+44 (0)20 ..." has the national prefix in it, which is not part of the number.
        number = f"+{_digits(text.replace('(0)', ''))}"
    elif digits.startswith(_INTERNATIONAL_PREFIX):
        number = f"+{digits[2:]}"
    elif region is not None:
        number = _national(text, region)
    return number if number is not None and _E164.match(number) else None


def _digits(text: str) -> str:
    if text.isascii():
        return _NOT_DIGITS.sub("", text)
    return "".join(str(unicodedata.digit(one)) for one in text if one.isdigit())


def _national(text: str, region: str) -> str | None:
    phonenumbers = phone_library()
    try:
        parsed: Any = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    formatted: str = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return formatted


def phone_library() -> ModuleType:
    """The package ``phonenumbers`` (Google's libphonenumber), which knows national numbers.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import phonenumbers
    except ModuleNotFoundError:
        raise ConfigurationError(
            "phone_region needs the package phonenumbers: pip install 'klaviyo-audit[phone]', or "
            "leave phone_region unset (then only numbers that begin with + or 00 get pseudonyms)"
        ) from None
    library: ModuleType = phonenumbers
    return library
