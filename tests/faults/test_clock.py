"""The wall clock is set while a program runs: it is told, and nothing depends on it."""

import json
import subprocess
import sys
from datetime import datetime

import pytest

from tests.faults.faketime import environment
from tests.journal.checking import verify
from tests.waiting import PATIENCE

PROGRAM = """
import select, sys, time
from klaviyo_audit import Auditor
step, faketime = sys.argv[1:]
def set_clock(offset):
    with open(faketime, "w") as file:
        file.write(offset)
set_clock("+0")
with Auditor(journal="trail", service="shop", seal="off") as auditor:
    for offset in ("+0", step, step):
        set_clock(offset)
        for number in range(3):
            select.select((), (), (), 0.3)  # faketime breaks what time.sleep calls
            auditor.record(f"at{offset}", metadata={"number": number, "at": time.monotonic()})
"""


@pytest.fixture
def run(needed, tmp_path):
    """Run the program with a clock that it can set."""
    faketime = needed("faketime", "apt-get install faketime, or make peers")
    file = tmp_path / "faketime"

    def run(step):
        subprocess.run(
            [sys.executable, "-c", PROGRAM, step, file],
            cwd=tmp_path,
            env=environment(faketime, file),
            check=True,
            timeout=PATIENCE,
        )
        lines = (tmp_path / "trail" / "audit.jsonl").read_bytes().splitlines()
        return [json.loads(line) for line in lines]

    return run


@pytest.mark.parametrize(("step", "seconds"), [("-3600s", -3600), ("-2s", -2), ("+86400s", 86400)])
def test_a_step_of_the_wall_clock_is_told(run, tmp_path, step, seconds):
    lines = run(step)
    (told,) = [line for line in lines if line["action"] == "journal.clock"]
    assert told["metadata"]["step_ms"] == pytest.approx(seconds * 1000, abs=250)
    shown, expected = map(datetime.fromisoformat, (told["timestamp"], told["metadata"]["expected"]))
    assert (shown - expected).total_seconds() == pytest.approx(seconds, abs=0.25)
    entries = [line for line in lines if line["phase"] == "event"]
    first = datetime.fromisoformat(entries[0]["timestamp"])
    last = datetime.fromisoformat(entries[-1]["timestamp"])
    passed = entries[-1]["metadata"]["at"] - entries[0]["metadata"]["at"]
    assert (last - first).total_seconds() == pytest.approx(seconds + passed, abs=0.25), (
        "a real step"
    )
    # Told before the first line that follows the step, or just after one line of its 0.25 s.
    place = lines.index(told)
    assert [line["action"] for line in lines[:place]].count(f"at{step}") <= 1
    assert [line["n"] for line in lines] == list(range(len(lines)))
    assert [line["metadata"]["number"] for line in entries] == [0, 1, 2] * 3
    found = verify(tmp_path / "trail").findings
    assert [one for one in found if one.severity == "error"] == []
    (clock,) = [one for one in found if one.kind == "clock"]
    assert (clock.severity, clock.line) == ("note", place + 1)
    assert ("back" if seconds < 0 else "forward") in clock.message


def test_a_clock_that_is_let_alone_is_not_spoken_of(run):
    assert [line for line in run("+0") if line["action"] == "journal.clock"] == []
