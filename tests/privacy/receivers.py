"""A real receiver for each sink, which keeps every byte that it is sent."""

from __future__ import annotations

import gzip
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import grpc
from confluent_kafka import Consumer, TopicPartition
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klaviyo_audit.settings import load
from klaviyo_audit.sinks.base import Rejected
from klaviyo_audit.sinks.kafka import KafkaSink
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.shipper import Pace, Shipper
from klaviyo_audit.sinks.stdout import StdoutSink
from klaviyo_audit.testing import FakeKlaviyo
from tests.peers.kafka_mock import MockCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

OWN_KEY = "pk_" + "0" * 34
TOPIC = "audit"
PARTITIONS = 2


class Refusing:
    """A sink that takes nothing: all goes to the dead letters."""

    name = "refusing"

    def deliver(self, entries):
        raise Rejected(entries, "no such thing here")

    def close(self):
        pass


def shipped(folder: Path, key: str) -> dict[str, list[bytes]]:
    """Ship a journal through every sink; what each receiver got, headers included."""
    received: dict[str, list[bytes]] = {}
    for name, receiver in {"klaviyo": _klaviyo, "otlp http": _http, "otlp grpc": _grpc,
                       "kafka": _kafka, "stdout": _stdout, "refusing": _refusing}.items():  # fmt: skip
        with receiver(folder, key) as (sink, taken):
            shipper = Shipper(folder, sink, pace=Pace(deadline=30.0, retry_most=0.2), tell=_told)
            done = shipper.run_once(600)
            shipper.close()
            assert done, f"{name} did not take everything"
            received[name] = taken()
    return received


def _told(message: str) -> None:
    print(message)  # to the output that the test searches


@contextmanager
def _klaviyo(folder: Path, key: str) -> Iterator[Any]:
    with FakeKlaviyo(keep=1_000_000) as fake:
        settings = load(klaviyo_key=OWN_KEY, klaviyo_host=fake.url, klaviyo_share=100, dir=folder,
                        pseudonym_key=key)  # fmt: skip
        yield (
            KlaviyoSink(settings),
            lambda: [f"{r.method} {r.path} {r.query} {r.headers} {r.body!r}".encode()
                     for r in fake.requests],
        )  # fmt: skip


@contextmanager
def _http(folder: Path, key: str) -> Iterator[Any]:
    taken: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            taken.append(self.path.encode() + bytes(self.headers) + body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/logs"
        yield OtlpSink(endpoint=url, protocol="http/protobuf"), lambda: taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _grpc(folder: Path, key: str) -> Iterator[Any]:
    taken: list[bytes] = []

    def export(request: bytes, context: Any) -> bytes:
        taken.append(repr(context.invocation_metadata()).encode() + request)
        return ExportLogsServiceResponse().SerializeToString()

    # Without a deserializer the handler gets the bytes of the message.
    handler = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.logs.v1.LogsService",
        {"Export": grpc.unary_unary_rpc_method_handler(export)},
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield (
            OtlpSink(name="grpc", endpoint=f"http://127.0.0.1:{port}", protocol="grpc"),
            lambda: taken,
        )
    finally:
        server.stop(1).wait()


@contextmanager
def _kafka(folder: Path, key: str) -> Iterator[Any]:
    with MockCluster(2) as cluster:
        cluster.create_topic(TOPIC, PARTITIONS)
        # The mock cluster keeps the last few megabytes, so they are read while they come.
        found: list[bytes] = []
        over = threading.Event()
        reader = threading.Thread(target=_consume, args=(cluster.bootstrap, found, over))
        reader.start()

        def taken() -> list[bytes]:
            over.set()
            reader.join()
            return found

        sink = KafkaSink({"bootstrap.servers": cluster.bootstrap}, key="shop", topic=TOPIC)
        try:
            yield sink, taken
        finally:
            taken()
            sink.close()


def _consume(bootstrap: str, found: list[bytes], over: threading.Event) -> None:
    """Read the topic, to its end once that was told."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "leaks", "auto.offset.reset": "error"}
    )
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
    read, ends = dict.fromkeys(range(PARTITIONS), 0), None
    try:
        while ends is None or any(read[number] < end for number, end in ends.items()):
            if over.is_set() and ends is None:
                places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
                ends = {one.partition: consumer.get_watermark_offsets(one, 60)[1] for one in places}
            for message in consumer.consume(10_000, 0.5):
                assert message.error() is None, message.error()
                read[message.partition()] = message.offset() + 1
                found.append(
                    b"%s %s %s" % (message.key(), repr(message.headers()).encode(), message.value())
                )
    finally:
        consumer.close()


@contextmanager
def _stdout(folder: Path, key: str) -> Iterator[Any]:
    stream = io.BytesIO()
    yield StdoutSink(stream), lambda: [stream.getvalue()]


@contextmanager
def _refusing(folder: Path, key: str) -> Iterator[Any]:
    yield Refusing(), lambda: [path.read_bytes() for path in folder.rglob("dead.jsonl")]
