"""The sink's share of an account's rate limits, ahead of time."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.sinks.klaviyo.budget import BULK, SINGLE, Budget, Limit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(budget, clock, seconds, headers=None):
    """Send as fast as the budget has it; the times."""
    times, end = [], clock.now + seconds
    while True:
        clock.now += budget.wait()
        if clock.now >= end:
            clock.now = end
            return times
        budget.spend()
        times.append(clock.now)
        if headers is not None:
            budget.learn(headers(times))


def most_within(times, seconds):
    return max(sum(1 for other in times if at <= other < at + seconds - 1e-6) for at in times)


@settings(max_examples=25)
@given(st.sampled_from([BULK, SINGLE, Limit(1, 15)]), st.integers(1, 100))
def test_never_more_than_the_share_in_any_second_or_minute(limit, percent):
    clock = Clock()
    times = run(Budget(limit, percent, clock), clock, 100)
    assert most_within(times[:400], 1) <= max(1, limit.burst * percent // 100)
    in_minutes = [sum(1 for at in times if start <= at < start + 60 - 1e-6) for start in times[:50]]
    assert max(in_minutes) <= max(1, limit.steady * percent // 100)


@pytest.mark.parametrize(
    ("limit", "percent", "a_minute"), [(BULK, 100, 150), (BULK, 20, 30), (SINGLE, 20, 700)]
)
def test_the_whole_share_can_be_used(limit, percent, a_minute):
    clock = Clock()
    assert len(run(Budget(limit, percent, clock), clock, 60)) == a_minute


def test_it_is_spread_evenly():
    clock = Clock()
    times = run(Budget(BULK, 20, clock), clock, 60)
    assert max(b - a for a, b in pairwise(times)) <= 2.01


def test_it_slows_when_others_use_the_account():
    clock = Clock()
    budget = Budget(BULK, 20, clock)
    others = {"RateLimit-Limit": "150", "RateLimit-Remaining": "10", "RateLimit-Reset": "60"}
    times = run(budget, clock, 60, lambda _: others)
    assert len(times) <= 5, "a fifth of what is left, and the burst it had"
    clock.now += 60
    fresh = {"RateLimit-Limit": "150", "RateLimit-Remaining": "149", "RateLimit-Reset": "60"}
    assert len(run(budget, clock, 60, lambda _: fresh)) >= 25, "and is itself again after that"


def test_nothing_left_means_nothing_goes_out():
    clock = Clock()
    budget = Budget(BULK, 100, clock)
    budget.spend()
    budget.learn({"RateLimit-Remaining": "0", "RateLimit-Reset": "17"})
    assert budget.wait() == 17
    clock.now += 17
    assert budget.wait() == 0


def test_retry_after_holds():
    clock = Clock()
    budget = Budget(BULK, 100, clock)
    budget.block(9)
    budget.block(3)
    assert budget.wait() == 9


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"RateLimit-Remaining": "x", "RateLimit-Reset": "1"},
        {"RateLimit-Remaining": "1"},
        {"RateLimit-Remaining": "5, 5;w=60", "RateLimit-Reset": "1"},
        {"RateLimit-Remaining": "0", "RateLimit-Reset": "-1"},
        {"RateLimit-Remaining": "0", "RateLimit-Reset": "0"},
    ],
)
def test_headers_that_say_nothing_change_nothing(headers):
    clock = Clock()
    budget = Budget(BULK, 100, clock)
    budget.spend()
    before = budget.wait()
    budget.learn(headers)
    assert budget.wait() == before
