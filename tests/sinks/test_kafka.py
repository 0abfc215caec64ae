"""The Kafka sink against librdkafka's mock cluster, which is told to fail in every way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal.note import generate_key
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.base import CheckpointSink, Rejected, Retry, Sink
from klaviyo_audit.sinks.kafka import KafkaSink, journal_name
from klaviyo_audit.sinks.kafka.settings import complete_config, read_config
from klaviyo_audit.sinks.registry import make_sink
from tests.peers.kafka_mock import INIT_PRODUCER_ID, PRODUCE, MockCluster
from tests.sinks import entries
from tests.waiting import PATIENCE, wait_for

TOPIC = "audit"
PARTITIONS = 4


@pytest.fixture
def cluster():
    with MockCluster(2) as cluster:
        cluster.create_topic(TOPIC, PARTITIONS)
        yield cluster


@pytest.fixture
def sink(cluster):
    sink = make(cluster)
    yield sink
    sink.close()


def make(cluster, timeout=60.0, topic=TOPIC, **config):
    return KafkaSink(
        {
            "bootstrap.servers": cluster.bootstrap,
            "reconnect.backoff.max.ms": 200,
            "retry.backoff.ms": 50,
            "retry.backoff.max.ms": 200,
            **config,
        },
        key="shop",
        topic=topic,
        timeout=timeout,
    )


def deliver_at_last(sink, batch):
    """Offer a batch as the shipper does, until it is taken."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return sink.deliver(batch)
        except Retry:
            assert time.monotonic() < deadline


def refused_at_last(sink, batch, words):
    """Offer a batch that is not taken, until librdkafka has tried and the sink says how that went."""

    def said():
        with pytest.raises(Retry) as caught:
            sink.deliver(batch)
        return re.search(words, str(caught.value))

    wait_for(said)


def consumed(cluster, count, seconds=PATIENCE):
    """Messages of the topic: as many as asked for, and those that follow within half a second."""
    return cluster.read(TOPIC, lambda found: len(found) >= count, PARTITIONS, seconds)


def lines_of(messages):
    return [message.value() for message in messages]


def test_entries_arrive_as_the_journals_lines(cluster, auditor, client, trail):
    audited = auditor.audit(client)
    audited.Profiles.get_profiles()
    auditor.record("shop.opened", metadata={"reason": "\u2028"})
    lines = trail.path.read_bytes().splitlines()
    sink = make(cluster)
    sink.deliver([AuditEntry.from_json(line) for line in lines])
    receipt = sink.acknowledgement
    sink.close()
    messages = consumed(cluster, len(lines))
    assert lines_of(messages) == lines
    assert {message.key() for message in messages} == {b"shop"}
    assert len({message.partition() for message in messages}) == 1
    entry = AuditEntry.from_json(lines[-1])
    assert dict(messages[-1].headers()) == {
        "content-type": b"application/json",
        "klaviyo-audit-type": b"entry",
        "klaviyo-audit-version": b"1",
        "klaviyo-audit-id": entry.id.encode(),
        "klaviyo-audit-phase": entry.phase.encode(),
    }
    last = messages[-1]
    assert receipt == {"topic": TOPIC, "offsets": {str(last.partition()): last.offset()}}


def test_checkpoints_have_their_own_type(cluster, sink):
    sink.deliver_checkpoints([b"one\n", b"two\n"])
    messages = consumed(cluster, 2)
    assert lines_of(messages) == [b"one\n", b"two\n"]
    assert dict(messages[0].headers())["klaviyo-audit-type"] == b"checkpoint"
    assert messages[0].key() == b"shop"


def test_it_is_a_sink_by_name(cluster, monkeypatch, tmp_path):
    file = tmp_path / "kafka.properties"
    file.write_text(f"# brokers\nbootstrap.servers={cluster.bootstrap}\n\nclient.id = x\n")
    monkeypatch.setenv("KLAVIYO_AUDIT_KAFKA_CONFIG", str(file))
    monkeypatch.setenv("KLAVIYO_AUDIT_KAFKA_TOPIC", TOPIC)
    sink = make_sink("kafka", load(origin="example.com/shop"))
    assert isinstance(sink, Sink)
    assert isinstance(sink, CheckpointSink)
    sink.deliver(entries.many(2))
    sink.close()
    assert {message.key() for message in consumed(cluster, 2)} == {b"example.com/shop"}


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.LEADER_NOT_AVAILABLE,
    ],
)
def test_passing_errors_are_repeated_without_a_duplicate(cluster, sink, code):
    cluster.answer_next(PRODUCE, code, code, code)
    sink.deliver(entries.many(20))
    assert lines_of(consumed(cluster, 20)) == [
        entries.line(n=e.n, id=e.id) for e in entries.many(20)
    ]


def test_brokers_down_for_a_while(cluster):
    sink = make(cluster, timeout=0.5)
    deliver_at_last(sink, entries.many(3, phase="intent"))
    cluster.down()
    batch = entries.many(50)
    begun = time.monotonic()
    for _ in range(3):
        with pytest.raises(Retry, match="still on their way"):
            sink.deliver(batch)
    assert time.monotonic() - begun < 60, "librdkafka's own patience is five minutes"
    cluster.up()
    deliver_at_last(sink, batch)
    sink.close()
    # Not one is there twice, although the batch was offered four times and more.
    assert lines_of(consumed(cluster, 53))[3:] == [entries.line(n=e.n, id=e.id) for e in batch]


def test_nobody_listens(tmp_path):
    sink = KafkaSink({"bootstrap.servers": "127.0.0.1:1"}, key="shop", timeout=1.0)
    refused_at_last(sink, entries.many(2), "still on their way to Kafka; .*1/1 brokers|Connect")
    begun = time.monotonic()
    sink.close()
    assert time.monotonic() - begun < 60, "librdkafka's own patience is five minutes"


def test_a_slow_cluster_is_waited_for(cluster, sink):
    sink.deliver(entries.many(1, phase="intent"))
    cluster.delay(400)
    begun = time.monotonic()
    sink.deliver(entries.many(5))
    assert time.monotonic() - begun > 0.35
    cluster.delay(0)
    assert len(consumed(cluster, 6)) == 6


def test_a_message_that_is_too_large_is_rejected_alone(cluster):
    sink = make(cluster, **{"message.max.bytes": 5_000})
    big = entries.entry(n=99, response="x" * 10_000)
    batch = [*entries.many(3), big, *entries.many(3, phase="intent")]
    with pytest.raises(Rejected, match="MSG_SIZE_TOO_LARGE") as caught:
        sink.deliver(batch)
    sink.close()
    assert caught.value.entries == (big,)
    assert len(consumed(cluster, 6)) == 6


def test_what_the_brokers_refuse_is_found_one_by_one(cluster, sink):
    """The set of all messages is refused, then the first that is sent alone."""
    code = KafkaError.MSG_SIZE_TOO_LARGE
    cluster.answer_next(PRODUCE, code, code)
    with pytest.raises(Rejected) as caught:
        sink.deliver(entries.many(4))
    assert len(caught.value.entries) == 1
    assert len(consumed(cluster, 3)) == 3


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED]
)
def test_no_right_to_write_stops_the_sink(cluster, sink, code):
    cluster.answer_next(PRODUCE, *[code] * 20)
    with pytest.raises(ConfigurationError, match="does not let us in") as caught:
        sink.deliver(entries.many(2))
    assert "audit" in str(caught.value)


def test_a_fatal_error_makes_a_new_producer(cluster, sink):
    """The broker's answer makes librdkafka give the producer up, and all that is on its way."""
    sink.deliver(entries.many(3, phase="intent"))
    cluster.answer_next(PRODUCE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    batch = entries.many(20)
    with pytest.raises(Retry, match=r"replaced: .*OUT_OF_ORDER_SEQUENCE_NUMBER"):
        sink.deliver(batch)
    sink.deliver(batch)
    assert lines_of(consumed(cluster, 23))[3:] == [entries.line(n=e.n, id=e.id) for e in batch]


def test_a_fatal_error_after_some_were_delivered_repeats_none_of_those(cluster):
    sink = make(cluster, **{"batch.num.messages": 1, "max.in.flight": 1})
    sink.deliver(entries.many(1, phase="intent"))
    cluster.answer_next(PRODUCE, 0, 0, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    batch = entries.many(6)
    with pytest.raises(Retry, match="replaced"):
        sink.deliver(batch)
    sink.deliver(batch)
    sink.close()
    found = lines_of(consumed(cluster, 7))[1:]
    assert sorted(found) == sorted(entries.line(n=e.n, id=e.id) for e in batch)


def test_a_producer_that_may_not_be_idempotent_stops_the_sink(cluster, sink):
    cluster.answer_next(INIT_PRODUCER_ID, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    with pytest.raises(ConfigurationError, match="does not let us in: .*Cluster authorization"):
        sink.deliver(entries.many(2))
    sink.deliver(entries.many(2))
    assert len(consumed(cluster, 2)) == 2


def test_a_topic_that_is_not_there(cluster):
    cluster.topic_error("missing", KafkaError.UNKNOWN_TOPIC_OR_PART)
    sink = make(cluster, topic="missing", **{"topic.metadata.propagation.max.ms": 300})
    with pytest.raises(ConfigurationError, match="no topic 'missing' .setting kafka_topic"):
        sink.deliver(entries.many(2))
    sink.close()


# In a process of its own: other tests' threads print and log too, gRPC's for instance.
QUIET = """
import logging, sys
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.kafka import KafkaSink
from tests.peers.kafka_mock import PRODUCE, MockCluster
from tests.sinks import entries
from confluent_kafka import KafkaError

logging.basicConfig(level=logging.DEBUG)
if sys.argv[1] == "nobody listens":
    sink = KafkaSink({"bootstrap.servers": "127.0.0.1:1"}, key="shop", timeout=1.0)
    deliver = [Retry]
else:
    cluster = MockCluster(1)
    cluster.create_topic("audit")
    sink = KafkaSink({"bootstrap.servers": cluster.bootstrap}, key="shop", topic="audit", timeout=60)
    sink.deliver(entries.many(1, phase="intent"))
    cluster.answer_next(PRODUCE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    deliver = [Retry, None]
for expected in deliver:
    try:
        sink.deliver(entries.many(1))
        assert expected is None
    except Retry:
        assert expected is Retry
sink.close()
"""


@pytest.mark.parametrize("trouble", ["nobody listens", "a fatal error"])
def test_its_log_lines_do_not_reach_the_program(trouble):
    """librdkafka prints them by itself, fatal errors above all."""
    ended = subprocess.run(
        [sys.executable, "-c", QUIET, trouble],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


FORKS = """
import gc, os, sys
from klaviyo_audit.sinks.kafka import KafkaSink
from tests.sinks import entries

class Told:
    def __del__(self):
        os.write(1, b"destroyed")

def child():
    sink = KafkaSink({"bootstrap.servers": sys.argv[1]}, key="shop", topic="audit")
    sink.deliver(entries.many(1))
    # The producer refers to the outbox, for its errors: both go together.
    sink._outbox.told = Told()
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sink.deliver(entries.many(1, phase="event"))
        os._exit(code)
    {how}
    del sink
    gc.collect()

child()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    "how", ["pass", "sink.close()", "sink.deliver(entries.many(1, phase='intent')); sink.close()"]
)
def test_a_forked_child_leaves_the_parents_producer_alone(cluster, how):
    """To destroy it there takes two seconds at best, be it at the child's end."""
    root = Path(__file__).parents[2]
    program = FORKS.replace("{how}", how)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", program, cluster.bootstrap],
        check=False,
        capture_output=True,
        text=True,
        cwd=root,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    expected = 3 if "deliver" in how else 2
    assert len(consumed(cluster, expected)) == expected


def test_config_texts(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"bootstrap.servers": "b:1", "linger.ms": 5}')
    expected = {"bootstrap.servers": "b:1", "linger.ms": 5}
    assert read_config(str(file)) == expected
    assert read_config(file.read_text()) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{secret", "no JSON object"),
        ('{"a": {"b": "secret"}}', "a is neither text"),
        ("/no/such/file", "cannot read /no/such/file: No such file"),
        ("sasl.password=secret", "neither a JSON object nor the path"),
    ],
)
def test_bad_config_texts(text, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_config(text)
    assert "secret" not in str(caught.value)


def test_a_bad_line_of_a_file(tmp_path):
    file = tmp_path / "kafka.properties"
    file.write_text("a=1\nsecret\n")
    with pytest.raises(ConfigurationError, match="line 2 is not of the form") as caught:
        read_config(str(file))
    assert "secret" not in str(caught.value).replace(str(file), "")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "needs brokers"),
        ({"bootstrap.servers": "b", "acks": "1"}, "acks is '1'; .* needs all"),
        ({"bootstrap.servers": "b", "request.required.acks": 0}, "acks is '0'"),
        ({"bootstrap.servers": "b", "enable.idempotence": False}, "enable.idempotence is 'false'"),
        ({"bootstrap.servers": "b", "delivery.timeout.ms": 5}, "message.timeout.ms is '5'"),
        ({"bootstrap.servers": "b", "error_cb": "x"}, "error_cb is the Kafka sink's own"),
    ],
)
def test_what_contradicts_the_promises(config, words):
    with pytest.raises(ConfigurationError, match=words):
        complete_config(config)


def test_what_may_be_said_twice():
    config = {"metadata.broker.list": "b", "acks": -1, "enable.idempotence": "true"}
    assert complete_config(config)["bootstrap.servers"] == "b"


def test_an_unknown_property_shows_no_secret(cluster):
    config = {"sasl.password": "pa55word", "nonsense": "pa55word"}
    with pytest.raises(ConfigurationError, match="nonsense") as caught:
        make(cluster, **config).deliver(entries.many(1))
    assert "pa55word" not in str(caught.value)


def test_the_key_is_the_journals_name(tmp_path):
    assert journal_name(tmp_path, "h1") == f"h1:{tmp_path}"
    (tmp_path / "sealing.pub").write_text(generate_key("example.com/a").verifier.to_text())
    assert journal_name(tmp_path, "h1") == "example.com/a"


def test_a_missing_extra_names_the_command():
    program = (
        "import sys\n"
        "sys.modules['confluent_kafka'] = None\n"
        "from klaviyo_audit.sinks.registry import make_sink\n"
        "from klaviyo_audit.settings import load\n"
        "make_sink('kafka', load())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "pip install 'klaviyo-audit[kafka]'" in ended.stderr.splitlines()[-1]


def test_the_setting_is_shown_nowhere():
    settings = load(kafka_config={"bootstrap.servers": "b", "sasl.password": "pa55word"})
    assert "pa55word" not in repr(settings)
    assert "pa55word" not in str(settings.describe())
    assert Path(settings.dir)
