"""What a thread pool's tasks do is done by whoever has submitted them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from klaviyo_audit import acting_as
from klaviyo_audit.integrations.executor import ContextThreadPoolExecutor
from tests.waiting import PATIENCE


def call_for_users(pool, klaviyo, users):
    def of(user):
        with acting_as(user):
            return pool.submit(klaviyo.Lists.get_list, f"L{user}")

    for future in [of(user) for user in users]:
        future.result(PATIENCE)


def actors(trail):
    return sorted((line["resource"], line["user_id"]) for line in trail.outcomes())


def test_each_task_has_its_own_actor(klaviyo, trail):
    users = [f"u{number}" for number in range(40)]
    with ContextThreadPoolExecutor(4) as pool:
        call_for_users(pool, klaviyo, users)
    assert actors(trail) == sorted((f"/api/lists/L{user}", user) for user in users)


def test_map_and_parents(klaviyo, auditor, trail):
    @auditor.audited
    def sync(ids):
        with ContextThreadPoolExecutor(2) as pool:
            return len(list(pool.map(klaviyo.Lists.get_list, ids)))

    with acting_as("dana"):
        assert sync(["a", "b", "c"]) == 3
    *calls, function = trail.outcomes()
    assert [call["parent_id"] for call in calls] == [function["id"]] * 3
    assert {line["user_id"] for line in trail.outcomes()} == {"dana"}


def test_the_standard_pool_needs_it(klaviyo, trail):
    """What the class is for; when this fails, it is not needed any more."""
    with ThreadPoolExecutor(1) as pool:
        call_for_users(pool, klaviyo, ["erin"])
    assert trail.outcome()["user_id"] == "dana", "the default"


def test_a_task_changes_nobody_elses_context(klaviyo):
    from klaviyo_audit.context import ACTOR

    with ContextThreadPoolExecutor(1) as pool:
        with acting_as("dana"):
            assert pool.submit(lambda: ACTOR.get().user_id).result() == "dana"
        assert pool.submit(ACTOR.get).result() is None
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()


def test_asyncio_to_thread_and_tasks(klaviyo, trail):
    async def one(user):
        with acting_as(user):
            await asyncio.to_thread(klaviyo.Lists.get_list, f"L{user}")

    async def main():
        await asyncio.gather(*(one(f"u{number}") for number in range(30)))

    asyncio.run(main())
    assert actors(trail) == sorted((f"/api/lists/Lu{n}", f"u{n}") for n in range(30))


def test_threads_that_are_given_the_context(klaviyo, trail):
    import contextvars

    with acting_as("dana"):
        context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(klaviyo.Lists.get_list, "L1"))
    thread.start()
    thread.join()
    assert trail.outcome()["user_id"] == "dana"
