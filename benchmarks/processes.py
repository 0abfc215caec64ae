"""Four processes that append to one journal as fast as they can."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks.append import appending, caught_entry, last_line
from benchmarks.harness import Effort, Reading, interleave
from benchmarks.server import running
from benchmarks.subject import without_http
from klaviyo_audit.journal.format import checksum_holds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROW = "processes"
_PROCESSES = 4


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a journal: lines, lines that do not hold, numbers that a writer left out."""

    lines: int
    torn: int
    missing: int


def run(effort: Effort) -> list[Reading]:
    """Lines a second, and whether every line is whole."""
    lines = effort.rounds(30_000, 8_000)
    with running() as url:
        gang = _Gang(effort.folder, url, lines)
        try:
            blocks = {name: partial(gang.lines_a_second, name) for name in ("journal", "plain")}
            rounds = effort.rounds(8, 4)
            taken = interleave(blocks, rounds)
        finally:
            gang.end()
    found = _inspect(gang.journal / "audit.jsonl")
    expected = (rounds + 1) * _PROCESSES * lines
    speed = {name: statistics.median(of) for name, of in taken.items()}
    return [
        Reading(
            ROW,
            f"lines of {_PROCESSES} processes to one journal",
            speed["journal"],
            "lines/s",
            250_000,
            f"orjson.dumps + os.write of the same bytes: {speed['plain']:,.0f} lines/s; "
            f"{os.cpu_count()} cores",
            at_least=True,
        ),
        Reading(
            ROW,
            "lines torn, missing or out of number",
            found.torn + found.missing + max(0, expected - found.lines),
            "lines",
            0,
            f"of {found.lines:,} lines",
        ),
    ]


class _Gang:
    """Processes that are up and wait, so that no round pays for starting them."""

    def __init__(self, folder: Path, url: str, lines: int) -> None:
        self.journal = folder / "journal"
        spawn = multiprocessing.get_context("spawn")
        self._total = lines * _PROCESSES
        self._pipes = []
        self._processes = []
        barrier = spawn.Barrier(_PROCESSES)
        for number in range(_PROCESSES):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=_work, args=(theirs, barrier, folder, number, url, lines)
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def lines_a_second(self, what: str) -> float:
        """One round, from the first process's first line to the last one's last."""
        for pipe in self._pipes:
            pipe.send(what)
        spans = [pipe.recv() for pipe in self._pipes]
        seconds: float = max(end for _, end in spans) - min(begin for begin, _ in spans)
        return self._total / seconds

    def end(self) -> None:
        """Let the processes go; each says goodbye in the journal."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(30)
            if process.exitcode != 0:
                raise RuntimeError(f"{process.name} ended with {process.exitcode}")


def _work(pipe: Any, barrier: Any, folder: Path, number: int, url: str, lines: int) -> None:
    # The entry is that of a real call, made before anything is measured.
    with without_http(folder / "journal", url) as both:
        writer, entry = caught_entry(both)
        plain = orjson.loads(last_line(folder / "journal" / "audit.jsonl"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(folder / "plain.jsonl", flags, 0o600)
        newline = orjson.OPT_APPEND_NEWLINE
        blocks: dict[str, Callable[[], object]] = {
            "journal": appending(writer, entry),
            "plain": lambda: os.write(descriptor, orjson.dumps(plain, option=newline)),
        }
        pipe.send(number)
        while True:
            try:
                call = blocks[pipe.recv()]
            except EOFError:
                break
            barrier.wait()
            begun = time.monotonic()
            for _ in range(lines):
                call()
            pipe.send((begun, time.monotonic()))


def _inspect(path: Path) -> Found:
    count = torn = 0
    numbers: dict[str, set[int]] = {}
    with path.open("rb") as journal:
        for line in journal:
            count += 1
            whole = line.rstrip(b"\n")
            if not checksum_holds(whole):
                torn += 1
                continue
            entry = orjson.loads(whole)
            numbers.setdefault(entry["writer"], set()).add(entry["n"])
    missing = sum(max(seen) + 1 - len(seen) for seen in numbers.values())
    return Found(count, torn, missing)
