"""klaviyo-audit scan beside other scanners, on the same repository with planted keys."""

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from klaviyo_audit.security.baseline import hashed
from klaviyo_audit.security.scan import scan
from tests.security.planting import build

SCRIPTS = Path(sysconfig.get_paths()["scripts"])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    keys, standing = build(folder, commits=10, keys=60)
    return folder, keys, standing


def _kingfisher(folder):
    done = subprocess.run(
        [SCRIPTS / "kingfisher", "scan", folder, "--no-validate", "--no-update-check", "--rule", "betterleaks.klaviyo-api-key",
         "--format", "json"],
        capture_output=True, timeout=250, check=False,
    )  # fmt: skip
    # Its exit code says that there are finds.
    report = json.loads(done.stdout.splitlines()[0])
    return {find["finding"]["snippet"] for find in report["findings"]}


def _detect_secrets(folder):
    """The hashes that a scan without the plugin lists; it looks at the folder, not at history."""
    # It takes minutes for one line of 400 KB.
    small = [
        path for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size < 50_000 and ".git" not in path.parts
    ]  # fmt: skip
    done = subprocess.run(
        [SCRIPTS / "detect-secrets", "-c", "1", "scan", "--no-verify", *small],
        capture_output=True, timeout=250, check=True, cwd=folder,
    )  # fmt: skip
    listed = json.loads(done.stdout)["results"].values()
    return {one["hashed_secret"] for results in listed for one in results}


@pytest.mark.timeout(600)
def test_what_others_find_we_find(planted, needed, capsys):
    needed(SCRIPTS / "kingfisher")
    folder, keys, standing = planted
    ours = {find.secret for find in scan(folder, history=True).finds} & set(keys)
    others = {key for key in keys if any(key in found for found in _kingfisher(folder))}
    hashes = _detect_secrets(folder)
    plain = {key for key in keys if hashed(key) in hashes}
    with capsys.disabled():
        print(
            f"\nof {len(keys)} keys in history ({len(standing)} still in the folder): klaviyo-audit "
            f"{len(ours)}, kingfisher {len(others)}, detect-secrets (folder only) {len(plain)}"
        )
    assert others
    assert ours == set(keys)
