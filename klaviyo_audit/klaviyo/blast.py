"""How many people or objects a request of each operation touches, as far as it says so."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Whole = Literal["list", "segment", "campaign", "campaign-message"]
"""What a request can name so that everybody in it is meant."""

PEOPLE: Final = "people"
OBJECTS: Final = "objects"


@dataclass(frozen=True, slots=True)
class Count:
    """Where the number is."""

    unit: str = OBJECTS
    members: tuple[str, ...] | None = None
    """Place of a list in the body; each of its members is one."""
    fixed: int | None = None
    """The number, where it is always the same."""
    wholes: tuple[tuple[Whole, tuple[str, ...]], ...] = ()
    """Places of ids in the body, each with what it is the id of; no place: the URL's last id."""


_DATA: Final = ("data", "attributes")
_LIST: Final[tuple[Whole, tuple[str, ...]]] = (
    "list", ("data", "relationships", "list", "data", "id")
)  # fmt: skip
_SEGMENT: Final[tuple[Whole, tuple[str, ...]]] = (
    "segment", ("data", "relationships", "segment", "data", "id")
)  # fmt: skip
_PROFILES: Final = (*_DATA, "profiles", "data")
_SUPPRESSION: Final = Count(PEOPLE, _PROFILES, wholes=(_LIST, _SEGMENT))
_ONE_PERSON: Final = Count(PEOPLE, fixed=1)
_ONE_OBJECT: Final = Count(OBJECTS, fixed=1)

# From the request bodies of klaviyo-api 25.0.0. A list beside profiles in a subscription says where
# these go, not that all of it is meant; in a suppression it means everybody in it.
COUNTS: Final[Mapping[tuple[str, str], Count]] = MappingProxyType(
    {
        ("POST", "/api/campaign-send-jobs"): Count(PEOPLE, wholes=(("campaign", ("data", "id")),)),
        ("POST", "/api/campaign-schedule"): Count(
            PEOPLE, wholes=(("campaign", ("data", "relationships", "campaign", "data", "id")),)
        ),
        ("POST", "/api/campaign-message-schedule"): Count(
            PEOPLE,
            wholes=(
                ("campaign-message", ("data", "relationships", "campaign-message", "data", "id")),
            ),
        ),
        ("POST", "/api/profile-subscription-bulk-create-jobs"): Count(PEOPLE, _PROFILES),
        ("POST", "/api/profile-subscription-bulk-delete-jobs"): Count(PEOPLE, _PROFILES),
        ("POST", "/api/profile-suppression-bulk-create-jobs"): _SUPPRESSION,
        ("POST", "/api/profile-suppression-bulk-delete-jobs"): _SUPPRESSION,
        ("POST", "/api/profile-bulk-import-jobs"): Count(PEOPLE, _PROFILES),
        ("POST", "/api/profile-merge"): Count(
            PEOPLE, ("data", "relationships", "profiles", "data")
        ),
        ("POST", "/api/data-privacy-deletion-jobs"): _ONE_PERSON,
        ("POST", "/api/conversation-messages"): _ONE_PERSON,
        ("POST", "/api/back-in-stock-subscriptions"): _ONE_PERSON,
        ("POST", "/api/template-preview-send-jobs"): Count(PEOPLE, (*_DATA, "recipients")),
        ("POST", "/api/lists/{id}/relationships/profiles"): Count(PEOPLE, ("data",)),
        ("DELETE", "/api/lists/{id}/relationships/profiles"): Count(PEOPLE, ("data",)),
        ("DELETE", "/api/lists/{id}"): Count(PEOPLE, wholes=(("list", ()),)),
        ("DELETE", "/api/segments/{id}"): Count(PEOPLE, wholes=(("segment", ()),)),
        ("POST", "/api/event-bulk-create-jobs"): Count(
            PEOPLE, (*_DATA, "events-bulk-create", "data")
        ),
        ("POST", "/client/event-bulk-create"): Count(OBJECTS, (*_DATA, "events", "data")),
        ("POST", "/api/object-record-bulk-delete-jobs"): Count(
            OBJECTS, ("data", "relationships", "object-records", "data")
        ),
        ("POST", "/api/data-source-record-bulk-create-jobs"): Count(
            OBJECTS, (*_DATA, "data-source-records", "data")
        ),
        ("POST", "/api/coupon-code-bulk-create-jobs"): Count(
            OBJECTS, (*_DATA, "coupon-codes", "data")
        ),
        **{
            ("POST", f"/api/catalog-{one}-bulk-{verb}-jobs"): Count(OBJECTS, (*_DATA, many, "data"))
            for one, many in (
                ("item", "items"), ("variant", "variants"), ("category", "categories")
            )
            for verb in ("create", "update", "delete")
        },
    }
)  # fmt: skip
"""By HTTP method and path template. Any other DELETE is of one object."""


def count_of(method: str, path: str, *, deletes: bool) -> Count | None:
    """Where an operation's number is; None for one that touches what it names and no more.

    Args:
        method: HTTP method.
        path: Path template.
        deletes: Whether a DELETE of it deletes something, and does not only take off a link.
    """
    found = COUNTS.get((method, path))
    if found is None and method == "DELETE":
        body_lists_them = "/relationships/" in path
        return Count(OBJECTS, ("data",)) if body_lists_them else _ONE_OBJECT if deletes else None
    return found


def in_body(count: Count, body: Any) -> int | None:
    """The number in a request's body; None where it does not say any.

    Args:
        count: Where it is.
        body: The body as JSON types, or None.
    """
    if count.fixed is not None:
        return count.fixed
    if count.members is None:
        return None
    found = _at(count.members, body)
    return len(found) if isinstance(found, list | tuple) else None


def wholes_in(count: Count, body: Any, last_id: str) -> Iterator[tuple[Whole, str]]:
    """Lists, segments and campaigns that are meant whole, by their ids.

    Args:
        count: Where they are named.
        body: The body as JSON types, or None.
        last_id: The last segment of the URL's path, decoded.
    """
    for kind, place in count.wholes:
        found = _at(place, body) if place else last_id
        if isinstance(found, str) and found:
            yield kind, found


def _at(place: tuple[str, ...], body: Any) -> Any:
    for step in place:
        if not isinstance(body, dict):
            return None
        body = body.get(step)
    return body
