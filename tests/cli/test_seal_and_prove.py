"""Sealing by hand, proofs, and the check of checkpoints, in the order one uses them."""

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
    for what in ("99", "nope"):
        refused = run("prove", what, sealed)
        assert refused.exit_code == 2
        assert refused.output.strip()
    assert run("verify-proof", os.devnull).exit_code != 0
