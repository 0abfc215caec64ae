"""Eight threads that call a server, audited against bare, each with its method at hand."""

from __future__ import annotations

import contextlib
import statistics
import threading
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING

from benchmarks.harness import Effort, Reading, interleave, quantile, ratio, ratio_noise
from benchmarks.server import running
from benchmarks.subject import subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROW = "threads"
_THREADS = 8
_CALLS = 40


@dataclass(frozen=True, slots=True)
class Block:
    """What one block took, in microseconds."""

    wall: float
    p50: float
    p99: float


def run(effort: Effort) -> list[Reading]:
    """Wall time of a block, and the calls' own times."""
    with (
        running() as url,
        subject(effort.folder, url) as both,
        _gang() as gang,
    ):
        blocks = {name: gang.block(call) for name, call in both.held().items()}
        taken = interleave(blocks, effort.rounds(80, 12))
    readings = []
    for part, bound in (("wall", 1.06), ("p50", 1.06), ("p99", 1.15)):
        bare, audited = ([getattr(b, part) for b in taken[name]] for name in ("bare", "audited"))
        numbers = (
            f"bare {statistics.median(bare):,.0f} us, audited {statistics.median(audited):,.0f} us"
        )
        what = (
            f"{part} of {_THREADS} threads x {_CALLS} calls"
            if part == "wall"
            else f"{part} of a call"
        )
        readings.append(
            Reading(
                ROW,
                f"{what}, audited / bare",
                ratio(audited, bare),
                "x",
                bound,
                numbers,
                ratio_noise(bare),
            )
        )
    return readings


class _Gang:
    """Threads that wait for a block to run, so that no block pays for starting them."""

    def __init__(self) -> None:
        self._ready = threading.Barrier(_THREADS + 1)
        self._done = threading.Barrier(_THREADS + 1)
        self._call: Callable[[], object] | None = None
        self._took: list[int] = []
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def block(self, call: Callable[[], object]) -> Callable[[], Block]:
        """A block in which every thread makes calls."""

        def run_block() -> Block:
            self._call, self._took = call, []
            self._ready.wait()
            begun = perf_counter_ns()
            self._done.wait()
            wall = perf_counter_ns() - begun
            if self._failed:
                raise self._failed[0]
            micros = [took / 1_000 for took in self._took]
            return Block(wall / 1_000, statistics.median(micros), quantile(micros, 0.99))

        return run_block

    def end(self) -> None:
        """Let the threads go."""
        self._call = None
        self._ready.wait()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            self._ready.wait()
            call = self._call
            if call is None:
                return
            mine = []
            try:
                for _ in range(_CALLS):
                    begun = perf_counter_ns()
                    call()
                    mine.append(perf_counter_ns() - begun)
            except Exception as error:  # raised in the main thread, when the block is over
                self._failed.append(error)
            self._took.extend(mine)
            self._done.wait()


@contextlib.contextmanager
def _gang() -> Iterator[_Gang]:
    gang = _Gang()
    try:
        yield gang
    finally:
        gang.end()
