"""What the Klaviyo sink really sends, on each supported SDK."""

import json
import re

import pytest
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import instrument, uninstrument
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.klaviyo.events import REVISION
from klaviyo_audit.testing import FakeKlaviyo
from tests.sinks.klaviyo_case import (
    BULK,
    OWN_KEY,
    PSEUDONYM_KEY,
    SINGLE,
    entry,
    full_entry,
    ids,
    posts,
    recorded,
    sink_on,
)

PROFILE = {"data": {"type": "profile", "attributes": {"external_id": "klaviyo-audit:shop"}}}
METRIC = {"data": {"type": "metric", "attributes": {"name": "Klaviyo Audit"}}}


@pytest.fixture
def fake():
    with FakeKlaviyo(strict=True) as server:
        yield server


def test_a_single_event(fake, tmp_path):
    sink_on(fake, tmp_path, pseudonym_key=PSEUDONYM_KEY).deliver([full_entry(7)])
    (request,) = posts(fake)
    assert (request.path, request.status) == (SINGLE, 202)
    assert request.headers["authorization"] == f"Klaviyo-API-Key {OWN_KEY}"
    assert request.headers["content-type"] == "application/vnd.api+json"
    assert request.headers["revision"] == max(KlaviyoAPI._REVISION, REVISION)
    data = json.loads(request.body)["data"]
    properties = data["attributes"].pop("properties")
    assert data == {
        "type": "event",
        "attributes": {
            "unique_id": full_entry(7).id,
            "time": "2026-11-23T19:00:00.123456Z",
            "backfill": True,
            "metric": METRIC,
            "profile": PROFILE,
        },
    }
    assert re.fullmatch("user:k1:[0-9a-f]{32}", properties.pop("user"))
    assert properties == {
        "id": full_entry(7).id,
        "phase": "outcome",
        "timestamp": "2026-11-23T19:00:00.123456Z",
        "action": "klaviyo.profiles.get_profile",
        "writer": "99b7fa91a3ac7e10",
        "n": 7,
        "result": "failure",
        "duration_ms": 12.345,
        "parent_id": "01a20aa7-1675-71d2-af01-ffffffffffff",
        "resource": "/api/profiles/01HPROFILE",
        "call_group": "Profiles",
        "call_operation": "get_profile",
        "call_called_as": "get_profile",
        "call_variant": "plain",
        "call_method": "GET",
        "call_path": "/api/profiles/{id}",
        "call_scopes": ["profiles:read"],
        "call_personal_data": True,
        "call_sdk": "25.0.0",
        "call_revision": "2026-10-15",
        "http_status": 404,
        "http_attempts": 2,
        "http_requests": 3,
        "http_request_id": "req-1",
        "http_error_ids": ["e-1"],
        "key_fingerprint": "1c8ae584cc97",
        "key_label": "KLAVIYO_READ_KEY",
        "key_kind": "private",
        "service": "shop",
        "environment": "test",
        "error_type": "NotFoundException",
        "error_module": "openapi_client",
        "error_stage": "http",
    }


def test_a_bulk_job(fake, tmp_path):
    entries = [entry(n) for n in range(20)] + [entry(3, "intent", n=20)]
    sink_on(fake, tmp_path).deliver(entries)
    (request,) = posts(fake)
    assert (request.path, request.status) == (BULK, 202)
    assert request.headers["revision"] == max(KlaviyoAPI._REVISION, REVISION)
    job = json.loads(request.body)["data"]
    assert job["type"] == "event-bulk-create-job"
    (item,) = job["attributes"]["events-bulk-create"]["data"]
    assert item["type"] == "event-bulk-create"
    assert item["attributes"]["profile"] == PROFILE
    assert item["attributes"]["backfill"] is True
    events = item["attributes"]["events"]["data"]
    assert [event["attributes"]["unique_id"] for event in events] == ids(entries)
    assert events[-1]["attributes"]["unique_id"] == f"{entry(3).id}:intent"
    assert all(event["attributes"]["backfill"] is True for event in events)
    assert all(event["attributes"]["metric"] == METRIC for event in events)
    assert recorded(fake) == ids(entries)


def test_what_was_sent_can_be_read_back(fake, tmp_path):
    sink = sink_on(fake, tmp_path)
    sink.deliver([entry(n) for n in range(7)])
    sink.deliver_checkpoints([b"log.example/trail\n42\nroot\n\n\xe2\x80\x94 log.example sig\n"])
    found = sink.confirm([entry(n) for n in range(9)])
    assert list(found.arrived) == ids(entry(n) for n in range(7))
    assert list(found.missing) == ids(entry(n) for n in (7, 8))
    assert list(sink.checkpoints()) == [
        b"log.example/trail\n42\nroot\n\n\xe2\x80\x94 log.example sig\n"
    ]


def test_the_sink_is_not_audited_itself(fake, tmp_path, auditor, trail):
    instrument(auditor)
    try:
        sink_on(fake, tmp_path / "sink").deliver([entry(n) for n in range(9)])
        KlaviyoSink(load(dir=tmp_path), client=fake.client()).track("audit", entry(99))
    finally:
        uninstrument()
    assert len(posts(fake)) == 2
    assert trail.of("outcome") == []


def test_the_programs_own_client_is_used_as_it_is(fake, tmp_path):
    client = fake.client(api_key=OWN_KEY)
    client.api_client.set_default_header("X-Shop", "7")
    KlaviyoSink(load(dir=tmp_path), client=client).track("audit", full_entry(1).to_dict())
    (request,) = posts(fake)
    assert request.headers["x-shop"] == "7"
    assert recorded(fake) == ids([entry(1)])
