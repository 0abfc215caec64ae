"""klaviyo-audit keys and keys verify, on the trail of real calls against FakeKlaviyo."""

import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from klaviyo_audit import AccessDenied, Auditor
from klaviyo_audit.klaviyo.apikeys import ApiKey, KeysUnreadable, find_api_key, list_api_keys
from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security.keyuse import Flag, flags, key_uses
from klaviyo_audit.security.trail import members_of
from klaviyo_audit.testing import FakeKlaviyo
from tests.security.planting import made_up_key
from tests.waiting import PATIENCE, wait_for

RNG = random.Random(21)


def command(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "keys", *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cwd,
        env={**os.environ, "KLAVIYO_AUDIT_DIR": "trail", **env},
    )  # fmt: skip


def entry(key="a" * 12, at=None, service="shop", label="KLAVIYO_API_KEY", status=200, **more):
    at = at or datetime.now(UTC)
    return {
        "phase": "outcome",
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
        "result": "success" if status == 200 else "failure",
        "key": {"fingerprint": key, "label": label, "kind": "private"},
        "origin": {"service": service},
        "http": {"status": status},
        "call": {"scopes": ["profiles:read"]},
    } | more


def flagged(entries, **limits):
    limits = {"max_age": timedelta(days=90), "max_overlap": timedelta(days=7)} | limits
    return flags(key_uses(entries), now=datetime.now(UTC), **limits)


def days_ago(days):
    return datetime.now(UTC) - timedelta(days=days)


def test_the_keys_of_a_real_trail(tmp_path, monkeypatch):
    reader, writer, dead = (made_up_key(RNG, site=True) for _ in range(3))
    monkeypatch.setenv("READER", reader)
    keys = {reader: ["profiles:read"], writer: ["lists:write", "profiles:read"]}
    with FakeKlaviyo(keys=keys) as fake, Auditor(journal="trail", service="shop") as auditor:
        url = fake.url
        for key in (reader, writer, dead):
            klaviyo = auditor.audit(fake.client(api_key=key, max_retries=1))
            for call in (klaviyo.Profiles.get_profiles, klaviyo.Lists.get_lists):
                try:
                    call()
                except Exception as refused:
                    assert refused.status in {401, 403}
    done = command("--format", "json", cwd=tmp_path)
    assert done.returncode == 1  # the dead one
    of_reader, of_writer, of_dead = json.loads(done.stdout)
    assert of_reader["fingerprint"] == fingerprint(reader)
    assert of_reader["labels"] == ["READER"]
    assert of_reader["site"] == reader[3:9]
    assert (of_reader["calls"], of_reader["failures"]) == (2, 1)
    assert of_reader["scopes"] == {"profiles:read": 1}
    assert of_reader["refused_scopes"] == {"lists:read": 1}
    assert of_writer["flags"] == {}
    assert list(of_reader["services"]) == ["shop"]
    assert list(of_dead["flags"]) == ["revoked_in_use"]
    assert of_dead["scopes"] == {}
    assert of_dead["servers"] == [url]
    text = command(cwd=tmp_path).stdout
    assert "revoked in use" in text
    assert text.count(f"  sent   also to {url}\n") == 3
    assert text.count("  calls  2, of them 1 failed or denied\n") == 2
    assert text.count("  calls  2, of them 2 failed or denied\n") == 1
    assert not any(key in text + done.stdout for key in (reader, writer, dead))


def test_what_the_guard_denied_counts_as_failed_or_denied(tmp_path):
    """It used the key as far as the program goes, and nothing was sent."""
    with (
        FakeKlaviyo() as fake,
        Auditor(journal=tmp_path / "trail", service="shop", guard="development") as auditor,
    ):
        klaviyo = auditor.audit(fake.client())
        klaviyo.Lists.get_lists()
        for _ in range(2):
            with pytest.raises(AccessDenied):
                klaviyo.Lists.delete_list("L1")
        assert fake.count == 1
    assert "  calls  3, of them 2 failed or denied\n" in command(cwd=tmp_path).stdout
    (use,) = json.loads(command("--format", "json", cwd=tmp_path).stdout)
    assert (use["calls"], use["failures"]) == (3, 2)


def test_a_key_that_is_too_old():
    entries = [entry(at=days_ago(91)), entry()]
    assert list(flagged(entries)["a" * 12]) == [Flag.TOO_OLD]
    assert flagged(entries, max_age=timedelta(days=92)) == {}


def test_age_is_klaviyos_where_it_tells(tmp_path):
    key, admin = made_up_key(RNG), made_up_key(RNG)
    with FakeKlaviyo(keys={key: None, admin: ["credentials:read"]}) as fake:
        with Auditor(journal="trail") as auditor:
            auditor.audit(fake.client(api_key=key)).Profiles.get_profiles()
        fake.key_created(key, days_ago(200).isoformat())
        env = {"KEY": key, "ADMIN": admin}
        assert command(cwd=tmp_path, **env).returncode == 0
        done = command("--admin", "ADMIN", "--host", fake.url, cwd=tmp_path, **env)
    assert (done.returncode, "made 200 days ago" in done.stdout) == (1, True)


def test_two_keys_that_overlap_too_long():
    old, new = "a" * 12, "b" * 12
    entries = [
        entry(old, days_ago(20)),
        entry(new, days_ago(10)),
        entry(old, days_ago(2)),
        entry(new),
    ]
    assert list(flagged(entries)[old]) == [Flag.OVERLAP]
    assert new not in flagged(entries)
    # A short overlap, keys for different purposes, and keys of different services are no overlap.
    assert flagged([*entries[:2], entry(old, days_ago(4))]) == {}
    assert (
        flagged([entry(old, days_ago(20), label="READ"), *entries[1:2], entry(old, label="READ")])
        == {}
    )
    assert flagged([entry(old, days_ago(20), "a"), *entries[1:2], entry(old, service="a")]) == {}


def test_a_revoked_key_that_is_still_tried():
    assert Flag.REVOKED_IN_USE in flagged([entry(at=days_ago(2)), entry(status=401)])["a" * 12]
    # One 401 long ago was passing; a 403 is another thing.
    assert flagged([entry(at=days_ago(2), status=401), entry()]) == {}
    assert flagged([entry(), entry(status=403)]) == {}


def test_rotated_and_compressed_files_count(tmp_path):
    with FakeKlaviyo() as fake, Auditor(
        journal="trail", seal="background", seal_interval="50ms", rotate_bytes="2KB"
    ) as auditor:  # fmt: skip
        klaviyo = auditor.audit(fake.client(api_key=made_up_key(RNG)))
        for _ in range(60):
            klaviyo.Profiles.get_profiles()
            time.sleep(0.02)
        wait_for(lambda: list((tmp_path / "trail").glob("audit-*.jsonl.zst")))
    (use,) = key_uses(members_of(tmp_path / "trail")).values()
    assert use.calls == 60


def test_verify_says_live_scopeless_and_dead(tmp_path):
    live, scopeless, dead = (made_up_key(RNG, site=True) for _ in range(3))
    with FakeKlaviyo(keys={live: None, scopeless: ["profiles:read"]}) as fake:
        env = {"A_LIVE": live, "B_SCOPELESS": scopeless, "C_DEAD": dead}
        done = command("verify", "--host", fake.url, cwd=tmp_path, **env)
        assert done.returncode == 1
        one, two, three = done.stdout.splitlines()
        assert f"{fingerprint(live)}  live, account {live[3:9]}" in one
        assert "live, without accounts:read (403)" in two
        assert "dead (401)" in three
        assert not any(key in done.stdout for key in env.values())
        one = command("verify", "--env", "B_SCOPELESS", "--host", fake.url, cwd=tmp_path, **env)
        assert one.returncode == 0
        fake.fail(500, times=1)
        assert (
            command("verify", "--env", "A_LIVE", "--host", fake.url, cwd=tmp_path, **env).returncode
            == 2
        )
        fake.fail(429, retry_after=1)
        assert (
            command("verify", "--env", "A_LIVE", "--host", fake.url, cwd=tmp_path, **env).returncode
            == 0
        )
    gone = command("verify", "--env", "A_LIVE", "--host", "http://127.0.0.1:9", cwd=tmp_path, **env)
    assert (gone.returncode, live in gone.stdout + gone.stderr) == (2, False)
    assert command("verify", "--env", "NOT_SET", cwd=tmp_path).returncode == 2


def test_the_beta_endpoints():
    key, other, admin = (made_up_key(RNG) for _ in range(3))
    with FakeKlaviyo(
        keys={key: ["profiles:read"], other: ["lists:read"], admin: ["credentials:read"]}
    ) as fake:
        assert len(list_api_keys(admin, host=fake.url)) == 3
        found = find_api_key(admin, key, host=fake.url)
        assert (found.scopes, found.status) == ({"profiles:read"}, "enabled")
        fake.disable_key(key)
        assert find_api_key(admin, key, host=fake.url).status == "disabled"
        assert find_api_key(admin, made_up_key(RNG), host=fake.url) is None
        with pytest.raises(KeysUnreadable, match="credentials:read"):
            list_api_keys(other, host=fake.url)


@pytest.mark.parametrize(
    ("redacted", "fits"),
    [
        ("pk_12345****", False), ("pk_abcd********9876", True), ("********9876", True),
        ("pk_ab...76", True), ("pk_xxxxxxxx9876", True), ("pk_", False), ("****", False),
        ("****76", False), ("", False),
    ],
)  # fmt: skip
def test_which_key_a_masked_one_is(redacted, fits):
    key = "pk_abcd" + "0123" * 6 + "559876"
    assert ApiKey("1", "", "", frozenset(), None, redacted).may_be(key) is fits
