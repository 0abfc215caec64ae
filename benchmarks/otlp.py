"""Entries a second that the OTLP sink delivers to rotel, a collector in a process of its own."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.harness import Effort, Reading
from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.sinks.otlp import OtlpSink
from tests.peers.rotel_agent import rotel
from tests.sinks import entries

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW = "otlp"
_WANTED = 10_000
_BATCH = 2_000


def run(effort: Effort) -> list[Reading]:
    """Both protocols, from entries to the collector's answers, encoding included.

    A batch counts when the collector has answered that it took it.
    """
    count = 10_000 if effort.quick else 40_000
    batch = [entries.line(n=n, id=f"019ab2f4-5e80-7c31-9a44-{n:012x}") for n in range(count)]
    given = [AuditEntry.from_json(line) for line in batch]
    readings = []
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
                f"{len(rates)} rounds of {count:,} entries with every member, in batches of "
                f"{_BATCH:,}: {', '.join(f'{rate:,.0f}' for rate in rates)}; "
                f"{statistics.median(costs):.0f} us of CPU an entry on our side"
            )
            readings.append(
                Reading(
                    ROW,
                    f"entries/s to rotel over {protocol}",
                    statistics.median(rates),
                    "lines/s",
                    _WANTED,
                    detail,
                    at_least=True,
                )
            )
    return readings


def _deliver(sink: OtlpSink, given: Sequence[AuditEntry]) -> None:
    for start in range(0, len(given), _BATCH):
        sink.deliver(given[start : start + _BATCH])
