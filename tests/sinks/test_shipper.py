import json
import shutil
import time

import pytest

from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal.format import encode
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.filters import Filter
from tests.sinks.conftest import Recorded
from tests.waiting import PATIENCE


def receipts(trail, name="recorded"):
    path = trail.folder / "sinks" / name / "receipts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def dead_letters(trail, name="recorded"):
    path = trail.folder / "sinks" / name / "dead.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_is_delivered_once_and_in_order(write, ship, recorded, trail):
    write("a", "b")
    assert ship(recorded)
    write("c")
    assert ship(recorded)
    assert ship(recorded), "nothing new"
    assert recorded.actions == ["a", "b", "c"]
    assert [entry.to_dict() for entry in recorded.entries] == trail.lines()
    assert recorded.closed


def test_each_sink_has_its_own_bookmark(write, ship):
    first, second = Recorded("first"), Recorded("second")
    write("a")
    ship(first)
    write("b")
    ship(first)
    ship(second)
    assert first.actions == second.actions == ["a", "b"]


@pytest.mark.parametrize("error", [Retry(), Retry(0.01), RuntimeError("x"), OSError(5, "io")])
def test_what_was_not_taken_is_offered_again_as_it_was(write, ship, recorded, error, told):
    write("a", "b")
    recorded.raises = [error, error, None]
    assert ship(recorded)
    assert recorded.actions == ["a", "b"]
    assert len(recorded.calls) == 3
    assert recorded.calls[0] == recorded.calls[1] == recorded.calls[2]


def test_the_bookmark_moves_after_the_acknowledgement(write, shipper, recorded):
    write("a")
    recorded.raises = [Retry()] * 1000
    worker = shipper(recorded)
    assert not worker.run_once(0.2)
    assert not (worker.folder / "bookmark").exists()
    worker.close()
    recorded.raises = []
    other = shipper(recorded)
    assert other.run_once(PATIENCE)
    assert recorded.actions == ["a"]


def test_what_is_rejected_is_kept_with_the_reason_and_the_rest_counts(write, ship, recorded, trail):
    write("a", "b", "c")
    recorded.raises = [
        lambda entries: Rejected([e for e in entries if e.action == "b"], "it is too large")
    ]
    assert ship(recorded)
    assert len(recorded.calls) == 1, "the others count as delivered"
    (letter,) = dead_letters(trail)
    assert letter["why"] == "it is too large"
    assert letter["entry"] == next(line for line in trail.lines() if line["action"] == "b")
    (receipt,) = receipts(trail)
    assert (receipt["count"], receipt["rejected"]) == (4, 1)


def test_rejecting_what_was_not_given_is_not_believed(write, ship, recorded, trail):
    write("a")
    recorded.raises = [lambda _: Rejected([], "nothing")]
    assert ship(recorded)
    assert recorded.actions == ["a"]
    assert not (trail.folder / "sinks" / "recorded" / "dead.jsonl").exists()


def test_a_wrong_key_stops_the_sink_once_and_everything_is_kept(write, shipper, recorded, told):
    write("a")
    recorded.raises = [ConfigurationError("the key was refused (401)")]
    worker = shipper(recorded)
    assert not worker.run_once(PATIENCE)
    assert not worker.run_once(PATIENCE)
    assert worker.condition.state == "stopped"
    assert len(recorded.calls) == 1
    (message,) = told
    assert "the key was refused (401)" in message
    worker.close()
    assert shipper(recorded).run_once(PATIENCE)
    assert recorded.actions == ["a"]


def test_batches_are_bounded_by_count_and_bytes(write, ship, trail):
    write(*(f"e{n}" for n in range(20)))
    longest = max(len(json.dumps(line)) for line in trail.of("event"))
    by_count, by_bytes = Recorded("by-count"), Recorded("by-bytes")
    by_bytes.max_batch_bytes = 3 * longest
    ship(by_count, pace={"batch_entries": 7})
    ship(by_bytes)
    assert [len(call) for call in by_count.calls] == [7, 7, 7, 1]
    assert all(1 <= len(call) <= 4 for call in by_bytes.calls)
    assert len(by_bytes.calls) >= 6
    assert by_count.entries == by_bytes.entries


def test_an_entry_larger_than_a_batch_goes_alone(write, ship, recorded):
    write("a", "b")
    assert ship(recorded, pace={"batch_bytes": 10})
    assert {len(call) for call in recorded.calls} == {1}
    assert recorded.actions == ["a", "b"]


def test_a_receipt_says_what_reached_whom(write, ship, recorded, trail):
    write("a")
    recorded.acknowledgement = {"offset": 17, "partition": None, "cluster": object}
    ship(recorded)
    (receipt,) = receipts(trail)
    lines = trail.lines()
    assert receipt["sink"] == "recorded"
    assert receipt["count"] == 3
    assert receipt["first"]["id"] == lines[0]["id"]
    assert receipt["last"]["id"] == lines[-1]["id"]
    assert receipt["last"]["sum"] == lines[-1]["sum"]
    assert receipt["to"] == {"offset": trail.path.stat().st_size, "line": 3}
    assert receipt["acknowledgement"]["offset"] == 17
    assert receipt["acknowledgement"]["partition"] is None


def test_one_process_ships_and_another_takes_over(write, shipper, recorded):
    write("a")
    first, second = shipper(recorded), shipper(recorded)
    assert first.run_once(PATIENCE)
    write("b")
    assert not second.run_once(PATIENCE)
    assert second.condition.state == "waiting"
    first.close()
    assert second.run_once(PATIENCE)
    assert recorded.actions == ["a", "b"]


def test_a_journal_that_is_not_there_yet(write, shipper, recorded):
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    write("a")
    assert worker.run_once(PATIENCE)
    assert recorded.actions == ["a"]


def test_files_are_private(write, ship, recorded, trail):
    write("a")
    ship(recorded)
    folder = trail.folder / "sinks" / "recorded"
    names = {path.name for path in folder.iterdir()}
    assert names == {"bookmark", "lock", "receipts.jsonl", "state"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder.parent, *folder.iterdir()))


def test_a_line_of_a_newer_version_is_kept_for_later(write, ship, recorded, trail):
    write("a")
    members = {**trail.lines()[1], "v": 2, "action": "newer"}
    del members["sum"]
    odd = {**trail.lines()[1], "action": "odd", "duration_ms": "long"}
    del odd["sum"]
    with trail.path.open("ab") as file:
        file.write(encode(members) + encode(odd))
    write("b")
    assert ship(recorded)
    assert recorded.actions == ["a", "b"]
    newer, malformed = dead_letters(trail)
    assert newer["entry"]["action"] == "newer"
    assert "version 2" in newer["why"]
    assert malformed["why"] == "it is not as the schema says: duration_ms"
    bookmark = json.loads((trail.folder / "sinks" / "recorded" / "bookmark").read_bytes())
    assert bookmark["dead"] == 2


def test_dead_letters_that_cannot_be_written_hold_the_bookmark(write, shipper, recorded, trail):
    write("a")
    recorded.raises = [lambda entries: Rejected(entries, "no")]
    worker = shipper(recorded)
    (trail.folder / "sinks" / "recorded" / "dead.jsonl").mkdir(parents=True)
    for _ in range(20):
        assert worker.step(urgent=True) is not None
    assert len(recorded.calls) == 1, "it is not asked again"
    assert not (worker.folder / "bookmark").exists()
    (trail.folder / "sinks" / "recorded" / "dead.jsonl").rmdir()
    assert worker.run_once(PATIENCE)
    assert len(dead_letters(trail)) == 3
    assert len(recorded.calls) == 1


def test_a_folder_that_was_removed_meanwhile(write, shipper, recorded, trail):
    write("a")
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    shutil.rmtree(worker.folder)
    write("b")
    assert worker.run_once(PATIENCE)
    assert recorded.actions == ["a", "a", "b"], "it begins anew"


def test_retry_after_is_respected(write, shipper, recorded):
    write("a")
    recorded.raises = [Retry(0.6)]
    begun = time.monotonic()
    assert shipper(recorded).run_once(PATIENCE)
    assert time.monotonic() - begun >= 0.6


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"phases": {"outcome"}}, ["low-ok", "high-ok", "low-bad", "high-bad"]),
        ({"results": {"failure"}}, ["low-bad", "high-bad", "event-bad", "gap"]),
        ({"risks": {"high"}}, ["high-ok", "high-bad", "gap"]),
        ({"risks": {"high"}, "phases": {"outcome"}, "results": {"failure"}}, ["high-bad"]),
        ({"actions": ("low-*", "*-ok")}, ["low-ok", "high-ok", "low-bad", "gap"]),
    ],
)
def test_filters(wanted, kept):
    def entry(action, phase, result=None, risk=None):
        call = None
        if risk:
            call = {"group": "G", "operation": "o", "method": "GET", "path": "/", "risk": risk}
        members = {"v": 1, "id": action, "writer": "w", "n": 0, "timestamp": "t", "phase": phase}
        members |= {"action": action, "user_id": "u", "result": result, "call": call}
        return AuditEntry.from_dict({k: v for k, v in members.items() if v is not None})

    entries = [
        entry("low-ok", "outcome", "success", "low"),
        entry("high-ok", "outcome", "success", "high"),
        entry("low-bad", "outcome", "failure", "low"),
        entry("high-bad", "outcome", "failure", "high"),
        entry("event-bad", "event", "failure"),
        entry("gap", "gap"),
    ]
    wants = Filter(**wanted)
    assert [e.action for e in entries if wants.passes(e)] == kept
    assert Filter().is_open
    assert not wants.is_open
