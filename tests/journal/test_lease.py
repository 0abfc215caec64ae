"""The lease: one sealer at a time, also when processes are stopped, killed or forked."""

import contextlib
import errno
import itertools
import os
import signal
import threading
import time

import pytest

from klaviyo_audit.journal import lease as lease_module
from klaviyo_audit.journal.lease import APPENDED, Lease, LeaseLost
from klaviyo_audit.journal.sidefile import SideFile, replace
from tests.journal.sealing import PROCESSES, SystemCalls, child, raiser
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "trail"
    folder.mkdir()
    return folder


def take_over(folder):
    """Take the lease from a holder as if it had been silent for long enough."""
    lease = Lease(folder, seconds=0)
    assert lease.acquire()
    return lease


def test_one_holder_at_a_time_also_within_a_process(folder):
    first, second = Lease(folder), Lease(folder)
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert first.held
    first.release()
    assert not first.held
    assert second.acquire()
    with pytest.raises(LeaseLost):
        first.check()


def test_no_folder_no_lease(tmp_path):
    assert not Lease(tmp_path / "missing").acquire()
    assert not (tmp_path / "missing").exists()


def test_reading_all_files_does_not_lose_it(folder):
    """With record locks, closing any descriptor of the file would."""
    lease = Lease(folder)
    assert lease.acquire()
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()
    with child(_expect_refusal, folder) as other:
        other.wait()


def _expect_refusal(folder):
    assert not Lease(folder).acquire()


def _hold(folder, ready):
    lease = Lease(folder, seconds=0.3)
    assert lease.acquire()
    files = {name: SideFile(folder / name) for name in APPENDED}
    lease.check()
    for file in files.values():
        file.append(b"1\n")
    ready.set()
    while True:
        try:
            lease.beat()
        except LeaseLost:
            break
        time.sleep(0.01)
    # What a sealer that did not look would do.
    for file in files.values():
        file.append(b"stale\n")
    with pytest.raises(LeaseLost):
        replace(lease, folder / "tree", b"stale")


def test_a_killed_holder_is_replaced_at_once(folder):
    ready = PROCESSES.Event()
    with child(_hold, folder, ready) as holder:
        assert ready.wait(PATIENCE)
        lease = Lease(folder, seconds=3600)
        assert not lease.acquire()
        holder.end()
        assert lease.acquire()


def _beats(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("sealer/*/lock-*")}


def test_a_stopped_holder_is_fenced_off(folder, monkeypatch):
    # The watcher's clock is the test's: by a real one, a holder that a busy machine lets wait for
    # longer than its lease would be taken for a stopped one, and rightly so.
    now = 1000.0
    monkeypatch.setattr(lease_module, "monotonic", lambda: now)
    ready = PROCESSES.Event()
    with child(_hold, folder, ready) as holder:
        assert ready.wait(PATIENCE)
        lease = Lease(folder, seconds=0.3)
        for _ in range(5):
            beats = _beats(folder)
            assert not lease.acquire(), "it shows life"
            wait_for(lambda beats=beats: _beats(folder) != beats)
            now += 0.25
        holder.send(signal.SIGSTOP)
        assert not lease.acquire()
        now += 0.25
        assert not lease.acquire()
        now += 0.1
        assert lease.acquire()
        files = {name: SideFile(folder / name) for name in APPENDED}
        for file in files.values():
            file.append(b"2\n")
        holder.send(signal.SIGCONT)
        holder.wait()
        lease.check()
        for name, file in files.items():
            assert (folder / name).read_bytes() == b"1\n2\n"
            file.close()
        assert not (folder / "tree").exists()


def test_only_one_of_many_takes_over(folder):
    for _ in range(3):
        stale = Lease(folder)
        assert stale.acquire()
        leases = [Lease(folder, seconds=0) for _ in range(8)]
        start = threading.Barrier(8)
        threads = [
            threading.Thread(target=lambda lease=lease: (start.wait(), lease.acquire()))
            for lease in leases
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holders = [lease for lease in leases if _holds(lease)]
        assert len(holders) == 1
        assert not _holds(stale)
        holders[0].release()


def _holds(lease):
    try:
        lease.check()
    except LeaseLost:
        return False
    return True


def _compete(folder, winners):
    lease = Lease(folder)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        if lease.acquire():
            with winners.get_lock():
                winners.value += 1
                assert winners.value == 1
            time.sleep(0.002)
            lease.check()
            with winners.get_lock():
                winners.value -= 1
            lease.release()


def test_processes_take_turns(folder):
    winners = PROCESSES.Value("i", 0)
    running = [
        PROCESSES.Process(target=_compete, args=(folder, winners), daemon=True) for _ in range(4)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(PATIENCE)
        assert process.exitcode == 0


def test_a_forked_child_neither_has_nor_keeps_the_lease(folder):
    lease = Lease(folder)
    assert lease.acquire()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert not lease.held
            assert not Lease(folder).acquire()
            lease.release()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    lease.check()


def _die_and_leave_a_child(folder, ready):
    lease = Lease(folder)
    assert lease.acquire()
    if os.fork() == 0:
        ready.set()
        time.sleep(3)
        os._exit(0)
    ready.wait()
    os._exit(0)


def test_the_child_of_a_dead_holder_does_not_keep_it(folder):
    ready = PROCESSES.Event()
    with child(_die_and_leave_a_child, folder, ready) as holder:
        holder.wait()
        assert Lease(folder, seconds=3600).acquire()


def test_stopped_at_any_place_a_holder_changes_nothing_after_a_takeover(folder, monkeypatch):
    """Everything a sealer does to its own files, with a takeover before each system call."""
    calls = SystemCalls(monkeypatch)
    number = 0

    def work(lease):
        files = [SideFile(folder / name) for name in APPENDED]
        try:
            lease.check()
            for file in files:
                lease.check()
                file.append(b"%d\n" % number)
            replace(lease, folder / "tree", b"%d\n" % number)
        finally:
            for file in files:
                file.close()

    def state():
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    place = 0
    while True:
        place += 1
        number = place
        holder = take_over(folder)
        seen = {}

        def interrupt(seen=seen):
            lease = take_over(folder)
            for name in APPENDED:
                with SideFileOpen(folder / name) as file:
                    file.append(b"taken\n")
            seen.update(state())
            lease.release()

        calls.begin(place, interrupt)
        with contextlib.suppress(LeaseLost):
            work(holder)
        reached = calls.end()
        if reached < place:
            break
        assert state() == seen
        with pytest.raises(LeaseLost):
            holder.check()
    assert state()["tree"] == b"%d\n" % place
    assert place > 10


class SideFileOpen:
    def __init__(self, path):
        self.file = SideFile(path)

    def __enter__(self):
        return self.file

    def __exit__(self, *_):
        self.file.close()


def test_a_takeover_that_was_cut_short_is_done_again(folder, monkeypatch):
    """Whoever was fenced off once stays so, though the one who did it never came to an end."""
    calls = SystemCalls(monkeypatch)

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    place = 0
    while True:
        place += 1
        holder = take_over(folder)
        files = [SideFile(folder / name) for name in APPENDED]
        holder.check()
        for file in files:
            file.append(b"mine\n")
        calls.begin(place, kill)
        taker = Lease(folder, seconds=0)
        try:
            taker.acquire()
        except Killed:
            taker.drop()
        except OSError:
            pytest.fail("the error was not passed on")
        reached = calls.end()
        last = Lease(folder, seconds=0)
        assert last.acquire()
        before = {name: (folder / name).read_bytes() for name in APPENDED}
        for file in files:
            file.append(b"stale\n")
            file.close()
        for name in APPENDED:
            assert before[name].endswith(b"mine\n")
            assert (folder / name).read_bytes() == before[name]
        last.release()
        if reached < place:
            break
    assert place > 10


def test_a_full_disk_at_a_takeover_is_told(folder, monkeypatch):
    calls = SystemCalls(monkeypatch)
    take_over(folder)
    for name in APPENDED:
        (folder / name).write_bytes(b"1\n")
    place = 0
    while True:
        place += 1
        lease = Lease(folder, seconds=0)
        calls.begin(place, raiser(OSError(errno.ENOSPC, "No space left on device")))
        try:
            lease.acquire()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert not lease.held
        reached = calls.end()
        assert lease.held == (reached < place)
        for name in APPENDED:
            assert (folder / name).read_bytes() == b"1\n"
        if lease.held:
            break
    assert place > 10


def test_a_folder_made_anew_is_a_new_journal(folder):
    lease = Lease(folder)
    assert lease.acquire()
    folder.rename(folder.with_name("old"))
    folder.mkdir()
    with pytest.raises(LeaseLost):
        lease.check()
    assert lease.acquire()


def test_a_lease_that_changed_hands_since_it_was_looked_at_is_not_taken(folder, monkeypatch):
    """Stopped anywhere while it takes a free lease, and meanwhile another had it and gave it back.

    Its lock would be gone with what the other has cleared away, and anybody could take over at once.
    """
    calls = SystemCalls(monkeypatch)
    take_over(folder).release()
    refused = 0
    for place in itertools.count(1):
        slow = Lease(folder)

        def interrupt():
            other = Lease(folder)
            other.acquire()
            other.release()

        calls.begin(place, interrupt)
        taken = slow.acquire()
        reached = calls.end()
        refused += not taken
        if taken:
            assert not Lease(folder, seconds=3600).acquire(), "it has no lock"
            slow.check()
            slow.release()
        if reached < place:
            break
    assert taken
    assert refused


def test_what_a_fenced_holder_wrote_for_all_to_see_is_kept(folder, monkeypatch):
    """It is woken at any moment of the takeover, and writes once more before it looks."""
    calls = SystemCalls(monkeypatch)
    kept = 0
    for place in itertools.count(1):
        holder = take_over(folder)
        files = [SideFile(folder / name) for name in APPENDED]
        holder.check()
        seen = []

        def interrupt(files=files, seen=seen, text=b"%d\n" % place):
            for file in files:
                file.append(text)
                if file.path.read_bytes().endswith(text):
                    seen.append((file.path, text))

        calls.begin(place, interrupt)
        taker = take_over(folder)
        reached = calls.end()
        for path, text in seen:
            assert path.read_bytes().endswith(text), path.name
        kept += len(seen)
        log = [what for what, _ in calls.log if what in ("fsync", "rename")]
        copied = "".join({"fsync": "s", "rename": "r"}[what] for what in log)
        assert copied.count("srs") >= len(APPENDED), "durable before it is in place, and after"
        for file in files:
            file.close()
        taker.release()
        if reached < place:
            break
    assert kept > len(APPENDED)
