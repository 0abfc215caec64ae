"""What collectors nobody here wrote have got: passed on to Kafka by rotel, or told by oteltap."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.peers.processes import PeerMissing
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.kafka_mock import MockCluster


def to_kafka(cluster: MockCluster) -> list[str]:
    """Rotel's arguments to pass on to a cluster what it gets, in OTLP/JSON."""
    return [
        *("--exporter", "kafka", "--kafka-exporter-brokers", cluster.bootstrap),
        *("--kafka-exporter-format", "json"),
    ]


def plain(value: dict[str, Any]) -> Any:
    """An AnyValue in OTLP/JSON as a Python value of the same type."""
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [plain(item) for item in content.get("values", [])]
    return content


def attributes_of(item: dict[str, Any]) -> dict[str, Any]:
    """The attributes of something in OTLP/JSON."""
    return {one["key"]: plain(one["value"]) for one in item.get("attributes", [])}


def told_by_oteltap(
    stream: str, send: Callable[[str], None], is_last: Callable[[Any], bool]
) -> list[Any]:
    """What oteltap gets.

    Args:
        stream: Its method: ``stream_logs`` or ``stream_traces``.
        send: Sends to the address that it is given.
        is_last: Whether nothing follows.

    Raises:
        PeerMissing: It is not installed.
    """
    try:
        import oteltap
    except ImportError:
        raise PeerMissing("oteltap is missing (PyPI): run `make peers`") from None
    port = free_port()

    async def received() -> list[Any]:
        settings = oteltap.OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with oteltap.OtelTapHttpProtobufReceiver(settings) as receiver:
            found: list[Any] = []

            async def collect() -> None:
                async for one in getattr(receiver, stream)():
                    found.append(one)
                    if is_last(one):
                        return

            collecting = asyncio.create_task(collect())
            await asyncio.sleep(0)
            await asyncio.to_thread(send, f"http://127.0.0.1:{port}")
            await asyncio.wait_for(collecting, 30)
            return found

    return asyncio.run(received())
