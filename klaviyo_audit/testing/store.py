"""What a `FakeKlaviyo` remembers: the profiles, lists and events it was sent."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from klaviyo_audit.testing.ids import resource_id

PROFILE = "profile"
LIST = "list"
EVENT = "event"
IDENTIFIERS = ("email", "phone_number", "external_id")
"""Attributes of which no two profiles share a value."""

_LIMIT = 100_000
"""Resources of one kind that are kept; the oldest go, so that a long run's memory stays flat."""
_MERGED = ("properties", "location")
"""Attributes of a profile to which an update adds, where others are replaced."""


@dataclass(slots=True)
class Resource:
    """One remembered resource."""

    kind: str
    """JSON:API type."""
    id: str
    number: int
    """Rises with each resource: the order of a collection."""
    attributes: dict[str, Any]
    relationships: dict[str, Any] = field(default_factory=dict)
    sought_by: dict[str, Any] = field(default_factory=dict)
    """More that a filter can ask for, beside attributes and id."""
    since: float = 0.0
    """When it was added, in seconds on the monotonic clock."""


class Store:
    """Profiles, lists and events; hold `lock` around each use."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._kinds: dict[str, dict[str, Resource]] = {}
        self._deleted: set[tuple[str, str]] = set()
        self._members: dict[str, dict[str, None]] = {}
        self._recorded: dict[tuple[str, str, str], None] = {}
        self._identified: dict[tuple[str, str], str] = {}

    def get(self, kind: str, resource_id: str) -> Resource | None:
        """A remembered resource."""
        return self._kinds.get(kind, {}).get(resource_id)

    def is_deleted(self, kind: str, resource_id: str) -> bool:
        """Whether a resource was here and has been deleted."""
        return (kind, resource_id) in self._deleted

    def all(self, kind: str) -> list[Resource]:
        """All resources of a kind, oldest first."""
        return list(self._kinds.get(kind, {}).values())

    def add(self, kind: str, attributes: dict[str, Any], **more: Any) -> Resource:
        """Remember a new resource, with the times of its making where Klaviyo gives them."""
        number = next(self._numbers)
        if kind != EVENT:
            now = _now()
            attributes = {**attributes, "created": now, "updated": now}
        added = Resource(kind, resource_id(kind, number), number, attributes, **more)
        added.since = time.monotonic()
        resources = self._kinds.setdefault(kind, {})
        resources[added.id] = added
        if len(resources) > _LIMIT:
            self._unidentify(resources.pop(next(iter(resources))))
        self._identify(added)
        return added

    def update(self, resource: Resource, attributes: dict[str, Any]) -> None:
        """Change some attributes, as Klaviyo's PATCH does."""
        self._unidentify(resource)
        for name, value in attributes.items():
            before = resource.attributes.get(name)
            if name in _MERGED and isinstance(before, dict) and isinstance(value, dict):
                value = {**before, **value}  # noqa: PLW2901  (the merged value takes its place)
            resource.attributes[name] = value
        resource.attributes["updated"] = _now()
        self._identify(resource)

    def delete(self, kind: str, resource_id: str) -> None:
        """Forget a resource but not that it was there. One that never was is left alone."""
        deleted = self._kinds.get(kind, {}).pop(resource_id, None)
        if deleted is None:
            return
        self._unidentify(deleted)
        self._deleted.add((kind, resource_id))
        if kind == LIST:
            self._members.pop(resource_id, None)
        for members in self._members.values():
            members.pop(resource_id, None)

    def same_profile(self, attributes: dict[str, Any]) -> Resource | None:
        """The profile that has one of these identifiers."""
        for key in _identifiers(attributes):
            if key in self._identified:
                return self.get(PROFILE, self._identified[key])
        return None

    def _identify(self, resource: Resource) -> None:
        if resource.kind == PROFILE:
            self._identified |= dict.fromkeys(_identifiers(resource.attributes), resource.id)

    def _unidentify(self, resource: Resource) -> None:
        for key in _identifiers(resource.attributes):
            if self._identified.get(key) == resource.id:
                del self._identified[key]

    def members(self, list_id: str) -> dict[str, None]:
        """Ids of a list's profiles, in the order they were added; change it in place."""
        return self._members.setdefault(list_id, {})

    @staticmethod
    def event_key(profile_id: str, metric: str, unique_id: str | None) -> tuple[str, str, str]:
        """What no two events share.

        The time in seconds stands in for a missing id: so says the documentation of
        ``unique_id`` in Klaviyo's *Create Event*.
        """
        return profile_id, metric, str(int(time.time())) if unique_id is None else unique_id

    def is_recorded(self, key: tuple[str, str, str]) -> bool:
        """Whether there is an event with that key."""
        return key in self._recorded

    def is_first(self, key: tuple[str, str, str]) -> bool:
        """Whether an event is the first with its key, which it takes by this."""
        if key in self._recorded:
            return False
        self._recorded[key] = None
        if len(self._recorded) > _LIMIT:
            del self._recorded[next(iter(self._recorded))]
        return True


def _identifiers(attributes: dict[str, Any]) -> list[tuple[str, str]]:
    found = ((name, attributes.get(name)) for name in IDENTIFIERS)
    return [(name, value) for name, value in found if isinstance(value, str)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
