"""The OTLP sink over HTTP, against a collector that answers in every way it can."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry import trace

from klaviyo_audit import retryafter
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.base import CheckpointSink, Rejected, Retry, Sink
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.registry import make_sink
from tests.ports import free_port
from tests.sinks import entries
from tests.sinks.collector import Collector, Reply, partial, records, serving, values
from tests.waiting import PATIENCE

TOKEN = "Bearer not-a-real-token-but-a-secret"


@pytest.fixture
def collector():
    with serving(Collector()) as collector:
        yield collector


@pytest.fixture
def sink(collector):
    sink = OtlpSink(endpoint=collector.endpoint, headers={"authorization": TOKEN}, timeout=60)
    yield sink
    sink.close()


def uids(batch):
    return [f"{entry.id}-{entry.phase}" for entry in batch]


def test_it_is_a_sink_by_name(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    sink = make_sink("otlp", load(service="shop", host="h1"))
    assert isinstance(sink, Sink)
    assert isinstance(sink, CheckpointSink)
    sink.deliver([entries.entry(origin=None)])
    sink.deliver_checkpoints([b"a note\n"])
    sink.close()
    assert collector.paths == ["/v1/logs"] * 2
    assert [record.event_name for record in collector.taken] == [
        "klaviyo.audit",
        "klaviyo.audit.checkpoint",
    ]


def test_delivered_means_that_the_collector_has_answered(collector, sink):
    batch = entries.many(5)
    answered = threading.Event()

    def behave(request):
        time.sleep(0.2)
        answered.set()
        return Reply()

    collector.behave = behave
    sink.deliver(batch)
    assert answered.is_set()
    assert collector.uids() == uids(batch)
    assert collector.headers[0]["content-type"] == "application/x-protobuf"
    assert collector.headers[0]["authorization"] == TOKEN
    assert collector.headers[0]["user-agent"].startswith("klaviyo-audit/")


def test_one_connection_serves_all_batches(collector, sink):
    for _ in range(3):
        sink.deliver(entries.many(2))
    assert collector.connections == 1


def test_nothing_to_deliver_sends_nothing(collector, sink):
    sink.deliver([])
    assert collector.requests == []


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression(collector, compression):
    sink = OtlpSink(endpoint=collector.endpoint, compression=compression)
    sink.deliver(entries.many(50))
    assert len(collector.taken) == 50
    assert collector.headers[0]["content-encoding"] == compression
    assert collector.sizes[0] < sum(r.ByteSize() for r in collector.taken) / 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_try_again_later(collector, sink, status):
    collector.behave = lambda request: Reply(status)
    with pytest.raises(Retry) as caught:
        sink.deliver(entries.many(2))
    assert caught.value.after is None
    assert str(status) in caught.value.why
    collector.behave = lambda request: Reply()
    sink.deliver(entries.many(2))
    assert collector.uids() == uids(entries.many(2))


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", None, None),
        ("date", 29, 31),
        ("999999999999999999999999", 3600, 3600),
        ("soon", None, None),
        ("-1", None, None),
    ],
)
def test_retry_after(collector, sink, header, low, high):
    def behave(request):
        value = formatdate(time.time() + 30, usegmt=True) if header == "date" else header
        return Reply(429, headers={"Retry-After": value})

    collector.behave = behave
    with pytest.raises(Retry) as caught:
        sink.deliver(entries.many(1))
    after = caught.value.after
    assert after is None if low is None else low <= after <= high


@pytest.mark.parametrize(
    ("ours", "date", "low", "high"),
    [(-7200, True, 29, 31), (7200, True, 29, 31), (7200, False, 0, 0), (-7200, False, 3600, 3600)],
)
def test_a_date_counts_by_the_clock_of_who_said_it(monkeypatch, ours, date, low, high):
    now = time.time()
    monkeypatch.setattr(retryafter, "time", lambda: now + ours)
    headers = {"Retry-After": formatdate(now + 30, usegmt=True)}
    if date:
        headers["Date"] = formatdate(now, usegmt=True)
    assert low <= retryafter.seconds_to_wait(headers) <= high


def test_a_reset_connection(collector, sink):
    replies = iter([Reply(cut=True, take=False), Reply()])
    collector.behave = lambda request: next(replies)
    with pytest.raises(Retry, match="no answer from http://127.0.0.1"):
        sink.deliver(entries.many(1))
    sink.deliver(entries.many(1))


def test_nobody_listens():
    port = free_port()
    sink = OtlpSink(endpoint=f"http://someone:a-password@127.0.0.1:{port}/v1/logs?key=a-password")
    with pytest.raises(Retry) as caught:
        sink.deliver(entries.many(1))
    assert caught.value.why == f"no answer from http://127.0.0.1:{port}/v1/logs: Connection refused"


def test_a_collector_that_hangs(collector):
    collector.behave = lambda request: Reply(hang=1000, take=False)
    sink = OtlpSink(endpoint=collector.endpoint, timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(Retry):
        sink.deliver(entries.many(1))
    assert time.monotonic() - begun < PATIENCE
    sink.close()


def test_an_answer_that_comes_a_byte_at_a_time(collector):
    collector.behave = lambda request: Reply(body=b"x" * 10_000, drip=0.1, take=False)
    sink = OtlpSink(endpoint=collector.endpoint, timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(Retry, match="to answer"):
        sink.deliver(entries.many(1))
    assert time.monotonic() - begun < PATIENCE, "all of it takes 1,000 s"
    sink.close()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>log in</html>", content_type="text/html"),
        Reply(body=b"\xff\xff\xff\xff"),
        Reply(body=b"{not json", content_type="application/json"),
        Reply(body=b"[1]", content_type="application/json"),
        Reply(body=b"x" * 200_000),
    ],
)
def test_garbage_is_no_acknowledgement(collector, sink, reply):
    collector.behave = lambda request: reply
    with pytest.raises(Retry):
        sink.deliver(entries.many(1))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(),
        Reply(status=202, take=True),
        Reply(body=b"{}", content_type="application/json; charset=utf-8"),
        Reply(body=b'{"partialSuccess":{}}', content_type="application/json"),
        Reply(content_type="text/plain"),
    ],
)
def test_what_counts_as_an_acknowledgement(collector, sink, reply):
    collector.behave = lambda request: reply
    sink.deliver(entries.many(1))
    assert len(collector.taken) == 1


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_wrong_key_stops_the_sink(collector, sink, status):
    said = Status(message=f"bad header Authorization: {TOKEN}\n\x1b[31m" + "x" * 500)
    collector.behave = lambda request: Reply(status, body=said.SerializeToString())
    with pytest.raises(ConfigurationError) as caught:
        sink.deliver(entries.many(1))
    message = str(caught.value)
    assert str(status) in message
    assert "OTEL_EXPORTER_OTLP_HEADERS" in message
    assert "a-real-token" not in message
    assert "\x1b" not in message
    assert len(message) < 500


@pytest.mark.parametrize("status", [301, 302, 307, 404, 405, 415, 501])
def test_no_collector_there(collector, sink, status):
    elsewhere = {"Location": f"http://127.0.0.1:{collector.port}/elsewhere"}
    collector.behave = lambda request: Reply(status, headers=elsewhere)
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        sink.deliver(entries.many(1))
    assert collector.paths == ["/v1/logs"]  # nobody followed it, with our headers


def test_a_batch_that_is_too_large_is_halved(collector, sink):
    collector.behave = lambda request: Reply(200 if len(records(request)) <= 3 else 413)
    batch = entries.many(10)
    sink.deliver(batch)
    assert sorted(collector.uids()) == sorted(uids(batch))
    tried = len(collector.requests)
    sink.deliver(entries.many(10, phase="intent"))
    assert len(collector.requests) - tried <= 7  # it has learnt what fits
    assert len(collector.taken) == 20


def test_an_entry_that_is_too_large_alone_is_rejected(collector, sink):
    big = entries.entry(n=5, user_id="x" * 10_000)
    batch = [*entries.many(5), big]
    collector.behave = lambda request: Reply(413 if request.ByteSize() > 10_000 else 200)
    with pytest.raises(Rejected) as caught:
        sink.deliver(batch)
    assert caught.value.entries == (big,)
    assert "413" in caught.value.why
    assert collector.uids() == uids(batch[:5])


def test_requests_are_cut_by_size_before_they_are_sent(collector, sink):
    sink.deliver(entries.many(8, response="x" * 1_000_000))
    assert len(collector.taken) == 8
    assert max(collector.sizes) < 4 << 20


def test_what_the_collector_refuses_is_found_and_all_else_delivered(collector, sink):
    bad = {3, 17}

    def behave(request):
        numbers = {values(r.attributes)["klaviyo.audit.n"] for r in records(request)}
        return Reply(400 if numbers & bad else 200)

    collector.behave = behave
    batch = entries.many(20)
    with pytest.raises(Rejected) as caught:
        sink.deliver(batch)
    assert {entry.n for entry in caught.value.entries} == bad
    assert sorted(collector.uids()) == sorted(uids(e for e in batch if e.n not in bad))
    sink.deliver(entries.many(2))  # and nothing of that is remembered


def test_a_partial_success_is_told_with_all_it_may_concern(collector, sink):
    collector.behave = lambda request: partial(2, "quota of tenant 7")
    batch = entries.many(5)
    with pytest.raises(Rejected) as caught:
        sink.deliver(batch)
    assert list(caught.value.entries) == batch
    assert "rejected 2 of 5" in caught.value.why
    assert "quota of tenant 7" in caught.value.why
    collector.behave = lambda request: partial(5)
    with pytest.raises(Rejected, match="rejected all 5 .* no reason"):
        sink.deliver(batch)


def test_a_warning_is_said_once(collector, sink, caplog, said):
    collector.behave = lambda request: partial(0, f"deprecated, {TOKEN}")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            sink.deliver(entries.many(1))
    assert len(collector.taken) == 3
    assert said() == ["the OTLP collector took the entries and said: deprecated, [masked]"]


def test_what_was_taken_before_a_failure_is_not_sent_again(collector, sink):
    """A batch in several requests, the third of which fails."""
    replies = iter([Reply(), Reply(), Reply(503)])
    collector.behave = lambda request: next(replies, Reply())
    batch = entries.many(8, response="x" * 1_000_000)
    with pytest.raises(Retry):
        sink.deliver(batch)
    sink.deliver(batch)
    assert collector.uids() == uids(batch)
    again = len(collector.requests)
    sink.deliver(batch)  # a later batch with the same entries is a batch of its own
    assert len(collector.requests) > again


def test_rejections_found_before_a_failure_are_told_with_the_rest(collector, sink):
    state = {"down": False}

    def behave(request):
        numbers = {values(r.attributes)["klaviyo.audit.n"] for r in records(request)}
        if state["down"] and 7 in numbers:
            return Reply(503)
        if 0 in numbers:
            state["down"] = len(numbers) == 1
            return Reply(400)
        return Reply()

    collector.behave = behave
    batch = entries.many(8)
    with pytest.raises(Retry):
        sink.deliver(batch)
    state["down"] = False
    sent = len(collector.requests)
    with pytest.raises(Rejected) as caught:
        sink.deliver(batch)
    assert [entry.n for entry in caught.value.entries] == [0]
    assert len(collector.requests) == sent + 1  # entry 0 was not tried again
    assert sorted(collector.uids()) == sorted(uids(batch[1:]))


def test_checkpoints_have_a_service_once_an_entry_has_told_it(collector, sink):
    sink.deliver_checkpoints([b"one\n"])
    sink.deliver(entries.many(1))
    sink.deliver_checkpoints([b"two\n", b"three\n"])
    told = [
        values(r.resource_logs[0].resource.attributes)["service.name"] for r in collector.requests
    ]
    assert told == ["unknown_service", "loyalty", "loyalty"]
    collector.behave = lambda request: Reply(413 if len(records(request)) > 1 else 200)
    sink.deliver_checkpoints([b"four\n", b"five\n", b"six\n"])
    assert [r.body.string_value for r in collector.taken[-3:]] == ["four\n", "five\n", "six\n"]
    collector.behave = lambda request: Reply(400)
    with pytest.raises(Rejected):
        sink.deliver_checkpoints([b"seven\n"])
    collector.behave = lambda request: partial(1)
    with pytest.raises(Rejected):
        sink.deliver_checkpoints([b"four\n"])


def test_resource_attributes_of_the_process(collector, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=crm,service.name=other")
    OtlpSink(endpoint=collector.endpoint).deliver(entries.many(1))
    told = values(collector.requests[0].resource_logs[0].resource.attributes)
    assert told["team"] == "crm"
    assert told["service.name"] == "loyalty"


def test_its_traffic_makes_no_spans(collector, sink):
    import requests
    from opentelemetry.instrumentation.requests import RequestsInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    RequestsInstrumentor().instrument(tracer_provider=provider)
    try:
        requests.get(f"http://127.0.0.1:{collector.port}/", timeout=60)
        assert len(exporter.get_finished_spans()) == 1, "the instrumentation does not work"
        sink.deliver(entries.many(3))
        assert len(exporter.get_finished_spans()) == 1
        assert trace.get_current_span() is trace.INVALID_SPAN
    finally:
        RequestsInstrumentor().uninstrument()
    assert len(collector.taken) == 3
    assert "traceparent" not in collector.headers[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_connection_of_its_own(collector, sink):
    sink.deliver(entries.many(1))
    code = 1
    pid = os.fork()
    if pid == 0:
        try:
            sink.deliver(entries.many(2))
            sink.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    sink.deliver(entries.many(3))
    assert collector.connections == 2
    assert len(collector.taken) == 6


def test_a_missing_extra_names_the_command():
    program = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "from klaviyo_audit.sinks.registry import make_sink\n"
        "from klaviyo_audit.settings import load\n"
        "make_sink('otlp', load())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "pip install 'klaviyo-audit[otel]'" in ended.stderr.splitlines()[-1]
    assert "ConfigurationError" in ended.stderr.splitlines()[-1]
