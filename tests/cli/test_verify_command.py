"""``klaviyo-audit verify`` as a shell and a person see it."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from klaviyo_audit.cli import main
from tests.cli.terminal import run_on_terminal
from tests.journal.forge import A, B, journal, line, written
from tests.waiting import PATIENCE


def run(*arguments, **options):
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **options,
    )


def invoke(*arguments):
    """The command in this process, without a terminal."""
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def sound(tmp_path):
    journal(tmp_path / "trail", *written(A, 10), *written(B, 3))
    return tmp_path / "trail"


@pytest.fixture
def changed(tmp_path):
    lines = written(A, 10)
    lines[3] = lines[3].replace(b"dana", b"dora")
    del lines[7]
    journal(tmp_path / "changed", *lines)
    return tmp_path / "changed"


def test_intact_is_exit_0(sound):
    done = run("verify", sound)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "intact"
    assert "17 entries of 2 writers" in done.stdout


def test_damaged_is_exit_1_and_every_finding_is_listed(changed):
    done = run("verify", changed)
    assert done.returncode == 1
    first, second, _, verdict = done.stdout.splitlines()
    offset = len(b"".join((changed / "audit.jsonl").read_bytes().splitlines(True)[:3]))
    assert first.startswith(f"error    audit.jsonl line 4, byte {offset}, writer {A}, number 3: ")
    assert "checksum" in first
    assert "number 7: missing-number" in second
    assert verdict == "tampered with or damaged: 2 errors"


def test_not_checkable_is_exit_2_and_says_what_was_tried(tmp_path):
    done = run("verify", tmp_path / "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert str(tmp_path / "nothing") in done.stderr
    assert "KLAVIYO_AUDIT_DIR" in done.stderr


def test_a_folder_without_a_journal(tmp_path):
    done = invoke("verify", tmp_path)
    assert done.exit_code == 2
    assert "no journal" in done.stderr


def test_an_unreadable_journal(tmp_path):
    (tmp_path / "audit.jsonl").mkdir()
    done = invoke("verify", tmp_path)
    assert done.exit_code == 2
    assert "not a regular file" in done.stderr


def test_a_file_instead_of_a_folder(sound):
    assert invoke("verify", sound / "audit.jsonl").exit_code == 0


def test_the_folder_comes_from_the_settings(sound, monkeypatch, tmp_path):
    monkeypatch.setenv("KLAVIYO_AUDIT_DIR", str(sound))
    assert invoke("verify").exit_code == 0
    monkeypatch.delenv("KLAVIYO_AUDIT_DIR")
    done = invoke("verify")
    assert done.exit_code == 2
    assert str(tmp_path / "klaviyo-audit") in done.stderr
    assert "default" in done.stderr
    sound.rename(tmp_path / "klaviyo-audit")
    assert invoke("verify").exit_code == 0


def test_a_bad_setting(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_DURABILITY", "never")
    done = invoke("verify")
    assert done.exit_code == 2
    assert "KLAVIYO_AUDIT_DURABILITY" in done.stderr


def test_json(changed, sound, tmp_path):
    done = invoke("verify", changed, "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["intact"] is False
    assert [finding["kind"] for finding in report["findings"]] == ["checksum", "missing-number"]
    done = invoke("verify", sound, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["findings"] == []
    (tmp_path / "empty").mkdir()
    done = invoke("verify", tmp_path / "empty", "--json")
    assert done.exit_code == 2
    assert "no journal" in json.loads(done.stdout)["error"]


def test_a_warning_alone_is_no_damage(tmp_path):
    journal(tmp_path, *written(A, close=False))
    done = invoke("verify", tmp_path)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "intact: 1 warning"


def test_a_reader_that_goes_away_does_not_change_the_verdict(tmp_path):
    journal(tmp_path, *[text for n in range(30_000) for text in (line(A, n)[:60] + b"\n",)])
    with subprocess.Popen(
        [sys.executable, "-m", "klaviyo_audit", "verify", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=PATIENCE) == 1


def test_on_a_terminal_there_is_a_bar_and_colour(changed):
    code, shown = run_on_terminal("verify", changed)
    assert code == 1
    assert b"\x1b[31merror" in shown
    assert b"\x1b[2K" in shown  # the bar wiped itself out
