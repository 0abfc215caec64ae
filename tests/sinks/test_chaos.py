"""Ten thousand entries, the other end at its worst, and a shipper that is killed again and again.

The whole of it, with figures (CI runs a sample):
``SINKS_ENTRIES=10000 SINKS_KILLS=50 pytest -n 0 -s tests/sinks -k killed``.
"""

import json
from functools import partial

import pytest

from tests.journal.sealing import files_of
from tests.sinks.chaos import (
    LOST_ANSWERS,
    REFUSALS,
    SECONDS,
    SEED,
    Deck,
    HttpSink,
    Receiver,
    record,
    ship,
    ship_and_kill,
)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("wrongs", [(*REFUSALS, *LOST_ANSWERS), REFUSALS], ids=["all", "refused"])
def test_nothing_is_lost_when_the_shipper_is_killed(tmp_path, capsys, wrongs):
    deck = Deck(SEED, wrongs=wrongs)
    receiver = Receiver(deck)
    ordeal = ship_and_kill(tmp_path / "trail", partial(HttpSink, receiver.url), receiver.go_down)
    receiver.close()
    figures = ordeal.judge(receiver.lines, deck.happened, LOST_ANSWERS)
    assert all(deck.happened[what] for what in (*wrongs, "200"))
    with capsys.disabled():
        print(figures)


def test_without_lost_answers_only_a_kill_repeats_anything(tmp_path):
    """The other end refuses before it takes anything, and nobody is killed: nothing comes twice."""
    folder = tmp_path / "trail"
    record(folder, 300, 0)
    deck = Deck(SEED, wrongs=REFUSALS)
    receiver = Receiver(deck)
    ship(folder, partial(HttpSink, receiver.url), stop_after=True)
    receiver.close()
    journal = [line for content in files_of(folder).values() for line in content.splitlines()]
    assert sorted(json.loads(line)["id"] for line in receiver.lines) == sorted(
        json.loads(line)["id"] for line in journal
    )
    assert sum(deck.happened[what] for what in REFUSALS) > 0
