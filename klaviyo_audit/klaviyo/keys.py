"""Naming the credential a request was made with, without keeping the credential."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from klaviyo_audit.journal.format import json_text
from klaviyo_audit.privacy import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

_CACHED_KEYS = 256
_FINGERPRINT_DIGITS = 12
# ``pk_`` + 34 hexadecimal digits, and since 2025 ``pk_<6-character site id>_`` + 34.
_SITE = re.compile(r"pk_([A-Za-z0-9]{6})_[0-9a-fA-F]+\Z")
_PRIVATE_SCHEME = "klaviyo-api-key "
_OAUTH_SCHEME = "bearer "

_known: dict[str, str] = {}
_names: dict[str, str] = {}


def fingerprint(key: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a key."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_FINGERPRINT_DIGITS]


def name_key(key: str, label: str) -> None:
    """Label a key in entries from now on, whatever variable holds it.

    Args:
        key: The key; only its fingerprint is kept for this.
        label: What it is called, such as a service account's name.
    """
    CREDENTIALS.add(key)
    _names[fingerprint(key)] = label
    _known.clear()


def key_of(headers: Mapping[str, Any] | None, url: str) -> str | None:
    """The entry's ``key`` for one request.

    Args:
        headers: The request's headers; ``Authorization`` names the acting key, wherever it came
            from (the client, or ``_request_auth`` for one call).
        url: The request's URL. The ``/client/`` endpoints carry the public key in it.

    Returns:
        The member as JSON text, or None for a request without a credential.
    """
    value = headers.get("Authorization") if headers else None
    if value is None:
        return _public_key(url) if "/client/" in url else None
    known = _known.get(value)
    return known if known is not None else _learn(str(value))


def _learn(value: str) -> str:
    scheme = value.lower()
    if scheme.startswith(_PRIVATE_SCHEME):
        kind, key = "private", value[len(_PRIVATE_SCHEME) :].strip()
    elif scheme.startswith(_OAUTH_SCHEME):
        kind, key = "oauth", value[len(_OAUTH_SCHEME) :].strip()
    else:
        kind, key = "other", value
    CREDENTIALS.add(key)
    fragment = _describe(key, kind)
    if len(_known) >= _CACHED_KEYS:
        _known.clear()  # OAuth tokens come and go; the newest are learnt again at their next use
    _known[value] = fragment
    return fragment


def _public_key(url: str) -> str | None:
    company = parse_qs(urlsplit(url).query).get("company_id")
    return _describe(company[0], "public") if company else None


def _describe(key: str, kind: str) -> str:
    facts = {"fingerprint": fingerprint(key)}
    site = _SITE.match(key)
    if site is not None:
        facts["site"] = site.group(1)
    label = _names.get(facts["fingerprint"]) or _environment_variable(key)
    if label is not None:
        facts["label"] = label
    facts["kind"] = kind
    return json_text(facts)


def _environment_variable(key: str) -> str | None:
    """Name of the environment variable that holds the key; its value never leaves here.

    Of several the first by the alphabet: the guard's rules may ask for it, and the order in which
    a process was given its variables is nobody's decision.
    """
    names = [name for name, value in os.environ.items() if value == key and name.isidentifier()]
    return min(names)[:100] if names else None
