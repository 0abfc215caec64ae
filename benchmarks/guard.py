"""What a guard adds to an audited call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    Effort,
    Reading,
    difference,
    difference_noise,
    interleave,
    medians,
    timed,
)
from benchmarks.server import running
from benchmarks.subject import profile_ids, without_http
from klaviyo_audit import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "guard"
_CALLS = 10
_GUARDS: dict[str, Any] = {
    "preset": "development",
    "20 rules": Guard(
        rules=[{"decision": "deny", "operations": [f"lists.{n}*"]} for n in range(19)],
        allow=["*:read"],
    ),
    "rules on keys and users": Guard(
        rules=[{"decision": "deny", "keys": ["OTHER_*"]}, {"decision": "deny", "users": ["eve"]}],
        allow=["*:read"],
    ),
    "who and why": Guard("development", require_actor="critical", require_reason="critical"),
}


def run(effort: Effort) -> list[Reading]:
    """Microseconds added to a call that is let go, HTTP left out."""
    with running() as url:
        return [_one(effort, url, name, guard) for name, guard in _GUARDS.items()]


def _one(effort: Effort, url: str, name: str, guard: Any) -> Reading:
    folder = effort.folder / name.replace(" ", "-")
    with (
        without_http(folder / "without", url) as bare,
        without_http(folder / "with", url, guard=guard) as guarded,
    ):
        calls = {"audited": _held(bare), "guarded": _held(guarded)}
        taken = interleave(
            {kind: timed(call, _CALLS) for kind, call in calls.items()}, effort.rounds(2_000, 300)
        )
    return Reading(
        ROW,
        f"added by a guard: {name}",
        difference(taken["guarded"], taken["audited"]),
        "us",
        2,
        medians(taken, "us"),
        difference_noise(taken["audited"]),
    )


def _held(subject: Any) -> Callable[[], object]:
    get_profile, an_id = subject.audited.Profiles.get_profile, profile_ids()
    return lambda: get_profile(an_id())
