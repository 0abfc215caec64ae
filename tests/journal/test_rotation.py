"""Rotation: no line lost or split, late ones come in, and what is compressed is what was written."""

import gzip
import os
import signal
import stat
import time

import pytest

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal import rotation
from klaviyo_audit.journal.folder import AppendFile
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.segments import decompressed, read_segments, rotated_files, zstd_module
from tests.journal.sealing import (
    PROCESSES,
    Scene,
    append,
    check_all_sealed,
    checkpoints_of,
    child,
    entry,
    files_of,
    make_sealer,
    open_writer,
    quick,
    seal,
    settle,
    write,
)
from tests.waiting import PATIENCE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    quick(monkeypatch)
    return tmp_path / "trail"


def segments_of(folder):
    return [(segment.index, segment.file, segment.offset) for segment in read_segments(folder)]


@pytest.mark.parametrize(("how", "suffix"), [("zstd", ".zst"), ("gzip", ".gz"), ("none", "")])
def test_a_file_that_is_large_enough_is_set_aside(folder, how, suffix):
    write(folder, 10)
    content = (folder / "audit.jsonl").read_bytes()
    os.utime(folder / "audit.jsonl", (1_700_000_000, 1_700_000_000))
    sealer = make_sealer(folder, rotate_bytes=len(content), compress=how)
    settle(sealer, 0.08)
    write(folder, 1, start=10)
    settle(sealer, 0.08)
    sealer.close()
    rotated = folder / f"audit-000000000000.jsonl{suffix}"
    assert [path.name for path in sorted(folder.glob("audit*"))] == [rotated.name, "audit.jsonl"]
    with rotated.open("rb") as file, decompressed(file, suffix) as opened:
        assert opened.read() == content
    facts = rotated.stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_mtime == 1_700_000_000
    assert segments_of(folder) == [(0, 0, 0), (12, 12, 0)]
    assert [checkpoint.size for checkpoint in checkpoints_of(folder)][0] == 12
    check_all_sealed(folder)


def test_compressed_files_can_be_read_with_the_usual_tools(folder):
    write(folder, 50)
    content = (folder / "audit.jsonl").read_bytes()
    sealer = make_sealer(folder, rotate_bytes=1, compress="gzip")
    settle(sealer, 0.08)
    sealer.close()
    assert gzip.decompress((folder / "audit-000000000000.jsonl.gz").read_bytes()) == content
    write(folder, 50)
    sealer = make_sealer(folder, rotate_bytes=1, compress="zstd")
    settle(sealer, 0.08)
    sealer.close()
    assert zstd_module().decompress((folder / "audit-000000000052.jsonl.zst").read_bytes())
    check_all_sealed(folder)


def test_a_file_that_is_old_enough_is_set_aside(folder):
    append(folder, b'{"v":1,"id":"x","timestamp":"2020-01-01T00:00:00.000000Z"}\n')
    sealer = make_sealer(folder, rotate_age=3600)
    settle(sealer, 0.08)
    assert 0 in rotated_files(folder)
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    append(folder, b'{"v":1,"id":"x","timestamp":"%b"}\n' % now.encode())
    append(folder, b"no time in it\n")
    settle(sealer, 0.08)
    sealer.close()
    assert list(rotated_files(folder)) == [0]
    check_all_sealed(folder)


@pytest.mark.parametrize("first", [b"garbage", b'{"timestamp":"2026-99-99T00:00:00.000000Z"}'])
def test_the_age_of_a_file_that_does_not_tell_it(folder, first):
    append(folder, first + b"\n")
    sealer = make_sealer(folder, rotate_age=0.04)
    sealer.step()
    assert not rotated_files(folder)
    settle(sealer, 0.08)
    sealer.close()
    assert 0 in rotated_files(folder)
    check_all_sealed(folder)


def test_a_file_without_a_line_of_its_own_is_not_rotated(folder):
    append(folder, b"torn")
    sealer = make_sealer(folder, rotate_bytes=1)
    settle(sealer, 0.08)
    assert not rotated_files(folder)
    append(folder, b"\n")
    settle(sealer, 0.08)
    append(folder, b"torn again")
    settle(sealer, 0.08)
    sealer.close()
    assert list(rotated_files(folder)) == [0]
    assert (folder / "audit.jsonl").exists()


def test_a_writer_goes_on_in_the_new_file(folder):
    writer = open_writer(folder)
    writer.append(entry(0))
    sealer = make_sealer(folder, rotate_bytes=1, compress="none")
    settle(sealer, 0.08)
    writer.append(entry(1))
    settle(sealer, 0.08)
    writer.append(entry(2))
    settle(sealer, 0.08)
    writer.close()
    settle(sealer, 0.08)
    sealer.close()
    assert len(rotated_files(folder)) >= 2
    check_all_sealed(folder)
    numbers = [line for line in leaves(folder) if b'"action":"test"' in line]
    assert [line.count(b"id-%d" % number) for number, line in enumerate(numbers)] == [1, 1, 1]


def _write_late(folder, opened, go_on):
    """The work of a child: a writer that stops between looking and writing."""
    file = AppendFile(folder / "audit.jsonl")
    os.write(file.fd, b"in time\n")
    opened.set()
    go_on.wait()
    os.write(file.fd, b"late\nlater\nunterminated")


def test_the_late_lines_of_a_stopped_writer_are_sealed(folder):
    append(folder, b"first\n")
    opened, go_on = PROCESSES.Event(), PROCESSES.Event()
    with child(_write_late, folder, opened, go_on) as writer:
        assert opened.wait(PATIENCE)
        writer.send(signal.SIGSTOP)
        sealer = make_sealer(folder, rotate_bytes=10)
        settle(sealer, 0.08)
        append(folder, b"second\n")
        settle(sealer, 0.08)
        append(folder, b"third in the third\n")
        settle(sealer, 0.08)
        append(folder, b"fourth\n")
        settle(sealer, 0.08)
        assert [line[:5] for line in leaves(folder)] == [
            b"first",
            b"in ti",
            b"secon",
            b"third",
            b"fourt",
        ]
        assert (folder / "audit-000000000000.jsonl").exists(), "not final, so not compressed"
        assert (folder / "audit-000000000002.jsonl.zst").exists(), "it delays only its own"
        writer.send(signal.SIGCONT)
        go_on.set()
        writer.wait()
    settle(sealer, 0.08)
    append(folder, b"fifth\n")
    settle(sealer, 0.08)
    sealer.close()
    assert list(leaves(folder))[5:] == [b"late", b"later", b"unterminated", b"fifth"]
    assert (folder / "audit-000000000000.jsonl.zst").exists()
    assert segments_of(folder) == [
        (0, 0, 0),
        (2, 2, 0),
        (4, 4, 0),
        (5, 0, len(b"first\nin time\n")),
        (8, 4, len(b"fourth\n")),
    ]
    sizes = {checkpoint.size for checkpoint in checkpoints_of(folder)}
    assert {2, 4, 5, 8} <= sizes
    assert check_all_sealed(folder) == 9
    # The next sealer needs no state to find its way.
    (folder / "tree").unlink()
    append(folder, b"sixth\n")
    seal(folder)
    assert check_all_sealed(folder) == 10


def test_a_file_of_that_name_is_not_overwritten(folder):
    append(folder, b"one\n")
    folder.joinpath("audit-000000000000.jsonl.bak").write_bytes(b"kept")
    sealer = make_sealer(folder)
    settle(sealer)
    (folder / "audit-000000000000.jsonl").write_bytes(b"foreign\n")
    sealer._successor.keywords["rotate_bytes"] = 1
    sealer._succession._rotate_bytes = 1
    append(folder, b"two\n")
    for _ in range(2):
        with pytest.raises(JournalCorrupt):
            settle(sealer, 0.08)
        assert (folder / "audit-000000000000.jsonl").read_bytes() == b"foreign\n"
    (folder / "audit-000000000000.jsonl").unlink()
    settle(sealer, 0.08)
    sealer.close()
    assert check_all_sealed(folder) == 2


def test_what_a_person_renamed_as_the_error_says_is_taken(folder):
    append(folder, b"one\n")
    sealer = make_sealer(folder)
    settle(sealer)
    (folder / "audit.jsonl").rename(folder / "audit.jsonl.1")
    append(folder, b"two\n")
    with pytest.raises(JournalCorrupt, match="rename it to audit-000000000000.jsonl"):
        settle(sealer, 0.08)
    (folder / "audit.jsonl.1").rename(folder / "audit-000000000000.jsonl")
    settle(sealer, 0.08)
    sealer.close()
    assert list(leaves(folder)) == [b"one", b"two"]
    check_all_sealed(folder)


def test_compression_that_was_interrupted_is_done_again(folder):
    scene = Scene(folder)
    scene.act()
    scene.sealer.close()
    packed = folder / "audit-000000000000.jsonl.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.write_bytes(packed.read_bytes()[:-9])
    sealer = make_sealer(folder, compress="gzip")
    settle(sealer, 0.08)
    sealer.close()
    assert not packed.with_suffix("").exists()
    check_all_sealed(folder)


@pytest.mark.parametrize("how", ["zstd", "gzip"])
@pytest.mark.parametrize("harm", ["byte", "cut", "empty"])
def test_a_damaged_compressed_file_is_told(folder, how, harm):
    write(folder, 50)
    sealer = make_sealer(folder, rotate_bytes=1, compress=how)
    settle(sealer, 0.08)
    sealer.close()
    (packed,) = folder.glob("audit-*")
    data = bytearray(packed.read_bytes())
    if harm == "byte":
        data[len(data) // 2] ^= 1
    packed.write_bytes(data[:-5] if harm == "cut" else data if harm == "byte" else b"")
    (folder / "tree").unlink()
    with pytest.raises(JournalCorrupt):
        seal(folder)


def test_a_file_that_does_not_come_out_as_it_went_in_is_kept(folder, monkeypatch):
    real = rotation.decompressed

    class Broken:
        def __init__(self, file):
            self.file = file

        def read(self, count):
            return self.file.read(count).replace(b"id-7", b"id-8")

    import contextlib

    @contextlib.contextmanager
    def broken(file, suffix):
        with real(file, suffix) as content:
            yield Broken(content)

    monkeypatch.setattr(rotation, "decompressed", broken)
    write(folder, 10)
    errors = []
    sealer = make_sealer(folder, rotate_bytes=1, on_error=errors.append)
    settle(sealer, 0.08)
    assert isinstance(errors[0], JournalCorrupt)
    assert len(errors) == 1
    write(folder, 10)
    settle(sealer, 0.08)
    sealer.close()
    assert all(path.suffix == ".jsonl" for path in folder.glob("audit*"))
    assert not list(folder.glob("sealer/*/*.zst"))
    check_all_sealed(folder)


def test_a_rotated_file_that_vanishes_is_told(folder):
    append(folder, b"one\ntwo\n")
    held = AppendFile(folder / "audit.jsonl")
    sealer = make_sealer(folder, rotate_bytes=1)
    settle(sealer, 0.08)
    append(folder, b"three\n")
    settle(sealer, 0.08)
    assert held.fd
    (folder / "audit-000000000000.jsonl").unlink()
    with pytest.raises(JournalCorrupt, match="missing"):
        settle(sealer, 0.08)
    sealer.close()


def test_no_line_is_in_two_files(folder):
    writer = open_writer(folder)
    sealer = make_sealer(folder, rotate_bytes=3000)
    for number in range(300):
        writer.append(entry(number))
        if number % 25 == 0:
            settle(sealer, 0.08)
    writer.close()
    settle(sealer, 0.08)
    sealer.close()
    check_all_sealed(folder)
    everything = b"".join(files_of(folder).values())
    assert all(everything.count(b'"id-%d"' % number) == 1 for number in range(300))
