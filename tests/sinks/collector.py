"""An OTLP collector on loopback that answers as it is told, and keeps what it took."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


@dataclass
class Reply:
    """What to answer a request with.

    Attributes:
        take: Whether the records count as taken (kept).
        cut: Reset the connection instead of answering.
        hang: Seconds to wait before answering.
        drip: Send the body a byte at a time, this many seconds apart.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/x-protobuf"
    take: bool | None = None
    cut: bool = False
    hang: float = 0.0
    drip: float = 0.0

    @property
    def takes(self) -> bool:
        return self.status == 200 if self.take is None else self.take


def partial(rejected: int, message: str = "") -> Reply:
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = rejected
    response.partial_success.error_message = message
    return Reply(body=response.SerializeToString(), take=rejected == 0)


Behaviour = Callable[[ExportLogsServiceRequest], Reply]


@dataclass
class Collector:
    behave: Behaviour = lambda request: Reply()
    requests: list[ExportLogsServiceRequest] = field(default_factory=list)
    """Every request, whatever was answered."""
    taken: list[LogRecord] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs, when the collector is closed."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/logs"

    def uids(self) -> list[str]:
        return [values(record.attributes)["log.record.uid"] for record in self.taken]


def records(request: ExportLogsServiceRequest) -> list[LogRecord]:
    return [
        record
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as Python values, whose types tell those of the attributes."""
    found: dict[str, Any] = {}
    attribute: KeyValue
    for attribute in attributes:
        assert attribute.key not in found, f"{attribute.key} is there twice"
        found[attribute.key] = value_of(attribute.value)
    return found


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def serving(collector: Collector, port: int = 0) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            collector.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.sizes.append(len(body))
            encoding = self.headers.get("Content-Encoding")
            unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)
            request = ExportLogsServiceRequest.FromString(unpack(body))
            collector.paths.append(self.path)
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            collector.requests.append(request)
            reply = collector.behave(request)
            if reply.takes:
                collector.taken.extend(records(request))
            self._answer(reply)

        def do_GET(self) -> None:
            collector.paths.append(f"GET {self.path}")
            self._answer(Reply(404))

        def _answer(self, reply: Reply) -> None:
            try:
                if reply.hang:
                    collector.over.wait(reply.hang)
                if reply.cut:
                    self.connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if not reply.drip:
                    self.wfile.write(reply.body)
                    return
                for index in range(len(reply.body)):
                    self.wfile.write(reply.body[index : index + 1])
                    collector.over.wait(reply.drip)
            except OSError:  # the client has gone
                self.close_connection = True

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            pass  # a connection that was cut on purpose

    server = Server(("127.0.0.1", port), Handler)
    collector.port = server.server_address[1]
    collector.over.clear()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
