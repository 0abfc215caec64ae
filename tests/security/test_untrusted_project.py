"""Looking at a project that means harm: nothing of it is run, and nothing is waited for."""

import os
import subprocess
import sys

import pytest

from klaviyo_audit import Auditor
from tests.security.planting import git
from tests.waiting import PATIENCE

LOOKING = (
    "scan .", "scan . --history", "scan . --staged", "check", "check --history", "config show",
    "config check", "config check lists.delete_list", "scopes --code .", "verify", "status",
    "tail", "query", "keys", "scopes", "schema",
)  # fmt: skip


def run(words, folder):
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", *words.split()],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("import sys; open('ran', 'w')\n")
    (folder / "sitecustomize.py").write_text("open('ran', 'w')\n")
    return folder


def test_no_command_that_looks_runs_anything(project):
    command = f"{sys.executable} -c \"open(r'{project}/ran', 'w')\""
    (project / "klaviyo-audit.toml").write_text(
        f"dir = 'trail'\nsinks = ['klaviyo']\npseudonym_key_command = '''{command}'''\n"
    )
    Auditor(journal=project / "trail", sinks=()).close()
    for words in LOOKING:
        done = run(words, project)
        assert done.returncode in (0, 1, 2), (words, done.stderr)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert not (project / "ran").exists(), words
    # The trap works: what asks for a person needs the key.
    run("query --subject a@example.com", project)
    assert (project / "ran").exists()


@pytest.mark.parametrize("name", ["policy.toml", ".secrets.baseline", "b.py", "klaviyo-audit.toml",
                                  "pyproject.toml", "klaviyo-audit/audit.jsonl",
                                  "klaviyo-audit/checkpoints", "klaviyo-audit/removed"])  # fmt: skip
def test_what_is_no_file_is_not_waited_for(project, name):
    if name != "klaviyo-audit.toml":
        (project / "klaviyo-audit.toml").write_text('policy = "policy.toml"\n')
    (project / "klaviyo-audit").mkdir(mode=0o700)
    os.mkfifo(project / name)
    for words in ("check", "scan .", "config check lists.delete_list", "verify"):
        done = run(words, project)
        assert done.returncode in (0, 1, 2)
        assert "Traceback" not in done.stderr, (words, done.stderr)
