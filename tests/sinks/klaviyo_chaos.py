"""A Klaviyo that fails in every way, and a shipping process that is killed again and again.

All of it, with the figures printed (some minutes):

    python -m tests.sinks.klaviyo_chaos [--entries 10000] [--kills 50] [--seed N]
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klaviyo_audit import Auditor
from klaviyo_audit.testing import FakeKlaviyo
from tests.ports import free_port
from tests.sinks.klaviyo_case import BULK, OWN_KEY, expected_ids, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TROUBLES: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after": 0},
    "500, not carried out": {"status": 500},
    "503": {"status": 503, "retry_after": 0},
    "reset before": {"status": 500, "reset": True},
    "carried out, then reset": {"status": None, "reset": True},
    "carried out, then cut short": {"status": None, "truncate": True},
    "carried out, then garbage": {"status": 200, "body": b"\x00\xff<html>"},
    "not carried out, garbage": {"status": 502, "body": b"\x00\xff<html>"},
    "carried out, then hanging": {"status": None, "delay": 2.0},
    "hanging, not carried out": {"status": 504, "delay": 2.0},
}


@dataclass
class Figures:
    """What came of a run."""

    entries: int = 0
    recorded: int = 0
    missing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    kills: int = 0
    outages: int = 0
    jobs: int = 0
    singles: int = 0
    repeats_in_jobs: int = 0
    troubles: collections.Counter = field(default_factory=collections.Counter)
    not_met: int = 0
    """Troubles that were ready but met no request."""
    seconds: float = 0.0
    url: str = ""

    @property
    def good(self) -> bool:
        return not (self.missing or self.twice or self.foreign or self.repeats_in_jobs)

    def __str__(self) -> str:
        told = ", ".join(f"{name}: {count}" for name, count in sorted(self.troubles.items()))
        return (
            f"{self.entries} entries, {self.kills} kills, {self.outages} outages, {told}; "
            f"{self.not_met} of these met no request\n"
            f"{self.recorded} events recorded, {len(self.missing)} missing, {len(self.twice)} "
            f"twice, {len(self.foreign)} of unknown origin; {self.jobs} jobs and {self.singles} "
            f"single events were sent, {self.repeats_in_jobs} jobs held an event that had been "
            f"recorded before; {self.seconds:.0f} s"
        )


def run(folder: Path, *, entries: int, kills: int, troubles: int, seed: int) -> Figures:
    """Write entries, and deliver them to a Klaviyo that fails by a process that is killed."""
    chance = random.Random(seed)
    figures = Figures()
    begun = time.monotonic()
    trail = folder / "trail"
    fake = FakeKlaviyo(strict=True, bulk_repeat_status=202, port=free_port(), keep=200_000)
    watch_jobs(fake, figures)
    with (
        fake,
        broken(fake, chance, troubles, figures) as trouble,
        writing(trail, entries) as writer,
    ):
        for _ in range(kills):
            with worker(trail, figures.url) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(chance.uniform(0.0, 0.4))
                process.send_signal(signal.SIGKILL)
                figures.kills += process.wait() == -signal.SIGKILL
        writer.join()
        trouble.join()
        with worker(trail, figures.url, "--once") as process:
            assert process.wait(600) == 0, "it did not come to an end"
        # The journal's checkpoints go along.
        held = [unique for unique in recorded(fake) if not unique.startswith("checkpoint:")]
        figures.not_met = len(fake._service.failures._armed)
        figures.singles = sum(r.path != BULK for r in fake.requests if r.method == "POST")
    expected = expected_ids(trail)
    counted = collections.Counter(held)
    figures.entries = len(expected)
    figures.recorded = len(held)
    figures.missing = sorted(expected - counted.keys())
    figures.foreign = sorted(counted.keys() - expected)
    figures.twice = sorted(unique for unique, times in counted.items() if times > 1)
    figures.seconds = time.monotonic() - begun
    return figures


def watch_jobs(fake: FakeKlaviyo, figures: Figures) -> None:
    """Count the jobs, and those that hold what was recorded before, which Klaviyo would drop."""
    usual = fake._service.handlers["POST", BULK]

    def handler(exchange: Any) -> Any:
        before = set(recorded(fake))
        item = exchange.data()["attributes"]["events-bulk-create"]["data"][0]["attributes"]
        sent = [event["attributes"]["unique_id"] for event in item["events"]["data"]]
        figures.jobs += 1
        figures.repeats_in_jobs += len(set(sent)) < len(sent) or not before.isdisjoint(sent)
        return usual(exchange)

    fake.on("POST", BULK, handler)


@contextmanager
def broken(
    fake: FakeKlaviyo, chance: random.Random, count: int, figures: Figures
) -> Iterator[None]:
    """Trouble of every kind, one after the other, and outages between."""
    ended = threading.Event()

    def make_trouble() -> None:
        names = [name for name in TROUBLES for _ in range(-(-count // len(TROUBLES)))][:count]
        chance.shuffle(names)
        for number, name in enumerate(names):
            if ended.is_set():
                return
            # Half of them wait for a job: a single event that fails is harmless.
            fake.fail(**TROUBLES[name], method="POST", path=BULK if number % 2 else None)
            figures.troubles[name] += 1
            ended.wait(chance.uniform(0.05, 0.5))
            if number % 10 == 9:
                fake.close()
                figures.outages += 1
                ended.wait(1.0)
                fake.start()

    figures.url = fake.url
    thread = threading.Thread(target=make_trouble)
    thread.start()
    try:
        yield thread
    finally:
        ended.set()
        thread.join()


@contextmanager
def writing(trail: Path, entries: int) -> Iterator[threading.Thread]:
    """A program that goes on working while all this happens; half of it was there before."""

    def write(count: int, pause: float) -> None:
        with Auditor(journal=trail, sinks=[], service="shop") as auditor:
            for number in range(count):
                auditor.record("chaos", metadata={"number": number})
                if number % 50 == 0:
                    time.sleep(pause)

    write(entries // 2, 0)
    thread = threading.Thread(target=write, args=(entries - entries // 2, 0.05))
    thread.start()
    yield thread
    thread.join()


@contextmanager
def worker(trail: Path, url: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.sinks.klaviyo_worker", str(trail), *more]
    environment = {
        **os.environ,
        "KLAVIYO_AUDIT_KLAVIYO_KEY": OWN_KEY,
        "KLAVIYO_AUDIT_KLAVIYO_HOST": url,
        "KLAVIYO_AUDIT_KLAVIYO_SHARE": "100",
    }
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--troubles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(
            Path(folder),
            entries=options.entries,
            kills=options.kills,
            troubles=options.troubles,
            seed=options.seed,
        )
    print(f"seed {options.seed}: {figures}")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
