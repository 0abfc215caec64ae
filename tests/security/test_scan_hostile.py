"""klaviyo-audit scan on repositories whose makers mean harm, and on its own."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security.baseline import allowed_in
from klaviyo_audit.security.scan import ScanFailed, scan
from tests.security.planting import git, made_up_key
from tests.security.sarif_schema import validate
from tests.security.test_scan import command

RNG = random.Random(5)
OURS = Path(__file__).parents[2]


def signed_commit(folder):
    """A commit with a signature, for which git would ask gpg."""
    tree = git(folder, "rev-parse", "HEAD^{tree}").decode().strip()
    parent = git(folder, "rev-parse", "HEAD").decode().strip()
    text = (
        f"tree {tree}\nparent {parent}\nauthor a <a@b> 1700000000 +0000\n"
        "committer a <a@b> 1700000000 +0000\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n"
        " -----END PGP SIGNATURE-----\n\nsigned\n"
    )
    made = git(folder, "hash-object", "-t", "commit", "-w", "--stdin", input=text.encode())
    git(folder, "reset", "-q", "--hard", made.decode().strip())


def lose_a_blob(folder):
    """A branch with a file whose content is not there, so that git would fetch it."""
    blob = git(folder, "hash-object", "-w", "--stdin", input=b"gone").decode().strip()
    tree = git(folder, "mktree", input=f"100644 blob {blob}\tgone.txt\n".encode())
    made = git(folder, "commit-tree", "-m", "x", tree.decode().strip()).decode().strip()
    git(folder, "update-ref", "refs/heads/side", made)
    (folder / ".git/objects" / blob[:2] / blob[2:]).unlink()


def test_a_hostile_repository_runs_nothing(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    key = made_up_key(RNG)
    (folder / "a.py").write_text(f'K = "{key}"\n')
    (folder / ".gitattributes").write_text("*.py filter=evil diff=evil merge=evil\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    signed_commit(folder)
    lose_a_blob(folder)
    (folder / "b.py").write_text("B = 1\n")
    git(folder, "add", "b.py")
    os.utime(folder / "a.py", (1, 1))  # git has to look at its content anew
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\nexit 1\n")
    evil.chmod(0o755)
    for name in (
        "core.fsmonitor", "core.pager", "pager.log", "core.sshCommand", "core.askPass",
        "core.editor", "core.alternateRefsCommand", "credential.helper", "gpg.program",
        "gpg.ssh.program", "diff.external", "diff.evil.textconv", "diff.evil.command",
        "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "merge.evil.driver",
        "uploadpack.packObjectsHook", "remote.origin.uploadpack",
    ):  # fmt: skip
        git(folder, "config", name, str(evil))
    for name, value in {
        "core.hooksPath": str(tmp_path),
        "log.showSignature": "true",
        "submodule.recurse": "true",
        "remote.origin.url": f"ext::{evil}",
        "remote.origin.promisor": "true",
        "protocol.ext.allow": "always",
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "alias.log": f"!{evil}",
    }.items():
        git(folder, "config", name, value)
    # That the trap works at all: git on its own runs the program for the signature.
    subprocess.run(["git", "-C", folder, "log"], capture_output=True, check=False)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    result = scan(folder, history=True)
    assert {find.secret for find in result.finds} == {key}
    assert "partial clone" in result.unread[0][1]
    scan(folder, staged=True)
    assert not (tmp_path / "ran").exists()


def test_what_leads_elsewhere_is_no_clean_result(tmp_path):
    """A repository that says its files are in another folder."""
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    other.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text(f'K = "{made_up_key(RNG)}"\n')
    git(folder, "config", "core.worktree", str(other))
    with pytest.raises(ScanFailed):
        scan(folder)


def test_repositories_inside_are_looked_at(tmp_path):
    git(tmp_path, "init", "-q")
    inner = tmp_path / "vendor" / "inner"
    inner.mkdir(parents=True)
    git(inner, "init", "-q")
    key, ignored = made_up_key(RNG), made_up_key(RNG)
    (inner / "a.py").write_text(f'K = "{key}"\n')
    (inner / ".env").write_text(f"K={ignored}\n")
    (inner / ".gitignore").write_text(".env\n")
    assert [(f.path, f.secret) for f in scan(tmp_path).finds] == [("vendor/inner/a.py", key)]
    git(inner, "add", "-A")
    git(inner, "commit", "-q", "-m", "x")
    git(tmp_path, "-c", "advice.addEmbeddedRepo=false", "add", "-A")  # as a submodule is
    assert [(f.path, f.secret) for f in scan(tmp_path).finds] == [("vendor/inner/a.py", key)]


def test_links_to_repositories_are_not_followed(tmp_path):
    """To itself, in three ways: followed, each way three more times, there would be no end."""
    folder, other = tmp_path / "a", tmp_path / "b"
    for one in (folder, other):
        one.mkdir()
        git(one, "init", "-q")
        (one / "a.py").write_text(f'K = "{made_up_key(RNG)}"\n')
    for name in ("x", "y", "z"):
        (folder / name).symlink_to(".")
    (folder / "other").symlink_to(other)
    git(folder, "add", "-A")
    found = scan(folder)
    assert ([find.path for find in found.finds], found.files) == (["a.py"], 1)


def test_a_shallow_clone_is_no_clean_history(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    git(folder, "init", "-q")
    for name in ("a", "b"):
        (folder / name).write_text(name)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", name)
    git(tmp_path, "clone", "-q", "--depth=1", folder.as_uri(), "part")
    assert command("--history", cwd=folder).returncode == 0
    done = command("--history", cwd=tmp_path / "part")
    assert (done.returncode, "shallow" in done.stderr) == (2, True)


def test_odd_names(tmp_path):
    """Bytes that are no UTF-8, control characters, a key as a name: shown safely in every form."""
    git(tmp_path, "init", "-q")
    keys = [made_up_key(RNG) for _ in range(6)]
    names = [
        os.fsdecode(b"\xff\xfe.py"), "a\nb.py", "c:d e%20.py", "\x1b[2Jx.py", "-n", f"{keys[5]}.py",
    ]  # fmt: skip
    for key, name in zip(keys, names, strict=True):
        (tmp_path / name).write_text(f'K = "{key}"\n')
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "x")
    for form in ("text", "json", "sarif"):
        for output in ((), ("--output", f"found.{form}")):
            done = command("--history", "--format", form, *output, cwd=tmp_path)
            assert done.returncode == 1, done.stderr
            file = tmp_path / f"found.{form}"
            shown = file.read_text() if output else done.stdout
            assert [key for key in keys if key in shown + done.stderr] == []
            assert [key for key in keys if fingerprint(key) not in shown] == []
            assert "\x1b" not in shown
            if form == "sarif":
                validate(json.loads(shown))
            file.unlink(missing_ok=True)
    assert command("--update-baseline", cwd=tmp_path).returncode == 1
    text = (tmp_path / ".secrets.baseline").read_text()
    assert [key for key in keys if key in text] == []
    (left,) = scan(tmp_path, baseline=tmp_path / ".secrets.baseline").finds
    assert left.secret == keys[5]  # the name itself has to go


def test_a_baseline_from_finds(tmp_path):
    """What was found is allowed where it was, in the folder and in history, and only there."""
    git(tmp_path, "init", "-q")
    past, present, new = (made_up_key(RNG) for _ in range(3))
    (tmp_path / "a.py").write_text(f'K = "{past}"\n')
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "x")
    (tmp_path / "a.py").write_text(f'K = "{present[:20]}" \\\n  "{present[20:]}"\n')
    done = command("--history", "--update-baseline", cwd=tmp_path)
    assert (done.returncode, "2 added" in done.stderr) == (0, True), done.stderr
    again = command("--history", cwd=tmp_path)
    assert (again.returncode, "Nothing found" in again.stdout) == (0, True)
    assert command("--history", "--update-baseline", cwd=tmp_path).returncode == 0
    assert {len(one) for one in allowed_in(tmp_path / ".secrets.baseline").values()} == {2}
    (tmp_path / "b.py").write_text(f'K = "{present}"\nL = "{new}"\n')
    assert len(scan(tmp_path, baseline=tmp_path / ".secrets.baseline").finds) == 2
    assert "2 added" in command("--update-baseline", cwd=tmp_path).stderr
    assert command("--history", cwd=tmp_path).returncode == 0
    (tmp_path / ".secrets.baseline").write_text("[]")
    done = command("--update-baseline", cwd=tmp_path)
    assert (done.returncode, "no baseline" in done.stderr) == (2, True)
    assert (tmp_path / ".secrets.baseline").read_text() == "[]"


def test_a_baseline_of_detect_secrets_keeps_what_it_has(tmp_path):
    other = {"type": "Secret Keyword", "filename": "z", "hashed_secret": "ab", "is_verified": False}
    document = {"version": "1.5.0", "plugins_used": [{"name": "X"}], "results": {"z": [other]}}
    (tmp_path / ".secrets.baseline").write_text(json.dumps(document))
    (tmp_path / "a.py").write_text(f'K = "{made_up_key(RNG)}"\n')
    assert command("--update-baseline", cwd=tmp_path).returncode == 0
    kept = json.loads((tmp_path / ".secrets.baseline").read_text())
    assert kept["plugins_used"] == [{"name": "X"}]
    assert kept["results"]["z"] == [other]
    assert kept["results"]["a.py"][0]["line_number"] == 1


@pytest.mark.skipif(not (OURS / ".git").exists(), reason="this is no checkout of the repository")
def test_our_own_repository_is_clean():
    """Files and history, by the comments and the baseline that any project would use."""
    result = scan(OURS, history=True, baseline=OURS / ".secrets.baseline")
    assert [find.to_dict() for find in result.finds] == []
    checked = subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "check", "--history", "--no-trail", "--json"],
        capture_output=True, text=True, check=False, cwd=OURS, timeout=250,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    statuses = {one["id"]: one["status"] for one in json.loads(checked.stdout)["checks"]}
    assert statuses["keys-in-environment"] == "pass"
    shallow = any("shallow" in why for _, why in result.unread)
    assert statuses["history"] == ("not checked" if shallow else "pass")
    # And what allows it is no carte blanche: another key in the same file would be found.
    allowed = allowed_in(OURS / ".secrets.baseline")
    assert sum(map(len, allowed.values())) <= 10
