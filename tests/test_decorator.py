"""@audited on every kind of function and method."""

import asyncio
import functools
import inspect

import pytest

from klaviyo_audit import ConfigurationError, acting_as, suppress_audit
from klaviyo_audit.context import CURRENT
from tests import planted


def test_function_keeps_its_face(auditor):
    @auditor.audited
    def redeem(profile_id: str, points: int = 5) -> int:
        """Redeem points."""
        return points

    assert redeem("p") == 5
    assert redeem.__name__ == "redeem"
    assert redeem.__doc__ == "Redeem points."
    assert list(inspect.signature(redeem).parameters) == ["profile_id", "points"]


def test_action_and_resource(auditor, trail):
    @auditor.audited(action="loyalty.redeem", resource="profile:{profile_id}/{points}")
    def redeem(profile_id, points=5):
        pass

    redeem("p1")
    redeem(profile_id="p2", points=7)
    assert [(e["action"], e["resource"]) for e in trail.outcomes()] == [
        ("loyalty.redeem", "profile:p1/5"),
        ("loyalty.redeem", "profile:p2/7"),
    ]


def test_default_action_is_module_and_name(auditor, trail):
    class Service:
        @auditor.audited
        def redeem(self):
            pass

    Service().redeem()
    assert trail.outcome()["action"].endswith(
        "test_decorator.test_default_action_is_module_and_name.Service.redeem"
    )


@pytest.mark.parametrize("order", ["audited outside", "audited inside"])
def test_methods_of_all_kinds(auditor, trail, order):
    audited = auditor.audited(resource="{value}")

    def both(kind):
        if order == "audited outside":
            return lambda function: audited(kind(function))
        return lambda function: kind(audited(function))

    class Service:
        @audited
        def method(self, value):
            return (type(self), value)

        @both(classmethod)
        def of_class(cls, value):
            return (cls, value)

        @both(staticmethod)
        def static(value):
            return value

    service = Service()
    assert service.method(1) == (Service, 1)
    assert Service.method(service, 2) == (Service, 2)
    assert service.of_class(3) == (Service, 3)
    assert Service.of_class(4) == (Service, 4)
    assert service.static(5) == 5
    assert Service.static(6) == 6
    assert [entry["resource"] for entry in trail.outcomes()] == list("123456")


def test_exception_passes_through_and_its_text_is_not_kept(auditor, trail):
    error = LookupError(planted.EMAIL)

    @auditor.audited
    def fails():
        raise error

    with pytest.raises(LookupError) as caught:
        fails()
    assert caught.value is error
    entry = trail.outcome()
    assert entry["result"] == "failure"
    assert entry["error"] == {"type": "LookupError", "module": "builtins", "stage": "function"}


def test_nesting(auditor, trail):
    @auditor.audited
    def outer():
        inner()

    @auditor.audited
    def inner():
        pass

    outer()
    child, parent = trail.outcomes()
    assert child["parent_id"] == parent["id"]
    assert "parent_id" not in parent
    assert CURRENT.get() is None


def test_async_function(auditor, trail):
    @auditor.audited
    async def outer(number):
        await asyncio.sleep(0)
        return await asyncio.gather(inner(number), asyncio.to_thread(blocking))

    @auditor.audited
    async def inner(number):
        await asyncio.sleep(0.01)
        return number

    @auditor.audited
    def blocking():
        return "done"

    assert inspect.iscoroutinefunction(outer)
    assert asyncio.run(outer(4)) == [4, "done"]
    *children, parent = trail.outcomes()
    assert [child["parent_id"] for child in children] == [parent["id"]] * 2
    assert parent["duration_ms"] >= 10


def test_a_coroutine_never_awaited_leaves_nothing(auditor, trail):
    @auditor.audited
    async def never():
        pass

    never().close()
    assert trail.outcomes() == []


def test_cancelled(auditor, trail):
    @auditor.audited
    async def waits():
        await asyncio.sleep(10)

    async def main():
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    entry = trail.outcome()
    assert (entry["result"], entry["error"]["type"]) == ("failure", "CancelledError")


def test_generator_speaks_the_whole_protocol(auditor, trail):
    @auditor.audited
    def inner():
        pass

    @auditor.audited
    def numbers():
        inner()
        got = yield 1
        try:
            yield got
        except KeyError:
            inner()
            yield "caught"
        return "end"

    steps = numbers()
    assert trail.outcomes() == []
    assert next(steps) == 1
    assert CURRENT.get() is None, "nothing is held while the consumer has the turn"
    assert steps.send("sent") == "sent"
    assert steps.throw(KeyError("x")) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == "end"
    *children, parent = trail.outcomes()
    assert [child["parent_id"] for child in children] == [parent["id"]] * 2
    assert parent["result"] == "success"


def test_generator_closed_early_and_failing(auditor, trail):
    closed = []

    @auditor.audited
    def numbers(fail):
        try:
            yield 1
            if fail:
                raise OSError
        finally:
            closed.append(True)

    for _ in numbers(fail=False):
        break
    with pytest.raises(OSError):
        list(numbers(fail=True))
    assert closed == [True, True]
    assert [entry["result"] for entry in trail.outcomes()] == ["success", "failure"]


def test_async_generator_speaks_the_whole_protocol(auditor, trail):
    @auditor.audited
    async def inner():
        await asyncio.sleep(0)

    @auditor.audited
    async def numbers():
        await inner()
        got = yield 1
        try:
            yield got
        except KeyError:
            yield "caught"

    async def main():
        steps = numbers()
        assert await anext(steps) == 1
        assert CURRENT.get() is None
        assert await steps.asend("sent") == "sent"
        assert await steps.athrow(KeyError("x")) == "caught"
        with pytest.raises(StopAsyncIteration):
            await anext(steps)
        early = numbers()
        await anext(early)
        await early.aclose()

    asyncio.run(main())
    results = trail.outcomes()
    assert [entry["result"] for entry in results] == ["success"] * 4
    assert results[0]["parent_id"] == results[1]["id"]


def test_interleaved_generators_keep_their_own_parents(auditor, trail):
    @auditor.audited
    def child(name):
        pass

    @auditor.audited(action="walk", metadata=lambda name: {"name": name})
    def walk(name):
        for _ in range(3):
            auditor.audited(child, metadata={"of": name})(name) if False else mark(name)
            yield

    @auditor.audited(metadata=lambda name: {"of": name})
    def mark(name):
        pass

    for _ in zip(walk("a"), walk("b"), strict=True):
        pass
    entries = trail.outcomes()
    parents = {e["id"]: e["metadata"]["name"] for e in entries if e["action"] == "walk"}
    marks = [e for e in entries if e["action"] != "walk"]
    assert len(marks) == 6
    assert all(parents[e["parent_id"]] == e["metadata"]["of"] for e in marks)


def test_captured_arguments_are_cleaned(auditor, trail):
    @auditor.audited(capture=("amount", "note", "token"))
    def pay(amount, note, token, card):
        pass

    pay(5, f"for {planted.EMAIL}, call {planted.PHONE}", planted.OAUTH_TOKEN, "4111")
    assert trail.outcome()["request"] == {
        "amount": 5,
        "note": "for [email], call [phone]",
        "token": "[secret]",
    }


def test_arguments_that_misbehave_break_nothing(auditor, trail):
    class Hostile:
        def __str__(self):
            raise RuntimeError(planted.API_KEY)

        def __getattr__(self, name):
            raise RuntimeError(planted.API_KEY)

    @auditor.audited(
        resource="{thing}",
        capture=("thing",),
        metadata=lambda thing: {"x": thing.missing},
    )
    def use(thing):
        return "used"

    assert use(Hostile()) == "used"
    assert trail.outcome()["resource"] == "[not filled: RuntimeError]"


def test_attributes_in_the_resource(auditor, trail):
    class Order:
        id = "o-1"

    @auditor.audited(resource="order:{order.id}")
    def ship(order):
        pass

    ship(Order())
    assert trail.outcome()["resource"] == "order:o-1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resource": "x:{profil}"}, "names 'profil', which .*its arguments are: profile"),
        ({"resource": "x:{profile"}, "is not a template"),
        ({"resource": "{profile!r}"}, "must be an argument's name"),
        ({"resource": "{profile[0]}"}, "must be an argument's name"),
        ({"capture": ("amount",)}, "names 'amount'"),
    ],
)
def test_mistakes_are_told_at_once(auditor, options, message):
    with pytest.raises(ConfigurationError, match=message):

        @auditor.audited(**options)
        def redeem(profile):
            pass


def test_suppressed_functions_of_all_kinds(auditor, trail):
    @auditor.audited
    def function():
        return 1

    @auditor.audited
    def generator():
        yield 1

    @auditor.audited
    async def coroutine():
        return 1

    @auditor.audited
    async def async_generator():
        yield 1

    async def main():
        return await coroutine(), [item async for item in async_generator()]

    with suppress_audit():
        assert function() == 1
        assert list(generator()) == [1]
        assert asyncio.run(main()) == (1, [1])
    assert trail.outcomes() == []


def test_callables_of_other_kinds(auditor, trail):
    class Job:
        def __call__(self, value):
            return value

        def run(self, value):
            return value

    assert auditor.audited(functools.partial(max, 3))(7) == 7
    assert auditor.audited(Job(), action="job")(1) == 1
    assert auditor.audited(Job().run, action="run", resource="{value}")(2) == 2
    assert auditor.audited(len, action="len")("four") == 4
    assert [entry["result"] for entry in trail.outcomes()] == ["success"] * 4
    assert trail.outcomes()[2]["resource"] == "2"


def test_actor_of_a_function(auditor, trail):
    @acting_as("erin", reason="monthly report")
    @auditor.audited
    def report():
        pass

    report()
    entry = trail.outcome()
    assert (entry["user_id"], entry["actor"]["reason"]) == ("erin", "monthly report")
