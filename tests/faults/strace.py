"""Faults put into the system calls of a program by strace."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.warm import Program

_CALL = re.compile(r"^(\d+ +)?([a-z0-9_]+)\(")
INJECTED = "(INJECTED)"


def run(
    strace: str,
    program: Program,
    log: Path,
    options: list[str],
    seconds: float = PATIENCE,
    *,
    follow: bool = True,
) -> int:
    """Run a program that waits to be told to go under strace.

    Args:
        strace: Path of strace.
        program: The program.
        log: Where strace writes what it saw.
        options: Its further options.
        seconds: How long the program may take.
        follow: Whether its threads and children count too.

    Returns:
        The program's exit status.

    Raises:
        TimeoutError: It hung, and was killed.
    """
    with running(strace, program, log, options, follow=follow) as tracer:
        try:
            tracer.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            program.kill()
            tracer.communicate()
            raise TimeoutError(f"hung for {seconds} s") from None
    return program.wait()


@contextlib.contextmanager
def running(
    strace: str, program: Program, log: Path, options: list[str], *, follow: bool
) -> Iterator[subprocess.Popen[str]]:
    """Let a program begin under strace, as `run` does; its end has to be waited for."""
    threads = ["-f"] if follow else []
    command = [strace, *threads, "-qq", "-y", "-o", str(log), *options, "-p", str(program.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        _wait_until_traced(program.pid, tracer)
        program.go()
        yield tracer


def _wait_until_traced(pid: int, tracer: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    status = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"strace cannot trace: {tracer.stderr.read()}")
        time.sleep(0.002)


def calls_on(log: Path, folder: Path) -> tuple[Counter[str], list[str]]:
    """How often each system call was made on paths in a folder, and those paths.

    Of several threads, the one that makes a call most often counts: strace counts each by itself.
    """
    by_thread: dict[str, Counter[str]] = {}
    paths: set[str] = set()
    in_folder = re.compile(re.escape(str(folder)) + r'(?:/[^">(]*)?(?=[">])')
    for line in log.read_text().splitlines():
        call = _CALL.match(line)
        found = in_folder.findall(line) if call else []
        if found:
            by_thread.setdefault(call[1], Counter())[call[2]] += 1
            paths.update(found)
    most: Counter[str] = Counter()
    for counts in by_thread.values():
        most |= counts
    return most, sorted(paths)


def calls_of(log: Path, *names: str) -> Counter[str]:
    """How often the program made each of some system calls, wherever."""
    found = (_CALL.match(line) for line in log.read_text().splitlines())
    return Counter(call[2] for call in found if call and call[2] in names)
