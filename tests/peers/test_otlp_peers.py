"""The sink otlp against collectors nobody here wrote: what they got is what the journal says."""

from __future__ import annotations

import asyncio
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
from tests.peers.kafka_mock import MockCluster
from tests.peers.prism import PeerMissing
from tests.peers.processes import free_port
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


def plain(value: dict[str, Any]) -> Any:
    """An AnyValue in OTLP/JSON as a Python value of the same type."""
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [plain(item) for item in content.get("values", [])]
    return content


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with required(), MockCluster(1) as cluster:
        cluster.create_topic(TOPIC, 1)
        yield cluster


def exported(cluster: MockCluster, count: int) -> list[tuple[dict, dict]]:
    """Resource attributes and record of what rotel has passed on."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "test"})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    found: list[tuple[dict, dict]] = []
    try:
        for _ in range(100):
            message = consumer.poll(0.3)
            if message is None:
                if len(found) >= count:
                    break
                continue
            assert message.error() is None
            for logs in json.loads(message.value()):
                resource = {a["key"]: plain(a["value"]) for a in logs["resource"]["attributes"]}
                found += [
                    (resource, record)
                    for scope in logs["scopeLogs"]
                    for record in scope["logRecords"]
                ]
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_rotel_has_the_journal_entry_by_entry(
    protocol, compression, cluster, journal, trail, tmp_path
):
    with required():
        rotel_program()
    arguments = ["--exporter", "kafka", "--kafka-exporter-brokers", cluster.bootstrap]
    arguments += ["--kafka-exporter-format", "json"]
    with rotel(tmp_path, *arguments) as collector:
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
        found = exported(cluster, len(journal) + 2)
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
        attributes = {a["key"]: plain(a["value"]) for a in record["attributes"]}
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
    with required():
        try:
            import oteltap
        except ImportError:
            raise PeerMissing("oteltap is missing (PyPI): run `make peers`") from None
    port = free_port()

    async def received() -> list[Any]:
        settings = oteltap.OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with oteltap.OtelTapHttpProtobufReceiver(settings) as receiver:
            found: list[Any] = []

            async def collect() -> None:
                async for record in receiver.stream_logs():
                    found.append(record)
                    if record.body.string_value.encode() == note:
                        return

            collecting = asyncio.create_task(collect())
            await asyncio.sleep(0)
            await asyncio.to_thread(ship)
            await asyncio.wait_for(collecting, 30)
            return found

    note = checkpoint_note()

    def ship() -> None:
        endpoint = f"http://127.0.0.1:{port}/v1/logs"
        sink = OtlpSink(endpoint=endpoint)
        shipping = Sinks([sink], load(dir=trail.folder, ship="background")).ship(trail.folder)
        assert shipping.flush(30)
        shipping.close(5)
        late = OtlpSink(endpoint=endpoint)
        late.deliver_checkpoints([note])
        late.close()

    records = {record.body.string_value.encode(): record for record in asyncio.run(received())}
    assert {*journal, note} <= set(records) <= {*journal, note, *notes_in(trail.folder)}
    for line in journal:
        expected = record_of(AuditEntry.from_json(line))
        expected.observed_time_unix_nano = records[line].observed_time_unix_nano
        assert records[line] == expected
