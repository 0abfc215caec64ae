"""The events of the sink klaviyo against Klaviyo's own description of them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from openapi_schema_validator import OAS30Validator

from klaviyo_audit.sinks.klaviyo.events import (
    bulk,
    checkpoint_event,
    event_of,
    profile_of,
    single,
)
from tests.peers.conftest import required
from tests.peers.prism import openapi_file
from tests.sinks import klaviyo_case as case

NOW = datetime(2026, 11, 24, tzinfo=UTC)
NOTE = b"log.example/trail\n42\nroot\n\n\xe2\x80\x94 log.example sig\n"
PATHS = {"single": "/api/events", "bulk": "/api/event-bulk-create-jobs"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    with required():
        found: dict[str, Any] = orjson.loads(openapi_file().read_bytes())
    return _closed(found)


def _closed(schema: Any) -> Any:
    """The document with every described object refusing members that are not described."""
    if isinstance(schema, dict):
        closed = {name: _closed(member) for name, member in schema.items()}
        if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
            closed["additionalProperties"] = False
        return closed
    return [_closed(member) for member in schema] if isinstance(schema, list) else schema


def faults(document: dict[str, Any], kind: str, body: Any) -> list[str]:
    paths = document["paths"]
    operation = (paths.get(PATHS[kind]) or paths[PATHS[kind] + "/"])["post"]
    schema = operation["requestBody"]["content"]["application/vnd.api+json"]["schema"]
    validator = OAS30Validator({**schema, "components": document["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]


def events() -> list[dict[str, Any]]:
    entries = [
        case.full_entry(1),
        case.entry(2, "intent"),
        case.entry(3, "gap", metadata={"count": 1}),
        case.entry(4, timestamp="2999-01-01T00:00:00Z"),
        case.personal_entry("x"),
    ]
    made = [event_of(each, "Klaviyo Audit", case.PSEUDONYM_KEY, NOW) for each in entries]
    return [*made, checkpoint_event(NOTE, "Klaviyo Audit")]


@pytest.mark.parametrize("fixed", [None, "mine", "id:01HAUDIT"])
def test_bodies_are_as_described(document: dict[str, Any], fixed: str | None) -> None:
    profile = profile_of("shop", fixed)
    for event in events():
        assert faults(document, "single", single(event, profile)) == []
    assert faults(document, "bulk", bulk([(profile, events()), (profile, events())])) == []


@pytest.mark.parametrize("member", ["metric", "properties", "backfill", "unique_id", "time"])
@pytest.mark.parametrize("kind", ["single", "bulk"])
def test_another_body_would_be_told(document: dict[str, Any], kind: str, member: str) -> None:
    event = copy.deepcopy(events()[0])
    event["attributes"][member] = 7
    profile = profile_of("shop", None)
    body = single(event, profile) if kind == "single" else bulk([(profile, [event])])
    assert faults(document, kind, body)


@pytest.mark.parametrize("kind", ["single", "bulk"])
def test_a_member_that_is_not_described_would_be_told(document: dict[str, Any], kind: str) -> None:
    event = copy.deepcopy(events()[0])
    event["attributes"]["backfil"] = True
    profile = profile_of("shop", None)
    body = single(event, profile) if kind == "single" else bulk([(profile, [event])])
    assert any("backfil" in fault for fault in faults(document, kind, body))
