"""The Kafka sink in the ordeal of `chaos`: everything goes wrong, and the shipper is killed.

librdkafka's mock cluster stands in this process, which is not killed, behind a proxy. It does not
look at sequence numbers, by which a real broker drops what a producer sends twice after an answer
was lost: what is repeated here for that reason would not be there twice on one.

A batch happens to go out in two requests. What librdkafka takes for a refusal for good of the first
(garbage, UNKNOWN, a quota) does not keep it from sending the second, so that what was refused is
sent again behind it: in order are the batches.
"""

from functools import partial

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from klaviyo_audit.sinks.kafka import KafkaSink
from tests.peers.kafka_mock import PRODUCE, MockCluster
from tests.sinks.chaos import (
    BATCH,
    HANGS,
    LOST_ANSWERS,
    REFUSALS,
    SECONDS,
    SEED,
    Deck,
    ship_and_kill,
)
from tests.sinks.tcp_proxy import TcpProxy

TOPIC = "audit"
PRODUCE_BYTES = 1_000
"""A longer piece from a client is (part of) a request that brings messages."""

CODES = {
    # What brokers say instead of 429, 500 and 503.
    "429": KafkaError.THROTTLING_QUOTA_EXCEEDED,
    "500": KafkaError.UNKNOWN,
    "503": KafkaError.NOT_LEADER_FOR_PARTITION,
}


def make_sink(bootstrap):
    return KafkaSink(
        {
            "bootstrap.servers": bootstrap,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 100,
        },
        key="shop",
        topic=TOPIC,
        timeout=0.3,
    )


def consumed(bootstrap):
    """All messages of the topic, in order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test"})
    place = TopicPartition(TOPIC, 0, 0)
    low, high = consumer.get_watermark_offsets(place, timeout=10)
    assert low == 0, "the mock cluster has thrown some away"
    consumer.assign([place])
    found = []
    while not found or found[-1].offset() < high - 1:
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None, message.error()
        found.append(message)
    consumer.close()
    return found


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("wrongs", [(*REFUSALS, *LOST_ANSWERS), REFUSALS], ids=["all", "refused"])
def test_nothing_is_lost_when_the_shipper_is_killed(tmp_path, capsys, wrongs):
    deck = Deck(SEED, share=0.3, wrongs=wrongs)
    with MockCluster(1) as cluster:
        cluster.create_topic(TOPIC, 1)
        own = cluster.bootstrap

        def decide(data):
            what = deck.draw() if len(data) > PRODUCE_BYTES else "200"
            if what in CODES:
                cluster.answer_next(PRODUCE, CODES[what])
            return what

        proxy = TcpProxy(int(own.rpartition(":")[2]), decide, hangs=HANGS)
        cluster.advertise(1, "127.0.0.1", proxy.port)
        sink = partial(make_sink, f"127.0.0.1:{proxy.port}")
        ordeal = ship_and_kill(tmp_path / "trail", sink, proxy.go_down)
        proxy.close()
        host, _, port = own.partition(":")
        cluster.advertise(1, host, int(port))
        messages = consumed(own)
    lines = [m.value() for m in messages if dict(m.headers())["klaviyo-audit-type"] == b"entry"]
    figures = ordeal.judge(lines, deck.happened, LOST_ANSWERS, early=BATCH - 1)
    assert all(deck.happened[what] for what in (*wrongs, "200"))
    with capsys.disabled():
        print(figures)
