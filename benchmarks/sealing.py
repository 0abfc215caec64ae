"""What sealing costs the program in whose background it runs, and how fast it is."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from klaviyo_api import KlaviyoAPI

from benchmarks.append import last_line
from benchmarks.harness import (
    Effort,
    Reading,
    difference,
    difference_noise,
    interleave,
    medians,
)
from benchmarks.server import running
from benchmarks.subject import KEY, profile_ids
from klaviyo_audit import Auditor
from klaviyo_audit.journal.checkpoints import sealed_size
from klaviyo_audit.journal.sealer import Sealer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROW = "sealing"
_SEALER = "klaviyo-audit-sealer"
_REST_SECONDS = 0.3


def run(effort: Effort) -> list[Reading]:
    """The sealer's share of the CPU time, what it adds to a call, and lines a second."""
    calls = effort.rounds(200_000, 3_000)
    with running() as url, _Pair(effort.folder, url) as pair:
        readings = [_share(pair, calls)]
        for what, count in (("call, HTTP left out", 3_000), ("call, local server", 300)):
            readings.append(_added(pair, what, count, effort.rounds(40, 8)))
        line = last_line(effort.folder / "off" / "audit.jsonl")
    return [*readings, _speed(effort, line)]


def _share(pair: _Pair, calls: int) -> Reading:
    taken = pair.ask("background", "call, local server", calls)
    return Reading(
        ROW,
        f"share of sealing in the CPU time of {calls:,} real calls",
        taken["sealer"] / taken["process"] * 100,
        "%",
        5,
        f"the sealer's thread {taken['sealer']:.2f} s, the process {taken['process']:.2f} s, "
        f"the wall {taken['wall']:.1f} s",
    )


def _added(pair: _Pair, what: str, calls: int, rounds: int) -> Reading:
    def block(seal: str) -> float:
        taken = pair.ask(seal, what, calls)
        time.sleep(_REST_SECONDS)  # what is left to seal is sealed while nobody is measured
        return taken["wall"] / calls * 1e6

    taken = interleave({seal: partial(block, seal) for seal in ("off", "background")}, rounds)
    return Reading(
        ROW,
        f"added by background sealing to a {what}, one after the other without a pause",
        difference(taken["background"], taken["off"]),
        "us",
        None,
        medians(taken, "us"),
        difference_noise(taken["off"]),
    )


def _speed(effort: Effort, line: bytes) -> Reading:
    folder = effort.folder / "speed"
    Auditor(journal=folder, seal="off").close()
    lines = effort.rounds(1_000_000, 200_000)
    with (folder / "audit.jsonl").open("ab") as journal:
        for _ in range(lines // 1_000):
            journal.write((line + b"\n") * 1_000)
    sealer = Sealer(folder)
    begun, cpu = time.perf_counter(), time.thread_time()
    while sealer.step():
        pass
    sealer.close()
    wall, cpu = time.perf_counter() - begun, time.thread_time() - cpu
    if sealed_size(folder) < lines:
        raise RuntimeError("not everything was sealed")
    return Reading(
        ROW,
        "lines sealed a second, with the pauses of a background sealer",
        lines / wall,
        "lines/s",
        100_000,
        f"{lines:,} lines of {len(line) + 1} bytes, {cpu / lines * 1e6:.2f} us of CPU a line",
        at_least=True,
    )


class _Pair:
    """Two processes that make calls when told to: one seals in the background, one does not."""

    def __init__(self, folder: Path, url: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._workers: dict[str, Any] = {}
        for seal in ("off", "background"):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs, folder / seal, url, seal))
            process.start()
            theirs.close()
            self._workers[seal] = (ours, process)
        for pipe, _ in self._workers.values():
            pipe.recv()

    def ask(self, seal: str, what: str, calls: int) -> dict[str, float]:
        """Have calls made: seconds of wall time, CPU time of the process and of the sealer."""
        pipe = self._workers[seal][0]
        pipe.send((what, calls))
        taken: dict[str, float] = pipe.recv()
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in self._workers.values():
            pipe.close()
            process.join(30)


def _work(pipe: Any, folder: Path, url: str, seal: str) -> None:
    with Auditor(
        journal=folder, service="benchmarks", environment="benchmarks", seal=seal
    ) as auditor:
        audited = auditor.audit(KlaviyoAPI(KEY, test_host=url))
        get_profile, an_id = audited.Profiles.get_profile, profile_ids()
        api_client = audited.__wrapped__.api_client
        raw = audited.Profiles.get_profile_without_preload_content(an_id())
        assert raw.data, "the answer is read here, once"
        pipe.send(seal)
        with contextlib.suppress(EOFError):
            while True:
                what, calls = pipe.recv()
                with _answered(api_client, raw if what == "call, HTTP left out" else None):
                    pipe.send(_take(lambda: get_profile(an_id()), calls))


@contextlib.contextmanager
def _answered(api_client: Any, raw: Any) -> Iterator[None]:
    """Answer calls with the same answer over and over, if there is one."""
    call_api = api_client.call_api
    if raw is not None:
        from openapi_client.rest import RESTResponse

        api_client.call_api = lambda *_args, **_kwargs: RESTResponse(raw)
    try:
        yield
    finally:
        api_client.call_api = call_api


def _take(call: Callable[[], object], calls: int) -> dict[str, float]:
    sealer = next((one for one in threading.enumerate() if one.name == _SEALER), None)
    clock = time.pthread_getcpuclockid(sealer.ident) if sealer and sealer.ident else None
    sealing = time.clock_gettime(clock) if clock is not None else 0.0
    process, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    return {
        "wall": time.perf_counter() - wall,
        "process": time.process_time() - process,
        "sealer": (time.clock_gettime(clock) if clock is not None else 0.0) - sealing,
    }
