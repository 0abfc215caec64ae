"""klaviyo-audit check: a good project and a bad one, and each check on its own hostile case."""

import grp
import json
import os
import pwd
import random
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from klaviyo_audit import Auditor
from klaviyo_audit.cli import main
from klaviyo_audit.journal.note import generate_key
from klaviyo_audit.security import checklist
from klaviyo_audit.security.checks.exposure import keys_in_environment
from klaviyo_audit.security.scan import Scan
from klaviyo_audit.sinks import status as sink_status
from klaviyo_audit.sinks.batch import DeadLetter
from klaviyo_audit.sinks.deadletters import bury
from klaviyo_audit.sinks.state import save_state
from klaviyo_audit.testing import FakeKlaviyo
from tests.cli.terminal import run_on_terminal
from tests.security.planting import git, made_up_key
from tests.security.sarif_schema import validate
from tests.waiting import PATIENCE

GOLDEN = Path(__file__).parent / "golden"
RNG = random.Random(7)
STAGING, PRODUCTION, LEAKED = (made_up_key(RNG, site=False) for _ in range(3))
SIGNER = generate_key("example.com/shop")
IDS = [check.id for check in checklist.CHECKS]

SETTINGS = f"""
dir = "trail"
sinks = ["stdout"]
policy = "policy.toml"
public_key = "{SIGNER.verifier.to_text()}"
"""
POLICY = """
version = 1
[guard]
preset = "production"
allow = ["profiles:read"]
"""
APP = """
import os
from fastapi import FastAPI, Request
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import audit, verify_webhook

klaviyo = audit(KlaviyoAPI(os.environ["KLAVIYO_API_KEY"]))
app = FastAPI()

@app.post("/hooks/klaviyo")
async def receive(request: Request):
    verify_webhook(await request.body(), request.headers, os.environ["SECRET"])
"""
GOOD = {
    "klaviyo-audit.toml": SETTINGS,
    "policy.toml": POLICY,
    "app.py": APP,
    ".gitignore": ".env\ntrail\n",
}
BAD = {
    "klaviyo-audit.toml": 'dir = "trail"\nsinks = ["stdout"]\n',
    "app.py": APP.replace("    verify_webhook(", "    print(") + f'OLD = "{LEAKED}"\n',
    ".env": f"KLAVIYO_API_KEY={PRODUCTION}\n",
}
ENVIRONMENT = {
    "KLAVIYO_AUDIT_ENVIRONMENT": "production",
    "KLAVIYO_AUDIT_SIGNING_KEY": SIGNER.to_text(),
    "KLAVIYO_AUDIT_PSEUDONYM_KEY": "k1:" + "0123456789abcdef" * 2,
}


def call(environment, key, *, known=True, method="get_profiles", **settings):
    """One real call of a program in an environment."""
    with (
        FakeKlaviyo(keys={key: None} if known else {STAGING: None}) as fake,
        Auditor(environment=environment, service="shop", sinks=[], **settings) as auditor,
    ):
        group = "Lists" if "list" in method else "Profiles"
        try:
            getattr(
                getattr(auditor.audit(fake.client(api_key=key, max_retries=1)), group), method
            )()
        except Exception as error:
            assert error.status == 401


def build(folder, files):
    folder.mkdir()
    git(folder, "init", "-q")
    for name, content in files.items():
        (folder / name).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")


def ship(folder, environment):
    subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "ship", "--sink", "stdout"], check=True, cwd=folder,
        capture_output=True, timeout=PATIENCE, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def good_project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "shop"
    build(folder, GOOD)
    (folder / ".env").write_text(f"KLAVIYO_API_KEY={PRODUCTION}\n")
    with chdir(folder), mock.patch.dict(os.environ, ENVIRONMENT):
        call("staging", STAGING)
        call("production", PRODUCTION)
        ship(folder, ENVIRONMENT)
    return folder


@pytest.fixture
def good(good_project, tmp_path, monkeypatch):
    """A copy of the good project, which a test may spoil."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return Path(shutil.copytree(good_project, tmp_path / "shop", symlinks=True))


@pytest.fixture
def bad(tmp_path):
    folder = tmp_path / "bad"
    build(folder, BAD)
    with chdir(folder):
        call("staging", PRODUCTION)
        call("production", PRODUCTION)
        call("production", LEAKED, known=False)
        call("production", PRODUCTION)
    journal = folder / "trail" / "audit.jsonl"
    first, last = journal.read_bytes().rsplit(b'"result":"success"', 1)
    journal.write_bytes(first + b'"result":"failure"' + last)
    journal.chmod(0o644)
    (folder / "trail" / "checkpoints").unlink()
    (folder / "trail" / "sinks" / "stdout").mkdir(parents=True, mode=0o700)
    (folder / "trail" / "sinks").chmod(0o700)
    bury(folder / "trail" / "sinks" / "stdout", [dead_letter()])
    return folder


def dead_letter():
    return DeadLetter(b'{"v":1}', "too large")


def run(folder, *arguments):
    """The command in this process: exit code and output."""
    done = CliRunner().invoke(main, ["check", str(folder), *arguments], catch_exceptions=False)
    assert not any(key in done.output for key in (STAGING, PRODUCTION, LEAKED))
    return done


def statuses(folder, *arguments):
    found = json.loads(run(folder, "--json", *arguments).stdout)
    return {one["id"]: one for one in found["checks"]}


def one(folder, name, *arguments):
    return statuses(folder, *arguments)[name]


def golden(name, text, folder):
    text = text.replace(str(folder), "<project>")
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>", text)
    text = re.sub(r"commit [0-9a-f]{12}", "commit <id>", text)
    text = re.sub(r"writer [0-9a-f]{16}", "writer <id>", text)
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def command(folder, *arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "check", *arguments], cwd=folder, text=True,
        capture_output=True, timeout=PATIENCE, check=False, env={**os.environ, **env},
    )  # fmt: skip


def test_a_good_project_passes_every_check(good):
    done = command(good, "--history", "--strict")
    assert (done.returncode, done.stderr) == (0, "")
    golden("check-good.txt", done.stdout, good)
    found = statuses(good, "--history")
    assert list(found) == IDS
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(IDS, "pass")


def test_a_bad_project_fails(bad):
    done = command(bad, "--history")
    assert (done.returncode, done.stderr) == (1, "")
    assert not any(key in done.stdout for key in (STAGING, PRODUCTION, LEAKED))
    golden("check-bad.txt", done.stdout, bad)


def commit(folder, name, content):
    (folder / name).write_text(content)
    git(folder, "add", "-f", name)
    git(folder, "commit", "-q", "-m", name)


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def spoil_keys(folder):
    (folder / "new.py").write_text(f'KEY = "{LEAKED}"\n')


def spoil_keys_in_name(folder):
    (folder / f"{LEAKED}.py").write_text(f'KEY = "{LEAKED}"\n')


def spoil_env_tracked(folder):
    commit(folder, ".env", "A=1\n")


def spoil_env_loose(folder):
    (folder / ".env.production").write_text("A=1\n")


def spoil_env_not_ignored(folder):
    (folder / ".env").unlink()
    (folder / ".gitignore").write_text("trail\n")


def spoil_no_git(folder):
    shutil.rmtree(folder / ".git")


def spoil_history(folder):
    commit(folder, "old.py", f'KEY = "{LEAKED}"\n')
    git(folder, "rm", "-q", "old.py")
    git(folder, "commit", "-q", "-m", "gone")


def spoil_shallow(folder):
    commit(folder, "more.py", "A = 1\n")
    whole = folder.with_name("whole")
    folder.rename(whole)
    git(whole.parent, "clone", "-q", "--depth=1", whole.as_uri(), folder)


def spoil_same_key(folder):
    with chdir(folder):
        call("staging", PRODUCTION)


def spoil_scopes(folder):
    edit(folder / "policy.toml", b'"profiles:read"', b'"profiles:*", "lists.delete_list"')


def spoil_default_allow(folder):
    edit(folder / "policy.toml", b"allow =", b'default = "allow"\nallow =')


def spoil_dead_key(folder):
    with chdir(folder):
        call("production", LEAKED, known=False)


def spoil_age(folder):
    (folder / "klaviyo-audit.toml").write_text(SETTINGS + 'key_max_age = "1ms"\n')


def spoil_webhook(folder):
    edit(folder / "app.py", b"    verify_webhook(", b"    print(")


def spoil_webhook_tested_only(folder):
    spoil_webhook(folder)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_app.py").write_text(
        "from klaviyo_audit import verify_webhook\nverify_webhook(b'', {}, 'x')\n"
    )


def spoil_webhook_own(folder):
    edit(folder / "app.py", b"import audit, verify_webhook", b"import audit")
    edit(folder / "app.py", b"app = FastAPI()", b"app = FastAPI()\ndef verify_webhook(*a): pass\n")


def spoil_journal(folder):
    shutil.rmtree(folder / "trail")


def spoil_line(folder):
    edit(folder / "trail" / "audit.jsonl", b'"result":"success"', b'"result":"failure"')


def spoil_goodbye(folder):
    """A program that was killed, its last lines not sealed for long."""
    script = (
        "import os, time\n"
        "from klaviyo_audit import Auditor\n"
        "a = Auditor(environment='production', service='shop', sinks=[], seal='off')\n"
        "a.record('x')\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, timeout=PATIENCE, check=False)


def spoil_checkpoints(folder):
    (folder / "trail" / "checkpoints").unlink()


def spoil_key_beside(folder):
    path = folder / "trail" / "sealing.key"
    path.write_text(SIGNER.to_text() + "\n")
    path.chmod(0o600)


def spoil_dead_letters(folder):
    bury(folder / "trail" / "sinks" / "stdout", [dead_letter()])


def spoil_shipper(folder):
    """What a shipper says that cannot reach the other end."""
    save_state(folder / "trail" / "sinks" / "stdout", {"state": "retrying", "error": "no route"})


def spoil_unknown_sink(folder):
    edit(folder / "klaviyo-audit.toml", b'"stdout"', b'"stduot"')


def spoil_no_sinks(folder):
    (folder / "klaviyo-audit.toml").write_text(SETTINGS.replace('["stdout"]', "[]"))
    shutil.rmtree(folder / "trail" / "sinks")


def spoil_mode(folder):
    (folder / "trail" / "audit.jsonl").chmod(0o640)


def spoil_folder_mode(folder):
    (folder / "trail").chmod(0o755)


def spoil_link(folder):
    (folder / "trail").rename(folder / "elsewhere")
    (folder / "trail").symlink_to("elsewhere")


def spoil_inner_link(folder):
    (folder / "trail" / "reserve").unlink()
    (folder / "trail" / "reserve").symlink_to("/etc/hostname")


def spoil_parent(folder):
    folder.chmod(0o777)


def spoil_group(folder):
    if os.geteuid():
        pytest.skip("only root may give a folder to another group")
    os.chown(folder, -1, 4_242)
    folder.chmod(0o770)


def spoil_guard(folder):
    with chdir(folder):
        call("production", PRODUCTION, guard="off")


def spoil_guard_mode(folder):
    with chdir(folder):
        call("production", PRODUCTION, guard_mode="observe")


def spoil_guard_table(folder):
    edit(folder / "policy.toml", b'"production"', b'"nowhere"')


def spoil_pseudonyms(folder):
    with chdir(folder), mock.patch.dict(os.environ):
        del os.environ["KLAVIYO_AUDIT_PSEUDONYM_KEY"]
        call("production", PRODUCTION)


HOSTILE = [
    ("keys-in-environment", spoil_keys, "fail", "new.py:1"),
    ("keys-in-environment", spoil_keys_in_name, "fail", "..."),
    ("env-files", spoil_env_tracked, "fail", "under version control: .env"),
    ("env-files", spoil_env_loose, "fail", ".env.production"),
    ("env-files", spoil_env_not_ignored, "warn", "would not ignore"),
    ("env-files", spoil_no_git, "not checked", "no git repository"),
    ("history", spoil_history, "fail", "old.py"),
    ("history", spoil_no_git, "not checked", "no git repository"),
    ("distinct-keys", spoil_same_key, "fail", "in production and staging"),
    ("distinct-keys", spoil_journal, "not checked", "nothing was recorded"),
    ("history", spoil_shallow, "not checked", "a shallow clone"),
    ("minimal-scopes", spoil_scopes, "warn", "profiles:write, lists.delete_list"),
    ("minimal-scopes", spoil_default_allow, "warn", "everything (default = allow)"),
    ("minimal-scopes", spoil_guard_table, "not checked", "no preset"),
    ("key-age", spoil_age, "fail", "too old"),
    ("key-age", spoil_dead_key, "fail", "revoked in use"),
    ("webhooks", spoil_webhook, "fail", "app.py:10"),
    ("webhooks", spoil_webhook_tested_only, "fail", "app.py:10"),
    ("webhooks", spoil_webhook_own, "fail", "app.py:12"),
    ("audit-on", spoil_journal, "fail", "there is no journal"),
    ("intact", spoil_line, "fail", "checksum"),
    ("intact", spoil_goodbye, "warn", "no-goodbye"),
    ("sealed", spoil_checkpoints, "fail", "no checkpoint"),
    ("signing-key", spoil_key_beside, "warn", "beside the journal"),
    ("sinks", spoil_dead_letters, "fail", "stdout: dead letters: 1"),
    ("sinks", spoil_shipper, "fail", "no route"),
    ("sinks", spoil_unknown_sink, "fail", "did you mean stdout"),
    ("sinks", spoil_no_sinks, "warn", "this machine only"),
    ("permissions", spoil_mode, "fail", "trail/audit.jsonl has mode 0640, not 0600"),
    ("permissions", spoil_folder_mode, "fail", "mode 0755, not 0700"),
    ("permissions", spoil_link, "fail", "symbolic link"),
    ("permissions", spoil_inner_link, "fail", "trail/reserve is a symbolic link"),
    ("permissions", spoil_parent, "fail", "can be written by everybody (0777)"),
    ("permissions", spoil_group, "fail", "can be written by group 4242 (0770)"),
    ("guard", spoil_guard, "fail", "without a guard: shop in production"),
    ("guard", spoil_guard_mode, "warn", "only observes"),
    ("guard", spoil_guard_table, "fail", "cannot be used"),
    ("pseudonym-key", spoil_pseudonyms, "warn", "persons are masked"),
]


@pytest.mark.parametrize(("name", "spoil", "status", "evidence"), HOSTILE)
def test_each_check_sees_its_hostile_case(good, name, spoil, status, evidence):
    arguments = ["--history"] if name == "history" else []
    assert one(good, name, *arguments)["status"] == "pass"
    spoil(good)
    found = one(good, name, *arguments)
    assert (found["status"], evidence in found["evidence"]) == (status, True), found
    # The remedy is a thing to type; what cannot be checked for want of anything may have none.
    assert found.get("remedy") or status == "not checked"


def test_a_group_of_ones_own_may_write(good):
    """As with the umask of 002, where each user has a group of their own."""
    user = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(user.pw_gid)
    if group.gr_name != user.pw_name or group.gr_mem:
        pytest.skip(f"{user.pw_name} has no group of its own here")
    os.chown(good, -1, group.gr_gid)
    good.chmod(0o775)
    assert one(good, "permissions")["status"] == "pass"


def test_each_check_has_a_hostile_case():
    assert {name for name, _, status, _ in HOSTILE if status != "not checked"} == set(IDS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read(good):
    (good / "app.py").chmod(0)
    for name in ("keys-in-environment", "webhooks"):
        assert one(good, name)["status"] == "not checked"


def test_what_was_not_read_never_passes():
    partly = mock.Mock(scanned=Scan(unread=[("a.py", "Permission denied")], files=3))
    found = keys_in_environment(partly)
    assert (found.status, "a.py (Permission denied)" in found.evidence) == ("not checked", True)


def test_the_page_lists_the_checks_and_its_workflow_runs(good, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "checklist.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == IDS
    (line,) = re.findall(r"- run: klaviyo-audit (check .*)", page)
    monkeypatch.chdir(good)
    assert CliRunner().invoke(main, line.split(), catch_exceptions=False).exit_code == 0
    assert (good / "check.xml").exists()
    assert (good / "check.sarif").exists()


def test_lines_that_nobody_seals(good):
    spoil_goodbye(good)
    assert one(good, "sealed")["status"] == "pass"  # for some minutes
    from klaviyo_audit.security.checks import project
    from klaviyo_audit.settings import load

    with chdir(good):
        later = project.Project(good, load(), now=datetime(2100, 1, 1, tzinfo=UTC))
        (found,) = checklist.run_checks(later, [c for c in checklist.CHECKS if c.id == "sealed"])
    assert (found.outcome.status, "not sealed yet" in found.outcome.evidence) == ("fail", True)


def test_a_sink_that_is_behind_for_long(good, monkeypatch):
    shutil.rmtree(good / "trail" / "sinks")
    assert one(good, "sinks")["status"] == "pass"  # it may catch up in a moment
    real = sink_status._age
    monkeypatch.setattr(sink_status, "_age", lambda since: real(since) + (601 if since else 0))
    found = one(good, "sinks")
    assert (found["status"], "and nobody ships" in found["evidence"]) == ("fail", True)


def test_one_environment_says_nothing_of_the_others(good):
    with chdir(good):
        shutil.rmtree("trail")
        call("production", PRODUCTION)
    found = one(good, "distinct-keys")
    assert (found["status"], "only has keys of production" in found["evidence"]) == (
        "not checked",
        True,
    )


@pytest.mark.parametrize(
    ("imports", "use", "verified"),
    [
        ("from klaviyo_audit import verify_webhook as v", "v(b, h, s)", True),
        ("import klaviyo_audit as k", "k.verify_webhook(b, h, s)", True),
        ("import klaviyo_audit.klaviyo.webhook", "klaviyo_audit.verify_webhook(b, h, s)", True),
        (
            "from klaviyo_audit.integrations import asgi_webhooks as w",
            "app.add_middleware(w.KlaviyoWebhooks)",
            True,
        ),
        ("from klaviyo_audit import verify_webhook", "'verify_webhook(b, h, s)'", False),
        ("import other", "other.verify_webhook(b, h, s)", False),
    ],
)
def test_what_counts_as_verification(good, imports, use, verified):
    (good / "app.py").write_text(
        f"{imports}\ndef klaviyo_webhook_view(request):\n    h = request['Klaviyo-Signature']\n    {use}\n"
    )
    assert one(good, "webhooks")["status"] == ("pass" if verified else "fail")


def test_verification_may_be_in_a_file_that_is_no_python(good):
    spoil_webhook(good)
    assert one(good, "webhooks")["status"] == "fail"
    (good / "old.py").write_text("print 'verify_webhook'\n")
    found = one(good, "webhooks")
    assert (found["status"], "old.py (SyntaxError)" in found["evidence"]) == ("not checked", True)


def test_a_project_without_webhooks_is_not_checked(good):
    (good / "app.py").write_text('"""No klaviyo webhook here."""\nname = "klaviyo webhook"\n')
    assert one(good, "webhooks")["status"] == "not checked"


def test_a_check_that_raises_is_not_checked_and_its_message_is_kept_back(good, monkeypatch):
    def broken(project):
        raise RuntimeError(f"with {LEAKED}")

    def unreadable(project):
        raise PermissionError(13, f"no {LEAKED}")

    checks = (
        checklist.Check("broken", "Broken", broken),
        checklist.Check("unreadable", "Unreadable", unreadable),
    )
    monkeypatch.setattr(checklist, "CHECKS", checks)
    done = run(good, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["counts"] == {"pass": 0, "warn": 0, "fail": 0, "not checked": 2}
    assert "RuntimeError" in found["checks"][0]["evidence"]
    assert "PermissionError" in found["checks"][1]["evidence"]


def test_exit_codes(good, tmp_path):
    assert run(good).exit_code == 0
    assert run(good, "--strict").exit_code == 0
    spoil_key_beside(good)
    assert run(good).exit_code == 0
    assert run(good, "--strict").exit_code == 1
    spoil_mode(good)
    assert run(good).exit_code == 1
    assert run(tmp_path / "nowhere").exit_code == 2
    assert run(good, "--junit", str(tmp_path / "no" / "x.xml")).exit_code == 2
    (good / "klaviyo-audit.toml").write_text("durabilty = 1\n")
    done = run(good)
    assert (done.exit_code, "durabilty" in done.stderr) == (2, True)


def test_without_the_trail_only_files_are_looked_at(good, tmp_path):
    shutil.rmtree(good / "trail")
    found = statuses(good, "--no-trail", "--history", "--strict")
    assert list(found) == ["keys-in-environment", "env-files", "history", "webhooks"]
    assert run(good, "--no-trail", "--history", "--strict").exit_code == 0
    spoil_webhook(good)
    assert run(good, "--no-trail").exit_code == 1
    assert run(good, "--no-trail", "--journal", str(tmp_path)).exit_code == 2


def test_another_journal_by_option(good, tmp_path, monkeypatch):
    (good / "trail").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert one(good, "audit-on")["status"] == "fail"
    assert one(good, "audit-on", "--journal", "moved")["status"] == "pass"


def junit(path):
    suite = ET.parse(path).getroot().find("testsuite")
    cases = {case.get("name"): case for case in suite}
    kinds = {
        name: [child.tag for child in case if child.tag != "system-out"]
        for name, case in cases.items()
    }
    return suite.attrib, cases, kinds


def test_junit_read_back(bad, tmp_path):
    (bad / "odd\x1b\ufffe.py").write_text(f'K = "{STAGING}"\n')  # what XML cannot hold
    run(bad, "--junit", str(tmp_path / "j.xml"))
    assert STAGING not in (tmp_path / "j.xml").read_text()
    found = statuses(bad)
    counts, cases, kinds = junit(tmp_path / "j.xml")
    tags = {"fail": ["failure"], "not checked": ["skipped"]}
    assert kinds == {name: tags.get(one["status"], []) for name, one in found.items()}
    assert counts["tests"] == str(len(IDS))
    assert counts["failures"] == str(sum(one["status"] == "fail" for one in found.values()))
    assert counts["skipped"] == str(sum(one["status"] == "not checked" for one in found.values()))
    assert "under version control: .env" in cases["env-files"].find("failure").get("message")
    run(bad, "--strict", "--junit", str(tmp_path / "j.xml"))
    assert junit(tmp_path / "j.xml")[2]["pseudonym-key"] == ["failure"]


def test_sarif(bad, tmp_path):
    run(bad, "--sarif", str(tmp_path / "s.sarif"))
    text = (tmp_path / "s.sarif").read_text()
    assert not any(key in text for key in (STAGING, PRODUCTION, LEAKED))
    log = json.loads(text)
    validate(log)
    (ran,) = log["runs"]
    assert [rule["id"] for rule in ran["tool"]["driver"]["rules"]] == [f"check/{n}" for n in IDS]
    found = statuses(bad)
    expected = {
        f"check/{name}": "error" if one["status"] == "fail" else "warning"
        for name, one in found.items()
        if one["status"] in {"fail", "warn"}
    }
    assert {one["ruleId"]: one["level"] for one in ran["results"]} == expected
    places = {
        one["ruleId"]: one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for one in ran["results"]
    }
    assert places["check/webhooks"] == "app.py"
    assert places["check/guard"] == "klaviyo-audit.toml"


def test_a_terminal_gets_a_table(good):
    code, shown = run_on_terminal("check", good)
    assert code == 0
    assert b"Webhooks are verified" in shown
    assert b"\x1b[32mpass" in shown
