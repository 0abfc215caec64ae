"""Runs the command line on a terminal of its own."""

import contextlib
import os
import pty
import subprocess
import sys

from tests.waiting import PATIENCE


def run_on_terminal(*arguments):
    """Exit code of the real command, and all that its terminal was sent."""
    environ = {**os.environ, "TERM": "xterm-256color"}
    environ.pop("NO_COLOR", None)
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "klaviyo_audit", *map(str, arguments)],
        stdout=slave,
        stderr=slave,
        env=environ,
    ) as process:
        os.close(slave)
        shown = b""
        # Linux says EIO when the other end is closed.
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                shown += data
        os.close(master)
        return process.wait(timeout=PATIENCE), shown
