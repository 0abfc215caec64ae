"""How fast the sink `klaviyo` drains a backlog, where the server allows its full limits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson
import urllib3

from benchmarks.harness import Effort, Reading
from benchmarks.server import running
from benchmarks.subject import KEY
from klaviyo_audit import Auditor
from klaviyo_audit.journal.format import encode
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.shipper import Pace, Shipper

if TYPE_CHECKING:
    from pathlib import Path

ROW = "klaviyo"
_BATCH = 1_000


def run(effort: Effort) -> list[Reading]:
    """Entries a minute, and how much of a core the shipping process takes meanwhile."""
    entries = effort.rounds(150_000, 10_000)
    folder = effort.folder / "trail"
    with running() as url:
        lines = _backlog(folder, url, entries)
    with running("benchmarks.track_server") as url:
        sink = KlaviyoSink(
            load(klaviyo_key=KEY, klaviyo_host=url, klaviyo_share=100, dir=folder, sinks=())
        )
        pace = Pace(batch_entries=_BATCH, batch_bytes=3_000_000, retry_most=0.5)
        shipper = Shipper(folder, sink, pace=pace, tell=print)
        _wait_for_a_full_minute(entries)
        wall, cpu = time.perf_counter(), time.process_time()
        if not shipper.run_once(600):
            raise RuntimeError("the backlog was not delivered")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        delivered, failures = shipper.condition.delivered, shipper.condition.failures
        shipper.close()
        arrived = urllib3.request("GET", url).json()["events"]
    if not delivered == arrived == lines:
        raise RuntimeError(f"{delivered} and {arrived} of {lines} entries were delivered")
    within = f"in {wall:.1f} s, {failures} refused attempts"
    return [
        Reading(
            ROW,
            f"a backlog of {lines:,} entries, the limits of 10 jobs a second and 150 a minute kept",
            # More than the limit's 150 jobs do not go in a minute, however fast the rest is.
            delivered / max(wall / 60, delivered / _BATCH / 150),
            "entries/min",
            150_000,
            within,
            at_least=True,
        ),
        Reading(
            ROW,
            "CPU time of the shipping process for an entry (reading, mapping, JSON, HTTP)",
            cpu / delivered * 1e6,
            "us",
            None,
            f"{cpu:.1f} s in all: {cpu / wall:.0%} of a core while it drains, "
            f"{cpu / delivered * 150_000 / 60:.0%} at 150,000 a minute",
        ),
    ]


def _wait_for_a_full_minute(entries: int) -> None:
    """The server's windows are minutes of the clock; a short run must not need two of them."""
    left = 60 - time.time() % 60
    if entries > 100_000 and left < 55:
        time.sleep(left)


def _backlog(folder: Path, url: str, entries: int) -> int:
    """A journal of outcomes like one that a real call has left, each with an id of its own."""
    from klaviyo_api import KlaviyoAPI

    with Auditor(journal=folder, sinks=[], seal="off", service="shop", user_id="dana") as auditor:
        auditor.audit(KlaviyoAPI(KEY, test_host=url)).Profiles.get_profiles()
    path = folder / "audit.jsonl"
    there = path.read_bytes().count(b"\n")
    members: dict[str, Any] = orjson.loads(_outcome(path))
    del members["sum"]
    members["writer"] = "0123456789abcdef"
    with path.open("ab") as journal:
        for number in range(entries - there):
            members["id"] = f"01a20aa7-1675-71d2-af01-{number:012x}"
            members["n"] = number
            journal.write(encode(members))
    return path.read_bytes().count(b"\n")


def _outcome(path: Path) -> bytes:
    return next(line for line in path.read_bytes().splitlines() if b'"phase":"outcome"' in line)
