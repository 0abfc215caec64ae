"""Scanners that nobody here wrote look for credentials in a journal made of calls full of them."""

import hashlib
import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from klaviyo_audit.security import detect_secrets_plugin
from tests.privacy.test_leaks import World

LIKE_A_KEY = "pk_" + hashlib.sha256(b"no key of anybody's").hexdigest()[:34]
SCRIPTS = Path(sysconfig.get_paths()["scripts"])
PLUGIN = Path(detect_secrets_plugin.__file__)


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal of calls of all kinds with planted canaries, at the highest level."""
    world = World(
        tmp_path_factory.mktemp("world"), pseudonym_key="0123456789abcdef" * 2, seal="off"
    )

    @settings(max_examples=60, database=None, deadline=None, phases=(Phase.generate,),
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def calls(data):
        world.call(data.draw)

    try:
        calls()
    finally:
        world.close()
    return world.folder / "audit.jsonl"


def kingfisher(folder):
    done = subprocess.run(
        [SCRIPTS / "kingfisher", "scan", folder, "--no-validate", "--no-update-check", "--format", "json"],
        capture_output=True, timeout=250, check=False,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[0])["findings"]


def detect_secrets(path):
    done = subprocess.run(
        [SCRIPTS / "detect-secrets", "-c", "1", "scan", "--no-verify", "-p", PLUGIN,
         "--disable-plugin", "HexHighEntropyString", "--disable-plugin", "Base64HighEntropyString",
         "--disable-plugin", "KeywordDetector", path.name],
        capture_output=True, timeout=250, check=True, cwd=path.parent,
    )  # fmt: skip
    return [one for found in json.loads(done.stdout)["results"].values() for one in found]


@pytest.mark.timeout(600)
def test_kingfisher_finds_nothing(journal, needed, tmp_path):
    needed(SCRIPTS / "kingfisher")
    copy = tmp_path / "journal"
    copy.mkdir()
    (copy / "audit.jsonl").write_bytes(journal.read_bytes())
    assert kingfisher(copy) == []
    (copy / "leak.txt").write_text(f"klaviyo_api_key = '{LIKE_A_KEY}'\n")
    assert kingfisher(copy) != [], "it would have found a key"


@pytest.mark.timeout(600)
def test_detect_secrets_finds_nothing(journal, tmp_path):
    # A random identifier is what high entropy means: ids, digests and pseudonyms are that.
    lines = journal.read_bytes().splitlines(keepends=True)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(line for line in lines if len(line) < 20_000))
    assert detect_secrets(path) == []
    with path.open("a") as file:
        file.write(f'{{"reason":"klaviyo key {LIKE_A_KEY}"}}\n')
    assert detect_secrets(path) != [], "it would have found a key"
