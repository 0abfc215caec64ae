"""What an entry looks like as an OTLP log record."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from openapi_client.exceptions import NotFoundException
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.semconv._incubating.attributes import (
    client_attributes,
    deployment_attributes,
    error_attributes,
    host_attributes,
    http_attributes,
    log_attributes,
    process_attributes,
    service_attributes,
    thread_attributes,
    url_attributes,
    user_agent_attributes,
    user_attributes,
)

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit import entry as entries_module
from klaviyo_audit._version import __version__
from klaviyo_audit.entry import AuditEntry, Phase, Result, Risk
from klaviyo_audit.journal.checkpoint import Checkpoint, sign
from klaviyo_audit.journal.merkle import CompactRange, leaf_hash
from klaviyo_audit.journal.note import generate_key
from klaviyo_audit.sinks.otlp import attributes as otlp_attributes
from klaviyo_audit.sinks.otlp.attributes import ATTRIBUTES, BODY_ONLY, RESOURCE, severity
from klaviyo_audit.sinks.otlp.records import Origin, encoded, encoded_checkpoint, request_of
from klaviyo_audit.sinks.verbatim import line_of
from tests.sinks import entries
from tests.sinks.collector import records, values
from tests.sinks.otlp_plain import add, plain

DOCS = Path(__file__).parents[2] / "docs/sinks-otlp.md"
SEVERITY_NAMES = {
    9: "INFO",
    10: "INFO2",
    11: "INFO3",
    13: "WARN",
    14: "WARN2",
    15: "WARN3",
    17: "ERROR",
    18: "ERROR2",
    19: "ERROR3",
}


def record_of(entry: AuditEntry) -> LogRecord:
    return LogRecord.FromString(encoded(entry).record)


def test_every_member_has_its_attribute_with_exact_name_and_type():
    record = record_of(entries.entry())
    expected = {
        "klaviyo.audit.version": 1,
        "klaviyo.audit.id": "019ab2f4-5e80-7c31-9a44-0f6e2d1c8b57",
        "klaviyo.audit.writer": "9f2c41d07a3be815",
        "klaviyo.audit.n": 42,
        "klaviyo.audit.phase": "outcome",
        "klaviyo.audit.action": "klaviyo.profiles.create_profile",
        "user.id": "dana",
        "klaviyo.audit.resource": "/api/profiles/01HX",
        "klaviyo.audit.result": "failure",
        "klaviyo.audit.duration_ms": 12.345,
        "klaviyo.audit.parent_id": "019ab2f4-5e80-7c31-9a44-0f6e2d1c8b56",
        "klaviyo.audit.subjects": ["p1:0123456789abcdef"],
        "klaviyo.audit.sum": json.loads(entries.line())["sum"],
        "klaviyo.operation.group": "Profiles",
        "klaviyo.operation.name": "create_profile",
        "klaviyo.operation.called_as": "create_profile",
        "klaviyo.operation.variant": "plain",
        "http.request.method": "POST",
        "url.template": "/api/profiles",
        "klaviyo.operation.scopes": ["profiles:write", "profiles:read"],
        "klaviyo.operation.risk": "high",
        "klaviyo.operation.personal_data": True,
        "klaviyo.sdk.version": "25.0.0",
        "klaviyo.revision": "2026-10-15",
        "klaviyo.http.attempts": 2,
        "klaviyo.http.requests": 3,
        "klaviyo.http.server": "http://192.0.2.9:8080",
        "http.request.resend_count": 2,
        "http.response.status_code": 429,
        "klaviyo.request_id": "req-1",
        "klaviyo.response.revision": "2026-07-15",
        "klaviyo.error.ids": ["e-1"],
        "klaviyo.error.codes": ["throttled"],
        "klaviyo.rate_limit.limit": 750,
        "klaviyo.rate_limit.remaining": 0,
        "klaviyo.rate_limit.reset": 31,
        "klaviyo.rate_limit.retry_after": "7",
        "klaviyo.key.fingerprint": "0123456789ab",
        "klaviyo.key.site": "ABC123",
        "klaviyo.key.label": "KLAVIYO_KEY",
        "klaviyo.key.kind": "private",
        "klaviyo.audit.actor.on_behalf_of": "erin",
        "klaviyo.audit.actor.reason": "Überprüfung\u2028ticket 4711",
        "client.address": "192.0.2.7",
        "user_agent.original": "an-agent/1.0",
        "klaviyo.audit.actor.fallback": False,
        "process.pid": 7,
        "thread.name": "MainThread",
        "error.type": "openapi_client.exceptions.ApiException",
        "klaviyo.error.stage": "http",
        "klaviyo.audit.metadata.ticket": "T-1",
        "klaviyo.audit.metadata.tries": 3,
        "klaviyo.audit.metadata.ratio": 0.5,
        "klaviyo.audit.metadata.dry": False,
        "log.record.uid": "019ab2f4-5e80-7c31-9a44-0f6e2d1c8b57-outcome",
    }
    found = values(record.attributes)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()
    }
    assert record.event_name == "klaviyo.audit"
    assert record.time_unix_nano == 1_795_460_400_123_456_000
    assert record.observed_time_unix_nano > record.time_unix_nano
    assert record.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert record.span_id.hex() == "b7ad6b7169203331"
    assert (record.severity_number, record.severity_text) == (17, "ERROR")
    assert record.body.string_value.encode() == entries.line()


def test_no_member_of_an_entry_is_forgotten():
    """A new member of an entry needs a name here (`ATTRIBUTES`) and in the docs, or a reason."""
    paths = set(_paths(AuditEntry))
    elsewhere = {
        "timestamp",
        "trace.trace_id",
        "trace.span_id",
        "error.type",
        "error.module",
        "metadata",
    } | BODY_ONLY
    assert paths == set(ATTRIBUTES) | set(RESOURCE) | elsewhere


def _paths(kind: type, prefix: str = ""):
    hints = typing.get_type_hints(kind, vars(entries_module))
    for spec in dataclasses.fields(kind):
        inner = [t for t in typing.get_args(hints[spec.name]) if dataclasses.is_dataclass(t)]
        if inner:
            yield from _paths(inner[0], f"{prefix}{spec.name}.")
        else:
            yield f"{prefix}{spec.name}"


def test_the_names_are_those_of_the_semantic_conventions():
    known = {
        value
        for module in (
            client_attributes,
            deployment_attributes,
            error_attributes,
            host_attributes,
            http_attributes,
            log_attributes,
            process_attributes,
            service_attributes,
            thread_attributes,
            url_attributes,
            user_agent_attributes,
            user_attributes,
        )
        for name, value in vars(module).items()
        if name.isupper()
    }
    names = {
        *ATTRIBUTES.values(),
        *RESOURCE.values(),
        "error.type",
        "log.record.uid",
        "http.request.resend_count",
    }
    assert {name for name in names if not name.startswith("klaviyo.")} <= known


def test_the_docs_have_every_name():
    text = DOCS.read_text()
    names = [
        *ATTRIBUTES.values(),
        *RESOURCE.values(),
        "error.type",
        "log.record.uid",
        "http.request.resend_count",
        otlp_attributes.CHECKPOINT_EVENT_NAME,
    ]
    assert [name for name in names if f"`{name}`" not in text] == []
    for path, name in {**ATTRIBUTES, **RESOURCE}.items():
        assert f"| `{path}` | `{name}` |" in text


def test_the_docs_have_the_severities():
    text = DOCS.read_text()
    for result in Result:
        cells = [SEVERITY_NAMES[severity("outcome", "a", result, risk)] for risk in Risk]
        assert f"| `{result}` | {' | '.join(f'`{cell}`' for cell in cells)} |" in text


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"phase": "intent", "result": None}, 9),
        ({"phase": "event", "result": None}, 9),
        ({"phase": "gap", "action": "journal.gap", "result": None}, 17),
        ({"phase": "journal", "action": "journal.open", "result": None}, 9),
        ({"phase": "journal", "action": "journal.recover", "result": None}, 13),
        ({"phase": "journal", "action": "journal.truncated", "result": None}, 17),
        ({"result": "success", "call": None}, 9),
        ({"result": "unknown"}, 18),
        ({"result": "denied"}, 14),
    ],
)
def test_severity_of(changes, number):
    record = record_of(entries.entry(**changes))
    assert record.severity_number == number
    assert record.severity_text == SEVERITY_NAMES[number]


def test_a_success_is_never_a_warning():
    assert max(severity("outcome", "a", Result.SUCCESS, risk) for risk in Risk) < 13


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"error": {"type": "ValueError", "module": "builtins"}}, "ValueError"),
        ({"error": None}, "429"),
        ({"error": None, "http": {"attempts": 1, "status": 201}}, None),
        ({"error": None, "http": None}, None),
    ],
)
def test_error_type(changes, kind):
    assert values(record_of(entries.entry(**changes)).attributes).get("error.type") == kind


def test_resends_are_told_only_where_there_were_any():
    record = record_of(entries.entry(http={"attempts": 1, "requests": 1, "status": 200}))
    assert "http.request.resend_count" not in values(record.attributes)


def test_records_are_grouped_by_where_they_come_from():
    two = [{"service": "a", "environment": None, "host": "h1"}, {"service": "b", "host": "h1"}]
    lines = [entries.entry(n=n, origin=two[n % 2]) for n in range(6)] + [entries.entry(origin=None)]
    request = ExportLogsServiceRequest.FromString(
        request_of([encoded(one) for one in lines], {"team": "crm", "service.name": "mine"})
    )
    told = [values(logs.resource.attributes) for logs in request.resource_logs]
    assert told == [
        {"service.name": "a", "host.name": "h1", "team": "crm"},
        {"service.name": "b", "host.name": "h1", "team": "crm"},
        {"service.name": "mine", "team": "crm"},
    ]
    assert [len(logs.scope_logs[0].log_records) for logs in request.resource_logs] == [3, 3, 1]
    assert {logs.scope_logs[0].scope.name for logs in request.resource_logs} == {"klaviyo_audit"}
    assert {logs.schema_url for logs in request.resource_logs} == {otlp_attributes.SCHEMA_URL}


def test_requests_are_what_protobuf_makes_of_the_same():
    records = [encoded(entries.entry(n=n, origin={"service": f"s{n % 2}"})) for n in range(300)]
    request = request_of(records, {"k8s.pod.name": "p", "process.pid": 3})
    again = ExportLogsServiceRequest.FromString(request)
    assert len(again.resource_logs) == 2
    expected = ExportLogsServiceRequest()
    for origin in dict.fromkeys(record.origin for record in records):
        logs = expected.resource_logs.add(schema_url=otlp_attributes.SCHEMA_URL)
        for name, value in (
            ("service.name", origin.service),
            ("k8s.pod.name", "p"),
            ("process.pid", 3),
        ):
            add(logs.resource, name, value)
        scope = logs.scope_logs.add(schema_url=otlp_attributes.SCHEMA_URL)
        scope.scope.name, scope.scope.version = "klaviyo_audit", __version__
        scope.log_records.extend(
            LogRecord.FromString(record.record) for record in records if record.origin == origin
        )
    assert again == expected


def test_without_any_service_the_resource_says_so():
    request = ExportLogsServiceRequest.FromString(
        request_of([encoded(entries.entry(origin=None))], {})
    )
    assert values(request.resource_logs[0].resource.attributes) == {
        "service.name": "unknown_service"
    }


def test_the_body_is_the_journals_line(auditor, client, fake, trail):
    """Also the line of real calls, whose members are made by other code than ours."""
    audited = auditor.audit(client)
    with acting_as("erin", reason="GDPR\u2028 4711", ip="192.0.2.1", ticket={"a": [1, 2.0]}):
        audited.Profiles.get_profiles()
        fake.fail(404)
        with pytest.raises(NotFoundException):
            audited.Profiles.get_profile("no-such-profile")
    auditor.record("shop.opened", resource="shop:1", result=Result.SUCCESS, metadata={"big": 2**70})
    auditor.flush(5)
    lines = trail.path.read_bytes().splitlines()
    assert len(lines) >= 4
    for line in lines:
        entry = AuditEntry.from_json(line)
        assert line_of(entry) == line
        assert record_of(entry).body.string_value.encode() == line


def test_a_line_of_a_later_version_keeps_the_sum_of_the_journal():
    line = entries.line(later=1)
    shown = orjson.loads(line_of(AuditEntry.from_json(line)))
    assert shown["sum"] == orjson.loads(line)["sum"]
    assert "later" not in shown


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    metadata=st.dictionaries(st.text(), _json, max_size=4),
    text=st.text(max_size=50),
    duration=st.floats(0, 1e9),
    request=_json,
    trace=st.fixed_dictionaries(
        {"trace_id": st.text(max_size=40), "span_id": st.text(max_size=40)}
    ),
    timestamp=st.text(max_size=30),
)
def test_any_entry_becomes_a_record(metadata, text, duration, request, trace, timestamp):
    changes = {
        "metadata": metadata,
        "user_id": text,
        "action": text,
        "resource": text,
        "duration_ms": duration,
        "request": request,
        "trace": trace,
        "timestamp": timestamp,
    }
    entry = entries.entry(**changes)
    (record,) = records(ExportLogsServiceRequest.FromString(request_of([encoded(entry)], {})))
    body = orjson.loads(record.body.string_value)
    assert body == orjson.loads(entries.line(**changes)) or not metadata
    assert values(record.attributes)["user.id"] == text
    assert len(record.trace_id) in (0, 16)
    assert len(record.span_id) in (0, 8)


TEXTS = st.one_of(
    st.text(st.characters(), max_size=20),  # lone surrogates, too
    st.sampled_from(["x" * size for size in (0, 1, 90, 100, 120, 127, 128, 4095, 4096, 16384)]),
)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63) - 2, 2**64),
    st.floats(),
    st.none(),
    st.lists(TEXTS, max_size=2),
)
ENTRIES = st.builds(
    AuditEntry,
    v=st.just(1),
    id=TEXTS,
    writer=TEXTS,
    n=st.integers(0, 2**64),
    timestamp=st.sampled_from(["2026-11-23T19:00:00.123456Z", "1970-01-01T00:00:00Z", "never"]),
    phase=st.sampled_from(Phase),
    action=TEXTS,
    user_id=TEXTS,
    resource=st.none() | TEXTS,
    result=st.none() | st.sampled_from(Result),
    duration_ms=st.none() | st.floats(),
    parent_id=st.none() | TEXTS,
    call=st.none() | st.builds(entries_module.Call),
    http=st.none() | st.builds(entries_module.Http),
    key=st.none() | st.builds(entries_module.Key),
    actor=st.none() | st.builds(entries_module.Actor),
    origin=st.none() | st.builds(entries_module.Origin),
    trace=st.none()
    | st.builds(
        entries_module.Trace,
        trace_id=st.sampled_from(["0" * 32, "ab" * 16, "none"]),
        span_id=st.sampled_from(["0" * 16, "cd" * 8, ""]),
    ),
    error=st.none() | st.builds(entries_module.Error),
    subjects=st.none() | st.lists(TEXTS, max_size=3),
    metadata=st.dictionaries(TEXTS, VALUES, max_size=5),
    sum=st.none() | TEXTS,
)


@given(st.lists(ENTRIES, min_size=1, max_size=3))
@settings(max_examples=150)
def test_remembered_pieces_make_the_bytes_that_protobuf_makes(made):
    for entry in made:
        try:
            record = encoded(entry).record
        except UnicodeEncodeError:
            assume(False)  # the journal has no line of it either
        assert record == plain(entry, LogRecord.FromString(record).observed_time_unix_nano)


def test_a_lone_surrogate_is_written_out():
    entry = dataclasses.replace(entries.entry(), user_id="a\ud800b", metadata={"k\ud800": "\ud800"})
    found = values(record_of(entry).attributes)
    assert found["user.id"] == "a\\ud800b"
    assert found["klaviyo.audit.metadata.k\\ud800"] == "\\ud800"


def checkpoint_note(size: int = 3) -> bytes:
    signer = generate_key("example.com/shop/audit")
    tree = CompactRange().extended(leaf_hash(b"%d" % index) for index in range(size))
    return sign(Checkpoint.of(tree, signer.name, sealed_at="2026-11-23T19:00:00.123456Z"), signer)


def test_a_checkpoint_is_its_note():
    note = checkpoint_note()
    record = LogRecord.FromString(encoded_checkpoint(note, Origin("shop")).record)
    assert record.event_name == "klaviyo.audit.checkpoint"
    assert record.body.string_value.encode() == note
    found = values(record.attributes)
    assert found["klaviyo.audit.checkpoint.origin"] == "example.com/shop/audit"
    assert found["klaviyo.audit.checkpoint.size"] == 3
    assert len(found["klaviyo.audit.checkpoint.root"]) == 64
    assert record.time_unix_nano == 1_795_460_400_123_456_000


def test_a_broken_checkpoint_is_sent_for_the_reader_to_judge():
    record = LogRecord.FromString(encoded_checkpoint(b"no note\xff", Origin()).record)
    assert record.body.string_value == "no note\\xff"
    assert record.event_name == "klaviyo.audit.checkpoint"


def test_phases_have_different_uids():
    uids = {
        values(record_of(entries.entry(phase=phase)).attributes)["log.record.uid"]
        for phase in Phase
    }
    assert len(uids) == len(Phase)


def test_a_journal_of_an_auditor_has_its_origin(trail):
    with Auditor(journal=trail.folder, service="shop", environment="test", host="h") as auditor:
        auditor.record("shop.opened")
    origins = {
        encoded(AuditEntry.from_json(line)).origin for line in trail.path.read_bytes().splitlines()
    }
    assert origins == {Origin("shop", "test", "h")}
