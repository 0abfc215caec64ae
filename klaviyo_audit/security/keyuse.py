"""What the trail says about each key: who used it, when, for what, and what looks wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.entry import Phase, Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403


class Flag(StrEnum):
    """What is wrong with a key."""

    TOO_OLD = "too_old"
    OVERLAP = "overlap"
    """Another key took its place, and it is still used."""
    REVOKED_IN_USE = "revoked_in_use"
    """Klaviyo does not take it any more, and something still tries."""


@dataclass(slots=True)
class KeyUse:
    """One key in the trail."""

    fingerprint: str
    kind: str | None = None
    site: str | None = None
    labels: set[str] = field(default_factory=set)
    """Environment variables it was in."""
    first: datetime | None = None
    last: datetime | None = None
    calls: int = 0
    failures: int = 0
    services: dict[str, datetime] = field(default_factory=dict)
    """When each service used it last."""
    servers: set[str] = field(default_factory=set)
    """Where it was sent to that is not Klaviyo."""
    scopes: Counter[str] = field(default_factory=Counter)
    """Calls that Klaviyo took, by the scopes they needed."""
    refused_scopes: Counter[str] = field(default_factory=Counter)
    """Calls that Klaviyo refused (403), by the scopes they needed."""
    accepted: datetime | None = None
    """The last call that Klaviyo took it for (any answer but 401)."""
    refused: datetime | None = None
    """The last call that Klaviyo did not take it for (401)."""
    created: datetime | None = None
    """When it was made, where Klaviyo says it."""

    def age(self, now: datetime) -> timedelta | None:
        """Time since it was made, or since it was first used where that is all that is known."""
        since = self.created or self.first
        return None if since is None else now - since

    @property
    def is_dead(self) -> bool:
        """Whether Klaviyo's last word on it was a 401."""
        return self.refused is not None and (self.accepted is None or self.refused > self.accepted)


def key_uses(entries: Iterable[Mapping[str, Any]]) -> dict[str, KeyUse]:
    """The keys in the trail by fingerprint, in order of first use.

    Args:
        entries: Members of entries; only outcomes of calls count.
    """
    found: dict[str, KeyUse] = {}
    for members in entries:
        key = members.get("key")
        if members.get("phase") != Phase.OUTCOME or not isinstance(key, dict):
            continue
        fingerprint = key.get("fingerprint")
        if not isinstance(fingerprint, str):
            continue
        use = found.get(fingerprint)
        if use is None:
            use = found[fingerprint] = KeyUse(fingerprint)
        _count(use, members, key)
    return found


def _count(use: KeyUse, members: Mapping[str, Any], key: Mapping[str, Any]) -> None:
    at = when(members["timestamp"])
    if at is None:
        return
    use.kind = key.get("kind") or use.kind
    use.site = key.get("site") or use.site
    if label := key.get("label"):
        use.labels.add(str(label))
    use.first = at if use.first is None else min(use.first, at)
    use.last = at if use.last is None else max(use.last, at)
    use.calls += 1
    use.failures += members.get("result") != Result.SUCCESS
    service = str((members.get("origin") or {}).get("service") or "?")
    use.services[service] = max(at, use.services.get(service, at))
    http = members.get("http") or {}
    status = http.get("status")
    if server := http.get("server"):
        use.servers.add(str(server))
    scopes = [str(scope) for scope in (members.get("call") or {}).get("scopes") or ()]
    if status == UNAUTHORIZED:
        use.refused = at if use.refused is None else max(use.refused, at)
    elif status == FORBIDDEN:
        use.refused_scopes.update(scopes)
        use.accepted = at if use.accepted is None else max(use.accepted, at)
    elif status is not None:
        use.scopes.update(scopes)
        use.accepted = at if use.accepted is None else max(use.accepted, at)


def flags(
    uses: Mapping[str, KeyUse], *, now: datetime, max_age: timedelta, max_overlap: timedelta
) -> dict[str, dict[Flag, str]]:
    """What is wrong with which key, and the evidence in words.

    Args:
        uses: As `key_uses` gives them.
        now: The present time.
        max_age: Age above which a key that is still used should be exchanged.
        max_overlap: How long a key may be used after another took its place. One takes the place of
            another when both were in the same environment variable of the same service.
    """
    found: dict[str, dict[Flag, str]] = defaultdict(dict)
    for use in uses.values():
        if use.kind == "public":
            continue  # it is in every page's source, and is no secret
        age = use.age(now)
        if age is not None and age > max_age and not use.is_dead and use.kind != "oauth":
            since = "made" if use.created else "first used"
            found[use.fingerprint][Flag.TOO_OLD] = (
                f"{since} {age.days} days ago, more than {max_age.days}"
            )
        if use.is_dead and use.refused is not None:
            found[use.fingerprint][Flag.REVOKED_IN_USE] = (
                f"refused by Klaviyo (401), still tried at {shown(use.refused)} "
                f"by {', '.join(sorted(use.services))}"
            )
    for older, newer in _successions(uses):
        assert older.last is not None
        assert newer.first is not None
        overlap = older.last - newer.first
        if overlap > max_overlap:
            found[older.fingerprint][Flag.OVERLAP] = (
                f"used {overlap.days} days on after {newer.fingerprint} took its place in "
                f"{', '.join(sorted(older.labels & newer.labels))}, more than {max_overlap.days}"
            )
    return dict(found)


def _successions(uses: Mapping[str, KeyUse]) -> Iterable[tuple[KeyUse, KeyUse]]:
    """Keys and those that took their place, each pair once."""
    private = [use for use in uses.values() if use.kind == "private" and use.first and use.last]
    private.sort(key=lambda use: use.first or datetime.min)  # noqa: DTZ901  (none is None here)
    for index, older in enumerate(private):
        for newer in private[index + 1 :]:
            if older.labels & newer.labels and older.services.keys() & newer.services.keys():
                yield older, newer


def when(timestamp: str) -> datetime | None:
    """The time in an entry's ``timestamp``."""
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def shown(at: datetime | None) -> str:
    """A time for people."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"
