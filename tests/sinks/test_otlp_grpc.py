"""The OTLP sink over gRPC, against a server that answers in every way it can."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.otlp import records as otlp_records
from tests.ports import free_port
from tests.sinks import entries
from tests.sinks.collector import records, values
from tests.waiting import PATIENCE, wait_for

TOKEN = "Bearer not-a-real-token-but-a-secret"


class Service(LogsServiceServicer):
    def __init__(self):
        self.behave = lambda request, context: ExportLogsServiceResponse()
        self.taken = []
        self.requests = []
        self.metadata = []

    def Export(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        self.requests.append(request)
        response = self.behave(request, context)
        self.taken.extend(records(request))
        return response

    def uids(self):
        return [values(record.attributes)["log.record.uid"] for record in self.taken]

    def fail(self, code, details="", trailing=()):
        def behave(request, context):
            context.set_trailing_metadata(trailing)
            context.abort(code, details)

        self.behave = behave


def start(service, port=0, limit=4 << 20):
    server = grpc.server(
        ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", limit)]
    )
    add_LogsServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def sink(service):
    server, port = start(service)
    sink = OtlpSink(
        protocol="grpc",
        endpoint=f"http://127.0.0.1:{port}",
        headers={"Authorization": TOKEN},
        timeout=60,
    )
    yield sink
    sink.close()
    server.stop(0).wait()


def uids(batch):
    return [f"{entry.id}-{entry.phase}" for entry in batch]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_entries_arrive(service, compression):
    server, port = start(service)
    sink = OtlpSink(
        protocol="grpc",
        endpoint=f"http://127.0.0.1:{port}",
        headers={"Authorization": TOKEN},
        compression=compression,
    )
    batch = entries.many(30)
    sink.deliver(batch)
    sink.deliver_checkpoints([b"a note\n"])
    sink.close()
    server.stop(0).wait()
    assert [r.body.string_value.encode() for r in service.taken[:-1]] == [
        entries.line(n=e.n, id=e.id) for e in batch
    ]
    assert service.taken[-1].event_name == "klaviyo.audit.checkpoint"
    assert service.metadata[0]["authorization"] == TOKEN
    assert service.metadata[0]["user-agent"].startswith("klaviyo-audit/")


@pytest.mark.parametrize(
    "code",
    [
        "CANCELLED",
        "UNKNOWN",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "OUT_OF_RANGE",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "NOT_FOUND",
    ],
)
def test_try_again_later(service, sink, code):
    service.fail(grpc.StatusCode[code], "busy")
    with pytest.raises(Retry, match=f"{code} .busy") as caught:
        sink.deliver(entries.many(2))
    assert caught.value.after is None
    assert len(service.requests) == 1
    service.behave = lambda request, context: ExportLogsServiceResponse()
    sink.deliver(entries.many(2))
    assert service.uids() == uids(entries.many(2))


def _details(seconds, nanos=0):
    packed = AnyMessage()
    packed.Pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos)))
    return Status(code=8, details=[AnyMessage(type_url="x/other"), packed]).SerializeToString()


@pytest.mark.parametrize(
    ("trailing", "after"),
    [
        ((("grpc-status-details-bin", _details(7, 500_000_000)),), 7.5),
        (
            (
                (
                    "google.rpc.retryinfo-bin",
                    RetryInfo(retry_delay=Duration(seconds=3)).SerializeToString(),
                ),
            ),
            3.0,
        ),
        ((("grpc-status-details-bin", _details(999_999)),), 3600.0),
        ((("grpc-status-details-bin", b"\xff\xff"),), None),
        ((("other", "x"),), None),
    ],
)
def test_retry_info(service, sink, trailing, after):
    service.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", trailing)
    with pytest.raises(Retry) as caught:
        sink.deliver(entries.many(1))
    assert caught.value.after == after


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_a_wrong_key_stops_the_sink(service, sink, code):
    service.fail(grpc.StatusCode[code], f"unknown token {TOKEN}")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        sink.deliver(entries.many(1))
    assert "a-real-token" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_without_logs():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sink = OtlpSink(protocol="grpc", endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        sink.deliver(entries.many(1))
    sink.close()
    server.stop(0).wait()


def test_a_message_that_is_too_large_is_halved():
    """The server's own limit and its own words, not ours."""
    service = Service()
    server, port = start(service, limit=8_000)
    sink = OtlpSink(protocol="grpc", endpoint=f"http://127.0.0.1:{port}")
    batch = [*entries.many(10), entries.entry(n=99, user_id="x" * 9_000)]
    with pytest.raises(Rejected) as caught:
        sink.deliver(batch)
    assert [entry.n for entry in caught.value.entries] == [99]
    assert sorted(service.uids()) == sorted(uids(batch[:10]))
    sink.close()
    server.stop(0).wait()


def test_what_is_refused_is_found(service, sink):
    def behave(request, context):
        if any(values(r.attributes)["klaviyo.audit.n"] == 5 for r in records(request)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad record")
        return ExportLogsServiceResponse()

    service.behave = behave
    with pytest.raises(Rejected, match="bad record") as caught:
        sink.deliver(entries.many(8))
    assert [entry.n for entry in caught.value.entries] == [5]
    assert len(service.taken) == 7


def test_a_partial_success(service, sink):
    def behave(request, context):
        response = ExportLogsServiceResponse()
        response.partial_success.rejected_log_records = 1
        return response

    service.behave = behave
    with pytest.raises(Rejected, match="rejected 1 of 3"):
        sink.deliver(entries.many(3))


def test_a_server_that_hangs(service):
    over = threading.Event()
    service.behave = lambda request, context: over.wait(1000) and ExportLogsServiceResponse()
    server, port = start(service)
    sink = OtlpSink(protocol="grpc", endpoint=f"http://127.0.0.1:{port}", timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(Retry, match="DEADLINE_EXCEEDED"):
        sink.deliver(entries.many(1))
    assert time.monotonic() - begun < PATIENCE
    over.set()
    sink.close()
    server.stop(0).wait()


def test_a_server_that_comes_back_is_found_soon():
    port = free_port()
    sink = OtlpSink(protocol="grpc", endpoint=f"http://127.0.0.1:{port}", timeout=60)
    for _ in range(3):
        with pytest.raises(Retry, match="UNAVAILABLE"):
            sink.deliver(entries.many(1))
    service = Service()
    server, _ = start(service, port)

    def arrives():
        with suppress(Retry):
            sink.deliver(entries.many(1))
        return service.taken

    wait_for(arrives, every=0.1)
    assert len(service.taken) == 1
    sink.close()
    server.stop(0).wait()


def test_what_is_no_grpc_at_all():
    """An HTTP/1 server on that port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sink = OtlpSink(protocol="grpc", endpoint=f"http://127.0.0.1:{port}", timeout=1)
        with pytest.raises(Retry):
            sink.deliver(entries.many(1))
        sink.close()


def test_its_traffic_makes_no_spans(service, sink, monkeypatch):
    from opentelemetry.instrumentation.grpc import client_interceptor
    from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    plain = grpc.insecure_channel

    def instrumented(*args, **kwargs):
        # What GrpcInstrumentorClient does, but not with the global tracer provider.
        return intercept_channel(plain(*args, **kwargs), client_interceptor(provider))

    monkeypatch.setattr(grpc, "insecure_channel", instrumented)
    with grpc.insecure_channel(sink.settings.target) as channel:
        LogsServiceStub(channel).Export(ExportLogsServiceRequest(), timeout=60)
    assert len(exporter.get_finished_spans()) == 1, "the instrumentation does not work"
    sink.deliver(entries.many(3))
    assert len(exporter.get_finished_spans()) == 1
    assert len(service.taken) == 3
    assert "traceparent" not in service.metadata[-1]


def test_the_next_request_is_made_meanwhile_and_sent_after_the_answer(service, sink, monkeypatch):
    made, begun, taken = [], [], []
    plain = otlp_records.encoded

    def encoded(entry):
        made.append(entry.n)
        return plain(entry)

    def behave(request, context):
        sizes = len(records(request))
        assert begun == taken, "two requests are under way"
        begun.append(sizes)
        known = sum(begun) + 1  # the one that was too much for the request is encoded by then
        if known < 20:
            deadline = time.monotonic() + 30
            while len(made) <= known and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(made) > known, "nothing is encoded while a request is on its way"
        taken.append(sizes)
        return ExportLogsServiceResponse()

    monkeypatch.setattr(otlp_records, "encoded", encoded)
    service.behave = behave
    sink._most = 9_000  # two records
    batch = entries.many(20)
    sink.deliver(batch)
    assert len(begun) > 5
    assert made == list(range(20)), "each is encoded once"
    assert service.uids() == [f"{entry.id}-{entry.phase}" for entry in batch]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_before_the_first_delivery_delivers(tmp_path):
    """Forked while gRPC works is another matter; docs/sinks-otlp.md says so."""
    service = Service()
    server, port = start(service)
    program = (
        "import os, sys\n"
        "from klaviyo_audit.sinks.otlp import OtlpSink\n"
        "from tests.sinks import entries\n"
        f"sink = OtlpSink(protocol='grpc', endpoint='http://127.0.0.1:{port}')\n"
        "pid = os.fork()\n"
        "sink.deliver(entries.many(1))\n"
        "sink.close()\n"
        "sys.exit(0 if pid == 0 else os.waitpid(pid, 0)[1])\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    ended = subprocess.run([sys.executable, "-c", program], check=False, cwd=root, timeout=PATIENCE)
    server.stop(0).wait()
    assert ended.returncode == 0
    assert len(service.taken) == 2
