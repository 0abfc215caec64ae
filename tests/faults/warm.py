"""Starting, stopping and killing programs that a warm parent process forks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE

_WORKERS = Path(__file__).parent / "workers"


class WarmParent:
    """The process of workers/warm_parent.py.

    Args:
        url: A server that it can warm up its client with.
        inherited: Descriptors that its programs can use.
    """

    def __init__(self, url: str, *, inherited: tuple[int, ...] = ()) -> None:
        environment = {
            name: value for name, value in os.environ.items() if "KLAVIYO_AUDIT_" not in name
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKERS / "warm_parent.py"), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=inherited,
            env=environment,
        )
        self._ask(None)

    def start(self, program: str, folder: Path, **arguments: Any) -> Program:
        """Fork a program; it waits to be told to go.

        Args:
            program: A function of workers/programs.py.
            folder: Its working folder, which also gets what it prints.
            **arguments: The function's.
        """
        facts = {
            "do": "fork",
            "program": program,
            "arguments": arguments,
            "folder": str(folder),
            "stdout": str(folder / "stdout"),
            "stderr": str(folder / "stderr"),
        }
        return Program(self, self._ask(facts)["pid"], folder)

    def go(self, pid: int) -> None:
        self._ask({"do": "go", "pid": pid})

    def wait(self, pid: int) -> int:
        return self._ask({"do": "wait", "pid": pid})["status"]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, command: dict | None) -> dict:
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            if command is not None:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait(PATIENCE)
            self._errors.seek(0)
            raise RuntimeError(f"the warm parent ended ({status}): {self._errors.read().decode()}")
        return json.loads(answer)


@dataclass(slots=True)
class Program:
    """One forked program, with all processes it forks itself."""

    parent: WarmParent
    pid: int
    folder: Path

    def go(self) -> None:
        """Let it begin."""
        self.parent.go(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> int:
        """Kill all its processes with SIGKILL, and wait until they are gone."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and that of its processes: the exit status, negative for a signal."""
        return self.parent.wait(self.pid)

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()
