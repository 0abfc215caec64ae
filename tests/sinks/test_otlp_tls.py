"""The OTLP sink over TLS: real handshakes, with authorities of the test's own."""

import ssl
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    add_LogsServiceServicer_to_server,
)

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.otlp import OtlpSink
from tests.sinks import entries
from tests.sinks.certificates import Authority
from tests.sinks.collector import Collector, serving, values
from tests.sinks.tcp_proxy import TcpProxy
from tests.sinks.test_otlp_grpc import Service
from tests.waiting import PATIENCE, wait_for

PROTOCOLS = pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
TOKEN = "Bearer not-a-real-token-but-a-secret"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


class Secured:
    """A collector behind TLS: what it took, and where it is."""

    def __init__(self, protocol, authority, clients=None, **options):
        certificate, key = authority.sign("server", **options)
        if protocol == "grpc":
            self._collector = Service()
            self._server = grpc.server(ThreadPoolExecutor(2))
            add_LogsServiceServicer_to_server(self._collector, self._server)
            credentials = grpc.ssl_server_credentials(
                [(key.read_bytes(), certificate.read_bytes())],
                root_certificates=clients and clients.certificate.read_bytes(),
                require_client_auth=clients is not None,
            )
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
            self._server.start()
            self._stop = [lambda: self._server.stop(0).wait()]
        else:
            self._collector = Collector()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if clients is not None:
                context.load_verify_locations(clients.certificate)
                context.verify_mode = ssl.CERT_REQUIRED
            running = serving(self._collector)
            running.__enter__()
            proxy = TcpProxy(self._collector.port, tls=context)
            self.port = proxy.port
            self._stop = [proxy.close, lambda: running.__exit__(None, None, None)]
        self.url = f"https://127.0.0.1:{self.port}"

    @property
    def taken(self):
        found = (values(record.attributes) for record in self._collector.taken)
        return [members["log.record.uid"] for members in found if "log.record.uid" in members]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stop in self._stop:
            stop()


@pytest.fixture
def sink(monkeypatch):
    """Makes sinks from the environment, as a program has it."""
    made = []

    def make(protocol, url, **variables):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_HEADERS", f"authorization={TOKEN.replace(' ', '%20')}"
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(value))
        made.append(OtlpSink())
        return made[-1]

    yield make
    for one in made:
        one.close()


def ids(batch):
    return [f"{entry.id}-{entry.phase}" for entry in batch]


@PROTOCOLS
def test_a_private_authority(authority, sink, protocol):
    batch = entries.many(20)
    with Secured(protocol, authority) as collector:
        sink(protocol, collector.url, CERTIFICATE=authority.certificate).deliver(batch)
        assert collector.taken == ids(batch)


@PROTOCOLS
def test_another_authority_is_refused_and_nothing_lost(
    tmp_path, authority, sink, protocol, shipper, write, told, trail
):
    other = Authority(tmp_path, "other")
    write("a", "b", "c")
    with Secured(protocol, authority) as collector:
        bad = shipper(sink(protocol, collector.url, CERTIFICATE=other.certificate))
        wait_for(lambda: not bad.run_once(0.5) and told)
        bad.close()
        assert collector.taken == []
        assert not (trail.folder / "sinks/otlp/bookmark").exists()
        wanted = (
            f"sink otlp: https://127.0.0.1:{collector.port}",
            "has a TLS certificate that is not trusted (",
            f"signed by an authority in {other.certificate} (OTEL_EXPORTER_OTLP_CERTIFICATE)",
            "Nothing was sent; what it has not got is kept, and offered again",
        )
        assert all(words in told[0] for words in wanted), told
        assert TOKEN not in "".join(told)
        good = shipper(sink(protocol, collector.url, CERTIFICATE=authority.certificate))
        assert good.run_once(PATIENCE)
        good.close()
        assert [line["id"] + "-" + line["phase"] for line in trail.lines()] == collector.taken


@PROTOCOLS
def test_an_authority_of_nobody_this_system_knows(authority, sink, protocol):
    with Secured(protocol, authority) as collector:
        with pytest.raises(Retry, match="name a private one's certificate in OTEL_EXPORTER_OTLP_C"):
            sink(protocol, collector.url).deliver(entries.many(1))
        assert collector.taken == []


@PROTOCOLS
@pytest.mark.parametrize("options", [{"days": -1}, {"host": "127.0.0.2"}], ids=["expired", "host"])
def test_a_certificate_that_is_not_valid_there(authority, sink, protocol, options):
    with Secured(protocol, authority, **options) as collector:
        with pytest.raises(Retry, match=r"not trusted|UNAVAILABLE .*[Ff]ail") as caught:
            sink(protocol, collector.url, CERTIFICATE=authority.certificate).deliver(
                entries.many(1)
            )
        assert TOKEN not in str(caught.value)
        assert collector.taken == []


@PROTOCOLS
def test_a_certificate_of_ones_own(tmp_path, authority, sink, protocol):
    clients = Authority(tmp_path, "clients")
    certificate, key = clients.sign("me")
    batch = entries.many(2)
    with Secured(protocol, authority, clients) as collector:
        with pytest.raises(Retry):
            sink(protocol, collector.url, CERTIFICATE=authority.certificate).deliver(batch)
        assert collector.taken == []
        mine = sink(
            protocol,
            collector.url,
            CERTIFICATE=authority.certificate,
            CLIENT_CERTIFICATE=certificate,
            CLIENT_KEY=key,
        )
        mine.deliver(batch)
        assert collector.taken == ids(batch)


@PROTOCOLS
def test_plain_http_where_tls_is(authority, sink, protocol):
    with Secured(protocol, authority) as collector:
        with pytest.raises(Retry):
            sink(protocol, collector.url.replace("https", "http")).deliver(entries.many(1))
        assert collector.taken == []


def test_variables_for_other_clients_change_nothing(tmp_path, authority, sink, monkeypatch):
    """requests would take other authorities, and a password of its own, from these."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path, "other").certificate))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Secured("http/protobuf", authority) as collector:
        sink("http/protobuf", collector.url, CERTIFICATE=authority.certificate).deliver(
            entries.many(1)
        )
        assert collector._collector.headers[0]["authorization"] == TOKEN


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"CERTIFICATE": "junk.pem"},
            "CERTIFICATE .* names .*junk.pem, which cannot be used as auth",
        ),
        ({"CLIENT_KEY": "authority-me.key"}, "there is no OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
        (
            {"CLIENT_CERTIFICATE": "authority-me.pem"},
            "CLIENT_CERTIFICATE .* cannot be used as a cert",
        ),
        (
            {"CLIENT_CERTIFICATE": "authority-me.pem", "CLIENT_KEY": "authority-you.key"},
            "with the key in .*authority-you.key .*[Mm]ismatch|MISMATCH",
        ),
        (
            {"CLIENT_CERTIFICATE": "authority-secret.pem", "CLIENT_KEY": "authority-secret.key"},
            "the key has a passphrase",
        ),
    ],
)
def test_files_that_cannot_be_used_are_told_at_the_start(
    tmp_path, authority, sink, variables, words
):
    (tmp_path / "junk.pem").write_text("-----BEGIN CERTIFICATE-----\nnothing\n")
    authority.sign("me")
    authority.sign("you")
    authority.sign("secret", passphrase=b"a test's own")
    files = {name: tmp_path / value for name, value in variables.items()}
    with pytest.raises(ConfigurationError, match=words):
        sink("http/protobuf", "https://127.0.0.1:1", **files)
