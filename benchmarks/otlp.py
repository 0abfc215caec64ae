"""Entries a second that the OTLP sink delivers to rotel, a collector in a process of its own."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Effort, Reading
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.verbatim import line_of
from tests.peers.rotel_agent import rotel
from tests.sinks import entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry

ROW = "otlp"
_WANTED = 10_000
_BATCH = 2_000
_ORDINARY: dict[str, Any] = {
    "result": "success",
    "parent_id": None,
    "http": {
        "status": 200,
        "attempts": 1,
        "requests": 1,
        "request_id": "0af76519-16cd-43dd-8448-eb211c80319c",
        "rate_limit": {"limit": 750, "remaining": 749, "reset": 31},
    },
    "actor": {"reason": "nightly sync"},
    "error": None,
    "request": None,
    "response": None,
    "metadata": None,
}


def run(effort: Effort) -> list[Reading]:
    """Both protocols, from entries to the collector's answers, encoding included.

    A batch counts when the collector has answered that it took it. The bound is for entries of
    an ordinary call that succeeded, and for entries with every member there is.
    """
    count = 10_000 if effort.quick else 40_000
    readings = []
    for what, changes, bound in (
        ("an ordinary call", _ORDINARY, _WANTED),
        ("every member", {}, _WANTED),
    ):
        readings += _measured(effort, what, entries.many(count, **changes), bound)
    return readings


def _measured(
    effort: Effort, what: str, given: Sequence[AuditEntry], bound: float | None
) -> list[Reading]:
    readings = []
    count = len(given)
    line = len(line_of(given[0]))
    with rotel(effort.folder, "--exporter", "blackhole") as collector:
        for protocol in ("http/protobuf", "grpc"):
            sink = OtlpSink(protocol=protocol, endpoint=collector.endpoint(protocol), timeout=60)
            _deliver(sink, given[:_BATCH])
            rates, costs = [], []
            for _ in range(effort.rounds(5, 3)):
                begun, busy = time.perf_counter(), time.process_time()
                _deliver(sink, given)
                rates.append(count / (time.perf_counter() - begun))
                costs.append((time.process_time() - busy) / count * 1e6)
            sink.close()
            detail = (
                f"{len(rates)} rounds of {count:,} entries of {line:,} bytes, in batches of "
                f"{_BATCH:,}: {', '.join(f'{rate:,.0f}' for rate in rates)}; "
                f"{statistics.median(costs):.0f} us of CPU an entry on our side"
            )
            readings.append(
                Reading(
                    ROW,
                    f"entries/s to rotel over {protocol}, {what}",
                    statistics.median(rates),
                    "lines/s",
                    bound,
                    detail,
                    at_least=True,
                )
            )
    return readings


def _deliver(sink: OtlpSink, given: Sequence[AuditEntry]) -> None:
    for start in range(0, len(given), _BATCH):
        sink.deliver(given[start : start + _BATCH])
