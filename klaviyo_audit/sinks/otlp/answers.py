"""What a collector can answer, in the words that both protocols share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse


class Answer(NamedTuple):
    """The collector took the request, but for some records."""

    rejected: int
    """How many records it will never take. OTLP does not say which."""
    message: str
    """Why, or a warning where none was rejected."""


class TooLarge(Exception):  # noqa: N818  (an answer to act on, not a fault)
    """The request is larger than the collector takes."""


class Refused(Exception):  # noqa: N818  (likewise)
    """The collector will never take this request, and it is the request's fault."""


class Transport(Protocol):
    """One way to a collector."""

    def send(self, request: bytes) -> Callable[[], Answer]:
        """Begin to send a serialised ``ExportLogsServiceRequest``.

        Returns:
            Waits for the answer.

        Raises:
            TooLarge: It is too large.
            Refused: It is malformed, in the collector's eyes.
            Retry: The collector is not there, busy or in trouble, or did not answer in OTLP.
            ConfigurationError: It does not know us, or is none.
        """

    def close(self) -> None:
        """Let go of the connection."""


def answer_of(response: ExportLogsServiceResponse) -> Answer:
    """The answer in a response message."""
    partial = response.partial_success
    return Answer(max(0, partial.rejected_log_records), partial.error_message)
