"""Who acts: explicit, else the setting, else service and system user, marked as a fallback."""

import asyncio
import getpass
from concurrent.futures import ThreadPoolExecutor

import pytest

from klaviyo_audit import Auditor, acting_as, suppress_audit
from klaviyo_audit.context import ACTOR, SUPPRESSED
from tests import planted


def test_explicit_then_setting_then_fallback(client, tmp_path, trail):
    with Auditor(journal=trail.folder, service="shop", user_id="cron") as auditor:
        klaviyo = auditor.audit(client)
        with acting_as("dana"):
            klaviyo.Profiles.get_profile("01H")
        klaviyo.Profiles.get_profile("01H")
    with Auditor(journal=trail.folder, service="shop") as auditor:
        auditor.audit(client).Profiles.get_profile("01H")
    explicit, setting, fallback = trail.outcomes()
    assert (explicit["user_id"], setting["user_id"]) == ("dana", "cron")
    assert "actor" not in setting
    assert fallback["user_id"] == f"shop/{getpass.getuser()}"
    assert fallback["actor"] == {"fallback": True}


def test_everything_that_can_be_said(klaviyo, trail):
    with acting_as(
        "dana", reason="ticket 4711", on_behalf_of="erin", ip="192.0.2.1", team="crm", retries=2
    ):
        klaviyo.Profiles.get_profile("01H")
    entry = trail.outcome()
    assert entry["actor"] == {
        "on_behalf_of": "erin",
        "reason": "ticket 4711",
        "ip": "192.0.2.1",
    }
    assert entry["metadata"] == {"team": "crm", "retries": 2}


def test_nesting_inherits_what_is_not_given(klaviyo, trail):
    with acting_as("dana", reason="import", batch=1):
        with acting_as("worker", on_behalf_of="dana", row=7):
            klaviyo.Profiles.get_profile("01H")
        klaviyo.Profiles.get_profile("01H")
    klaviyo.Profiles.get_profile("01H")
    inner, outer, none = trail.outcomes()
    assert inner["user_id"] == "worker"
    assert inner["actor"] == {"on_behalf_of": "dana", "reason": "import"}
    assert inner["metadata"] == {"batch": 1, "row": 7}
    assert (outer["user_id"], outer["metadata"]) == ("dana", {"batch": 1})
    assert "metadata" not in none


def test_secrets_and_persons_in_what_is_said_are_masked(klaviyo, trail):
    with acting_as(
        "dana",
        reason=f"{planted.EMAIL} asked, key {planted.SITE_KEY}, {planted.PHONE}",
        note={"api_key": "abc", "deep": [planted.EMAIL, {"x": f"Bearer {planted.OAUTH_TOKEN}"}]},
    ):
        klaviyo.Profiles.get_profile("01H")
    entry = trail.outcome()
    assert entry["actor"]["reason"] == "[email] asked, key [secret], [phone]"
    assert entry["metadata"]["note"] == {
        "api_key": "[secret]",
        "deep": ["[email]", {"x": "Bearer [secret]"}],
    }


@pytest.mark.parametrize("value", ["", None, 5])
def test_nobody_is_no_actor(value):
    with pytest.raises(TypeError, match="non-empty string"):
        acting_as(value)


def test_left_on_an_exception():
    with pytest.raises(KeyError), acting_as("dana"):
        raise KeyError
    assert ACTOR.get() is None


def test_one_object_in_many_tasks_and_threads():
    dana = acting_as("dana")

    def user():
        actor = ACTOR.get()
        return actor and actor.user_id

    async def task(name):
        with acting_as(name):
            await asyncio.sleep(0.001)
            with dana:
                await asyncio.sleep(0.001)
                assert user() == "dana"
            await asyncio.sleep(0.001)
            return user()

    async def main():
        return await asyncio.gather(*(task(f"u{n}") for n in range(100)))

    assert asyncio.run(main()) == [f"u{n}" for n in range(100)]

    def thread(_):
        with dana, dana:
            return user(), user()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(thread, range(200))) == {("dana", "dana")}


def test_as_a_decorator_of_every_kind_of_function():
    def user():
        actor = ACTOR.get()
        return actor and actor.user_id

    @acting_as("dana")
    def function():
        return user()

    @acting_as("dana")
    async def coroutine():
        await asyncio.sleep(0)
        return user()

    @acting_as("dana")
    def generator():
        yield user()
        yield user()

    @acting_as("dana")
    async def async_generator():
        yield user()

    async def main():
        seen = [item async for item in async_generator()]
        return await coroutine(), seen, user()

    assert function() == "dana"
    seen = []
    for item in generator():
        seen.append((item, user()))
    assert seen == [("dana", None)] * 2
    assert asyncio.run(main()) == ("dana", ["dana"], None)
    assert user() is None


def test_follows_into_threads_of_asyncio(klaviyo, trail):
    async def main():
        with acting_as("dana"):
            await asyncio.to_thread(klaviyo.Profiles.get_profile, "01H")

    asyncio.run(main())
    assert trail.outcome()["user_id"] == "dana"


def test_suppression_nests():
    with suppress_audit(), suppress_audit():
        assert SUPPRESSED.get() == 2
    assert SUPPRESSED.get() == 0
