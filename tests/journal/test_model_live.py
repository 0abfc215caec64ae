"""Two live processes beside each other in one journal, killed and started again, against a model.

A few examples here; KLAVIYO_AUDIT_MODEL_EXAMPLES=300 makes as many, and prints what was done.
"""

import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from klaviyo_audit.journal.findings import Kind, Severity
from klaviyo_audit.journal.removals import read_removed
from tests.journal import sealing
from tests.journal.checking import verify
from tests.waiting import PATIENCE

EXAMPLES = int(os.environ.get("KLAVIYO_AUDIT_MODEL_EXAMPLES", "8"))
DONE = Counter()
_ID = re.compile(rb'"id":"id-(\d+)"')


def obey(folder, pipe):
    """The work of a child: a writer of its own, and what it is told to do with it."""
    sealing.quick(pytest.MonkeyPatch())
    writer = sealing.open_writer(folder)
    pipe.send("open")
    while True:
        start, count = pipe.recv()
        for number in range(start, start + count):
            assert writer.append(sealing.entry(number)) is None
        if not count:
            writer.close()
        pipe.send("done")


class Process:
    """A live process with a writer, and the model of what it has written."""

    def __init__(self, folder):
        self.pipe, other = sealing.PROCESSES.Pipe()
        self.child = sealing.Child(obey, folder, other)
        other.close()
        self.sure = []
        """Numbers of entries whose `append` has returned."""
        self.perhaps = range(0)
        """Numbers of those that were being written when it was killed, in this order."""
        assert self._answer() == "open"

    def _answer(self):
        assert self.pipe.poll(PATIENCE), "the process does not answer"
        return self.pipe.recv()

    def tell(self, start, count):
        self.pipe.send((start, count))
        self.perhaps = range(start, start + count)

    def wait(self):
        assert self._answer() == "done"
        self.sure += self.perhaps
        self.perhaps = range(0)

    def close(self):
        self.tell(0, 0)
        self.wait()
        self.child.end()

    def check(self, found):
        """What is there of it is all it has written, but for the oldest: those may be removed.

        Returns:
            How many are not there.
        """
        there = [number in found for number in self.sure]
        missing = there.count(False)
        assert there == [False] * missing + [True] * (len(there) - missing)
        written = [number in found for number in self.perhaps]
        if not missing:
            assert written == sorted(written, reverse=True), "in the order of writing"
        return missing


class TwoProcesses(RuleBasedStateMachine):
    """Whatever happens to them, both verifiers find it intact, and it holds what was written."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        sealing.quick(self.patch)
        self.base = Path(tempfile.mkdtemp())
        self.folder = self.base / "trail"
        self.alive, self.ended = {}, []
        self.next = 0

    def teardown(self):
        try:
            self.check()
        finally:
            for process in self.alive.values():
                process.child.end()
            self.patch.undo()
            shutil.rmtree(self.base)

    @initialize()
    def both_start(self):
        for which in (0, 1):
            self.alive[which] = Process(self.folder)
            self._tell(which, 1)
            self.alive[which].wait()

    def _tell(self, which, count):
        self.alive[which].tell(self.next, count)
        self.next += count

    @precondition(lambda self: len(self.alive) < 2)
    @rule()
    def start_again(self):
        which = 1 if 0 in self.alive else 0
        self.alive[which] = Process(self.folder)
        DONE["started again"] += 1

    @precondition(lambda self: self.alive)
    @rule(count=st.integers(1, 30), rotate=st.booleans(), how=st.sampled_from(["none", "gzip"]))
    def all_append_at_once(self, count, rotate, how):
        for which in self.alive:
            self._tell(which, count)
        if rotate:
            self._seal(rotate=True, how=how)
        for process in self.alive.values():
            process.wait()
        DONE["appended"] += count * len(self.alive)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 1), count=st.integers(1, 12))
    def one_appends(self, which, count):
        which = which if which in self.alive else 1 - which
        self._tell(which, count)
        self.alive[which].wait()
        DONE["appended"] += count

    @precondition(lambda self: self.alive)
    @rule(
        which=st.integers(0, 1),
        count=st.sampled_from([0, 300]),
        after=st.floats(0, 0.01),
        rotate=st.booleans(),
    )
    def one_is_killed(self, which, count, after, rotate):
        """While it does nothing, or while it writes; the other one writes on."""
        which = which if which in self.alive else 1 - which
        others = [one for one in self.alive if one != which]
        for one in [*others, which] if count else others:
            self._tell(one, count or 5)
        time.sleep(after)
        self.alive[which].child.send(signal.SIGKILL)
        if rotate:
            self._seal(rotate=True, how="none")
        for one in others:
            self.alive[one].wait()
        process = self.alive.pop(which)
        process.child.end()
        self.ended.append(process)
        DONE["killed"] += 1

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 1))
    def one_says_goodbye(self, which):
        process = self.alive.pop(which if which in self.alive else 1 - which)
        process.close()
        self.ended.append(process)

    @rule(rotate=st.booleans(), how=st.sampled_from(["none", "gzip", "zstd"]))
    def seal(self, rotate, how):
        self._seal(rotate=rotate, how=how)

    def _seal(self, *, rotate, how):
        sealing.seal(self.folder, rotate_bytes=1500 if rotate else 10**9)
        sealing.tidy(self.folder, compress=how)
        DONE["sealed"] += 1

    @rule(share=st.floats(0.3, 1))
    def retain(self, share):
        before = read_removed(self.folder).size
        size = sum(path.stat().st_size for path in self.folder.glob("audit*.jsonl*"))
        sealing.tidy(self.folder, retain_bytes=int(size * share) + 1, compress="none")
        DONE["lines removed"] += read_removed(self.folder).size - before

    @rule()
    def check(self):
        report = verify(self.folder)
        assert [one for one in report.findings if one.severity is Severity.ERROR] == []
        assert not [one for one in report.findings if one.kind is Kind.OPEN_INTENT]
        removed = read_removed(self.folder).size
        assert report.removed == removed
        contents = sealing.files_of(self.folder).values()
        numbers = [int(text) for content in contents for text in _ID.findall(content)]
        found = set(numbers)
        assert len(found) == len(numbers), "an entry is there twice"
        processes = [*self.alive.values(), *self.ended]
        known = {number for one in processes for number in (*one.sure, *one.perhaps)}
        assert found <= known
        assert sum(process.check(found) for process in processes) <= removed
        DONE["checked"] += 1


TestTwoProcesses = TwoProcesses.TestCase
TestTwoProcesses.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def _figures(request):
    yield
    if EXAMPLES > 8:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\ntwo processes, {EXAMPLES} examples: {dict(DONE)}")
        assert DONE["killed"]
        assert DONE["lines removed"]
