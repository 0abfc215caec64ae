"""OTLP over gRPC (https://opentelemetry.io/docs/specs/otlp/#otlpgrpc)."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klaviyo_audit._version import __version__
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.retryafter import LONGEST_WAIT
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.otlp.answers import Answer, Refused, TooLarge, answer_of
from klaviyo_audit.sinks.otlp.tls import distrust

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.sinks.otlp.settings import OtlpSettings

_METHOD: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

_NOT_US: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_REFUSED: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION})

# No status code says so: grpc-go and grpc-core send RESOURCE_EXHAUSTED, tonic OUT_OF_RANGE.
_SIZE_CODES: Final = frozenset(
    {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNKNOWN}
)
_SIZE_WORDS: Final = re.compile(
    r"larger than (the )?max|length too large|message (is )?too (large|big)|exceeds? .{0,40}size",
    re.IGNORECASE,
)

_STATUS_DETAILS: Final = "grpc-status-details-bin"
_BARE_RETRY_INFO: Final = "google.rpc.retryinfo-bin"
"""What opentelemetry-python looks for; collectors send the former."""


class GrpcTransport:
    """A channel to one collector; not for use after a fork.

    Args:
        settings: Where the collector is.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._metadata = tuple((name.lower(), value) for name, value in settings.headers.items())
        gzip = settings.compression == "gzip"
        options = (
            ("grpc.primary_user_agent", f"klaviyo-audit/{__version__}"),
            # By default gRPC waits up to two minutes before it looks for a collector again.
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        )
        common: dict[str, Any] = {
            "options": options,
            "compression": grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
        }
        if settings.insecure:
            self._channel = grpc.insecure_channel(settings.target, **common)
        else:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=_content(settings.certificate),
                private_key=_content(settings.client_key),
                certificate_chain=_content(settings.client_certificate),
            )
            self._channel = grpc.secure_channel(settings.target, credentials, **common)
        # Not the generated stub: it would serialise what is serialised already.
        self._export: Any = self._channel.unary_unary(
            _METHOD, None, ExportLogsServiceResponse.FromString
        )

    def send(self, request: bytes) -> Callable[[], Answer]:
        """Begin to send a request (see `Transport.send`)."""
        try:
            call = self._export.future(
                request, timeout=self._settings.timeout, metadata=self._metadata
            )
        except (ValueError, TypeError):
            # gRPC refuses metadata before sending, with a text that can quote it; a closed
            # channel is another ValueError, and asking again is right for that.
            raise Retry(why=f"gRPC could not send to {self._settings.place}") from None
        return partial(self._answer, call)

    def _answer(self, call: Any) -> Answer:
        try:
            response = call.result()
        except grpc.RpcError as error:
            self._judge(error)
        rejected, message = answer_of(response)
        return Answer(rejected, self._settings.masked(message))

    def _judge(self, error: Any) -> None:
        code: grpc.StatusCode = error.code()
        details = error.details() or ""
        if why := distrust(self._settings, details):
            raise Retry(why=why) from None
        said = f"{self._settings.place} answered {code.name}"
        if shown := self._settings.masked(details):
            said = f"{said} ({shown})"
        after = _retry_info(error.trailing_metadata() or ())
        if code in _SIZE_CODES and after is None and _SIZE_WORDS.search(details):
            raise TooLarge(said) from None
        if code in _NOT_US:
            raise ConfigurationError(
                f"{said}: check OTEL_EXPORTER_OTLP_HEADERS (or _LOGS_HEADERS); the entries stay "
                "in the journal"
            ) from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise ConfigurationError(
                f"{said}: no OTLP collector that takes logs is there; check "
                "OTEL_EXPORTER_OTLP_ENDPOINT (or _LOGS_ENDPOINT)"
            ) from None
        if code in _REFUSED:
            raise Refused(said) from None
        # The specification has some codes (INTERNAL, UNKNOWN) never repeated. We repeat them:
        # here a duplicate is better than a loss.
        raise Retry(after=after, why=said) from None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path} for the OTLP collector's TLS: {error.strerror}"
        ) from None


def _retry_info(trailing: Any) -> float | None:
    """Seconds to wait, if the collector said how many."""
    for key, value in trailing:
        info = RetryInfo()
        try:
            if key == _BARE_RETRY_INFO:
                info.ParseFromString(value)
            elif key == _STATUS_DETAILS:
                details = Status.FromString(value).details
                if not any(detail.Unpack(info) for detail in details):
                    continue
            else:
                continue
        except DecodeError:
            continue
        seconds: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
        return min(max(0.0, seconds), LONGEST_WAIT)
    return None
