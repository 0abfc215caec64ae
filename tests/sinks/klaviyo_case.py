"""What the tests of the Klaviyo sink share: entries, a sink on a fake, and what the fake holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from klaviyo_audit.entry import Actor, AuditEntry, Call, Error, Http, Key, Origin, Phase, Result
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.klaviyo.events import unique_id

if TYPE_CHECKING:
    from pathlib import Path

OWN_KEY = "pk_" + "0" * 34
PSEUDONYM_KEY = "pseudonym key for tests"
BULK = "/api/event-bulk-create-jobs"
SINGLE = "/api/events"


def entry(number: int = 0, phase: str = "outcome", **members: Any) -> AuditEntry:
    given: dict[str, Any] = {
        "id": f"01a20aa7-1675-71d2-af01-{number:012x}",
        "writer": "99b7fa91a3ac7e10",
        "n": number,
        "timestamp": "2026-11-23T19:00:00.123456Z",
        "phase": Phase(phase),
        "action": "klaviyo.profiles.get_profile",
        "user_id": "dana",
        "origin": Origin(service="shop"),
        **members,
    }
    return AuditEntry(**given)


def full_entry(n: int = 0, **members: Any) -> AuditEntry:
    """An entry with everything a real call leaves."""
    given: dict[str, Any] = {
        "resource": "/api/profiles/01HPROFILE",
        "result": Result.FAILURE,
        "duration_ms": 12.345,
        "parent_id": "01a20aa7-1675-71d2-af01-ffffffffffff",
        "call": Call(
            group="Profiles",
            operation="get_profile",
            called_as="get_profile",
            variant="plain",
            method="GET",
            path="/api/profiles/{id}",
            scopes=["profiles:read"],
            sdk="25.0.0",
            revision="2026-10-15",
            personal_data=True,
        ),
        "http": Http(attempts=2, requests=3, status=404, request_id="req-1", error_ids=["e-1"]),
        "key": Key(fingerprint="1c8ae584cc97", label="KLAVIYO_READ_KEY", kind="private"),
        "origin": Origin(service="shop", environment="test", host="web-1", pid=7, thread="Main"),
        "error": Error(type="NotFoundException", module="openapi_client", stage="http"),
        **members,
    }
    return entry(n, **given)


def personal_entry(secret: str, n: int = 0, *, coded: bool = True) -> AuditEntry:
    """An entry whose every free member holds a planted value, as if redaction had failed.

    Args:
        secret: The value.
        n: Number of the entry.
        coded: Whether those members hold it too that code and Klaviyo write, not persons.
    """
    if coded:
        members = {
            "resource": f"/api/profiles/{secret}",
            "action": f"shop.{secret}",
            "origin": Origin(service=f"a {secret}", environment=secret, host=secret, thread=secret),
            "http": Http(attempts=1, request_id=secret, error_codes=[secret], error_ids=[secret]),
        }
    else:
        members = {"origin": Origin(service="shop", host=secret, thread=secret)}
    return full_entry(
        n,
        user_id=secret,
        actor=Actor(reason=secret, on_behalf_of=secret, ip=secret),
        request={"body": secret, secret: 1},
        response=[secret],
        metadata={"note": secret, secret: secret, "from": secret},
        **members,
    )


def sink_on(fake: Any, folder: Any, **settings: Any) -> KlaviyoSink:
    given = {
        "klaviyo_key": OWN_KEY,
        "klaviyo_host": fake.url,
        "klaviyo_share": 100,
        "dir": folder,
        **settings,
    }
    return KlaviyoSink(load(**given))


def posts(fake: Any, path: str | None = None) -> list[Any]:
    return [r for r in fake.requests if r.method == "POST" and path in (None, r.path)]


def recorded(fake: Any) -> list[str]:
    """The unique ids of the events that the fake holds, in the order of their arrival."""
    store = fake._service.store
    return [e.attributes["event_properties"]["$event_id"] for e in store.all("event")]


def ids(entries: Any) -> list[str]:
    return [unique_id(each) for each in entries]


def expected_ids(trail: Path) -> set[str]:
    """The unique ids of everything in a journal."""
    lines = map(json.loads, (trail / "audit.jsonl").read_bytes().splitlines())
    return {
        line["id"] if line["phase"] == "outcome" else f"{line['id']}:{line['phase']}"
        for line in lines
    }
