"""How fast `klaviyo-audit scan` reads, beside kingfisher and detect-secrets on the same files."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Effort, Reading, interleave

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = ("openapi_client", "django", "mypy", "hypothesis", "pydantic", "pip")
_LEAST = 20.0
_SCRIPTS = Path(sysconfig.get_paths()["scripts"])


def run(effort: Effort) -> list[Reading]:
    """Scan the sources of installed packages with each scanner, as programs, in turn."""
    corpus, size = _corpus(effort.folder / "corpus")
    commands: dict[str, list[str]] = {
        "klaviyo-audit": [sys.executable, "-m", "klaviyo_audit", "scan", str(corpus)],
    }
    kingfisher = _SCRIPTS / "kingfisher"
    if kingfisher.exists():
        commands["kingfisher"] = [
            str(kingfisher), "scan", str(corpus), "--no-validate", "--no-update-check",
        ]  # fmt: skip
    plugin = Path(__file__).parents[1] / "klaviyo_audit/security/detect_secrets_plugin.py"
    if not effort.quick and (_SCRIPTS / "detect-secrets").exists():
        plain = [str(_SCRIPTS / "detect-secrets"), "scan", "--all-files", "--no-verify"]
        commands["detect-secrets"] = [*plain, str(corpus)]
        commands["detect-secrets with our plugin"] = [*plain, "-p", str(plugin), str(corpus)]
    taken = {
        name: [size / seconds / 1e6 for seconds in times]
        for name, times in interleave(
            {name: _timed(command) for name, command in commands.items()}, effort.rounds(3, 2)
        ).items()
    }
    speeds = {name: statistics.median(values) for name, values in taken.items()}
    return [
        Reading(
            "scan",
            f"{name}, by processor time, {size / 1e6:.0f} MB in {len(_PACKAGES)} packages",
            speed,
            "MB/s",
            _LEAST if name == "klaviyo-audit" else None,
            at_least=True,
        )
        for name, speed in speeds.items()
    ]


def _corpus(folder: Path) -> tuple[Path, int]:
    installed = Path(sysconfig.get_paths()["purelib"])
    for name in _PACKAGES:
        if (installed / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(installed / name, folder / name, ignore=ignored)
    return folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _timed(command: list[str]) -> Callable[[], float]:
    """A block that gives seconds of processor time, children included.

    Not of wall time: a scan is a program of its own, and on a busy machine that tells little.
    """

    def block() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, check=False, cwd="/")
        if done.returncode not in {0, 1, 200, 205}:  # finds have exit codes of their own
            raise RuntimeError(f"{command[0]} failed: {done.stderr[-500:]!r}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return block
