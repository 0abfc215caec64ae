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
from benchmarks.harness import Effort, Reading, interleave, ratio
from benchmarks.server import running
from benchmarks.subject import without_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from klaviyo_audit.entry import AuditEntry

ROW = "shipping"
_SPAWN = multiprocessing.get_context("spawn")
_CALLS = 100


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

    def __init__(self) -> None:
        super().__init__()
        self.name = "hung"

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
    """Calls in processes beside each kind of sink.

    A process keeps a speed of its own (where its memory lies, its hash seed), up to a tenth off
    that of another that does the same. So there are several processes of each kind, their short
    blocks are interleaved, and what counts is the median of the ratios of the sets.
    """
    kinds = ("no sink", "hung", "null")
    sets = effort.rounds(5, 3)
    with contextlib.ExitStack() as stack:
        callers = {
            (kind, number): stack.enter_context(
                _caller(effort.folder / f"{kind.replace(' ', '-')}-{number}", url, kind)
            )
            for number in range(sets)
            for kind in kinds
        }
        blocks = {f"{kind} {number}": caller.block for (kind, number), caller in callers.items()}
        taken = interleave(blocks, effort.rounds(200, 40))
        grown = callers["hung", 0].memory_over(effort.rounds(200_000, 20_000))
    ratios: dict[str, list[list[float]]] = {"hung": [], "null": []}
    for kind, found in ratios.items():
        for clock in range(2):
            found += [
                [
                    ratio(
                        [block[clock] for block in taken[f"{kind} {number}"]],
                        [block[clock] for block in taken[f"no sink {number}"]],
                    )
                    for number in range(sets)
                ]
            ]
    bare = [[block[0] for block in taken[f"no sink {number}"]] for number in range(sets)]
    noise = max(abs(ratio(one, bare[0]) - 1) for one in bare[1:])

    def beside(kind: str) -> str:
        wall, cpu = ratios[kind]
        return (
            f"{sets} sets of processes: {', '.join(f'{one:.3f}' for one in wall)}; the caller's "
            f"processor time {statistics.median(cpu):.3f} "
            f"({', '.join(f'{one:.3f}' for one in cpu)}); without a sink "
            f"{statistics.median(bare[0]):,.1f} us a call; noise is between those without a sink"
        )

    return [
        Reading(
            ROW,
            "a call (HTTP left out) beside a sink that hangs / without a sink",
            statistics.median(ratios["hung"][0]),
            "x",
            1.05,
            beside("hung"),
            noise,
        ),
        Reading(
            ROW,
            "a call (HTTP left out) beside a sink that takes everything / without a sink",
            statistics.median(ratios["null"][0]),
            "x",
            None,
            f"{beside('null')}; calls have no pause: the shipper takes its turn at the GIL",
            noise,
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

    def block(self) -> tuple[float, float]:
        """Microseconds of wall time and of the calling thread's processor time for each call."""
        self._connection.send(_CALLS)
        wall, cpu = self._connection.recv()
        return float(wall), float(cpu)

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
    every: dict[str, list[Any]] = {"no sink": [], "hung": [HungSink()], "null": [NullSink()]}
    sinks = every[kind]
    with without_http(Path(folder), url, sinks=sinks, ship_exit_wait=0.1) as both:
        call = both.held()["audited"]
        for _ in range(1000):
            call()
        time.sleep(1.5)  # the sink hangs by now
        connection.send("ready")
        while calls := connection.recv():
            before = _resident()
            begun, busy = time.perf_counter_ns(), time.thread_time_ns()
            for _ in range(abs(calls)):
                call()
            busy, took = time.thread_time_ns() - busy, time.perf_counter_ns() - begun
            spent = (took / abs(calls) / 1_000, busy / abs(calls) / 1_000)
            connection.send(spent if calls > 0 else _resident() - before)
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
