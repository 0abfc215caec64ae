"""The sink that sends entries and checkpoints to an OpenTelemetry collector."""

from __future__ import annotations

import logging
import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.base import Rejected
from klaviyo_audit.sinks.otlp.answers import Answer, Refused, TooLarge, Transport
from klaviyo_audit.sinks.otlp.settings import OtlpSettings
from klaviyo_audit.sinks.otlp.tls import check_files
from klaviyo_audit.sinks.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.otlp.records import Encoded

    _Portion = list[tuple[AuditEntry, Encoded]]

_REQUEST_BYTES: Final = 3 << 20
"""Collectors take 4 MiB over gRPC by default, and 20 MiB over HTTP."""

_log = logging.getLogger("klaviyo_audit")


class OtlpSink:
    """Sends entries as OpenTelemetry log records, and waits for the collector's answer.

    Args:
        name: The sink's name.
        service: ``service.name`` of checkpoints until an entry has told it.
        environment: Likewise ``deployment.environment.name``.
        host: Likewise ``host.name``.
        **collector: The fields of `OtlpSettings`; what is not given comes from the standard
            ``OTEL_EXPORTER_OTLP_*`` variables.

    Raises:
        ConfigurationError: A setting is not allowed, or the extra ``otel`` is not installed.

    Example:
        >>> OtlpSink(endpoint="http://127.0.0.1:4318/v1/logs")  # doctest: +SKIP
    """

    max_batch_entries = 2_000
    max_batch_bytes = 2 << 20

    def __init__(
        self,
        *,
        name: str = "otlp",
        service: str | None = None,
        environment: str | None = None,
        host: str | None = None,
        **collector: Any,
    ) -> None:
        self.name = name
        self.settings = OtlpSettings.from_env(**collector)
        check_files(self.settings)
        try:
            from opentelemetry.sdk.resources import OTELResourceDetector

            from klaviyo_audit.sinks.otlp.records import Origin
        except ImportError as error:
            raise ConfigurationError(_missing(error)) from error
        detected = OTELResourceDetector().detect().attributes
        self._common = {k: v for k, v in detected.items() if isinstance(v, str | bool | int)}
        self._origin = Origin(service, environment, host)
        self._progress = Progress()
        self._most = _REQUEST_BYTES
        self._transport: Transport | None = None
        self._pid = 0
        self._told: set[str] = set()

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Send the entries, in as many requests as their size asks for.

        Raises:
            Retry: The collector is not there or busy. What it has taken by then is not sent
                again with the next attempt.
            Rejected: The collector refused some, or took a request only in part.
            ConfigurationError: It does not know us, or is none.
        """
        portions = self._portions(self._progress.remaining(entries))
        waiting = deque(islice(portions, 1))
        while waiting:
            portion = waiting.popleft()
            subjects = [entry for entry, _ in portion]
            try:
                answer_to = self._send([record for _, record in portion])
                if not waiting:
                    # While one is on its way the next is encoded; it goes out after the answer.
                    waiting.extend(islice(portions, 1))
                answer = answer_to()
            except (TooLarge, Refused) as refusal:
                if len(portion) == 1:
                    self._progress.refused(subjects, str(refusal))
                    continue
                if isinstance(refusal, TooLarge):
                    size = sum(len(record.record) for _, record in portion)
                    self._most = max(1, min(self._most, size // 2))
                half = len(portion) // 2
                waiting.extendleft((portion[half:], portion[:half]))
                continue
            if answer.rejected:
                self._progress.refused(subjects, _partial(answer, len(portion)))
            else:
                # A limit that was met once need not be there for ever.
                self._most = min(_REQUEST_BYTES, self._most + self._most // 8 + 1)
                self._progress.taken(subjects)
                self._warn(answer.message)
        self._progress.finish(entries)

    def deliver_checkpoints(self, notes: Sequence[bytes]) -> None:
        """Send signed checkpoints, each as a log record whose body is the note.

        Raises:
            Retry: As for `deliver`.
            Rejected: The collector refused them.
            ConfigurationError: As for `deliver`.
        """
        from klaviyo_audit.sinks.otlp.records import encoded_checkpoint

        try:
            answer = self._send([encoded_checkpoint(note, self._origin) for note in notes])()
        except (TooLarge, Refused) as refusal:
            if len(notes) == 1:
                raise Rejected((), str(refusal)) from None
            half = len(notes) // 2
            self.deliver_checkpoints(notes[:half])
            self.deliver_checkpoints(notes[half:])
            return
        if answer.rejected:
            raise Rejected((), _partial(answer, len(notes)))

    def close(self) -> None:
        """Close the connection."""
        transport, self._transport = self._transport, None
        if transport is not None and self._pid == os.getpid():
            transport.close()

    def _portions(self, entries: Iterable[AuditEntry]) -> Iterator[_Portion]:
        from klaviyo_audit.sinks.otlp.records import encoded

        portion: _Portion = []
        size = 0
        for entry in entries:
            record = encoded(entry)
            more = len(record.record)
            if portion and size + more > self._most:
                yield portion
                portion, size = [], 0
            portion.append((entry, record))
            size += more
            self._origin = record.origin
        if portion:
            yield portion

    def _send(self, records: Sequence[Encoded]) -> Callable[[], Answer]:
        """Begin to send; what is returned waits for the answer."""
        from opentelemetry.instrumentation.utils import suppress_instrumentation

        from klaviyo_audit.sinks.otlp.records import request_of

        # Programs run by opentelemetry-instrument trace what requests and gRPC send: a span for
        # each delivery, and with spans going to the same collector there would be no end to it.
        def answer() -> Answer:
            with suppress_instrumentation():
                return answer_to()

        with suppress_instrumentation():
            answer_to = self._connected().send(request_of(records, self._common))
        return answer

    def _connected(self) -> Transport:
        # Sessions and channels are of no use in a forked child, which makes its own.
        if self._transport is None or self._pid != os.getpid():
            self._transport = _transport(self.settings)
            self._pid = os.getpid()
        return self._transport

    def _warn(self, message: str) -> None:
        if message and message not in self._told:
            self._told = {message}
            _log.warning("the OTLP collector took the entries and said: %s", message)


def from_settings(settings: Settings) -> OtlpSink:
    """The sink for the entry point ``otlp``."""
    return OtlpSink(service=settings.service, environment=settings.environment, host=settings.host)


def _transport(settings: OtlpSettings) -> Transport:
    try:
        if settings.protocol == "grpc":
            from klaviyo_audit.sinks.otlp.grpc import GrpcTransport

            return GrpcTransport(settings)
        from klaviyo_audit.sinks.otlp.http import HttpTransport

        return HttpTransport(settings)
    except ImportError as error:
        raise ConfigurationError(_missing(error)) from error


def _missing(error: ImportError) -> str:
    return (
        f"the OTLP sink needs {error.name or 'a package'}, which is not installed or too old: "
        "pip install 'klaviyo-audit[otel]'"
    )


def _partial(answer: Answer, sent: int) -> str:
    why = answer.message or "it gave no reason"
    if answer.rejected >= sent:
        return f"the collector rejected all {sent} records of a request: {why}"
    return (
        f"the collector rejected {answer.rejected} of {sent} records of a request, without saying "
        f"which: {why}; sending these again repeats those it took, with the same ids"
    )
