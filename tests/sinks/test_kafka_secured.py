"""The Kafka sink over TLS and with SASL: real handshakes, in front of librdkafka's mock cluster."""

import logging

import pytest

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.kafka import KafkaSink
from klaviyo_audit.sinks.status import sinks_status
from tests.peers.kafka_mock import MockCluster
from tests.sinks import entries
from tests.sinks.certificates import Authority
from tests.sinks.kafka_sasl import SaslFront
from tests.sinks.tcp_proxy import TcpProxy
from tests.sinks.test_kafka import TOPIC, consumed, lines_of, refused_at_last
from tests.waiting import PATIENCE

USER, PASSWORD = "shop-user", "not-a-real-pass-word"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def behind():
    """Puts a front before a cluster's only broker; gives the cluster's own address."""
    made = []
    with MockCluster(1) as cluster:
        cluster.create_topic(TOPIC, 4)
        host, _, port = cluster.bootstrap.partition(":")

        def put(make_front):
            made.append(make_front(int(port)))
            cluster.advertise(1, host, made[-1].port)
            return made[-1]

        def bare():
            cluster.advertise(1, host, int(port))
            return cluster

        put.bare = bare
        yield put
        for front in made:
            front.close()


@pytest.fixture
def sink():
    made = []

    def make(front, timeout=60.0, **config):
        config = {name.replace("_", "."): value for name, value in config.items()}
        config = {"bootstrap.servers": f"127.0.0.1:{front.port}", "log_level": 7, **config}
        made.append(KafkaSink(config, key="shop", topic=TOPIC, timeout=timeout))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_tls_with_a_private_authority(authority, behind, sink):
    front = behind(lambda port: TcpProxy(port, tls=authority.server_context()))
    batch = entries.many(20)
    sink(front, security_protocol="ssl", ssl_ca_location=str(authority.certificate)).deliver(batch)
    assert lines_of(consumed(behind.bare(), 20)) == [entries.line(n=e.n, id=e.id) for e in batch]
    assert front.handshakes_failed == 0


def test_tls_with_another_authority(tmp_path, authority, behind, sink):
    front = behind(lambda port: TcpProxy(port, tls=authority.server_context()))
    other = Authority(tmp_path, "other")
    one = sink(front, 1.0, security_protocol="ssl", ssl_ca_location=str(other.certificate))
    words = "certificate verify failed: .*check bootstrap.servers, sec"
    refused_at_last(one, entries.many(2), words)
    assert front.handshakes_failed


def test_no_tls_where_the_broker_wants_it(authority, behind, sink):
    front = behind(lambda port: TcpProxy(port, tls=authority.server_context()))
    words = "check bootstrap.servers, security.protocol and ssl"
    refused_at_last(sink(front, 1.0), entries.many(2), words)


def secured(authority, password=PASSWORD):
    return {
        "security_protocol": "sasl_ssl",
        "ssl_ca_location": str(authority.certificate),
        "sasl_mechanisms": "PLAIN",
        "sasl_username": USER,
        "sasl_password": password,
    }


def test_sasl(authority, behind, sink):
    front = behind(lambda port: SaslFront(port, {USER: PASSWORD}, authority.server_context()))
    batch = entries.many(20)
    sink(front, **secured(authority)).deliver(batch)
    assert set(front.authenticated) == {USER}
    assert lines_of(consumed(behind.bare(), 20)) == [entries.line(n=e.n, id=e.id) for e in batch]


def test_a_wrong_password_stops_the_sink_and_is_shown_nowhere(
    authority, behind, sink, shipper, write, told, trail, caplog, capfd
):
    """The broker's own words quote it."""
    wrong = PASSWORD[::-1]
    front = behind(lambda port: SaslFront(port, {USER: PASSWORD}, authority.server_context()))
    write("a")
    with caplog.at_level(logging.DEBUG):
        bad = shipper(sink(front, **secured(authority, wrong)))
        assert not bad.run_once(PATIENCE)
        bad.close()
    assert bad.condition.state == "stopped"
    assert front.refused == [USER] * len(front.refused) != []
    assert "Kafka does not let us in: " in told[0]
    assert "may not come in with [masked]" in told[0]
    assert "Everything is kept" in told[0]
    (status,) = sinks_status(trail.folder, ("kafka",))
    assert "does not let us in" in status["error"]
    files = [path.read_bytes() for path in trail.folder.rglob("*") if path.is_file()]
    shown = (*told, caplog.text, *capfd.readouterr(), str(status), *map(str, files))
    assert not [text for text in shown if wrong in text or USER in text]

    good = shipper(sink(front, **secured(authority)))
    assert good.run_once(PATIENCE)
    good.close()
    lines = trail.path.read_bytes().splitlines()
    found = lines_of(consumed(behind.bare(), len(lines) + 1))
    assert [line for line in found if line.startswith(b"{")] == lines, "and a checkpoint"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sasl_mechanisms": "NONE-SUCH"}, "Unsupported SASL mechanism: NONE-SUCH"),
        ({"ssl_ca_location": "/no/such.pem"}, "ssl.ca.location failed"),
        ({"ssl_key_location": "/no/such.pem", "ssl_key_password": PASSWORD}, "ssl.key.location"),
        ({"security_protocol": "nothing"}, "Invalid value .*security.protocol"),
    ],
)
def test_settings_that_librdkafka_refuses(authority, behind, sink, config, words):
    front = behind(lambda port: TcpProxy(port, tls=authority.server_context()))
    with pytest.raises(ConfigurationError, match=f"refused by librdkafka: .*{words}") as caught:
        sink(front, **{**secured(authority), **config}).deliver(entries.many(1))
    assert PASSWORD not in str(caught.value)


def test_a_broker_without_sasl(authority, behind, sink):
    front = behind(lambda port: TcpProxy(port, tls=authority.server_context()))
    with pytest.raises(ConfigurationError, match="SASL Handshake not supported by broker"):
        sink(front, **secured(authority)).deliver(entries.many(1))
