"""Processes of ``klaviyo-audit ship --follow`` that want one sink, and what each did to it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE, wait_for, whole_lines

LOG, HELD, SECONDS = "RIVALS_LOG", "RIVALS_HELD", "RIVALS_SECONDS"
"""Variables: where the sink writes, what it locks while it delivers, how long that takes."""


class Watched:
    """A sink that writes down when it begins and what it has taken, and sees others doing so."""

    name = "watched"
    max_batch_entries = 20

    def __init__(self):
        # Opened before the shipper's own lock: a process that dies lets go of them in this order.
        self._held = os.open(os.environ[HELD], os.O_RDWR | os.O_CREAT)
        self._log = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def deliver(self, entries):
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._write("overlap")
        self._write("begin")
        time.sleep(float(os.environ[SECONDS]))
        self._write("end", [[entry.writer, entry.n] for entry in entries])
        fcntl.flock(self._held, fcntl.LOCK_UN)

    def _write(self, what, entries=()):
        line = {"what": what, "pid": os.getpid(), "entries": entries}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def close(self):
        os.close(self._log)
        os.close(self._held)


def make(settings):
    """The entry point."""
    return Watched()


class Rivals:
    """The processes, and what they wrote.

    Args:
        folder: For the package that holds the sink, and for what it writes.
        journal: The journal's folder.
        seconds: How long a delivery takes.
    """

    def __init__(self, folder, journal, seconds=0.03):
        package = folder / "installed" / "rivals-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: rivals\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(
            f"[klaviyo_audit.sinks]\nwatched = {__name__}:make\n"
        )
        self._log = folder / "log"
        self._log.touch()
        self.told = folder / "told"
        self.sink_folder = journal / "sinks" / Watched.name
        self._command = [sys.executable, "-m", "klaviyo_audit", "ship", str(journal)]
        self._command += ["--sink", Watched.name, "--follow"]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(package.parent), str(Path(__file__).parents[2]))),
            LOG: str(self._log),
            HELD: str(folder / "held"),
            SECONDS: str(seconds),
        }
        self.processes = {}

    def start(self):
        with self.told.open("ab") as told:
            process = subprocess.Popen(self._command, env=self._environment, stderr=told)
        self.processes[process.pid] = process
        return process.pid

    def kill(self, pid):
        self.processes[pid].kill()
        return self.processes.pop(pid).wait(PATIENCE)

    def end(self):
        """Have all of them end as they are asked to; their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        ended = [process.wait(PATIENCE) for process in self.processes.values()]
        self.processes = {}
        return ended

    def done(self):
        """What the sink wrote so far."""
        return whole_lines(self._log)

    def delivered(self):
        return [tuple(entry) for one in self.done() for entry in one["entries"]]

    def receipts(self):
        return whole_lines(self.sink_folder / "receipts.jsonl")

    def bookmark(self):
        return json.loads((self.sink_folder / "bookmark").read_bytes())

    def next_begin(self, of=None):
        """Wait for the next delivery to begin (of one process); who it is."""
        known = len(self.done())
        return wait_for(
            lambda: next(
                (
                    one["pid"]
                    for one in self.done()[known:]
                    if one["what"] == "begin" and of in (None, one["pid"])
                ),
                None,
            )
        )

    @contextmanager
    def stopped(self, pid):
        """The process stands still meanwhile."""
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        try:
            yield
        finally:
            if pid in self.processes:
                os.kill(pid, signal.SIGCONT)
