"""The writer: whole lines from any number of threads and processes, whatever happens to the file."""

import json
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from klaviyo_audit.journal import locks
from klaviyo_audit.journal.format import checksum_holds
from klaviyo_audit.journal.recovery import dead_writers, recover
from klaviyo_audit.journal.writer import JournalWriter
from tests.waiting import PATIENCE


def entry(action="test", **more):
    return {
        "v": 1,
        "id": "i",
        "writer": None,
        "n": None,
        "timestamp": "t",
        "phase": "outcome",
        "action": action,
        "user_id": "u",
        "origin": None,
        **more,
    }


class Losses(list):
    __call__ = list.append


@pytest.fixture
def losses():
    return Losses()


@pytest.fixture
def make(tmp_path, losses):
    def make(folder="trail"):
        return JournalWriter(
            tmp_path / folder,
            user_id="shop/root",
            origin={"service": "shop", "environment": None, "host": "web-1"},
            opening={"versions": {"klaviyo-audit": "0"}},
            on_loss=losses,
        )

    return make


@pytest.fixture
def writer(make):
    writer = make()
    yield writer
    writer.close()


def lines_of(path):
    raw = Path(path).read_bytes().splitlines()
    assert all(checksum_holds(line) for line in raw)
    return [json.loads(line) for line in raw]


def numbers(lines):
    """Each writer's numbers, sorted."""
    found = {}
    for line in lines:
        found.setdefault(line["writer"], []).append(line["n"])
    return {writer: sorted(of_writer) for writer, of_writer in found.items()}


def test_first_line_entries_and_goodbye(writer):
    assert writer.append(entry()) is None
    writer.close()
    first, middle, last = lines_of(writer.path)
    assert first["action"] == "journal.open"
    assert first["metadata"]["versions"] == {"klaviyo-audit": "0"}
    assert middle["origin"] == {
        "service": "shop",
        "host": "web-1",
        "pid": os.getpid(),
        "thread": threading.current_thread().name,
    }
    assert (last["action"], last["metadata"]) == ("journal.close", {"lines": 3})
    assert [line["n"] for line in (first, middle, last)] == [0, 1, 2]


def test_folder_and_file_belong_to_the_user_alone(writer, tmp_path):
    old = os.umask(0)
    try:
        writer.append(entry())
    finally:
        os.umask(old)
    folder = tmp_path / "trail"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "audit.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "writers" / writer.id).stat().st_mode) == 0o600
    assert (folder / ".gitignore").read_text().endswith("*\n")


def test_never_through_a_symbolic_link(make, tmp_path, losses):
    (tmp_path / "trail").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "trail" / "audit.jsonl").symlink_to(victim)
    writer = make()
    assert isinstance(writer.append(entry()), OSError)
    assert victim.read_text() == "precious"
    assert len(losses) == 1


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_no_regular_file_is_refused_without_hanging(make, tmp_path, kind):
    (tmp_path / "trail").mkdir()
    path = tmp_path / "trail" / "audit.jsonl"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    assert isinstance(make().append(entry()), OSError)


def test_after_closing_a_new_writer_goes_on(writer):
    writer.append(entry())
    first = writer.id
    writer.close()
    writer.append(entry())
    writer.close()
    writer.close()
    lines = lines_of(writer.path)
    assert numbers(lines) == {line["writer"]: [0, 1, 2] for line in lines}
    assert len(numbers(lines)) == 2
    assert [line for line in lines if line["n"] == 0][1]["metadata"]["previous"] == first


def test_life_lock_tells_the_living_from_the_dead(make, tmp_path):
    code = """
        import sys
        from pathlib import Path
        from klaviyo_audit.journal.writer import JournalWriter
        w = JournalWriter(Path("trail"), user_id="u", origin={}, opening={}, on_loss=print)
        w.open()
        print(w.id, flush=True)
        sys.stdin.read()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    with child:
        name = child.stdout.readline().decode().strip()
        life = tmp_path / "trail" / "writers" / name
        assert locks.is_locked(life)
        child.kill()
        child.wait()
        assert life.exists()
        assert not locks.is_locked(life)


def test_a_forked_child_is_a_writer_of_its_own(writer):
    writer.append(entry("parent"))
    parent = writer.id
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            writer.append(entry("child"))
            writer.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert writer.id == parent
    assert locks.is_locked(writer.directory / "writers" / parent)
    writer.append(entry("parent"))
    writer.close()
    lines = lines_of(writer.path)
    assert len(numbers(lines)) == 2
    for found in numbers(lines).values():
        assert found == list(range(len(found)))
    child = next(line for line in lines if line["action"] == "child")
    assert child["origin"]["pid"] == pid


def test_a_child_does_not_keep_its_dead_parent_alive(tmp_path):
    code = """
        import os, sys, time
        from pathlib import Path
        from klaviyo_audit.journal.writer import JournalWriter
        w = JournalWriter(Path("trail"), user_id="u", origin={}, opening={}, on_loss=print)
        w.open()
        print(w.id, flush=True)
        if os.fork() == 0:
            time.sleep(30)
        os.kill(os.getpid(), 9)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    with child:
        name = child.stdout.readline().decode().strip()
        child.wait()
        try:
            assert not locks.is_locked(tmp_path / "trail" / "writers" / name)
        finally:
            os.killpg(child.pid, 9)


def _append_many(folder, count, threads):
    writer = JournalWriter(Path(folder), user_id="u", origin={}, opening={}, on_loss=print)

    def work():
        for _ in range(count):
            assert writer.append(entry(metadata={"x": "y" * 200})) is None

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    writer.close()


def test_processes_and_threads_share_one_journal(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_append_many, args=(str(tmp_path / "trail"), 500, 4))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    lines = lines_of(tmp_path / "trail" / "audit.jsonl")
    assert [len(found) for found in numbers(lines).values()] == [2002] * 4
    for found in numbers(lines).values():
        assert found == list(range(2002))


def test_closing_while_threads_write(make):
    """A goodbye is the last of its writer, also when other threads never stop writing."""
    writer = make()
    stop = threading.Event()
    written = []

    def work():
        count = 0
        while not stop.is_set():
            count += writer.append(entry()) is None
        written.append(count)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(20):
        time.sleep(0.01)
        writer.close()
    stop.set()
    for worker in workers:
        worker.join()
    writer.close()
    lines = lines_of(writer.path)
    for found in numbers(lines).values():
        assert found == list(range(len(found)))
    for goodbye in (line for line in lines if line["action"] == "journal.close"):
        of_writer = [line for line in lines if line["writer"] == goodbye["writer"]]
        assert len(of_writer) == goodbye["metadata"]["lines"]
        assert of_writer[-1] is goodbye
    assert sum(line["action"] == "test" for line in lines) == sum(written)


def _wait_for_look():
    time.sleep(0.3)


@pytest.mark.parametrize("how", ["renamed", "deleted", "folder deleted"])
def test_a_journal_taken_away_is_noticed(writer, tmp_path, how):
    writer.append(entry())
    if how == "renamed":
        writer.path.rename(tmp_path / "old.jsonl")
    elif how == "deleted":
        writer.path.unlink()
    else:
        import shutil

        shutil.rmtree(writer.directory)
    _wait_for_look()
    assert writer.append(entry("after")) is None
    lines = lines_of(writer.path)
    assert [line["action"] for line in lines] == ["journal.reopen", "after"]
    assert lines[0]["metadata"]["reason"].startswith(
        "the journal was " + ("renamed" if how == "renamed" else "deleted")
    )
    assert lines[0]["n"] == 2


def test_a_linked_entry_is_never_in_a_deleted_file(writer):
    writer.append(entry())
    writer.path.unlink()
    assert writer.append(entry("linked"), linked=True) is None
    assert [line["action"] for line in lines_of(writer.path)] == ["journal.reopen", "linked"]


def test_a_truncated_journal_is_noticed(writer):
    writer.append(entry())
    _wait_for_look()
    writer.append(entry())
    os.truncate(writer.path, 0)
    _wait_for_look()
    writer.append(entry("after"))
    assert [line["action"] for line in lines_of(writer.path)] == ["journal.truncated", "after"]


def test_unwritable_folder_then_mended(make, tmp_path, losses):
    (tmp_path / "trail").write_text("a file where the folder should be")
    writer = make()
    error = writer.open()
    assert isinstance(error, OSError)
    for _ in range(3):
        assert writer.append(entry("lost")) is error or True
    assert writer.lost == 3
    assert len(losses) == 3
    (tmp_path / "trail").unlink()
    assert writer.open() is None
    writer.append(entry("kept"))
    writer.close()
    lines = lines_of(writer.path)
    assert [line["action"] for line in lines] == [
        "journal.open",
        "journal.gap",
        "kept",
        "journal.close",
    ]
    gap = lines[1]
    assert gap["phase"] == "gap"
    facts = gap["metadata"]
    assert facts["count"] == 3
    assert facts["operations"] == {"lost": 3}
    assert facts["from"] <= facts["to"]
    assert "numbers" not in facts, "no number was used up"


@pytest.fixture
def size_limit():
    """A limit on file size stands in for a full disk: short writes, then errors."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_short_write_is_told_and_nothing_is_rewritten(writer, size_limit, losses):
    writer.append(entry("before"))
    size = writer.path.stat().st_size
    size_limit(size + 100)
    for _ in range(3):
        assert isinstance(writer.append(entry("lost")), OSError)
    size_limit(resource.RLIM_INFINITY)
    assert writer.append(entry("after")) is None
    data = writer.path.read_bytes()
    torn, found, rest = data[size:].partition(b'{"v":1,"id":"0')
    assert len(torn) == 100
    assert found
    gap, after = (json.loads(line) for line in (found + rest).splitlines())
    assert gap["metadata"]["count"] == 3
    assert gap["metadata"]["torn"] == [{"offset": size, "length": 100}]
    used = {n for first, last in gap["metadata"]["numbers"] for n in range(first, last + 1)}
    assert used | {0, 1, gap["n"], after["n"]} == set(range(after["n"] + 1))
    assert len(losses) == 3


def test_full_disk_at_the_first_line(make, size_limit, losses):
    writer = make()
    size_limit(50)
    assert isinstance(writer.append(entry("lost")), OSError)
    size_limit(resource.RLIM_INFINITY)
    assert writer.open() is None
    writer.append(entry("after"))
    writer.close()
    data = writer.path.read_bytes()
    lines = [json.loads(b'{"v":' + piece) for piece in data[50:].split(b'{"v":')[1:]]
    assert [line["n"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["action"] == "journal.open"
    assert lines[1]["metadata"]["torn"][0]["length"] == 50


def test_unencodable_values_lose_nothing(writer):
    writer.append(entry("lone \ud800 surrogate", metadata={"big": 2**70, "odd": object()}))
    line = lines_of(writer.path)[-1]
    assert line["action"] == "lone \\ud800 surrogate"
    assert line["metadata"] == {"big": "[int]", "odd": "[object]"}


def test_line_separators_stay_inside_the_line(writer):
    writer.append(entry("a\u2028b\u2029c\nd\re\x00f\x85"))
    raw = writer.path.read_text(encoding="utf-8")
    assert len(raw.split("\n")) == 3
    assert "\u2028" not in raw
    assert "\u2029" not in raw
    assert lines_of(writer.path)[-1]["action"] == "a\u2028b\u2029c\nd\re\x00f\x85"


def test_a_process_that_looks_at_its_own_lock_keeps_it(make):
    """Closing any descriptor of the file would drop the lock: POSIX."""
    writer = make()
    writer.open()
    life = writer.directory / "writers" / writer.id
    assert locks.is_locked(life)
    other = make()
    other.open()
    assert locks.is_locked(writer.directory / "writers" / other.id)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if locks.is_locked(life) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    writer.close()
    other.close()


def test_a_life_lock_is_never_seen_unlocked_while_its_owner_lives(tmp_path):
    """Recovery once took a writer for dead between making its file and locking it."""
    (tmp_path / "trail" / "writers").mkdir(parents=True)
    over = tmp_path / "over"
    watcher = os.fork()
    if watcher == 0:
        status = 1
        try:
            wrong = False
            while not over.exists():
                for path in (tmp_path / "trail" / "writers").iterdir():
                    wrong |= (
                        locks.is_life_lock(path.name)
                        and not locks.is_locked(path)
                        and path.exists()
                    )
            status = int(wrong)
        finally:
            os._exit(status)
    for number in range(8000):
        locks.LifeLock(tmp_path / "trail" / "writers" / f"w{number}").release(remove=True)
    over.touch()
    assert os.waitpid(watcher, 0)[1] == 0


def test_what_was_lost_does_not_keep_the_goodbye_away(writer, size_limit):
    writer.append(entry("before"))
    size_limit(writer.path.stat().st_size + 100)
    error = writer.append(entry("lost"))
    size_limit(resource.RLIM_INFINITY)
    writer.close()
    assert isinstance(error, OSError)  # kept by a program that logs it, say
    last = json.loads(writer.path.read_bytes().splitlines()[-1])
    assert last["action"] == "journal.close"


def test_closing_tells_at_last_what_was_lost(make, size_limit):
    writer = make()
    size_limit(0)
    writer.append(entry("lost"))
    size_limit(resource.RLIM_INFINITY)
    writer.close()
    lines = [json.loads(line) for line in writer.path.read_bytes().splitlines()]
    assert [line["action"] for line in lines] == ["journal.open", "journal.gap", "journal.close"]
    assert lines[1]["metadata"]["operations"] == {"lost": 1}


CLOSED_WHILE_A_THREAD_IS_IN_A_LINE = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from klaviyo_audit.journal.writer import JournalWriter
from tests.journal.test_writer import entry

class Slow(threading.Thread):
    @property
    def name(self):
        inside.set()
        threading.Event().wait()

    @name.setter
    def name(self, value):
        pass

inside = threading.Event()
writer = JournalWriter(
    Path(sys.argv[1]), user_id="u", origin={}, opening={}, on_loss=lambda error: None
)
writer.append(entry("before"))
Slow(target=writer.append, args=(entry("never"),), daemon=True).start()
inside.wait()
print(writer.id, flush=True)
writer.close()
print("closed", flush=True)
sys.stdin.read()
"""


def test_closing_while_a_thread_hangs_in_a_line(make, tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CLOSED_WHILE_A_THREAD_IS_IN_A_LINE, tmp_path / "trail", root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        writer = program.stdout.readline().decode().strip()
        began = time.monotonic()
        assert program.stdout.readline() == b"closed\n"
        assert time.monotonic() - began < PATIENCE, "it is not waited for, however long"
        lock = tmp_path / "trail" / "writers" / writer
        assert locks.is_locked(lock), "a writer that may still write does not look dead"
        program.stdin.close()
        program.wait(PATIENCE)
    assert dead_writers(tmp_path / "trail", []) == [writer]
    later = make()
    recover(later, [later.id])
    later.close()
    lines = [json.loads(line) for line in later.path.read_bytes().splitlines()]
    told = [line["metadata"] for line in lines if line["action"] == "journal.recover"]
    assert [(facts["writer"], facts["last"]) for facts in told] == [(writer, 1)]
    assert not lock.exists()
