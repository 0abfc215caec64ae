"""The call as programs write it, ``client.Profiles.get_profile(id)``, audited against bare."""

from __future__ import annotations

import statistics

from benchmarks import instructions
from benchmarks.harness import Effort, Reading, interleave, medians, ratio, ratio_noise, timed
from benchmarks.server import running
from benchmarks.subject import subject

ROW = "idiom"
_WHAT = "audited.Profiles.get_profile(id) / client.Profiles.get_profile(id)"
_CALLS = 400
"""Calls a block: the bare idiom makes a full garbage collection necessary every 290 calls."""


def run(effort: Effort) -> list[Reading]:
    """Wall time and instructions of one call on a local server."""
    with running() as url, subject(effort.folder, url) as both:
        # The bare one leaves hundreds of cyclic objects a call; each block starts without them.
        blocks = {name: timed(call, _CALLS, collect=True) for name, call in both.idiom().items()}
        taken = interleave(blocks, effort.rounds(14, 3))
        counted = instructions.count("idiom", url, effort, calls=1_200)
    floor = statistics.median(taken["floor"]) / statistics.median(taken["bare"])
    wall = Reading(
        ROW,
        f"wall time, {_WHAT}",
        ratio(taken["audited"], taken["bare"]),
        "x",
        0.70,
        f"{medians(taken, 'us')}; auditing that costs nothing would have {floor:.3f}",
        ratio_noise(taken["bare"]),
    )
    floor = counted.each["floor"] / counted.each["bare"]
    work = Reading(
        ROW,
        f"{counted.what}, likewise",
        counted.each["audited"] / counted.each["bare"],
        "x",
        0.60,
        f"{counted.detail}; auditing that costs nothing would have {floor:.3f}",
    )
    return [wall, work]
