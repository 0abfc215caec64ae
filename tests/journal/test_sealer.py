"""The sealer: all lines in one signed history, whatever happens to it, its files and its disk."""

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import threading
import time

import pytest

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal import proof
from klaviyo_audit.journal.background import background
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.note import Verifier, generate_key
from klaviyo_audit.journal.proving import consistency, prove
from klaviyo_audit.journal.sealer import Sealer
from tests.journal.checking import verify
from tests.journal.sealing import (
    NEVER,
    PROCESSES,
    Scene,
    SystemCalls,
    append,
    check_all_sealed,
    check_history,
    checkpoints_of,
    child,
    die_at,
    entries_of,
    entry,
    make_sealer,
    open_writer,
    quick,
    raiser,
    seal,
    seal_forever,
    settle,
    steps,
    without_syncing,
    write,
    write_many,
)
from tests.waiting import PATIENCE, wait_for

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    quick(monkeypatch)
    return tmp_path / "trail"


def verifier_of(folder):
    return Verifier.from_text((folder / "sealing.pub").read_text())


# What a leaf is.


def test_every_line_is_a_leaf_as_it_stands(folder):
    append(folder, b'{"v":1}\n\n\xff\x00\r\ntorn{"v":2}\n')
    seal(folder)
    assert list(leaves(folder)) == [b'{"v":1}', b"", b"\xff\x00\r", b'torn{"v":2}']
    assert check_all_sealed(folder) == 4


def test_a_tail_is_no_leaf_before_its_newline_comes(folder):
    sealer = make_sealer(folder)
    append(folder, b"one\ntw")
    settle(sealer)
    assert checkpoints_of(folder)[-1].size == 1
    append(folder, b"o")
    settle(sealer, 0.08)
    assert checkpoints_of(folder)[-1].size == 1
    append(folder, b"\nthree\n")
    settle(sealer, 0.08)
    sealer.close()
    assert list(leaves(folder)) == [b"one", b"two", b"three"]
    check_all_sealed(folder)


def test_lines_longer_than_what_is_read_at_once(folder):
    long = bytes(300_000)
    append(folder, b"a\n" + long + b"\nb\n" + b"c" * (1 << 17) + b"\n" + long)
    seal(folder)
    assert list(leaves(folder)) == [b"a", long, b"b", b"c" * (1 << 17)]
    append(folder, b"\n")
    seal(folder)
    assert check_all_sealed(folder) == 5


# Checkpoints.


def test_checkpoints_come_in_time_and_after_so_many_lines(folder):
    sealer = make_sealer(folder, seal_interval=NEVER, seal_lines=100)
    write(folder, 150)
    settle(sealer, 0.08)
    sizes = [checkpoint.size for checkpoint in checkpoints_of(folder)]
    assert sizes == [152], "of what is read at once one checkpoint is enough"
    append(folder, b"more\n")
    settle(sealer, 0.08)
    assert checkpoints_of(folder)[-1].size == 152
    sealer.close()
    assert checkpoints_of(folder)[-1].size == 153

    sealer = make_sealer(folder, seal_interval=0.03)
    append(folder, b"more\n")
    settle(sealer, 0.08)
    assert checkpoints_of(folder)[-1].size == 154
    sealer.close()


def test_nothing_new_no_new_checkpoint(folder):
    write(folder, 3)
    seal(folder)
    before = (folder / "checkpoints").read_bytes()
    for _ in range(3):
        seal(folder)
    assert (folder / "checkpoints").read_bytes() == before
    assert len(checkpoints_of(folder)) == 1


def test_no_journal_nothing_is_made(folder):
    sealer = make_sealer(folder)
    assert sealer.step() is False
    sealer.close()
    assert not folder.exists()


def test_a_line_is_on_the_disk_before_it_is_signed(folder, monkeypatch):
    calls = SystemCalls(monkeypatch)
    sealer = make_sealer(folder, rotate_bytes=2000)
    calls.begin()
    for number in range(5):
        write(folder, 10, start=number * 10)
        settle(sealer, 0.08)
    sealer.close()
    calls.end()
    kinds = []
    for name, args in calls.log:
        if name == "fdatasync":
            kinds.append("lines synced")
        elif name == "write" and args[1].startswith(b"klaviyo-audit/"):
            kinds.append("signed")
        elif name == "write" and args[1][:1].isdigit():
            kinds.append("segment")
        elif name == "fsync":
            kinds.append("synced")
    signed = [at for at, kind in enumerate(kinds) if kind == "signed"]
    segments = [at for at, kind in enumerate(kinds) if kind == "segment"]
    assert len(signed) >= 5
    assert len(segments) >= 3
    assert all(kinds[at - 1] == "lines synced" for at in signed)
    assert all(kinds[at + 1] == "synced" for at in signed + segments)
    # Where a segment ends there is a checkpoint, so that retention can cut there.
    starts = [int(line.split()[0]) for line in (folder / "segments").read_text().splitlines()]
    assert set(starts[1:]) <= {checkpoint.size for checkpoint in checkpoints_of(folder)}


# Starting again.


def test_the_next_sealer_goes_on_from_the_state(folder, monkeypatch):
    write(folder, 500)
    seal(folder)
    write(folder, 5, start=500)
    hashed = []
    from klaviyo_audit.journal import leaves as module

    real = module.leaf_hash
    monkeypatch.setattr(module, "leaf_hash", lambda line: hashed.append(line) or real(line))
    seal(folder)
    assert len(hashed) < 20
    check_all_sealed(folder)


def edit(path, members):
    signature = path.read_bytes().partition(b"\n")[2]
    path.write_bytes(json.dumps(members).encode() + b"\n" + signature)


@pytest.mark.parametrize(
    "state",
    [
        None,
        b"",
        b"[]",
        b"{",
        b'{"v":1,"origin":"x","size":1,"edge":[],"segments":0,"files":{}}',
        "another root",
        "another place",
        "another file",
        "older",
        "as if put back from a backup",
    ],
)
def test_the_state_is_only_a_cache(folder, state):
    write(folder, 20)
    seal(folder)
    older = (folder / "tree").read_bytes()
    write(folder, 20, start=20)
    seal(folder, rotate_bytes=4000)
    write(folder, 20, start=40)
    seal(folder)
    write(folder, 20, start=60)
    path = folder / "tree"
    members = json.loads(path.read_bytes().partition(b"\n")[0])
    if state is None:
        path.unlink()
    elif isinstance(state, bytes):
        path.write_bytes(state)
    elif state == "another root":
        edit(path, members | {"edge": ["00" * 32] * len(members["edge"])})
    elif state == "another place":
        files = {file: [offset - 7, inode] for file, (offset, inode) in members["files"].items()}
        edit(path, members | {"files": files})
    elif state == "another file":
        edit(path, members | {"files": {"5": [0, None]}})
    elif state == "older":
        path.write_bytes(older)
    else:
        shutil.copytree(folder, folder.with_name("copy"), symlinks=True)
        shutil.rmtree(folder)
        folder.with_name("copy").rename(folder)
    seal(folder)
    assert check_all_sealed(folder) == 88


def test_a_state_ahead_of_the_checkpoints_is_a_witness(folder):
    write(folder, 10)
    seal(folder)
    first = (folder / "checkpoints").read_bytes()
    write(folder, 10, start=10)
    seal(folder)
    (folder / "checkpoints").write_bytes(first)
    live = folder / "audit.jsonl"
    content = live.read_bytes()
    live.write_bytes(content.replace(b"id-13", b"id-31"))
    with pytest.raises(JournalCorrupt, match="not those that were sealed"):
        seal(folder)
    assert (folder / "checkpoints").read_bytes() == first
    live.write_bytes(content)
    write(folder, 1, start=20)
    seal(folder)
    assert check_all_sealed(folder) == 27


# Refusing.


def no_state(folder):
    (folder / "tree").unlink()


def edited(folder):
    live = folder / "audit.jsonl"
    live.write_bytes(live.read_bytes().replace(b"id-3", b"id-4", 1))


def line_removed(folder):
    live = folder / "audit.jsonl"
    live.write_bytes(b"".join(live.read_bytes().splitlines(keepends=True)[1:]))


def cut(folder):
    os.truncate(folder / "audit.jsonl", 300)


def deleted(folder):
    (folder / "audit.jsonl").unlink()


def renamed(folder):
    (folder / "audit.jsonl").rename(folder / "audit.jsonl.1")


def replaced(folder):
    renamed(folder)
    write(folder, 30)


def checkpoints_overwritten(folder):
    (folder / "checkpoints").write_bytes(b"nothing\n")


def checkpoint_forged(folder):
    path = folder / "checkpoints"
    path.write_bytes(path.read_bytes().replace(b"\n12\n", b"\n11\n"))


def segments_gone(folder):
    (folder / "segments").unlink()


def segments_edited(folder):
    (folder / "segments").write_text("0 0 0\n5 5 0\n")


HARM = [
    edited,
    line_removed,
    cut,
    deleted,
    renamed,
    replaced,
    checkpoints_overwritten,
    checkpoint_forged,
    segments_gone,
    segments_edited,
]


@pytest.mark.parametrize("harm", HARM)
def test_a_journal_that_was_changed_is_refused_until_it_is_put_back(folder, harm):
    write(folder, 10)
    seal(folder)
    shutil.copytree(folder, folder.with_name("backup"))
    harm(folder)
    if harm is not segments_gone:
        no_state(folder)
    before = (folder / "checkpoints").read_bytes()
    for _ in range(2):
        with pytest.raises(JournalCorrupt):
            seal(folder)
    write(folder, 10, start=100)
    with pytest.raises(JournalCorrupt):
        seal(folder)
    assert (folder / "checkpoints").read_bytes() == before
    shutil.rmtree(folder)
    folder.with_name("backup").rename(folder)
    write(folder, 10, start=10)
    seal(folder)
    assert check_all_sealed(folder) == 24


def checkpoints_cut(folder):
    os.truncate(folder / "checkpoints", 20)


@pytest.mark.parametrize("harm", [cut, deleted, renamed, replaced, checkpoints_cut])
def test_a_sealer_at_work_notices(folder, harm):
    sealer = make_sealer(folder)
    write(folder, 10)
    settle(sealer)
    before = (folder / "checkpoints").read_bytes()
    harm(folder)
    append(folder, b"more\n")
    with pytest.raises(JournalCorrupt):
        settle(sealer, 0.08)
    for _ in range(3):
        with pytest.raises(JournalCorrupt):
            sealer.step()
    sealer.close()
    assert (folder / "checkpoints").read_bytes() in (before, before[:20])


def test_lines_that_were_read_but_not_signed_are_known_too(folder):
    sealer = make_sealer(folder, seal_interval=NEVER)
    append(folder, b"one\n")
    sealer.step()
    append(folder, b"two\nthree\n")
    settle(sealer, 0.08)
    cut_to = len(b"one\n")
    os.truncate(folder / "audit.jsonl", cut_to)
    with pytest.raises(JournalCorrupt):
        settle(sealer, 0.08)
    append(folder, b"other\nlines\n")
    with pytest.raises(JournalCorrupt):
        sealer.step()
    os.truncate(folder / "audit.jsonl", cut_to)
    append(folder, b"two\nthree\n")
    settle(sealer, 0.08)
    sealer.close()
    assert check_all_sealed(folder) == 3


# The key.


def test_the_key_is_made_once_and_kept_secret(folder):
    write(folder, 1)
    seal(folder)
    key = folder / "sealing.key"
    assert key.stat().st_mode & 0o777 == 0o600
    text = key.read_text()
    assert text.startswith("PRIVATE+KEY+klaviyo-audit/")
    public = (folder / "sealing.pub").read_text()
    assert public.count("+") >= 2
    assert "PRIVATE" not in public
    write(folder, 1, start=1)
    seal(folder)
    assert key.read_text() == text
    secret = text.split("+")[-1].strip()
    for path in folder.rglob("*"):
        if path.is_file() and path != key:
            assert secret.encode() not in path.read_bytes()


def test_a_key_from_the_settings_and_a_pinned_one(folder):
    signer, other = generate_key("example.com/audit"), generate_key("example.com/audit")
    write(folder, 1)
    seal(folder, signing_key=signer.to_text(), public_key=signer.verifier.to_text())
    assert not (folder / "sealing.key").exists()
    assert checkpoints_of(folder)[0].origin == "example.com/audit"
    write(folder, 1, start=1)
    for options, words in [
        ({}, "sealing.key is missing"),
        ({"signing_key": other.to_text()}, "signed by"),
        ({"signing_key": generate_key("else").to_text()}, "signed by"),
        (
            {"signing_key": signer.to_text(), "public_key": other.verifier.to_text()},
            "public_key",
        ),
        ({"signing_key": signer.to_text(), "origin": "else"}, "origin"),
    ]:
        with pytest.raises(ConfigurationError, match=words) as error:
            seal(folder, **options)
        assert signer.to_text().split("+")[-1] not in str(error.value)
    assert len(checkpoints_of(folder)) == 1


def test_a_pinned_key_that_nobody_has(folder):
    write(folder, 1)
    with pytest.raises(ConfigurationError, match="public_key"):
        seal(folder, public_key=generate_key("pinned").verifier.to_text())
    assert not (folder / "sealing.key").exists()


def test_the_origin_from_the_settings(folder):
    write(folder, 1)
    seal(folder, origin="example.com/loyalty")
    assert checkpoints_of(folder)[0].origin == "example.com/loyalty"


def test_an_unknown_compression_is_refused(folder):
    with pytest.raises(ConfigurationError, match="compress"):
        Sealer(folder, compress="rar")


# Killed, stopped, and a full disk.


def _write_in_rounds(folder, rounds, count, go_on):
    """The work of a child: so many entries each time it is let go on."""
    writer = open_writer(folder)
    for start in range(0, rounds * count, count):
        assert go_on.acquire(timeout=PATIENCE)
        for number in range(start, start + count):
            assert writer.append(entry(number)) is None
            if number % 10 == 0:
                time.sleep(0.002)
    writer.close()


def test_killed_at_random_moments(folder):
    options = {"rotate_bytes": 6000, "pause": 0.0002, "seal_lines": 20}
    rounds = 8
    go_on = PROCESSES.Semaphore(0)
    with child(_write_in_rounds, folder, rounds, 500, go_on) as writer:
        for _ in range(rounds):
            go_on.release()
            with child(seal_forever, folder, options):
                time.sleep(random.uniform(0.02, 0.15))
            if folder.exists():
                check_history(folder)
        writer.wait()
    seal(folder, rotate_bytes=6000)
    check_all_sealed(folder)
    assert entries_of(folder) == 4000


def _places(folder, monkeypatch):
    """Some of the system calls that the scene has: other ones in each run."""
    with monkeypatch.context() as patch:
        scene = Scene(folder)
        calls = SystemCalls(patch)
        calls.begin()
        scene.act()
        scene.sealer.close()
        count = calls.end()
    segments = [line.split() for line in (folder / "segments").read_text().splitlines()]
    assert len(segments) > 3, "it went back for late lines"
    assert list(folder.glob("*.gz"))
    check_all_sealed(folder)
    assert count > 150
    return sorted(random.sample(range(1, count + 1), 60))


def test_killed_at_any_system_call(tmp_path, monkeypatch):
    without_syncing(monkeypatch)
    for place in _places(tmp_path / "whole", monkeypatch):
        folder = tmp_path / str(place)
        with child(die_at, folder, place) as process:
            process.process.join(PATIENCE)
            assert process.process.exitcode == -signal.SIGKILL
        check_history(folder)
        append(folder, b"after\n")
        seal(folder, **Scene.OPTIONS)
        check_all_sealed(folder)


def test_taken_over_at_any_system_call(tmp_path, monkeypatch):
    """Stopped at one of them, while another sealer takes over and does all there is to do."""
    without_syncing(monkeypatch)
    for place in _places(tmp_path / "whole", monkeypatch):
        folder = tmp_path / str(place)
        scene, other = Scene(folder), make_sealer(folder, **Scene.OPTIONS)

        def take_over(other=other, folder=folder):
            steps(other)
            append(folder, b"taken\n")
            steps(other)

        with monkeypatch.context() as patch:
            calls = SystemCalls(patch)
            calls.begin(place, take_over)
            # To do something with the file where it was is no harm.
            with contextlib.suppress(FileNotFoundError):
                scene.act()
            calls.end()
        known = checkpoints_of(folder)
        check_history(folder)
        scene.held.close()
        append(folder, b"after\n")
        # Whoever has lost the lease takes it back: each believes the other to be silent.
        scene.sealer.close()
        other.close()
        seal(folder, **Scene.OPTIONS)
        check_all_sealed(folder)
        assert checkpoints_of(folder)[: len(known)] == known, "what was signed stays signed"


def test_a_full_disk_at_any_system_call(tmp_path, monkeypatch):
    without_syncing(monkeypatch)
    for place in _places(tmp_path / "whole", monkeypatch):
        folder = tmp_path / str(place)
        scene = Scene(folder, on_error=lambda error: None)
        with monkeypatch.context() as patch:
            calls = SystemCalls(patch)
            calls.begin(place, raiser(NO_SPACE))
            with contextlib.suppress(OSError):
                scene.act()
            calls.end()
        scene.held.close()
        check_history(folder)
        append(folder, b"after\n")
        steps(scene.sealer)
        scene.sealer.close()
        check_all_sealed(folder)


def test_a_read_that_fails_when_a_part_was_read(folder):
    """As BufferedReader does: what it had got is gone, and the file's position behind it."""
    append(folder, b"one\n")
    sealer = make_sealer(folder)
    settle(sealer)
    append(folder, b"two\nthree\n")

    class Failing:
        def __init__(self, source):
            self._source = source

        def __getattr__(self, name):
            return getattr(self._source, name)

        def read(self, count):
            self._source.read(4)
            raise NO_SPACE

    reader = sealer._log.walk.reader
    reader._source = Failing(reader._source)
    with pytest.raises(OSError, match="No space"):
        sealer.step()
    append(folder, b"four\n")
    settle(sealer, 0.08)
    sealer.close()
    assert check_all_sealed(folder) == 4


@pytest.fixture
def size_limit():
    """A limit on file size stands in for a full disk: short writes, then errors."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_short_write_leaves_no_half_checkpoint(folder, size_limit, room):
    append(folder, b"one\n")
    sealer = make_sealer(folder)
    settle(sealer)
    append(folder, b"two\n")
    before = (folder / "checkpoints").read_bytes()
    size_limit(len(before) + room)
    for _ in range(3):
        with pytest.raises(OSError):
            settle(sealer, 0.08)
        assert (folder / "checkpoints").read_bytes() == before
    size_limit(resource.RLIM_INFINITY)
    settle(sealer, 0.08)
    sealer.close()
    assert check_all_sealed(folder) == 2
    assert len(checkpoints_of(folder)) == 2


def test_torn_pieces_of_a_crash_are_no_obstacle(folder):
    write(folder, 5)
    seal(folder)
    note = (folder / "checkpoints").read_bytes()
    for name, torn in [
        ("checkpoints", note[: random.randrange(1, len(note))]),
        ("segments", b"7 7"),
        ("removed", b'{"v":1,"si'),
    ]:
        with (folder / name).open("ab") as file:
            file.write(torn)
    write(folder, 5, start=5)
    assert verify(folder).intact
    seal(folder)
    assert check_all_sealed(folder) == 14
    assert (folder / "checkpoints").read_bytes().count(b"\n\n") == 4, "what was torn is gone"
    assert verify(folder).intact


def test_what_is_no_torn_checkpoint_is_left_where_it_is(folder):
    write(folder, 5)
    seal(folder)
    with (folder / "checkpoints").open("ab") as file:
        file.write(b"somebody was here")
    write(folder, 5, start=5)
    seal(folder)
    assert b"\n\nsomebody was here\n\n" in (folder / "checkpoints").read_bytes()
    assert not verify(folder).intact


def _stopped_and_continued(folder, options):
    """One round of: a sealer is stopped anywhere, another takes over, the first goes on."""
    with child(seal_forever, folder, options) as first, child(seal_forever, folder, options):
        for _ in range(4):
            time.sleep(random.uniform(0.05, 0.3))
            first.send(signal.SIGSTOP)
            time.sleep(options["lease_seconds"] * 3)
            first.send(signal.SIGCONT)
    return checkpoints_of(folder)


def test_stopped_sealers_never_make_two_histories(folder):
    options = {"rotate_bytes": 20_000, "lease_seconds": 0.1, "seal_lines": 10, "pause": 0.0001}
    with child(write_many, folder, 3000, 0, 0.004) as writer:
        while not (folder / "audit.jsonl").exists():
            time.sleep(0.01)
        known = _stopped_and_continued(folder, options)
        writer.wait()
    seal(folder, rotate_bytes=20_000)
    check_all_sealed(folder)
    assert entries_of(folder) == 3000
    assert checkpoints_of(folder)[: len(known)] == known


def test_several_processes_write_while_files_are_rotated(folder):
    thread = background(
        folder, rotate_bytes=60_000, seal_interval=0.02, compress="gzip", rotate_age=NEVER
    )
    writers = [
        PROCESSES.Process(target=write_many, args=(folder, 3000, 0, 0.008), daemon=True)
        for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(PATIENCE)
        assert writer.exitcode == 0
    assert thread.stop(PATIENCE)
    seal(folder)
    check_all_sealed(folder)
    assert entries_of(folder) == 9000
    found = {}
    for line in leaves(folder):
        members = json.loads(line)
        found.setdefault(members["writer"], set()).add(members["n"])
    for numbers in found.values():
        assert numbers == set(range(len(numbers)))
    assert len(list(folder.glob("audit-*"))) > 2


# In the background.


def test_a_thread_seals_and_stopping_it_seals_the_rest(folder):
    thread = background(folder, seal_interval=NEVER)
    assert thread.start()
    write(folder, 100)
    assert thread.stop(PATIENCE)
    assert not thread.is_running
    assert check_all_sealed(folder) == 102
    assert thread.stop()


def test_a_forked_child_seals_only_with_a_thread_of_its_own(folder):
    thread = background(folder, seal_interval=0.01, lease_seconds=NEVER)
    write(folder, 10)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert thread.is_running, "a thread of the child's own, started by the fork hook"
            write(folder, 10, start=10)
            assert thread.stop(PATIENCE)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert thread.is_running
    assert thread.stop(PATIENCE)
    assert check_all_sealed(folder) == 24


def test_the_thread_goes_on_when_the_cause_of_an_error_is_gone(folder):
    folder.mkdir()
    told = []
    write(folder, 1)
    (folder / "segments").mkdir()
    thread = background(folder, on_error=told.append)
    wait_for(lambda: told)
    time.sleep(1.5)
    assert len(told) == 1, "said once"
    assert isinstance(told[0], OSError)
    (folder / "segments").rmdir()
    wait_for(lambda: checkpoints_of_if_any(folder), every=0.05)
    assert thread.stop(PATIENCE)
    assert check_all_sealed(folder) == 3


def checkpoints_of_if_any(folder):
    return (folder / "sealing.pub").exists() and checkpoints_of(folder)


def test_a_callback_that_raises_does_not_stop_the_sealing(folder):
    errors = []
    write(folder, 1)
    sealer = make_sealer(
        folder, on_checkpoint=raiser_of(RuntimeError("no")), on_error=errors.append
    )
    settle(sealer)
    sealer.close()
    assert check_all_sealed(folder) == 3
    assert [str(error) for error in errors] == ["no"]


def raiser_of(error):
    def raise_it(*_):
        raise error

    return raise_it


def test_published_checkpoints_are_those_in_the_file(folder):
    published = []
    sealer = make_sealer(folder, on_checkpoint=published.append)
    for number in range(3):
        write(folder, 3, start=3 * number)
        settle(sealer, 0.08)
    sealer.close()
    assert b"".join(note + b"\n" for note in published) == (folder / "checkpoints").read_bytes()


# Proofs.


@pytest.fixture
def proved(folder):
    writer = open_writer(folder)
    for number in range(40):
        writer.append({**entry(number), "phase": "intent"})
        writer.append(entry(number))
    writer.close()
    seal(folder)
    for number in range(3):
        write(folder, 10, start=40 + 10 * number)
        seal(folder, rotate_bytes=2000)
    append(folder, b"torn")
    write(folder, 1, start=100)
    sealer = make_sealer(folder, rotate_bytes=2000)
    settle(sealer, 0.08)
    sealer.close()
    return folder


def test_proofs_of_lines_in_any_file(proved):
    lines = list(leaves(proved))
    verifier = verifier_of(proved)
    assert list(proved.glob("*.zst"))
    for index in (0, 1, 7, len(lines) // 2, len(lines) - 1):
        found = proof.check(prove(proved, index), verifier)
        assert (found.index, found.line) == (index, lines[index])
    found = proof.check(prove(proved, "id-17"), verifier)
    assert json.loads(found.line)["phase"] == "outcome"
    assert json.loads(found.line)["id"] == "id-17"
    torn = next(index for index, line in enumerate(lines) if line.startswith(b"torn"))
    opening = json.loads(lines[torn].removeprefix(b"torn"))["id"]
    assert proof.check(prove(proved, opening), verifier).index == torn
    for wrong in (-1, len(lines), "id-999", "id-1"[:3]):
        with pytest.raises(LookupError):
            prove(proved, wrong)


def test_proof_that_the_journal_has_only_grown(proved):
    verifier = verifier_of(proved)
    sizes = [checkpoint.size for checkpoint in checkpoints_of(proved)]
    assert len(sizes) >= 3
    for old, new in [(sizes[0], sizes[-1]), (sizes[1], sizes[2]), (sizes[0], sizes[0])]:
        found = proof.check_consistency(consistency(proved, old, new), verifier)
        assert (found[0].size, found[1].size) == (old, new)
    for old, new in [(1, sizes[-1]), (sizes[0], 10**6), (sizes[-1], sizes[0])]:
        with pytest.raises(LookupError):
            consistency(proved, old, new)


def test_nothing_to_prove_before_the_first_seal(folder):
    write(folder, 1)
    with pytest.raises(LookupError, match="sealed"):
        prove(folder, 0)


def test_a_checkpoint_is_found_among_many(folder):
    sealer = make_sealer(folder, seal_lines=1)
    append(folder, b"0\n")
    settle(sealer)
    stop = threading.Event()
    for number in range(1, 300):
        append(folder, b"%d\n" % number)
        sealer.step()
    sealer.close()
    assert not stop.is_set()
    from klaviyo_audit.journal.checkpoints import checkpoint_of_size

    known = {checkpoint.size for checkpoint in checkpoints_of(folder)}
    assert len(known) > 250
    for size in range(302):
        note = checkpoint_of_size(folder, size)
        assert (note is not None) == (size in known)
        assert note is None or b"\n%d\n" % size in note
