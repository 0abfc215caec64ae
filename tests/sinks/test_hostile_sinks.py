"""Sinks that break every rule there is: nothing is skipped, the shipper lives on, and it is told."""

import json
import os

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.registry import checked
from tests.waiting import PATIENCE


class Odd(Exception):
    strerror = property(lambda self: 1 / 0)

    def __str__(self):
        raise RuntimeError("dana@example.com")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        Odd(),
        Retry("soon", why=7),
        Retry(float("nan")),
        lambda entries: Rejected([object()], "none of yours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_sink_raises_the_shipper_goes_on(trail, recorded, error):
    recorded.raises = [error]
    with Auditor(journal=trail.folder, sinks=[recorded], ship_retry_most=0.02) as auditor:
        auditor.record("a")
        assert auditor.flush(PATIENCE)
        assert auditor.sink_conditions["recorded"].failures == 1
    assert recorded.actions == ["a"]
    assert not (trail.folder / "sinks" / "recorded" / "dead.jsonl").exists()


@pytest.mark.parametrize(("why", "kept"), [(b"no", "b'no'"), ("\udcff", "?"), (None, "None")])
def test_a_reason_that_is_no_text_holds_nothing_up(write, ship, recorded, trail, why, kept):
    write("a")
    recorded.raises = [lambda entries: Rejected([None, *entries[:1]], why)]
    assert ship(recorded)
    (letter,) = (trail.folder / "sinks/recorded/dead.jsonl").read_bytes().splitlines()
    assert json.loads(letter)["why"] == kept


class Asynchronous:
    name = "later"
    called = False

    async def deliver(self, entries):
        self.called = True

    def close(self):
        pass


class Lazy(Asynchronous):
    def deliver(self, entries):
        self.called = True
        yield from entries


class Awaiting(Asynchronous):
    def deliver(self, entries):
        return super().deliver(entries)


@pytest.mark.parametrize("kind", [Asynchronous, Lazy, Awaiting])
def test_what_is_never_run_is_not_taken_for_a_delivery(write, shipper, told, kind):
    write("a")
    worker = shipper(kind())
    assert not worker.run_once(PATIENCE)
    assert worker.condition.state == "stopped"
    assert worker.condition.delivered == 0
    assert any("deliver has to return when the entries were delivered" in what for what in told)


def test_what_deliver_returns_otherwise_means_nothing(write, ship, recorded):
    class Returning:
        name, entries, close = "returning", [], print

        def deliver(self, entries):
            self.entries += entries
            return False

    write("a")
    sink = Returning()
    assert ship(sink)
    assert len(sink.entries) == 3


@pytest.mark.parametrize("most", [0, -1, None, "5", 1.5, True])
@pytest.mark.parametrize("name", ["max_batch_entries", "max_batch_bytes"])
def test_a_batch_that_can_not_be_is_refused(recorded, name, most):
    setattr(recorded, name, most)
    with pytest.raises(ConfigurationError, match=f"{name} of the sink"):
        checked(recorded, "the sink")


class Unreadable(dict):
    def items(self):
        raise RuntimeError


class Mute:
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "facts",
    [
        7,
        Unreadable(a=1),
        {"a": Mute()},
        {Mute(): 1},
        {"a": 1 << 70},
        {"a": "\udcff"},
        {"\udcff": 1},
    ],
    ids=range(7),
)
def test_whatever_a_sink_says_of_its_acknowledgement_it_has_a_receipt(
    write, ship, recorded, trail, facts
):
    write("a")
    recorded.acknowledgement = facts
    assert ship(recorded)
    (receipt,) = (trail.folder / "sinks/recorded/receipts.jsonl").read_bytes().splitlines()
    assert json.loads(receipt)["count"] == 3


def test_an_acknowledgement_that_cannot_be_read(write, ship, trail):
    class Sink:
        name, deliver, close = "odd", print, print
        acknowledgement = property(lambda self: 1 / 0)

    write("a")
    assert ship(Sink())
    assert (trail.folder / "sinks/odd/receipts.jsonl").stat().st_size


def test_what_one_sink_changes_no_other_sees(trail):
    class Changing:
        name, close = "changing", print

        def deliver(self, entries):
            for entry in entries:
                (entry.metadata or {}).clear()
                object.__setattr__(entry, "action", "changed")

    from tests.sinks.conftest import Recorded

    others = [Recorded("before"), Recorded("later")]
    with Auditor(journal=trail.folder, sinks=[others[0], Changing(), others[1]]) as auditor:
        auditor.record("a", metadata={"b": {"c": 1}})
    for other in others:
        (entry,) = [e for e in other.entries if e.action == "a"]
        assert entry.metadata == {"b": {"c": 1}}


def test_a_sink_that_forks_ships_once(trail):
    class Forking:
        name, close = "forking", print
        entries = []

        def deliver(self, entries):
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
            self.entries += entries

    sink = Forking()
    with Auditor(journal=trail.folder, sinks=[sink]) as auditor:
        for number in range(20):
            auditor.record(f"a{number}")
            assert auditor.flush(PATIENCE)
    assert len(sink.entries) == 22
    assert len({entry.id for entry in sink.entries}) == 22
