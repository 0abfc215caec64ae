"""Verification: every damage is told, with its place, and no sound journal is called damaged."""

import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.journal import verify as verify_module
from klaviyo_audit.journal.findings import Kind, Severity
from klaviyo_audit.journal.folder import WRITERS_NAME
from klaviyo_audit.journal.judgement import IN_FLIGHT_LINES
from klaviyo_audit.journal.locks import LifeLock
from klaviyo_audit.journal.note import Verifier
from klaviyo_audit.journal.writer import JournalWriter
from tests.journal.checking import verify
from tests.journal.forge import (
    A,
    B,
    C,
    gap,
    goodbye,
    journal,
    line,
    opening,
    recovered,
    resealed,
    written,
)
from tests.waiting import PATIENCE


def kinds(report, severity=None):
    return [str(f.kind) for f in report.findings if severity in (None, f.severity)]


def errors(report):
    return kinds(report, Severity.ERROR)


def only(report):
    (finding,) = report.findings
    return finding


def soon(writer, n, phase="outcome", **members):
    """A line a moment after the one before it, so that others can be in flight with it."""
    return line(writer, n, phase, timestamp=f"2026-11-23T19:00:00.{n:06d}Z", **members)


# What is sound.


def test_a_sound_journal(tmp_path):
    lines = written(A, 300)
    path = journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert report.findings == ()
    assert (report.entries, report.writers, report.bytes) == (302, 1, path.stat().st_size)
    assert report.files == ("audit.jsonl",)
    assert report.intact
    assert verify(path) == report


def test_writers_may_be_interleaved_and_threads_may_overtake_each_other(tmp_path):
    a, b = written(A, 8), written(B, 8)
    a[2:6] = [a[5], a[2], a[4], a[3]]
    lines = [text for pair in zip(a, b, strict=True) for text in pair]
    journal(tmp_path, *lines)
    assert verify(tmp_path).findings == ()


def test_a_journal_of_a_real_program(tmp_path, auditor, klaviyo, trail):
    klaviyo.Profiles.get_profiles()
    auditor.record("export.downloaded", metadata={"rows": 3})
    auditor.close()
    key = Verifier.from_text((trail.folder / "sealing.pub").read_text())
    report = verify(trail.folder, verifiers=[key])
    assert report.findings == ()
    assert report.entries == report.sealed == len(trail.lines())


def test_an_intent_and_its_outcome_share_their_id(tmp_path):
    ids = [orjson.loads(text)["id"] for text in (line(A, 1), line(A, 2))]
    lines = [line(A, 1 + 2 * i, "intent", id=one) for i, one in enumerate(ids)]
    lines += [line(A, 2 + 2 * i, "outcome", id=one) for i, one in enumerate(ids)]
    journal(tmp_path, opening(A), *lines, goodbye(A, 6))
    assert verify(tmp_path).findings == ()


LAYOUTS = {
    "members in another order": (b'{"v":1,', b'{"v":1,"x":2,'),
    "another version": (b'{"v":1,', b'{"v":2,'),
    "true for 1": (b'{"v":1,', b'{"v":true,'),
    "1.0 for 1": (b'{"v":1,', b'{"v":1.0,'),
    "an exponent": (b'"n":2,', b'"n":2e0,'),
    "a fraction": (b'"n":2,', b'"n":2.0,'),
    "a leading zero": (b'"n":2,', b'"n":02,'),
    "a sign": (b'"n":2,', b'"n":-2,'),
    "a string": (b'"n":2,', b'"n":"2",'),
    "an escape in a name": (b'"n":2,', b'"\\u006e":2,'),
    "an escape in a value": (b'"outcome"', b'"\\u006futcome"'),
    "a space": (b'"n":2,', b'"n": 2,'),
    "a phase nobody knows": (b'"outcome"', b'"outcomf"'),
    "a writer in capitals": (A.encode(), A.upper().encode()),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("around", [0, 300])
def test_a_line_that_is_laid_out_otherwise_is_no_entry(tmp_path, name, around):
    """Whatever stands around it, and though its checksum holds."""
    lines = written(A, 3 + around)
    lines[2] = resealed(lines[2], *LAYOUTS[name])
    journal(tmp_path, *lines)
    assert errors(verify(tmp_path)) == ["foreign", "missing-number"]


def test_of_members_that_are_there_twice_the_first_counts(tmp_path):
    lines = written(A, 3)
    twice = b',"n":77,"writer":"%b","phase":"intent","v":2}' % B.encode()
    lines[2] = resealed(lines[2], b',"duration_ms":12.345', b',"duration_ms":12.345' + twice[:-1])
    journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert (errors(report), report.writers) == ([], 1)


@pytest.mark.parametrize("garbage", [b"]]", b"\xff", b"\r\0", b',"metadata":' + b"[" * 10_000])
@pytest.mark.parametrize("around", [0, 300])
def test_what_is_no_json_behind_the_head(tmp_path, garbage, around):
    """Whoever can compute the checksum can write what he likes; of us it would be read."""
    lines = written(A, 3 + around)
    end = b',"duration_ms":12.345'
    lines[2] = resealed(lines[2], end, end + garbage)
    journal(tmp_path, *lines)
    assert errors(verify(tmp_path)) == []
    lines[2] = resealed(lines[2], b'"outcome"', b'"journal"')
    journal(tmp_path, *lines)
    assert errors(verify(tmp_path)) == ["foreign"]


def test_an_empty_journal_is_intact(tmp_path):
    journal(tmp_path)
    report = verify(tmp_path)
    assert (report.entries, report.findings) == (0, ())


# What is not.


def test_a_changed_line(tmp_path):
    lines = written(A)
    lines[3] = lines[3].replace(b"dana", b"dora")
    journal(tmp_path, *lines)
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.severity) == (Kind.CHECKSUM, Severity.ERROR)
    assert (finding.line, finding.offset) == (4, sum(map(len, lines[:3])))
    assert (finding.writer, finding.n) == (A, 3)


def test_removed_lines(tmp_path):
    lines = written(A, 10)
    del lines[7]
    del lines[3:6]
    journal(tmp_path, *lines)
    first, second = verify(tmp_path).findings
    assert {first.kind, second.kind} == {Kind.MISSING_NUMBER}
    assert {first.severity, second.severity} == {Severity.ERROR}
    assert (first.n, first.last, first.line) == (3, 5, 4)
    assert (second.n, second.last, second.line) == (7, None, 5)
    assert first.offset == sum(map(len, lines[:3]))


@pytest.mark.parametrize(
    ("step", "said"),
    [(-3_600_000, "back by 3,600,000 ms"), (50, "forward by 50 ms"), ("x", "not say by how much")],
)
def test_a_clock_that_was_set_is_worth_a_note(tmp_path, step, said):
    told = line(A, 1, "journal", action="journal.clock", metadata={"step_ms": step})
    journal(tmp_path, opening(A), told, goodbye(A, 3))
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.severity, finding.line) == (Kind.CLOCK, Severity.NOTE, 2)
    assert said in finding.message


def test_a_removed_first_line(tmp_path):
    journal(tmp_path, *written(A)[1:])
    assert errors(verify(tmp_path)) == ["no-first-line", "missing-number"]


def test_a_first_line_that_opens_nothing(tmp_path):
    journal(tmp_path, line(A, 0), line(A, 1), goodbye(A, 3))
    assert errors(verify(tmp_path)) == ["no-first-line"]


def test_a_line_twice(tmp_path):
    lines = written(A)
    journal(tmp_path, *lines[:4], lines[2], *lines[4:])
    report = verify(tmp_path)
    assert errors(report) == ["duplicate-number", "duplicate-entry"]
    assert {finding.line for finding in report.findings} == {5}
    assert "line 3" in report.findings[1].message


def test_an_entry_about_the_same_call_under_another_number(tmp_path):
    lines = written(A)
    entry_id = orjson.loads(lines[2])["id"]
    lines[4] = line(A, 4, id=entry_id)
    journal(tmp_path, *lines)
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.line, finding.n) == (Kind.DUPLICATE_ENTRY, 5, 4)


def test_ids_that_only_end_alike_are_no_repetition(tmp_path):
    ids = [f"0192c0a0-0000-700{n}-8000-aaaaaaaaaaaa" for n in range(3)]
    journal(
        tmp_path, opening(A), *(line(A, n + 1, id=one) for n, one in enumerate(ids)), goodbye(A, 5)
    )
    assert verify(tmp_path).findings == ()


@pytest.mark.parametrize("entry_id", ["x", "x" * 36, "0192c0a0-0000-7000-8000-aaaaaaaaaaaag", ""])
def test_ids_that_are_no_uuid_are_compared_too(tmp_path, entry_id):
    journal(tmp_path, opening(A), line(A, 1, id=entry_id), line(A, 2, id=entry_id), goodbye(A, 4))
    assert errors(verify(tmp_path)) == ["duplicate-entry"]


def test_a_cut_tail_shows_as_a_missing_goodbye(tmp_path):
    journal(tmp_path, *written(A), *written(B)[:-1])
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.severity) == (Kind.NO_GOODBYE, Severity.WARNING)
    assert finding.writer == B


def test_lines_cut_before_the_goodbye(tmp_path):
    journal(tmp_path, *written(A)[:3], written(A)[-1])
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.n, finding.last) == (Kind.MISSING_NUMBER, 3, 4)


def test_a_goodbye_that_counts_more_lines_than_there_are(tmp_path):
    wrong = line(A, 3, "journal", action="journal.close", metadata={"lines": 6})
    journal(tmp_path, *written(A)[:3], wrong)
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.n, finding.last) == (Kind.MISSING_NUMBER, 4, 5)
    assert finding.severity is Severity.ERROR


def test_a_goodbye_that_counts_too_few(tmp_path):
    wrong = line(A, 5, "journal", action="journal.close", metadata={"lines": 3})
    journal(tmp_path, *written(A)[:5], wrong)
    assert errors(verify(tmp_path)) == ["after-goodbye"]


def test_a_line_after_the_goodbye(tmp_path):
    journal(tmp_path, *written(A), line(A, 6), line(A, 7))
    report = verify(tmp_path)
    assert errors(report) == ["after-goodbye", "after-goodbye"]
    assert [finding.line for finding in report.findings] == [7, 8]


@pytest.mark.parametrize(
    "text", [b"\n", b"hello\n", b'{"v":1}\n', b"\xff\n", b"\0\0\0\n", b'{"event":"login"}\n']
)
def test_something_that_nobody_of_us_wrote(tmp_path, text):
    lines = written(A)
    journal(tmp_path, *lines[:2], text, *lines[2:])
    finding = only(verify(tmp_path))
    assert finding.severity is Severity.ERROR
    assert (finding.line, finding.offset) == (3, len(lines[0]) + len(lines[1]))


def test_no_finding_hides_another(tmp_path):
    a, b = written(A, 10), written(B, 3)
    a[2] = a[2].replace(b"dana", b"dora")
    a[4] = a[4][:90]  # its successor follows it directly
    del a[7]
    journal(tmp_path, *a[:6], b"noise\n", *a[6:9], a[8], *a[9:], *b, line(B, 5))
    report = verify(tmp_path)
    assert errors(report) == [
        "checksum",
        "torn",
        "missing-number",  # the torn one
        "foreign",
        "missing-number",
        "duplicate-number",
        "duplicate-entry",
        "after-goodbye",
    ]
    assert [finding.line for finding in report.findings] == [3, 5, 5, 6, 8, 10, 10, 18]
    assert not report.intact


def test_a_truncation_that_the_writer_saw(tmp_path):
    seen = {"size_seen": 900, "size": 300}
    told = line(A, 1, "journal", action="journal.truncated", metadata=seen)
    journal(tmp_path, opening(A), told, goodbye(A, 3))
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.severity) == (Kind.TRUNCATED, Severity.ERROR)
    assert "900 bytes to 300 bytes" in finding.message


@pytest.mark.parametrize(
    "metadata", [None, [], "x", {"lines": "5"}, {"lines": -1}, {"lines": True}, {"lines": 10**30}]
)
def test_a_malformed_goodbye_is_none(tmp_path, metadata):
    try:
        last = line(A, 5, "journal", action="journal.close", metadata=metadata)
    except TypeError:
        last = line(A, 5, "journal", action="journal.close", metadata={"lines": 1e30})
    journal(tmp_path, *written(A)[:5], last)
    assert kinds(verify(tmp_path)) == ["no-goodbye"]


def test_malformed_statements_explain_nothing(tmp_path):
    lines = written(A, 10)
    lines[3] = lines[3][:-40]
    lines[6] = gap(A, 6, count="3", numbers=[[3], [3, 3, 3], ["3", "3"], 3, [-1, 3]], torn=[{}, 7])
    lines[7] = gap(A, 7, count=1, numbers={"3": 3}, operations=[1], reasons=4, torn="x")
    lines[8] = recovered(A, 8, "not a writer")
    lines[9] = recovered(A, 9, B, last="9", missing=["3", None, [3]], torn=[{"offset": "0"}])
    journal(tmp_path, *lines)
    assert errors(verify(tmp_path)) == ["torn", "missing-number"]


def test_text_of_the_journal_cannot_forge_the_report(tmp_path):
    evil = "x\x1b[2J\nintact\u202e"
    lines = written(A)
    lines[2] = gap(
        A, 2, count=2, operations={evil: 2}, reasons={evil: 2}, **{"from": evil, "to": 1}
    )
    lines[3] = line(A, 3, "journal", action="journal.reopen", metadata={"reason": evil})
    journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert kinds(report) == ["gap", "reopened"]
    assert all(finding.message.isprintable() for finding in report.findings)


# What a crash or a full disk leaves, and what explains it.


def test_numbers_that_a_gap_names_are_explained(tmp_path):
    lines = written(A, 8)
    lines[6] = gap(
        A,
        6,
        count=3,
        **{"from": "2026-11-23T19:00:00.000000Z", "to": "2026-11-23T19:00:01.000000Z"},
        operations={"klaviyo.profiles.create_profile": 3},
        reasons={"ENOSPC": 3},
        writer=A,
        numbers=[[2, 3], [5, 5]],
    )
    del lines[5], lines[2:4]
    journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert report.intact
    missing = [f for f in report.findings if f.kind is Kind.MISSING_NUMBER]
    assert [(f.n, f.last, f.severity) for f in missing] == [
        (2, 3, Severity.NOTE),
        (5, None, Severity.NOTE),
    ]
    (told,) = (f for f in report.findings if f.kind is Kind.GAP)
    assert told.severity is Severity.WARNING
    assert "3 entries" in told.message
    assert "ENOSPC" in told.message
    assert "create_profile" in told.message


def test_a_gap_explains_its_own_numbers_only(tmp_path):
    a, b = written(A, 8), written(B, 8)
    a[6] = gap(A, 6, count=1, numbers=[[2, 2]])
    del a[4], a[2], b[2]
    journal(tmp_path, *a, *b)
    report = verify(tmp_path)
    wrong = [(f.writer, f.n) for f in report.findings if f.severity is Severity.ERROR]
    assert wrong == [(A, 4), (B, 2)]


def test_a_short_write_that_a_gap_tells(tmp_path):
    lines = written(A, 6)
    torn = lines[2][:77]
    offset = len(lines[0]) + len(lines[1])
    lines[4] = gap(A, 4, count=0, torn=[{"offset": offset, "length": 77}])
    journal(tmp_path, *lines[:2], torn, *lines[2:])
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.severity) == (Kind.TORN, Severity.NOTE)

    lines[4] = gap(A, 4, count=0, torn=[{"offset": offset, "length": 76}])
    journal(tmp_path, *lines[:2], torn, *lines[2:])
    assert errors(verify(tmp_path)) == ["torn"]


def test_a_short_write_of_all_but_the_newline(tmp_path):
    """The writer tries again, so the entry is there twice, once without its newline."""
    lines = written(A, 6)
    offset = len(lines[0]) + len(lines[1])
    length = len(lines[2]) - 1
    lines[4] = gap(A, 4, count=0, torn=[{"offset": offset, "length": length}])
    journal(tmp_path, *lines[:2], lines[2][:-1], *lines[2:])
    report = verify(tmp_path)
    assert (kinds(report), report.intact) == (["torn"], True)
    assert report.entries == 8


def test_a_removed_newline(tmp_path):
    lines = written(A, 6)
    lines[2] = lines[2][:-1]
    journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert errors(report) == ["torn"]
    assert report.entries == 8  # nothing is missing


def test_a_dead_writers_last_numbers_may_have_been_in_flight(tmp_path):
    lines = [opening(A, previous=None), *(soon(A, n) for n in range(1, 200))]
    lines[0] = soon(A, 0, "journal", action="journal.open")
    del lines[50]
    journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert kinds(report) == ["no-goodbye", "missing-number"]
    assert report.count(Severity.WARNING) == 2


def test_numbers_missing_long_before_the_end_were_not_in_flight(tmp_path):
    journal(tmp_path, *written(A, 5, close=False)[:2], *written(A, 5, close=False)[3:])
    assert errors(verify(tmp_path)) == ["missing-number"]


def test_more_missing_numbers_than_threads_were_not_in_flight(tmp_path):
    begin = soon(A, 0, "journal", action="journal.open")
    count = IN_FLIGHT_LINES + 1
    journal(tmp_path, begin, soon(A, count + 1))
    assert errors(verify(tmp_path)) == ["missing-number"]
    journal(tmp_path, begin, soon(A, count))
    assert errors(verify(tmp_path)) == []


def test_a_goodbye_leaves_nothing_in_flight(tmp_path):
    begin = soon(A, 0, "journal", action="journal.open")
    end = soon(A, 3, "journal", action="journal.close", metadata={"lines": 4})
    journal(tmp_path, begin, soon(A, 1), end)
    assert errors(verify(tmp_path)) == ["missing-number"]


def killed(*, missing=(), torn=b""):
    """Lines of a writer that died without a goodbye, and of one that comes after it."""
    lines = [soon(A, 0, "journal", action="journal.open")]
    lines += [soon(A, n) for n in range(1, 10) if n not in missing]
    return b"".join(lines) + torn


def test_loose_ends_of_a_dead_writer_are_explained_by_its_recovery(tmp_path):
    torn = soon(A, 10)[:99]
    before = killed(missing={4, 8}, torn=torn)
    piece = {
        "file": "audit.jsonl",
        "offset": len(before) - 99,
        "length": 99,
        "sha256": sha256(torn).hexdigest(),
    }
    journal(tmp_path, before, opening(B))
    assert errors(verify(tmp_path)) == ["torn"]

    told = recovered(B, 1, A, last=9, missing=[4, 8], torn=[piece])
    journal(tmp_path, before, opening(B), told, goodbye(B, 3))
    report = verify(tmp_path)
    assert kinds(report) == kinds(report, Severity.NOTE)
    assert sorted(kinds(report)) == ["missing-number", "missing-number", "no-goodbye", "torn"]

    changed = before.replace(torn, torn[:-1] + b"x")
    journal(tmp_path, changed, opening(B), told, goodbye(B, 3))
    assert errors(verify(tmp_path)) == ["torn"]


def test_what_disappears_after_the_recovery_is_not_explained_by_it(tmp_path):
    told = recovered(B, 1, A, last=9, missing=[4])
    after = [opening(B), told, goodbye(B, 3)]
    journal(tmp_path, killed(missing={4, 8}), *after)
    assert errors(verify(tmp_path)) == ["missing-number"]
    journal(tmp_path, killed(missing={4, 9}), *after)
    report = verify(tmp_path)
    assert errors(report) == ["missing-number"]
    assert [f.n for f in report.findings if f.severity is Severity.ERROR] == [9]


def test_all_lines_of_a_recovered_writer_are_gone(tmp_path):
    journal(tmp_path, opening(B), recovered(B, 1, A, last=9), goodbye(B, 3))
    report = verify(tmp_path)
    assert errors(report) == ["missing-number", "no-first-line"] or errors(report) == [
        "no-first-line",
        "missing-number",
    ]


def test_a_writer_that_died_before_its_first_line_is_nothing_to_tell(tmp_path):
    journal(tmp_path, opening(B), recovered(B, 1, A, last=-1), goodbye(B, 3))
    assert verify(tmp_path).findings == ()


def test_a_recovery_explains_only_what_can_have_been_in_flight(tmp_path):
    lines = written(A, 9, close=False)
    del lines[4]
    journal(tmp_path, *lines, opening(B), recovered(B, 1, A, last=9, missing=[4]), goodbye(B, 3))
    assert errors(verify(tmp_path)) == ["missing-number"]


def test_a_recovery_does_not_explain_a_changed_line(tmp_path):
    lines = [opening(A), *(soon(A, n) for n in range(1, 5))]
    changed = lines[2].replace(b"dana", b"dora")
    piece = {
        "file": "audit.jsonl",
        "offset": len(lines[0]) + len(lines[1]),
        "length": len(changed) - 1,
        "sha256": sha256(changed[:-1]).hexdigest(),
    }
    lines[2] = changed
    told = recovered(B, 1, A, last=4, missing=[2], torn=[piece])
    journal(tmp_path, *lines, opening(B), told, goodbye(B, 3))
    assert errors(verify(tmp_path)) == ["checksum"]


def test_a_line_of_a_writer_that_was_found_dead(tmp_path):
    told = recovered(B, 1, A, last=9)
    journal(tmp_path, killed(), opening(B), told, soon(A, 10), goodbye(B, 3))
    assert errors(verify(tmp_path)) == ["after-goodbye"]


@pytest.mark.parametrize("length", [1, 40, 80, 150, 250])
def test_a_torn_end(tmp_path, length):
    lines = written(A, 3)
    journal(tmp_path, *lines, line(B, 0)[:length])
    finding = only(verify(tmp_path))
    assert finding.kind in {Kind.TORN, Kind.FOREIGN}
    assert finding.severity is Severity.ERROR
    assert finding.offset == sum(map(len, lines))


def test_an_end_that_only_lacks_its_newline(tmp_path):
    journal(tmp_path, killed(), soon(A, 10)[:-1])
    report = verify(tmp_path)
    assert sorted(kinds(report, Severity.WARNING)) == ["no-goodbye", "torn"]
    assert report.intact
    assert report.entries == 11


# Writers that live.


@pytest.fixture
def living(tmp_path):
    """A process that holds the lock of writer A."""
    (tmp_path / WRITERS_NAME).mkdir()
    program = f"""
import sys, pathlib
from klaviyo_audit.journal.locks import LifeLock
lock = LifeLock(pathlib.Path({str(tmp_path / WRITERS_NAME / A)!r}))
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_living_writer_may_still_say_goodbye(tmp_path, living):
    journal(tmp_path, *written(A, close=False), *written(B, close=False))
    report = verify(tmp_path)
    assert [(f.writer, f.severity) for f in report.findings] == [
        (A, Severity.NOTE),
        (B, Severity.WARNING),
    ]
    living.kill()
    living.wait()
    report = verify(tmp_path)
    assert [f.severity for f in report.findings] == [Severity.WARNING, Severity.WARNING]


def test_what_a_living_writer_may_be_writing_is_no_error(tmp_path, living):
    begin = soon(A, 0, "journal", action="journal.open")
    journal(tmp_path, begin, soon(A, 1), soon(A, 3))
    report = verify(tmp_path)
    assert kinds(report, Severity.NOTE) == ["no-goodbye", "missing-number"]
    assert kinds(report) == kinds(report, Severity.NOTE)


def test_what_it_wrote_in_the_meantime_is_not_even_that(tmp_path, living, monkeypatch):
    monkeypatch.setattr(verify_module, "_PATIENCE_SECONDS", PATIENCE)
    begin = soon(A, 0, "journal", action="journal.open")
    last = soon(A, 4)
    path = journal(tmp_path, begin, soon(A, 1), soon(A, 3), last[:120])

    def finish():
        time.sleep(0.05)
        with path.open("ab") as file:
            file.write(last[120:] + soon(A, 2))

    thread = threading.Thread(target=finish)
    thread.start()
    report = verify(tmp_path, busy=True)
    thread.join()
    assert kinds(report) == ["no-goodbye"]


def test_a_line_removed_long_ago_from_a_living_writer(tmp_path, living):
    lines = written(A, 6, close=False)
    del lines[2]
    journal(tmp_path, *lines)
    assert errors(verify(tmp_path)) == ["missing-number"]


def test_a_torn_line_that_a_living_writer_may_explain_yet(tmp_path, living):
    lines = written(A, close=False)
    journal(tmp_path, *lines, line(A, 5)[:120], opening(B), goodbye(B, 2))
    report = verify(tmp_path)
    assert kinds(report, Severity.WARNING) == ["torn"]
    assert report.intact


def test_writers_of_this_process_are_named_by_the_caller(tmp_path):
    writer = JournalWriter(
        tmp_path / "trail", user_id="dana", origin={}, opening={}, on_loss=pytest.fail
    )
    assert writer.open() is None
    report = verify(writer.directory, own={writer.id})
    assert [(f.kind, f.severity) for f in report.findings] == [(Kind.NO_GOODBYE, Severity.NOTE)]
    writer.close()
    assert verify(writer.directory).findings == ()


def test_a_writer_of_which_only_its_lock_is_left(tmp_path):
    (tmp_path / WRITERS_NAME).mkdir()
    (tmp_path / WRITERS_NAME / A).touch()
    (tmp_path / WRITERS_NAME / "README").touch()
    journal(tmp_path, *written(B))
    finding = only(verify(tmp_path))
    assert (finding.kind, finding.severity) == (Kind.MISSING_WRITER, Severity.WARNING)
    assert finding.writer == A


def test_a_writer_that_another_one_names_as_its_predecessor(tmp_path):
    journal(tmp_path, opening(B, previous=A), goodbye(B, 2))
    assert (only(verify(tmp_path)).kind, only(verify(tmp_path)).writer) == (
        Kind.MISSING_WRITER,
        A,
    )


@pytest.mark.parametrize("length", [1, 14, 250])
def test_a_line_that_is_being_written_when_verify_ends_is_no_finding(tmp_path, monkeypatch, length):
    """A write that goes over a page shows half done for a moment, longer where the host is busy."""
    writer = JournalWriter(tmp_path, user_id="u", origin={}, opening={}, on_loss=print)
    writer.open()
    size, calls = verify_module.Contents.size, []

    def size_and_then(contents):
        found = size(contents)
        calls.append(found)
        if len(calls) == 3:  # the last look at what there is to read
            with (tmp_path / "audit.jsonl").open("ab") as file:
                file.write(line(writer.id, 1)[:length])
        return found

    monkeypatch.setattr(verify_module.Contents, "size", size_and_then)
    report = verify(tmp_path, own={writer.id}, busy=True)
    assert len(calls) >= 3
    assert calls[-1] == calls[0]
    assert [one.kind for one in report.findings] == ["no-goodbye"]
    monkeypatch.undo()
    report = verify(tmp_path, own={writer.id}, busy=True)
    assert "torn" in [one.kind for one in report.findings], "it stays that way"
    writer.close()


def test_a_busy_journal_is_verified_without_a_false_alarm(tmp_path):
    """Another process writes with eight threads, and is killed; verify looks all the time."""
    program = """
import sys, pathlib, threading
from klaviyo_audit.journal.writer import JournalWriter
writer = JournalWriter(pathlib.Path(sys.argv[1]), user_id="u", origin={}, opening={}, on_loss=print)
writer.open()
def run():
    import time
    from uuid_utils import uuid7
    from klaviyo_audit import clock
    for n in range(5000):
        if n % 5 == 0:
            time.sleep(0.002)
        writer.append({"v": 1, "id": str(uuid7()), "writer": None, "n": None,
            "timestamp": clock.now(), "phase": "outcome", "action": "a", "user_id": "u",
            "origin": None, "metadata": {"text": "x" * 500}})
for _ in range(8):
    threading.Thread(target=run).start()
print(flush=True)
sys.stdin.read()
"""
    trail = tmp_path / "trail"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(trail)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            process.stdout.readline()
            for _ in range(8):
                report = verify(trail, busy=True)
                assert report.intact, report.findings
                assert kinds(report, Severity.WARNING) == []
        finally:
            os.kill(process.pid, signal.SIGKILL)
    report = verify(trail)
    assert report.intact, report.findings
    assert "no-goodbye" in kinds(report, Severity.WARNING)


# What can't be checked, and how the checking is shown.


def test_there_is_no_journal(tmp_path):
    with pytest.raises(FileNotFoundError, match="no journal"):
        verify(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        verify(tmp_path / "nothing")


def test_a_journal_that_is_a_link(tmp_path):
    real = journal(tmp_path / "real", *written(A))
    (tmp_path / "trail").mkdir()
    (tmp_path / "trail" / "audit.jsonl").symlink_to(real)
    with pytest.raises(OSError, match="symbolic link"):
        verify(tmp_path / "trail")


def test_progress_reaches_the_end(tmp_path):
    path = journal(tmp_path, *written(A, 1000))
    seen = []
    verify(path, progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert {total for _, total in seen} == {size}
    assert seen == sorted(seen)
    assert seen[-1][0] == size
    assert len(seen) > 2


MANY = 100_000
AT = "2026-11-23T19:00:00.000000Z"


def many_gaps():
    """Every second number is missing, and a gap names each of them."""
    yield from (line(A, 2 * number + 2, timestamp=AT) for number in range(MANY))
    told = [[2 * number + 1, 2 * number + 1] for number in range(MANY)]
    yield gap(A, 2 * MANY + 1, numbers=told)


def many_recoveries():
    """A writer is said to have died again and again, and goes on."""
    yield from (recovered(B, n, A, last=1) for n in range(MANY))
    yield from (line(A, 1) for _ in range(MANY))


@pytest.mark.parametrize(
    ("lines", "kind"), [(many_gaps, "missing-number"), (many_recoveries, "after-goodbye")]
)
def test_work_that_grows_with_the_lines_and_no_faster(tmp_path, lines, kind):
    """Squared, each of these would take longer than a test may."""
    journal(tmp_path, opening(A), *lines())
    report = verify(tmp_path, busy=True)
    assert sum(one.kind == kind for one in report.findings) == MANY


def test_a_report_as_json(tmp_path):
    lines = written(A)
    lines[3] = lines[3].replace(b"dana", b"dora")
    path = journal(tmp_path, *lines)
    facts = orjson.loads(orjson.dumps(verify(tmp_path).to_dict()))
    (finding,) = facts.pop("findings")
    assert facts == {
        "intact": False,
        "files": ["audit.jsonl"],
        "entries": 5,
        "writers": 1,
        "bytes": path.stat().st_size,
        "sealed": 0,
        "removed": 0,
        "skipped": 0,
    }
    message = finding.pop("message")
    assert "changed" in message
    assert finding == {
        "kind": "checksum",
        "severity": "error",
        "file": "audit.jsonl",
        "line": 4,
        "offset": sum(map(len, lines[:3])),
        "writer": A,
        "n": 3,
    }


# Mutations: exactly what checksums and numbers show, and what they don't.


def base_lines():
    a, b = written(A, 7), written(B, 7)
    return [text for pair in zip(a, b, strict=True) for text in pair]


BASE = base_lines()
SAMPLES = 120


def checked(folder, lines):
    journal(folder, *lines)
    return verify(folder)


@settings(max_examples=SAMPLES)
@given(st.integers(0, len(b"".join(BASE)) - 1), st.integers(0, 7))
def test_any_flipped_bit_shows(tmp_path, at, bit):
    data = bytearray(b"".join(BASE))
    data[at] ^= 1 << bit
    assert not checked(tmp_path, [bytes(data)]).intact


@settings(max_examples=SAMPLES)
@given(st.integers(0, len(BASE) - 1), st.integers(1, 5))
def test_any_removed_lines_show(tmp_path, at, count):
    """Unless they are the end: then goodbyes are missing, which a kill explains as well."""
    lines = BASE[:at] + BASE[at + count :]
    report = checked(tmp_path, lines)
    if at + count < len(BASE) - 2:
        assert not report.intact
    assert report.findings


@settings(max_examples=SAMPLES)
@given(st.integers(1, len(b"".join(BASE)) - 1))
def test_any_cut_shows_but_whole_writers_leave_no_trace(tmp_path, size):
    data = b"".join(BASE)[:size]
    report = checked(tmp_path, [data])
    assert report.findings
    at_line_end = data.endswith(b"\n")
    # A cut between lines, or just before a newline, is what a kill may leave as well.
    explained = at_line_end or data + b"\n" in [b"".join(BASE[:n]) for n in range(len(BASE) - 1)]
    assert report.intact is explained


@settings(max_examples=SAMPLES)
@given(st.integers(0, len(BASE) - 1), st.integers(0, len(BASE)))
def test_any_copied_line_shows(tmp_path, of, at):
    report = checked(tmp_path, [*BASE[:at], BASE[of], *BASE[at:]])
    assert "duplicate-number" in errors(report)
    assert "duplicate-entry" in errors(report)


@settings(max_examples=SAMPLES)
@given(st.integers(0, len(BASE)), st.binary(min_size=1, max_size=300))
def test_any_inserted_text_shows(tmp_path, at, text):
    report = checked(tmp_path, [*BASE[:at], text, *BASE[at:]])
    assert not report.intact
    assert report.entries == len(BASE)


@settings(max_examples=SAMPLES)
@given(st.integers(0, len(BASE) - 1), st.integers(0, len(BASE) - 1))
def test_lines_in_another_order_do_not_show_before_sealing(tmp_path, one, other):
    """Threads may overtake each other, so only a line after a goodbye is in the wrong place."""
    lines = list(BASE)
    lines[one], lines[other] = lines[other], lines[one]
    late = any(
        BASE[-2 + index] in lines and lines.index(BASE[-2 + index]) < lines.index(text)
        for index, writer in enumerate((A, B))
        for text in BASE[:-2]
        if f'"writer":"{writer}"'.encode() in text
    )
    report = checked(tmp_path, lines)
    assert report.intact is not late
    assert set(kinds(report)) == ({"after-goodbye"} if late else set())


@settings(max_examples=SAMPLES)
@given(st.integers(2, len(BASE) - 3))
def test_an_edit_with_a_new_checksum_does_not_show_before_sealing(tmp_path, at):
    lines = list(BASE)
    lines[at] = resealed(lines[at], b"dana", b"dora")
    assert checked(tmp_path, lines).findings == ()


def test_removed_lines_with_new_numbers_do_not_show_before_sealing(tmp_path):
    lines = written(A, 6)
    shorter = lines[:3] + [
        resealed(text, b'"n":%d' % n, b'"n":%d' % (n - 1))
        for n, text in enumerate(lines)
        if n > 3 and text is not lines[-1]
    ]
    last = goodbye(A, 7)
    assert checked(tmp_path, [*shorter, last]).findings == ()


def rotated(folder, name, lines):
    """A rotated file to be looked at alone: what came before it is not there."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(b"".join(lines))
    return verify(path)


def test_numbers_before_a_writers_first_line_can_be_in_what_is_not_there(tmp_path):
    """Also some above it: a thread that was overtaken wrote to the file before."""
    lines = [soon(A, n) for n in (41, 43, 44, 45)]
    assert errors(rotated(tmp_path, "audit-000000000040.jsonl", lines)) == []
    assert errors(rotated(tmp_path, "audit-000000000000.jsonl", lines)) != []
    late = [line(A, n) for n in (41, 43, 44, 45)]
    assert errors(rotated(tmp_path, "audit-000000000040.jsonl", late)) == ["missing-number"]
    many = [soon(A, n) for n in (41, 41 + IN_FLIGHT_LINES + 2)]
    assert errors(rotated(tmp_path, "audit-000000000040.jsonl", many)) == ["missing-number"]


def test_what_is_not_there_does_not_count_as_in_flight(tmp_path):
    """A program that has lived for seconds only, most of whose lines were removed already."""
    lines = [soon(A, n) for n in range(1000, 1300) if n != 1290]
    report = rotated(tmp_path, "audit-000000001000.jsonl", lines)
    assert errors(report) == []
    assert kinds(report, Severity.WARNING) == ["no-goodbye", "missing-number"]


def test_the_lock_of_this_test_is_not_held_by_another(tmp_path):
    """A check on the fixture's means: `verify` must not take a stale lock file for a life."""
    (tmp_path / WRITERS_NAME).mkdir()
    LifeLock(tmp_path / WRITERS_NAME / A).release(remove=False)
    journal(tmp_path, *written(A, close=False))
    assert only(verify(tmp_path)).severity is Severity.WARNING


def test_a_third_writer_that_says_nothing_is_not_invented(tmp_path):
    """A flipped digit in a writer's id names a writer that never was."""
    lines = written(A)
    lines[2] = lines[2].replace(A.encode(), C.encode())
    journal(tmp_path, *lines)
    report = verify(tmp_path)
    assert report.writers == 1
    assert errors(report) == ["checksum", "missing-number"]
    assert {f.writer for f in report.findings} == {A, C}
