"""Where an OTLP collector is and how to talk to it, from the standard ``OTEL_EXPORTER_OTLP_*``.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/ describes the variables. Each can be
given for logs alone (``OTEL_EXPORTER_OTLP_LOGS_ENDPOINT``), which wins. As in opentelemetry-python,
and unlike in the specification, the timeout is in seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args
from urllib.parse import unquote, urlsplit

from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["none", "gzip", "deflate"]

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_HTTP_DEFAULT: Final = "http://localhost:4318"
_GRPC_DEFAULT: Final = "http://localhost:4317"
_HTTP_PATH: Final = "/v1/logs"
_SHORTEST_SECRET: Final = 4
"""A header value shorter than this is no secret, and masking it would garble messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """How to reach one collector.

    Attributes:
        protocol: ``http/protobuf`` or ``grpc``.
        endpoint: For HTTP the whole URL, ``/v1/logs`` included; for gRPC a URL or ``host:port``.
        headers: HTTP headers or gRPC metadata of each request.
        timeout: Seconds for one request.
        compression: Of the requests; ``deflate`` only over HTTP.
        certificate: File of the authorities that may have signed the collector's certificate.
        client_certificate: File of the client's own certificate.
        client_key: File of its key.
        insecure: gRPC without TLS.
    """

    protocol: Protocol = "http/protobuf"
    endpoint: str = f"{_HTTP_DEFAULT}{_HTTP_PATH}"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    compression: Compression = "none"
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    insecure: bool = False

    @classmethod
    def from_env(cls, **given: Any) -> Self:
        """Read the environment; what is given here wins over it.

        Raises:
            ConfigurationError: A value is not allowed; the message names the variable, and no
                value of a header.
        """
        unknown = given.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise ConfigurationError(
                f"the OTLP sink has no setting {min(unknown)!r}; it has: "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        given = {name: value for name, value in given.items() if value is not None}
        protocol = given.pop("protocol", None) or _choice("PROTOCOL", "http/protobuf", Protocol)
        if protocol not in get_args(Protocol):
            raise ConfigurationError(_refused("protocol", str(protocol), Protocol))
        endpoint = given.pop("endpoint", None) or _endpoint(protocol)
        settings = cls(
            protocol=protocol,
            endpoint=endpoint,
            headers=_headers(),
            timeout=_timeout(),
            compression=_choice("COMPRESSION", "none", Compression),
            certificate=_file("CERTIFICATE"),
            client_certificate=_file("CLIENT_CERTIFICATE"),
            client_key=_file("CLIENT_KEY"),
            insecure=_insecure(endpoint),
        )
        return replace(settings, **given)

    def __post_init__(self) -> None:
        url = urlsplit(self.endpoint)
        if self.protocol == "http/protobuf" and (
            url.scheme not in ("http", "https") or not url.hostname
        ):
            raise ConfigurationError(
                f"the OTLP endpoint {self.place!r} (OTEL_EXPORTER_OTLP_ENDPOINT) is no URL like "
                f"{_HTTP_DEFAULT}"
            )
        if self.protocol == "grpc" and self.compression == "deflate":
            raise ConfigurationError(
                "OTEL_EXPORTER_OTLP_COMPRESSION is deflate, which OTLP over gRPC does not have: "
                "use gzip or none"
            )

    @property
    def place(self) -> str:
        """The endpoint for messages: without a password or query."""
        url = urlsplit(self.endpoint)
        if not url.scheme or "@" in self.endpoint.partition("://")[0]:
            return self.endpoint.rpartition("@")[2]
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    @property
    def target(self) -> str:
        """The endpoint as gRPC takes it: ``host:port``."""
        url = urlsplit(self.endpoint)
        return url.netloc if url.scheme in ("http", "https") and url.netloc else self.endpoint

    def masked(self, text: str, limit: int = 200) -> str:
        """What a collector said, for a message: one short line, our own headers masked."""
        for value in self.headers.values():
            for secret in (value, *value.split()):
                if len(secret) >= _SHORTEST_SECRET:
                    text = text.replace(secret, "[masked]")
        shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _value(name: str) -> tuple[str, str] | None:
    """A variable that is set and not empty, with its name; that for logs wins."""
    for variable in (f"{_PREFIX}LOGS_{name}", f"{_PREFIX}{name}"):
        if value := os.environ.get(variable, "").strip():
            return variable, value
    return None


def _choice(name: str, default: str, choices: Any) -> Any:
    found = _value(name)
    if found is None:
        return default
    value = found[1].lower()
    if value not in get_args(choices):
        raise ConfigurationError(_refused(found[0], value, choices))
    return value


def _refused(name: str, value: str, choices: Any) -> str:
    allowed = " or ".join(get_args(choices))
    return f"{name} is {value[:40]!r}; it has to be {allowed}"


def _endpoint(protocol: Protocol) -> str:
    found = _value("ENDPOINT")
    if protocol == "grpc":
        return found[1] if found else _GRPC_DEFAULT
    if found is None:
        return f"{_HTTP_DEFAULT}{_HTTP_PATH}"
    variable, value = found
    # Only the variable for all signals is a base to which the signal's path is added.
    return value if variable.endswith("LOGS_ENDPOINT") else f"{value.rstrip('/')}{_HTTP_PATH}"


def _insecure(endpoint: str) -> bool:
    scheme = endpoint.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return scheme == "http"
    found = _value("INSECURE")
    return found is not None and found[1].lower() == "true"


def _timeout() -> float:
    found = _value("TIMEOUT")
    if found is None:
        return 10.0
    try:
        seconds = float(found[1])
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{found[0]} is {found[1][:40]!r}; it takes seconds, above 0")
    return seconds


def _file(name: str) -> Path | None:
    found = _value(name)
    if found is None:
        return None
    path = Path(found[1])
    if not path.is_file():
        raise ConfigurationError(f"{found[0]} names {path}, which is no file")
    return path


def _headers() -> dict[str, str]:
    """``name=value,name=value``, percent-encoded (W3C Baggage, without its properties)."""
    found = _value("HEADERS")
    headers: dict[str, str] = {}
    for index, part in enumerate(found[1].split(",") if found else (), 1):
        if not part.strip():
            continue
        name, sign, value = part.partition("=")
        name, value = unquote(name.strip()).lower(), unquote(value.strip())
        if not sign or not name.isascii() or not name.isprintable() or not value.isprintable():
            raise ConfigurationError(
                f"{found[0] if found else ''}: header {index} is not of the form name=value "
                "(its text is not shown); values are percent-encoded"
            )
        headers[name] = value
    return headers
