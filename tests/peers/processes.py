"""Starting a peer's own program, and ending it with its whole process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class PeerMissing(Exception):
    """Something the test talks to is not on this machine; the message says what to do."""


@contextmanager
def running(
    arguments: Sequence[str],
    ports: Sequence[int],
    output: Path,
    seconds: float = 90,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that listens on ports until the block ends.

    Raises:
        RuntimeError: It ended, or did not listen in time; with the last it printed.
    """
    with output.open("wb") as printed:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            cwd=cwd,
        )
        try:
            for port in ports:
                _wait(process, port, output, time.monotonic() + seconds)
            yield process
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], port: int, output: Path, deadline: float) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args} is not ready: {output.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            continue
        return
