"""Klaviyo's own MCP server, which nobody has changed, under ``klaviyo-audit run``."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import planted
from tests.conftest import Trail
from tests.journal.checking import verify
from tests.peers.conftest import required
from tests.peers.prism import REPOSITORY, openapi_file

PROGRAMS = REPOSITORY / ".venvs" / "mcp" / "bin"
HERE = Path(__file__).parent / "mcp"


@pytest.mark.timeout(600)
def test_the_calls_of_an_agents_tools_are_recorded(fake, needed, tmp_path):
    needed(PROGRAMS / "klaviyo-mcp-server")
    with required():
        openapi = openapi_file()
    environ = {
        **os.environ,
        "PRIVATE_API_KEY": planted.API_KEY,
        "STAND_IN_HOST": fake.url,
        "STAND_IN_OPENAPI": str(openapi),
        "PYTHONPATH": str(HERE),
        "KLAVIYO_AUDIT_SERVICE": "agents",
        "KLAVIYO_AUDIT_USER_ID": "dana",
    }
    server = [PROGRAMS / "klaviyo-audit", "run", "--", PROGRAMS / "klaviyo-mcp-server"]
    done = subprocess.run(
        [PROGRAMS / "python", HERE / "client.py", *server],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["failed"] for answer in answers] == [False, False, True]
    assert "2 calls recorded (2 success) by 1 process" in done.stderr
    trail = Trail(tmp_path / "klaviyo-audit")
    found = [(line["action"], line["resource"]) for line in trail.outcomes()]
    assert found == [
        ("klaviyo.accounts.get_accounts", "/api/accounts"),
        ("klaviyo.profiles.create_profile", "/api/profiles"),
    ]
    agents = [line["actor"]["agent"] for line in trail.outcomes()]
    assert agents == [f"klaviyo-mcp/0.4.2 claude-ai/1.2.3 {m}" for m in ("claude", "gpt")]
    assert {line["user_id"] for line in trail.outcomes()} == {"dana"}
    assert len(trail.of("intent")) == 1
    assert "planted.person" not in trail.path.read_text()
    assert verify(trail.folder).intact
