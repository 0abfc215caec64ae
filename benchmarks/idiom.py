"""The call as programs write it, ``client.Profiles.get_profile(id)``, audited against bare."""

from __future__ import annotations

from benchmarks import instructions
from benchmarks.harness import Effort, Reading, interleave, ratio, ratio_noise, timed
from benchmarks.server import running
from benchmarks.subject import subject

ROW = "idiom"
WHAT = "audited.Profiles.get_profile(id) / client.Profiles.get_profile(id)"


def run(effort: Effort) -> list[Reading]:
    """Wall time and instructions of one call on a local server."""
    with running() as url, subject(effort.folder, url) as both:
        # The bare one leaves a hundred cycles a call behind; each block starts without them.
        blocks = {name: timed(call, 50, collect=True) for name, call in both.idiom().items()}
        taken = interleave(blocks, effort.rounds(60, 15))
        counted = instructions.count("idiom", url, effort.folder, calls=effort.rounds(1_200, 500))
    wall = Reading(
        ROW,
        f"wall time, {WHAT}",
        ratio(taken["audited"], taken["bare"]),
        "x",
        0.70,
        instructions.medians(taken, "us"),
        ratio_noise(taken["bare"]),
    )
    work = Reading(
        ROW,
        f"{counted.what}, likewise",
        counted.audited / counted.bare,
        "x",
        0.60,
        counted.detail,
    )
    return [wall, work]
