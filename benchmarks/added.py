"""What auditing adds to a call whose method is already at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import instructions
from benchmarks.harness import (
    Effort,
    Reading,
    difference,
    difference_noise,
    interleave,
    timed,
)
from benchmarks.server import running
from benchmarks.subject import Subject, subject, without_http

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

ROW = "added"
_CALLS = 20


def run(effort: Effort) -> list[Reading]:
    """Microseconds without HTTP and with it, and instructions."""
    with running() as url:
        readings = [
            _time(effort, without_http, url, "added to a call, HTTP left out", 600, 150),
            _time(effort, subject, url, "added to a call, local server", 300, 80),
        ]
        counted = instructions.count("held", url, effort.folder, calls=effort.rounds(400, 150))
    share = (counted.audited / counted.bare - 1) * 100
    what = f"{counted.what} added to a call, local server"
    return [*readings, Reading(ROW, what, share, "%", 5, counted.detail)]


def _time(
    effort: Effort,
    prepare: Callable[[Path, str], AbstractContextManager[Subject]],
    url: str,
    what: str,
    full: int,
    quick: int,
) -> Reading:
    with prepare(effort.folder, url) as both:
        blocks = {name: timed(call, _CALLS) for name, call in both.held().items()}
        taken = interleave(blocks, effort.rounds(full, quick))
    return Reading(
        ROW,
        what,
        difference(taken["audited"], taken["bare"]),
        "us",
        12,
        instructions.medians(taken, "us"),
        difference_noise(taken["bare"]),
    )
