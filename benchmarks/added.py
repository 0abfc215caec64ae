"""What auditing adds to a call whose method is already at hand."""

from __future__ import annotations

import contextlib
import os
from hashlib import sha256
from typing import TYPE_CHECKING

import orjson
from uuid_utils import uuid7

from benchmarks import instructions
from benchmarks.append import last_line
from benchmarks.harness import (
    Effort,
    Reading,
    difference,
    difference_noise,
    interleave,
    medians,
    timed,
)
from benchmarks.server import running
from benchmarks.subject import subject, without_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROW = "added"
_CALLS = 5


def run(effort: Effort) -> list[Reading]:
    """Microseconds without HTTP and with it, and instructions."""
    with running() as url:
        readings = _without_http(effort, url)
        with subject(effort.folder, url) as both:
            taken = _alternate(both.held(), effort.rounds(1_200, 200))
        readings.append(_reading("added to a call, local server", taken))
        counted = instructions.count("held", url, effort, calls=1_000)
    share = (counted.each["audited"] / counted.each["bare"] - 1) * 100
    what = f"{counted.what} added to a call, local server"
    return [*readings, Reading(ROW, what, share, "%", 5, counted.detail)]


def _without_http(effort: Effort, url: str) -> list[Reading]:
    rounds = effort.rounds(2_400, 400)
    with without_http(effort.folder, url) as both:
        calls = both.held()
        taken = _alternate(calls, rounds)
        line = last_line(both.auditor.journal / "audit.jsonl")
        with _by_hand(calls["bare"], effort.folder / "by-hand", line) as by_hand:
            least = _alternate({"bare": calls["bare"], "by hand": by_hand}, rounds)
    told = Reading(
        ROW,
        "added by uuid7, orjson.dumps, sha256 and os.write of such a line, and nothing else",
        difference(least["by hand"], least["bare"]),
        "us",
        None,
        "what an entry takes at the least, where the processor's caches are the SDK's",
        difference_noise(least["bare"]),
    )
    return [_reading("added to a call, HTTP left out", taken), told]


@contextlib.contextmanager
def _by_hand(bare: Callable[[], object], path: Path, line: bytes) -> Iterator[Callable[[], object]]:
    """A bare call, and then the least that an entry takes."""
    entry = orjson.loads(line)
    prepared = {
        name: orjson.Fragment(orjson.dumps(member)) if isinstance(member, dict) else member
        for name, member in entry.items()
        if name != "sum"
    }

    with path.open("ab", buffering=0) as file:
        descriptor = file.fileno()

        def call() -> object:
            answer = bare()
            prepared["id"] = str(uuid7())
            body = orjson.dumps(prepared)
            os.write(descriptor, body + sha256(body).hexdigest()[:16].encode())
            return answer

        yield call


def _alternate(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    # Few calls a block: what else runs on the machine hits few of them, and the median none. Not
    # single ones: the call after an audited one is slower too, and that is not the bare one's.
    return interleave({name: timed(call, _CALLS) for name, call in calls.items()}, rounds)


def _reading(what: str, taken: dict[str, list[float]]) -> Reading:
    return Reading(
        ROW,
        what,
        difference(taken["audited"], taken["bare"]),
        "us",
        12,
        medians(taken, "us"),
        difference_noise(taken["bare"]),
    )
