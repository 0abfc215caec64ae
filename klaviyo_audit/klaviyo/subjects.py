"""Whom a request is about: where each operation's request names persons."""

from __future__ import annotations

import re
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.values import is_personal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SUBJECTS: Final = 1_000
"""Persons of one request that are named in its entry; Klaviyo takes as many in most bulk jobs."""

IDENTIFIERS: Final = (
    ("email", Kind.EMAIL),
    ("phone_number", Kind.PHONE),
    ("external_id", Kind.EXTERNAL_ID),
)
"""Members of a profile's attributes that identify it, by Klaviyo's own rules of precedence
(https://developers.klaviyo.com/en/reference/profiles_api_overview, "Profile identifiers")."""

_OWN: Final = ("data", "attributes")
_PROFILE: Final = ("data", "attributes", "profile", "data", "attributes")
_PROFILES: Final = ("data", "attributes", "profiles", "data", "[]", "attributes")
_EVENTS: Final = (
    "data", "attributes", "events-bulk-create", "data", "[]",
    "attributes", "profile", "data", "attributes",
)  # fmt: skip

# From the request bodies in Klaviyo's OpenAPI file, revision 2026-10-15.
PLACES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = MappingProxyType(
    {
        ("POST", "/api/profiles"): _OWN,
        ("PATCH", "/api/profiles/{id}"): _OWN,
        ("POST", "/api/profile-import"): _OWN,
        ("POST", "/client/profiles"): _OWN,
        ("POST", "/client/reviews"): _OWN,
        ("POST", "/api/events"): _PROFILE,
        ("POST", "/api/push-tokens"): _PROFILE,
        ("POST", "/api/back-in-stock-subscriptions"): _PROFILE,
        ("POST", "/api/data-privacy-deletion-jobs"): _PROFILE,
        ("POST", "/client/events"): _PROFILE,
        ("POST", "/client/event-bulk-create"): _PROFILE,
        ("POST", "/client/push-tokens"): _PROFILE,
        ("POST", "/client/push-token-unregister"): _PROFILE,
        ("POST", "/client/subscriptions"): _PROFILE,
        ("POST", "/client/back-in-stock-subscriptions"): _PROFILE,
        ("POST", "/api/profile-bulk-import-jobs"): _PROFILES,
        ("POST", "/api/profile-subscription-bulk-create-jobs"): _PROFILES,
        ("POST", "/api/profile-subscription-bulk-delete-jobs"): _PROFILES,
        ("POST", "/api/profile-suppression-bulk-create-jobs"): _PROFILES,
        ("POST", "/api/profile-suppression-bulk-delete-jobs"): _PROFILES,
        ("POST", "/api/event-bulk-create-jobs"): _EVENTS,
    }
)
"""Where the attributes that identify persons are in a request's body; ``[]`` is each of a list."""

DELETION: Final = ("POST", "/api/data-privacy-deletion-jobs")
"""The operation that asks Klaviyo to delete a person (``request_profile_deletion``)."""

_FILTERED: Final = re.compile(
    r"\b(email|phone_number|external_id)\s{0,4},\s{0,4}(\[[^\[\]]{0,20000}\]|\"[^\"]{0,1000}\"|'[^']{0,1000}')"
)
_QUOTED: Final = re.compile(r"\"([^\"]{1,1000})\"|'([^']{1,1000})'")
_KINDS: Final = dict(IDENTIFIERS)


def attributes(place: tuple[str, ...], body: Any) -> list[dict[str, Any]]:
    """The objects at a place of a body, at most `MAX_SUBJECTS`."""
    steps = iter(place)
    for step in steps:
        if type(body) is dict:
            body = body.get(step)
        elif step == "[]" and type(body) is list:
            rest = tuple(steps)
            return [one for member in body[:MAX_SUBJECTS] for one in attributes(rest, member)]
        else:
            return []
    return [body] if type(body) is dict else []


_PERSONAL: Final = (
    "first_name", "last_name", "organization", "title", "image", "anonymous_id", "author",
)  # fmt: skip
_PERSONAL_IN_LOCATION: Final = ("address1", "address2", "city", "region", "zip", "ip")


def said_of(found: dict[str, Any]) -> Iterator[tuple[Kind | None, str]]:
    """What a profile's attributes say of a person: identifiers, name, address, and properties.

    Of properties only those whose name tells that they are personal.
    """
    yield from identifiers(found)
    for name in _PERSONAL:
        value = found.get(name)
        if type(value) is str:
            yield None, value
    location = found.get("location")
    if type(location) is dict:
        for name in _PERSONAL_IN_LOCATION:
            value = location.get(name)
            if type(value) is str:
                yield None, value
    properties = found.get("properties")
    if type(properties) is dict:
        for name, value in islice(properties.items(), MAX_SUBJECTS):
            if type(value) is str and type(name) is str and is_personal(name):
                yield None, value


def identifiers(found: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    """The identifiers in a profile's attributes."""
    for name, kind in IDENTIFIERS:
        value = found.get(name)
        if type(value) is str and value:
            yield kind, value


def in_filter(url: str) -> Iterator[tuple[Kind, str]]:
    """The identifiers that a request's ``filter`` asks for, as in ``equals(email,"...")``."""
    query = url.partition("?")[2]
    if "filter=" not in query:
        return
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name != "filter":
            continue
        for member, values in islice(_FILTERED.findall(unquote_plus(value)), MAX_SUBJECTS):
            for quoted in islice(_QUOTED.findall(values), MAX_SUBJECTS):
                yield _KINDS[member], quoted[0] or quoted[1]
