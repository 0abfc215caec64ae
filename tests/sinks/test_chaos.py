"""Ten thousand entries, the other end at its worst, and a shipper that is killed again and again."""

import json
import os
import random
import threading
import time

import pytest

from klaviyo_audit.sinks.receipts import RECEIPTS_NAME
from tests.journal.sealing import files_of
from tests.sinks.chaos import LOST_ANSWERS, PROCESSES, REFUSALS, Receiver, record, ship

ENTRIES = int(os.environ.get("SINKS_ENTRIES", "2000"))
KILLS = int(os.environ.get("SINKS_KILLS", "6"))
"""The whole of it: ``SINKS_ENTRIES=10000 SINKS_KILLS=50 pytest -s tests/sinks/test_chaos.py``."""
SEED = int(os.environ.get("SINKS_SEED", "1"))


@pytest.mark.parametrize("wrongs", [(*REFUSALS, *LOST_ANSWERS), REFUSALS], ids=["all", "refused"])
def test_nothing_is_lost_and_what_comes_twice_has_the_same_id(tmp_path, capsys, wrongs):
    folder = tmp_path / "trail"
    chance = random.Random(SEED)
    receiver = Receiver(SEED, wrongs=wrongs)
    writing = threading.Thread(target=record, args=(folder, ENTRIES, KILLS * 0.3))
    begun = time.monotonic()
    writing.start()
    killed = 0
    while killed < KILLS:
        process = PROCESSES.Process(target=ship, args=(folder, receiver.url), daemon=True)
        process.start()
        time.sleep(chance.uniform(0.1, 0.7))
        process.kill()
        process.join()
        killed += 1
        if killed % 5 == 0:
            receiver.go_down(0.3)
    writing.join()
    last = PROCESSES.Process(target=ship, args=(folder, receiver.url, True))
    last.start()
    last.join(110)
    assert last.exitcode == 0
    took = time.monotonic() - begun

    journal = [line for content in files_of(folder).values() for line in content.splitlines()]
    wanted = {(m["id"], m["phase"]): m for m in map(json.loads, journal)}
    got = [json.loads(line) for line in receiver.lines]
    keys = [(m["id"], m["phase"]) for m in got]
    assert len(wanted) == len(journal) >= ENTRIES
    assert set(keys) == set(wanted), "nothing is lost"
    assert all(wanted[key]["sum"] == m["sum"] for key, m in zip(keys, got, strict=True))
    first = list(dict.fromkeys(m["n"] for m in got if m["action"] == "test"))
    assert first == sorted(first), "in the journal's order"

    # What came twice came again as a whole batch, after a kill between delivery and bookmark or an
    # answer that was lost.
    repeated = len(keys) - len(set(keys))
    lost_answers = sum(receiver.happened[what] for what in LOST_ANSWERS)
    assert repeated <= 50 * (lost_answers + KILLS)
    receipts = (folder / "sinks" / "http" / RECEIPTS_NAME).read_text().splitlines()
    acknowledged = sum(json.loads(line)["count"] for line in receipts)
    assert acknowledged >= len(wanted), "a receipt for all of it"
    assert all(receiver.happened[what] for what in (*wrongs, "200"))
    receiver.close()
    with capsys.disabled():
        print(
            f"\nchaos: {len(wanted):,} entries in {took:.0f} s, {KILLS} kills, "
            f"{dict(receiver.happened)}; lost 0, repeated {repeated} (all with the same id)"
        )


def test_without_lost_answers_only_a_kill_repeats_anything(tmp_path):
    """The other end refuses before it takes anything, and nobody is killed: nothing comes twice."""
    folder = tmp_path / "trail"
    record(folder, 300, 0)
    receiver = Receiver(SEED, wrongs=REFUSALS)
    ship(folder, receiver.url, stop_after=True)
    receiver.close()
    journal = [line for content in files_of(folder).values() for line in content.splitlines()]
    assert sorted(json.loads(line)["id"] for line in receiver.lines) == sorted(
        json.loads(line)["id"] for line in journal
    )
    assert sum(receiver.happened[what] for what in REFUSALS) > 0
