"""How fast `klaviyo-audit scan` reads, beside kingfisher and detect-secrets on the same files."""

from __future__ import annotations

import random
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Effort, Reading, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PACKAGES = ("openapi_client", "django", "mypy", "hypothesis", "pydantic", "pip")
_FEW = ("hypothesis", "pydantic")
"""For all four scanners together: detect-secrets reads about 0.3 MB/s."""
_LEAST = 20.0
_PLANTED = "planted_key.py"
_SCRIPTS = Path(sysconfig.get_paths()["scripts"])


def run(effort: Effort) -> list[Reading]:
    """Scan the sources of installed packages with each scanner, as programs, in turn."""
    readings = _compared(effort, _PACKAGES, ("klaviyo-audit", "kingfisher"))
    if not effort.quick:
        readings += _compared(effort, _FEW, tuple(_COMMANDS))
    return readings


_PLAIN = [str(_SCRIPTS / "detect-secrets"), "scan", "--all-files", "--no-verify"]
_PLUGIN = Path(__file__).parents[1] / "klaviyo_audit/security/detect_secrets_plugin.py"
_COMMANDS: dict[str, list[str]] = {
    "klaviyo-audit": [sys.executable, "-m", "klaviyo_audit", "scan", "."],
    "kingfisher": [
        str(_SCRIPTS / "kingfisher"), "scan", ".", "--no-validate", "--no-update-check",
    ],
    "detect-secrets": [*_PLAIN, "."],
    "detect-secrets with our plugin": [*_PLAIN, "-p", str(_PLUGIN), "."],
}  # fmt: skip


def _compared(effort: Effort, packages: Sequence[str], names: Sequence[str]) -> list[Reading]:
    corpus, size = _corpus(effort.folder / f"corpus of {len(packages)}", packages)
    there = {name: _COMMANDS[name] for name in names if Path(_COMMANDS[name][0]).exists()}
    processor: dict[str, list[float]] = {name: [] for name in there}
    wall = interleave(
        {name: _timed(command, corpus, processor[name]) for name, command in there.items()},
        effort.rounds(3, 2),
    )
    # Without the round that warms up.
    processor = {name: seconds[-len(wall[name]) :] for name, seconds in processor.items()}
    readings = []
    for clock, taken in (("wall time", wall), ("processor time", processor)):
        for name, seconds in taken.items():
            # On a few megabytes it is the start of Python that is measured.
            is_ours = name == "klaviyo-audit" and clock == "wall time" and packages == _PACKAGES
            readings.append(
                Reading(
                    "scan",
                    f"{name}, by {clock}, {size / 1e6:.0f} MB in {len(packages)} packages",
                    size / statistics.median(seconds) / 1e6,
                    "MB/s",
                    _LEAST if is_ours else None,
                    at_least=True,
                )
            )
    return readings


def _corpus(folder: Path, packages: Sequence[str]) -> tuple[Path, int]:
    """The packages, and one file with a key that every scanner has to find."""
    installed = Path(sysconfig.get_paths()["purelib"])
    for name in packages:
        if (installed / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(installed / name, folder / name, ignore=ignored)
    digits = "".join(random.Random(1).choices("0123456789abcdef", k=34))
    (folder / _PLANTED).write_text(f'klaviyo_api_key = "pk_{digits}"\n')
    return folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _timed(command: list[str], folder: Path, processor: list[float]) -> Callable[[], float]:
    """A block that gives seconds of wall time, and keeps those of the processor, with children.

    On a busy machine the wall's say little of the scanner, and the processor's hide its threads.
    """

    def block() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False, cwd=folder)
        wall = time.perf_counter() - began
        # Exit codes differ; a scanner that does not show the planted key has not looked.
        if _PLANTED.encode() not in done.stdout + done.stderr:
            raise RuntimeError(f"{command[0]} failed: {done.stderr[-500:]!r}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return wall

    return block
