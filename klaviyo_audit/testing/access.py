"""Which keys a `FakeKlaviyo` takes, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klaviyo_audit.testing.exchange import Answer, error

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SCHEMES = ("Klaviyo-API-Key ", "Bearer ")


class Access:
    """Checks keys and their scopes.

    Args:
        keys: Scopes of each key, ``None`` for all scopes; ``None`` instead of a mapping takes any
            key, and none.
    """

    def __init__(self, keys: Mapping[str, Collection[str] | None] | None) -> None:
        self._keys = None if keys is None else dict(keys)
        self._disabled: set[str] = set()
        self._created: dict[str, str] = {}

    def disable(self, key: str) -> None:
        """Refuse a key from now on."""
        self._disabled.add(key)

    def enable(self, key: str) -> None:
        """Take a disabled key again."""
        self._disabled.discard(key)

    def is_disabled(self, key: str) -> bool:
        """Whether a key is refused."""
        return key in self._disabled

    def listed(self) -> dict[str, str]:
        """The keys that exist, by the ids that the beta endpoints know them by."""
        return {f"KEY{number:03d}": key for number, key in enumerate(self._keys or (), 1)}

    def scopes(self, key: str) -> Collection[str] | None:
        """The scopes of a key, ``None`` for all."""
        return (self._keys or {}).get(key)

    def created(self, key: str) -> str:
        """When a key was made, ISO 8601."""
        return self._created.get(key, "2026-01-15T09:30:00+00:00")

    def set_created(self, key: str, at: str) -> None:
        """Say when a key was made."""
        self._created[key] = at

    def account(self, authorization: str | None) -> str | None:
        """The site id of the account that a key of the newer form belongs to."""
        _, key = _split(authorization or "")
        parts = key.split("_")
        return parts[1] if len(parts) == len(("pk", "site", "digits")) else None

    def refusal(self, authorization: str | None, scopes: Collection[str]) -> Answer | None:
        """The answer to a request that may not be made, or ``None`` where it may.

        Args:
            authorization: The header of that name.
            scopes: All that the operation needs.
        """
        if self._keys is None and not self._disabled:
            return None
        scheme, key = _split(authorization or "")
        if not scheme:
            return error(
                401,
                "Missing or invalid authorization scheme. Please use Klaviyo-API-Key.",
                code="not_authenticated",
            )
        if key in self._disabled or (self._keys is not None and key not in self._keys):
            return error(401)
        granted = self._keys[key] if self._keys is not None else None
        missing = sorted(set(scopes) - set(granted)) if granted is not None else []
        if missing:
            return error(403, f"The API key is missing required scopes: {', '.join(missing)}")
        return None


def _split(authorization: str) -> tuple[str, str]:
    for scheme in _SCHEMES:
        if authorization.startswith(scheme):
            return scheme, authorization[len(scheme) :]
    return "", ""
