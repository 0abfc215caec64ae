"""Proof files: made from a journal's lines, checked with nothing but a public key."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint, sign
from klaviyo_audit.journal.format import checksum_holds, encode
from klaviyo_audit.journal.merkle import (
    EMPTY_ROOT,
    CompactRange,
    consistency_path,
    inclusion_path,
    leaf_hash,
)
from klaviyo_audit.journal.note import generate_key
from klaviyo_audit.journal.proof import (
    check,
    check_consistency,
    make_consistency,
    make_inclusion,
)

ORIGIN = "example.com/loyalty/audit"
SIGNER = generate_key(ORIGIN)
KEY = SIGNER.verifier
LINES = [encode({"v": 1, "n": n, "user_id": "dana\u2028é"})[:-1] for n in range(11)]
HASHES = [leaf_hash(line) for line in LINES]


def note_over(size, lines=LINES, signer=SIGNER):
    tree = CompactRange().extended(map(leaf_hash, lines[:size]))
    return sign(Checkpoint.of(tree, signer.name), signer)


def inclusion(index, size, lines=LINES):
    path = inclusion_path(index, size, map(leaf_hash, lines))
    return make_inclusion(lines[index], index, path, note_over(size, lines))


def consistency(old, size):
    return make_consistency(consistency_path(old, size, HASHES), note_over(old), note_over(size))


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- forgeries -----------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_every_changed_bit_of_an_inclusion_proof_is_noticed(data):
    size = data.draw(st.integers(1, 11))
    proof = inclusion(data.draw(st.integers(0, size - 1)), size)
    assert check(proof, KEY)
    with pytest.raises(JournalCorrupt):
        check(flip(proof, data.draw(st.integers(0, len(proof) * 8 - 1))), KEY)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_every_changed_bit_of_a_consistency_proof_is_noticed(data):
    size = data.draw(st.integers(0, 11))
    proof = consistency(data.draw(st.integers(0, size)), size)
    assert check_consistency(proof, KEY)
    with pytest.raises(JournalCorrupt):
        check_consistency(flip(proof, data.draw(st.integers(0, len(proof) * 8 - 1))), KEY)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_cut_and_every_missing_line_is_noticed(data):
    for proof, checked in ((inclusion(4, 11), check), (consistency(5, 11), check_consistency)):
        with pytest.raises(JournalCorrupt):
            checked(proof[: data.draw(st.integers(0, len(proof) - 1))], KEY)
        lines = proof.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(lines) - 1))
        for changed in (
            [*lines[:at], *lines[at + 1 :]],
            [*lines[:at], lines[at], *lines[at:]],
            [*lines[:at], b"\n", *lines[at:]],
            [*lines[:at], lines[at].replace(b"\n", b"\r\n"), *lines[at + 1 :]],
            [*lines[:at], b" " + lines[at], *lines[at + 1 :]],
        ):
            with pytest.raises(JournalCorrupt):
                checked(b"".join(changed), KEY)


def test_another_line_is_not_proved():
    proof = inclusion(4, 11).decode()
    good = b64encode(LINES[4]).decode()
    for line in (LINES[5], LINES[4] + b"\n", LINES[4] + b" ", b""):
        forged = proof.replace(good, b64encode(line).decode()).encode()
        with pytest.raises(JournalCorrupt, match="the line is not number 4 of the 11 lines"):
            check(forged, KEY)


def test_another_number_is_not_proved():
    for number in range(11):
        if number != 4:
            forged = inclusion(4, 11).replace(b"\nindex 4\n", b"\nindex %d\n" % number)
            with pytest.raises(JournalCorrupt, match=f"the line is not number {number}"):
                check(forged, KEY)


@pytest.mark.parametrize(
    "number", [b"04", b"+4", b"-4", b" 4", b"4 ", b"4.0", b"\xd9\xa4", b"9" * 5000]
)
def test_a_number_has_one_text(number):
    forged = inclusion(4, 11).replace(b"\nindex 4\n", b"\nindex " + number + b"\n")
    with pytest.raises(JournalCorrupt, match="not a proof of one line"):
        check(forged, KEY)


def test_a_checkpoint_of_another_tree_proves_nothing():
    head = inclusion(4, 11).partition(b"\n\n")[0]
    for other in (note_over(10), note_over(11, [b"other", *LINES[1:]])):
        with pytest.raises(JournalCorrupt, match="the line is not number 4"):
            check(head + b"\n\n" + other, KEY)


def test_only_the_key_that_is_trusted_counts():
    stranger = generate_key(ORIGIN)
    with pytest.raises(JournalCorrupt, match="no signature of a key that was given"):
        check(inclusion(4, 11), stranger.verifier)
    with pytest.raises(JournalCorrupt, match="no signature of a key that was given"):
        check_consistency(consistency(4, 11), stranger.verifier)
    assert check(inclusion(4, 11), stranger.verifier, KEY).line == LINES[4]


def test_a_log_that_signed_two_histories_is_caught():
    other = [*LINES]
    other[2] = b'{"v":1,"what":"never happened"}'
    path = consistency_path(5, 11, map(leaf_hash, other))
    with pytest.raises(JournalCorrupt, match="has signed two histories"):
        make_consistency(path, note_over(5), note_over(11, other))
    honest = make_consistency(path, note_over(5, other), note_over(11, other))
    assert check_consistency(honest, KEY)
    forged = honest.replace(note_over(5, other), note_over(5))
    with pytest.raises(JournalCorrupt, match="has signed two histories"):
        check_consistency(forged, KEY)


def test_two_logs_are_not_compared():
    other = generate_key("example.com/other")
    path = consistency_path(5, 11, HASHES)
    with pytest.raises(JournalCorrupt, match="two logs can't be compared"):
        make_consistency(path, note_over(5, signer=other), note_over(11))
    forged = consistency(5, 11).replace(note_over(5), note_over(5, signer=other))
    with pytest.raises(JournalCorrupt, match="two logs can't be compared"):
        check_consistency(forged, KEY, other.verifier)


def test_the_size_named_is_the_size_signed():
    forged = consistency(5, 11).replace(b"\nold 5\n", b"\nold 6\n")
    with pytest.raises(JournalCorrupt, match="from size 6, its checkpoint of 5"):
        check_consistency(forged, KEY)


def test_a_proof_that_does_not_hold_is_not_made():
    path = inclusion_path(4, 11, HASHES)
    with pytest.raises(JournalCorrupt, match="the line is not number 5"):
        make_inclusion(LINES[4], 5, path, note_over(11))
    with pytest.raises(JournalCorrupt, match="the line is not number 4"):
        make_inclusion(LINES[3], 4, path, note_over(11))
    with pytest.raises(ValueError, match="without its newline"):
        make_inclusion(LINES[4] + b"\n", 4, path, note_over(11))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a proof: its first line is ''"),
        (b"\x1b[2J\xff\n\n", "not a proof"),
        (b"c2sp.org/tlog-proof@v2\nindex 0\n\n", "not a proof"),
        (b"c2sp.org/tlog-proof@v1\n\n", "where the line 'extra' belongs"),
        # Valid for C2SP, but it carries no line.
        (b"c2sp.org/tlog-proof@v1\nindex 0\n\n", "'index 0' stands where the line 'extra'"),
        (b"c2sp.org/tlog-proof@v1\nextra\nindex 0\n\n", "'extra' stands where"),
        (b"c2sp.org/tlog-proof@v1\nextra AA\nindex 0\n\n", "padding"),
        (b"c2sp.org/tlog-proof@v1\nextra \xd9\xa4\nindex 0\n\n", "not a proof of one line"),
        (b"c2sp.org/tlog-proof@v1\nextra \nindex 0\nAAAA\n\n", "has not 32 bytes"),
        (b"c2sp.org/tlog-proof@v1\nextra \nindex 0\n" + b"AAAA\n" * 65 + b"\n", "65 hashes"),
        (b"c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n", "not a signed note"),
    ],
)
def test_what_is_no_inclusion_proof_is_refused(data, why):
    with pytest.raises(JournalCorrupt, match=why):
        check(data, KEY)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        (b"", "not a proof"),
        (b"\n", "where the line 'old' belongs"),
        (b"old 01\n\n", "not a decimal number"),
        (b"old 5\n\n", "not a proof of consistency"),
        (b"old 5\n\n" + note_over(5), "not a proof of consistency"),
        (b"old 5\n\n" + note_over(5) + note_over(11), "not a signed note"),
        (b"old 5\n\n" + note_over(5) + b"\n" + note_over(11) + b"\n", "not a signed note"),
    ],
)
def test_what_is_no_consistency_proof_is_refused(rest, why):
    with pytest.raises(JournalCorrupt, match=why):
        check_consistency(b"klaviyo-audit/consistency-proof@v1\n" + rest, KEY)
    with pytest.raises(JournalCorrupt, match="not a proof"):
        check_consistency(inclusion(4, 11), KEY)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(inclusion(2, 5).splitlines() + consistency(3, 5).splitlines())
        | st.binary(max_size=8),
        max_size=12,
    ).map(b"\n".join)
)
def test_any_bytes_are_reported(data):
    for checked in (check, check_consistency):
        with pytest.raises(JournalCorrupt):
            checked(data, KEY)


# --- proofs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 12))
def test_every_line_is_proved(size):
    for index in range(size):
        proved = check(inclusion(index, size), KEY)
        assert (proved.line, proved.index, proved.checkpoint.size) == (LINES[index], index, size)
        assert checksum_holds(proved.line)


@pytest.mark.parametrize("size", range(12))
def test_every_growth_is_proved(size):
    for old in range(size + 1):
        before, after = check_consistency(consistency(old, size), KEY)
        assert (before.size, after.size) == (old, size)


def test_the_file_is_a_c2sp_tlog_proof():
    # Source of the form: c2sp.org/tlog-proof. Read here without any of the code under test.
    note = note_over(3)
    header, extra, index, *path, blank = (
        inclusion(2, 3).removesuffix(note).decode().split("\n")[:-1]
    )
    assert header == "c2sp.org/tlog-proof@v1"
    assert b64decode(extra.removeprefix("extra ")) == LINES[2]
    assert index == "index 2"
    assert path == [b64encode(CompactRange().extended(HASHES[:2]).root()).decode()]
    assert blank == ""


def test_a_blank_line_of_the_journal_can_be_proved_too():
    # No writer makes one, but whatever lies in the file is in the tree.
    lines = [b"", b"\xff torn", LINES[0]]
    for index in range(3):
        assert check(inclusion(index, 3, lines), KEY).line == lines[index]


def test_a_checkpoint_with_a_witness_and_a_time_stays_as_it_is():
    tree = CompactRange().extended(HASHES)
    time = "2026-11-23T19:00:00.123456Z"
    note = sign(Checkpoint.of(tree, ORIGIN, sealed_at=time), SIGNER)
    note += f"— witness.example {b64encode(bytes(76)).decode()}\n".encode()
    proof = make_inclusion(LINES[7], 7, inclusion_path(7, 11, HASHES), note)
    assert proof.endswith(b"\n\n" + note)
    assert check(proof, KEY).checkpoint.sealed_at == time


def test_growth_from_nothing_needs_no_path():
    proof = make_consistency([], note_over(0), note_over(11))
    before, after = check_consistency(proof, KEY)
    assert (before.root, after.size) == (EMPTY_ROOT, 11)
