"""Run the benchmarks: ``python -m benchmarks [row ...] [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Effort, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = {
    "idiom": "idiom",
    "added": "added",
    "append": "append",
    "threads": "threads",
    "import": "imports",
    "processes": "processes",
    "peers": "peers",
    "sealing": "sealing",
    "verify": "verify",
    "durable": "durable",
    "scan": "scanning",
    "privacy": "privacy",
    "shipping": "shipping",
    "klaviyo": "klaviyo_sink",
    "otlp": "otlp",
    "guard": "guard",
    "spans": "spans",
}
"""The rows in the order they are run, and each one's module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rows and print their readings.

    Returns:
        0 whether or not the numbers hold: they are read, not enforced. 1 when a row could not be
        measured.
    """
    options = _options(arguments)
    print(_machine_line(options.quick), flush=True)
    kept: list[Reading] = []
    broken: list[str] = []
    for row in options.rows or ROWS:
        begun = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(dir=options.dir, prefix="klaviyo-audit-") as folder:
                readings = import_module(f"benchmarks.{ROWS[row]}").run(
                    Effort(Path(folder), options.quick)
                )
        except Exception:  # the other rows can still be measured
            broken.append(row)
            traceback.print_exc()
            continue
        kept += readings
        print(f"\n{row} ({time.monotonic() - begun:.0f} s)")
        for reading in readings:
            print(_shown(reading), flush=True)
    if options.json:
        facts = {**_machine(), "quick": options.quick, "broken": broken}
        numbers = [{**asdict(reading), "holds": reading.holds} for reading in kept]
        options.json.write_text(json.dumps({**facts, "readings": numbers}, indent=1) + "\n")
    _sum_up(kept, broken)
    return 1 if broken else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--quick", action="store_true", help="about half a minute, rougher numbers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the readings there")
    parser.add_argument("--dir", type=Path, help="where journals are made (default: temp folder)")
    options = parser.parse_args(arguments)
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    return options


def _shown(reading: Reading) -> str:
    number = _number(reading.value, reading)
    if reading.bound is None:
        verdict = "(told, not bounded)"
    else:
        side = "at least" if reading.at_least else "at most"
        verdict = f"{side} {_number(reading.bound, reading)}: " + (
            "holds" if reading.holds else "DOES NOT HOLD"
        )
    noise = f"; noise {_number(reading.noise, reading)}" if reading.noise is not None else ""
    detail = f"\n      {reading.detail}{noise}" if reading.detail else ""
    return f"  {number:>18}  {verdict:<34}  {reading.what}{detail}"


def _number(value: float, reading: Reading) -> str:
    digits = {"x": 3, "%": 1, "us": 2, "ms": 1}.get(reading.unit, 0)
    return f"{value:,.{digits}f} {reading.unit}"


def _sum_up(kept: Sequence[Reading], broken: Sequence[str]) -> None:
    bounded = [reading for reading in kept if reading.holds is not None]
    failing = [reading for reading in bounded if not reading.holds]
    print(f"\n{len(bounded) - len(failing)} of {len(bounded)} numbers hold.", end="")
    print(f" Not measured: {', '.join(broken)}." if broken else "")


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": load,
        "klaviyo_api": metadata.version("klaviyo-api"),
    }


def _machine_line(quick: bool) -> str:
    facts = _machine()
    line = (
        f"Python {facts['python']}, klaviyo-api {facts['klaviyo_api']}, {facts['system']}, "
        f"{facts['cores']} cores, load {facts['load']:.1f}"
    )
    busy = facts["load"] is not None and facts["load"] > 0.5
    hints = (["quick: rougher numbers"] if quick else []) + (
        ["the machine is busy with something else: numbers only indicate"] if busy else []
    )
    return "; ".join([line, *hints])


if __name__ == "__main__":
    sys.exit(main())
