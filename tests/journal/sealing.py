"""What the tests of sealing share: lines, sealers in other processes, and the check of a history."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import pytest

from klaviyo_audit.journal import sealer as sealer_module
from klaviyo_audit.journal import succession, treelog
from klaviyo_audit.journal import writer as writer_module
from klaviyo_audit.journal.checkpoint import open_checkpoint, read_notes
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.note import Verifier
from klaviyo_audit.journal.removals import read_removed
from klaviyo_audit.journal.sealer import Sealer
from klaviyo_audit.journal.segments import decompressed
from klaviyo_audit.journal.writer import JournalWriter
from tests.waiting import PATIENCE

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "tests.journal.sealing"])

NEVER = 1e9
"""Seconds."""
_STEP_SECONDS = 0.002


def entry(number, size=100):
    return {
        "v": 1,
        "id": f"id-{number}",
        "writer": None,
        "n": None,
        "timestamp": "2026-11-23T19:00:00.123456Z",
        "phase": "outcome",
        "action": "test",
        "user_id": "u",
        "origin": None,
        "metadata": {"x": "y" * size},
    }


def open_writer(folder):
    return JournalWriter(Path(folder), user_id="u", origin={}, opening={}, on_loss=print)


def write(folder, count, start=0):
    """Write entries as a writer of its own."""
    writer = open_writer(folder)
    for number in range(start, start + count):
        assert writer.append(entry(number)) is None
    writer.close()


def append(folder, data):
    """Write bytes as they are to the live file."""
    folder.mkdir(exist_ok=True)
    with (folder / "audit.jsonl").open("ab") as file:
        file.write(data)


def make_sealer(folder, **options):
    options = {"rotate_age": NEVER, "seal_interval": 0.0, "pause": 0, **options}
    return Sealer(Path(folder), **options)


def settle(sealer, seconds=0.0):
    """Step until there is nothing more to do, for at least some seconds.

    They are counted in steps: with a clock, a machine that stands still after the first one would
    leave out all others, and what one begins another has to finish.
    """
    limit = time.monotonic() + PATIENCE
    while sealer.step() or seconds > 0:
        assert time.monotonic() < limit, "the sealer never rests"
        time.sleep(_STEP_SECONDS)
        seconds -= _STEP_SECONDS


def seal(folder, **options):
    """Seal what there is, like the command; raise what the sealer reports."""
    errors = []
    sealer = make_sealer(folder, on_error=errors.append, **options)
    sealer.close(PATIENCE)
    if errors:
        raise errors[0]


def tidy(folder, **options):
    """Have what is due done that is no sealing: compression, retention."""
    sealer = make_sealer(folder, rotate_bytes=10**9, **options)
    settle(sealer)
    sealer.close()


def naive_root(hashes):
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\1" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def checkpoints_of(folder):
    """All checkpoints in the file's order, signatures checked."""
    if not (folder / "checkpoints").exists() or not (folder / "checkpoints").stat().st_size:
        return []
    verifier = Verifier.from_text((folder / "sealing.pub").read_text())
    with (folder / "checkpoints").open("rb") as file:
        return [
            open_checkpoint(stored.note, verifier) for stored in read_notes(file) if stored.note
        ]


def files_of(folder):
    """The content of every journal file."""
    found = {}
    being_rotated = folder.glob("sealer/*/audit-*.jsonl")
    for path in (*sorted(folder.glob("audit*.jsonl*")), *being_rotated):
        with path.open("rb") as file, decompressed(file, path.suffix) as content:
            found[path.name.split(".")[0]] = content.read()
    return found


def entries_of(folder):
    """How many lines there are that `write` wrote, apart from those about the journal."""
    return sum(content.count(b'"action":"test"') for content in files_of(folder).values())


def check_history(folder):
    """Every checkpoint is the tree of the first leaves; sizes rise; nothing is left out or twice.

    Returns the number of sealed lines.
    """
    removed = read_removed(folder)
    assert removed.size == 0, "for journals that are still whole"
    lines = list(leaves(folder))
    hashes = [sha256(b"\0" + line).digest() for line in lines]
    checkpoints = checkpoints_of(folder)
    sizes = [checkpoint.size for checkpoint in checkpoints]
    assert sizes == sorted(set(sizes))
    for checkpoint in checkpoints:
        assert checkpoint.root == naive_root(hashes[: checkpoint.size])
    if checkpoints:
        assert len(lines) == sizes[-1]
    in_files = Counter()
    for content in files_of(folder).values():
        *complete, tail = content.split(b"\n")
        in_files.update(complete)
        in_files.update([tail] if tail else [])
    assert not Counter(lines) - in_files
    return len(lines)


def check_all_sealed(folder):
    """`check_history`, and no line of any file is left out."""
    sealed = check_history(folder)
    in_files = sum(content.count(b"\n") for content in files_of(folder).values())
    tails = sum(not content.endswith(b"\n") for content in files_of(folder).values() if content)
    assert in_files <= sealed <= in_files + tails
    return sealed


class Child:
    """A process that can be stopped and killed."""

    def __init__(self, target, *args, **kwargs):
        self.process = PROCESSES.Process(target=target, args=args, kwargs=kwargs, daemon=True)
        self.process.start()
        self.pid = self.process.pid

    def send(self, name):
        os.kill(self.pid, name)
        if name == signal.SIGSTOP:
            while "(stopped)" not in Path(f"/proc/{self.pid}/status").read_text():
                time.sleep(0.001)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.join(PATIENCE)

    def wait(self):
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0


@contextlib.contextmanager
def child(target, *args, **kwargs):
    running = Child(target, *args, **kwargs)
    try:
        yield running
    finally:
        running.end()


def seal_forever(folder, options):
    """The work of a child."""
    make_sealer(folder, **options).run(threading.Event())


def write_many(folder, count, start, pause=0.0):
    """The work of a child."""
    writer = open_writer(folder)
    for number in range(start, start + count):
        assert writer.append(entry(number)) is None
        if pause and number % 10 == 0:
            time.sleep(pause)
    writer.close()


def without_syncing(monkeypatch):
    """Nothing survives a power loss any more, and tests about something else are fast."""
    for module in (os, treelog):
        for name in ("fsync", "fdatasync", "_sync"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda fd: None)


def quick(monkeypatch):
    """`without_syncing`, and with everything that waits for some time waiting less."""
    without_syncing(monkeypatch)
    for module, name, seconds in (
        (succession, "GRACE_SECONDS", 0.03),
        (succession, "_LATE_SECONDS", 0.01),
        (sealer_module, "_LOOK_SECONDS", 0.005),
        (writer_module, "_LOOK_SECONDS", 0.005),
    ):
        assert getattr(module, name) > seconds
        monkeypatch.setattr(module, name, seconds)


class SystemCalls:
    """Counts the calls that change or open files, and does something at one of them.

    What a process that is stopped, killed or out of disk space at that place would see. Calls of
    other threads are left alone: sealers that other tests have left running make some as well.
    """

    NAMES = (
        "open",
        "write",
        "fsync",
        "fdatasync",
        "ftruncate",
        "rename",
        "link",
        "unlink",
        "mkdir",
        "utime",
    )

    def __init__(self, monkeypatch):
        self.count = 0
        self.log = []
        self._at = None
        self._active = False
        self._thread = threading.get_ident()
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))
        monkeypatch.setattr(treelog, "_sync", os.fdatasync)

    def _watched(self, name, real):
        def call(*args, **kwargs):
            if self._active and threading.get_ident() == self._thread:
                self.log.append((name, args))
                self.count += 1
                if self.count == self._at:
                    self._active = False
                    self._what()
                    self._active = True
            return real(*args, **kwargs)

        return call

    def begin(self, at=None, what=None):
        """Count from here on; at the call with that number do `what` first."""
        self.count, self.log, self._at, self._what = 0, [], at, what
        self._active = True

    def end(self):
        self._active = False
        return self.count


def raiser(error):
    def raise_it():
        raise error

    return raise_it


class Scene:
    """A journal in which everything comes to be due: rotation, late lines, compression."""

    OPTIONS: ClassVar = {"rotate_bytes": 200, "compress": "gzip", "lease_seconds": 0}

    def __init__(self, folder, **options):
        self.folder = folder
        self.sealer = make_sealer(folder, **self.OPTIONS, **options)
        append(folder, b"first\n" * 20)
        settle(self.sealer)
        # A writer that keeps the file open when it is rotated.
        self.held = (folder / "audit.jsonl").open("ab")
        fcntl.flock(self.held, fcntl.LOCK_SH)
        append(folder, b"second\n" * 30)

    def act(self):
        steps(self.sealer)
        append(self.folder, b"third\n" * 40)
        if self.sealer._succession:
            self.sealer._succession._rotated_at = -NEVER
        steps(self.sealer)
        self.held.write(b"late\n")
        self.held.flush()
        steps(self.sealer)
        self.held.close()
        steps(self.sealer)
        append(self.folder, b"fourth\n" * 10)
        steps(self.sealer)


def steps(sealer):
    """Have a sealer do what is due without waiting for it."""
    sealer._save_at = 0.0
    for _ in range(6):
        sealer._look_at = 0.0
        if sealer._succession:
            sealer._succession._late_at = 0.0
        if sealer._chores:
            sealer._chores._next_at = 0.0
        sealer.step()


def die_at(folder, place):
    """The work of a child: play the scene, and be killed at one system call."""
    monkeypatch = pytest.MonkeyPatch()
    without_syncing(monkeypatch)
    scene = Scene(folder)
    SystemCalls(monkeypatch).begin(place, lambda: os.kill(os.getpid(), signal.SIGKILL))
    scene.act()
    scene.sealer.close()
