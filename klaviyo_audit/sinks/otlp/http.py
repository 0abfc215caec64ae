"""OTLP over HTTP, with protobuf bodies (https://opentelemetry.io/docs/specs/otlp/#otlphttp)."""

from __future__ import annotations

import gzip
import zlib
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Final

import requests
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from urllib3.exceptions import HTTPError

from klaviyo_audit._version import __version__
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.retryafter import seconds_to_wait
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.otlp.answers import Answer, Refused, TooLarge, answer_of
from klaviyo_audit.sinks.otlp.tls import distrust

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.sinks.otlp.settings import OtlpSettings

_MOST_ANSWER: Final = 1 << 16
"""Bytes of an answer that are read; a collector's have a few hundred."""

_NOT_US: Final = frozenset({401, 403, 407})
_NO_COLLECTOR: Final = frozenset({404, 405, 406, 410, 415, 501, 505})
_PROTOBUF: Final = frozenset({"application/x-protobuf", "application/octet-stream", ""})
_FAST: Final = 1
"""Compression level: on entries, level 9 saves 5 % of the bytes for 4 times the time."""


class HttpTransport:
    """A session with one collector; not for use after a fork.

    Args:
        settings: Where the collector is.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._session = requests.Session()
        self._session.headers.update(
            {
                "User-Agent": f"klaviyo-audit/{__version__}",
                "Content-Type": "application/x-protobuf",
                **settings.headers,
            }
        )
        if settings.compression != "none":
            self._session.headers["Content-Encoding"] = settings.compression
        self._verify = True if settings.certificate is None else str(settings.certificate)
        self._cert: str | tuple[str, str] | None = None
        if settings.client_certificate is not None:
            pair = (settings.client_certificate, settings.client_key)
            self._cert = (str(pair[0]), str(pair[1])) if pair[1] is not None else str(pair[0])

    def send(self, request: bytes) -> Callable[[], Answer]:
        """Send a request when its answer is asked for (see `Transport.send`)."""
        return partial(self._answer, request)

    def _answer(self, request: bytes) -> Answer:
        body = self._compressed(request)
        deadline = monotonic() + self._settings.timeout
        try:
            status, headers, answer = self._exchange(body, deadline)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL):
            # Without the cause, whose text quotes the value.
            raise ConfigurationError(
                f"a header or the address of the OTLP collector {self._place} is not allowed in "
                "HTTP (its text is not shown): see OTEL_EXPORTER_OTLP_HEADERS and _ENDPOINT"
            ) from None
        except requests.exceptions.SSLError as error:
            why = distrust(self._settings, str(error))
            raise Retry(why=why or f"no answer from {self._place}: {_kinds(error)}") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            # Their texts quote the URL, which can hold a password.
            raise Retry(why=f"no answer from {self._place}: {_kinds(error)}") from None
        return self._judged(status, headers, answer)

    @property
    def _place(self) -> str:
        return self._settings.place

    def _compressed(self, body: bytes) -> bytes:
        if self._settings.compression == "gzip":
            return gzip.compress(body, _FAST)
        if self._settings.compression == "deflate":
            return zlib.compress(body, _FAST)
        return body

    def _exchange(
        self, body: bytes, deadline: float
    ) -> tuple[int, requests.structures.CaseInsensitiveDict[str], bytes]:
        timeout = self._settings.timeout
        answer = bytearray()
        with self._session.post(
            self._settings.endpoint,
            data=body,
            timeout=(timeout, timeout),
            # A redirect would turn into a GET, or carry our headers to somebody else.
            allow_redirects=False,
            stream=True,
            # Said with each request: a session's own `verify` gives way to REQUESTS_CA_BUNDLE, and
            # without `auth` a password from ~/.netrc replaces the header that was asked for.
            verify=self._verify,
            cert=self._cert,
            auth=_as_it_is,
        ) as response:
            # The timeout is that of one read: who sends a byte now and then must not hold us.
            while chunk := response.raw.read1(_MOST_ANSWER, decode_content=True):
                answer += chunk
                if len(answer) > _MOST_ANSWER:
                    raise Retry(why=f"{self._place} answered more than {_MOST_ANSWER} bytes")
                if monotonic() > deadline:
                    raise Retry(why=f"{self._place} took over {timeout:g} s to answer")
            return response.status_code, response.headers, bytes(answer)

    def _judged(
        self, status: int, headers: requests.structures.CaseInsensitiveDict[str], answer: bytes
    ) -> Answer:
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return self._success(status, kind, answer)
        said = self._said(status, kind, answer)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge(said)
        if status in _NOT_US:
            raise ConfigurationError(
                f"{said}: check OTEL_EXPORTER_OTLP_HEADERS (or _LOGS_HEADERS); the entries stay "
                "in the journal"
            )
        if status in _NO_COLLECTOR or status < HTTPStatus.BAD_REQUEST:
            raise ConfigurationError(
                f"{said}: no OTLP collector is there; check OTEL_EXPORTER_OTLP_ENDPOINT (to "
                "which /v1/logs is added) or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT (used as it is)"
            )
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            raise Refused(said)
        # The specification has only 429, 502, 503 and 504 repeated. We repeat all others, too:
        # here a duplicate is better than a loss.
        raise Retry(after=seconds_to_wait(headers), why=said)

    def _success(self, status: int, kind: str, answer: bytes) -> Answer:
        response = ExportLogsServiceResponse()
        try:
            if kind == "application/json":
                Parse(answer or b"{}", response, ignore_unknown_fields=True)
                understood = True
            else:
                understood = not answer or kind in _PROTOBUF
                response.ParseFromString(answer)
        except (DecodeError, ParseError, UnicodeDecodeError):
            understood = False
        if not understood:
            # Whatever said so (a proxy's login page, say) did not promise to keep anything.
            raise Retry(
                why=f"{self._place} answered {status} with {kind[:40] or 'something'} that is no "
                "OTLP response, so nobody can tell whether the entries have arrived"
            )
        rejected, message = answer_of(response)
        return Answer(rejected, self._settings.masked(message))

    def _said(self, status: int, kind: str, answer: bytes) -> str:
        text = ""
        if kind == "application/x-protobuf":
            try:
                text = Status.FromString(answer).message
            except DecodeError:
                text = ""
        elif kind in ("text/plain", "application/json"):
            text = answer.decode("utf-8", "replace")
        shown = self._settings.masked(text)
        return f"{self._place} answered {status}{f' ({shown})' if shown else ''}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _kinds(error: BaseException) -> str:
    """What the innermost cause of an exception is; most texts are not ours to repeat."""
    kind = type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        kind = type(inner).__name__
        # urllib3 and requests carry what they wrap in one of these three places.
        wrapped = (getattr(inner, "reason", None), *inner.args, inner.__cause__)
        inner = next((item for item in wrapped if isinstance(item, BaseException)), None)
    return kind
