"""Faults in the sealer's system calls, and a sealer that is stopped there: no line is lost, and
never are two histories signed."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from klaviyo_audit.journal import succession
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.merkle import leaf_hash
from klaviyo_audit.journal.removals import read_removed
from tests.faults import strace
from tests.faults.workers.sealer_program import LINES, ROUNDS, feed, sealer_of, settle
from tests.journal.sealing import checkpoints_of, naive_root
from tests.waiting import PATIENCE

ALL = os.environ.get("FAULTS_ALL") == "1"
"""Every fault at every occurrence of every system call, not a sample: ``FAULTS_ALL=1``."""
FAULTS_A_TEST = 60
STOPS_A_TEST = 18
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
LEASE_SECONDS = 0.25


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    # `sealer_of` sets it for good, which is meant for a process of its own.
    monkeypatch.setattr(succession, "GRACE_SECONDS", 0.0)


class Scripted:
    """Runs the sealing program, again and again in the same folder."""

    def __init__(self, warm, tmp_path):
        self._warm = warm
        self.run = tmp_path / "run"
        self.journal = self.run / "trail"
        self.mirror = self.run / "mirror"

    def prepare(self):
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir()
        return self._warm.start(
            "scripted_sealing", self.run, journal=str(self.journal), mirror=str(self.mirror)
        )

    @property
    def said(self):
        return (self.run / "stdout").read_text().splitlines()

    @property
    def fed(self):
        """Hashes of all lines that were written, in their order."""
        return [bytes.fromhex(line) for line in self.mirror.read_text().splitlines()]

    def seal_the_rest(self):
        """As the next sealer does, which meets no fault."""
        errors = []
        sealer = sealer_of(str(self.journal), on_error=errors.append, lease_seconds=LEASE_SECONDS)
        deadline = time.monotonic() + PATIENCE
        while not sealer.is_sealing:
            assert time.monotonic() < deadline, "nobody gets to seal"
            sealer.step()
            time.sleep(0.01)
        settle(sealer)
        settle(sealer)
        sealer.close()
        assert errors == []

    def check(self):
        """`check_history`, and nothing is left of whoever was stopped or killed."""
        assert (self.run / "stderr").read_text() == ""
        self.check_history()
        (free,) = (self.journal / "sealer").iterdir()
        assert free.name.endswith(".free")
        assert list(free.iterdir()) == []

    def check_history(self):
        """All lines that were written are sealed, in every checkpoint there ever was."""
        hashes = self.fed
        removed = read_removed(self.journal)
        left = [leaf_hash(line) for line in leaves(self.journal)]
        assert removed.size + len(left) == len(hashes), "lines are lost"
        assert left == hashes[removed.size :], "lines are not what was written"
        assert removed.root() == naive_root(hashes[: removed.size])
        checkpoints = checkpoints_of(self.journal)
        sizes = [checkpoint.size for checkpoint in checkpoints]
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == len(hashes)
        for checkpoint in checkpoints:
            assert checkpoint.root == naive_root(hashes[: checkpoint.size]), "two histories"


def has_ended(pid):
    """Whether a process is gone, or only waits for its parent to ask how it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    return "State:\tZ" in status


def wait_until_stopped(log, program):
    """Whether the program was stopped; False when it has come to its end instead."""
    deadline = time.monotonic() + PATIENCE
    while "stopped by SIGSTOP" not in log.read_text():
        if has_ended(program.pid):
            return False
        assert time.monotonic() < deadline, "hung"
        time.sleep(0.005)
    return True


def report(capsys, what, count, of, figures, began):
    kinds = ", ".join(f"{name} {number}" for name, number in sorted(figures.items()))
    with capsys.disabled():
        print(f"\n{what}: {count} of {of} in {time.perf_counter() - began:.0f} s ({kinds})")


@pytest.fixture
def scripted(warm, tmp_path):
    return Scripted(warm, tmp_path)


@pytest.fixture
def tracer(needed):
    return needed("strace", "apt-get install strace")


def places(tracer, scripted, log):
    """Every system call on the journal's folder: its name and which occurrence it is."""
    assert strace.run(tracer, scripted.prepare(), log, [], follow=False) == 0
    assert scripted.said == [*(f"round {number}" for number in range(ROUNDS)), "closed"]
    scripted.check()
    # What the run is for has happened in it.
    names = [path.name for path in scripted.journal.iterdir()]
    assert any(name.endswith(".gz") for name in names)
    assert read_removed(scripted.journal).size > 0
    counts, paths = strace.calls_on(log, scripted.journal)
    filters = [option for path in paths for option in ("-P", path)]
    return filters, [(call, at) for call, count in counts.items() for at in range(1, count + 1)]


def sample(cases, count, seed):
    """Some of each system call and kind of fault, the same each time."""
    chance = random.Random(seed)
    groups = {}
    for case in cases:
        groups.setdefault((case[0], *case[2:]), []).append(case)
    for group in groups.values():
        chance.shuffle(group)
    order = list(groups.values())
    chance.shuffle(order)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*order))
    return [case for case in turns if case is not None][:count]


@pytest.mark.timeout(3600 if ALL else 600)
def test_a_fault_in_each_system_call_of_the_sealer(scripted, tracer, tmp_path, capsys):
    log = tmp_path / "strace"
    filters, calls = places(tracer, scripted, log)
    cases = [(*call, what) for call in calls for what in FAULTS]
    chosen = cases if ALL else sample(cases, FAULTS_A_TEST, 1)
    failures, figures = [], Counter()
    began = time.perf_counter()
    for call, at, what in chosen:
        inject = f"inject={call}:{what}:when={at}"
        try:
            program = scripted.prepare()
            status = strace.run(
                tracer,
                program,
                log,
                [*filters, "-e", f"trace={call}", "-e", inject],
                follow=False,
            )
            if "SIGKILL" in what:
                figures["not reached"] += status == 0
                assert status in (-9, 0)
            else:
                figures["not reached"] += strace.INJECTED not in log.read_text()
                assert status == 0, (scripted.run / "stderr").read_text()
                assert scripted.said[-1] == "closed"
            feed(str(scripted.journal), str(scripted.mirror))
            scripted.seal_the_rest()
            scripted.check()
        except (AssertionError, TimeoutError, OSError) as error:
            failures.append(f"{what} at {call} {at}: {str(error).splitlines()[0]}")
        figures[call] += 1
    report(capsys, "sealer, faults", len(chosen), len(cases), figures, began)
    assert not failures, "\n".join(failures)
    assert figures["not reached"] <= len(chosen) // 20


@pytest.mark.timeout(3600 if ALL else 600)
def test_a_sealer_that_is_stopped_at_a_system_call(scripted, tracer, tmp_path, capsys):
    """Writers do not notice; another sealer takes over; when it goes on it damages nothing."""
    log = tmp_path / "strace"
    filters, cases = places(tracer, scripted, log)
    chosen = cases if ALL else sample(cases, STOPS_A_TEST, 2)
    failures, figures = [], Counter()
    began = time.perf_counter()
    for call, at in chosen:
        options = [*filters, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGSTOP:when={at}"]
        program = scripted.prepare()
        try:
            with strace.running(tracer, program, log, options, follow=False):
                if not wait_until_stopped(log, program):
                    figures["not reached"] += 1
                    program.wait()
                    continue
                # Writers that waited for the stopped sealer would never come back.
                feed(str(scripted.journal), str(scripted.mirror), LINES)
                scripted.seal_the_rest()
                scripted.check_history()
                program.signal(signal.SIGCONT)
                assert program.wait() == 0
            scripted.seal_the_rest()
            scripted.check()
        except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
            failures.append(f"stopped at {call} {at}: {str(error).splitlines()[0]}")
            program.kill()
        figures[call] += 1
    report(capsys, "sealer, stopped", len(chosen), len(cases), figures, began)
    assert not failures, "\n".join(failures)
    assert figures["not reached"] <= len(chosen) // 10
