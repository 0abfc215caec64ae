"""The sink otlp against collectors nobody here wrote: what they got is what the journal says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from openapi_client.exceptions import NotFoundException

from klaviyo_audit import acting_as
from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.journal.checkpoint import read_notes
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.shipping import Sinks
from tests.peers.conftest import required
from tests.peers.exported import attributes_of, to_kafka, told_by_oteltap
from tests.peers.kafka_mock import MockCluster
from tests.peers.rotel_agent import rotel, rotel_program
from tests.sinks import entries
from tests.sinks.collector import values
from tests.sinks.test_otlp_records import checkpoint_note, record_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOLS = ("http/protobuf", "grpc")
TOPIC = "otlp_logs"


@pytest.fixture
def journal(auditor, client, fake, trail) -> list[bytes]:
    """The lines of a journal with real calls, intents, an error, an event and the journal's own."""
    audited = auditor.audit(client)
    with acting_as("erin", reason="GDPR \u2028 4711", ip="192.0.2.1", ticket="T-1", tries=2):
        audited.Profiles.get_profiles()
        audited.Profiles.create_profile(
            {"data": {"type": "profile", "attributes": {"email": "a@example.com"}}}
        )
        fake.fail(404)
        with pytest.raises(NotFoundException):
            audited.Profiles.get_profile("no-such-profile")
    auditor.record("shop.opened", metadata={"ratio": 0.5, "open": True, "tags": ["a"]})
    auditor.close()
    return trail.path.read_bytes().splitlines()


def notes_in(folder) -> list[bytes]:
    if not (folder / "checkpoints").exists():
        return []
    with (folder / "checkpoints").open("rb") as file:
        return [stored.note for stored in read_notes(file)]


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with required(), MockCluster(1) as cluster:
        cluster.create_topic(TOPIC, 1)
        yield cluster


def logs_in(messages: list[Any]) -> list[tuple[dict, dict]]:
    """Resource attributes and record of what rotel has passed on."""
    return [
        (attributes_of(logs["resource"]), record)
        for message in messages
        for logs in json.loads(message.value())
        for scope in logs["scopeLogs"]
        for record in scope["logRecords"]
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_rotel_has_the_journal_entry_by_entry(
    protocol, compression, cluster, journal, trail, tmp_path
):
    with required():
        rotel_program()
    with rotel(tmp_path, *to_kafka(cluster)) as collector:
        sink = OtlpSink(
            protocol=protocol, endpoint=collector.endpoint(protocol), compression=compression
        )
        shipping = Sinks([sink], load(dir=trail.folder, ship="background")).ship(trail.folder)
        assert shipping.flush(30)
        shipping.close(5)
        late = OtlpSink(protocol=protocol, endpoint=collector.endpoint(protocol))
        note = checkpoint_note()
        late.deliver_checkpoints([note])
        late.deliver([entries.entry()])
        late.close()
        count = len(journal) + 2
        found = logs_in(cluster.read(TOPIC, lambda messages: len(logs_in(messages)) >= count))
    lines = [*journal, entries.line()]
    records = {r["body"]["stringValue"].encode(): (resource, r) for resource, r in found}
    assert len(found) == len(records), "something came twice"
    notes = records.keys() - set(lines)
    assert {note} <= notes <= {note, *notes_in(trail.folder)}
    assert {records[body][1]["eventName"] for body in notes} == {"klaviyo.audit.checkpoint"}
    for line in lines:
        resource, record = records[line]
        entry = AuditEntry.from_json(line)
        expected = record_of(entry)
        attributes = attributes_of(record)
        assert attributes == values(expected.attributes)
        assert {name: type(value) for name, value in attributes.items()} == {
            name: type(value) for name, value in values(expected.attributes).items()
        }
        assert int(record["timeUnixNano"]) == expected.time_unix_nano
        assert record["severityNumber"] == expected.severity_number
        assert record["severityText"] == expected.severity_text
        assert record["eventName"] == "klaviyo.audit"
        assert record.get("traceId", "") == expected.trace_id.hex()
        assert record.get("spanId", "") == expected.span_id.hex()
        assert resource["service.name"] == entry.origin.service


def test_oteltap_has_the_journal_entry_by_entry(journal, trail):
    note = checkpoint_note()

    def ship(address: str) -> None:
        endpoint = f"{address}/v1/logs"
        sink = OtlpSink(endpoint=endpoint)
        shipping = Sinks([sink], load(dir=trail.folder, ship="background")).ship(trail.folder)
        assert shipping.flush(30)
        shipping.close(5)
        late = OtlpSink(endpoint=endpoint)
        late.deliver_checkpoints([note])
        late.close()

    def is_last(record: Any) -> bool:
        return bool(record.body.string_value.encode() == note)

    with required():
        told = told_by_oteltap("stream_logs", ship, is_last)
    records = {record.body.string_value.encode(): record for record in told}
    assert {*journal, note} <= set(records) <= {*journal, note, *notes_in(trail.folder)}
    for line in journal:
        expected = record_of(AuditEntry.from_json(line))
        expected.observed_time_unix_nano = records[line].observed_time_unix_nano
        assert records[line] == expected
