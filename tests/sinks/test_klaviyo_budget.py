"""The sink's share of an account's rate limits, ahead of time."""

from collections import Counter
from itertools import chain, pairwise, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.sinks.klaviyo.budget import BULK, SINGLE, Budget, Limit
from klaviyo_audit.testing.limits import RateLimits
from klaviyo_audit.testing.routes import sdk_routes

JOBS = next(
    route
    for route in sdk_routes()
    if (route.method, route.template.rstrip("/")) == ("POST", "/api/event-bulk-create-jobs")
)


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

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


def served(budget, clock, minutes, half_way):
    """Send to a `FakeKlaviyo`'s limits; requests taken in each whole minute, and those refused."""
    limits, taken, refused = RateLimits(enforced=True), Counter(), 0
    end = clock.now + 60 * minutes
    while clock.now < end:
        clock.now += budget.wait()
        budget.spend()
        clock.now += half_way()
        answer = limits.count(JOBS, clock.now)
        taken[int(clock.now) // 60] += not answer.refused
        refused += answer.refused
        clock.now += half_way()
        budget.learn(answer.headers)
    return [taken[minute] for minute in sorted(taken)[1:-1]], refused


@pytest.mark.parametrize("start", [1000.0, 1019.9, 1020.0, 1041.37, 1075.5])
@pytest.mark.parametrize("way", [0.02, 0.1])
def test_all_of_every_window_of_klaviyos_is_used(start, way):
    clock = Clock(start)
    full, refused = served(Budget(BULK, 100, clock), clock, 10, lambda: way / 2)
    assert full == [150] * len(full)
    assert not refused


@pytest.mark.parametrize("start", [1000.1, 1000.3, 1000.5, 1000.7, 1000.9])
def test_klaviyo_refuses_nothing_though_the_first_is_long_on_its_way(start):
    """It makes the connection, and arrives together with those of the next second."""
    clock, halves = Clock(start), chain([0.4, 0.1], repeat(0.01))
    _, refused = served(Budget(BULK, 100, clock), clock, 1, lambda: next(halves))
    assert not refused


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
