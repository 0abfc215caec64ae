"""Shipping: how fast the shipper alone is, what it takes of memory, and what a hung sink costs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.append import last_line
from benchmarks.harness import Effort, Reading, interleave, ratio, ratio_noise
from benchmarks.server import running
from benchmarks.subject import without_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from klaviyo_audit.entry import AuditEntry

ROW = "shipping"
_SPAWN = multiprocessing.get_context("spawn")
_CALLS = 200


class NullSink:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.name = "null"
        self.count = 0

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        self.count += len(entries)

    def close(self) -> None:
        pass


class HungSink(NullSink):
    """Never comes back."""

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        del entries
        time.sleep(1e6)


def run(effort: Effort) -> list[Reading]:
    """Entries a second into a sink that takes everything, memory, and calls beside a hung sink."""
    count = effort.rounds(1_000_000, 100_000)
    with running() as url:
        _make_backlog(effort.folder / "backlog", url, count)
        speed, cpu, grown = _in_process(_drain, str(effort.folder / "backlog"))
        readings = [
            Reading(
                ROW,
                f"entries of a backlog of {count:,} into a sink that takes everything",
                speed,
                "lines/s",
                None,
                "one process, batches of 500; bookmark and receipt after each",
            ),
            Reading(
                ROW,
                "processor time of one of them",
                cpu,
                "us",
                None,
                "reading, checking, decoding; what a sink adds comes on top",
            ),
            Reading(
                ROW,
                "memory that takes, over the program's own",
                grown,
                "MB",
                50,
                "peak resident size, less that before the shipper was made",
            ),
        ]
        return [*readings, *_beside_sinks(effort, url)]


def _make_backlog(folder: Path, url: str, count: int) -> None:
    with without_http(folder, url) as both:
        both.held()["audited"]()
    path = folder / "audit.jsonl"
    line = next(text for text in path.read_bytes().splitlines(keepends=True) if b"outcome" in text)
    assert last_line(path)
    with path.open("ab") as file:
        for _ in range(count // 1000):
            file.write(line * 1000)


def _drain(folder: str) -> tuple[float, float, float]:
    """Lines a second, microseconds of processor time for each, and megabytes."""
    from klaviyo_audit.sinks.shipper import Shipper

    before = _resident()
    sink = NullSink()
    shipper = Shipper(Path(folder), sink)
    begun, busy = time.perf_counter(), time.process_time()
    assert shipper.run_once()
    took, busy = time.perf_counter() - begun, time.process_time() - busy
    shipper.close()
    return sink.count / took, busy / sink.count * 1e6, _peak() - before


def _beside_sinks(effort: Effort, url: str) -> list[Reading]:
    with contextlib.ExitStack() as stack:
        blocks: dict[str, Callable[[], float]] = {}
        for kind in ("no sink", "hung", "null"):
            worker = stack.enter_context(_caller(effort.folder / kind.replace(" ", "-"), url, kind))
            blocks[kind] = worker.block
            if kind == "hung":
                hung = worker
        taken = interleave(blocks, effort.rounds(300, 60))
        grown = hung.memory_over(effort.rounds(200_000, 20_000))
    bare = taken["no sink"]
    return [
        Reading(
            ROW,
            "a call (HTTP left out) beside a sink that hangs / without a sink",
            ratio(taken["hung"], bare),
            "x",
            1.05,
            ", ".join(f"{k} {statistics.median(v):,.1f} us" for k, v in taken.items()),
            ratio_noise(bare),
        ),
        Reading(
            ROW,
            "a call (HTTP left out) beside a sink that takes everything / without a sink",
            ratio(taken["null"], bare),
            "x",
            None,
            "calls one after the other with no pause: the shipper takes its turn at the GIL",
            ratio_noise(bare),
        ),
        Reading(
            ROW,
            f"memory of {effort.rounds(200_000, 20_000):,} further calls beside a sink that hangs",
            grown,
            "MB",
            5,
            "resident size after them, less that before them",
        ),
    ]


class _Caller:
    """A process that makes audited calls on demand."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def block(self) -> float:
        self._connection.send(_CALLS)
        return float(self._connection.recv())

    def memory_over(self, calls: int) -> float:
        self._connection.send(-calls)
        return float(self._connection.recv())


@contextlib.contextmanager
def _caller(folder: Path, url: str, kind: str) -> Iterator[_Caller]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_call, args=(theirs, str(folder), url, kind), daemon=True)
    process.start()
    try:
        ours.recv()
        yield _Caller(ours)
    finally:
        ours.send(0)
        process.join(30)


def _call(connection: Connection, folder: str, url: str, kind: str) -> None:
    sinks: list[Any] = {"no sink": [], "hung": [HungSink()], "null": [NullSink()]}[kind]
    with without_http(Path(folder), url, sinks=sinks, ship_exit_wait=0.1) as both:
        call = both.held()["audited"]
        for _ in range(1000):
            call()
        time.sleep(1.5)  # the sink hangs by now
        connection.send("ready")
        while calls := connection.recv():
            before = _resident()
            begun = time.perf_counter_ns()
            for _ in range(abs(calls)):
                call()
            took = (time.perf_counter_ns() - begun) / abs(calls) / 1_000
            connection.send(took if calls > 0 else _resident() - before)
    os._exit(0)


def _in_process(
    function: Callable[[str], tuple[float, float, float]], folder: str
) -> tuple[float, float, float]:
    with _SPAWN.Pool(1) as pool:
        return pool.apply(function, (folder,))


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
