"""Verifying on from where the last verification ended: what that costs, shows and does not show."""

import fcntl
import random
import shutil
from base64 import b64encode
from dataclasses import replace

import pytest

from klaviyo_audit.journal.checkpoint import Checkpoint, read_notes, sign
from klaviyo_audit.journal.findings import Kind, Severity
from klaviyo_audit.journal.merkle import CompactRange, leaf_hash
from klaviyo_audit.journal.note import Signer, Verifier, generate_key
from klaviyo_audit.journal.verified import Verified
from tests.journal import sealing
from tests.journal.checking import verify
from tests.journal.sealing import seal, tidy, write


def errors(report):
    return {one.kind for one in report.findings if one.severity is Severity.ERROR}


def notes_of(folder):
    with (folder / "checkpoints").open("rb") as file:
        return [stored.note for stored in read_notes(file)]


def marks_of(folder):
    """A mark for each checkpoint of a journal from which nothing was removed."""
    hashes = [leaf_hash(line) for line in sealing.leaves(folder)]
    marks = []
    for note in notes_of(folder):
        size = int(note.split(b"\n")[1])
        marks.append(Verified(note, CompactRange().extended(hashes[:size])))
    return marks


def entries_after(folder, size):
    return sum(b'"sum":"' in line for line in list(sealing.leaves(folder))[size:])


def many_files(folder, how="gzip"):
    """A journal of many files, some of them compressed, sealed after each ten lines."""
    for start in range(0, 120, 10):
        write(folder, 8, start)
        seal(folder, rotate_bytes=6000, compress=how)
    tidy(folder, compress=how)
    return folder


@pytest.fixture
def quick(monkeypatch):
    sealing.quick(monkeypatch)


@pytest.fixture
def trail(tmp_path, quick):
    return many_files(tmp_path / "trail")


def change(path, index=0):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[index] = lines[index].replace(b'"user_id":"u"', b'"user_id":"v"')
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
def test_only_later_lines_are_read(tmp_path, quick, how):
    """From each checkpoint, at the beginning, in the middle and at the end of a file."""
    folder = many_files(tmp_path / "trail", how)
    whole = verify(folder)
    assert whole.intact
    assert len(whole.files) > 4
    read = []
    for mark in marks_of(folder):
        size = mark.tree.size
        report = verify(folder, since=mark)
        assert report.intact, report.findings
        assert (report.skipped, report.sealed) == (size, whole.sealed)
        assert report.entries == whole.entries - size
        assert report.verified == whole.verified
        assert [one.kind for one in report.findings].count(Kind.SKIPPED) == 1
        read.append(report.bytes)
    assert read == sorted(read, reverse=True)
    assert read[-1] == 0
    assert verify(folder, since=whole.verified).files[:-1] == ()


def test_one_verification_after_the_other(tmp_path, quick):
    folder, mark, bytes_read = tmp_path / "trail", 0, 0
    for start in range(0, 60, 10):
        write(folder, 8, start)
        seal(folder, rotate_bytes=6000, compress="gzip")
        report = verify(folder, since=mark)
        assert report.intact, report.findings
        assert bool(report.skipped) is bool(start)
        mark, bytes_read = report.verified, bytes_read + report.bytes
    assert bytes_read == verify(folder).bytes


@pytest.mark.parametrize("seed", range(3))
def test_changes_in_later_lines_show_and_in_earlier_ones_do_not(tmp_path, quick, seed):
    folder = many_files(tmp_path / "trail", "none")
    seed = random.Random(seed)
    whole = verify(folder)
    places = [
        (path, index)
        for path in [*sorted(folder.glob("audit-*")), *folder.glob("audit.jsonl")]
        for index in range(len(path.read_bytes().splitlines()))
    ]
    assert len(places) == whole.sealed
    for mark in marks_of(folder)[:-1]:
        size = mark.tree.size
        for place in (seed.randrange(size), size - 1, size, seed.randrange(size, len(places))):
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            path, index = places[place]
            change(copy / path.name, index)
            report = verify(copy, since=mark)
            if place < size:
                assert report.intact, report.findings
                assert report.skipped == size
            else:
                assert errors(report) == {"changed", "checksum"}
                assert report.verified is None
                found = next(one for one in report.findings if one.kind == "checksum")
                assert (found.file, found.line) == (path.name, index + 1)
            assert not verify(copy).intact
            shutil.rmtree(copy)


@pytest.mark.parametrize("seed", range(3))
def test_lines_put_in_or_taken_out_before_move_the_later_ones(tmp_path, quick, seed):
    """In the file that holds the checkpoint: the lines after it are not those that were sealed."""
    folder = many_files(tmp_path / "trail", "none")
    for mark in marks_of(folder)[:-1]:
        path, count = next_file(folder, mark.tree.size)
        if not count:
            continue
        lines = (folder / path).read_bytes().splitlines(keepends=True)
        place = random.Random(seed).randrange(count)
        for changed in (
            [*lines[:place], *lines[place + 1 :]],
            [*lines[:place], lines[0], *lines[place:]],
            [*lines[:place], lines[place][:-1] + lines[place + 1], *lines[place + 2 :]],
        ):
            (folder / path).write_bytes(b"".join(changed))
            assert not verify(folder, since=mark).intact
        (folder / path).write_bytes(b"".join(lines))
        assert verify(folder, since=mark).intact


def next_file(folder, size):
    """Name of the file with a leaf, and its place in it."""
    at = 0
    for path in [*sorted(folder.glob("audit-*")), *folder.glob("audit.jsonl")]:
        lines = len(path.read_bytes().splitlines())
        if at + lines > size:
            return path.name, size - at
        at += lines
    raise AssertionError


def test_a_forged_tree_is_never_believed(trail):
    """Hashes that are not the checkpoint's are refused; so are checkpoints that nobody signed."""
    first, *_, later, last = marks_of(trail)
    with pytest.raises(Exception, match="hashes do not give the root"):
        Verified(later.note, last.tree)
    edge = list(later.tree.edge)
    edge[0] = bytes(32)
    with pytest.raises(Exception, match="hashes do not give the root"):
        Verified(later.note, CompactRange(later.tree.size, tuple(edge)))
    # A checkpoint that fits a forged tree, by another key of the same name.
    name = Verifier.from_text((trail / "sealing.pub").read_text()).name
    tree = CompactRange(later.tree.size, tuple(edge))
    note = sign(Checkpoint.of(tree, name), generate_key(name))
    forged = Verified(note, tree)
    report = verify(trail, since=forged)
    assert errors(report) == {"checkpoint"}
    assert report.skipped == 0
    assert report.entries == verify(trail).entries, "all of it was read"
    assert report.verified is None
    # One that the journal's own key did sign, over a tree it never had: two histories.
    signer = Signer.from_text((trail / "sealing.key").read_text())
    forked = Verified(sign(Checkpoint.of(tree, name), signer), tree)
    assert "changed" in errors(verify(trail, since=forked))
    lines = CompactRange(last.tree.size, tuple(bytes(32) for _ in last.tree.edge))
    end = Verified(sign(Checkpoint.of(lines, name), signer), lines)
    assert "changed" in errors(verify(trail, since=end)), "nothing comes after it"
    assert verify(trail, since=first).intact


def test_the_mark_of_another_log(tmp_path, trail):
    other = many_files(tmp_path / "other")
    report = verify(trail, since=verify(other).verified)
    assert errors(report) == {"checkpoint"}
    assert report.skipped == 0
    # With the same key, as hosts with a common setting have it.
    same = tmp_path / "same"
    same.mkdir(mode=0o700)
    for name in ("sealing.key", "sealing.pub"):
        shutil.copy(trail / name, same / name)
    many_files(same)
    assert verify(same).sealed == verify(trail).sealed
    for mark in marks_of(same):
        assert "changed" in errors(verify(trail, since=mark))
    shutil.rmtree(same)
    same.mkdir(mode=0o700)
    for name in ("sealing.key", "sealing.pub"):
        shutil.copy(trail / name, same / name)
    write(same, 3)
    seal(same)
    report = verify(same, since=verify(trail).verified)
    assert "checkpoint" in errors(report), "it has fewer lines than were verified"


def test_what_was_cut_off_or_removed(trail, tmp_path):
    write(trail, 8, 120)
    seal(trail)
    whole = verify(trail)
    last = whole.verified
    assert last.tree.size == whole.sealed
    marks = marks_of(trail)
    # The tail and its checkpoints.
    copy = tmp_path / "copy"
    shutil.copytree(trail, copy)
    keep = marks[-3]
    (copy / "checkpoints").write_bytes(b"".join(n + b"\n" for n in notes_of(copy)[:-2]))
    (copy / "tree").unlink()
    segments = (copy / "segments").read_text().splitlines(keepends=True)
    gone = [line for line in segments if int(line.split()[0]) >= keep.tree.size]
    (copy / "segments").write_text("".join(segments[: len(segments) - len(gone)]))
    for line in gone:
        for path in copy.glob(f"audit-{int(line.split()[1]):012d}*"):
            path.unlink()
    (copy / "audit.jsonl").unlink(missing_ok=True)
    assert "checkpoint" in errors(verify(copy, since=last))
    shutil.rmtree(copy)
    # Only lines, and all of them were verified.
    live = trail / "audit.jsonl"
    data = live.read_bytes()
    for end in (0, len(data) // 2, data.rindex(b"\n", 0, -1) + 1, len(data) - 1):
        live.write_bytes(data[:end])
        report = verify(trail, since=last)
        assert "cut-off" in errors(report), (end, report.findings)
    live.unlink()
    assert "missing-file" in errors(verify(trail, since=last))
    live.write_bytes(data)
    # An earlier file: it is not read, but missed.
    first = min(trail.glob("audit-*"))
    packed = first.read_bytes()
    first.unlink()
    assert errors(verify(trail, since=last)) == {"missing-file"}
    first.write_bytes(packed[: len(packed) // 2])
    assert verify(trail, since=last).intact, "as the report says, it was not looked at"
    assert not verify(trail).intact
    first.write_bytes(packed)
    (trail / "audit-000000000003.jsonl").write_bytes(data)
    assert errors(verify(trail, since=last)) >= {"stray-file"}


def test_checkpoints_that_are_not_there_or_changed(trail):
    path = trail / "checkpoints"
    notes = notes_of(trail)
    marks = marks_of(trail)
    # The one that was reached is gone from the middle: later ones go on from it all the same.
    path.write_bytes(b"".join(note + b"\n" for note in [*notes[:3], *notes[4:]]))
    assert verify(trail, since=marks[3]).intact
    path.write_bytes(b"".join(note + b"\n" for note in notes))
    data = bytearray(path.read_bytes())
    for place, before in (
        (len(data) - 20, True),
        (data.index(notes[4]) + len(notes[4]) - 30, False),
    ):
        data[place] ^= 1
        path.write_bytes(data)
        assert ("checkpoint" in errors(verify(trail, since=marks[6]))) is before
        assert "checkpoint" in errors(verify(trail))
        data[place] ^= 1
    path.write_bytes(data)
    # The size of one that the search by halves meets is no number.
    path.write_bytes(bytes(data).replace(b"\n%d\n" % marks[5].tree.size, b"\nx\n"))
    assert verify(trail, since=marks[6]).intact
    assert "checkpoint" in errors(verify(trail, since=marks[2]))
    path.unlink()
    assert "checkpoint" in errors(verify(trail, since=marks[2]))


def test_segments_that_were_changed(trail):
    path = trail / "segments"
    lines = path.read_text().splitlines()
    for mark in marks_of(trail)[:-1]:
        for number in range(len(lines)):
            index, file, offset = map(int, lines[number].split())
            for forged in (f"{index + 1} {file} {offset}", f"{index} {file} {offset + 1}", "x"):
                changed = [*lines[:number], forged, *lines[number + 1 :]]
                path.write_text("".join(f"{line}\n" for line in changed))
                assert not verify(trail, since=mark).intact, forged
    path.unlink()
    assert not verify(trail, since=mark).intact


def test_after_retention(trail, tmp_path):
    marks = marks_of(trail)
    tidy(trail, compress="gzip", retain_bytes=3000)
    whole = verify(trail)
    removed = whole.removed
    assert removed > marks[0].tree.size
    for mark in marks:
        report = verify(trail, since=mark)
        assert report.intact, report.findings
        # What was verified is gone: all that is there is read.
        size = mark.tree.size
        assert report.skipped == (size if size > removed else 0)
        assert report.removed == removed
        assert report.entries == whole.entries - max(0, size - removed)
    record = (trail / "removed").read_bytes()
    (trail / "removed").write_bytes(record.replace(b'"size"', b'"SIZE"'))
    assert not verify(trail, since=marks[-1]).intact


def test_late_lines(tmp_path, quick):
    """Stretches of two files take turns in the tree; the mark can be anywhere among them."""
    folder = tmp_path / "trail"
    scene = sealing.Scene(folder)
    scene.act()
    scene.sealer.close()
    whole = verify(folder)
    # These lines are no entries: only the seals can be intact.
    kinds = {"foreign"}
    assert errors(whole) == kinds
    for mark in marks_of(folder):
        report = verify(folder, since=mark)
        assert errors(report) <= kinds, report.findings
        assert report.skipped == mark.tree.size
    offsets = [line.split() for line in (folder / "segments").read_text().splitlines()]
    assert any(offset != "0" for _, _, offset in offsets)


def test_lines_that_are_late_and_not_sealed_yet(tmp_path, quick):
    """A file before the mark that a stopped writer can still write to is looked at."""
    folder = tmp_path / "trail"
    writer = sealing.open_writer(folder)
    for number in range(10):
        writer.append(sealing.entry(number))
    with (folder / "audit.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        sealer = sealing.make_sealer(folder, rotate_bytes=500)
        sealing.steps(sealer)
        for _ in range(3):
            sealing.steps(sealer)
        assert list(folder.glob("audit-*.jsonl"))
        sealing.time.sleep(0.05)
        for number in range(10, 20):
            writer.append(sealing.entry(number))
        sealing.steps(sealer)
        mark = verify(folder, own=[writer.id], busy=True).verified
        assert mark
        held.write(b"put in late\n")
        held.flush()
        report = verify(folder, since=mark, own=[writer.id], busy=True)
        assert errors(report) == {"foreign"}
        writer.close()
        sealer.close()


def test_a_last_line_without_a_newline(tmp_path, quick):
    """Of a rotated file it is a leaf, which the lines after the mark must not be taken for."""
    folder = tmp_path / "trail"
    sealing.append(folder, b"one\ntwo\nthree")
    sealing.steps(sealer := sealing.make_sealer(folder, rotate_bytes=5, compress="none"))
    for _ in range(5):
        sealing.steps(sealer)
        sealing.time.sleep(0.05)
    sealer.close()
    marks = marks_of(folder)
    assert marks[-1].tree.size == 3
    report = verify(folder, since=marks[-1])
    assert errors(report) == set()
    assert report.skipped == 3


def test_it_is_not_kept_where_a_later_line_may_change_the_verdict(tmp_path, quick):
    folder = tmp_path / "trail"
    writer = sealing.open_writer(folder)
    for number in range(5):
        writer.append(sealing.entry(number))
    lines = (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)
    del lines[3]
    (folder / "audit.jsonl").write_bytes(b"".join(lines))
    seal(folder)
    report = verify(folder, own=[writer.id], busy=True)
    assert report.intact
    assert report.verified is None, "its number may come, or never come"
    writer.close()
    seal(folder)
    assert errors(verify(folder)) == {"missing-number"}


def test_an_unsealed_journal_has_nothing_to_go_on_from(tmp_path):
    write(tmp_path / "trail", 5)
    report = verify(tmp_path / "trail")
    assert report.intact
    assert report.verified is None


def test_the_file(trail, tmp_path):
    mark = verify(trail).verified
    path = tmp_path / "verified"
    assert Verified.read(path) is None
    data = mark.to_bytes()
    path.write_bytes(data)
    assert Verified.read(path) == replace(mark, name="verified")
    assert Verified.read(path).to_bytes() == data
    head, _, note = data.partition(b"\n\n")
    hashes = head.split(b"\n")
    bad = [
        b"",
        b"\0" * 100,
        b"\xff\xfe" + data,
        note,
        data[:-1],
        data[: len(data) // 2],
        head + b"\n" + note,
        data.replace(b"@v1", b"@v2"),
        b"\n".join([*hashes, hashes[-1]]) + b"\n\n" + note,
        b"\n".join(hashes[:-1]) + b"\n\n" + note,
        b"\n".join([hashes[0], *([b64encode(bytes(32))] * (len(hashes) - 1))]) + b"\n\n" + note,
        b"\n".join([*hashes[:-1], b64encode(bytes(31))]) + b"\n\n" + note,
        b"\n".join([*hashes[:-1], "é".encode()]) + b"\n\n" + note,
        data + b"x" * 2_000_000,
        b"[" * 1_500_000,
    ]
    for one in bad:
        path.write_bytes(one)
        with pytest.raises(LookupError, match="remove it to have the whole journal verified"):
            Verified.read(path)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            found = Verified.read(path)
        except LookupError:
            continue
        # Only the signature, or what is signed beside size and root.
        assert found.tree == mark.tree
        assert not verify(trail, since=found).intact
