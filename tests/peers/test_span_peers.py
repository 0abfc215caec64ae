"""Live spans in collectors nobody here wrote: names, kinds, attributes with types, parents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_client.exceptions import ForbiddenException
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from klaviyo_audit import acting_as
from tests.peers.conftest import required
from tests.peers.exported import attributes_of, to_kafka, told_by_oteltap
from tests.peers.kafka_mock import MockCluster
from tests.peers.rotel_agent import rotel, rotel_program
from tests.sinks.collector import values

TOPIC = "otlp_traces"
CLIENT, INTERNAL, FAILED = 3, 1, 2


def exporter_for(protocol: str, endpoint: str) -> Any:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(endpoint=endpoint, insecure=True)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(endpoint=f"{endpoint}/v1/traces")


def trace_some_calls(auditor, client, fake, exporter) -> None:
    """A service function with a write, a read and one that is refused, exported to the end."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    auditor.observe(tracer_provider=provider)
    URLLib3Instrumentor().instrument(tracer_provider=provider)
    try:
        klaviyo = auditor.audit(client)

        @auditor.audited(action="loyalty.redeem")
        def redeem() -> None:
            klaviyo.Lists.delete_list("L1")
            fake.fail(429, retry_after=0, times=1)
            klaviyo.Lists.get_list("L2")
            fake.fail(403, times=1)
            with pytest.raises(ForbiddenException):
                klaviyo.Profiles.get_profile("P1")

        with acting_as("dana"):
            redeem()
    finally:
        URLLib3Instrumentor().uninstrument()
        provider.shutdown()


def check(spans: list[dict[str, Any]], trail, fake) -> None:
    """What a collector got against what the journal says.

    Args:
        spans: Of each, name, kind, status, ids and attributes.
        trail: The journal.
        fake: The server that was called.
    """
    entries = {line["trace"]["span_id"]: line for line in trail.outcomes()}
    by_id = {span["id"]: span for span in spans}
    host, _, port = fake.url.removeprefix("http://").partition(":")
    ours = [span for span in spans if "klaviyo.audit.id" in span["attributes"]]
    assert {span["id"] for span in ours} == set(entries)
    for span in ours:
        entry, call = entries[span["id"]], entries[span["id"]]["call"]
        if "method" not in call:
            assert (span["name"], span["kind"], span["parent"]) == ("loyalty.redeem", INTERNAL, "")
            assert span["attributes"] == {
                "code.function.name": "loyalty.redeem",
                "klaviyo.audit.id": entry["id"],
                "klaviyo.audit.result": "success",
            }
            continue
        expected = {
            "http.request.method": call["method"],
            "url.template": call["path"],
            "url.full": f"{fake.url}{entry['resource']}",
            "server.address": host,
            "server.port": int(port),
            "http.response.status_code": entry["http"]["status"],
            "klaviyo.operation": call["operation"],
            "klaviyo.resource_type": call["group"].lower(),
            "klaviyo.revision": call["revision"],
            "klaviyo.audit.id": entry["id"],
            "klaviyo.audit.risk": call["risk"],
            "klaviyo.audit.result": entry["result"],
        }
        if entry["http"]["requests"] > 1:
            expected["http.request.resend_count"] = entry["http"]["requests"] - 1
        if entry["result"] == "failure":
            expected["error.type"] = "403"
        assert span["attributes"] == expected
        assert {name: type(value) for name, value in span["attributes"].items()} == {
            name: type(value) for name, value in expected.items()
        }
        assert (span["name"], span["kind"]) == (f"{call['method']} {call['path']}", CLIENT)
        assert span["failed"] is (entry["result"] == "failure")
        assert by_id[span["parent"]]["name"] == "loyalty.redeem"
    http = [span for span in spans if span not in ours]
    assert len(http) >= 3
    assert all(by_id[span["parent"]] in ours for span in http)
    assert len({span["trace"] for span in spans}) == 1


def from_json(messages: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": span["name"],
            "kind": span["kind"],
            "id": span["spanId"],
            "trace": span["traceId"],
            "parent": span.get("parentSpanId", ""),
            "failed": span.get("status", {}).get("code", 0) == FAILED,
            "attributes": attributes_of(span),
        }
        for message in messages
        for resource in json.loads(message.value())
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_rotel_has_the_spans(protocol, auditor, client, fake, trail, tmp_path):
    with required():
        rotel_program()
        cluster = MockCluster(1)
    with cluster:
        cluster.create_topic(TOPIC, 1)
        with rotel(tmp_path, *to_kafka(cluster)) as collector:
            endpoint = collector.grpc if protocol == "grpc" else collector.http
            trace_some_calls(auditor, client, fake, exporter_for(protocol, endpoint))
            spans = from_json(cluster.read(TOPIC, lambda messages: len(from_json(messages)) >= 7))
    check(spans, trail, fake)


def test_oteltap_has_the_spans(auditor, client, fake, trail):
    def send(address: str) -> None:
        trace_some_calls(auditor, client, fake, exporter_for("http/protobuf", address))

    with required():
        # The function's span is the last to end.
        told = told_by_oteltap("stream_traces", send, lambda span: span.name == "loyalty.redeem")
    spans = [
        {
            "name": span.name,
            "kind": span.kind,
            "id": span.span_id.hex(),
            "trace": span.trace_id.hex(),
            "parent": span.parent_span_id.hex(),
            "failed": span.status.code == FAILED,
            "attributes": values(span.attributes),
        }
        for span in told
    ]
    check(spans, trail, fake)
