"""``klaviyo-audit tail``: the latest entries, and the ones that are still to come."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from klaviyo_audit.cli import main
from tests.cli.terminal import run_on_terminal
from tests.journal.forge import A, B, gap, journal, line, opening, resealed, written
from tests.waiting import PATIENCE


def tail(*arguments):
    done = CliRunner().invoke(main, ["tail", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def numbered(count, start=0):
    """Lines whose resource says which they are."""
    return [line(A, n, resource=f"entry:{n}:") for n in range(start, start + count)]


def shown(text):
    """Which of the numbered lines a text shows."""
    return [
        int(one.split("entry:")[1].split(":")[0]) for one in text.splitlines() if "entry:" in one
    ]


def test_the_last_ten(tmp_path):
    journal(tmp_path, *numbered(25))
    assert shown(tail(tmp_path).stdout) == list(range(15, 25))


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_the_last_n_of_a_file_longer_than_one_window(tmp_path, count):
    path = journal(tmp_path, *numbered(2000))
    assert shown(tail("-n", count, path).stdout) == list(range(2000))[max(0, 2000 - count) :]


def test_only_the_end_is_read(tmp_path):
    path = tmp_path / "audit.jsonl"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # three gigabytes of nothing, which take no disk
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(numbered(300)))
    assert shown(tail("-n", 3, path).stdout) == [297, 298, 299]


def test_intents_and_lines_about_the_journal_are_shown_when_asked_for(tmp_path):
    journal(
        tmp_path,
        opening(A),
        line(A, 1, "intent", result=None),
        line(A, 2, "outcome"),
        line(A, 3, "event", action="export.downloaded"),
        gap(A, 4, count=2, operations={"x": 2}),
    )
    assert len(tail(tmp_path).stdout.splitlines()) == 3
    assert "intent" in tail("--intents", tmp_path).stdout
    assert len(tail("--intents", tmp_path).stdout.splitlines()) == 4
    assert "journal.open" in tail("--all", tmp_path).stdout
    assert len(tail("--all", tmp_path).stdout.splitlines()) == 5


def test_json_is_the_line_itself(tmp_path):
    lines = numbered(3)
    journal(tmp_path, *lines)
    assert tail("--json", tmp_path).stdout_bytes == b"".join(lines)


def test_json_on_a_terminal_is_escaped(tmp_path):
    evil = "\x9b2J\u202e\U0001f600"
    journal(tmp_path, line(A, 0, user_id=evil))
    code, text = run_on_terminal("tail", "--json", tmp_path)
    assert code == 0
    assert json.loads(text)["user_id"] == evil
    assert text.strip().isascii()
    assert b"\x1b" not in text


def test_a_terminal_that_knows_ascii_only(tmp_path):
    journal(tmp_path, line(A, 0, user_id="Zo\xeb", resource="entry:0:"))
    done = subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "tail", str(tmp_path)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert rb"Zo\xeb" in done.stdout
    assert shown(done.stdout.decode()) == [0]


def test_damage_is_shown_and_does_not_end_it(tmp_path):
    lines = numbered(5)
    lines[1] = lines[1].replace(b"dana", b"dora")
    lines[3] = lines[3][:60]
    journal(tmp_path, *lines)
    text = tail(tmp_path).stdout
    assert shown(text) == [0, 2, 4]
    assert text.count("klaviyo-audit verify") == 2
    done = tail("--json", tmp_path)
    assert [json.loads(one)["n"] for one in done.stdout.splitlines()] == [0, 2, 4]
    assert done.stderr.count("klaviyo-audit verify") == 2


def test_an_entry_that_is_not_as_the_schema_says(tmp_path):
    lines = numbered(3)
    lines[1] = resealed(lines[1], b'"duration_ms":12.345', b'"duration_ms":"\\u001b[2J"')
    journal(tmp_path, *lines)
    text = tail(tmp_path).stdout
    assert shown(text) == [0, 1, 2]
    assert "schema" in text
    assert "\x1b" not in text


def test_there_is_no_journal(tmp_path):
    done = CliRunner().invoke(main, ["tail", str(tmp_path)])
    assert done.exit_code == 2
    assert "audit.jsonl" in done.stderr
    done = CliRunner().invoke(main, ["tail", str(tmp_path / "nothing")])
    assert done.exit_code == 2
    assert "KLAVIYO_AUDIT_DIR" in done.stderr


class Follower:
    """The real command, and what it has printed."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "klaviyo_audit", "tail", "-f", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is ignored by what a shell has put into the background, these tests included.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        self._lines = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for text in self.process.stdout:
            self._lines.put(text)

    def next(self):
        return self._lines.get(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


def test_following(tmp_path):
    """Over appends in two halves, truncation, and rotation; until Ctrl-C."""
    path = journal(tmp_path, *numbered(3))
    with Follower("-n", 1, tmp_path) as follower:
        assert shown(follower.next()) == [2]
        more = numbered(3, start=3)
        with path.open("ab", buffering=0) as file:
            file.write(more[0] + more[1][:50])
            assert shown(follower.next()) == [3]
            file.write(more[1][50:])
        assert shown(follower.next()) == [4]

        path.write_bytes(line(B, 0, resource="entry:100:"))
        assert "was cut from" in follower.next()
        assert shown(follower.next()) == [100]

        path.rename(tmp_path / "audit-000000000000.jsonl")
        journal(tmp_path, line(B, 2, resource="entry:102:"))
        # A writer that has not noticed yet.
        with (tmp_path / "audit-000000000000.jsonl").open("ab") as file:
            file.write(line(B, 1, resource="entry:101:"))
        assert shown(follower.next()) == [101]
        assert "new file" in follower.next()
        assert shown(follower.next()) == [102]

        follower.process.send_signal(signal.SIGINT)
        assert follower.process.wait(PATIENCE) == 0
        assert follower.process.stderr.read() == ""


def test_following_a_journal_that_is_still_to_come(tmp_path):
    with Follower(tmp_path) as follower:
        journal(tmp_path / "elsewhere", *numbered(1)).rename(tmp_path / "audit.jsonl")
        assert shown(follower.next()) == [0]


def test_following_ends_when_nobody_reads_any_more(tmp_path):
    journal(tmp_path, *written(A, 3))
    with subprocess.Popen(
        [sys.executable, "-m", "klaviyo_audit", "tail", "-f", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
