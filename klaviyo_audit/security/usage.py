"""What each key was used for in each environment, operation by operation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from klaviyo_audit.entry import Phase, Result
from klaviyo_audit.security.keyuse import FORBIDDEN, UNAUTHORIZED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Called:
    """One operation as entries name it, and who called it."""

    name: str
    """``profiles.get_profile``."""
    method: str
    path: str
    """The path template."""
    user: str


@dataclass(slots=True)
class Usage:
    """One key in one environment."""

    fingerprint: str
    environment: str | None
    labels: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    scopes: Counter[str] = field(default_factory=Counter)
    """Calls that Klaviyo took, by the scopes they needed."""
    refused_scopes: Counter[str] = field(default_factory=Counter)
    """Calls that Klaviyo refused (403), by the scopes they needed."""
    calls: Counter[Called] = field(default_factory=Counter)
    """Calls that Klaviyo took."""
    denied: Counter[str] = field(default_factory=Counter)
    """Calls that a guard stopped, by operation."""
    needed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The scopes that each operation in `calls` needs, as its entries say."""


def usage_of(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str | None, str], Usage]:
    """What keys were used for, by environment and fingerprint, in order of first use.

    Args:
        entries: Members of entries; only outcomes of calls with a private key or OAuth token count.
    """
    found: dict[tuple[str | None, str], Usage] = {}
    for members in entries:
        key = members.get("key")
        if members.get("phase") != Phase.OUTCOME or not isinstance(key, dict):
            continue
        fingerprint, call = key.get("fingerprint"), members.get("call")
        if key.get("kind") == "public" or not isinstance(fingerprint, str):
            continue
        origin = members.get("origin")
        origin = origin if isinstance(origin, dict) else {}
        environment = str(origin["environment"]) if origin.get("environment") else None
        usage = found.get((environment, fingerprint))
        if usage is None:
            usage = found[environment, fingerprint] = Usage(fingerprint, environment)
        if label := key.get("label"):
            usage.labels.add(str(label))
        usage.services.add(str(origin.get("service") or "?"))
        _count(usage, members, call if isinstance(call, dict) else {})
    return found


def _count(usage: Usage, members: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    name = f"{str(call.get('group')).lower()}.{call.get('operation')}"
    if members.get("result") == Result.DENIED:
        usage.denied[name] += 1
        return
    http = members.get("http")
    status = http.get("status") if isinstance(http, dict) else None
    scopes = tuple(str(scope) for scope in call.get("scopes") or ())
    if status == FORBIDDEN:
        usage.refused_scopes.update(scopes)
    elif status is not None and status != UNAUTHORIZED:
        usage.scopes.update(scopes)
        user = str(members.get("user_id") or "")
        called = Called(name, str(call.get("method")), str(call.get("path")), user)
        usage.calls[called] += 1
        usage.needed.setdefault(name, scopes)
