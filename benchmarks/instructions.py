"""How many CPU instructions a call takes, by the best counter this machine has.

The processor's own counters (``perf``) where they can be read; else valgrind, which counts what is
run (no kernel, no noise, the same number each time); else CPU time, which is no count but the next
best thing.

Python's start and imports are not the call's: each alternative is run with few calls and with
many, in processes of their own, and the difference counts.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.subject import Subject

_FEW = 50
_WARM_UP = 10
_SHOWN = re.compile(r"^CHILD (\w+) (\d+) (\d+)$", re.MULTILINE)
_COUNTED = re.compile(r"^==(\d+)== .*Total instructions: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Count:
    """What one call takes.

    Attributes:
        what: What was counted.
        bare: For a bare call.
        audited: For an audited one.
        detail: The numbers, and who counted.
    """

    what: str
    bare: float
    audited: float
    detail: str


def count(which: str, url: str, folder: Path, *, calls: int) -> Count:
    """Count for each of two alternatives.

    Args:
        which: ``idiom``, ``held`` or ``stub`` (held, without HTTP).
        url: The server's.
        folder: Where journals may be made.
        calls: How many calls are counted.
    """
    program = [sys.executable, "-m", "benchmarks.instructions", which, url, str(folder)]
    if _has_counters():
        found, by = _with_perf(program, calls), "the processor's counters, user space"
    elif shutil.which("valgrind"):
        found, by = _with_valgrind(program, calls), "valgrind, user space"
    else:
        return _cpu_time(program, calls)
    bare, audited = found["bare"], found["audited"]
    detail = f"bare {bare / 1e3:,.0f} k, audited {audited / 1e3:,.0f} k instructions ({by})"
    return Count("instructions", bare, audited, detail)


def medians(taken: Mapping[str, Sequence[float]], unit: str) -> str:
    """The medians in words."""
    return ", ".join(f"{name} {statistics.median(of):,.1f} {unit}" for name, of in taken.items())


def _has_counters() -> bool:
    if shutil.which("perf") is None:
        return False
    return _perf_count(["true"]) is not None


def _perf_count(program: Sequence[str]) -> int | None:
    with tempfile.NamedTemporaryFile("r", suffix=".perf") as output:
        command = ["perf", "stat", "-x", ",", "-e", "instructions:u", "-o", output.name, *program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(program)} failed under perf: {done.stderr[-500:]}")
        # "<not supported>" stands in the place of the number where there is no counter.
        found = re.search(r"^(\d+),.*instructions", output.read(), re.MULTILINE)
        return int(found[1]) if found else None


def _with_perf(program: list[str], calls: int) -> dict[str, float]:
    counts: dict[str, float] = {}
    for name in ("bare", "audited"):
        many = _perf_count([*program, "--only", name, "--calls", str(_FEW + calls)])
        few = _perf_count([*program, "--only", name, "--calls", str(_FEW)])
        assert many is not None
        assert few is not None
        counts[name] = (many - few) / calls
    return counts


def _with_valgrind(program: list[str], calls: int) -> dict[str, float]:
    # exp-bbv only counts: 10 times slower than the bare processor, callgrind 50 times.
    command = ["valgrind", "--tool=exp-bbv", "--instr-count-only=yes", *program]
    command += ["--calls", str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    totals: dict[str, int] = {}
    for pid, number in _COUNTED.findall(done.stderr):
        totals[pid] = totals.get(pid, 0) + int(number)  # a process has a total for each thread
    by_run = {(name, int(run)): totals[pid] for name, run, pid in _SHOWN.findall(done.stdout)}
    return {
        name: (by_run[name, _FEW + calls] - by_run[name, _FEW]) / calls
        for name in ("bare", "audited")
    }


def _cpu_time(program: list[str], calls: int) -> Count:
    done = subprocess.run(
        [*program, "--cpu-time", "--calls", str(calls)], capture_output=True, text=True, check=True
    )
    bare, audited = (float(value) for value in done.stdout.split())
    detail = f"bare {bare:,.1f} us, audited {audited:,.1f} us (no instruction counter here)"
    return Count("CPU time", bare, audited, detail)


def _choose(both: Subject, which: str) -> dict[str, Callable[[], object]]:
    return both.idiom() if which == "idiom" else both.held()


def _run_in_forks(alternatives: Mapping[str, Callable[[], object]], calls: int) -> None:
    """Each alternative with few and with many calls, in a fork each: valgrind counts them apart.

    The forks run one after the other, so they may share the connection to the server.
    """
    for name, call in alternatives.items():
        for number in (_FEW, _FEW + calls):
            pid = os.fork()
            if pid == 0:
                gc.collect()
                for _ in range(number):
                    call()
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            if status:
                raise RuntimeError(f"{name} ended with status {status}")
            print(f"CHILD {name} {number} {pid}", flush=True)


def _cpu_times(alternatives: Mapping[str, Callable[[], object]], calls: int) -> None:
    from benchmarks.harness import interleave

    def block_of(call: Callable[[], object]) -> Callable[[], float]:
        def block() -> float:
            gc.collect()
            begun = time.process_time_ns()
            for _ in range(_FEW):
                call()
            return (time.process_time_ns() - begun) / _FEW / 1_000

        return block

    blocks = {name: block_of(call) for name, call in alternatives.items()}
    taken = interleave(blocks, max(calls // _FEW, 5))
    print(statistics.median(taken["bare"]), statistics.median(taken["audited"]))


def main() -> None:
    """Make the calls; somebody else counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("idiom", "held", "stub"))
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--only", choices=("bare", "audited"))
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()

    from benchmarks.subject import subject, without_http

    prepare = without_http if options.which == "stub" else subject
    with prepare(options.folder, options.url) as both:
        alternatives = _choose(both, options.which)
        for call in alternatives.values():
            for _ in range(_WARM_UP):
                call()
        if options.only:
            for _ in range(options.calls):
                alternatives[options.only]()
        elif options.cpu_time:
            _cpu_times(alternatives, options.calls)
        else:
            _run_in_forks(alternatives, options.calls)


if __name__ == "__main__":
    main()
