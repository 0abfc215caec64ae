"""The OTLP sink's settings: the standard variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.otlp.settings import OtlpSettings

PREFIX = "OTEL_EXPORTER_OTLP_"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def env(monkeypatch):
    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(PREFIX + name, value)

    return put


def test_defaults():
    settings = OtlpSettings.from_env()
    assert settings.endpoint == "http://localhost:4318/v1/logs"
    assert (settings.protocol, settings.timeout, settings.compression) == (
        "http/protobuf",
        10.0,
        "none",
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ENDPOINT": "http://c:1"}, "http://c:1/v1/logs"),
        ({"ENDPOINT": "https://c:1/base/"}, "https://c:1/base/v1/logs"),
        ({"ENDPOINT": "http://c:1", "LOGS_ENDPOINT": "http://d:2/x"}, "http://d:2/x"),
        ({"PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "http://c:1"}, "http://c:1"),
        ({"PROTOCOL": "http/protobuf", "LOGS_PROTOCOL": "grpc", "ENDPOINT": "c:1"}, "c:1"),
        ({"ENDPOINT": " "}, "http://localhost:4318/v1/logs"),
    ],
)
def test_endpoint(env, variables, expected):
    env(**variables)
    assert OtlpSettings.from_env().endpoint == expected


@pytest.mark.parametrize(
    ("endpoint", "insecure_variable", "insecure", "target"),
    [
        ("http://c:1", None, True, "c:1"),
        ("https://c:1", "true", False, "c:1"),
        ("c:1", None, False, "c:1"),
        ("c:1", "TRUE", True, "c:1"),
        ("unix:///run/c.sock", "true", True, "unix:///run/c.sock"),
    ],
)
def test_grpc_target(env, endpoint, insecure_variable, insecure, target):
    env(PROTOCOL="grpc", ENDPOINT=endpoint)
    if insecure_variable:
        env(INSECURE=insecure_variable)
    settings = OtlpSettings.from_env()
    assert (settings.insecure, settings.target) == (insecure, target)


def test_headers(env):
    env(HEADERS="api-key=a%20b%3D, X-Tenant = 7 ,,empty=")
    assert OtlpSettings.from_env().headers == {"api-key": "a b=", "x-tenant": "7", "empty": ""}
    env(LOGS_HEADERS="only=this")
    assert OtlpSettings.from_env().headers == {"only": "this"}
    assert "this" not in repr(OtlpSettings.from_env())


@pytest.mark.parametrize(
    "text", ["secret-without-a-name", "a=b,secret%0d%0aX: y=1", "a=x%0asecret"]
)
def test_bad_headers_are_not_quoted(env, text):
    env(HEADERS=text)
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS: header") as caught:
        OtlpSettings.from_env()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; .* grpc"),
        ({"LOGS_COMPRESSION": "br"}, "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION is 'br'"),
        ({"PROTOCOL": "grpc", "COMPRESSION": "deflate"}, "use gzip"),
        ({"TIMEOUT": "ten"}, "OTEL_EXPORTER_OTLP_TIMEOUT is 'ten'; it takes seconds"),
        ({"TIMEOUT": "0"}, "above 0"),
        ({"TIMEOUT": "nan"}, "above 0"),
        ({"CERTIFICATE": "/no/such.pem"}, "/no/such.pem, which is no file"),
        ({"ENDPOINT": "localhost:4318"}, "no URL like"),
        ({"ENDPOINT": "ftp://c"}, "no URL like"),
    ],
)
def test_bad_values(env, variables, words):
    env(**variables)
    with pytest.raises(ConfigurationError, match=words):
        OtlpSettings.from_env()


def test_an_endpoint_with_a_password_is_shown_without():
    place = OtlpSettings(endpoint="https://u:pa55word@c:1/v1/logs?key=pa55word").place
    assert place == "https://c:1/v1/logs"
    assert OtlpSettings(protocol="grpc", endpoint="u:pa55word@c:1").place == "c:1"
    with pytest.raises(ConfigurationError) as caught:
        OtlpSettings(endpoint="ftp://u:pa55word@c:1")
    assert "pa55word" not in str(caught.value)


def test_code_wins(env, tmp_path):
    env(ENDPOINT="http://c:1", TIMEOUT="3", COMPRESSION="gzip")
    settings = OtlpSettings.from_env(
        endpoint="http://d:2/v1/logs", timeout=None, compression="none"
    )
    assert (settings.endpoint, settings.timeout, settings.compression) == (
        "http://d:2/v1/logs",
        3.0,
        "none",
    )
    with pytest.raises(ConfigurationError, match="no setting 'endpont'; it has: protocol"):
        OtlpSettings.from_env(endpont="x")
    with pytest.raises(ConfigurationError, match="protocol is 'tcp'"):
        OtlpSettings.from_env(protocol="tcp")


def test_files(env, tmp_path):
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        (tmp_path / name).write_text("x")
        env(**{name: str(tmp_path / name)})
    settings = OtlpSettings.from_env()
    assert settings.certificate == Path(tmp_path / "CERTIFICATE")
    assert settings.client_certificate == Path(tmp_path / "CLIENT_CERTIFICATE")
    assert settings.client_key == Path(tmp_path / "CLIENT_KEY")
