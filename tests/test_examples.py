"""The examples run, and print what they are said to print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from klaviyo_audit.privacy.notice import NO_KEY

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, folder, **env):
    import os

    return subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "LIVE": "", **env},
    )


def normalised(text):
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z", "TIME", text)
    text = re.sub(r"\d+\.\d+ (?:ms|s)\b", "DURATION", text)
    text = re.sub(r"/api/profiles/01C[0-9A-Z]+", "/api/profiles/ID", text)
    return re.sub(r" {2,}", "  ", text)


DAY = [
    "TIME  loyalty-service  klaviyo.profiles.create_profile  /api/profiles  success 201  DURATION",
    "TIME  loyalty-service  klaviyo.events.create_event  /api/events  success 202  DURATION",
    "TIME  loyalty-service  loyalty.enrol  customer:4711  success  DURATION",
    "TIME  nightly-sync  klaviyo.profiles.get_profile  /api/profiles/ID  success 200 after 2 requests  DURATION",
    "(the program got NotFoundException, status 404)",
    "TIME  nightly-sync  klaviyo.profiles.get_profile  /api/profiles/01HDOESNOTEXIST  failure 404  NotFoundException  DURATION",
    'TIME  marco  klaviyo.campaigns.send_campaign  /api/campaign-send-jobs  success 202  DURATION  "winter campaign, approved by Lea"',
    "(the program got ForbiddenException, status 403)",
    "TIME  nightly-sync  klaviyo.campaigns.send_campaign  /api/campaign-send-jobs  failure 403  ForbiddenException  DURATION",
    'TIME  dana for customer 4711  klaviyo.data_privacy.request_profile_deletion  /api/data-privacy-deletion-jobs  success 202  DURATION  "GDPR request 2026-118"',
]


@pytest.mark.may_hold_planted_secrets
def test_a_day_in_a_shops_life(tmp_path):
    done = run("shop_day.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == f"{NO_KEY}\n"
    lines = [line.strip() for line in normalised(done.stdout).splitlines()]
    assert [line for line in lines if line.startswith(("TIME", "(the"))] == DAY
    assert any(line.startswith("intact") for line in lines)
    assert any(line.startswith("error  audit.jsonl line ") for line in lines)
    assert any(line.startswith("tampered with or damaged") for line in lines)
    assert "ada@shop.example" not in done.stdout
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"ada@shop.example" not in path.read_bytes()
            assert b"pk_demo" not in path.read_bytes()


def test_live_needs_a_key(tmp_path):
    done = run("shop_day.py", tmp_path, LIVE="1", KLAVIYO_API_KEY="")
    assert done.returncode == 2
    assert "KLAVIYO_API_KEY" in done.stderr
