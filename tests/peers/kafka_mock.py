"""librdkafka's own mock cluster, with the errors its C interface can be told to give.

confluent-kafka's Python interface starts a mock cluster (``test.mock.num.brokers``) and cannot
steer it; the library it ships exports the functions that do.
https://github.com/confluentinc/librdkafka/blob/master/src/rdkafka_mock.h
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.peers.processes import PeerMissing
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from confluent_kafka import Message

PRODUCE = 0
"""Kafka's API key of Produce requests."""
INIT_PRODUCER_ID = 22
"""That of the requests by which an idempotent producer begins."""

_PRODUCER = 0  # rd_kafka_type_t


def _library() -> ctypes.CDLL:
    try:
        import confluent_kafka
    except ImportError:
        raise PeerMissing(
            "confluent-kafka is missing: pip install 'klaviyo-audit[kafka]'"
        ) from None
    folder = Path(confluent_kafka.__file__).parent
    found = [
        *folder.with_name("confluent_kafka.libs").glob("librdkafka*.so*"),
        *(folder / ".dylibs").glob("librdkafka*.dylib"),
    ]
    if not found:
        raise PeerMissing(f"confluent-kafka ships no librdkafka on {sys.platform}")
    library = ctypes.CDLL(str(found[0]))
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        (
            "rd_kafka_conf_set",
            ctypes.c_int,
            [pointer, text, text, text, ctypes.c_size_t],
        ),
        ("rd_kafka_new", pointer, [ctypes.c_int, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, ctypes.c_int]),
        ("rd_kafka_mock_cluster_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [pointer, text, ctypes.c_int, ctypes.c_int]),
        ("rd_kafka_mock_topic_set_error", None, [pointer, text, ctypes.c_int]),
        ("rd_kafka_mock_broker_set_down", ctypes.c_int, [pointer, ctypes.c_int]),
        ("rd_kafka_mock_broker_set_up", ctypes.c_int, [pointer, ctypes.c_int]),
        ("rd_kafka_mock_broker_set_rtt", ctypes.c_int, [pointer, ctypes.c_int, ctypes.c_int]),
        (
            "rd_kafka_mock_broker_set_host_port",
            ctypes.c_int,
            [pointer, ctypes.c_int32, text, ctypes.c_int],
        ),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """A cluster of brokers on loopback, in this process."""

    def __init__(self, brokers: int = 3) -> None:
        self._lib = _library()
        self.brokers = range(1, brokers + 1)
        error = ctypes.create_string_buffer(512)
        config = self._lib.rd_kafka_conf_new()
        self._lib.rd_kafka_conf_set(config, b"log_level", b"0", error, len(error))
        self._client = self._lib.rd_kafka_new(_PRODUCER, config, error, len(error))
        if not self._client:
            raise RuntimeError(error.value.decode())
        self._cluster = self._lib.rd_kafka_mock_cluster_new(self._client, brokers)
        self.bootstrap = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def create_topic(self, name: str, partitions: int = 4) -> None:
        self._lib.rd_kafka_mock_topic_create(
            self._cluster, name.encode(), partitions, len(self.brokers)
        )

    def topic_error(self, name: str, code: int) -> None:
        """What metadata requests say about a topic."""
        self._lib.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), code)

    def answer_next(self, api: int, *codes: int) -> None:
        """What the next requests of a kind are answered with; then all is well again."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def advertise(self, broker: int, host: str, port: int) -> None:
        """The address that clients are told for a broker, e.g. that of a proxy in front of it."""
        self._lib.rd_kafka_mock_broker_set_host_port(self._cluster, broker, host.encode(), port)

    def down(self) -> None:
        for broker in self.brokers:
            self._lib.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def up(self) -> None:
        for broker in self.brokers:
            self._lib.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def delay(self, milliseconds: int) -> None:
        for broker in self.brokers:
            self._lib.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds)

    def read(
        self,
        topic: str,
        is_enough: Callable[[list[Message]], bool],
        partitions: int = 1,
        seconds: float = PATIENCE,
    ) -> list[Message]:
        """The messages of a topic, until there are enough and none came for half a second."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test"})
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        found: list[Message] = []
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is not None:
                    assert message.error() is None, message.error()
                    found.append(message)
                elif is_enough(found):
                    break
        finally:
            consumer.close()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._client)
