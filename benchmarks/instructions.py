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
import json
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
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Effort, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_FEW = 50
_WARM_UP = 20
_SLOWER = 200
"""How many times slower a program is under valgrind, roughly, on a machine that does more."""
_SHOWN = re.compile(r"^CHILD (\w+) (\d+) (\d+)$", re.MULTILINE)
_COUNTED = re.compile(r"^==(\d+)== .*Total instructions: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Count:
    """What one call takes.

    Attributes:
        what: What was counted.
        each: How much of it, by the alternative's name.
        detail: The numbers, and who counted.
    """

    what: str
    each: dict[str, float]
    detail: str


def count(which: str, url: str, effort: Effort, *, calls: int) -> Count:
    """Count for each of several alternatives.

    Args:
        which: ``idiom`` or ``held``, of `Subject`.
        url: The server's.
        effort: A quick run takes CPU time: valgrind needs ten seconds before the first call.
        calls: How many calls are counted.
    """
    program = [sys.executable, "-m", "benchmarks.instructions", which, url, str(effort.folder)]
    if _has_counters():
        return _counted(_with_perf(program, calls), "the processor's counters, user space")
    if shutil.which("valgrind") and not effort.quick:
        # Measured: SHA-256 over a line of 900 bytes is 31,000 instructions there.
        by = "valgrind, user space; it has no SHA instructions, which adds about 23 k to an entry"
        return _counted(_with_valgrind(program, calls), by)
    return _cpu_time(program, effort.rounds(calls, 200), quick=effort.quick)


def _counted(each: dict[str, float], by: str) -> Count:
    numbers = ", ".join(f"{name} {value / 1e3:,.0f} k" for name, value in each.items())
    return Count("instructions", each, f"{numbers} ({by})")


def _has_counters() -> bool:
    return shutil.which("perf") is not None and _perf_count(["true"]) is not None


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
    names = subprocess.run([*program, "--names"], capture_output=True, text=True, check=True)
    each: dict[str, float] = {}
    for name in json.loads(names.stdout):
        many = _perf_count([*program, "--only", name, "--calls", str(_FEW + calls)])
        few = _perf_count([*program, "--only", name, "--calls", str(_FEW)])
        assert many is not None
        assert few is not None
        each[name] = (many - few) / calls
    return each


def _with_valgrind(program: list[str], calls: int) -> dict[str, float]:
    # exp-bbv only counts: 10 times slower than the bare processor, callgrind 50 times.
    command = ["valgrind", "--tool=exp-bbv", "--instr-count-only=yes"]
    command += ["--bb-out-file=/dev/null", *program, "--calls", str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    totals: dict[str, int] = {}
    for pid, number in _COUNTED.findall(done.stderr):
        totals[pid] = totals.get(pid, 0) + int(number)  # a process has a total for each thread
    runs: dict[str, list[int]] = {}
    for name, _, pid in _SHOWN.findall(done.stdout):
        runs.setdefault(name, []).append(totals[pid])
    return {name: (many - few) / calls for name, (few, many) in runs.items()}


def _cpu_time(program: list[str], calls: int, *, quick: bool) -> Count:
    done = subprocess.run(
        [*program, "--cpu-time", "--calls", str(calls)], capture_output=True, text=True, check=True
    )
    each: dict[str, float] = json.loads(done.stdout)
    numbers = ", ".join(f"{name} {value:,.1f} us" for name, value in each.items())
    reason = "a quick run does not count instructions" if quick else "no counter here"
    return Count("CPU time", each, f"{numbers} ({reason})")


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
    print(json.dumps({name: statistics.median(of) for name, of in taken.items()}))


def _slow_clocks() -> None:
    """Let our clocks go as slowly as the program does under valgrind.

    Else what is done by the clock (a look at the file every quarter of a second, the text of each
    new second) would be counted for every few calls, and not for every few hundred.
    """
    from klaviyo_audit import clock
    from klaviyo_audit.journal import writer

    wall, steady = time.time_ns(), time.monotonic()
    text, now = time.strftime, time.gmtime
    clocks: Any = clock
    clocks.time = SimpleNamespace(
        time_ns=lambda: wall + (time.time_ns() - wall) // _SLOWER, strftime=text, gmtime=now
    )
    writers: Any = writer
    writers.monotonic = lambda: steady + (time.monotonic() - steady) / _SLOWER


def main() -> None:
    """Make the calls; somebody else counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("idiom", "held"))
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()

    from benchmarks.subject import subject

    with subject(options.folder, options.url) as both:
        alternatives = both.idiom() if options.which == "idiom" else both.held()
        if options.names:
            print(json.dumps(list(alternatives)))
            return
        for call in alternatives.values():
            for _ in range(_WARM_UP):
                call()
        if options.only:
            for _ in range(options.calls):
                alternatives[options.only]()
        elif options.cpu_time:
            _cpu_times(alternatives, options.calls)
        else:
            _slow_clocks()
            _run_in_forks(alternatives, options.calls)


if __name__ == "__main__":
    main()
