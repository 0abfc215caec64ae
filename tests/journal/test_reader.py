"""Reading: every byte of a journal is accounted for, whatever happened to the file."""

import os
import subprocess
import sys
import threading

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.journal.line import MAX_LINE_BYTES, Problem, claim
from klaviyo_audit.journal.reader import Damage, Run, open_journal, read, scan
from klaviyo_audit.journal.writer import JournalWriter
from tests.journal.forge import A, B, journal, line, resealed, written
from tests.waiting import PATIENCE

LINES = [line(A, n) for n in range(40)]
"""Lines of a journal, the same for all examples."""


def problems(path, **options):
    return [(one.offset, one.problem) for one in read(path, **options) if one.problem]


def numbers(path, **options):
    """The numbers of all entries that can be read."""
    return [one.members["n"] for one in read(path, **options) if one.members]


def test_entries_come_with_number_offset_and_members(tmp_path):
    path = journal(tmp_path, *LINES[:3])
    first, second, third = read(path)
    assert [first.number, second.number, third.number] == [1, 2, 3]
    assert [first.offset, second.offset] == [0, len(LINES[0])]
    assert third.raw == LINES[2][:-1]
    assert third.members == orjson.loads(LINES[2])
    assert {first.problem, second.problem, third.problem} == {None}


def test_reading_goes_on_from_an_offset(tmp_path):
    path = journal(tmp_path, *LINES)
    start = sum(map(len, LINES[:30]))
    rest = list(read(path, offset=start, number=31))
    assert [one.members["n"] for one in rest] == list(range(30, 40))
    assert (rest[0].number, rest[0].offset) == (31, start)


def test_a_line_that_follows_a_torn_one_directly_is_found(tmp_path):
    torn = LINES[1][:100]
    path = journal(tmp_path, LINES[0], torn, LINES[2], LINES[3])
    first, piece, second, third = read(path)
    assert (piece.problem, piece.raw, piece.offset) == (Problem.TORN, torn, len(LINES[0]))
    assert piece.number == second.number == 2
    assert second.offset == len(LINES[0]) + 100
    assert [first.members["n"], second.members["n"], third.members["n"]] == [0, 2, 3]
    assert third.number == 3


@pytest.mark.parametrize("length", range(1, 20))
def test_however_short_the_torn_piece_is(tmp_path, length):
    path = journal(tmp_path, LINES[0][:length], LINES[1])
    piece, entry = read(path)
    assert piece.raw == LINES[0][:length]
    assert piece.problem == Problem.TORN
    assert entry.members["n"] == 1


def test_several_torn_pieces_in_a_row_are_told_apart(tmp_path):
    pieces = [LINES[0][:150], LINES[1][:200], LINES[2][:120]]
    path = journal(tmp_path, *pieces, LINES[3])
    found = list(read(path))
    assert [one.raw for one in found[:3]] == pieces
    assert {one.problem for one in found[:3]} == {Problem.TORN}
    assert found[3].members["n"] == 3


def test_an_entry_that_only_lacks_its_newline_can_be_read(tmp_path):
    path = journal(tmp_path, LINES[0][:-1], LINES[1])
    first, second = read(path)
    assert first.problem == Problem.NO_NEWLINE
    assert first.members["n"] == 0
    assert (second.problem, second.members["n"]) == (None, 1)


def test_text_that_looks_like_a_head_inside_an_entry_does_not_split_it(tmp_path):
    inner = orjson.loads(LINES[5])
    entry = line(B, 1, request={"a": inner, "b": [inner] * 5})
    path = journal(tmp_path, LINES[0][:50], entry, entry[:-30], LINES[1])
    found = [one for one in read(path) if one.problem is None]
    assert [(one.members["writer"], one.members["n"]) for one in found] == [(B, 1), (A, 1)]
    assert found[0].raw == entry[:-1]


def test_very_many_heads_take_no_quadratic_time(tmp_path):
    head = LINES[0][:100]
    path = journal(tmp_path, head * 20_000, LINES[1])
    found = list(read(path))
    assert found[-1].members["n"] == 1
    assert sum(len(one.raw) for one in found[:-1]) == 100 * 20_000


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (b"\n", Problem.EMPTY),
        (b"\0" * 5000 + b"\n", Problem.NUL),
        (b"hello\n", Problem.FOREIGN),
        (b'{"v":2}\n', Problem.TORN),
        (b'{"id":1}\n', Problem.FOREIGN),
        (b"\xff\xfe{\n", Problem.ENCODING),
        (LINES[9][:-1] + b"\r\n", Problem.CRLF),
        (LINES[9].replace(b"dana", b"dora"), Problem.CHECKSUM),
        (LINES[9].replace(b"dana", b"dan"), Problem.CHECKSUM),
        (LINES[9][:-9] + b"\n", Problem.CHECKSUM),
        (LINES[9][:-60] + b"\n", Problem.TORN),
        (resealed(LINES[9], b'"n":9', b'"n":"9"'), Problem.FOREIGN),
        (resealed(LINES[9], b'"n":9', b'"n":-9'), Problem.FOREIGN),
        (resealed(LINES[9], b'"n":9', b'"n":9e400'), Problem.FOREIGN),
        (resealed(LINES[9], b'"user_id":"dana",', b""), Problem.FOREIGN),
        (resealed(LINES[9], b'{"v":1', b'{"v":2'), Problem.VERSION),
        (resealed(LINES[9], b"success", b"suc\xffess"), Problem.FOREIGN),
    ],
)
def test_what_is_no_entry_is_told_with_its_place(tmp_path, damage, problem):
    path = journal(tmp_path, LINES[0], damage, LINES[1])
    assert problems(path) == [(len(LINES[0]), problem)]
    assert [n for n in numbers(path) if n != 9] == [0, 1]


def test_nul_bytes_before_an_entry(tmp_path):
    path = journal(tmp_path, LINES[0], b"\0" * 4096, LINES[1])
    first, nul, second = read(path)
    assert (nul.problem, len(nul.raw)) == (Problem.NUL, 4096)
    assert second.offset == len(LINES[0]) + 4096
    assert [first.members["n"], second.members["n"]] == [0, 1]


def test_an_unfinished_last_line_is_left_alone_until_it_is_finished(tmp_path):
    path = journal(tmp_path, LINES[0], LINES[1][:80])
    assert numbers(path) == [0]
    assert problems(path) == []
    assert problems(path, final=True) == [(len(LINES[0]), Problem.TORN)]
    with path.open("ab") as file:
        file.write(LINES[1][80:])
    assert numbers(path) == [0, 1]


def test_a_last_entry_without_newline_is_readable_when_nobody_writes_any_more(tmp_path):
    path = journal(tmp_path, LINES[0], LINES[1][:-1])
    assert numbers(path) == [0]
    assert numbers(path, final=True) == [0, 1]
    assert problems(path, final=True) == [(len(LINES[0]), Problem.NO_NEWLINE)]


def test_garbage_without_line_ends_takes_no_memory(tmp_path):
    length = 6 * MAX_LINE_BYTES
    path = journal(tmp_path, LINES[0])
    with path.open("ab") as file:
        file.truncate(len(LINES[0]) + length)  # a hole in the file: NUL bytes
        file.write(LINES[1])
    first, garbage, second = read(path)
    # In a process of its own: what threads of other tests allocate meanwhile would be counted.
    program = (
        "import sys, tracemalloc; from pathlib import Path\n"
        "from klaviyo_audit.journal.reader import read\n"
        "tracemalloc.start()\n"
        "assert len(list(read(Path(sys.argv[1])))) == 3\n"
        "print(tracemalloc.get_traced_memory()[1])\n"
    )
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    assert int(done.stdout) < 5 * MAX_LINE_BYTES
    assert (garbage.problem, garbage.offset) == (Problem.TOO_LONG, len(LINES[0]))
    assert second.offset == len(LINES[0]) + length
    assert [first.members["n"], second.members["n"]] == [0, 1]


def test_a_line_of_several_megabytes_is_read(tmp_path):
    long = line(A, 7, response="x" * 3_000_000)
    path = journal(tmp_path, LINES[0], long, LINES[1])
    assert numbers(path) == [0, 7, 1]
    assert problems(path) == []


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(journal(tmp_path / "elsewhere", LINES[0]))
    for name, what in (("fifo", "regular"), ("folder", "regular"), ("link", "symbolic link")):
        with pytest.raises(OSError, match=what):
            list(read(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "nothing"))


def test_a_file_that_grows_is_read_without_a_false_alarm(tmp_path):
    """Two threads append, one reads from where it stopped: no line is torn or read twice."""
    writer = JournalWriter(
        tmp_path / "trail", user_id="dana", origin={}, opening={}, on_loss=pytest.fail
    )
    writer.open()

    def append():
        for _ in range(1500):
            entry = orjson.loads(LINES[0])
            writer.append({**entry, "origin": None, "metadata": {"text": "x" * 3000}})

    threads = [threading.Thread(target=append) for _ in range(2)]
    for thread in threads:
        thread.start()
    offset, seen = 0, []
    while True:
        alive = any(thread.is_alive() for thread in threads)
        for one in read(writer.path, offset=offset):
            assert one.problem is None
            assert one.offset == offset
            seen.append(one.members["n"])
            offset = one.offset + len(one.raw) + 1
        if not alive:
            break
    writer.close()
    assert sorted(seen) == list(range(3001))


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(LINES),
            st.sampled_from(LINES).map(lambda text: text[:-1]),
            st.tuples(st.sampled_from(LINES), st.integers(1, 300)).map(lambda it: it[0][: it[1]]),
            st.tuples(st.sampled_from(LINES), st.integers(1, 300)).map(lambda it: it[0][it[1] :]),
            st.binary(max_size=30),
            st.just(b"\n"),
            st.just(b"\0\0\0"),
        ),
        max_size=12,
    )
)
def test_every_byte_is_in_exactly_one_line(tmp_path, parts):
    """The pieces, put together again with the newlines between them, are the file."""
    data = b"".join(parts)
    path = journal(tmp_path, data)
    at = 0
    for one in read(path, final=True):
        if data[at : at + 1] == b"\n" and one.offset == at + 1:
            at += 1
        assert one.offset == at
        assert data.startswith(one.raw, at)
        at += len(one.raw)
        if one.problem is None:
            assert one.raw + b"\n" in LINES
            assert data[at : at + 1] == b"\n"
    assert data[at:] in (b"", b"\n")
    for text in LINES:
        # A whole line stands at its place, whatever is around it.
        start = data.find(text)
        if start >= 0:
            assert start in [one.offset for one in read(path, final=True) if one.problem is None]


@settings(max_examples=40)
@given(st.integers(0, 800), st.integers(0, 799), st.data())
def test_runs_and_damage_are_contiguous(tmp_path, count, at, data):
    """In long files, where lines are read 256 at a time."""
    lines = [LINES[index % len(LINES)] for index in range(count)]
    if lines:
        spot = at % len(lines)
        lines[spot] = lines[spot][: data.draw(st.integers(0, len(lines[spot])))]
    path = journal(tmp_path, *lines)
    number, offset, entries = 1, 0, 0
    with open_journal(path) as file:
        for item in scan(file, final=True):
            assert (item.number, item.offset) == (number, offset)
            if isinstance(item, Run):
                number += len(item.lines)
                entries += len(item.lines)
            else:
                assert isinstance(item, Damage)
                number += 1
                entries += sum(one.problem is None for one in item.pieces)
            offset = item.end
    assert offset == path.stat().st_size
    assert entries in {count, count - 1}


def test_a_damaged_line_still_says_which_it_was():
    changed = LINES[12].replace(b"dana", b"dora")
    assert claim(changed) == (A, 12)
    assert claim(b"{" + changed) is None


def test_a_whole_writer_reads_back(tmp_path):
    path = journal(tmp_path, *written(A, 300))
    assert numbers(path) == list(range(302))
