"""A journal under everything that happens to it, against a simple model of what is in it."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from klaviyo_audit.journal.findings import Kind, Severity
from tests.journal import sealing
from tests.journal.checking import verify


class Journal(RuleBasedStateMachine):
    """The model: which entries were written, and which of them others have taken away."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        sealing.quick(self.patch)
        self.base = Path(tempfile.mkdtemp())
        self.folder = self.base / "trail"
        self.writers = []
        self.written = 0
        self.tampered = False

    def teardown(self):
        for writer in self.writers:
            writer.close()
        self.patch.undo()
        shutil.rmtree(self.base)

    def _append(self, writer, count):
        for _ in range(count):
            assert writer.append(sealing.entry(self.written)) is None
            self.written += 1

    @precondition(lambda self: len(self.writers) < 3)
    @rule()
    def open(self):
        self.writers.append(sealing.open_writer(self.folder))

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), count=st.integers(1, 12))
    def append(self, which, count):
        self._append(self.writers[which % len(self.writers)], count)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2))
    def close(self, which):
        self.writers.pop(which % len(self.writers)).close()

    @rule(count=st.integers(1, 8))
    def another_process_is_killed(self, count):
        pid = os.fork()
        if pid == 0:
            writer = sealing.open_writer(self.folder)
            for number in range(count):
                writer.append(sealing.entry(self.written + number))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        self.written += count

    @precondition(lambda self: not self.tampered)
    @rule(rotate=st.booleans(), how=st.sampled_from(["none", "gzip", "zstd"]))
    def seal(self, rotate, how):
        sealing.seal(self.folder, rotate_bytes=1500 if rotate else 10**9)
        for writer in self.writers:
            writer._look_at = 0.0
        sealing.tidy(self.folder, compress=how)

    @precondition(lambda self: not self.tampered)
    @rule(share=st.floats(0.3, 1))
    def retain(self, share):
        if self.folder.exists():
            size = sum(path.stat().st_size for path in self.folder.glob("audit*.jsonl*"))
            sealing.tidy(self.folder, retain_bytes=int(size * share) + 1, compress="none")

    @rule()
    def check(self):
        if not list(self.folder.glob("audit*.jsonl*")):
            return
        report = verify(self.folder, own={writer.id for writer in self.writers})
        wrong = [one for one in report.findings if one.severity is Severity.ERROR]
        if self.tampered:
            assert wrong
            return
        assert wrong == []
        assert not [one for one in report.findings if one.kind is Kind.OPEN_INTENT]
        if not report.removed:
            assert sealing.entries_of(self.folder) == self.written
        assert sealing.entries_of(self.folder) <= self.written

    @precondition(lambda self: not self.tampered)
    @rule(delete=st.booleans())
    def somebody_takes_a_sealed_file(self, delete):
        """A sealed file that is renamed or deleted, by logrotate say."""
        paths = sorted(self.folder.glob("audit-*.jsonl*"))
        if not paths:
            return
        if delete:
            paths[-1].unlink()
        else:
            paths[-1].rename(self.base / "elsewhere")
        self.tampered = True


TestJournal = Journal.TestCase
TestJournal.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
