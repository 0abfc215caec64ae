"""A sink of one's own, from the ten lines of the documentation, as an installed package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from klaviyo_audit import Auditor
from tests.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "sinks.md"


@pytest.fixture
def installed(tmp_path):
    """What docs/sinks.md shows, built and installed by pip, offline, into a folder of its own."""
    blocks = re.findall(r"```(python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    project = tmp_path / "project"
    project.mkdir()
    for _, name, content in blocks:
        (project / name).write_text(content)
    assert {path.name for path in project.iterdir()} == {"pyproject.toml", "shop_sink.py"}
    code = [line for line in (project / "shop_sink.py").read_text().splitlines() if line.strip()]
    assert len([line for line in code if not line.startswith(("import", "from"))]) <= 12
    target = tmp_path / "installed"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", target, project),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def test_the_sink_of_the_documentation_works_when_installed(installed, tmp_path):
    folder, out = tmp_path / "trail", tmp_path / "shop.txt"
    with Auditor(journal=folder, sinks=[]) as auditor:
        auditor.record("a")
        auditor.record("b")
    env = {**os.environ, "PYTHONPATH": str(installed), "SHOP_SINK_FILE": str(out)}
    command = [sys.executable, "-m", "klaviyo_audit", "ship", str(folder), "--sink", "shop"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    actions = [json.loads(line)["action"] for line in out.read_text().splitlines()]
    assert actions == ["journal.open", "a", "b", "journal.close"]
    unknown = subprocess.run(
        [*command[:-1], "shopp"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=env,
        check=False,
    )
    assert unknown.returncode == 2
    assert "did you mean shop?" in unknown.stderr
