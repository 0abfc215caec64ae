"""Checkpoints: their text, who may sign them, the file they are kept in."""

import io
from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import (
    Checkpoint,
    StoredNote,
    decode_decimal,
    framed,
    is_torn,
    last_note,
    open_checkpoint,
    read_notes,
    sign,
    torn_end,
)
from klaviyo_audit.journal.merkle import EMPTY_ROOT, MAX_SIZE, CompactRange, leaf_hash
from klaviyo_audit.journal.note import MAX_NOTE_BYTES, generate_key, parse_note, sign_note

ORIGIN = "example.com/loyalty/audit"
SIGNER = generate_key(ORIGIN)
ROOT = b64encode(leaf_hash(b"line")).decode()
TIME = "2026-11-23T19:00:00.123456Z"

# Source: c2sp.org/tlog-checkpoint v1.0.0, the example at its top.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGz"
    "Gku9nTo+zyWE+xeMcTOAYQ8=\n"
).encode()


def a_note(number=1, **more):
    tree = CompactRange().extended(leaf_hash(b"%d" % n) for n in range(number))
    return sign(Checkpoint.of(tree, ORIGIN, **more), SIGNER)


# --- hostile checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n\n",
        f"{ORIGIN}\n",
        f"{ORIGIN}\n1\n",
        f"{ORIGIN}\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"{ORIGIN}\n1\n\n",
        f"{ORIGIN}\n1\n{ROOT}\n\n",
        f"{ORIGIN}\n1\n{ROOT}\n\nextension\n",
        f"{ORIGIN}\n\n1\n{ROOT}\n",
        f"{ORIGIN}\n01\n{ROOT}\n",
        f"{ORIGIN}\n00\n{ROOT}\n",
        f"{ORIGIN}\n+1\n{ROOT}\n",
        f"{ORIGIN}\n-1\n{ROOT}\n",
        f"{ORIGIN}\n 1\n{ROOT}\n",
        f"{ORIGIN}\n1_0\n{ROOT}\n",
        f"{ORIGIN}\n1.0\n{ROOT}\n",
        f"{ORIGIN}\n\u0661\n{ROOT}\n",  # a digit to str.isdigit and to int()
        f"{ORIGIN}\n{MAX_SIZE + 1}\n{ROOT}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{ROOT}\n",
        f"{ORIGIN}\n0\n{ROOT}\n",  # an empty tree with a root that is not its own
        f"{ORIGIN}\n1\n{ROOT[:-1]}\n",
        f"{ORIGIN}\n1\n{ROOT} \n",
        f"{ORIGIN}\n1\n{ROOT[:-2]}B=\n" if ROOT[-2] != "B" else f"{ORIGIN}\n1\n{ROOT[:-2]}C=\n",
        f"{ORIGIN}\n1\n{b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n1\n{b64encode(bytes(33)).decode()}\n",
        f"{ORIGIN}\n1\n{bytes(32).hex()}\n",
    ],
)
def test_what_is_no_checkpoint_is_refused_though_it_is_signed(text):
    with pytest.raises(JournalCorrupt, match="not a checkpoint"):
        Checkpoint.from_text(text)
    if text.endswith("\n"):
        with pytest.raises(JournalCorrupt):
            open_checkpoint(sign_note(text, SIGNER), SIGNER.verifier)


def test_line_ends_that_only_python_knows_end_no_line():
    origin = "a\u2028b\x85c"
    text = f"{origin}\n1\n{ROOT}\nmore\u2029\n"
    checkpoint = Checkpoint.from_text(text)
    assert (checkpoint.origin, checkpoint.extensions) == (origin, ("more\u2029",))
    assert checkpoint.text() == text


@given(st.integers(0, 8 * len(a_note(sealed_at=TIME)) - 1))
@settings(max_examples=200, deadline=None)
def test_every_changed_bit_of_a_signed_checkpoint_is_noticed(bit):
    changed = bytearray(a_note(sealed_at=TIME))
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(JournalCorrupt):
        open_checkpoint(bytes(changed), SIGNER.verifier)


def test_a_log_does_not_speak_for_another():
    stranger = generate_key("example.com/other")
    note = sign_note(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text(), stranger)
    with pytest.raises(JournalCorrupt, match="signed by another log"):
        open_checkpoint(note, stranger.verifier)
    with pytest.raises(JournalCorrupt, match="signed by another log"):
        open_checkpoint(note, stranger.verifier, SIGNER.verifier)
    with pytest.raises(ValueError, match="can't sign for"):
        sign(Checkpoint(ORIGIN, 0, EMPTY_ROOT), stranger)


@pytest.mark.parametrize(
    "members",
    [
        ("", 1, bytes(32)),
        ("two\nlines", 1, bytes(32)),
        ("a\tb", 1, bytes(32)),
        ("a", -1, bytes(32)),
        ("a", MAX_SIZE + 1, bytes(32)),
        ("a", 1, bytes(20)),
        ("a", 0, bytes(32)),
        ("a", 1, bytes(32), ("",)),
        ("a", 1, bytes(32), ("line\n",)),
    ],
)
def test_an_impossible_checkpoint_is_not_made(members):
    with pytest.raises(ValueError):
        Checkpoint(*members)


@pytest.mark.parametrize("text", ["0", "7", "10", str(MAX_SIZE)])
def test_numbers_that_are_read(text):
    assert str(decode_decimal(text)) == text


# --- checkpoints ---------------------------------------------------------------------------------


def test_the_example_of_c2sp():
    note = parse_note(C2SP_CHECKPOINT)
    checkpoint = Checkpoint.from_text(note.text)
    assert checkpoint.origin == "example.com/behind-the-sofa"
    assert checkpoint.size == 20852163
    assert checkpoint.text() == note.text
    assert [line.name for line in note.signatures] == ["example.com/behind-the-sofa"]


def test_what_is_signed_is_the_trees_head():
    tree = CompactRange().extended([leaf_hash(b"line")])
    note = sign(Checkpoint.of(tree, ORIGIN, sealed_at=TIME), SIGNER)
    assert note.decode().startswith(f"{ORIGIN}\n1\n{ROOT}\nsealed {TIME}\n\n— {ORIGIN} ")
    opened = open_checkpoint(note, SIGNER.verifier)
    assert (opened.size, opened.root, opened.sealed_at) == (1, leaf_hash(b"line"), TIME)


def test_the_empty_journal_can_be_sealed():
    opened = open_checkpoint(a_note(0), SIGNER.verifier)
    assert opened == Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert opened.sealed_at is None


def test_a_log_can_change_its_key():
    new = generate_key(ORIGIN)
    checkpoint = Checkpoint(ORIGIN, 1, leaf_hash(b"line"))
    for signer in (SIGNER, new):
        note = sign(checkpoint, signer)
        assert open_checkpoint(note, SIGNER.verifier, new.verifier) == checkpoint


@pytest.mark.parametrize(
    "time", ["", "now", "2026-11-23 19:00:00Z", f"{TIME}\n", "2026-11-23T19:00:00"]
)
def test_a_time_that_is_none_is_not_sealed(time):
    with pytest.raises(ValueError):
        Checkpoint.of(CompactRange(), ORIGIN, sealed_at=time)


@pytest.mark.parametrize("line", ["sealed", "sealed \x9b1m", f"sealed {TIME} ", f"Sealed {TIME}"])
def test_a_line_that_is_no_time_is_only_an_extension(line):
    assert Checkpoint(ORIGIN, 0, EMPTY_ROOT, (line,)).sealed_at is None
    both = Checkpoint(ORIGIN, 0, EMPTY_ROOT, (line, f"sealed {TIME}"))
    assert both.sealed_at == TIME


# --- the file of checkpoints ---------------------------------------------------------------------


def a_file(notes):
    content = b""
    for note in notes:
        content += framed(note, content[-2:])
    return content


def whole(pieces):
    return [piece.note for piece in pieces if piece.note is not None]


def test_notes_come_back_verbatim_with_their_places():
    notes = [a_note(n) for n in range(4)]
    content = a_file(notes)
    pieces = list(read_notes(io.BytesIO(content)))
    assert whole(pieces) == notes
    assert len(pieces) == 4
    assert [content[piece.offset : piece.end] for piece in pieces] == [n + b"\n" for n in notes]
    assert whole(read_notes(io.BytesIO(content), pieces[1].end)) == notes[2:]


@pytest.mark.parametrize("cut", range(len(a_file([a_note(2)]))))
def test_a_torn_last_note_hides_no_other(cut):
    first, torn, after = a_note(1), a_note(2), a_note(3)
    content = a_file([first])
    content += framed(torn, content[-2:])[:cut]
    pieces = list(read_notes(io.BytesIO(content)))
    assert whole(pieces) == [first]
    damage = [piece for piece in pieces if piece.note is None]
    assert all(piece.offset >= len(a_file([first])) for piece in damage)
    if cut:
        assert damage[-1].end == len(content)
        # The rest arrives: it was being written.
        complete = io.BytesIO(a_file([first, torn]))
        assert whole(read_notes(complete, damage[0].offset)) == [torn]
    # It never arrives, and the next sealer goes on.
    content += framed(after, content[-2:])
    pieces = list(read_notes(io.BytesIO(content)))
    found = whole(pieces)
    assert found[0] == first
    assert found[-1] == after
    for note in found[1:-1]:  # what a torn signature line leaves looks like a note, and is none
        if note != torn:
            with pytest.raises(JournalCorrupt):
                open_checkpoint(note, SIGNER.verifier)


@pytest.mark.parametrize("cut", range(1, len(a_file([a_note(2)]))))
def test_what_a_kill_leaves_of_a_note_is_told_from_a_changed_one(cut):
    first, last = a_file([a_note(1)]), a_file([a_note(2)])
    assert torn_end(io.BytesIO(first + last[:cut]), ORIGIN) == len(first)
    assert torn_end(io.BytesIO(first + last[:cut] + b"\n\nx"), ORIGIN) is None
    assert torn_end(io.BytesIO(first + last), ORIGIN) is None


@pytest.mark.parametrize("at", range(len(a_file([a_note(2)]))))
def test_a_note_with_a_flipped_bit_is_not_taken_for_a_torn_one(at):
    note = a_file([a_note(2)])
    for bit in range(8):
        changed = bytearray(note)
        changed[at] ^= 1 << bit
        assert not is_torn(bytes(changed), ORIGIN)


def test_a_torn_note_without_a_fence_spoils_only_its_neighbour():
    first, torn, neighbour, last = (a_note(n) for n in range(1, 5))
    content = a_file([first]) + torn[:60] + neighbour + b"\n" + last + b"\n"
    found = whole(read_notes(io.BytesIO(content)))
    assert (found[0], found[-1]) == (first, last)
    for note in found[1:-1]:
        with pytest.raises(JournalCorrupt):
            open_checkpoint(note, SIGNER.verifier)


@pytest.mark.parametrize(
    "junk", [b"junk\n\n", b"\n", b"\n\n\n\n", b"\x00\xff\n\n", "— a b\n\n".encode()]
)
def test_junk_between_notes_is_reported_in_its_place(junk):
    notes = [a_note(1), a_note(2)]
    head = a_file(notes[:1])
    pieces = list(read_notes(io.BytesIO(head + junk + a_file(notes[1:]))))
    assert whole(pieces) == notes
    damage = [piece for piece in pieces if piece.note is None]
    expected = [StoredNote(len(head), len(head) + len(junk), None)] if junk.strip() else []
    assert damage == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_leaves_whole_notes_and_covers_the_file(data):
    notes = [a_note(n) for n in range(3)]
    content = bytearray(a_file(notes))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    content[start:end] = data.draw(st.binary(max_size=20) | st.just(b"\n\n") | st.just(b"\n"))
    pieces = list(read_notes(io.BytesIO(content)))
    position = 0
    for piece in pieces:
        assert not content[position : piece.offset].strip(b"\n")
        assert piece.offset < piece.end
        if piece.note is not None:
            assert content[piece.offset : piece.end] == piece.note + b"\n"
        position = piece.end
    assert not content[position:].strip(b"\n")
    sound = [
        note
        for note, at in zip(notes, (0, *(len(a_file(notes[:n])) for n in (1, 2))), strict=True)
        if at + len(note) + 1 < start
    ]
    assert whole(pieces)[: len(sound)] == sound


def test_a_flood_without_blank_lines_is_not_held():
    class Flood(io.RawIOBase):
        """Twenty megabytes that are in memory only a piece at a time."""

        left = 20 * MAX_NOTE_BYTES
        largest = 0

        def seekable(self):
            return True

        def seek(self, offset, whence=0):
            return 0

        def read(self, size=-1):
            taken = min(size, self.left)
            self.left -= taken
            return b"x" * taken

    pieces = list(read_notes(Flood()))
    assert whole(pieces) == []
    assert max(piece.end - piece.offset for piece in pieces) < 1.2 * MAX_NOTE_BYTES
    assert pieces[-1].end == 20 * MAX_NOTE_BYTES


@pytest.mark.parametrize("count", [0, 1, 2, 15, 300])
def test_the_last_note_is_found_from_the_end(count):
    notes = [a_note(n % 7, sealed_at=TIME) for n in range(count)]
    for tail in (b"", b"torn", b"\n", b"x" * 70_000, a_note(9)[:-1]):
        found = last_note(io.BytesIO(a_file(notes) + tail))
        if not count:
            assert found is None
        else:
            assert found.note == notes[-1]
            assert found.end == len(a_file(notes))


def test_the_last_note_is_whole_though_it_is_large():
    large = (
        a_note(1)
        + "".join(f"— w{n}.example {b64encode(bytes(3000)).decode()}\n" for n in range(9)).encode()
    )
    for notes in ([large], [a_note(1), large], [large, a_note(2)]):
        assert last_note(io.BytesIO(a_file(notes))).note == notes[-1]
