"""klaviyo-audit resolve, as one uses it after a crash."""

import os
import signal
import subprocess
import sys

import pytest

from tests import planted
from tests.waiting import PATIENCE


def resolve(folder, *args, **env):
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "resolve", *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
        env={**os.environ, **env},
    )


@pytest.fixture
def crashed(tmp_path, fake, client):
    """A program that was killed in the middle of deleting two lists and making one."""
    listed = [
        client.Lists.create_list({"data": {"type": "list", "attributes": {"name": n}}}).data.id
        for n in ("one", "two")
    ]
    code = f"""
import os, threading, time
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor
client = KlaviyoAPI("k" * 9, test_host={fake.url!r})
klaviyo = Auditor(journal="trail", seal="off", user_id="dana").audit(client)
request = client.api_client.rest_client.request
deleted = threading.Event()
def die_after(method, url, **given):
    if {listed[0]!r} in url:
        request(method, url, **given)
        deleted.set()
    time.sleep(1000)
client.api_client.rest_client.request = die_after
body = {{"data": {{"type": "list", "attributes": {{"name": "three"}}}}}}
for call in (
    lambda: klaviyo.Lists.delete_list({listed[0]!r}),
    lambda: klaviyo.Lists.delete_list({listed[1]!r}),
    lambda: klaviyo.Lists.create_list(body),
):
    threading.Thread(target=call, daemon=True).start()
path = "trail/audit.jsonl"
while open(path).read().count('"intent"') < 3:
    time.sleep(0.01)
deleted.wait(60)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    return listed


def test_intents_are_closed_and_looked_into(crashed, fake, tmp_path, trail):
    done = resolve(
        tmp_path, "trail", "--check", "--host", fake.url, KLAVIYO_API_KEY=planted.API_KEY
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("closed as unknown: ") == 3
    assert f"/api/lists/{crashed[0]}: is not there (any more) (status 404)" in done.stdout
    assert f"/api/lists/{crashed[1]}: is there (status 200)" in done.stdout
    assert "no operation reads it:" in done.stdout
    unknown = {entry["id"] for entry in trail.outcomes() if entry["result"] == "unknown"}
    assert len(unknown) == 3
    found = {
        event["resource"]: event["metadata"]
        for event in trail.of("event")
        if event["action"] == "klaviyo_audit.evidence"
    }
    assert found[f"/api/lists/{crashed[0]}"]["finding"] == "gone"
    assert found[f"/api/lists/{crashed[1]}"]["finding"] == "exists"
    assert {facts["of"] for facts in found.values()} < unknown


def test_a_second_time_there_is_nothing_left(crashed, fake, tmp_path):
    args = ("trail", "--check", "--host", fake.url)
    resolve(tmp_path, *args, KLAVIYO_API_KEY=planted.API_KEY)
    before = fake.count
    again = resolve(tmp_path, *args, KLAVIYO_API_KEY=planted.API_KEY)
    assert "no intent is without an outcome" in again.stdout
    assert again.stdout.count("no operation reads it") == 1
    assert fake.count == before


def test_without_a_journal_or_a_key(tmp_path):
    missing = resolve(tmp_path, "nowhere")
    assert missing.returncode == 2
    assert "there is no journal at" in missing.stderr
    (tmp_path / "trail").mkdir()
    keyless = resolve(tmp_path, "trail", "--check", KLAVIYO_API_KEY="")
    assert keyless.returncode == 2
    assert "KLAVIYO_API_KEY" in keyless.stderr
