"""Bring a virtual environment up to date with pyproject.toml, or leave it alone if it is.

    python3 tools/environment.py .venv -e '.[dev]'

What stands after the folder goes to `pip install` as it is. An environment that was made by hand is
kept and added to; none is ever deleted here. Only the standard library is used: this runs first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)


class Unusable(Exception):  # noqa: N818  (a state of the machine, not a defect)
    """The environment cannot be built; the message says why, and what to do."""


def main() -> int:
    """Run the command line; the exit code says whether the environment can be used."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        bring_up_to_date(ROOT / sys.argv[1], sys.argv[2:])
    except Unusable as problem:
        print(problem, file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"The environment {sys.argv[1]} cannot be written: {problem}", file=sys.stderr)
        return 1
    return 0


def bring_up_to_date(folder: Path, requirements: list[str]) -> None:
    """Make `folder` hold `requirements`, building it with the running Python if it is not there.

    Args:
        folder: The virtual environment.
        requirements: Arguments for `pip install`; paths are relative to the repository.

    Raises:
        Unusable: A step failed.
    """
    if sys.version_info < OLDEST:
        running = ".".join(map(str, sys.version_info[:2]))
        raise Unusable(
            f"Python 3.11 or newer is needed, and {sys.executable} is {running}: name a newer one, "
            "as in `make test PYTHON=python3.12`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at a time must not install over each other
        stamp = folder / f"installed-{_digest(repr(requirements).encode())}"
        wanted = _digest(*_inputs(requirements))
        if stamp.exists() and stamp.read_text() == wanted and _works(folder, "-c", ""):
            return
        _build(folder, requirements)
        stamp.write_text(wanted)


def _build(folder: Path, requirements: list[str]) -> None:
    shown = os.path.relpath(folder, ROOT)
    print(f"Building {shown} (about a minute the first time) ...", flush=True)
    began = time.monotonic()
    log = folder / "build.log"
    log.write_text("")
    inside = str(folder / "bin/python")
    if not os.path.lexists(inside):
        _require_ensurepip(log)
        _run(log, [sys.executable, "-m", "venv", str(folder)])
    elif not _works(folder, "-c", ""):
        raise Unusable(f"The Python of {shown} no longer runs: remove that folder, then try again.")
    elif not _works(folder, "-m", "pip", "--version"):
        _run(log, [inside, "-m", "ensurepip"])
    _run(log, [inside, "-m", "pip", "install", "--disable-pip-version-check", *requirements])
    print(f"{shown} is ready after {time.monotonic() - began:.0f} s.", flush=True)


def _inputs(requirements: list[str]) -> list[bytes]:
    """Everything whose change means that the environment is out of date."""
    files = [ROOT / "pyproject.toml", ROOT / "klaviyo_audit/_version.py"]
    files += [ROOT / name for name in requirements if name.endswith(".txt")]
    return [file.read_bytes() for file in files]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _works(folder: Path, *arguments: str) -> bool:
    try:
        ended = subprocess.run(
            [folder / "bin/python", *arguments], capture_output=True, check=False
        )
    except OSError:
        return False
    return ended.returncode == 0


def _require_ensurepip(log: Path) -> None:
    """Debian's python3 comes without ensurepip, which `venv` needs."""
    if _has_ensurepip():
        return
    package = f"python3.{sys.version_info.minor}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {package}, which virtual environments need here ...", flush=True)
        _run(log, ["apt-get", "update"])
        _run(log, ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", package])
        if _has_ensurepip():
            return
    raise Unusable(
        f"{sys.executable} has no ensurepip, so no virtual environment can be made: "
        f"run `apt-get install {package}` (as root), then try again."
    )


def _has_ensurepip() -> bool:
    # In a new process: this one remembers what its folders held when it started.
    command = [sys.executable, "-c", "import ensurepip"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(log: Path, command: list[str]) -> None:
    with log.open("ab") as printed:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode != 0:
        last = "\n  ".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Unusable(f"Failed: {' '.join(command)}\n  {last}\nThe whole output is in {log}.")


if __name__ == "__main__":
    sys.exit(main())
