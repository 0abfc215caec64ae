"""Run the contract tests on each supported line of the Klaviyo SDK, in an environment of its own.

    python3 tools/sdk_matrix.py [--sdk VERSION]... [what pytest takes]

The environments stay in `.venvs/sdk-<version>` and are brought up to date when pyproject.toml has
changed. Two versions are built and tested at a time. `--build` tests nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
SDKS = ["17.0.0", "20.0.0", "22.0.0", "24.0.0", "25.0.0"]
TESTS = [
    "tests/contract",
    "tests/klaviyo",
    "tests/testing",
    "tests/guard",
    "tests/test_guard.py",
]
OLDEST_TELEMETRY = "1.30.0"
"""The oldest OpenTelemetry that is supported goes with the oldest SDK, and is tested there too."""
TELEMETRY_TESTS = ["tests/otel/test_spans.py", "tests/otel/test_metrics.py"]
NEWER_PYTHONS = ["3.14", "3.13", "3.12"]
PARALLEL = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one SDK version."""

    sdk: str
    python: str
    ok: bool
    seconds: float
    """Building and testing."""
    tests: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def row(self) -> str:
        """One line of the table, under `HEADER`."""
        passed = self.tests - self.failed - self.skipped
        verdict = "" if self.ok else "  FAILED"
        return (
            f"{self.sdk:9} {self.python:8} {passed:7} {self.failed:7} {self.skipped:8} "
            f"{self.seconds:8.0f}{verdict}"
        )


HEADER = f"{'SDK':9} {'Python':8} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}"


def main() -> int:
    """Run the command line; 1 if any version failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sdk", action="append", metavar="VERSION", help=f"instead of {SDKS}")
    parser.add_argument("--build", action="store_true", help="build the environments only")
    options, for_pytest = parser.parse_known_args()
    sdks: list[str] = options.sdk or SDKS
    # The newest SDK gets the newest Python, since `make test` has it on this one.
    newer = newer_python() if SDKS[-1] in sdks else sys.executable
    if newer is None:
        print(f"Python {', '.join(NEWER_PYTHONS)}: none is here, all run on {sys.executable}.")

    def one(sdk: str) -> Outcome:
        python = newer if sdk == SDKS[-1] else None
        return run(sdk, python or sys.executable, None if options.build else for_pytest)

    with ThreadPoolExecutor(PARALLEL) as pool:
        outcomes = list(pool.map(one, sdks))
    if not options.build:
        print(HEADER, *(outcome.row for outcome in outcomes), sep="\n")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def run(sdk: str, python: str, for_pytest: list[str] | None) -> Outcome:
    """Build the environment of one SDK version and run the tests in it.

    Args:
        sdk: Version of ``klaviyo-api``.
        python: Interpreter that a new environment is built with.
        for_pytest: Arguments for pytest; paths among them replace `TESTS`. None: no tests.
    """
    began = time.monotonic()
    folder = ROOT / f".venvs/sdk-{sdk}"
    inside = folder / "bin/python"
    pinned = ["-e", ".[contract]", f"klaviyo-api=={sdk}"]
    tests = list(TESTS)
    if sdk == SDKS[0]:
        pinned += [f"opentelemetry-{part}=={OLDEST_TELEMETRY}" for part in ("api", "sdk")]
        tests += TELEMETRY_TESTS
    ok, printed = _run([python, ROOT / "tools/environment.py", folder, *pinned])
    if printed:
        print(printed, flush=True)
    counts = {}
    if ok and for_pytest is not None:
        results = folder / "results.xml"
        results.unlink(missing_ok=True)
        paths = [] if any((ROOT / word).exists() for word in for_pytest) else tests
        own = ["-o", f"cache_dir={folder / 'pytest-cache'}", f"--junit-xml={results}"]
        ok, printed = _run([inside, "-m", "pytest", *own, *for_pytest, *paths])
        shown = printed.splitlines()[-1:] if ok else [printed]
        print(f"klaviyo-api {sdk}:", *shown, sep="\n", flush=True)
        counts = _counts(results)
    python_version = _run([inside, "-c", "import platform; print(platform.python_version())"])[1]
    return Outcome(sdk, python_version, ok, time.monotonic() - began, **counts)


def newer_python() -> str | None:
    """The newest working Python beside the running one, on the ``PATH`` or known to pyenv."""
    pyenv = shutil.which("pyenv")
    versions = Path(_run([pyenv, "root"])[1]) / "versions" if pyenv else None
    for version in NEWER_PYTHONS:
        found = sorted(versions.glob(f"{version}.*/bin/python{version}")) if versions else []
        on_path = shutil.which(f"python{version}")
        for python in [on_path, *found]:
            # pyenv's shims are on the PATH for versions that are not switched on; those exit 127.
            if python and _run([python, "-c", "import ensurepip, ssl"])[0]:
                return str(python)
    return None


def _run(command: Sequence[str | Path]) -> tuple[bool, str]:
    """Whether the command ended well, and what it printed."""
    ended = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return ended.returncode == 0, ended.stdout.strip()


def _counts(results: Path) -> dict[str, int]:
    if not results.exists():
        return {}
    suite = ET.parse(results).find("testsuite")
    if suite is None:
        return {}
    number = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {
        "tests": number["tests"],
        "failed": number["failures"] + number["errors"],
        "skipped": number["skipped"],
    }


if __name__ == "__main__":
    sys.exit(main())
