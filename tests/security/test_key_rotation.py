"""klaviyo-audit keys rotate: two services on two keys, killed and resumed in the middle."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.errors import KlaviyoAuditError
from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security import rotation
from klaviyo_audit.security.rotation import Plan, Rotation
from klaviyo_audit.security.rotation_state import RotationState
from klaviyo_audit.testing import FakeKlaviyo
from tests.conftest import Trail
from tests.security.planting import made_up_key
from tests.waiting import PATIENCE

RNG = random.Random(31)
SCOPES = ["profiles:read", "accounts:read"]
IDLE = 8
"""Seconds."""

SERVICE = """
import os, sys, time
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor
auditor = Auditor(journal="trail", seal="off", service=sys.argv[1])
klaviyo = auditor.audit(KlaviyoAPI(os.environ["KEY"], test_host=sys.argv[2], max_retries=1))
while True:
    try:
        klaviyo.Profiles.get_profiles()
    except Exception as refused:
        pass
    print("x", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def old():
    return made_up_key(RNG, site=False)


@pytest.fixture
def new():
    return made_up_key(RNG, site=False)


@pytest.fixture
def admin():
    return made_up_key(RNG, site=False)


class Rotate:
    """The command, with what it needs."""

    def __init__(self, fake, old, new, admin, folder):
        self.environ = {**os.environ, "OLD": old, "NEW": new, "ADMIN": admin}
        self.command = [
            sys.executable, "-m", "klaviyo_audit", "keys", "rotate", "--old", "OLD", "--new", "NEW",
            "--idle", "2s", "--poll", "100ms", "--host", fake.url, "--journal", "trail",
        ]  # fmt: skip
        self.folder = folder

    def start(self, *more):
        return subprocess.Popen(
            [*self.command, *more], env=self.environ, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *more):
        process = self.start(*more)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


def service(name, key, fake, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, name, fake.url],
        env={**os.environ, "KEY": key}, cwd=folder, stdout=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    return process


def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    process.wait(PATIENCE)
    process.stdout.close()


def steps(trail):
    found = [line for line in trail.of("event") if line["action"] == "klaviyo_audit.key_rotation"]
    return [line["metadata"]["step"] for line in found]


def test_two_services_move_one_after_the_other_while_the_rotation_is_killed(
    tmp_path, trail, old, new, admin
):
    with FakeKlaviyo(
        keys={old: SCOPES, new: SCOPES, admin: ["credentials:read", "credentials:write"]}
    ) as fake:
        rotate = Rotate(fake, old, new, admin, tmp_path)
        # Longer than a busy machine may keep a service from its next call.
        rotate.command += ["--idle", f"{IDLE}s"]
        running = [service("loyalty", old, fake, tmp_path), service("shop", old, fake, tmp_path)]
        try:
            process = rotate.start("--admin", "ADMIN")
            assert "scopes: the same or more" in process.stdout.readline()
            told = process.stdout.readline()
            assert "still used by" in told
            process.kill()  # in the middle
            process.communicate()

            # One service moves; the rotation names the other one, also after it was killed.
            stop(running.pop(0))
            running.append(service("loyalty", new, fake, tmp_path))
            time.sleep(IDLE + 0.2)
            code, out, err = rotate.run("--admin", "ADMIN", "--wait", "1s")
            assert code == 1
            assert "going on with a rotation that was begun: checked at" in out
            assert "shop (last" in err
            assert "loyalty" not in err
            assert not fake._access.is_disabled(old)

            # Two at the same time are one too many.
            process = rotate.start("--admin", "ADMIN")
            while "still used by" not in process.stdout.readline():
                pass
            assert "in another process" in rotate.run("--admin", "ADMIN")[2]

            stop(running.pop(0))
            running.append(service("shop", new, fake, tmp_path))
            out, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err
            assert "the old key is disabled" in out
            assert fake._access.is_disabled(old)
            assert not fake._access.is_disabled(new)
        finally:
            for one in running:
                stop(one)
        # What is done stays done.
        assert rotate.run("--admin", "ADMIN")[0] == 0
    assert steps(trail) == ["checked", "waiting", "idle", "disabling", "disabled", "done"]
    state = (
        tmp_path / "trail/rotations" / f"{fingerprint(old)}-{fingerprint(new)}.json"
    ).read_text()
    assert list(json.loads(state)["done"]) == ["checked", "idle", "disabled", "done"]
    for key in (old, new, admin):
        assert key not in trail.path.read_text() + state
    # Nobody got a 401 by it: the old key was idle before it went.
    assert {line["result"] for line in trail.outcomes()} == {"success"}


def test_killed_between_disabling_and_saying_so(tmp_path, trail, old, new, admin):
    with FakeKlaviyo(keys={old: None, new: None, admin: None}) as fake:
        Auditor(journal="trail").close()
        rotate = Rotate(fake, old, new, admin, tmp_path)
        process = rotate.start("--admin", "ADMIN")
        fake.fail(200, method="PATCH", path="/api/api-keys/*", delay=3600)
        while not fake._access.is_disabled(old):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.communicate()
        code, out, _ = rotate.run("--admin", "ADMIN")
        assert (code, "does not take the old key any more" in out) == (0, True)
    assert steps(trail)[-2:] == ["disabling", "done"]


def test_without_an_admin_key_it_says_what_to_click_and_sees_that_it_was(
    tmp_path, trail, old, new, admin
):
    with FakeKlaviyo(keys={old: None, new: None}) as fake:
        Auditor(journal="trail").close()
        rotate = Rotate(fake, old, new, admin, tmp_path)
        code, out, err = rotate.run()
        assert code == 1
        assert "Settings > API keys" in err
        assert f"ends in {old[-4:]}" in err
        assert "scopes: not known" in out
        fake.disable_key(old)
        assert rotate.run()[0] == 0
    assert steps(trail) == ["checked", "idle", "disable_by_hand", "done"]


@pytest.mark.parametrize("way", ["dead", "same", "account", "scopes", "unset", "down"])
def test_what_must_not_go_on(tmp_path, trail, old, admin, way):
    site_old, site_new = (made_up_key(RNG, site=True) for _ in range(2))
    new = made_up_key(RNG, site=False)
    keys = {old: SCOPES, new: ["accounts:read"], admin: None, site_old: None, site_new: None}
    with FakeKlaviyo(keys=keys) as fake:
        with Auditor(journal="trail", service="shop") as auditor:
            auditor.audit(fake.client(api_key=old)).Profiles.get_profiles()
        given = {
            "dead": (old, made_up_key(RNG), "not live: dead"),
            "same": (old, old, "the same key"),
            "account": (site_old, site_new, "another account"),
            "scopes": (old, new, "lacks scopes that the old one is used for: profiles:read"),
            "unset": (old, "", "NEW is not set"),
            "down": (old, new, "not live: unknown"),
        }[way]
        rotate = Rotate(fake, given[0], given[1], admin, tmp_path)
        if way == "down":
            rotate.command[rotate.command.index(fake.url)] = "http://127.0.0.1:9"
        code, out, err = rotate.run("--admin", "ADMIN")
        assert code == 2, out
        assert given[2] in err
        assert not fake._access.is_disabled(given[0])


def test_the_sinks_own_key_is_not_taken_away_unseen(tmp_path, old, new, admin):
    with FakeKlaviyo(keys={old: None, new: None, admin: None}) as fake:
        Auditor(journal="trail").close()
        rotate = Rotate(fake, old, new, admin, tmp_path)
        for env in (
            {"KLAVIYO_AUDIT_KLAVIYO_KEY": old},
            {"KLAVIYO_AUDIT_SINKS": "klaviyo", "KLAVIYO_API_KEY": old},
        ):
            rotate.environ |= env
            code, _, err = rotate.run("--admin", "ADMIN")
            assert (code, "the sink klaviyo sends with the old key" in err) == (2, True)
            for name in env:
                del rotate.environ[name]
        assert not fake._access.is_disabled(old)
        assert fake.count == 0


def test_a_scope_that_nobody_used_may_go(tmp_path, trail, old, new, admin):
    keys = {old: [*SCOPES, "lists:write"], new: SCOPES, admin: None}
    with FakeKlaviyo(keys=keys) as fake:
        with Auditor(journal="trail", service="shop") as auditor:
            auditor.audit(fake.client(api_key=old)).Profiles.get_profiles()
        code, out, _ = Rotate(fake, old, new, admin, tmp_path).run("--admin", "ADMIN")
    assert (code, "lacks lists:write, which nobody has used" in out) == (0, True)


@pytest.mark.parametrize("way", ["the admin key comes later", "another scope is used meanwhile"])
def test_scopes_are_compared_again_before_a_key_is_disabled(tmp_path, trail, old, new, admin, way):
    keys = {old: [*SCOPES, "lists:read"], new: SCOPES, admin: None}
    with FakeKlaviyo(keys=keys) as fake:
        rotate = Rotate(fake, old, new, admin, tmp_path)
        with Auditor(journal="trail", service="shop") as auditor:
            klaviyo = auditor.audit(fake.client(api_key=old))
            klaviyo.Profiles.get_profiles()
            if way == "the admin key comes later":
                klaviyo.Lists.get_lists()
                assert rotate.run("--idle", "1h", "--wait", "100ms")[0] == 1
            else:
                assert rotate.run("--admin", "ADMIN", "--idle", "1h", "--wait", "100ms")[0] == 1
                klaviyo.Lists.get_lists()
        code, out, err = rotate.run("--admin", "ADMIN")
        assert (code, "going on" in out) == (2, True)
        assert "lacks scopes that the old one is used for: lists:read" in err
        assert not fake._access.is_disabled(old)
    assert "disabling" not in steps(trail)


class Killed(BaseException):
    """As good as a kill: nothing catches it."""


PLACES = [
    (Rotation, "_record"), (RotationState, "write"), (RotationState, "read"),
    (rotation, "check_key"), (rotation.apikeys, "find_api_key"), (rotation.apikeys, "disable_api_key"),
]  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[name for _, name in PLACES])
def test_interrupted_at_each_step_it_goes_on_to_its_end(
    tmp_path, trail, old, new, admin, monkeypatch, owner, name, after
):
    real = getattr(owner, name)
    for number in range(1, 20):
        left = [number]

        def interrupted(*args, left=left, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Killed
            result = real(*args, **kwargs)
            if left[0] == 0:
                raise Killed
            return result

        folder = tmp_path / str(number)
        with FakeKlaviyo(keys={old: SCOPES, new: SCOPES, admin: None}) as fake:
            plan = Plan(old, new, "OLD", "NEW", admin=admin, idle=0.05, poll=0.01, host=fake.url)
            monkeypatch.setattr(owner, name, interrupted)
            was_killed = not rotated(folder, plan)
            monkeypatch.setattr(owner, name, real)
            if was_killed:
                assert rotated(folder, plan)
            assert fake._access.is_disabled(old)
            assert not fake._access.is_disabled(new)
        told = steps(Trail(folder))
        # Nothing happens that nobody can know of, and what is done is said to be.
        assert told.index("disabling") < len(told) - 1
        assert told[-1] == "done"
        assert set(told) >= {"checked", "idle", "disabling", "done"}
        if not was_killed:
            assert number > 1
            return
    pytest.fail("it was interrupted each time")


def rotated(folder, plan):
    try:
        with Auditor(journal=folder, sinks=(), seal="off", on_failure="block") as auditor:
            Rotation(auditor, plan, lambda _: None).run()
    except Killed:
        return False
    return True


def test_what_cannot_be_recorded_is_not_done(tmp_path, old, new, admin, monkeypatch):
    with FakeKlaviyo(keys={old: SCOPES, new: SCOPES, admin: None}) as fake:
        plan = Plan(old, new, "OLD", "NEW", admin=admin, idle=0.05, poll=0.01, host=fake.url)
        with Auditor(journal=tmp_path / "trail", sinks=(), seal="off") as auditor:
            monkeypatch.setattr(auditor.recorder, "event", lambda *_, **__: None)
            with pytest.raises(KlaviyoAuditError, match="cannot be recorded"):
                Rotation(auditor, plan, lambda _: None).run()
        assert not fake._access.is_disabled(old)
