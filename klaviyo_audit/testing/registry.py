"""Which operations a `FakeKlaviyo` carries out, where all others get a generated answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klaviyo_audit.testing import handlers, track
from klaviyo_audit.testing.store import EVENT, LIST, PROFILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.testing.exchange import Handler

BULK_EVENTS = ("POST", "/api/event-bulk-create-jobs")

HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("POST", "/api/profiles"): handlers.create_profile,
    ("GET", "/api/profiles"): handlers.read_all(PROFILE),
    ("GET", "/api/profiles/{id}"): handlers.read_one(PROFILE),
    ("PATCH", "/api/profiles/{id}"): handlers.update(PROFILE),
    ("POST", "/api/profile-import"): handlers.create_or_update_profile,
    ("POST", "/api/data-privacy-deletion-jobs"): handlers.request_profile_deletion,
    ("POST", "/api/lists"): handlers.create_list,
    ("GET", "/api/lists"): handlers.read_all(LIST),
    ("GET", "/api/lists/{id}"): handlers.read_one(LIST),
    ("PATCH", "/api/lists/{id}"): handlers.update(LIST),
    ("DELETE", "/api/lists/{id}"): handlers.delete_list,
    ("POST", "/api/lists/{id}/relationships/profiles"): handlers.add_to_list,
    ("DELETE", "/api/lists/{id}/relationships/profiles"): handlers.remove_from_list,
    ("GET", "/api/lists/{id}/profiles"): handlers.read_list_profiles,
    ("GET", "/api/lists/{id}/relationships/profiles"): handlers.read_list_profile_ids,
    ("POST", "/api/events"): track.create_event,
    BULK_EVENTS: track.bulk_create_events(400),
    ("GET", "/api/events"): handlers.read_all(EVENT),
    ("GET", "/api/events/{id}"): handlers.read_one(EVENT),
}
"""By HTTP method and path template, as the operations of the SDK are known."""
