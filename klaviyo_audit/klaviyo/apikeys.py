"""Klaviyo's beta endpoints for API keys: what a key may do, how old it is, and disabling one.

``GET /api/api-keys`` needs ``credentials:read``, ``PATCH /api/api-keys/{id}``
``credentials:write``, both with the revision ``2026-07-15.pre``; the SDK does not have them. There
is no endpoint that makes or deletes a key, and none that says when one was last used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from klaviyo_audit.errors import KlaviyoAuditError
from klaviyo_audit.klaviyo.account import KLAVIYO, request

REVISION: Final = "2026-07-15.pre"
_MAX_PAGES: Final = 50
_OK: Final = 200
_FORBIDDEN: Final = 403
_MASK: Final = re.compile(r"[^A-Za-z0-9_]+|[xX]{4,}")
_LEAST_SHOWN: Final = 4


class KeysUnreadable(KlaviyoAuditError):  # noqa: N818  (what happened, as in the other errors)
    """Klaviyo does not tell about API keys, or does not change one."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One private key of the account, as Klaviyo tells of it."""

    id: str
    name: str
    status: str
    scopes: frozenset[str]
    created: datetime | None
    redacted: str
    """The key with its middle masked."""

    def may_be(self, key: str) -> bool:
        """Whether what is shown of it is what a key begins and ends with."""
        parts = _MASK.split(self.redacted)
        if len(parts) == 1:
            return self.redacted == key
        begin, end = parts[0], parts[-1]
        shown = len(begin.removeprefix("pk_")) + len(end)
        return shown >= _LEAST_SHOWN and key.startswith(begin) and key.endswith(end)


def list_api_keys(admin: str, *, host: str = KLAVIYO) -> list[ApiKey]:
    """All private keys of the account.

    Args:
        admin: A key with ``credentials:read``.
        host: Another host than Klaviyo's, for tests.

    Raises:
        KeysUnreadable: Klaviyo does not give the list.
    """
    found: list[ApiKey] = []
    path = "/api/api-keys"
    for _ in range(_MAX_PAGES):
        body = _ask("GET", path, admin, host)
        found += [_api_key(item) for item in _items(body)]
        links = body.get("links")
        following = links.get("next") if isinstance(links, dict) else None
        if not isinstance(following, str):
            return found
        # Only the path: the key must not be sent to a host that an answer names.
        path = "/" + following.split("://", 1)[-1].split("/", 1)[-1]
    return found


def find_api_key(admin: str, key: str, *, host: str = KLAVIYO) -> ApiKey | None:
    """Which of the account's keys a key is; None when none fits, or more than one.

    Raises:
        KeysUnreadable: Klaviyo does not give the list.
    """
    fitting = [one for one in list_api_keys(admin, host=host) if one.may_be(key)]
    return fitting[0] if len(fitting) == 1 else None


def disable_api_key(admin: str, key_id: str, *, host: str = KLAVIYO) -> None:
    """Disable a key. It can be enabled again in Klaviyo; deleting comes later, by hand.

    Args:
        admin: A key with ``credentials:write``.
        key_id: `ApiKey.id`.
        host: Another host than Klaviyo's, for tests.

    Raises:
        KeysUnreadable: Klaviyo does not do it.
    """
    data = {"type": "api-key", "id": key_id, "attributes": {"status": "disabled"}}
    _ask("PATCH", f"/api/api-keys/{key_id}", admin, host, {"data": data})


def _ask(method: str, path: str, admin: str, host: str, body: Any = None) -> dict[str, Any]:
    try:
        status, answer = request(
            method, path, f"Klaviyo-API-Key {admin}", host=host, revision=REVISION, body=body
        )
    except OSError as error:
        raise KeysUnreadable(f"{method} /api/api-keys: {error}") from error
    if status == _FORBIDDEN:
        scope = "credentials:read" if method == "GET" else "credentials:write"
        raise KeysUnreadable(f"Klaviyo answers 403: the key given for it lacks {scope}")
    if status != _OK or not isinstance(answer, dict):
        raise KeysUnreadable(f"Klaviyo answers {method} /api/api-keys with status {status}")
    return answer


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    data = body.get("data")
    return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []


def _api_key(item: dict[str, Any]) -> ApiKey:
    attributes = item.get("attributes")
    facts: dict[str, Any] = attributes if isinstance(attributes, dict) else {}
    scopes = facts.get("scopes")
    created = None
    try:
        created = datetime.fromisoformat(str(facts.get("created")))
        created = created if created.tzinfo else created.replace(tzinfo=UTC)
    except ValueError:
        pass
    return ApiKey(
        id=str(item.get("id")),
        name=str(facts.get("name", "")),
        status=str(facts.get("status", "")),
        scopes=frozenset(map(str, scopes)) if isinstance(scopes, list) else frozenset(),
        created=created,
        redacted=str(facts.get("redacted_key", "")),
    )
