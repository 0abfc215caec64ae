"""Commands that follow stop when they are told to, at whatever moment that is."""

import subprocess
import sys

import pytest

from tests.waiting import PATIENCE

TOLD_WHILE_IT_LOOKS = """
import os, sys
from klaviyo_audit.cli.stopping import stop_by_signal
stop = stop_by_signal()
assert not stop.wait(0.01)
with stop._cond:  # as in the midst of wait
    os.kill(os.getpid(), int(sys.argv[1]))
print(stop.wait(60))
"""


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_may_come_at_any_moment(number):
    """A handler that set the event itself waited for the lock of whom it had interrupted."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD_WHILE_IT_LOOKS, str(number)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
