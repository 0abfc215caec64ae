"""Verification beside a program that writes, seals, rotates, compresses and removes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from klaviyo_audit.journal.findings import Severity
from tests.journal.checking import verify
from tests.waiting import PATIENCE

PROGRAM = """
import sys, threading
from klaviyo_audit import Auditor
auditor = Auditor(journal=sys.argv[1], seal_interval=0.05, rotate_bytes=40_000, compress=sys.argv[2],
                  retain_bytes=int(sys.argv[3]) or None, low_space_warn=0, low_space_stop=0)
from klaviyo_audit.journal import chores
chores._RETAIN_SECONDS = 0.3
def run():
    while True:
        auditor.record("export.downloaded", metadata={"text": "x" * 300})
        stop.wait(0.005)
stop = threading.Event()
for _ in range(4):
    threading.Thread(target=run, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


def next_from(reports):
    """Where a verification can go on from; 0 where none has come to a place yet."""
    return next((one.verified for one in reversed(reports) if one.verified), 0)


@pytest.mark.parametrize(("how", "bound"), [("gzip", 0), ("none", 1_000_000)])
def test_no_false_alarm(tmp_path, how, bound):
    trail = tmp_path / "trail"
    reports, resumed = [], []
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(trail), how, str(bound)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            process.stdout.readline()
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and (
                len(reports) < 6
                or len(reports[-1].files) < 3
                or (bound and not reports[-1].removed)
            ):
                for since in (0, next_from(resumed or reports)):
                    report = verify(trail, busy=True, since=since)
                    wrong = [one for one in report.findings if one.severity is not Severity.NOTE]
                    assert wrong == []
                    (resumed if since else reports).append(report)
                time.sleep(0.2)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert max(len(report.files) for report in reports) >= 3
    assert reports[-1].sealed > reports[0].sealed
    assert bool(reports[-1].removed) is bool(bound)
    assert any(report.skipped for report in resumed)
    assert verify(trail).intact, "whatever the kill has left"
