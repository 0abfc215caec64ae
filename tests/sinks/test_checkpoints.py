"""Checkpoints go to the sinks that take them, from a bookmark of their own."""

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.journal.checkpoint import open_checkpoint, read_notes
from klaviyo_audit.journal.note import Verifier
from klaviyo_audit.sinks.base import ConfigurationError, Rejected, Retry
from tests.journal.sealing import seal
from tests.journal.sealing import write as write_lines
from tests.sinks.conftest import Recorded
from tests.waiting import PATIENCE


class Notarized(Recorded):
    """Takes checkpoints too."""

    def __init__(self, name="notarized"):
        super().__init__(name)
        self.notes = []
        self.note_raises = []

    def deliver_checkpoints(self, notes):
        if self.note_raises:
            raise self.note_raises.pop(0)
        self.notes += notes


@pytest.fixture
def sink():
    return Notarized()


def stored(folder):
    with (folder / "checkpoints").open("rb") as file:
        return [piece.note for piece in read_notes(file) if piece.note is not None]


def more(folder, count, start):
    write_lines(folder, count, start)
    seal(folder)


def test_each_checkpoint_is_delivered_once_as_it_stands_in_the_file(trail, ship, sink):
    more(trail.folder, 3, 0)
    more(trail.folder, 3, 3)
    assert ship(sink)
    more(trail.folder, 3, 6)
    assert ship(sink)
    assert ship(sink)
    assert sink.notes == stored(trail.folder)
    assert len(sink.notes) == 3
    verifier = Verifier.from_text((trail.folder / "sealing.pub").read_text())
    sizes = [open_checkpoint(note, verifier).size for note in sink.notes]
    assert sizes == [5, 10, 15]


def test_a_checkpoint_that_was_not_taken_holds_no_entry_up(trail, ship, sink):
    more(trail.folder, 3, 0)
    sink.note_raises = [Retry(0.05), OSError(5, "io"), Retry()]
    assert ship(sink)
    assert len(sink.entries) == 5
    assert sink.notes == stored(trail.folder)


def test_a_rejected_checkpoint_is_told_and_passed_over(trail, ship, sink, told):
    more(trail.folder, 3, 0)
    sink.note_raises = [Rejected((), "no room for it")]
    assert ship(sink)
    assert sink.notes == []
    assert any("does not take checkpoints (no room for it)" in message for message in told)


def test_a_wrong_key_stops_the_sink(trail, shipper, sink):
    more(trail.folder, 3, 0)
    sink.note_raises = [ConfigurationError("401")]
    worker = shipper(sink)
    assert not worker.run_once(PATIENCE)
    assert worker.condition.state == "stopped"


def test_many_checkpoints_come_in_portions(trail, ship, sink):
    for start in range(0, 205, 1):
        (trail.folder / "x").parent.mkdir(exist_ok=True)
        with (trail.folder / "checkpoints").open("ab") as file:
            file.write(b"log\n%d\nAAAA\n\n\xe2\x80\x94 log AAAA\n\n" % start)
    (trail.folder / "audit.jsonl").touch()
    assert ship(sink)
    assert len(sink.notes) == 205
    assert sink.notes == stored(trail.folder)


def test_a_note_that_is_being_written_is_waited_for(trail, shipper, sink):
    more(trail.folder, 3, 0)
    path = trail.folder / "checkpoints"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    worker = shipper(sink)
    worker.run_once(PATIENCE)
    assert sink.notes == []
    path.write_bytes(whole)
    worker.run_once(PATIENCE)
    assert sink.notes == stored(trail.folder)


def test_checkpoints_that_were_taken_away_are_noticed(trail, ship, sink, told):
    more(trail.folder, 3, 0)
    more(trail.folder, 3, 3)
    ship(sink)
    first = stored(trail.folder)[0]
    (trail.folder / "checkpoints").write_bytes(first + b"\n")
    ship(sink)
    assert any("is not in the journal any more" in message for message in told)
    assert sink.notes[2:] == [first]


def test_a_copied_file_of_checkpoints_is_the_same_one(trail, ship, sink):
    """A sealer that takes over replaces it by a copy."""
    more(trail.folder, 3, 0)
    ship(sink)
    path = trail.folder / "checkpoints"
    (trail.folder / "copy").write_bytes(path.read_bytes())
    (trail.folder / "copy").rename(path)
    more(trail.folder, 3, 3)
    ship(sink)
    assert sink.notes == stored(trail.folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"v":1,"sum":"00"}'])
def test_a_damaged_mark(trail, ship, sink, content):
    more(trail.folder, 3, 0)
    ship(sink)
    (trail.folder / "sinks" / "notarized" / "checkpoints").write_bytes(content)
    assert ship(sink)
    assert sink.notes == stored(trail.folder) * 2


def test_the_last_checkpoint_of_a_program_is_delivered_before_it_ends(trail, sink):
    with Auditor(journal=trail.folder, sinks=[sink], seal="background") as auditor:
        auditor.record("a")
    assert sink.notes == stored(trail.folder)
    verifier = Verifier.from_text((trail.folder / "sealing.pub").read_text())
    assert open_checkpoint(sink.notes[-1], verifier).size == len(trail.lines())
