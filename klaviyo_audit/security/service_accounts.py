"""Named clients, each with a key of its own and held to the scopes that it is for."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.guard.policy import Guard
from klaviyo_audit.guard.presets import READ, WRITE
from klaviyo_audit.guard.rules import Decision, Rule
from klaviyo_audit.klaviyo.keys import fingerprint, name_key
from klaviyo_audit.klaviyo.keysource import KeySource
from klaviyo_audit.klaviyo.proxy import AuditedClient
from klaviyo_audit.privacy.text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from klaviyo_audit.auditor import Auditor

PRESETS: Final[dict[str, tuple[str, ...]]] = {"reader": READ, "writer": WRITE}
"""Scopes by preset: ``reader`` reads everything, ``writer`` reads and writes everything."""


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    variable: str
    scopes: tuple[str, ...]
    key: str

    def __repr__(self) -> str:  # a dataclass's own would show the key
        return f"<account {self.name} {fingerprint(self.key)}>"


class ServiceAccounts:
    """Audited clients by the names of their accounts: ``accounts.reader``, ``accounts["reader"]``.

    Made by `service_accounts`.
    """

    __slots__ = ("_clients", "_scopes")

    def __init__(self, clients: Mapping[str, Any], scopes: Mapping[str, tuple[str, ...]]) -> None:
        self._clients = dict(clients)
        self._scopes = dict(scopes)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            client = self._clients.get(name)
            if client is not None:
                return client
        raise AttributeError(f"no service account {name!r}; there are {', '.join(self._clients)}")

    def __getitem__(self, name: str) -> Any:
        return self._clients[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._clients})

    def scopes(self, name: str) -> tuple[str, ...]:
        """The scopes that an account is held to, as globs."""
        return self._scopes[name]

    def __repr__(self) -> str:
        told = (f"{name}={','.join(self._scopes[name])}" for name in self._clients)
        return f"<ServiceAccounts {' '.join(told)}>"


def service_accounts(
    *,
    auditor: Auditor | None = None,
    client_options: Mapping[str, Any] | None = None,
    **accounts: str | tuple[str, str | Sequence[str]],
) -> ServiceAccounts:
    """Make one audited client for each key, held to what its key is for.

    A call that needs another scope raises `AccessDenied` before Klaviyo could say 403, and is an
    entry. The entries' key is labelled with the account's name. The guard of the auditor counts
    too. A key that is exchanged in the environment is taken up on a 401.

    Args:
        auditor: Which auditor; the process's default if not given.
        client_options: What else ``KlaviyoAPI`` takes.
        **accounts: By name, the environment variable that holds the key. The accounts ``reader``
            and ``writer`` have the scopes of these presets; any other is given as
            ``(variable, scopes)``, with a preset's name or scopes (``"events:write"``,
            ``"*:read"``).

    Raises:
        ConfigurationError: Variables are missing (all are named), two names have the same key, or
            an account has no scopes. No message holds a key.

    Example:
        >>> keys = service_accounts(
        ...     reader="KLAVIYO_READ_KEY", tracker=("KLAVIYO_TRACK_KEY", ["events:write"])
        ... )  # doctest: +SKIP
        >>> keys.reader.Profiles.get_profiles()  # doctest: +SKIP
    """
    if not accounts:
        raise ConfigurationError(
            'service_accounts() has no account; as in service_accounts(reader="KLAVIYO_READ_KEY")'
        )
    if auditor is None:
        from klaviyo_audit.default import default_auditor

        auditor = default_auditor()
    found = _read({name: _given(name, value) for name, value in accounts.items()})
    clients = {one.name: _client(one, auditor, client_options or {}) for one in found}
    return ServiceAccounts(clients, {one.name: one.scopes for one in found})


def _given(name: str, value: Any) -> tuple[str, tuple[str, ...]]:
    """Variable and scopes of an account."""
    variable, scopes = (value, name) if isinstance(value, str) else _pair(name, value)
    if isinstance(scopes, str) and ":" not in scopes:
        if scopes not in PRESETS:
            raise ConfigurationError(
                f"the service account {name} has no scopes: {scopes!r} is no preset "
                f"({', '.join(PRESETS)}); give (variable, scopes), as in "
                f'{name}=("{variable}", ["events:write"])'
            )
        return variable, PRESETS[scopes]
    wanted = (scopes,) if isinstance(scopes, str) else tuple(scopes)
    if not wanted or not all(isinstance(one, str) and ":" in one for one in wanted):
        raise ConfigurationError(
            f'the scopes of the service account {name} are not like "profiles:read" or "*:read"'
        )
    return variable, wanted


def _pair(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # noqa: PLR2004
        return value
    raise ConfigurationError(
        f"the service account {name} is a {type(value).__name__}; give the name of an environment "
        "variable, or (variable, scopes)"
    )


def _read(accounts: Mapping[str, tuple[str, tuple[str, ...]]]) -> list[_Account]:
    missing: list[str] = []
    broken: list[str] = []
    found: list[_Account] = []
    for name, (variable, scopes) in accounts.items():
        key = os.environ.get(variable, "").strip()
        if not key:
            missing.append(f"{without_secrets(variable)} (for {name})")
        elif not key.isascii() or not key.isprintable() or " " in key:
            broken.append(f"{without_secrets(variable)} (for {name})")
        else:
            found.append(_Account(name, variable, scopes, key))
    if missing:
        raise ConfigurationError(
            f"no key for service accounts: {', '.join(missing)} not set. Set each to a private key "
            "of its own, with no more than the scopes it needs"
        )
    if broken:
        raise ConfigurationError(
            f"{', '.join(broken)} holds characters that no key has; set it to the key alone"
        )
    by_key: dict[str, _Account] = {}
    for one in found:
        other = by_key.setdefault(one.key, one)
        if other is not one:
            raise ConfigurationError(
                f"the service accounts {other.name} ({other.variable}) and {one.name} "
                f"({one.variable}) have the same key; give each a key of its own, or what one may "
                "do the other may too"
            )
    return found


def _client(account: _Account, auditor: Auditor, options: Mapping[str, Any]) -> AuditedClient:
    name_key(account.key, account.name)
    client = _client_class()(account.key, **options)
    source = KeySource(
        lambda: _fresh(account), f"environment variable {account.variable} ({account.name})"
    )
    source.attach(client, auditor=auditor)
    guard = Guard(
        rules=[
            Rule(decision=Decision.ALLOW, name=account.name, scopes=account.scopes, unknown=True)
        ],
        mode="enforce" if auditor.guard is None else auditor.guard.mode,
        break_glass=auditor.guard is None or auditor.guard.break_glass,
        source=f"service account {account.name}, scopes {', '.join(account.scopes)}",
    )
    guard.remedy = (
        f"call it with an account that has what it needs, or give {account.name} more: "
        f'{account.name}=("{account.variable}", [scopes])'
    )
    return AuditedClient(client, auditor.recorder_held_to(guard))


def _fresh(account: _Account) -> str:
    key = os.environ.get(account.variable, "").strip()
    if key:
        name_key(key, account.name)
    return key


@functools.cache
def _client_class() -> Any:
    from klaviyo_api import KlaviyoAPI

    class KlaviyoServiceAccount(KlaviyoAPI):  # type: ignore[misc]  # the SDK is untyped
        """A ``KlaviyoAPI`` that does not show its key: the SDK's own ``repr`` prints it."""

        def __repr__(self) -> str:
            return f"<KlaviyoAPI {fingerprint(self.api_key)}>"

    return KlaviyoServiceAccount
