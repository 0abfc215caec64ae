"""Following the journal across everything that can become of its files."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from klaviyo_audit.journal.format import encode
from klaviyo_audit.journal.segments import rotated_files
from klaviyo_audit.sinks import cursor
from klaviyo_audit.sinks.bookmark import load_bookmark
from klaviyo_audit.sinks.lag import is_delivered_up_to, journal_end, lag_of, needed_from
from klaviyo_audit.sinks.shipper import Pace, Shipper
from klaviyo_audit.sinks.status import sinks_status
from tests.journal.sealing import append, entry, make_sealer, settle
from tests.journal.sealing import write as write_lines
from tests.sinks.conftest import Recorded
from tests.waiting import PATIENCE, wait_for


def ids(recorded):
    """The test's own entries, in the order they came."""
    return [e.id for e in recorded.entries if e.action == "test"]


def expected(*ranges):
    return [f"id-{n}" for start, end in ranges for n in range(start, end)]


def seal_and_rotate(folder, compress="zstd"):
    """Seal everything, and set the live file aside whatever its size."""
    sealer = make_sealer(folder, rotate_bytes=1, compress=compress)
    settle(sealer, 0.2)
    sealer.close()


def line(number):
    members = {**entry(number), "writer": "f" * 16, "n": number, "origin": {}}
    return encode(members)


def delete_receipts(trail):
    (trail.folder / "sinks" / "recorded" / "receipts.jsonl").unlink()


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("restart", [False, True])
def test_rotation_and_compression(trail, shipper, recorded, told, compress, restart):
    worker = shipper(recorded)
    for start in range(0, 50, 10):
        write_lines(trail.folder, 10, start)
        assert worker.run_once(PATIENCE)
        write_lines(trail.folder, 3, start + 100)
        seal_and_rotate(trail.folder, compress)
        if restart:
            worker.close()
            worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    wanted = [pair for s in range(0, 50, 10) for pair in ((s, s + 10), (s + 100, s + 103))]
    assert ids(recorded) == expected(*wanted)
    assert told == []
    assert len(rotated_files(trail.folder)) >= 4


def test_a_sink_that_comes_late_gets_the_rotated_files_too(trail, ship, recorded):
    for start in (0, 10, 20):
        write_lines(trail.folder, 10, start)
        seal_and_rotate(trail.folder)
    write_lines(trail.folder, 10, 30)
    assert ship(recorded)
    assert ids(recorded) == expected((0, 40))


@pytest.mark.parametrize("restart", [False, True])
def test_late_lines_in_a_file_that_was_set_aside(trail, shipper, recorded, restart, told):
    """A writer that was stopped between looking for a new file and writing."""
    write_lines(trail.folder, 5)
    stopped = os.open(trail.path, os.O_WRONLY | os.O_APPEND)
    fcntl.flock(stopped, fcntl.LOCK_SH)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    seal_and_rotate(trail.folder)
    write_lines(trail.folder, 5, 10)
    wait_for(lambda: worker.run_once(PATIENCE) and len(ids(recorded)) == 10, every=0.05)
    if restart:
        worker.close()
        worker = shipper(recorded)
    os.write(stopped, line(99))
    os.close(stopped)
    wait_for(lambda: worker.run_once(PATIENCE) and len(ids(recorded)) == 11, every=0.05)
    assert ids(recorded) == [*expected((0, 5), (10, 15)), "id-99"]
    wait_for(
        lambda: worker.run_once(PATIENCE) and not load_bookmark(worker.folder).waiting, every=0.05
    )
    assert told == []


def test_damage_is_not_delivered_but_counted_and_told(trail, ship, recorded, told):
    write_lines(trail.folder, 2)
    append(trail.folder, line(50)[:40])  # a torn line, the next one follows directly
    append(trail.folder, line(51))
    append(trail.folder, b"foreign\n\0\0\0\n")
    append(trail.folder, line(52).replace(b'"action":"test"', b'"action":"TEST"'))
    write_lines(trail.folder, 2, 2)
    assert ship(recorded)
    assert ids(recorded) == ["id-0", "id-1", "id-51", "id-2", "id-3"]
    assert load_bookmark(trail.folder / "sinks" / "recorded").damaged == 4
    assert any("the rest of this line is missing" in message for message in told)
    assert len(told) == 4


def test_a_line_in_the_making_is_waited_for(trail, shipper, recorded):
    write_lines(trail.folder, 1)
    worker = shipper(recorded)
    append(trail.folder, line(50)[:40])
    assert worker.run_once(PATIENCE)
    append(trail.folder, line(50)[40:])
    assert worker.run_once(PATIENCE)
    assert ids(recorded) == ["id-0", "id-50"]


def _bytes_read():
    """What this process has read so far, from whatever."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="nobody counts here")
@pytest.mark.parametrize("piecewise", [False, True])
def test_megabytes_without_a_line_end_are_not_read_again_and_again(
    trail, shipper, recorded, piecewise
):
    size, pieces = 4_000_000, 50
    write_lines(trail.folder, 3)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    before = _bytes_read()
    for number in range(pieces):
        if piecewise or number == 0:
            append(trail.folder, b"x" * (size // pieces if piecewise else size))
        assert worker.run_once(PATIENCE)
    assert _bytes_read() - before < 4 * size
    append(trail.folder, b"\n")
    write_lines(trail.folder, 2, start=3)
    assert worker.run_once(PATIENCE)
    assert worker.condition.damaged == 1
    assert [e.id for e in recorded.entries if e.action == "test"] == [f"id-{n}" for n in range(5)]


def test_a_line_in_the_making_that_was_cut_and_written_anew(trail, shipper, recorded):
    write_lines(trail.folder, 1)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    good = trail.path.stat().st_size
    append(trail.folder, b"x" * 5_000)
    assert worker.run_once(PATIENCE)
    os.truncate(trail.path, good)
    write_lines(trail.folder, 1, start=1)
    assert worker.run_once(PATIENCE)
    assert recorded.actions == ["test", "test"]


def test_a_torn_line_that_was_read_with_others_and_then_written_anew(trail, shipper, recorded):
    """What was read ahead of the place is not believed later."""
    write_lines(trail.folder, 1)
    worker = shipper(recorded)
    append(trail.folder, line(50) + b"x" * 60)
    assert worker.run_once(PATIENCE)
    os.truncate(trail.path, trail.path.stat().st_size - 60)
    append(trail.folder, line(51))
    assert worker.run_once(PATIENCE)
    assert ids(recorded) == ["id-0", "id-50", "id-51"]
    assert worker.condition.damaged == 0


@pytest.mark.parametrize("tail", [40, 5_000, 200_000])
@pytest.mark.parametrize("longer", [False, True])
def test_a_line_in_the_making_that_was_written_anew_to_no_less_than_its_length(
    trail, shipper, recorded, tail, longer
):
    """Between two looks: what was searched for a line end already has one now."""
    write_lines(trail.folder, 1)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    good = trail.path.stat().st_size
    append(trail.folder, b"x" * tail)
    assert worker.run_once(PATIENCE)
    os.truncate(trail.path, good)
    numbers = range(50, 52 + tail // len(line(50)))
    anew = b"".join(line(number) for number in numbers)
    append(trail.folder, anew if longer else anew[:tail])
    assert worker.run_once(PATIENCE)
    whole = len(numbers) if longer else anew[:tail].count(b"\n")
    assert ids(recorded) == ["id-0", *expected((50, 50 + whole))]
    append(trail.folder, b"" if longer else anew[tail:])
    append(trail.folder, line(49))
    assert worker.run_once(PATIENCE)
    assert ids(recorded) == ["id-0", *expected((50, 50 + len(numbers))), "id-49"]


def test_what_was_searched_is_searched_anew_in_the_end(trail, shipper, recorded, monkeypatch):
    """Somebody has written a line end and left the bytes around the searched end as they were."""
    monkeypatch.setattr(cursor, "_SEARCH_SECONDS", 0.3)
    write_lines(trail.folder, 1)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    good = trail.path.stat().st_size
    append(trail.folder, b"x" * 5_000)
    assert worker.run_once(PATIENCE)
    with trail.path.open("r+b") as file:
        file.seek(good)
        file.write(line(50))
    wait_for(lambda: worker.run_once(PATIENCE) and len(ids(recorded)) == 2, every=0.05)
    assert ids(recorded) == ["id-0", "id-50"]


@pytest.mark.parametrize("live", [True, False], ids=["while shipping", "between two runs"])
def test_the_journal_was_cut(trail, shipper, recorded, told, live):
    write_lines(trail.folder, 3)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    write_lines(trail.folder, 3, 3)
    assert worker.run_once(PATIENCE)
    if not live:
        worker.close()
        worker = shipper(recorded)
    data = trail.path.read_bytes()
    with trail.path.open("rb+") as file:
        file.truncate(data.index(b'{"v":1,"id":"id-5"'))
    append(trail.folder, line(50))
    worker.run_once(PATIENCE)
    worker.run_once(PATIENCE)
    assert recorded.entries[-1].id == "id-50"
    assert any("going on after the last line that matches" in message for message in told)
    # The last line that a receipt names is the goodbye after id-2.
    assert ids(recorded) == expected((0, 6), (3, 5), (50, 51))


@pytest.mark.parametrize("live", [True, False], ids=["while shipping", "between two runs"])
def test_the_journal_was_replaced_by_another(trail, shipper, recorded, told, live):
    write_lines(trail.folder, 3)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    if not live:
        worker.close()
        worker = shipper(recorded)
    (trail.folder / "other").write_bytes(b"".join(map(line, range(10, 20))))
    (trail.folder / "other").rename(trail.path)
    wait_for(lambda: worker.run_once(PATIENCE) and len(ids(recorded)) == 13, every=0.05)
    assert ids(recorded) == expected((0, 3), (10, 20))
    assert any("was deleted" in m or "does not match" in m for m in told)


def test_a_changed_line_at_the_bookmark_is_noticed(trail, ship, recorded, told):
    write_lines(trail.folder, 3)
    ship(recorded)
    data = trail.path.read_bytes()
    last = data.rindex(b'{"v":1')
    trail.path.write_bytes(data[:last] + data[last:].replace(b"journal.close", b"journal.clone"))
    append(trail.folder, line(50))
    assert ship(recorded)
    assert any("does not match the journal" in message for message in told)
    assert ids(recorded)[-1] == "id-50"


def test_logrotate_renamed_the_file(trail, shipper, recorded, told):
    write_lines(trail.folder, 3)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    append(trail.folder, line(50))
    trail.path.rename(trail.folder / "audit.jsonl.1")
    write_lines(trail.folder, 2, 3)
    worker.close()
    assert shipper(recorded).run_once(PATIENCE)
    assert ids(recorded) == ["id-0", "id-1", "id-2", "id-50", "id-3", "id-4"]
    assert told == []


def test_a_journal_put_back_from_a_backup(trail, ship, recorded, told):
    write_lines(trail.folder, 3)
    ship(recorded)
    shutil.copy(trail.path, trail.folder / "copy")
    (trail.folder / "copy").rename(trail.path)
    append(trail.folder, line(50))
    assert ship(recorded)
    assert ids(recorded) == [*expected((0, 3)), "id-50"]
    assert told == []


@pytest.mark.parametrize("files", [1, 2, 3, 4])
def test_a_bookmark_of_another_journal_skips_nothing(
    trail, tmp_path, shipper, recorded, told, files
):
    """It stands behind three rotated files, and of the live one nothing was taken yet."""
    other = tmp_path / "other"
    for folder, count in ((other, 3), (trail.folder, files)):
        for number in range(count):
            write_lines(folder, 5, 5 * number)
            seal_and_rotate(folder)
    worker = Shipper(other, Recorded(), tell=told.append)
    wait_for(lambda: worker.run_once(PATIENCE) and load_bookmark(worker.folder).present is None)
    worker.close()
    assert told == []
    shutil.copytree(other / "sinks", trail.folder / "sinks")
    write_lines(trail.folder, 2, 100)
    assert shipper(recorded).run_once(PATIENCE)
    assert ids(recorded) == expected((0, 5 * files), (100, 102))
    assert any("the bookmark does not match the journal" in message for message in told)
    assert any("starting at its beginning" in message for message in told)


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_a_bookmark_behind_all_files_is_believed(trail, shipper, recorded, told, compress):
    write_lines(trail.folder, 5)
    seal_and_rotate(trail.folder, compress)
    worker = shipper(recorded)
    wait_for(lambda: worker.run_once(PATIENCE) and load_bookmark(worker.folder).present is None)
    worker.close()
    write_lines(trail.folder, 2, 5)
    assert shipper(recorded).run_once(PATIENCE)
    assert ids(recorded) == expected((0, 7))
    assert told == []


@pytest.mark.parametrize("content", [b"", b"garbage\n", b'{"v":1}\n', b'{"v":2,"sum":"0"}'])
def test_a_damaged_bookmark_is_made_up_for_by_the_receipts(trail, ship, recorded, told, content):
    write_lines(trail.folder, 3)
    ship(recorded)
    (trail.folder / "sinks" / "recorded" / "bookmark").write_bytes(content)
    append(trail.folder, line(50))
    assert ship(recorded)
    assert ids(recorded) == [*expected((0, 3)), "id-50"]
    assert any("can't be used" in message for message in told)


def test_a_deleted_bookmark_is_made_up_for_by_the_receipts_and_told(trail, ship, recorded, told):
    write_lines(trail.folder, 3)
    ship(recorded)
    folder = trail.folder / "sinks" / "recorded"
    assert sinks_status(trail.folder, ())[0]["error"] is None
    (folder / "bookmark").unlink()
    append(trail.folder, line(50))
    found = sinks_status(trail.folder, ())[0]
    assert "the bookmark" in found["error"]
    assert "is missing" in found["error"]
    assert found["lag_entries"] == 1
    assert ship(recorded)
    assert ids(recorded) == [*expected((0, 3)), "id-50"]
    missing, going_on = told
    assert f"the bookmark {folder / 'bookmark'} is missing" in missing
    assert f"remove the folder {folder}" in missing
    assert "going on after the last line that matches, line 5 of audit.jsonl" in going_on
    assert sinks_status(trail.folder, ())[0]["error"] is None
    told.clear()
    shutil.rmtree(folder)
    assert ship(recorded)
    assert ids(recorded)[4:] == [*expected((0, 3)), "id-50"], "as the message says"
    assert told == []


@pytest.mark.parametrize("last", [7, "x", None, [], {"sum": 7}, {}])
def test_receipts_that_are_none_hold_nothing_up(trail, ship, recorded, told, last):
    write_lines(trail.folder, 3)
    folder = trail.folder / "sinks" / "recorded"
    folder.mkdir(parents=True)
    (folder / "receipts.jsonl").write_text(json.dumps({"last": last}) + "\n")
    assert sinks_status(trail.folder, ())[0]["lag_entries"] == 5
    assert ship(recorded)
    assert ids(recorded) == expected((0, 3))
    assert any("is missing" in message for message in told)


def test_neither_bookmark_nor_a_fitting_receipt(trail, ship, recorded, told):
    write_lines(trail.folder, 3)
    ship(recorded)
    folder = trail.folder / "sinks" / "recorded"
    (folder / "bookmark").unlink()
    (folder / "receipts.jsonl").write_bytes(b"garbage")
    assert ship(recorded)
    assert ids(recorded) == expected((0, 3), (0, 3))
    assert "none of them can be read" in told[0]
    assert "starting at its beginning" in told[1]


def test_late_lines_are_not_lost_with_the_bookmark(trail, shipper, recorded, told):
    """A stopped writer adds to a file that was set aside, after its successor was delivered."""
    write_lines(trail.folder, 5)
    stopped = os.open(trail.path, os.O_WRONLY | os.O_APPEND)
    fcntl.flock(stopped, fcntl.LOCK_SH)
    worker = shipper(recorded)
    assert worker.run_once(PATIENCE)
    seal_and_rotate(trail.folder)
    write_lines(trail.folder, 5, 10)
    wait_for(lambda: worker.run_once(PATIENCE) and len(ids(recorded)) == 10, every=0.05)
    worker.close()
    (worker.folder / "bookmark").unlink()
    os.write(stopped, line(99))
    os.close(stopped)
    worker = shipper(recorded)
    wait_for(lambda: worker.run_once(PATIENCE) and "id-99" in ids(recorded), every=0.05)
    assert ids(recorded) == [*expected((0, 5), (10, 15)), "id-99"]
    assert "is missing" in told[0]


def test_nothing_is_known_any_more_so_everything_is_delivered_again(trail, ship, recorded, told):
    write_lines(trail.folder, 3)
    seal_and_rotate(trail.folder)
    write_lines(trail.folder, 3, 3)
    ship(recorded)
    (trail.folder / "sinks" / "recorded" / "bookmark").write_bytes(b"garbage")
    delete_receipts(trail)
    assert ship(recorded)
    assert ids(recorded) == expected((0, 6), (0, 6))
    assert any("starting at its beginning" in message for message in told)


def test_a_rotated_file_was_removed_by_somebody(trail, ship, recorded, told):
    write_lines(trail.folder, 3)
    assert ship(recorded)
    write_lines(trail.folder, 3, 3)
    seal_and_rotate(trail.folder)
    write_lines(trail.folder, 3, 6)
    for path in rotated_files(trail.folder).values():
        path.unlink()
    assert ship(recorded)
    assert ids(recorded) == expected((0, 3), (6, 9))
    assert any("does not match the journal" in message for message in told)


def test_lag_and_what_retention_must_leave(trail, ship, recorded, told):
    folder = trail.folder / "sinks" / "recorded"
    write_lines(trail.folder, 3)
    assert needed_from(trail.folder, ["recorded"]) == 0, "it has not begun"
    assert needed_from(trail.folder, ["console"]) > 0, "it never needs an old file"
    assert ship(recorded)
    assert lag_of(folder, load_bookmark(folder)).lines == 0
    nothing = needed_from(trail.folder)
    seal_and_rotate(trail.folder)
    write_lines(trail.folder, 3, 3)
    first, *_ = sorted(rotated_files(trail.folder))
    assert nothing > first
    assert needed_from(trail.folder) == first, "it may have lines after the bookmark"
    lag = lag_of(folder, load_bookmark(folder))
    assert lag.lines == 5
    assert not is_delivered_up_to(folder, "9999", journal_end(folder))
    assert ship(recorded)
    assert needed_from(trail.folder) > first
    assert lag_of(folder, load_bookmark(folder)).lines == 0
    assert is_delivered_up_to(folder, "9999", journal_end(folder))
    (folder / "bookmark").write_bytes(b"garbage")
    assert needed_from(trail.folder) == 0


def test_retention_waits_for_the_sinks(trail, ship, recorded):
    for start in (0, 10, 20):
        write_lines(trail.folder, 10, start)
        seal_and_rotate(trail.folder)
    write_lines(trail.folder, 1, 30)

    def retain():
        sealer = make_sealer(
            trail.folder,
            rotate_bytes=1 << 30,
            retain_bytes=1,
            needed_from=lambda: needed_from(trail.folder, ["recorded"]),
        )
        settle(sealer, 0.3)
        sealer.close()
        return len(rotated_files(trail.folder))

    assert retain() == 3
    assert ship(recorded)
    assert retain() == 0
    assert ids(recorded) == expected((0, 31))


operations = st.lists(
    st.sampled_from(["write", "ship", "restart", "rotate", "late", "tear"]), max_size=14
)


@hypothesis_settings(max_examples=25, deadline=None)
@given(operations)
def test_whatever_happens_each_entry_comes_once_and_none_is_left_out(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("model") / "trail"
    recorded, told, written = Recorded(), [], []
    folder.mkdir(mode=0o700)

    def worker():
        return Shipper(folder, recorded, pace=Pace(batch_entries=3), tell=told.append)

    shipper, stopped = worker(), None
    for number, step in enumerate([*steps, "write"]):
        if step == "write":
            append(folder, b"".join(line(number * 10 + i) for i in range(4)))
            written += [f"id-{number * 10 + i}" for i in range(4)]
        elif step == "ship":
            shipper.run_once(PATIENCE)
        elif step == "restart":
            shipper.close()
            shipper = worker()
        elif step == "rotate":
            sealer = make_sealer(folder, rotate_bytes=1)
            settle(sealer)
            sealer.close()
        elif step == "tear":
            append(folder, line(9999)[:30])
        elif stopped is None and (folder / "audit.jsonl").exists():
            stopped = os.open(folder / "audit.jsonl", os.O_WRONLY | os.O_APPEND)
            fcntl.flock(stopped, fcntl.LOCK_SH)
        elif stopped is not None:
            os.write(stopped, line(number * 10))
            written.append(f"id-{number * 10}")
            os.close(stopped)
            stopped = None
    if stopped is not None:
        os.close(stopped)
    wait_for(lambda: shipper.run_once(PATIENCE) and len(ids(recorded)) >= len(written), every=0.05)
    shipper.close()
    assert sorted(ids(recorded)) == sorted(written)
    assert not any("match" in message or "gone" in message for message in told)
