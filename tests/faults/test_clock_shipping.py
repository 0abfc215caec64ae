"""The wall clock is set while sinks are shipped to: nothing waits for it, and no lag is negative."""

import json
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.sinks.condition import Condition
from klaviyo_audit.sinks.status import sinks_status
from tests.faults.faketime import environment
from tests.sinks.collector import Collector, Reply, records, serving

PROGRAM = """
import json, select, sys
from pathlib import Path
from time import monotonic
from klaviyo_audit import Auditor
from klaviyo_audit.sinks.status import sinks_status
faketime = sys.argv[1]
def wait(seconds):
    select.select((), (), (), seconds)  # faketime breaks what time.sleep calls
with Auditor(journal="trail", sinks=["otlp"], seal="off", ship_batch_age=0.2) as auditor:
    for offset in sys.argv[2:]:
        with open(faketime, "w") as file:
            file.write(offset)
        condition = auditor.sink_conditions["otlp"]
        wanted = condition.delivered + 3
        for number in range(3):
            auditor.record(f"at{offset}", metadata={"number": number})
        begun, lags = monotonic(), []
        while condition.delivered < wanted and monotonic() - begun < 15:
            wait(0.05)
            lags.append(condition.behind())
        took = monotonic() - begun
        auditor.record(f"flushed{offset}")
        (shown,) = sinks_status(Path("trail"), ("otlp",))
        told = {"took": took, "flushed": auditor.flush(15), "lags": lags}
        print(json.dumps({**told, "shown": shown["lag_seconds"]}), flush=True)
"""


@pytest.fixture
def collector():
    with serving(Collector()) as collector:
        yield collector


@pytest.fixture
def run(needed, collector, tmp_path):
    """Run the program with a clock that it sets."""
    faketime = needed("faketime", "apt-get install faketime, or make peers")
    file = tmp_path / "faketime"

    def run(*offsets):
        file.write_text("+0")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, file, *offsets],
            cwd=tmp_path,
            env={
                **environment(faketime, file),
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collector.endpoint,
                "KLAVIYO_AUDIT_PSEUDONYM_KEY": "00" * 32,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize("step", ["-3600s", "+86400s"])
def test_delivery_goes_on_when_the_clock_is_set(run, collector, tmp_path, step):
    """The collector has each batch repeated once, after a date a second ahead of its own clock."""
    seen = set()

    def behave(request):
        first = records(request)[0].body.string_value
        if first in seen:
            return Reply()
        seen.add(first)
        return Reply(503, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)})

    collector.behave = behave
    told = run("+0", step, "+0")
    assert len(told) == 3
    for one in told:
        assert one["took"] < 10, "it waits for no clock"
        assert one["flushed"]
        assert min(one["lags"]) >= 0
        assert one["shown"] >= 0
    lines = (tmp_path / "trail" / "audit.jsonl").read_bytes().splitlines()
    bodies = [record.body.string_value.encode() for record in collector.taken]
    assert bodies == lines, "all of it, once, in order"
    assert sum(json.loads(line)["action"] == "journal.clock" for line in lines) == 2


def test_what_is_stamped_ahead_of_the_clock_is_not_behind(trail):
    with Auditor(journal=trail.folder) as auditor:
        auditor.record("a")
    stamp = f'"timestamp":"{time.gmtime().tm_year}'.encode()
    content = trail.path.read_bytes()
    trail.path.write_bytes(content.replace(stamp, b'"timestamp":"2999'))
    (shown,) = sinks_status(trail.folder, ("otlp",))
    assert shown["lag_entries"] == 3
    assert shown["lag_seconds"] == 0.0
    ahead = Condition(state="retrying", caught_up_at="2999-01-01T00:00:00.000000Z")
    assert ahead.behind() == 0.0
