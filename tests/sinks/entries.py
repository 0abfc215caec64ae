"""Entries for the tests of sinks: one with every member, and many that differ."""

from __future__ import annotations

from typing import Any

from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.journal.format import encode

FULL: dict[str, Any] = {
    "v": 1,
    "id": "019ab2f4-5e80-7c31-9a44-0f6e2d1c8b57",
    "writer": "9f2c41d07a3be815",
    "n": 42,
    "timestamp": "2026-11-23T19:00:00.123456Z",
    "phase": "outcome",
    "action": "klaviyo.profiles.create_profile",
    "user_id": "dana",
    "resource": "/api/profiles/01HX",
    "result": "failure",
    "duration_ms": 12.345,
    "parent_id": "019ab2f4-5e80-7c31-9a44-0f6e2d1c8b56",
    "call": {
        "group": "Profiles",
        "operation": "create_profile",
        "called_as": "create_profile",
        "variant": "plain",
        "method": "POST",
        "path": "/api/profiles",
        "scopes": ["profiles:write", "profiles:read"],
        "risk": "high",
        "personal_data": True,
        "sdk": "25.0.0",
        "revision": "2026-10-15",
    },
    "http": {
        "status": 429,
        "attempts": 2,
        "requests": 3,
        "server": "http://192.0.2.9:8080",
        "request_id": "req-1",
        "revision": "2026-07-15",
        "rate_limit": {"limit": 750, "remaining": 0, "reset": 31, "retry_after": "7"},
        "error_ids": ["e-1"],
        "error_codes": ["throttled"],
    },
    "key": {
        "fingerprint": "0123456789ab",
        "site": "ABC123",
        "label": "KLAVIYO_KEY",
        "kind": "private",
    },
    "actor": {
        "on_behalf_of": "erin",
        "reason": "Überprüfung\u2028ticket 4711",
        "ip": "192.0.2.7",
        "agent": "an-agent/1.0",
        "fallback": False,
    },
    "origin": {
        "service": "loyalty",
        "environment": "production",
        "host": "web-1",
        "pid": 7,
        "thread": "MainThread",
    },
    "trace": {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"},
    "error": {"type": "ApiException", "module": "openapi_client.exceptions", "stage": "http"},
    "subjects": ["p1:0123456789abcdef"],
    "consent": {"change": "subscribe", "channels": ["email"]},
    "request": {"body": {"data": [1, 2.5, None, "x"]}},
    "response": {"id": "01HX"},
    "metadata": {"ticket": "T-1", "tries": 3, "ratio": 0.5, "dry": False, "tags": ["a", "b"]},
}


def line(**changes: Any) -> bytes:
    """A journal line with every member but those set to None."""
    members = {name: value for name, value in {**FULL, **changes}.items() if value is not None}
    return encode(members)[:-1]


def entry(**changes: Any) -> AuditEntry:
    return AuditEntry.from_json(line(**changes))


def many(count: int, **changes: Any) -> list[AuditEntry]:
    """Entries that differ in number and id."""
    return [entry(n=n, id=f"019ab2f4-5e80-7c31-9a44-{n:012x}", **changes) for n in range(count)]
