"""Shipping beside the program, and what is told about it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

from klaviyo_audit import Auditor
from klaviyo_audit.cli import main
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks import registry
from klaviyo_audit.sinks.base import Rejected, Retry
from tests.sinks.conftest import Recorded
from tests.waiting import PATIENCE, wait_for

TEST_SINKS = {}


def make(settings):
    """The entry point of the sinks of these tests."""
    return TEST_SINKS["sink"]


@pytest.fixture
def sink(monkeypatch):
    """A sink that is installed under the name `mine`."""
    known = registry.known_sinks()
    point = EntryPoint("mine", f"{__name__}:make", registry.GROUP)
    monkeypatch.setattr(registry, "known_sinks", lambda: {**known, "mine": point})
    TEST_SINKS["sink"] = Recorded("mine")
    return TEST_SINKS["sink"]


@pytest.fixture
def journal(tmp_path):
    folder = tmp_path / "trail"
    with Auditor(journal=folder, sinks=[]) as auditor:
        for n in range(5):
            auditor.record(f"e{n}")
    return folder


def run(*args):
    return CliRunner().invoke(main, [str(argument) for argument in args], catch_exceptions=False)


def status(folder, name="mine"):
    found = json.loads(run("status", folder, "--json").stdout)
    return next((s for s in found["sinks"] if s["sink"] == name), None)


def test_everything_is_delivered_then_only_what_is_new(journal, sink):
    done = run("ship", journal, "--sink", "mine")
    assert (done.exit_code, done.stderr) == (0, "klaviyo-audit: mine: 7 entries delivered\n")
    assert sink.actions == ["e0", "e1", "e2", "e3", "e4"]
    assert sink.closed
    again = run("ship", journal, "--sink", "mine", "--once")
    assert again.stderr == "klaviyo-audit: mine: 0 entries delivered\n"


def test_a_short_run_leaves_how_it_ended(journal, sink):
    """The state is written once a second at most, but for the last time."""
    assert status(journal) is None
    sink.raises.append(Retry(why="not yet"))
    run("ship", journal, "--sink", "mine")
    found = status(journal)
    assert found["acknowledged_at"] is not None
    assert found["error"] is None
    assert found["delivered"] == 7
    run("ship", journal, "--sink", "mine")
    assert status(journal)["acknowledged_at"] is not None, "also when there was nothing more"


def test_three_things_to_do_are_not_mixed(journal, sink):
    for two in (("--follow", "--retry-dead"), ("--confirm", "--retry-dead"), ("-f", "--confirm")):
        done = run("ship", journal, "--sink", "mine", *two)
        assert (done.exit_code, sink.calls) == (2, [])
        assert "give one of them" in done.stderr


def test_what_cannot_be_asked_is_told_where_to_look(journal, sink):
    done = run("ship", journal, "--sink", "mine", "--confirm")
    assert done.exit_code == 1
    assert "receipts.jsonl" in done.stderr


def test_too_little_time_is_told(journal, sink, monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_SHIP_BATCH_ENTRIES", "1")
    monkeypatch.setattr(sink, "deliver", lambda entries: time.sleep(0.3))
    done = run("ship", journal, "--sink", "mine", "--timeout", "0.5")
    assert done.exit_code == 1
    assert "(0.5 s, --timeout) was not enough" in done.stderr


def test_lines_for_container_logs(journal):
    done = run("ship", journal, "--sink", "stdout")
    assert done.exit_code == 0
    assert done.stdout == (journal / "audit.jsonl").read_text()


def test_the_sinks_of_the_settings(journal, sink, monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_SINKS", "mine")
    monkeypatch.setenv("KLAVIYO_AUDIT_SINK_FILTERS", '{"mine": {"actions": ["e[13]"]}}')
    assert run("ship", journal).exit_code == 0
    assert sink.actions == ["e1", "e3"]
    found = status(journal)
    assert (found["delivered"], found["filtered"], found["lag_entries"]) == (4, 3, 0)
    assert found["in_settings"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no sink to ship to"),
        (["--sink", "console"], "klaviyo-audit tail -f"),
        (["--sink", "stdot"], "did you mean stdout?"),
        (["--sink", "a b"], "not allowed"),
    ],
)
def test_what_cannot_be_shipped_to(journal, arguments, message):
    done = run("ship", journal, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_missing_extra_names_the_pip_command(journal, monkeypatch):
    known = registry.known_sinks()
    dist = known["stdout"].dist
    point = EntryPoint("kafka", "klaviyo_audit.no_such_module:make", registry.GROUP)._for(dist)
    monkeypatch.setattr(registry, "known_sinks", lambda: {**known, "kafka": point})
    done = run("ship", journal, "--sink", "kafka")
    assert done.exit_code == 2
    assert "pip install 'klaviyo-audit[kafka]'" in done.stderr


def test_what_was_not_delivered_in_time(journal, sink):
    sink.raises = [Retry(60, "429 Too Many Requests")]
    done = run(
        "ship", journal, "--sink", "mine", "--timeout", "30"
    )  # it does not wait for what is later
    assert done.exit_code == 1
    assert (
        "mine: 0 entries delivered; the rest stays in the journal (429 Too Many Requests)"
        in done.stderr
    )
    found = status(journal)
    assert found["lag_entries"] == 7
    assert found["lag_seconds"] > 0
    assert found["error"] == "429 Too Many Requests"
    assert found["acknowledged_at"] is None


def test_a_wrong_key_is_told_once_and_everything_is_kept(journal, sink):
    sink.raises = [ConfigurationError("the key was refused (401)")]
    done = run("ship", journal, "--sink", "mine")
    assert done.exit_code == 1
    assert done.stderr.count("was stopped: the key was refused (401)") == 1
    assert status(journal)["lag_entries"] == 7
    assert run("ship", journal, "--sink", "mine").exit_code == 0
    assert len(sink.actions) == 5


def test_dead_letters_are_sent_again(journal, sink):
    def reject(*actions):
        return lambda entries: Rejected([e for e in entries if e.action in actions], "too large")

    sink.raises = [reject("e1", "e3")]
    done = run("ship", journal, "--sink", "mine")
    assert "5 entries delivered, 2 rejected" in done.stderr
    assert status(journal)["dead_letters"] == 2
    sink.entries.clear()
    sink.raises = [reject("e3")]
    again = run("ship", journal, "--sink", "mine", "--retry-dead")
    assert again.exit_code == 1
    assert "1 dead letters delivered, 1 rejected again" in again.stderr
    assert [e.action for e in sink.calls[-1]] == ["e1", "e3"]
    assert status(journal)["dead_letters"] == 1
    sink.raises = [Retry(why="down")]
    assert (
        "down; its dead letters are kept"
        in run("ship", journal, "--sink", "mine", "--retry-dead").stderr
    )
    assert status(journal)["dead_letters"] == 1
    last = run("ship", journal, "--sink", "mine", "--retry-dead")
    assert last.exit_code == 0
    assert sink.actions == ["e3"]
    assert status(journal)["dead_letters"] == 0
    wait_for(lambda: "klaviyo-audit-mine" not in {one.name for one in threading.enumerate()})


def test_a_retry_that_was_killed_loses_no_dead_letter(journal, sink):
    sink.raises = [lambda entries: Rejected(entries, "no")]
    run("ship", journal, "--sink", "mine")
    folder = journal / "sinks" / "mine"
    (folder / "dead.jsonl").rename(folder / "dead.retried.jsonl")
    assert status(journal)["dead_letters"] == 7
    assert run("ship", journal, "--sink", "mine", "--retry-dead").exit_code == 0
    assert len(sink.entries) == 7
    assert status(journal)["dead_letters"] == 0


def test_two_retries_at_once_do_not_take_each_others_dead_letters(journal, sink):
    sink.raises = [lambda entries: Rejected(entries, "no")]
    run("ship", journal, "--sink", "mine")
    inner = []
    sink.raises = [lambda entries: inner.append(run(*again)) or Retry(why="down")]
    again = ("ship", journal, "--sink", "mine", "--retry-dead")
    assert run(*again).exit_code == 1
    assert inner[0].exit_code == 1
    assert "another process is sending its dead letters again" in inner[0].stderr
    assert status(journal)["dead_letters"] == 7
    assert run(*again).exit_code == 0
    assert len(sink.entries) == 7


@pytest.mark.parametrize("at_once", [1, 500])
def test_lines_that_are_no_dead_letters_are_kept_and_told(journal, sink, monkeypatch, at_once):
    monkeypatch.setenv("KLAVIYO_AUDIT_SHIP_BATCH_ENTRIES", str(at_once))
    sink.raises = [lambda entries: Rejected(entries, "no")] * 7
    run("ship", journal, "--sink", "mine")
    folder = journal / "sinks" / "mine"
    letters = (folder / "dead.jsonl").read_bytes().splitlines()
    odd = [letters[0][:60], b"\xff\xfe garbage", b'["no letter"]', b'{"v":1,"why":"edited"}']
    torn_end = letters[1][:-5]
    content = [letters[0], odd[0], *letters[1:3], *odd[1:], *letters[3:], torn_end]
    (folder / "dead.jsonl").write_bytes(b"\n".join(content))
    assert status(journal)["dead_letters"] == 12
    sink.raises = [Retry(why="down")]
    assert run("ship", journal, "--sink", "mine", "--retry-dead").exit_code == 1
    assert (folder / "dead.jsonl").read_bytes().splitlines() == content, "all of it is kept"
    done = run("ship", journal, "--sink", "mine", "--retry-dead")
    assert done.exit_code == 1
    assert "7 dead letters delivered, 0 rejected again" in done.stderr
    assert "5 lines of dead.jsonl are no dead letters" in done.stderr
    assert "line 2, 5, 6, 7, 12" in done.stderr
    assert str(folder / "dead.unreadable") in done.stderr.replace("\n", "")
    assert (folder / "dead.unreadable").read_bytes().splitlines() == [*odd, torn_end]
    assert len(sink.entries) == 7
    found = status(journal)
    assert (found["dead_letters"], found["dead_letters_unreadable"]) == (0, 5)
    assert run("ship", journal, "--sink", "mine", "--retry-dead").exit_code == 0
    assert (folder / "dead.unreadable").read_bytes().splitlines() == [*odd, torn_end]


def test_a_sink_that_rejects_what_it_was_not_given_loses_no_dead_letter(journal, sink):
    sink.raises = [lambda entries: Rejected(entries, "no"), Rejected((), "odd")]
    run("ship", journal, "--sink", "mine")
    assert run("ship", journal, "--sink", "mine", "--retry-dead").exit_code == 1
    assert status(journal)["dead_letters"] == 7


def test_following_until_it_is_told_to_stop(journal):
    command = [sys.executable, "-m", "klaviyo_audit", "ship", str(journal), "--sink", "stdout"]
    with subprocess.Popen([*command, "--follow"], stdout=subprocess.PIPE, text=True) as process:
        assert "e0" in [json.loads(process.stdout.readline())["action"] for _ in range(7)]
        found = status(journal, "stdout")
        assert found["shipping"] is True
        assert found["pid"] == process.pid
        with Auditor(journal=journal, sinks=[]) as auditor:
            auditor.record("later")
        actions = [json.loads(process.stdout.readline())["action"] for _ in range(3)]
        assert actions == ["journal.open", "later", "journal.close"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert status(journal, "stdout")["shipping"] is False
    assert status(journal, "stdout")["lag_entries"] == 0


def test_another_takes_over_from_a_killed_one(journal):
    command = [sys.executable, "-m", "klaviyo_audit", "ship", str(journal), "--sink", "stdout"]
    with subprocess.Popen([*command, "--follow"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        waiting = run("ship", journal, "--sink", "stdout", "--timeout", "60")
        assert waiting.exit_code == 0, "the other one has delivered it"
        assert waiting.stdout == ""
        assert "another process ships to it" in waiting.stderr
        process.kill()
    with Auditor(journal=journal, sinks=[]) as auditor:
        auditor.record("later")
    done = run("ship", journal, "--sink", "stdout")
    assert done.exit_code == 0
    assert '"action":"later"' in done.stdout


def test_status_for_people(journal, sink, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    sink.raises = [Retry(60, "503")]
    run("ship", journal, "--sink", "mine", "--timeout", "30")
    (journal / "writers" / ("a" * 16)).touch()
    shown = run("status", journal).stdout
    assert re.search(r"[\d,]+ bytes in 1 files, sealed up to line 7", shown)
    assert "0 alive, 1 died" in shown
    assert re.search(r"mine +not shipping +7 entries, \d+ s +0 +0 +never +503", shown)


@pytest.mark.parametrize("name", ["bookmark", "dead.jsonl", "dead.unreadable", "lock"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("state")])
def test_a_file_that_is_none_hides_nothing_else(journal, sink, name, make):
    run("ship", journal, "--sink", "mine")
    file = journal / "sinks" / "mine" / name
    file.unlink(missing_ok=True)
    make(file)
    found = status(journal)
    assert found["acknowledged_at"] is not None
    assert name == "lock" or str(file) in found["error"]
    shown = run("status", journal)
    assert shown.exit_code == 0
    assert "mine" in shown.stdout
    again = run("ship", journal, "--sink", "mine", "--timeout", "0.1")
    retried = run("ship", journal, "--sink", "mine", "--retry-dead")
    assert name in ("dead.unreadable", "dead.jsonl") or str(file) in again.stderr
    assert name != "dead.jsonl" or f"{file.parent}/dead." in retried.stderr


def test_a_state_that_somebody_wrote_is_shown_as_text(journal, sink):
    run("ship", journal, "--sink", "mine")
    state = {"acknowledged_at": ["\x1b[2J"], "error": {"a": 1}, "state": 7}
    (journal / "sinks" / "mine" / "state").write_text(json.dumps(state))
    (journal / "sinks" / "\x1b[2J").mkdir()
    shown = run("status", journal)
    assert shown.exit_code == 0
    assert "\x1b[2J" not in shown.stdout


def test_status_of_a_sink_that_has_not_begun(journal, monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_SINKS", "stdout")
    found = status(journal, "stdout")
    assert found["lag_entries"] == 7
    assert found["state"] == "not shipping"
    assert not (journal / "sinks").exists(), "looking changes nothing"


def test_status_counts_a_long_backlog_quickly_and_across_files(tmp_path):
    from tests.journal.sealing import make_sealer, settle, write

    folder = tmp_path / "trail"
    for start in (0, 100):
        write(folder, 100, start)
        sealer = make_sealer(folder, rotate_bytes=1)
        settle(sealer, 0.2)
        sealer.close()
    write(folder, 100, 200)
    sink = Recorded("mine")
    from klaviyo_audit.sinks.shipper import Pace, Shipper

    worker = Shipper(folder, sink, pace=Pace(batch_entries=50))
    worker.step(urgent=True)
    worker.close()
    assert len(sink.entries) == 50
    assert status(folder)["lag_entries"] == 306 - 50


def test_a_bookmark_that_cannot_be_used_is_shown(journal, sink):
    run("ship", journal, "--sink", "mine")
    (journal / "sinks" / "mine" / "bookmark").write_bytes(b"garbage")
    assert "can't be used" in status(journal)["error"]


def test_no_journal(tmp_path):
    assert run("status", tmp_path / "none").exit_code == 2
    assert run("ship", tmp_path / "none", "--sink", "stdout").exit_code == 2
