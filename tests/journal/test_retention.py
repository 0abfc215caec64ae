"""Retention: what is left can still be verified, and what was removed is said first."""

import contextlib
import json
import os
import shutil
import time
import tracemalloc

import pytest

from klaviyo_audit import clock
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal import chores, proof, walltime
from klaviyo_audit.journal.checkpoint import read_notes
from klaviyo_audit.journal.folder import AppendFile
from klaviyo_audit.journal.leaves import leaf_hashes, leaves
from klaviyo_audit.journal.merkle import CompactRange, leaf_hash
from klaviyo_audit.journal.note import Verifier
from klaviyo_audit.journal.proving import consistency, prove
from klaviyo_audit.journal.removals import read_removed
from klaviyo_audit.journal.retention import Group, groups
from klaviyo_audit.journal.segments import Segment, rotated_files
from tests.journal.sealing import (
    SystemCalls,
    append,
    checkpoints_of,
    make_sealer,
    naive_root,
    quick,
    seal,
    settle,
)

LINES = 10
DAY = 86400.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    quick(monkeypatch)
    return tmp_path / "trail"


@pytest.fixture
def files(folder):
    """Four rotated files of ten lines, and a live one of three."""
    for number in range(4):
        append(folder, b"".join(b"line %d %d\n" % (number, at) for at in range(LINES)))
        seal(folder, rotate_bytes=1, compress="none")
    append(folder, b"live 1\nlive 2\nlive 3\n")
    seal(folder)
    assert sorted(rotated_files(folder)) == [0, 10, 20, 30]
    return folder


def everything(folder):
    return b"".join(path.read_bytes() for path in _paths(folder)).splitlines()


def _paths(folder):
    return [*(path for _, path in sorted(rotated_files(folder).items())), folder / "audit.jsonl"]


def retain(folder, **options):
    """One sealer's life, with what it announces and reports."""
    announced, errors = [], []
    options = {
        "compress": "none",
        "announce": lambda action, facts: announced.append((action, dict(facts))),
        "on_error": errors.append,
        **options,
    }
    sealer = make_sealer(folder, **options)
    settle(sealer)
    sealer.close()
    return announced, errors


def check_what_is_left(folder, lines):
    """The lines from the removed ones on: same numbers, same roots, all provable."""
    removed = read_removed(folder)
    left = list(leaves(folder))
    assert left == lines[removed.size :]
    hashes = [leaf_hash(line) for line in lines]
    assert removed.root() == naive_root(hashes[: removed.size])
    assert removed.extended(map(leaf_hash, left)).root() == naive_root(hashes)
    checkpoints = checkpoints_of(folder)
    assert removed.root() in [checkpoint.root for checkpoint in checkpoints] or not removed.size
    for checkpoint in checkpoints:
        assert checkpoint.root == naive_root(hashes[: checkpoint.size])
    verifier = Verifier.from_text((folder / "sealing.pub").read_text())
    for index in (removed.size, len(lines) - 1):
        found = proof.check(prove(folder, index), verifier)
        assert (found.index, found.line) == (index, lines[index])
    if removed.size:
        proof.check_consistency(consistency(folder, removed.size, len(lines)), verifier)
        with pytest.raises(LookupError):
            prove(folder, removed.size - 1)
        with pytest.raises(LookupError):
            consistency(folder, removed.size - 1, len(lines))


def size_of(folder):
    return sum(path.stat().st_size for path in _paths(folder))


def test_the_oldest_files_go_until_the_rest_is_small_enough(files):
    lines = everything(files)
    announced, errors = retain(files, retain_bytes=size_of(files) - 1)
    assert sorted(rotated_files(files)) == [10, 20, 30]
    announced_more, more_errors = retain(files, retain_bytes=1)
    assert not rotated_files(files).keys() & {0, 10, 20}
    assert not errors
    assert not more_errors
    assert [facts["files"] for _, facts in announced + announced_more][:3] == [
        ["audit-000000000000.jsonl"],
        ["audit-000000000010.jsonl"],
        ["audit-000000000020.jsonl"],
    ]
    assert (files / "audit.jsonl").exists()
    check_what_is_left(files, lines)


def sealed_days_ago(folder, *days):
    """A rotated file for each, and a live one, sealed by a clock that showed that time."""
    now = clock.now
    for number, ago in enumerate(days):
        with pytest.MonkeyPatch.context() as patch:
            sealed_at = clock.timestamp(max(0, time.time_ns() - int(ago * DAY * 1e9)))
            patch.setattr(clock, "now", lambda sealed_at=sealed_at: sealed_at)
            append(folder, b"".join(b"line %d %d\n" % (number, at) for at in range(LINES)))
            seal(folder, rotate_bytes=1, compress="none")
    assert clock.now is now
    append(folder, b"live 1\nlive 2\nlive 3\n")
    seal(folder)
    return folder


def test_files_go_when_they_are_old_enough(folder):
    files = sealed_days_ago(folder, 9, 8, 1, 9)
    lines = everything(files)
    announced, errors = retain(files, retain_days=7.5)
    assert sorted(rotated_files(files)) == [20, 30], "30 is old too, but not the oldest"
    assert not errors
    assert [facts["reason"] for _, facts in announced] == ["age", "age"]
    check_what_is_left(files, lines)


@pytest.mark.parametrize("days", [-1000, 0, 9, 1000])
def test_the_times_of_files_make_no_line_older_or_younger(folder, days):
    """As `touch`, a backup that was put back, or a copy to another host change them."""
    files = sealed_days_ago(folder, 9, 8, 1, 1)
    when = time.time() - days * DAY
    for path in _paths(files):
        os.utime(path, (when, when))
    announced, errors = retain(files, retain_days=7.5)
    assert sorted(rotated_files(files)) == [20, 30]
    assert not errors
    assert len(announced) == 2


def test_lines_are_no_older_than_those_before_them(folder):
    """A host that starts without the time, in 1970, has it some seconds later."""
    files = sealed_days_ago(folder, 8, 3, 1e9, 1e9, 2)
    _, errors = retain(files, retain_days=7.5)
    assert sorted(rotated_files(files)) == [10, 20, 30, 40]
    _, errors_later = retain(files, retain_days=2.5)
    assert sorted(rotated_files(files)) == [40]
    assert not errors
    assert not errors_later


def test_an_age_that_no_checkpoint_says_is_none(folder):
    files = sealed_days_ago(folder, 9, 9, 9)
    with (files / "checkpoints").open("rb") as file:
        notes = [stored.note for stored in read_notes(file)]
    changed = notes[0].replace(b"\nsealed 20", b"\nsealed 19")
    for kept in (notes[1:], [changed, *notes[1:]]):
        (files / "checkpoints").write_bytes(b"".join(note + b"\n" for note in kept))
        _, errors = retain(files, retain_days=7.5)
        assert sorted(rotated_files(files)) == [0, 10, 20]
        assert [type(error) for error in errors] == [JournalCorrupt]
    (files / "checkpoints").write_bytes(b"".join(note + b"\n" for note in notes))
    _, errors = retain(files, retain_days=7.5)
    assert not rotated_files(files)
    assert not errors


class Clocks:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self, monkeypatch):
        self.wall, self.steady = time.time_ns(), 10**12
        monkeypatch.setattr(time, "time_ns", lambda: self.wall)
        monkeypatch.setattr(walltime, "_steady_ns", lambda: self.steady)

    def go_on(self, seconds):
        self.wall += int(seconds * 1e9)
        self.steady += int(seconds * 1e9)

    def set(self, seconds):
        self.wall += int(seconds * 1e9)


def test_a_clock_that_was_set_forward_is_believed_after_a_day(monkeypatch):
    clocks = Clocks(monkeypatch)
    begun = clocks.wall / 1e9
    cautious = walltime.CautiousClock()
    clocks.go_on(60)
    assert cautious.now() == pytest.approx(begun + 60)
    clocks.set(400 * DAY)
    assert cautious.now() == pytest.approx(begun + 60)
    clocks.go_on(DAY - 60)
    assert cautious.now() == pytest.approx(begun + DAY)
    clocks.set(DAY)
    clocks.go_on(120)
    assert cautious.now() == pytest.approx(begun + DAY + 120), "it was set again"
    clocks.go_on(DAY - 60)
    assert cautious.now() == pytest.approx(begun + 2 * DAY + 60)
    clocks.go_on(60)
    assert cautious.now() == pytest.approx(begun + 2 * DAY + 120 + 401 * DAY)
    # What is set back is believed at once: it makes nothing older.
    clocks.set(-401 * DAY)
    assert cautious.now() == pytest.approx(begun + 2 * DAY + 120)
    clocks.set(DAY)
    assert cautious.now() == pytest.approx(begun + 2 * DAY + 120)
    clocks.set(-DAY)
    clocks.go_on(3 * DAY)
    assert cautious.now() == pytest.approx(begun + 5 * DAY + 120), "a step that was taken back"
    # What is slewed is followed.
    for _ in range(100):
        clocks.go_on(60)
        clocks.set(1)
        assert cautious.now() == pytest.approx(clocks.wall / 1e9)


def test_nothing_goes_when_the_clock_is_set_forward(folder, monkeypatch):
    files = sealed_days_ago(folder, 3, 2, 1)
    clocks = Clocks(monkeypatch)
    monkeypatch.setattr(chores, "_RETAIN_SECONDS", 0.0)
    monkeypatch.setattr(chores, "_IDLE_SECONDS", 0.0)
    sealer = make_sealer(files, compress="none", retain_days=2.5)
    settle_for_a_while(sealer)
    assert sorted(rotated_files(files)) == [10, 20]
    clocks.set(400 * DAY)
    settle_for_a_while(sealer)
    assert sorted(rotated_files(files)) == [10, 20]
    clocks.set(-400 * DAY)
    clocks.go_on(DAY)
    settle_for_a_while(sealer)
    assert sorted(rotated_files(files)) == [20]
    sealer.close()


def settle_for_a_while(sealer):
    for _ in range(30):
        sealer.step()


def test_nothing_goes_by_default_or_when_it_is_not_due(files):
    for options in ({}, {"retain_days": 1}, {"retain_bytes": size_of(files)}):
        announced, errors = retain(files, **options)
        assert announced == errors == []
    assert sorted(rotated_files(files)) == [0, 10, 20, 30]
    assert read_removed(files).size == 0


def test_what_is_removed_is_said_durably_before(files, monkeypatch):
    seen = []

    def announce(action, facts):
        record = json.loads((files / "removed").read_bytes().splitlines()[-1])
        seen.append(record)
        assert action == "journal.retention"
        assert all((files / name).exists() for name in record["files"])
        assert {name: record[name] for name in facts} == facts

    calls = SystemCalls(monkeypatch)
    calls.begin()
    retain(files, retain_bytes=size_of(files) - 1, announce=announce)
    calls.end()
    (record,) = seen
    assert record["files"] == ["audit-000000000000.jsonl"]
    assert (record["from"], record["lines"], record["size"]) == (0, LINES, LINES)
    assert record["reason"] == "size"
    assert record["bytes"] == sum(len(b"line 0 0\n") for _ in range(LINES))
    tree = CompactRange.from_dict(record)
    assert tree.root().hex() == record["root"]
    names = [(name, str(args[0])) for name, args in calls.log]
    written = next(
        at
        for at, (name, args) in enumerate(calls.log)
        if name == "write" and args[1].startswith(b'{"v":1,"timestamp"')
    )
    unlinked = names.index(("unlink", str(files / "audit-000000000000.jsonl")))
    assert names[written + 1][0] == "fsync"
    assert written + 1 < unlinked


@pytest.mark.parametrize(
    ("needed", "left"),
    [(0, [0, 10, 20, 30]), (9, [0, 10, 20, 30]), (10, [10, 20, 30]), (25, [20, 30])],
)
def test_what_a_sink_still_needs_stays(files, needed, left):
    lines = everything(files)
    retain(files, retain_bytes=1, needed_from=lambda: needed)
    assert sorted(rotated_files(files)) == left
    check_what_is_left(files, lines)


def test_a_callback_that_fails_keeps_the_files(files):
    lines = everything(files)

    def fail(*_):
        raise RuntimeError("the sink's bookmark can't be read")

    _, errors = retain(files, retain_bytes=1, needed_from=fail)
    assert len(errors) == 1
    assert sorted(rotated_files(files)) == [0, 10, 20, 30]
    _, errors = retain(files, retain_bytes=1, announce=fail)
    assert len(errors) == 1
    assert sorted(rotated_files(files)) == [0, 10, 20, 30], "recorded, but not yet announced"
    assert read_removed(files).size == LINES
    announced, _ = retain(files, retain_bytes=10**6)
    assert [facts["files"] for _, facts in announced] == [["audit-000000000000.jsonl"]]
    assert sorted(rotated_files(files)) == [10, 20, 30]
    check_what_is_left(files, lines)


@pytest.mark.parametrize("harm", ["changed", "line removed", "line added", "other file"])
def test_evidence_of_tampering_is_not_removed(files, harm):
    path = files / "audit-000000000000.jsonl"
    data = path.read_bytes()
    if harm == "changed":
        path.write_bytes(data.replace(b"line 0 3", b"line 0 4"))
    elif harm == "line removed":
        path.write_bytes(data.partition(b"\n")[2])
    elif harm == "line added":
        path.write_bytes(b"new\n" + data)
    else:
        path.write_bytes((files / "audit-000000000010.jsonl").read_bytes())
    announced, errors = retain(files, retain_bytes=1)
    assert not announced
    assert isinstance(errors[0], JournalCorrupt)
    assert sorted(rotated_files(files)) == [0, 10, 20, 30]
    assert read_removed(files).size == 0


def test_a_missing_file_stops_retention_not_sealing(files):
    (files / "audit-000000000000.jsonl").unlink()
    append(files, b"live 4\n")
    _, errors = retain(files, retain_bytes=1)
    assert isinstance(errors[0], JournalCorrupt)
    assert sorted(rotated_files(files)) == [10, 20, 30]
    assert checkpoints_of(files)[-1].size == 4 * LINES + 4


def test_a_file_that_has_a_writer_stays(files):
    held = AppendFile(files / "audit-000000000010.jsonl")
    sealer = make_sealer(files)
    (files / "tree").unlink()
    sealer.close()
    retain(files, retain_bytes=1)
    assert sorted(rotated_files(files)) == [10, 20, 30]
    del held
    (files / "tree").unlink()
    retain(files, retain_bytes=1)
    assert not rotated_files(files).keys() & {10, 20}


def test_sealing_goes_on_after_removal_without_a_state(files):
    lines = everything(files)
    retain(files, retain_bytes=size_of(files) - 1)
    (files / "tree").unlink()
    append(files, b"live 4\n")
    seal(files)
    check_what_is_left(files, [*lines, b"live 4"])
    # What lies before is taken from the record, which the next checkpoint vouches for.
    record = (files / "removed").read_bytes()
    (files / "removed").write_bytes(record.replace(b'"edge":["', b'"edge":["00', 1))
    (files / "tree").unlink()
    with pytest.raises(JournalCorrupt):
        seal(files)
    edge = json.loads(record)["edge"][0].encode()
    (files / "removed").write_bytes(record.replace(edge, edge[::-1]))
    with pytest.raises(JournalCorrupt):
        seal(files)
    (files / "removed").write_bytes(record)
    seal(files)


def test_killed_at_any_place_nothing_is_gone_unrecorded(files, monkeypatch):
    """Each system call of a removal in turn is the last one."""

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    lines = everything(files)
    place = 0
    while True:
        place += 1
        copy = files.with_name(str(place))
        shutil.copytree(files, copy)
        sealer = make_sealer(copy, retain_bytes=1, compress="none", lease_seconds=0)
        with monkeypatch.context() as patch:
            calls = SystemCalls(patch)
            calls.begin(place, kill)
            with contextlib.suppress(Killed):
                settle(sealer)
            reached = calls.end()
        sealer._forget()
        sealer._lease.drop()
        removed = read_removed(copy)
        gone = {0, 10, 20, 30} - rotated_files(copy).keys()
        assert all(file + LINES <= removed.size for file in gone)
        assert list(leaves(copy)) == lines[removed.size :]
        retain(copy, retain_bytes=1)
        check_what_is_left(copy, lines)
        assert list(rotated_files(copy)) == []
        if reached < place:
            break
    assert place > 40


def segments(*triples):
    return [Segment(*triple) for triple in triples]


def test_files_whose_lines_interleave_go_together():
    late = segments((0, 0, 0), (1500, 1500, 0), (1700, 0, 88), (1710, 1500, 20), (3000, 3000, 0))
    assert list(groups(late, 0)) == [Group((0, 1500), 0, 3000)]
    assert list(groups([*late, Segment(3100, 4000, 0)], 3000)) == [Group((3000,), 3000, 3100)]
    assert list(groups(late[:-1], 0)) == []
    assert list(groups(late[:3], 0)) == []
    assert list(groups(late[:2], 0)) == [Group((0,), 0, 1500)]
    assert list(groups([*late, Segment(3005, 1500, 99)], 0)) == []
    assert list(groups([], 0)) == []


def test_interleaved_files_of_a_real_journal(folder):
    sealer = make_sealer(folder, rotate_bytes=1, compress="none")
    append(folder, b"a1\na2\n")
    held = AppendFile(folder / "audit.jsonl")
    settle(sealer, 0.08)
    append(folder, b"b1\n")
    settle(sealer, 0.08)
    os.write(held.fd, b"a3\n")
    settle(sealer, 0.08)
    del held
    append(folder, b"c1\n")
    settle(sealer, 0.08)
    append(folder, b"d1\n")
    settle(sealer, 0.08)
    sealer.close()
    lines = [b"a1", b"a2", b"b1", b"a3", b"c1", b"d1"]
    assert list(leaves(folder)) == lines
    announced, errors = retain(folder, retain_bytes=1, needed_from=lambda: 3)
    assert announced == errors == [], "the late line is not in the prefix"
    announced, errors = retain(folder, retain_bytes=1)
    assert announced[0][1]["files"] == ["audit-000000000000.jsonl", "audit-000000000002.jsonl"]
    check_what_is_left(folder, lines)


def test_a_line_without_end_takes_no_memory(folder):
    """NUL bytes as a power loss leaves them, or garbage: here 50 MB in what is to be removed."""
    append(folder, b"first\n")
    with (folder / "audit.jsonl").open("r+b") as file:
        file.truncate(50_000_000)
    append(folder, b"\nlong" + b"g" * 300_000 + b"\nlast")
    seal(folder, rotate_bytes=1, compress="none")
    append(folder, b"live\n")
    seal(folder)
    tracemalloc.start()
    try:
        hashes = list(leaf_hashes(folder, end=4))
        _, errors = retain(folder, retain_bytes=100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not errors
    assert read_removed(folder).size == 4
    assert hashes == list(
        map(leaf_hash, (b"first", bytes(50_000_000 - 6), b"long" + b"g" * 300_000, b"last"))
    )
    assert peak < 40_000_000
