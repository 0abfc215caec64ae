"""Random changes to journals in every state: what shows and what does not, as the page says.

2,000 changes here; KLAVIYO_AUDIT_MUTATIONS=100000 makes as many, and prints what was shown.
"""

import gzip
import os
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from klaviyo_audit.journal.checkpoint import Checkpoint, read_notes
from klaviyo_audit.journal.format import encode
from klaviyo_audit.journal.leaves import leaves
from klaviyo_audit.journal.merkle import leaf_hash
from klaviyo_audit.journal.note import Verifier, parse_note
from klaviyo_audit.journal.removals import read_removed
from klaviyo_audit.journal.segments import (
    decompressed,
    read_segments,
    rotated_files,
    zstd_module,
)
from klaviyo_audit.journal.verified import Verified
from klaviyo_audit.journal.witnesses import Kept
from tests.journal import sealing
from tests.journal.checking import verify

PAGE = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
COUNT = int(os.environ.get("KLAVIYO_AUDIT_MUTATIONS", "2000"))
SHOWN, NOT_SHOWN = "shown", "not shown"


def promised():
    """The page's table: by change, what is said for each state; None where there is none."""
    table = PAGE.split("<!-- what shows -->")[1].split("<!-- end -->")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.strip().splitlines()]
    head, _, *rows = rows
    assert tuple(head[1:4]) == ("not sealed yet", "sealed", "sealed, checkpoints kept elsewhere")
    return {row[0]: row[1:4] for row in rows}


PROMISED = promised()


@dataclass
class Copy:
    """A journal that is about to be changed."""

    folder: Path
    random: random.Random
    sealed: int
    """Lines that are sealed, in the order of the files."""
    kept: Path
    places: list = field(default_factory=list)
    """Every line: file, index in it, whether it is sealed."""
    removed: int = 0
    """Lines that retention has removed."""

    def __post_init__(self):
        if (self.folder / "removed").exists():
            self.removed = read_removed(self.folder).size
        count = 0
        for path in self.files():
            for index, _ in enumerate(self.read(path)):
                self.places.append((path, index, count < self.sealed))
                count += 1

    def files(self):
        rotated = sorted(self.folder.glob("audit-*.jsonl*"))
        return [*rotated, *self.folder.glob("audit.jsonl")]

    def read(self, path):
        with path.open("rb") as file, decompressed(file, path.suffix) as content:
            return content.read().splitlines(keepends=True)

    def write(self, path, lines):
        data = b"".join(lines)
        if path.suffix == ".gz":
            data = gzip.compress(data)
        elif path.suffix == ".zst":
            data = zstd_module().compress(data)
        path.write_bytes(data)

    def pick(self, *, ordinary=False):
        """Any line; an ordinary one is no writer's first or last."""
        while True:
            path, index, is_sealed = self.random.choice(self.places)
            lines = self.read(path)
            if not ordinary or b'"phase":"journal"' not in lines[index]:
                return path, lines, index, is_sealed


def resummed(line, **changes):
    members = orjson.loads(line) | changes
    del members["sum"]
    return encode(members)


def flip(copy):
    path, lines, index, is_sealed = copy.pick()
    line = bytearray(lines[index])
    line[copy.random.randrange(len(line))] ^= 1 << copy.random.randrange(8)
    lines[index] = bytes(line)
    copy.write(path, lines)
    return is_sealed


def delete(copy):
    path, lines, index, is_sealed = copy.pick(ordinary=True)
    del lines[index]
    copy.write(path, lines)
    return is_sealed


def insert(copy):
    path, lines, index, is_sealed = copy.pick()
    text = copy.random.choice([b"hello\n", b"\n", b"\0\0\n", b'{"v":1,"id":"x"}\n'])
    lines.insert(index, text)
    copy.write(path, lines)
    return is_sealed


def duplicate(copy):
    path, lines, index, is_sealed = copy.pick()
    lines.insert(index, lines[index])
    copy.write(path, lines)
    return is_sealed


def swap(copy):
    while True:
        path, lines, index, is_sealed = copy.pick(ordinary=True)
        other = copy.random.randrange(len(lines))
        same = orjson.loads(lines[other])["writer"] == orjson.loads(lines[index])["writer"]
        if other != index and same and b'"phase":"journal"' not in lines[other]:
            break
    lines[index], lines[other] = lines[other], lines[index]
    copy.write(path, lines)
    return is_sealed or {(p, i): s for p, i, s in copy.places}[path, other]


def edit(copy):
    path, lines, index, is_sealed = copy.pick(ordinary=True)
    lines[index] = resummed(lines[index], user_id="somebody-else")
    copy.write(path, lines)
    return is_sealed


def renumber(copy):
    """A line removed, and all that follow of its writer given new numbers and checksums."""
    path, lines, index, is_sealed = copy.pick(ordinary=True)
    gone = orjson.loads(lines[index])
    after = False
    for other in copy.files():
        content = copy.read(other)
        changed = []
        for at, line in enumerate(content):
            members = orjson.loads(line)
            if (other, at) == (path, index):
                after = True
                continue
            if members["writer"] == gone["writer"] and members["n"] > gone["n"]:
                changes = {"n": members["n"] - 1}
                if members["action"] == "journal.close":
                    changes["metadata"] = {"lines": members["metadata"]["lines"] - 1}
                changed.append(resummed(line, **changes))
                continue
            changed.append(line)
        copy.write(other, changed)
    assert after
    return is_sealed


def swap_files(copy):
    rotated = copy.files()[:-1]
    if len(rotated) < 2:
        return None
    one, other = copy.random.sample(rotated, 2)
    first, second = copy.read(one), copy.read(other)
    copy.write(one, second)
    copy.write(other, first)
    return True


def remove_file(copy):
    rotated = copy.files()[:-1]
    if not rotated:
        return None
    copy.random.choice(rotated).unlink()
    return True


def put_file(copy):
    rotated = copy.files()[:-1]
    if not rotated:
        return None
    (copy.folder / "audit-000000000999.jsonl").write_bytes(sealed_lines("bbbbbbbbbbbbbbbb"))
    return True


def sealed_lines(writer):
    from tests.journal.forge import written

    return b"".join(written(writer))


def cut(copy):
    """Lines cut off at the end, with what tells of their writer."""
    path = copy.files()[-1]
    lines = copy.read(path)
    count = copy.random.randint(1, len(lines))
    is_sealed = any(s for p, i, s in copy.places if p == path and i >= len(lines) - count)
    copy.write(path, lines[: len(lines) - count])
    return is_sealed


def cut_with_checkpoints(copy):
    """The tail cut off at an earlier checkpoint, with all that is left of the later ones."""
    notes = (copy.folder / "checkpoints").read_bytes().split(b"\n\n") if copy.sealed else []
    notes = [b"\n\n".join(notes[at : at + 2]) + b"\n\n" for at in range(0, len(notes) - 1, 2)]
    path = copy.files()[-1]
    before = copy.removed + len(copy.places) - len(copy.read(path))
    sizes = [int(note.split(b"\n")[1]) for note in notes]
    begin = [at for at, size in enumerate(sizes[:-1]) if size > before]
    if path.name != "audit.jsonl" or not begin:
        return None
    at = copy.random.choice(begin)
    copy.write(path, copy.read(path)[: sizes[at] - before])
    (copy.folder / "checkpoints").write_bytes(b"".join(notes[: at + 1]))
    (copy.folder / "tree").unlink(missing_ok=True)
    return True


def remove_checkpoints(copy):
    """All checkpoints after some place, and the sealer's state."""
    path = copy.folder / "checkpoints"
    if not copy.sealed:
        return None
    notes = path.read_bytes().split(b"\n\n")
    keep = copy.random.randrange(0, len(notes) // 2)
    path.write_bytes(b"".join(part + b"\n\n" for part in notes[: 2 * keep]))
    (copy.folder / "tree").unlink(missing_ok=True)
    return True


def remove_last_checkpoint(copy):
    path = copy.folder / "checkpoints"
    if not copy.sealed or not (copy.folder / "tree").exists():
        return None
    notes = path.read_bytes().split(b"\n\n")
    path.write_bytes(b"".join(part + b"\n\n" for part in notes[:-3]))
    return True


def flip_checkpoint(copy):
    path = copy.folder / "checkpoints"
    if not copy.sealed:
        return None
    data = bytearray(path.read_bytes())
    data[copy.random.randrange(len(data))] ^= 1 << copy.random.randrange(8)
    path.write_bytes(data)
    return True


def edit_segments(copy):
    path = copy.folder / "segments"
    if not copy.sealed:
        return None
    lines = path.read_bytes().splitlines()
    kept = [at for at, line in enumerate(lines) if int(line.split()[0]) >= copy.removed]
    index = copy.random.choice(kept)
    numbers = [int(text) for text in lines[index].split()]
    numbers[copy.random.randrange(3)] += copy.random.choice([-1, 1, 7, 1000])
    lines[index] = b"%d %d %d" % tuple(numbers)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return True


def edit_removed(copy):
    path = copy.folder / "removed"
    if not copy.removed:
        return None
    *before, last = path.read_bytes().splitlines()
    record = orjson.loads(last)
    name = copy.random.choice(
        ["size", "edge", "root", "lines", "from", "reason", "bytes", "files", "signature"]
    )
    value = record[name]
    record[name] = value + 1 if isinstance(value, int) else value[:-1]
    path.write_bytes(b"".join(line + b"\n" for line in [*before, orjson.dumps(record)]))
    return True


def forge_removal(copy):
    """The oldest files taken away, and all that can be computed written into `removed`."""
    if not copy.sealed:
        return None
    ends = {one.index for one in read_segments(copy.folder) if one.index > copy.removed}
    end = copy.random.choice(sorted(ends))
    lines = list(leaves(copy.folder, end=end))
    tree = read_removed(copy.folder).extended(map(leaf_hash, lines))
    path = copy.folder / "removed"
    before = path.read_bytes() if path.exists() else b""
    record = {"v": 1, "from": copy.removed, "lines": len(lines), **tree.to_dict()}
    record["root"] = tree.root().hex()
    if signatures := re.findall(rb'"signature":"([^"]*)"', before):
        record["signature"] = copy.random.choice(signatures).decode()
    path.write_bytes(before + orjson.dumps(record) + b"\n")
    for file, gone in rotated_files(copy.folder).items():
        if file < end:
            gone.unlink()
    return True


CHANGES = {
    "a bit flipped in a line": flip,
    "a line deleted": delete,
    "a line inserted that no writer wrote": insert,
    "a line doubled": duplicate,
    "two lines of a writer swapped": swap,
    "a line edited, its checksum recomputed": edit,
    "a line deleted, those after it renumbered with new checksums": renumber,
    "lines cut off at the end": cut,
    "lines cut off at the end with their checkpoints and `tree`": cut_with_checkpoints,
    "the content of two rotated files swapped": swap_files,
    "a rotated file removed": remove_file,
    "a file named like a rotated one put there": put_file,
    "a bit flipped in `checkpoints`": flip_checkpoint,
    "the last checkpoint removed, `tree` left": remove_last_checkpoint,
    "checkpoints removed at the end, with `tree`": remove_checkpoints,
    "`segments` edited": edit_segments,
    "`removed` edited": edit_removed,
    "the oldest files removed, and in `removed` that retention did it": forge_removal,
}


def test_the_page_lists_these_changes():
    assert list(PROMISED) == list(CHANGES)


def make(folder, state, how):
    """A journal of three writers in some files; what is sealed of it, and its key."""
    if state == "unsealed":
        for start in range(0, 30, 10):
            sealing.write(folder, 10, start)
        return
    for start in range(0, 40, 10):
        sealing.write(folder, 10, start)
        sealing.seal(folder, rotate_bytes=3000)
        sealing.tidy(folder, compress=how)
    for start in range(40, 60, 10):
        sealing.write(folder, 10, start)
        sealing.seal(folder)
    if state == "retained":
        size = sum(path.stat().st_size for path in folder.glob("audit*")) - 1

        def announce(action, facts):
            writer = sealing.open_writer(folder)
            line = sealing.entry(0) | {"phase": "journal", "action": action, "metadata": facts}
            line["id"] = "announced"
            assert writer.append(line) is None
            writer.close()

        sealing.tidy(folder, retain_bytes=size, announce=announce, compress=how)
        assert (folder / "removed").exists()
        sealing.seal(folder)
    if state == "partly sealed":
        sealing.write(folder, 10, 60)


JOURNALS = [
    ("unsealed", "none"),
    ("partly sealed", "gzip"),
    ("partly sealed", "none"),
    ("sealed", "zstd"),
    ("sealed", "none"),
    ("retained", "zstd"),
]


@pytest.fixture(scope="module")
def journals(tmp_path_factory):
    monkeypatch = pytest.MonkeyPatch()
    made = []
    with monkeypatch.context() as patch:
        sealing.quick(patch)
        for state, how in JOURNALS:
            folder = tmp_path_factory.mktemp("journal") / "trail"
            make(folder, state, how)
            kept = folder.with_name("kept")
            if (folder / "checkpoints").exists():
                shutil.copy(folder / "checkpoints", kept)
            report = verify(folder)
            assert report.intact, report.findings
            made.append((folder, report.sealed - report.removed, kept))
    return made


def changed_content(folder):
    """What the files mean: contents uncompressed."""
    found = sealing.files_of(folder)
    return {name: sha256(content).digest() for name, content in found.items()}


@pytest.mark.parametrize("part", range(4))
def test_what_shows(journals, tmp_path, part):
    seed = random.Random(part)
    told = Counter()
    names = list(CHANGES)
    for number in range(COUNT // 4):
        folder, sealed, kept = seed.choice(journals)
        name = names[number % len(names)]
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        hit_sealed = CHANGES[name](Copy(copy, seed, sealed, kept))
        if hit_sealed is None:
            shutil.rmtree(copy)
            continue
        before, after, elsewhere = PROMISED[name]
        key = Verifier.from_text((folder / "sealing.pub").read_text()) if sealed else None
        keys = [key] if key else []
        report = verify(copy, verifiers=keys)
        for finding in report.findings:
            assert "None" not in finding.message, finding
            assert finding.file or finding.kind in {"unsealed", "missing-writer"}, finding
        promise = after if hit_sealed else before
        what = (name, "sealed" if hit_sealed else "not sealed yet", folder, report.findings)
        if promise == SHOWN:
            assert not report.intact, what
        elif promise == NOT_SHOWN:
            assert report.intact, what
        else:
            assert promise == "sometimes", what
        if hit_sealed:
            against = verify(copy, verifiers=keys, against=kept)
            assert elsewhere == SHOWN, what
            assert not against.intact, what
        told[name, hit_sealed, report.intact] += 1
        shutil.rmtree(copy)
    assert sum(told.values()) > COUNT // 8
    if COUNT > 2000:
        for key, count in sorted(told.items()):
            print(*key, count)


@pytest.mark.parametrize("number", range(1, len(JOURNALS)))
def test_what_was_verified_before_is_only_hashed(journals, tmp_path, number):
    """`since`: in journals of many files, compressed and removed ones among them."""
    folder, _, _ = journals[number]
    whole = verify(folder)
    sizes = [one.size for one in sealing.checkpoints_of(folder) if one.size >= whole.removed]
    assert len(sizes) > 4
    seed = random.Random(number)
    for since in sizes:
        report = verify(folder, since=since)
        assert report.intact, report.findings
        assert (report.bytes, report.sealed) == (whole.bytes, whole.sealed)
        assert report.entries == whole.entries - (since - whole.removed)
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        changed = Copy(copy, seed, whole.sealed - whole.removed, copy)
        place = seed.randrange(len(changed.places))
        path, index, is_sealed = changed.places[place]
        lines = changed.read(path)
        lines[index] = lines[index].replace(b'"user_id":"u"', b'"user_id":"v"')
        changed.write(path, lines)
        found = {
            one.kind: one for one in verify(copy, since=since).findings if one.severity == "error"
        }
        assert ("changed" in found) is is_sealed
        assert ("checksum" in found) is (place >= since - whole.removed)
        if "checksum" in found:
            assert (found["checksum"].file, found["checksum"].line) == (path.name, index + 1)
        shutil.rmtree(copy)


def marks_of(folder):
    """Where a verification can have ended: at each checkpoint over lines that are there."""
    tree, lines = read_removed(folder), [*leaves(folder)]
    marks = []
    with (folder / "checkpoints").open("rb") as file:
        for stored in read_notes(file):
            size = Checkpoint.from_text(parse_note(stored.note).text).size
            if size > tree.size:
                later = lines[: size - tree.size]
                marks.append(Verified(stored.note, tree.extended(map(leaf_hash, later))))
    return marks


def sealed_from(folder, size, end):
    """The lines from one to another, by the number of their file: here the tree is in its order."""
    begins = [segment.file for segment in read_segments(folder)]
    paths = {begins[-1]: folder / "audit.jsonl", **rotated_files(folder)}
    found = []
    for begin, after in zip(begins, [*begins[1:], end], strict=True):
        if after > size:
            path = paths[begin]
            with path.open("rb") as file, decompressed(file, path.suffix) as content:
                lines = content.read().splitlines(keepends=True)
            found += lines[max(0, size - begin) : min(after, end) - begin]
    return found


def test_what_is_intact_after_a_mark_is_what_was_sealed(journals, tmp_path):
    """`--resume` calls no change of a later sealed line intact, wherever the mark is."""
    seed = random.Random(7)
    told = Counter()
    for _ in range(COUNT // 5):
        folder, sealed, kept = seed.choice(journals[1:])
        name = seed.choice(list(CHANGES))
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        CHANGES[name](Copy(copy, seed, sealed, kept))
        mark = seed.choice(marks_of(folder))
        key = Verifier.from_text((folder / "sealing.pub").read_text())
        report = verify(copy, verifiers=[key], since=mark)
        told[report.intact] += 1
        if report.intact:
            size, end = mark.tree.size, report.sealed
            assert report.skipped == size, name
            assert end >= size
            assert sealed_from(copy, size, end) == sealed_from(folder, size, end), name
        else:
            assert report.verified is None
            known = Kept("the mark", (mark.note,))
            whole = verify(copy, verifiers=[key], against=known)
            assert not whole.intact, "no false alarm either"
        shutil.rmtree(copy)
    assert min(told[True], told[False]) > COUNT // 40


def test_a_number_has_one_name(journals, tmp_path):
    for folder, sealed, _ in journals:
        if sealed:
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            first = min(copy.glob("audit-*"))
            shutil.copy(first, copy / first.name.replace("audit-", "audit-0"))
            found = [one for one in verify(copy).findings if one.severity == "error"]
            assert [(one.kind, one.file) for one in found] == [
                ("stray-file", first.name.replace("audit-", "audit-0"))
            ]
            shutil.rmtree(copy)


def test_bits_of_compressed_files(journals, tmp_path):
    """Any bit of what they hold; a bit of their frame may change nothing that is in them."""
    seed = random.Random(1)
    for folder, _, _ in journals:
        for path in folder.glob("audit-*.jsonl.*"):
            for _ in range(6):
                copy = tmp_path / "copy"
                shutil.copytree(folder, copy)
                data = bytearray(path.read_bytes())
                data[seed.randrange(len(data))] ^= 1 << seed.randrange(8)
                (copy / path.name).write_bytes(data)
                try:
                    same = changed_content(copy) == changed_content(folder)
                except Exception:
                    same = False
                assert verify(copy).intact is same, re.sub(r"\s+", " ", str(path))
                shutil.rmtree(copy)
