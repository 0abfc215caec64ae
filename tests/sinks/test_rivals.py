"""Several processes ship one journal to one sink; they are killed, stopped and woken."""

import os
import random
import sys
import threading
import time
from collections import Counter

import pytest

from klaviyo_audit import Auditor
from tests.sinks.rivals import Rivals, Watched
from tests.waiting import wait_for

KILLS = int(os.environ.get("SINKS_KILLS", "5"))
SEED = int(os.environ.get("SINKS_SEED", "1"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and who dies how")


@pytest.fixture
def writing(trail):
    """A program that records until it is told to stop."""
    over = threading.Event()

    def record():
        with Auditor(journal=trail.folder, sinks=[], service="shop") as auditor:
            while not over.is_set():
                auditor.record("shop.opened")
                time.sleep(0.005)

    thread = threading.Thread(target=record)
    thread.start()
    yield over
    over.set()
    thread.join()


@pytest.fixture
def rivals(tmp_path, trail):
    made = []

    def make(**options):
        made.append(Rivals(tmp_path, trail.folder, **options))
        return made[-1]

    yield make
    for one in made:
        for pid in list(one.processes):
            one.kill(pid)


def lines_of(trail):
    return [(line["writer"], line["n"]) for line in trail.lines()]


def finish(rivals, trail, writing):
    """Have the rest delivered, and all of them end well."""
    writing.set()
    wait_for(lambda: trail.lines()[-1]["action"] == "journal.close")
    wanted = set(lines_of(trail))
    wait_for(lambda: wanted <= set(rivals.delivered()))
    wait_for(lambda: rivals.bookmark()["delivered"] >= len(wanted))
    assert set(rivals.end()) == {0}


@pytest.mark.timeout(600 + 5 * KILLS)
def test_one_at_a_time_delivers_whoever_is_killed_or_stopped(rivals, trail, writing, capsys):
    chance = random.Random(SEED)
    rivals = rivals()
    for _ in range(3):
        rivals.start()
    owners = []
    for number in range(KILLS):
        owner = rivals.next_begin()
        owners.append(owner)
        time.sleep(chance.uniform(0, 0.05))
        if number % 2:
            with rivals.stopped(owner):
                known = len(rivals.done())
                time.sleep(0.4)
                assert len(rivals.done()) == known, "its sink waits for it"
            rivals.next_begin(of=owner)
        assert rivals.kill(owner) == -9
        rivals.start()
    assert len(set(owners)) == KILLS, "another has taken over each time"
    finish(rivals, trail, writing)
    done = rivals.done()
    assert "overlap" not in Counter(one["what"] for one in done)
    delivered = rivals.delivered()
    twice = len(delivered) - len(set(delivered))
    assert list(dict.fromkeys(delivered)) == lines_of(trail), "nothing is lost, all in order"
    assert twice <= KILLS * Watched.max_batch_entries
    assert sum(one["count"] for one in rivals.receipts()) >= len(set(delivered))
    with capsys.disabled():
        print(f"\n{len(set(delivered)):,} entries, 3 processes, {KILLS} kills: twice {twice}")


def test_a_woken_process_whose_lock_was_taken_away_writes_nothing(rivals, trail, writing):
    """Somebody removes the lock's file since the process that has it stands still."""
    rivals = rivals(seconds=0.1)
    rivals.start()
    owner = rivals.next_begin()
    rivals.start()
    rivals.next_begin(of=owner)
    with rivals.stopped(owner):
        (rivals.sink_folder / "lock").unlink()
        other = rivals.next_begin()
        assert other != owner
        known = rivals.bookmark()["delivered"]
        wait_for(lambda: rivals.bookmark()["delivered"] > known + 40)
        receipts = len(rivals.receipts())
    places = []

    def is_done():
        bookmark = rivals.bookmark()
        places.append(bookmark["delivered"])
        return len([one for one in rivals.done() if one["pid"] == owner]) % 2 == 0

    wait_for(is_done)  # what it was about to deliver when it was stopped
    begun = [one for one in rivals.done() if (one["pid"], one["what"]) == (owner, "begin")]
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        is_done()
        time.sleep(0.002)
    assert places == sorted(places), "the bookmark went back"
    after = [one for one in rivals.done() if (one["pid"], one["what"]) == (owner, "begin")]
    assert len(after) == len(begun), "it has delivered something more"
    firsts = [one["first"]["id"] for one in rivals.receipts()[receipts:]]
    ids = [line["id"] for line in trail.lines()]
    order = [ids.index(first) for first in firsts]
    assert order == sorted(order), "a receipt of what another has delivered meanwhile"
    finish(rivals, trail, writing)
    assert set(rivals.delivered()) == set(lines_of(trail))
