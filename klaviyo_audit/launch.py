"""Starting another program so that its Python processes are audited, and waiting for its end."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RUN_VARIABLE: Final = "KLAVIYO_AUDIT_RUN"
"""Tells the processes of a run which one they belong to: ``<id>:<on_failure>``."""

_BOOTSTRAP: Final = Path(__file__).parent / "bootstrap"
_PASSED_ON: Final = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
_BY_PROCESS: Final = frozenset({0, -1, -6})
"""``si_code`` of a signal that a process has sent: SI_USER, SI_QUEUE, SI_TKILL on Linux."""


def run_id() -> str | None:
    """The run that this process belongs to; None when it was not started by one."""
    return os.environ.get(RUN_VARIABLE, "").partition(":")[0] or None


def environment(
    journal: Path, on_failure: str, *, base: Mapping[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    """The environment of an audited program, and the id of its run.

    Args:
        journal: The journal's folder: a program may change its working folder.
        on_failure: The setting of that name.
        base: The environment without auditing; that of this process if not given.
    """
    run = secrets.token_hex(8)
    env = dict(os.environ if base is None else base)
    paths = [str(_BOOTSTRAP), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    env["KLAVIYO_AUDIT_DIR"] = str(journal.absolute())
    env[RUN_VARIABLE] = f"{run}:{on_failure}"
    return run, env


def start_and_wait(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a program to its end; signals that this process gets are passed on to it.

    What the terminal sends (Ctrl-C) reaches the program without us.

    Args:
        command: The program, looked up in PATH, and its arguments.
        env: Its environment.

    Returns:
        Its exit status, negative for the signal that has killed it.

    Raises:
        OSError: It cannot be started.
    """
    with _signals_kept(_PASSED_ON) as before:
        pid = os.posix_spawnp(command[0], list(command), env, setsigmask=before)
        while True:
            number, by_terminal = _next_signal((*_PASSED_ON, signal.SIGCHLD))
            if number != signal.SIGCHLD:
                if not by_terminal:
                    # It may have ended in this moment, and is waited for below.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)


def end_like(status: int) -> None:
    """End this process as the program has ended: by exit code, or by the same signal."""
    if status < 0:
        sys.stdout.flush()
        sys.stderr.flush()
        # The program has left a core file already, if it was to leave one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])
            )
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        status = 128 - status  # a signal that kills nobody by default
    raise SystemExit(status)


@contextlib.contextmanager
def _signals_kept(numbers: Sequence[int]) -> Iterator[set[int]]:
    """Have signals wait until they are asked for; gives the mask from before."""
    # A blocked signal whose default is to be ignored may be dropped; one with a handler is not.
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*numbers, signal.SIGCHLD))
    try:
        yield {int(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGCHLD, handler)


def _next_signal(numbers: Sequence[int]) -> tuple[int, bool]:
    """The next signal, and whether the terminal has sent it (to the program as well)."""
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(numbers)
        return info.si_signo, info.si_code not in _BY_PROCESS
    number = signal.sigwait(numbers)  # macOS does not tell who has sent it
    keyboard = number in (signal.SIGINT, signal.SIGQUIT) and sys.stdin.isatty()
    return number, keyboard
