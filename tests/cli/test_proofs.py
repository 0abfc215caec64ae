"""Proofs that were tampered with, and what the commands say of them."""

from base64 import b64decode, b64encode

import pytest
from click.testing import CliRunner

from klaviyo_audit.cli import main
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.note import generate_key
from tests.journal.sealing import checkpoints_of, seal, tidy, write


def run(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def trail(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proofs") / "trail"
    for start in range(0, 30, 10):
        write(folder, 10, start)
        seal(folder, rotate_bytes=3000)
    tidy(folder, compress="gzip")
    return folder


@pytest.fixture(scope="module")
def proof(trail):
    made = run("prove", "17", trail)
    assert made.exit_code == 0, made.output
    return made.output.encode()


@pytest.fixture(scope="module")
def grown(trail):
    sizes = sorted({one.size for one in checkpoints_of(trail)})
    made = run("prove", "--consistency", sizes[0], sizes[-1], trail)
    assert made.exit_code == 0, made.output
    return made.output.encode()


def check(trail, tmp_path, data, key=None):
    path = tmp_path / "proof"
    path.write_bytes(data)
    return run("verify-proof", path, "--key", key or trail / "sealing.pub")


def test_they_hold(trail, tmp_path, proof, grown):
    for data in (proof, grown):
        done = check(trail, tmp_path, data)
        assert done.exit_code == 0, done.output
        assert "the proof holds" in done.output


def test_pymerkle_makes_the_same_root(trail, proof):
    """Another implementation of RFC 6962, over the same lines."""
    pymerkle = pytest.importorskip("pymerkle", reason="pip install pymerkle")
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    lines = list(leaves(trail))
    for line in lines:
        tree.append_entry(line)
    note = proof.split(b"\n\n", 1)[1].decode().split("\n")
    assert int(note[1]) == len(lines)
    assert b64decode(note[2]) == tree.get_root(len(lines))
    mine = [b64decode(text) for text in proof.split(b"\n\n")[0].decode().split("\n")[3:]]
    # pymerkle counts from one, and its path begins with the leaf itself.
    assert mine == tree.prove_inclusion(18, len(lines)).path[1:]


@pytest.mark.parametrize("step", [7, 11, 13])
def test_any_flipped_bit(trail, tmp_path, proof, grown, step):
    for data in (proof, grown):
        for at in range(0, len(data), step):
            forged = bytearray(data)
            forged[at] ^= 1 << (at % 8)
            done = check(trail, tmp_path, bytes(forged))
            assert done.exit_code == 1, (at, done.output)
            assert "does not hold" in done.output


def test_cut_anywhere(trail, tmp_path, proof, grown):
    for data in (proof, grown):
        for size in range(0, len(data), 17):
            assert check(trail, tmp_path, data[:size]).exit_code == 1, size


def test_another_line_under_the_same_proof(trail, tmp_path, proof):
    lines = proof.split(b"\n")
    other = next(line for index, line in enumerate(leaves(trail)) if index == 16)
    lines[1] = b"extra " + b64encode(other)
    done = check(trail, tmp_path, b"\n".join(lines))
    assert done.exit_code == 1
    assert "is not number 17" in done.output


def test_another_size_is_not_signed(trail, tmp_path, proof):
    head, note = proof.split(b"\n\n", 1)
    lines = note.split(b"\n")
    lines[1] = b"%d" % (int(lines[1]) + 1)
    done = check(trail, tmp_path, head + b"\n\n" + b"\n".join(lines))
    assert done.exit_code == 1
    assert "changed after it was signed" in done.output


def test_another_key(trail, tmp_path, proof):
    key = generate_key("example.com/other").verifier.to_text()
    done = check(trail, tmp_path, proof, key)
    assert done.exit_code == 1
    assert "no signature of a key that was given" in done.output


def test_a_key_that_is_none(trail, tmp_path, proof):
    for key in ("nonsense", "a+b+c"):
        assert check(trail, tmp_path, proof, key).exit_code == 2


def test_sizes_that_no_checkpoint_has(trail):
    for sizes in ((1, 2), (36, 12), (0, 12)):
        refused = run("prove", "--consistency", *sizes, trail)
        assert refused.exit_code == 2
        assert refused.output.startswith("klaviyo-audit: ")
