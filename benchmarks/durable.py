"""Durability ``fsync``: group commit, against a write and a sync by hand."""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.append import appending, caught_entry, last_line
from benchmarks.harness import Effort, Reading, interleave, medians, ratio, ratio_noise, timed
from benchmarks.server import running
from benchmarks.subject import without_http
from klaviyo_audit.journal.writer import JournalWriter

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "durable"
_THREADS = 64


def run(effort: Effort) -> list[Reading]:
    """One thread against write + fdatasync; entries a second of many threads."""
    with running() as url, without_http(effort.folder / "entry", url) as both:
        caught, entry = caught_entry(both)
        line = last_line(caught.path) + b"\n"
    writer = JournalWriter(
        effort.folder / "journal",
        user_id="benchmarks",
        origin={"service": "benchmarks"},
        opening={},
        on_loss=_raise,
        sync=True,
    )
    append = appending(writer, entry)
    append()
    descriptor = os.open(effort.folder / "plain", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        blocks = {
            "append": timed(append, 1),
            "plain": timed(lambda: _write_and_sync(descriptor, line), 1),
        }
        taken = interleave(blocks, effort.rounds(3_000, 400))
    finally:
        os.close(descriptor)
    seconds = effort.rounds(5, 2)
    speeds = [_entries_a_second(append, seconds) for _ in range(effort.rounds(5, 3))]
    writer.close()
    return [
        Reading(
            ROW,
            "1 thread: append / (os.write + os.fdatasync of the same bytes)",
            ratio(taken["append"], taken["plain"]),
            "x",
            1.1,
            medians(taken, "us"),
            ratio_noise(taken["plain"]),
        ),
        Reading(
            ROW,
            f"{_THREADS} threads: durable entries",
            statistics.median(speeds),
            "lines/s",
            20_000,
            f"{min(speeds):,.0f} to {max(speeds):,.0f} in {len(speeds)} runs of {seconds} s",
            at_least=True,
        ),
    ]


def _raise(error: Exception) -> None:
    raise error


def _write_and_sync(descriptor: int, line: bytes) -> None:
    os.write(descriptor, line)
    os.fdatasync(descriptor)


def _entries_a_second(append: Callable[[], object], seconds: float) -> float:
    counts = [0] * _THREADS
    start = threading.Barrier(_THREADS + 1)
    stop = threading.Event()

    def work(number: int) -> None:
        start.wait()
        while not stop.is_set():
            append()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    time.sleep(seconds)
    total, taken = sum(counts), time.perf_counter() - begun
    stop.set()
    for thread in threads:
        thread.join()
    return total / taken
