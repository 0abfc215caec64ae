"""Signed notes against the published examples, against hostile bytes, against mistaken keys."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Signer,
    Verifier,
    decode_base64,
    generate_key,
    open_note,
    parse_note,
    sign_note,
)

# FIXTURE, not a secret: the example key of Go's documentation.
# Source: golang.org/x/mod/sumdb/note, package documentation and note_test.go.
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SECOND = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpR"
    "Zb6KE6RyyBwJnAM=\n"
)
GO_SECOND_SIGNATURE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33"
    "WWd1RvMc+QQ=\n"
)
# Source: c2sp.org/signed-note v1.0.0, "Verifier keys", example.
C2SP_VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuw"
    "HjG1Yu72IneyaQM=\n"
).encode()

GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}".encode()
KEY = Verifier.from_text(GO_VERIFIER)


# --- hostile notes -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GO_NOTE) * 8 - 1))
def test_every_changed_bit_is_noticed(bit):
    changed = bytearray(GO_NOTE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(JournalCorrupt):
        open_note(bytes(changed), KEY)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GO_NOTE) - 1))
def test_every_cut_is_noticed(length):
    with pytest.raises(JournalCorrupt):
        open_note(GO_NOTE[:length], KEY)


@pytest.mark.parametrize(
    ("note", "why"),
    [
        (b"", "no blank line"),
        (b"\n\n", "no newline at its end"),
        (b"text\n", "no blank line"),
        (b"text\n\n", "no newline at its end"),
        (b"text\n\n\n", "no blank line"),
        (f"{GO_TEXT}{GO_SIGNATURE}".encode(), "no blank line"),
        (GO_NOTE[:-1], "no newline at its end"),
        (GO_NOTE + b"\n", "no newline at its end"),
        (GO_NOTE.replace(b"\n", b"\r\n"), "control character"),
        (b"\x1b[2J" + GO_NOTE, "control character"),
        (b"a\tb" + GO_NOTE, "control character"),
        (b"a\x00b" + GO_NOTE, "control character"),
        (b"\xff" + GO_NOTE, "codec can't decode"),
        (b"\xed\xa0\x80" + GO_NOTE, "codec can't decode"),
        (GO_NOTE.replace("—".encode(), b"-"), "not a signature line"),
        (GO_NOTE + b"unsigned text\n", "not a signature line"),
        (f"{GO_TEXT}\n— name AAAA\n".encode(), "not a signature line"),  # no more than a key id
        (f"{GO_TEXT}\n— two names AAAAAAAA\n".encode(), "not a signature line"),
        (f"{GO_TEXT}\n— na+me AAAAAAAA\n".encode(), "not a signature line"),
        (f"{GO_TEXT}\n— na\u2003me AAAAAAAA\n".encode(), "not a signature line"),
        (f"{GO_TEXT}\n— name AAAAAA==\n {GO_SIGNATURE}".encode(), "not a signature line"),
        (f"{GO_TEXT}\n— name AAAAAAB=\n".encode(), "stray bits"),
        (f"{GO_TEXT}\n— name AAAAAAA\n".encode(), "padding"),
        (f"{GO_TEXT}\n— name AAAA_A-=\n".encode(), "not a signature line"),
    ],
)
def test_what_is_no_note_is_refused(note, why):
    with pytest.raises(JournalCorrupt, match=why):
        open_note(note, KEY)


def test_a_signature_of_a_known_key_must_hold():
    # Also beside a good one of another key.
    wrong = GO_SECOND_SIGNATURE.replace("rwz+eBzm", "rwz+eBzn")
    note = GO_NOTE + wrong.encode()
    assert open_note(note, KEY)[0] == GO_TEXT
    with pytest.raises(JournalCorrupt, match="wrong or repeated signature of 'EnochRoot'"):
        open_note(note, KEY, Verifier.from_text(GO_SECOND))


def test_a_known_key_signs_once():
    with pytest.raises(JournalCorrupt, match="wrong or repeated signature of 'PeterNeumann'"):
        open_note(GO_NOTE + GO_SIGNATURE.encode(), KEY)


def test_a_note_of_unknown_keys_is_refused():
    with pytest.raises(JournalCorrupt, match=r"it is signed by 'PeterNeumann \(c74f20a3\)'"):
        open_note(GO_NOTE, Verifier.from_text(GO_SECOND))
    with pytest.raises(JournalCorrupt, match="no signature of a key that was given"):
        open_note(GO_NOTE)


def test_name_and_id_together_name_a_key():
    other = Verifier("PeterNeumann", bytes(range(32)))
    renamed = Verifier("Peter", KEY.public_key)
    with pytest.raises(JournalCorrupt, match="no signature of a key that was given"):
        open_note(GO_NOTE, other, renamed)


def test_unknown_signatures_are_ignored_however_often_they_stand_there():
    stranger = f"— PeterNeumann {b64encode(b'other key').decode()}\n"
    note = f"{GO_TEXT}\n{stranger}{stranger}{GO_SIGNATURE}{GO_SECOND_SIGNATURE}".encode()
    text, signed_by = open_note(note, KEY)
    assert (text, signed_by) == (GO_TEXT, {KEY})


def test_sixteen_large_signatures_are_read_and_a_flood_is_not():
    # C2SP asks for 16; post-quantum ones have nearly 5 kB.
    large = b64encode(bytes(5000)).decode()
    note = GO_NOTE + "".join(f"— witness{n}.example {large}\n" for n in range(16)).encode()
    assert open_note(note, KEY)[0] == GO_TEXT
    small = f"— w {b64encode(bytes(9)).decode()}\n".encode()
    assert parse_note(GO_NOTE + small * (MAX_SIGNATURES - 1))
    with pytest.raises(JournalCorrupt, match="101 signatures, more than 100"):
        parse_note(GO_NOTE + small * MAX_SIGNATURES)
    with pytest.raises(JournalCorrupt, match="bytes, more than 1000000"):
        parse_note(b"x" * MAX_NOTE_BYTES + GO_NOTE)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                [b"\n", b"\n\n", "— ".encode(), b"a", b" ", b"AAAAAAAA", b"\xff", b"\x85", b"+"]
            ),
            max_size=14,
        ).map(b"".join),
    )
)
def test_any_bytes_are_a_note_or_are_reported(data):
    try:
        note = parse_note(data)
    except JournalCorrupt:
        note = None
    if note:
        lines = (
            f"— {s.name} {b64encode(s.key_id + s.signature).decode()}\n" for s in note.signatures
        )
        assert f"{note.text}\n{''.join(lines)}".encode() == data


# --- published examples --------------------------------------------------------------------------


def test_the_example_of_c2sp():
    key = Verifier.from_text(C2SP_VERIFIER)
    assert open_note(C2SP_NOTE, key) == ("This is an example message.\n", {key})
    assert key.to_text() == C2SP_VERIFIER


def test_the_example_of_go():
    signer = Signer.from_text(GO_SIGNER)
    assert sign_note(GO_TEXT, signer) == GO_NOTE  # Ed25519 is deterministic
    assert signer.verifier == KEY
    assert signer.to_text() == GO_SIGNER
    assert signer.verifier.to_text() == GO_VERIFIER


def test_the_second_signature_of_go():
    second = Verifier.from_text(GO_SECOND)
    note = GO_NOTE + GO_SECOND_SIGNATURE.encode()
    assert open_note(note, KEY, second) == (GO_TEXT, {KEY, second})
    assert open_note(note, second) == (GO_TEXT, {second})


def test_a_text_may_have_blank_lines():
    # As in the first example of c2sp.org/signed-note: the last one ends the text.
    signer = generate_key("example.com/poem")
    text = "one\n\ntwo\n\n\nthree\n"
    assert open_note(sign_note(text, signer), signer.verifier)[0] == text


@pytest.mark.parametrize("text", ["", "no newline", "a\rb\n", "a\x00b\n", "\x1b[1m\n"])
def test_a_text_that_no_note_can_have_is_not_signed(text):
    with pytest.raises(ValueError, match="the text of a note"):
        sign_note(text, generate_key("a"))


# --- keys ----------------------------------------------------------------------------------------


def test_a_generated_key_is_new_and_survives_its_text():
    one, other = generate_key("example.com/loyalty"), generate_key("example.com/loyalty")
    assert one.to_text() != other.to_text()
    again = Signer.from_text(f"\n {one.to_text()}\n")
    assert again.verifier == one.verifier == Verifier.from_text(f"{one.verifier.to_text()}\n")
    note = sign_note("hello\n", again)
    assert open_note(note, one.verifier)[0] == "hello\n"
    with pytest.raises(JournalCorrupt):
        open_note(note, other.verifier)


def test_a_private_key_shows_in_no_repr():
    signer = Signer.from_text(GO_SIGNER)
    seed = b64decode(GO_SIGNER.rsplit("c74f20a3+", 1)[1])[1:]
    for shown in (repr(signer), str(signer), f"{signer}"):
        assert "PeterNeumann" in shown
        assert b64encode(seed).decode()[:10] not in shown
        assert seed.hex()[:10] not in shown
        assert GO_SIGNER[-20:] not in shown


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mangled_private_key_is_refused_without_being_quoted(data):
    start = data.draw(st.integers(0, len(GO_SIGNER)))
    end = data.draw(st.integers(start, len(GO_SIGNER)))
    insert = data.draw(st.text("+ABcz09=/\n\x00é", max_size=3))
    text = GO_SIGNER[:start] + insert + GO_SIGNER[end:]
    if text.strip() == GO_SIGNER:
        return
    secret = GO_SIGNER.rsplit("c74f20a3+", 1)[1]
    for read in (Signer.from_text, Verifier.from_text):
        with pytest.raises(ConfigurationError) as caught:
            read(text)
        message = str(caught.value)
        assert not any(secret[at : at + 12] in message for at in range(len(secret) - 12))
        assert caught.value.__cause__ is None


def test_a_private_key_in_place_of_the_public_one_is_named_but_not_shown():
    with pytest.raises(ConfigurationError, match="private key was given") as caught:
        Verifier.from_text(GO_SIGNER)
    assert "AYEK" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="PRIVATE"):
        Signer.from_text(GO_VERIFIER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        GO_VERIFIER.replace("c74f20a3", "c74f20a4"),
        GO_VERIFIER.replace("c74f20a3", "C74F20A3"),
        GO_VERIFIER.replace("PeterNeumann", "PeterNewmann"),
        GO_VERIFIER.replace("PeterNeumann", ""),
        GO_VERIFIER[:-1] + "X",
        GO_VERIFIER[:-4],
        # From note_test.go: an unknown algorithm with a fitting key id.
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        # A witness's key (type 4), which signs something else.
        f"w+00000000+{b64encode(bytes([4]) + KEY.public_key).decode()}",
    ],
)
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(ConfigurationError):
        Verifier.from_text(text)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "two words",
        "a+b",
        "a\nb",
        "a\u00a0b",
        "\u2028",
        "\u202eevil",
        "\x1b[1m",
        "n" * 256,
        "\ud800",
    ],
)
def test_a_name_that_no_key_can_have_is_refused(name):
    with pytest.raises(ConfigurationError, match="can't name a key"):
        generate_key(name)
    with pytest.raises(ConfigurationError, match="can't name a key"):
        Verifier(name, KEY.public_key)


def test_a_public_key_of_another_length_is_refused():
    with pytest.raises(ConfigurationError, match="31 bytes, not 32"):
        Verifier("a", bytes(31))


@pytest.mark.parametrize("public_key", [b"\xff" * 32, bytes(range(32))])
def test_a_key_that_is_no_point_verifies_nothing(public_key):
    assert not Verifier("a", public_key).holds("text\n", bytes(64))
    assert not Verifier("a", public_key).holds("text\n", b"")


@given(st.text("AB+/=\n -_é", max_size=12))
def test_base64_has_one_text_for_each_value(text):
    try:
        value = decode_base64(text)
    except ValueError:
        return
    assert b64encode(value).decode() == text
