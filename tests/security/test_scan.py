"""klaviyo-audit scan: recall in a repository with planted keys, false finds, and what it shows."""

import io
import json
import os
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security import matching
from klaviyo_audit.security.patterns import Rule
from klaviyo_audit.security.scan import ScanFailed, scan
from klaviyo_audit.testing import FakeKlaviyo
from tests.security.planting import build, git, made_up_key, ways
from tests.security.sarif_schema import validate

RNG = random.Random(3)


def command(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "scan", *map(str, arguments)],
        capture_output=True, text=True, timeout=250, check=False, cwd=cwd,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return folder, *build(folder)


def test_every_key_that_was_ever_committed_is_found(planted):
    folder, keys, standing = planted
    assert len(keys) == 200
    found = {find.secret: find for find in scan(folder, history=True).finds if find.secret}
    assert [path for key, path in keys.items() if key not in found] == []
    assert set(found) == set(keys)
    for key, path in keys.items():
        assert found[key].path == path
        assert (found[key].commit is None) == (path in standing)


def test_the_work_tree_holds_only_what_still_stands(planted):
    folder, keys, standing = planted
    found = {find.secret for find in scan(folder).finds if find.secret}
    assert found == {key for key, path in keys.items() if path in standing}
    assert len(found) > 40


def test_nothing_shows_a_key(planted):
    folder, keys, _ = planted
    for form in ("text", "json", "sarif"):
        done = command("--history", "--format", form, cwd=folder)
        assert done.returncode == 1
        shown = done.stdout + done.stderr
        assert [key for key in keys if key in shown or key[-34:] in shown] == []
        assert [key for key in keys if fingerprint(key) not in shown] == []


def test_sarif_says_what_code_scanning_reads(planted):
    folder, keys, _ = planted
    report = json.loads(command("--history", "--format", "sarif", cwd=folder).stdout)
    validate(report)
    assert (report["version"], len(report["runs"])) == ("2.1.0", 1)
    run = report["runs"][0]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert rules == {rule.value for rule in Rule}
    of_keys = [one for one in run["results"] if one["ruleId"] == "klaviyo-private-key"]
    assert len(of_keys) == len(keys)
    for result in run["results"]:
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"]
        assert result["message"]["text"]


def test_few_false_finds_in_large_packages():
    installed = Path(sysconfig.get_paths()["purelib"])
    packages = ["openapi_client", "django", "hypothesis", "mypy", "pydantic"]
    finds, size = [], 0
    for package in packages:
        assert (installed / package).is_dir(), f"{package} is not installed"
        result = scan(installed / package)
        size += result.bytes
        finds += result.finds
    assert size > 40e6
    assert len(finds) <= 1, finds


@pytest.mark.parametrize(
    "text",
    [
        'KEY = "pk_' + "0" * 34 + '"',
        'KEY = "pk_' + "0123456789abcdef" * 2 + '01"',
        'KEY = "pk_' + "ab12" * 8 + 'ab"',
        'KEY = "pk_live_' + "51e" * 12 + '"',
        'KEY = os.environ["KLAVIYO_API_KEY"]  # pk_...',
        'klaviyo_webhook_secret = "your-klaviyo-secret-1"',
        'klaviyo_webhook_secret = "KLAVIYO_WEBHOOK_SECRET"',
        "klaviyo_access_token = settings.KLAVIYO_TOKEN",
        'klaviyo = Klaviyo(access_token="${KLAVIYO_TOKEN_42}")',
        'access_token = "a8f7' + 'Kd93lso2Wq1xPq77"  # of another service',
    ],
)
def test_what_only_looks_like_a_credential(text):
    assert list(matching.search(io.BytesIO(text.encode()).read, bare=True)) == []


@pytest.mark.parametrize(
    ("name", "form", "rule"),
    [
        ("a.py", 'KLAVIYO_WEBHOOK_SECRET = "{}"', Rule.WEBHOOK_SECRET),
        ("a.py", 'klaviyo.Webhooks.create_webhook({{"secret_key": "{}"}})', Rule.WEBHOOK_SECRET),
        ("a.py", "KlaviyoAPI(access_token='{}')", Rule.OAUTH_TOKEN),
        ("a.ts", "const klaviyo = {{ refreshToken: `{}` }}", Rule.OAUTH_TOKEN),
        ("a.sh", "curl -H 'Authorization: Bearer {}' https://a.klaviyo.com/api", Rule.OAUTH_TOKEN),
        ("a.json", '{{"klaviyo": {{"client_secret": "{}"}}}}', Rule.CLIENT_SECRET),
        (".env", "KLAVIYO_WEBHOOK_SECRET={}", Rule.WEBHOOK_SECRET),
        (".env.production", "export KLAVIYO_CLIENT_SECRET={}  # of the shop", Rule.CLIENT_SECRET),
        ("values.yaml", "klaviyo:\n  webhookSecret: {}\n", Rule.WEBHOOK_SECRET),
    ],
)
def test_what_a_name_tells(tmp_path, name, form, rule):
    secret = "a8f7-Kd93-lso2-" + "Wq1xPq77"
    (tmp_path / name).write_text(form.format(secret))
    (find,) = scan(tmp_path).finds
    assert (find.rule, find.secret, find.path) == (rule, secret, name)


@pytest.mark.parametrize("name", ways(RNG))
def test_a_key_at_any_place_of_a_stream(name, monkeypatch):
    """A match is found once, whether or not a chunk ends in it."""
    monkeypatch.setattr(matching, "CHUNK_BYTES", 5000)
    for _ in range(20):
        key = made_up_key(RNG)
        content = ways(RNG)[name](key)
        if name.endswith(".ipynb"):
            continue  # their cells are put together first, and tested above
        text = b"\n" * RNG.randint(0, 9000) + content + b"\nx" * RNG.randint(0, 9000)
        found = list(matching.search(io.BytesIO(text).read))
        assert [match.secret for match in found] == [key]
        assert found[0].line == text.count(b"\n", 0, found[0].offset) + 1


def test_comments_allow(tmp_path):
    one, two, three = (made_up_key(RNG) for _ in range(3))
    (tmp_path / "a.py").write_text(
        f'A = "{one}"  # pragma: allowlist secret\n'
        f"# pragma: allowlist nextline secret\n"
        f'B = "{two}"\n'
        f'C = "{three}"\n'
    )
    result = scan(tmp_path)
    assert [find.secret for find in result.finds] == [three]
    assert result.allowed == 2


def test_a_baseline_made_by_detect_secrets_with_the_plugin(tmp_path):
    """The plugin in the real detect-secrets; its baseline is honoured, for that file alone."""
    old, new = made_up_key(RNG), made_up_key(RNG)
    (tmp_path / "a.py").write_text(f'A = "{old}"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    plugin = command("--plugin-path", cwd=tmp_path).stdout.strip()
    scripts = Path(sysconfig.get_paths()["scripts"])
    made = subprocess.run(
        [scripts / "detect-secrets", "scan", "--no-verify", "-p", plugin],
        capture_output=True, text=True, check=True, cwd=tmp_path, timeout=250,
    )  # fmt: skip
    listed = json.loads(made.stdout)["results"]["a.py"]
    assert "Klaviyo Credential" in {one["type"] for one in listed}
    (tmp_path / ".secrets.baseline").write_text(made.stdout)
    done = command(cwd=tmp_path)
    assert (done.returncode, "1 allowed" in done.stdout) == (0, True), done.stdout
    (tmp_path / "b.py").write_text(f'A = "{old}"\nB = "{new}"\n')
    assert command(cwd=tmp_path).returncode == 1
    # detect-secrets itself refuses new ones through the same baseline, as in its pre-commit hook.
    hook = [scripts / "detect-secrets-hook", "--no-verify", "--baseline", ".secrets.baseline"]
    for name, code in (("a.py", 0), ("b.py", 1)):
        checked = subprocess.run(
            [*hook, name], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert checked.returncode == code, checked.stdout


def test_staged_looks_at_the_index_and_not_at_the_folder(tmp_path):
    git(tmp_path, "init", "-q")
    staged, later = made_up_key(RNG), made_up_key(RNG)
    (tmp_path / "a.py").write_text(f'A = "{staged}"\n')
    (tmp_path / "a b\n.py").write_text("x = 1\n")
    git(tmp_path, "add", "-A")
    (tmp_path / "a.py").write_text("A = 1\n")
    (tmp_path / "c.py").write_text(f'A = "{later}"\n')
    (find,) = scan(tmp_path, staged=True).finds
    assert (find.secret, find.path, find.line) == (staged, "a.py", 1)
    git(tmp_path, "commit", "-q", "-m", "x")
    assert scan(tmp_path, staged=True).finds == []


def test_as_a_hook_it_refuses_the_commit(tmp_path):
    """The entry of .pre-commit-hooks.yaml as git's own hook, also for a commit of one file."""
    hooks = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"
    (entry,) = [line for line in hooks.read_text().splitlines() if "entry:" in line]
    program, *arguments = entry.split(":", 1)[1].split()
    assert program == "klaviyo-audit"
    git(tmp_path, "init", "-q")
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nexec {sys.executable} -m klaviyo_audit {' '.join(arguments)}\n")
    hook.chmod(0o755)
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text(f'K = "{made_up_key(RNG)}"\n')
    git(tmp_path, "add", "-A")
    with pytest.raises(subprocess.CalledProcessError):
        git(tmp_path, "commit", "-q", "-m", "both")
    git(tmp_path, "commit", "-q", "-m", "one", "a.py")
    assert git(tmp_path, "ls-tree", "--name-only", "HEAD").split() == [b"a.py"]


def test_env_files(tmp_path):
    git(tmp_path, "init", "-q")
    key = made_up_key(RNG)
    (tmp_path / ".gitignore").write_text(".env\n")
    (tmp_path / ".env").write_text(f"KLAVIYO_API_KEY={key}\n")
    (tmp_path / ".env.example").write_text("KLAVIYO_API_KEY=pk_yours\n")
    git(tmp_path, "add", "-A")
    assert scan(tmp_path).finds == []  # ignored: where a key belongs
    git(tmp_path, "add", "-f", ".env")
    found = {find.rule: find for find in scan(tmp_path).finds}
    assert found[Rule.TRACKED_ENV].path == found[Rule.PRIVATE_KEY].path == ".env"
    assert len(found) == 2


def test_outside_of_a_repository_every_file_is_looked_at(tmp_path):
    key = made_up_key(RNG)
    (tmp_path / ".env").write_text(f"K={key}")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    (find,) = scan(tmp_path).finds
    assert (find.path, find.secret) == (".env", key)
    assert scan(tmp_path / ".env").finds[0].secret == key
    (tmp_path / "link to it").symlink_to(".env")
    assert scan(tmp_path / "link to it").finds[0].secret == key  # named, so it is meant
    for options in ({"history": True}, {"staged": True}):
        with pytest.raises(ScanFailed, match="in no git repository"):
            scan(tmp_path, **options)
    done = command(tmp_path / "gone", cwd=tmp_path)
    assert (done.returncode, "there is no" in done.stderr) == (2, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_no_clean_result(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0)
    assert command(cwd=tmp_path).returncode == 2


def test_verify_asks_klaviyo_once_for_each_key(tmp_path):
    live, unscoped, dead, token = (made_up_key(RNG) for _ in range(4))
    token = "tok-" + token[3:]
    secret = "a8f7-Kd93-" + "lso2-Wq1xPq77"
    keys = {live: None, unscoped: ["profiles:read"], token: None}
    with FakeKlaviyo(keys=keys) as fake:
        host = fake.url
        (tmp_path / "a.py").write_text(
            f"# klaviyo\nA = '{live}'\nB = '{live}'\nC = '{unscoped}'\nD = '{dead}'\n"
            f"klaviyo(access_token='{token}', webhook_secret='{secret}')\n"
        )
        done = command("--verify", "--host", host, "--format", "json", cwd=tmp_path)
        assert [request.path.rstrip("/") for request in fake.requests] == ["/api/accounts"] * 4
    states = [find.get("state") for find in json.loads(done.stdout)["finds"]]
    assert states == ["live", "live", "live_without_scope", "dead", "live", None]
    gone = command("--verify", "--host", host, "--format", "json", cwd=tmp_path)
    assert json.loads(gone.stdout)["finds"][0]["state"] == "unknown"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_bounded(tmp_path):
    path = tmp_path / "big"
    key = made_up_key(RNG)
    with path.open("wb") as file:
        file.truncate(300_000_000)
        file.seek(250_000_000)
        file.write(key.encode())
    # Not ru_maxrss: that of a child begins with what its parent had.
    code = (
        "import sys; from pathlib import Path; from klaviyo_audit.security.scan import scan\n"
        "finds = scan(Path(sys.argv[1])).finds\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(len(finds), status.partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    found, peak = map(int, done.stdout.split())
    path.unlink()
    print(peak)
    assert found == 1
    assert peak < 100_000


def test_what_no_branch_has_can_be_allowed_too(tmp_path):
    """Staged only, or on a branch that is gone: there is no path, and the baseline still counts."""
    git(tmp_path, "init", "-q")
    (tmp_path / "staged.py").write_text(f"KEY = '{made_up_key(RNG)}'\n")
    git(tmp_path, "add", "staged.py")
    (tmp_path / "staged.py").write_text("KEY = os.environ['KLAVIYO_API_KEY']\n")
    (lost,) = scan(tmp_path, history=True).finds
    assert lost.path == "(not reachable from any branch)"
    assert command("--history", "--update-baseline", cwd=tmp_path).returncode == 0
    done = command("--history", cwd=tmp_path)
    assert (done.returncode, "1 allowed" in done.stdout) == (0, True), done.stdout
    # Another key is none that was allowed.
    (tmp_path / "staged.py").write_text(f"KEY = '{made_up_key(RNG)}'\n")
    git(tmp_path, "add", "staged.py")
    assert command("--history", cwd=tmp_path).returncode == 1
