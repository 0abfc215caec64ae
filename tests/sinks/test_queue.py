"""The queue that stands in for the journal: bounded, and every entry is had or counted as lost."""

import tracemalloc
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit.sinks.queue import QueueWriter

CAPACITY = 3


def make_queue(overflow):
    return QueueWriter(
        Path("nowhere"),
        ["a", "b"],
        user_id="dana",
        origin={},
        opening={},
        capacity=CAPACITY,
        overflow=overflow,
        block=0.0,
        on_loss=lambda error: None,
        problem=OSError(30, "read-only file system"),
    )


def append(queue, number):
    members = {"v": 1, "id": "x", "writer": "", "n": 0, "timestamp": "", "phase": "event"}
    queue.append({**members, "action": f"e{number}", "user_id": "dana", "origin": {}})


def accounted(lines, name):
    """Numbers that a sink has got or was told are lost, and how many events that makes."""
    entries = list(map(orjson.loads, lines))
    gaps = [e["metadata"] for e in entries if e["phase"] == "gap" and e["metadata"]["sink"] == name]
    numbers = [n for gap in gaps for first, last in gap["numbers"] for n in range(first, last + 1)]
    lost = [count for gap in gaps for count in gap["operations"].items()]
    events = sum(e["phase"] == "event" for e in entries)
    return (
        sorted([*numbers, *(e["n"] for e in entries)]),
        events + sum(count for action, count in lost if action.startswith(("e", "other"))),
    )


@given(
    st.sampled_from(["drop_newest", "drop_oldest", "block"]),
    st.lists(st.sampled_from(["append", "append", "append", "a", "b", "back"]), max_size=60),
)
def test_each_entry_is_had_or_counted_as_lost(overflow, steps):
    queue = make_queue(overflow)
    taken, appended = {"a": [], "b": []}, 0
    for step in steps:
        if step == "append":
            append(queue, appended)
            appended += 1
        elif step in taken:
            line = queue.take(step)
            taken[step] += [] if line is None else [line]
        elif taken["a"] and queue._queues["a"].back is None:
            queue.put_back("a", taken["a"].pop())
        assert max(queue.waiting(name) for name in taken) <= CAPACITY + 2
    for _ in range(2):  # taking from one can give something to the other
        for name, lines in taken.items():
            while (line := queue.take(name)) is not None:
                lines.append(line)
    for name, lines in taken.items():
        numbers, events = accounted(lines, name)
        assert events == appended
        assert numbers == list(range(queue._next()))[: len(numbers)]


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_a_slow_sink_gets_entries_too_not_only_what_it_has_lost(overflow):
    queue = make_queue(overflow)
    lines = []
    for number in range(100):
        for more in range(5):
            append(queue, 5 * number + more)
        lines.append(queue.take("a"))
        queue.acknowledge("a")
    events = sum(b'"phase":"event"' in line for line in lines)
    assert events >= 45


def test_a_sink_that_hangs_for_ever_takes_no_memory():
    queue = make_queue("drop_newest")
    for number in range(100):
        append(queue, number)
    tracemalloc.start()
    try:
        for number in range(100, 20_000):
            append(queue, number)
            if number % 100 == 0:
                queue.take("a")
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 100_000
