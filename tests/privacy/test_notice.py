"""Without a key for pseudonyms the program is told at start, once, and never broken by it."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from klaviyo_audit.cli import main
from klaviyo_audit.privacy import notice
from tests.waiting import PATIENCE

PROGRAM = """
from klaviyo_audit import Auditor, configure
for number in range(2):
    with Auditor(journal=f"trail{number}"): pass
configure(journal="default")
"""


def started(tmp_path, program=PROGRAM, **settings):
    names = {f"KLAVIYO_AUDIT_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **names}, capture_output=True, text=True, timeout=PATIENCE,
        check=True,
    )  # fmt: skip
    return done.stderr


def test_it_is_said_once_with_setting_and_remedy(tmp_path):
    said = started(tmp_path)
    assert said.count("no key for pseudonyms") == 1
    assert "KLAVIYO_AUDIT_PSEUDONYM_KEY" in said
    assert "openssl rand -hex 32" in said


@pytest.mark.parametrize(
    "settings", [{"pseudonym_key": "0123456789abcdef" * 2}, {"capture": "none"}]
)
def test_it_is_not_said_where_there_is_a_key_or_nobody_to_name(tmp_path, settings):
    assert "key" not in started(tmp_path, **settings)


def test_a_filter_that_raises_breaks_nothing(tmp_path):
    program = (
        "import logging\n"
        "def bad(record): raise RuntimeError\n"
        "logging.getLogger('klaviyo_audit').addFilter(bad)\n" + PROGRAM
    )
    assert started(tmp_path, program) == ""


def test_a_run_says_it_once_for_all_its_processes(tmp_path, fake):
    call = f"""
from klaviyo_api import KlaviyoAPI
KlaviyoAPI("not-a-key", test_host={fake.url!r}).Profiles.get_profiles()
"""
    child = f"import subprocess,sys\n{call}\nsubprocess.run([sys.executable,'-c',{call!r}])"
    for options, times in ((["--quiet"], 0), ([], 1)):
        done = subprocess.run(
            [sys.executable, "-m", "klaviyo_audit", "run", *options, "--", sys.executable, "-c", child],
            cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
        assert done.stderr.count("no key for pseudonyms") == times
        assert ("2 calls recorded" in done.stderr) == (not options)


def test_commands_do_not_say_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(notice, "_said", type(notice._said)())
    done = CliRunner().invoke(main, ["resolve", str(tmp_path)])
    assert "pseudonym" not in done.output + caplog.text
