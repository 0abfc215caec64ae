"""What a guard adds to an audited call."""

from __future__ import annotations

import itertools
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
from benchmarks.subject import KEY, profile_ids, without_http
from klaviyo_audit import Guard
from klaviyo_audit.calls import CallRecord
from klaviyo_audit.klaviyo import targets
from klaviyo_audit.klaviyo.keys import key_of
from klaviyo_audit.klaviyo.risks import table

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "guard"
_CALLS = 10
_OTHERS = [f"campaigns.{one.name}" for one in table().values() if one.group == "Campaigns"]
_GUARDS: dict[str, Any] = {
    "preset": "development",
    "20 rules": Guard(
        rules=[{"decision": "deny", "operations": [name]} for name in _OTHERS[:19]],
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
        return [
            reading for name, guard in _GUARDS.items() for reading in _one(effort, url, name, guard)
        ]


def _one(effort: Effort, url: str, name: str, guard: Any) -> list[Reading]:
    folder = effort.folder / name.replace(" ", "-")
    with without_http(folder, url, guard=guard) as subject:
        deciding = _deciding(subject)
        taken = interleave(_switching(subject), effort.rounds(3_000, 400))
        alone = interleave(deciding, effort.rounds(3_000, 400))
    return [
        Reading(
            ROW,
            f"added to a call by a guard: {name}",
            difference(taken["guarded"], taken["audited"]),
            "us",
            2,
            medians(taken, "us"),
            difference_noise(taken["audited"]),
        ),
        Reading(
            ROW,
            f"the decision alone: {name}",
            difference(alone["check"], alone["nothing"]),
            "us",
            2,
            medians(alone, "us"),
            difference_noise(alone["check"]),
        ),
    ]


def _switching(subject: Any) -> dict[str, Callable[[], float]]:
    """The very same client with and without: two of them differ by more than a guard adds."""
    recorder = subject.auditor.recorder
    guard, get_profile, an_id = (
        recorder.guard,
        subject.audited.Profiles.get_profile,
        profile_ids(),
    )
    block = timed(lambda: get_profile(an_id()), _CALLS)

    def with_it(enforcer: Any) -> Callable[[], float]:
        def run_block() -> float:
            recorder.guard = enforcer
            return block()

        return run_block

    return {"audited": with_it(None), "guarded": with_it(guard)}


def _deciding(subject: Any) -> dict[str, Callable[[], float]]:
    """What `tap.watch_attempt` calls, and as a measure a function that does nothing."""
    recorder = subject.auditor.recorder
    from openapi_client.api.profiles_api import ProfilesApi

    target = targets.target_of(ProfilesApi.get_profile, "get_profile")
    base, an_id = subject.audited.api_client.configuration.host, profile_ids()
    headers = {"Authorization": f"Klaviyo-API-Key {KEY}"}
    args: list[tuple[Any, ...]] = [
        ("GET", f"{base}/api/profiles/{an_id()}", headers, None, []) for _ in range(1_000)
    ]
    following = itertools.cycle(args).__next__
    call = CallRecord(target, None, is_sdk=True)
    call.key = key_of(headers, args[0][1])

    def asking(check: Callable[..., None]) -> Callable[[], None]:
        def ask() -> None:
            given = following()
            check(recorder, call, None, given[1], given, {})

        return ask

    def nothing(*_: Any) -> None:
        return None

    return {
        "nothing": timed(asking(nothing), 50),
        "check": timed(asking(recorder.guard.check), 50),
    }
