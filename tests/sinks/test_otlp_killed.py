"""The OTLP sink in the ordeal of `chaos`: everything goes wrong, and the shipper is killed."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.otlp.attributes import EVENT_NAME
from klaviyo_audit.sinks.otlp.grpc import _METHOD
from tests.sinks.chaos import (
    HANGS,
    LOST_ANSWERS,
    REFUSALS,
    SECONDS,
    SEED,
    Deck,
    Receiver,
    ship_and_kill,
)
from tests.sinks.collector import records
from tests.sinks.tcp_proxy import TcpProxy

ALL = (*REFUSALS, *LOST_ANSWERS)
TIMEOUT = 2.0
"""Seconds for one request: less than the shipper's deadline, and less than a hang takes."""

CODES = {
    "429": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "500": grpc.StatusCode.INTERNAL,
    "503": grpc.StatusCode.UNAVAILABLE,
}


def make_sink(protocol, endpoint):
    # What a first delivery imports is imported before the clock of the test starts.
    import_module(f"klaviyo_audit.sinks.otlp.{protocol.partition('/')[0]}")
    return OtlpSink(protocol=protocol, endpoint=endpoint, timeout=TIMEOUT)


def lines_of(body):
    """The journal's lines in a request."""
    found = records(ExportLogsServiceRequest.FromString(body))
    return [r.body.string_value.encode() for r in found if r.event_name == EVENT_NAME]


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("wrongs", [ALL, REFUSALS], ids=["all", "refused"])
def test_nothing_is_lost_over_http_when_the_shipper_is_killed(tmp_path, capsys, wrongs):
    deck = Deck(SEED, wrongs=wrongs)
    receiver = Receiver(deck, lines_of)
    sink = partial(make_sink, "http/protobuf", f"{receiver.url}/v1/logs")
    ordeal = ship_and_kill(tmp_path / "trail", sink, receiver.go_down)
    receiver.close()
    figures = ordeal.judge(receiver.lines, deck.happened, LOST_ANSWERS)
    assert all(deck.happened[what] for what in (*wrongs, "200"))
    with capsys.disabled():
        print(f"{figures} (HTTP)")


class Collector:
    """A gRPC server that takes what it is sent, when it feels like it; a proxy is in front of it.

    Requests and answers are left as bytes, so that an answer can be none.
    """

    def __init__(self, deck):
        self._deck = deck
        self.lines = []
        self._server = grpc.server(ThreadPoolExecutor(16))
        service, _, method = _METHOD[1:].partition("/")
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {method: handler})]
        )
        self._proxy = TcpProxy(self._server.add_insecure_port("127.0.0.1:0"))
        self._server.start()
        self.url = f"http://127.0.0.1:{self._proxy.port}"
        self.go_down = self._proxy.go_down

    def _export(self, body, context):
        what = self._deck.draw()
        if what == "200" or what in LOST_ANSWERS:
            self.lines += lines_of(body)
        kind = what.removesuffix(" after")
        if kind in CODES:
            context.abort(CODES[kind], "on purpose")
        if kind == "reset":
            self._proxy.cut()
        elif kind == "hang":
            time.sleep(HANGS)
        return b"\xff\xff" if kind == "garbage" else b""

    def close(self):
        self._proxy.close()
        self._server.stop(0).wait()


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("wrongs", [ALL, REFUSALS], ids=["all", "refused"])
def test_nothing_is_lost_over_grpc_when_the_shipper_is_killed(tmp_path, capsys, wrongs):
    deck = Deck(SEED, wrongs=wrongs)
    collector = Collector(deck)
    sink = partial(make_sink, "grpc", collector.url)
    ordeal = ship_and_kill(tmp_path / "trail", sink, collector.go_down)
    collector.close()
    figures = ordeal.judge(collector.lines, deck.happened, LOST_ANSWERS)
    assert all(deck.happened[what] for what in (*wrongs, "200"))
    with capsys.disabled():
        print(f"{figures} (gRPC)")
