"""Sealing by hand, proofs, and the check of checkpoints, in the order one uses them."""

import json
import os

import pytest
from click.testing import CliRunner

from klaviyo_audit.cli import main
from klaviyo_audit.journal.findings import Severity
from tests.journal.checking import verify
from tests.journal.sealing import write


def run(*args):
    return CliRunner().invoke(main, [str(argument) for argument in args])


def errors(folder, **options):
    found = verify(folder, **options).findings
    return [one for one in found if one.severity is Severity.ERROR]


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    made = run("keygen", "--name", "example.com/shop", "--out", tmp_path / "key")
    assert made.exit_code == 0, made.output
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("KLAVIYO_AUDIT_SIGNING_KEY", (tmp_path / "key").read_text().strip())
    folder = tmp_path / "trail"
    write(folder, 8)
    assert run("seal", folder).exit_code == 0
    write(folder, 5, 8)
    assert run("seal", folder).exit_code == 0
    return folder


def test_the_private_key_is_not_printed(tmp_path):
    made = run("keygen", "--out", tmp_path / "key")
    assert (tmp_path / "key").read_text().strip() not in made.output
    again = run("keygen", "--out", tmp_path / "key")
    assert again.exit_code == 2, "a key is never overwritten"


def test_an_intact_journal(sealed):
    assert errors(sealed) == []
    assert verify(sealed).sealed == 17


def test_a_line_that_was_changed_with_its_checksum(sealed):
    """What checksums and numbers cannot show."""
    import orjson

    from klaviyo_audit.journal.format import encode

    path = sealed / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    members = orjson.loads(lines[3])
    del members["sum"]
    members["user_id"] = "somebody-else"
    lines[3] = encode(members)
    path.write_bytes(b"".join(lines))
    assert errors(sealed)


def test_a_tail_that_was_cut_off(sealed):
    path = sealed / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]))
    assert errors(sealed)


def test_a_tail_cut_off_together_with_its_checkpoints_shows_elsewhere(sealed, tmp_path):
    kept = tmp_path / "kept"
    kept.write_bytes((sealed / "checkpoints").read_bytes())
    path = sealed / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10]))
    notes = (sealed / "checkpoints").read_bytes().split(b"\n\n")
    (sealed / "checkpoints").write_bytes(b"\n\n".join(notes[:2]) + b"\n\n")
    (sealed / "tree").unlink()
    assert errors(sealed) == [], "nothing that lies here shows it"
    assert errors(sealed, against=kept)


def test_proof_of_one_line(sealed, tmp_path):
    made = run("prove", "3", sealed, "--out", tmp_path / "proof")
    assert made.exit_code == 0, made.output
    checked = run("verify-proof", tmp_path / "proof", "--key", sealed / "sealing.pub")
    assert checked.exit_code == 0, checked.output
    data = bytearray((tmp_path / "proof").read_bytes())
    place = data.index(b"index 3")
    data[place + 6 : place + 7] = b"4"
    (tmp_path / "forged").write_bytes(data)
    assert run("verify-proof", tmp_path / "forged", "--key", sealed / "sealing.pub").exit_code == 1


def test_what_cannot_be_proved(sealed, tmp_path):
    for what in ("99", "nope", "9" * 5000, "", "a\nb", os.fsdecode(b"\xff\xfe")):
        refused = run("prove", what, sealed)
        assert refused.exit_code == 2
        assert refused.output.strip()
    assert run("verify-proof", os.devnull).exit_code != 0
    endless = run("verify-proof", "/dev/zero", "--key", sealed / "sealing.pub")
    assert endless.exit_code == 1
    assert "this is not a proof" in endless.output


def test_since_and_against_and_key(sealed, tmp_path):
    key = (sealed / "sealing.pub").read_text().strip()
    assert run("verify", sealed, "--key", key, "--since", 10).exit_code == 0
    unknown = run("verify", sealed, "--since", 11)
    assert unknown.exit_code == 2
    assert "no checkpoint over exactly 11 lines" in unknown.output
    assert run("verify", sealed, "--against", tmp_path / "nothing").exit_code == 2
    assert run("verify", sealed, "--against", sealed / "checkpoints").exit_code == 0
    run("keygen", "--out", tmp_path / "other")
    other = run("keygen", "--out", tmp_path / "another").output.splitlines()[0]
    assert run("verify", sealed, "--key", other).exit_code == 1


def test_since_still_compares_earlier_lines_with_the_checkpoints(sealed):
    path = sealed / "audit.jsonl"
    data = path.read_bytes().replace(b'"user_id":"u"', b'"user_id":"v"', 1)
    path.write_bytes(data)
    done = run("verify", sealed, "--since", 10)
    assert done.exit_code == 1
    assert "changed" in done.output
    assert "checksum" not in done.output, "that line was not looked at"


def test_the_seal_command_removes_old_files_and_says_so(sealed, monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_ROTATE_BYTES", "1000")
    monkeypatch.setenv("KLAVIYO_AUDIT_COMPRESS", "none")
    done = run("seal", sealed)
    assert done.exit_code == 0, done.output
    write(sealed, 5, 20)
    run("seal", sealed)
    monkeypatch.setenv("KLAVIYO_AUDIT_RETAIN_BYTES", "3000")
    monkeypatch.setenv("KLAVIYO_AUDIT_ROTATE_BYTES", "100000")
    done = run("seal", sealed)
    assert done.exit_code == 0, done.output
    report = verify(sealed)
    assert report.intact, report.findings
    assert report.removed == 17
    assert b'"action":"journal.retention"' in (sealed / "audit.jsonl").read_bytes()


def test_resume_goes_on_from_where_the_last_one_ended(sealed, tmp_path):
    state = tmp_path / "verified"
    key = (sealed / "sealing.pub").read_text().strip()
    done = run("verify", sealed, "--key", key, "--resume", state)
    assert done.exit_code == 0, done.output
    assert "the next verification goes on after line" in done.output
    assert state.stat().st_mode & 0o777 == 0o600
    first = state.read_bytes()
    write(sealed, 5, 20)
    run("seal", sealed)
    done = run("verify", sealed, "--key", key, "--resume", state, "--json")
    report = json.loads(done.output)
    assert (done.exit_code, report["intact"], report["skipped"]) == (0, True, 17)
    assert report["entries"] == report["sealed"] - 17 == 7
    second = state.read_bytes()
    assert second != first
    path = sealed / "audit.jsonl"
    data = path.read_bytes()
    head, tail = data[: len(data) // 3], data[len(data) // 3 :]
    path.write_bytes(head + tail.replace(b'"user_id":"u"', b'"user_id":"v"'))
    state.write_bytes(first)
    assert run("verify", sealed, "--key", key, "--resume", state).exit_code == 1
    assert state.read_bytes() == first, "what is not intact is not gone on from"
    state.write_bytes(second)
    done = run("verify", sealed, "--key", key, "--resume", state)
    assert done.exit_code == 0
    assert "intact after the first 24 lines, which were not looked at" in done.output
    assert run("verify", sealed, "--key", key).exit_code == 1
    state.write_bytes(second[:-9])
    refused = run("verify", sealed, "--key", key, "--resume", state)
    assert refused.exit_code == 2
    assert "does not say where a verification ended" in refused.output


def test_resume_where_it_can_not_be(sealed, tmp_path):
    inside = run("verify", sealed, "--resume", sealed / "sinks" / ".." / "verified")
    assert inside.exit_code == 2
    assert "keep it elsewhere" in inside.output
    both = run("verify", sealed, "--resume", tmp_path / "verified", "--since", 10)
    assert both.exit_code == 2
    for option in (["--resume", tmp_path / "x"], ["--since", 10], ["--against", sealed / "tree"]):
        one_file = run("verify", sealed / "audit.jsonl", *option)
        assert one_file.exit_code == 2, option
        assert "not one file of it" in one_file.output
    missing = run("verify", sealed, "--resume", tmp_path / "nowhere" / "verified")
    assert missing.exit_code == 2
    assert "there is no folder" in missing.output
    (tmp_path / ".verified.new").mkdir()
    unwritable = run("verify", sealed, "--resume", tmp_path / "verified")
    assert unwritable.exit_code == 2
    assert "intact" in unwritable.output, "what was found is told all the same"
    assert "could not be written" in unwritable.output
