"""Records of removals: only the sealer's key makes them, and nobody else's pass for one."""

import re
import shutil
from types import SimpleNamespace

import orjson
import pytest

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.merkle import CompactRange, leaf_hash
from klaviyo_audit.journal.note import Signer, Verifier, generate_key, open_note, sign_note
from klaviyo_audit.journal.removals import read_removals, read_removed, signed_record
from klaviyo_audit.journal.segments import read_segments, rotated_files
from tests.journal import sealing
from tests.journal.checking import verify


def make(folder, key=None):
    """A journal of five rotated files, whose first two were removed one after the other."""
    for start in range(0, 50, 10):
        sealing.write(folder, 10, start)
        sealing.seal(folder, rotate_bytes=3000, signing_key=key)
    sealing.write(folder, 10, 50)
    sealing.seal(folder, signing_key=key)
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole)
    for _ in range(2):
        size = sum(path.stat().st_size for path in folder.glob("audit*")) - 1
        sealing.tidy(folder, retain_bytes=size, compress="none", signing_key=key)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journal") / "trail"
    with pytest.MonkeyPatch.context() as patch:
        sealing.quick(patch)
        make(folder)
    assert len(read_removals(folder)) == 2
    assert len(rotated_files(folder)) == 3
    return folder


@pytest.fixture
def files(original, tmp_path, monkeypatch):
    """A copy of the journal, and what somebody without the key has at hand."""
    sealing.quick(monkeypatch)
    folder = tmp_path / "trail"
    shutil.copytree(original, folder)
    # Whoever forges has not got the key; the tests that sign take it from here.
    return SimpleNamespace(
        folder=folder,
        path=folder / "removed",
        lines=(folder / "removed").read_bytes().splitlines(keepends=True),
        whole=original.with_name("whole"),
        kept=original / "checkpoints",
        signer=Signer.from_text((original / "sealing.key").read_text()),
    )


def reports(files):
    verifier = Verifier.from_text((files.folder / "sealing.pub").read_text())
    return [
        verify(files.folder),
        verify(files.folder, verifiers=[verifier]),
        verify(files.folder, verifiers=[verifier], against=files.kept),
    ]


def next_removal(folder):
    """What a record of one more removal would say; the files it is about are taken away."""
    before = read_removed(folder).size
    end = min(one.index for one in read_segments(folder) if one.index > before)
    lines = list(leaves(folder, end=end))
    tree = read_removed(folder).extended(map(leaf_hash, lines))
    rotated_files(folder)[before].unlink()
    facts = {"v": 1, "timestamp": "2026-11-24T19:00:00.123456Z", "reason": "age", "bytes": 4711}
    facts |= {"files": [f"audit-{before:012d}.jsonl"], "from": before, "lines": len(lines)}
    return facts, tree


def unsigned(facts, tree):
    return orjson.dumps({**facts, **tree.to_dict(), "root": tree.root().hex()})


def with_signature(record, signature):
    return record[:-1] + b',"signature":"' + signature + b'"}\n'


def signature_in(line):
    return re.search(rb',"signature":"([^"]*)"\}\n', line)[1]


def signature_of_note(note):
    return note.rstrip(b"\n").rsplit(b" ", 1)[1]


def without_signature(files):
    files.lines.append(unsigned(*next_removal(files.folder)) + b"\n")


def with_an_empty_signature(files):
    files.lines.append(with_signature(unsigned(*next_removal(files.folder)), b""))


def with_the_checkpoints_signature(files):
    facts, tree = next_removal(files.folder)
    notes = (files.folder / "checkpoints").read_bytes().split(b"\n\n")
    texts = dict(zip(notes[::2], notes[1::2], strict=False))
    (signature,) = (
        signature_of_note(lines)
        for text, lines in texts.items()
        if text.split(b"\n")[1] == b"%d" % tree.size
    )
    files.lines.append(with_signature(unsigned(facts, tree), signature))


def with_the_states_signature(files):
    signature = signature_of_note((files.folder / "tree").read_bytes())
    files.lines.append(with_signature(unsigned(*next_removal(files.folder)), signature))


def with_another_records_signature(files):
    record = unsigned(*next_removal(files.folder))
    files.lines.append(with_signature(record, signature_in(files.lines[-1])))


def with_another_key_of_the_name(files):
    other = generate_key(files.signer.name)
    files.lines.append(signed_record(*next_removal(files.folder), other))


def of_another_log_of_the_same_key(files):
    other = Signer("example.com/other", files.signer.private_key)
    line = signed_record(*next_removal(files.folder), other)
    assert Signer.from_text(other.to_text()).verifier.key_id != files.signer.verifier.key_id
    files.lines.append(line)


def of_another_log_under_this_keys_id(files):
    """As if the key were used under two names, and the id of one written over the other's."""
    record = unsigned(*next_removal(files.folder))
    text = f"klaviyo-audit/removal@v1\nexample.com/other\n{record[:-1].decode()}\n"
    note = sign_note(text, files.signer)
    files.lines.append(with_signature(record, signature_of_note(note)))


def as_another_kind_of_text(files):
    """The key has signed just these bytes, but not as a removal."""
    record = unsigned(*next_removal(files.folder))
    note = sign_note(record.decode() + "\n", files.signer)
    files.lines.append(with_signature(record, signature_of_note(note)))


def for_more_than_was_removed(files):
    *_, last = files.lines
    facts, tree = next_removal(files.folder)
    members = orjson.loads(last)
    members |= {"lines": members["lines"] + facts["lines"], **tree.to_dict()}
    files.lines[-1] = orjson.dumps(members | {"root": tree.root().hex()}) + b"\n"


def cut_in_the_line(files):
    files.lines[-1] = files.lines[-1][:-40]


def cut_with_a_newline(files):
    files.lines[-1] = files.lines[-1][:-40] + b"\n"


def the_signature_cut_off(files):
    files.lines[-1] = files.lines[-1].partition(b',"signature"')[0] + b"}\n"


def the_newline_cut_off(files):
    files.lines[-1] = files.lines[-1][:-1]


def reordered(files):
    members = list(orjson.loads(files.lines[-1]).items())
    members[1], members[2] = members[2], members[1]
    files.lines[-1] = orjson.dumps(dict(members)) + b"\n"


def the_signature_first(files):
    members = orjson.loads(files.lines[-1])
    signature = {"signature": members.pop("signature")}
    files.lines[-1] = orjson.dumps(signature | members) + b"\n"


def a_member_after_the_signature(files):
    files.lines[-1] = files.lines[-1][:-2] + b',"reason":"age"}\n'


def a_second_signature(files):
    files.lines[-1] = with_signature(files.lines[-1][:-1], signature_in(files.lines[0]))


def the_right_signature_after_another(files):
    right = signature_in(files.lines[-1])
    wrong = files.lines[-1].replace(right, signature_in(files.lines[0]))
    files.lines[-1] = with_signature(wrong[:-1], right)


def text_after_the_signature(files):
    right = signature_in(files.lines[-1])
    files.lines[-1] = files.lines[-1].replace(right, right + b" x")


def another_line_after_the_signature(files):
    right = signature_in(files.lines[-1])
    files.lines[-1] = files.lines[-1].replace(right, right + "\u2028x".encode())


def a_space_put_in(files):
    files.lines[-1] = files.lines[-1].replace(b'"reason":', b'"reason": ')


def a_number_written_otherwise(files):
    files.lines[-1] = files.lines[-1].replace(b'"v":1,', b'"v":1,"v":1,')


def two_in_one(files):
    first, second = map(orjson.loads, files.lines)
    files.lines[:] = [orjson.dumps(second | {"from": 0, "lines": second["size"]}) + b"\n"]
    assert first["from"] == 0


def two_in_one_unchanged(files):
    files.lines[:] = [files.lines[0][:-1] + files.lines[1]]


def the_first_gone(files):
    del files.lines[0]


def the_last_gone(files):
    del files.lines[-1]


def doubled(files):
    files.lines.append(files.lines[-1])


def in_another_order(files):
    files.lines.reverse()


def an_empty_line(files):
    files.lines.append(b"\n")


def all_gone(files):
    files.lines.clear()


FORGERIES = [
    without_signature,
    with_an_empty_signature,
    with_the_checkpoints_signature,
    with_the_states_signature,
    with_another_records_signature,
    with_another_key_of_the_name,
    of_another_log_of_the_same_key,
    of_another_log_under_this_keys_id,
    as_another_kind_of_text,
    for_more_than_was_removed,
    cut_in_the_line,
    cut_with_a_newline,
    the_signature_cut_off,
    the_newline_cut_off,
    reordered,
    the_signature_first,
    a_member_after_the_signature,
    a_second_signature,
    the_right_signature_after_another,
    text_after_the_signature,
    another_line_after_the_signature,
    a_space_put_in,
    a_number_written_otherwise,
    two_in_one,
    two_in_one_unchanged,
    the_first_gone,
    the_last_gone,
    doubled,
    in_another_order,
    an_empty_line,
    all_gone,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda one: one.__name__)
def test_a_forged_record_is_an_error(files, forge):
    forge(files)
    files.path.write_bytes(b"".join(files.lines))
    for report in reports(files):
        assert not report.intact


def test_what_is_said_of_a_forged_record(files):
    without_signature(files)
    files.path.write_bytes(b"".join(files.lines))
    for report in reports(files):
        (wrong,) = (one for one in report.findings if one.severity == "error")
        assert (wrong.kind, wrong.file, wrong.line) == ("side-file", "removed", 3)
        assert "not signed" in wrong.message
        assert "removed" not in {one.kind for one in report.findings}


def test_the_sealers_own_are_a_note(files):
    for report in reports(files):
        assert report.intact, report.findings
        assert report.removed == read_removals(files.folder)[-1].tree.size
        assert "removed" in {one.kind for one in report.findings}
    # What makes the forgeries fail is the signature alone.
    line = signed_record(*next_removal(files.folder), files.signer)
    files.path.write_bytes(b"".join([*files.lines, line]))
    for report in reports(files):
        assert report.intact, report.findings


def test_no_file_at_all(files):
    files.path.unlink()
    assert not any(report.intact for report in reports(files))


def test_each_bit_of_a_record_counts(files):
    data = files.path.read_bytes()
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        files.path.write_bytes(changed)
        assert not verify(files.folder).intact, at


def test_an_older_file_goes_with_the_files_of_its_time_only(files):
    """As put back from a backup: the files that it does not speak of have to be there."""
    files.path.write_bytes(files.lines[0])
    assert not any(report.intact for report in reports(files))
    (missing,) = (
        {path.name for path in files.whole.glob("audit-*")}
        - {path.name for path in files.folder.glob("audit-*")}
        - {f"audit-{0:012d}.jsonl"}
    )
    shutil.copy(files.whole / missing, files.folder)
    for report in reports(files):
        assert report.intact, report.findings


def test_a_journal_of_the_same_key_lends_no_record(files, tmp_path):
    """Hosts may share a key: then a record of one is signed for the other, too."""
    folder = tmp_path / "of another host" / "trail"
    sealing.write(folder, 3, 900)
    make(folder, files.signer.to_text())
    lines = (folder / "removed").read_bytes()
    files.path.write_bytes(lines)
    assert not any(report.intact for report in reports(files))


def test_a_record_is_no_checkpoint(files):
    """What was signed as a removal, put where signed notes of other kinds are."""
    one = read_removals(files.folder)[-1]
    text = f"klaviyo-audit/removal@v1\n{files.signer.name}\n{one.body.decode()}\n"
    note = f"{text}\n— {files.signer.name} {one.signature}\n".encode()
    assert open_note(note, files.signer.verifier)[0] == text
    with (files.folder / "checkpoints").open("ab") as file:
        file.write(note + b"\n")
    assert not any(report.intact for report in reports(files))
    shutil.copy(files.kept, files.folder / "checkpoints")
    (files.folder / "tree").write_bytes(note)
    for report in reports(files):
        assert report.intact, "the state is only a cache"
    files.kept = files.folder.with_name("kept")
    files.kept.write_bytes(note)
    assert [report.intact for report in reports(files)] == [True, True, False]


@pytest.mark.parametrize("forge", [without_signature, with_another_key_of_the_name])
def test_no_sealer_goes_by_a_forged_record(files, forge):
    """Or it would remove the files that the record names, and sign what is left."""
    oldest = min(rotated_files(files.folder).values())
    content = oldest.read_bytes()
    forge(files)
    oldest.write_bytes(content)
    before = (files.folder / "checkpoints").read_bytes()
    files.path.write_bytes(b"".join(files.lines))
    sealing.append(files.folder, b"one more\n")
    with pytest.raises(JournalCorrupt, match=r"removed.*backup"):
        sealing.seal(files.folder, retain_bytes=1)
    assert (files.folder / "checkpoints").read_bytes() == before
    assert oldest.exists()


@pytest.mark.parametrize("forge", [without_signature, with_another_key_of_the_name])
def test_nor_does_one_that_is_at_work(files, forge):
    oldest = min(rotated_files(files.folder).values())
    content = oldest.read_bytes()
    errors, needed = [], [0]
    sealer = sealing.make_sealer(
        files.folder,
        retain_bytes=1,
        compress="none",
        needed_from=lambda: needed[0],
        on_error=errors.append,
    )
    sealing.settle(sealer)
    forge(files)
    oldest.write_bytes(content)
    files.path.write_bytes(b"".join(files.lines))
    needed[0] = 10**9
    sealer._chores._retain_at = sealer._chores._next_at = 0.0
    sealing.settle(sealer)
    sealer.close()
    assert oldest.exists()
    assert "not signed by the journal's key" in str(errors[0])


def test_the_empty_tree_needs_no_record(tmp_path):
    assert read_removed(tmp_path) == CompactRange()
    assert read_removals(tmp_path) == []


@pytest.mark.parametrize("size", [[], {}, "many", None, 1.5, -1])
def test_a_line_that_announces_nonsense(files, size):
    """Whoever can append can write such a line; it is told, and verification goes on."""
    writer = sealing.open_writer(files.folder)
    line = sealing.entry(4711) | {"phase": "journal", "action": "journal.retention"}
    assert writer.append(line | {"metadata": {"size": size}}) is None
    writer.close()
    for report in reports(files):
        assert {one.kind for one in report.findings if one.severity == "error"} == {"side-file"}
