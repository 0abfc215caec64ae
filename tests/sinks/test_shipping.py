"""Delivery by threads of the program: flush, end, fork, sinks that hang, no journal."""

import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks import shipping
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.memory import InMemorySink
from tests.journal.sealing import make_sealer, settle
from tests.sinks.conftest import Recorded
from tests.waiting import PATIENCE, wait_for


class Hangs:
    """Does not come back from the first so many calls before it is let go."""

    def __init__(self, name="hangs", times=10**9):
        self.name = name
        self.times = times
        self.calls = 0
        self.entries = []
        self.go = threading.Event()

    def deliver(self, entries):
        self.calls += 1
        if self.calls <= self.times:
            self.go.wait(1000)
        self.entries += entries

    def close(self):
        pass


def run(code, folder, **env):
    return subprocess.run(
        # Python 3.12 and later warn of every fork of a program with threads.
        [sys.executable, "-W", "ignore:This process", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
        env={
            **os.environ,
            "KLAVIYO_AUDIT_DIR": "trail",
            "KLAVIYO_AUDIT_PSEUDONYM_KEY": "00" * 32,  # without one that is said on standard error
            **env,
        },
    )


def bookmark(folder, name):
    return json.loads((folder / "sinks" / name / "bookmark").read_bytes())


def threads(sink):
    name = f"klaviyo-audit-{sink}"
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_flush_returns_when_everything_was_delivered(trail):
    sink = Recorded()
    with Auditor(journal=trail.folder, sinks=[sink], ship_batch_age=60) as auditor:
        for n in range(20):
            auditor.record(f"e{n}")
            assert auditor.flush(PATIENCE)
            assert sink.actions[-1] == f"e{n}"
    assert sink.entries[-1].action == "journal.close"
    assert sink.closed


def test_close_delivers_the_rest(trail):
    sink = Recorded()
    with Auditor(journal=trail.folder, sinks=[sink], ship_batch_age=60) as auditor:
        auditor.record("a")
        assert auditor.flush(PATIENCE)
        condition = auditor.sink_conditions["recorded"]
        auditor.record("b")
    assert (condition.delivered, condition.failures) == (4, 0)
    assert [e.to_dict() for e in sink.entries] == trail.lines()


def test_flush_says_when_it_was_not(trail):
    sink = Recorded()
    sink.raises = [Retry(60)] * 100
    with Auditor(journal=trail.folder, sinks=[sink], ship_exit_wait=0.1) as auditor:
        auditor.record("a")
        condition = auditor.sink_conditions["recorded"]
        wait_for(lambda: condition.failures)
        begun = time.monotonic()
        assert auditor.flush(0.3) is False
        assert 0.3 <= time.monotonic() - begun < 50
        assert (condition.delivered, condition.failures) == (0, 1)
        assert condition.waiting_since == trail.lines()[0]["timestamp"]


@pytest.mark.parametrize("rotated", [False, True])
def test_flush_is_not_deceived_by_a_clock_that_was_set_back(trail, shipper, monkeypatch, rotated):
    """Another one ships; what waits for it is stamped later than the flush."""
    slow = Recorded()
    slow.raises = [None, *[Retry()] * 100]
    other = shipper(slow)
    with Auditor(journal=trail.folder, sinks=[Recorded()], ship="off", seal="off") as auditor:
        auditor.record("before")
    assert other.run_once(PATIENCE)
    with Auditor(
        journal=trail.folder, sinks=[Recorded()], seal="off", ship_exit_wait=0.1
    ) as auditor:
        auditor.record("a")
        monkeypatch.setattr(shipping.clock, "now", lambda: "2020-01-01T00:00:00.000000Z")
        assert not auditor.flush(0.5)
        if rotated:
            sealer = make_sealer(trail.folder, rotate_bytes=1)
            settle(sealer, 0.2)
            sealer.close()
        slow.raises = []
        assert other.run_once(PATIENCE)
        assert auditor.flush(PATIENCE)
    assert "a" in slow.actions


def test_old_entries_of_other_processes_are_delivered_too(trail, write):
    write("a")
    sink = Recorded()
    with Auditor(journal=trail.folder, sinks=[sink]) as auditor:
        auditor.record("b")
    assert sink.actions == ["a", "b"]


def test_a_sink_in_memory_begins_now_and_sees_its_own_process(trail, write):
    write("a")
    sink = InMemorySink()
    with Auditor(journal=trail.folder, sinks=[sink]) as auditor:
        auditor.record("b")
        done = run(
            "from klaviyo_audit.default import default_auditor; default_auditor().record('c')",
            trail.folder.parent,
        )
        assert done.returncode == 0, done.stderr
        auditor.record("d")
        assert auditor.flush(PATIENCE)
        actions = [e.action for e in sink.entries if e.phase == "event"]
    assert actions == ["b", "d"]
    assert not (trail.folder / "sinks").exists(), "it leaves no trace"


def test_a_hung_sink_holds_up_neither_others_nor_the_program(trail, caplog):
    hangs, other = Hangs("stuck"), Recorded()
    settings = {"ship_deadline": 0.1, "ship_retry_most": 0.05, "ship_exit_wait": 0.3}
    auditor = Auditor(journal=trail.folder, sinks=[hangs, other], **settings)
    for n in range(50):
        auditor.record(f"e{n}")
    wait_for(lambda: len(other.actions) >= 50)
    shipper = auditor._shipping.threads[0]
    state = trail.folder / "sinks" / "stuck" / "state"
    wait_for(lambda: state.exists() and json.loads(state.read_bytes())["state"] == "hung")
    time.sleep(0.5)
    assert hangs.calls == 2, "one was given up, and one more is waited for"
    assert shipper.condition.overdue == 2
    assert len(threads("stuck")) == 2
    assert json.loads(state.read_bytes())["overdue"] == 2
    begun = time.monotonic()
    auditor.close()
    assert time.monotonic() - begun < PATIENCE, "it hangs for 1,000 s"
    hangs.go.set()


def test_what_a_hung_attempt_brings_late_counts(trail):
    hangs = Hangs(times=2)
    settings = {"ship_deadline": 0.1, "ship_retry_most": 0.05}
    with Auditor(journal=trail.folder, sinks=[hangs], **settings) as auditor:
        auditor.record("a")
        while hangs.calls < 2:
            time.sleep(0.01)
        hangs.go.set()
        assert auditor.flush(PATIENCE)
    assert [e.action for e in hangs.entries].count("a") <= 2
    assert bookmark(trail.folder, "hangs")["delivered"] == len(trail.lines())


def test_a_sink_that_flushes_or_records_does_not_wait_for_itself(trail):
    class Reenters(Recorded):
        def deliver(self, entries):
            super().deliver(entries)
            assert auditor.record("again") is None
            assert auditor.flush(PATIENCE) is False

    sink = Reenters()
    with Auditor(journal=trail.folder, sinks=[sink]) as auditor:
        auditor.record("a")
        assert auditor.flush(PATIENCE)
    assert [line["action"] for line in trail.lines()] == ["journal.open", "a", "journal.close"]


def test_what_a_sink_calls_is_not_audited(trail, client):
    class Calls(Recorded):
        def deliver(self, entries):
            super().deliver(entries)
            klaviyo.Profiles.get_profile("01H")

    sink = Calls()
    with Auditor(journal=trail.folder, sinks=[sink]) as auditor:
        klaviyo = auditor.audit(client)
        auditor.record("a")
        assert auditor.flush(PATIENCE)
    assert trail.outcomes() == []


def test_two_sinks_of_one_name(trail):
    with pytest.raises(ConfigurationError, match="two sinks are called 'recorded'"):
        Auditor(journal=trail.folder, sinks=[Recorded(), Recorded()])


def test_shipping_can_be_left_to_another_process(trail, tmp_path):
    done = run(
        "from klaviyo_audit.default import default_auditor; default_auditor().record('c')",
        tmp_path,
        KLAVIYO_AUDIT_SINKS="stdout",
        KLAVIYO_AUDIT_SHIP="off",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (trail.folder / "sinks").exists()
    with pytest.raises(ConfigurationError, match="no sink 'stdot'"):
        Auditor(journal=trail.folder, sinks=["stdot"], ship="off")


def test_a_program_that_just_ends_has_delivered(tmp_path):
    done = run(
        """
        from klaviyo_audit.default import default_auditor
        for n in range(10):
            default_auditor().record(f"e{n}")
        """,
        tmp_path,
        KLAVIYO_AUDIT_SINKS="stdout",
    )
    assert done.stderr == ""
    actions = [json.loads(line)["action"] for line in done.stdout.splitlines()]
    assert actions == ["journal.open", *(f"e{n}" for n in range(10)), "journal.close"]


def test_entries_made_at_exit_are_delivered_where_no_thread_can_start(tmp_path):
    """Python 3.12 and later start no thread any more then."""
    done = run(
        """
        import atexit
        def late():
            # Registered before the auditor is there, so it runs when that is closed.
            from klaviyo_audit import Auditor
            with Auditor(sinks=["stdout"], service="late") as auditor:
                auditor.record("late")
        atexit.register(late)
        """,
        tmp_path,
    )
    assert done.stderr == ""
    assert '"action":"late"' in done.stdout


@pytest.mark.parametrize("hung", [False, True])
def test_the_end_waits_no_longer_than_it_may(tmp_path, hung):
    done = run(  # which lets it have less time than the hang takes, or than a pause can
        f"""
        import time
        from klaviyo_audit import Auditor
        class Sink:
            name = "down"
            def deliver(self, entries):
                if {hung}:
                    time.sleep(3600)
                raise OSError("down")
            def close(self):
                pass
        auditor = Auditor(sinks=[Sink()], ship_exit_wait=0.5)
        auditor.record("a")
        """,
        tmp_path,
    )
    assert done.returncode == 0


def test_forked_children_go_on(tmp_path):
    done = run(
        """
        import os, sys
        from klaviyo_audit import Auditor
        auditor = Auditor(sinks=["stdout"])
        auditor.record("parent")
        assert auditor.flush(60)
        pid = os.fork()
        auditor.record("child" if pid == 0 else "parent-again")
        assert auditor.flush(60)
        if pid:
            os.waitpid(pid, 0)
        """,
        tmp_path,
        KLAVIYO_AUDIT_SHIP_EXIT_WAIT="60",
    )
    assert done.stderr == ""
    actions = [json.loads(line)["action"] for line in done.stdout.splitlines()]
    wanted = {"parent", "child", "parent-again"}
    assert wanted <= set(actions)
    assert len(actions) == len(set(actions)) + 2, "an opening and a goodbye of each"


def test_the_console_of_a_forked_child_shows_what_the_child_records(tmp_path):
    done = run(
        """
        import os
        from klaviyo_audit import Auditor
        auditor = Auditor(sinks=["console"])
        auditor.record("before")
        for name in ("first", "second"):
            if os.fork() == 0:
                auditor.record(name)
                assert auditor.flush(60)
                os._exit(0)
            os.wait()
        """,
        tmp_path,
        KLAVIYO_AUDIT_SHIP_EXIT_WAIT="60",
    )
    assert done.returncode == 0
    assert [done.stderr.count(name) for name in ("before", "first", "second")] == [1, 1, 1]


def test_a_child_outlives_its_parent_and_ships(tmp_path):
    done = run(
        """
        import os, time
        from klaviyo_audit import Auditor
        auditor = Auditor(sinks=["stdout"])
        assert auditor.flush(60)
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == parent:
            time.sleep(0.01)
        auditor.record("child")
        """,
        tmp_path,
        KLAVIYO_AUDIT_SHIP_EXIT_WAIT="60",
    )
    assert '"action":"child"' in done.stdout
    assert done.stderr == ""


@pytest.fixture
def nowhere(tmp_path):
    """A file where the journal's folder should be: root could write to any folder."""
    (tmp_path / "trail").write_text("in the way")
    return tmp_path / "trail"


def test_without_a_journal_entries_wait_in_memory(nowhere, said, client):
    sink = Recorded()
    with Auditor(journal=nowhere, sinks=[sink]) as auditor:
        auditor.audit(client).Profiles.get_profile("01H")
        auditor.record("b")
        assert auditor.flush(PATIENCE)
        assert sink.actions == ["klaviyo.profiles.get_profile", "b"]
        auditor.record("c")
    assert sink.actions[-1] == "c"
    assert [entry.n for entry in sink.entries] == list(range(5))
    assert sink.entries[0].action == "journal.open"
    assert sink.entries[-1].action == "journal.close"
    assert sink.entries[-1].metadata["lines"] == 5
    (message,) = said()
    assert "cannot be opened" in message
    assert "At most 10000 entries wait in memory" in message
    assert nowhere.read_text() == "in the way"


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [("drop_newest", ["e0", "e1", "e2", "e3"]), ("drop_oldest", ["e6", "e7", "e8", "e9"])],
)
def test_what_finds_no_room_is_counted_and_told_as_a_gap(nowhere, caplog, overflow, kept):
    sink = Hangs("slow")
    settings = {"queue_entries": 4, "queue_overflow": overflow}
    with Auditor(journal=nowhere, sinks=[sink], **settings) as auditor:
        while sink.calls == 0:
            time.sleep(0.01)  # it has taken the opening line, and hangs
        for n in range(10):
            auditor.record(f"e{n}")
        assert auditor.lost == 6
        sink.times = 0
        sink.go.set()
        assert auditor.flush(PATIENCE)
        auditor.record("after")
        assert auditor.flush(PATIENCE)
    actions = [e.action for e in sink.entries if e.phase == "event"]
    assert actions == [*kept, "after"]
    (gap,) = [e for e in sink.entries if e.phase == "gap"]
    assert gap.metadata["count"] == 6
    assert gap.metadata["sink"] == "slow"
    assert gap.metadata["reasons"] == {"QueueFull": 6}
    numbers = {n for first, last in gap.metadata["numbers"] for n in range(first, last + 1)}
    assert numbers | {e.n for e in sink.entries} == set(range(14))


def test_a_call_waits_for_room_no_longer_than_it_may(nowhere):
    sink = Hangs("slow")
    settings = {"queue_entries": 1, "queue_overflow": "block", "queue_block": 2.0}
    with Auditor(journal=nowhere, sinks=[sink], **settings) as auditor:
        while sink.calls == 0:
            time.sleep(0.01)
        auditor.record("fits")
        begun = time.monotonic()
        auditor.record("does not")
        assert 2.0 <= time.monotonic() - begun < 50
        assert auditor.lost == 1
        sink.times = 0
        threading.Timer(0.05, sink.go.set).start()
        assert auditor.flush(PATIENCE)
        auditor.record("again")
    assert [e.action for e in sink.entries if e.phase == "event"] == ["fits", "again"]


def test_what_no_sink_got_is_told_at_the_end(nowhere, caplog):
    sink = Recorded()
    sink.raises = [Retry(60)] * 100
    with Auditor(
        journal=nowhere, sinks=[sink], ship_exit_wait=0.2, ship_batch_entries=1
    ) as auditor:
        auditor.record("a")
    assert "did not get 3 entries, which are lost" in caplog.text


def test_block_needs_a_journal(nowhere):
    from klaviyo_audit.errors import AuditUnavailable

    with pytest.raises(AuditUnavailable):
        Auditor(journal=nowhere, sinks=[Recorded()], on_failure="block")


def test_a_program_that_has_seeded_its_random_numbers_gets_the_same_ones(trail):
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    hangs = Hangs("seeded")
    hangs.deliver = _refuse
    with Auditor(journal=trail.folder, sinks=[hangs], ship_exit_wait=0.1) as auditor:
        auditor.record("a")
        wait_for(lambda: auditor._shipping.threads[0].condition.failures)
    assert [random.random() for _ in range(3)] == expected


def _refuse(_entries):
    raise Retry(after=0.01)
