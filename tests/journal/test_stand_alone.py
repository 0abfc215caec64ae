"""The stand-alone verifiers as one runs them: Python without any package, and a journal.

That they agree with `klaviyo-audit verify` is for checking.py, in every test that verifies a journal.
"""

import shutil
import subprocess
import sys

import pytest

from klaviyo_audit.journal.segments import decompressed
from tests.journal import sealing
from tests.journal.checking import EXAMPLES, verify
from tests.journal.forge import A, journal, written
from tests.journal.sealing import seal
from tests.waiting import PATIENCE

SEALS, WHOLE = EXAMPLES / "verify_seals.py", EXAMPLES / "verify_journal.py"


def run(program, *arguments):
    """Exit code and output, where nothing but the standard library can be imported."""
    command = [sys.executable, "-I", "-S", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "trail"
    journal(folder, *written(A, 20))
    seal(folder)
    return folder


def test_the_seals_take_less_than_150_lines():
    assert len(SEALS.read_text().splitlines()) < 150


@pytest.mark.parametrize("program", [SEALS, WHOLE])
def test_a_journal_that_is_as_it_was_written(program, folder):
    code, output = run(program, folder)
    assert code == 0
    assert output.startswith("intact")


def test_the_number_of_sealed_lines_is_told(folder):
    assert run(SEALS, folder)[1] == "intact: 22 lines are there as they were sealed\n"


@pytest.mark.parametrize("program", [SEALS, WHOLE])
def test_a_letter_that_was_changed(program, folder):
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"success"', b'"failure"', 1))
    code, output = run(program, folder)
    assert code == 1
    assert "the first 22 lines" in output


def test_a_tail_that_was_cut_off_with_its_checkpoints(folder, tmp_path):
    kept, path = tmp_path / "kept", folder / "audit.jsonl"
    shutil.copy(folder / "checkpoints", kept)
    key = (folder / "sealing.pub").read_text().strip()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    for name in ("checkpoints", "segments", "tree"):
        (folder / name).unlink()
    seal(folder)
    assert run(SEALS, folder) == (0, "intact: 19 lines are there as they were sealed\n")
    code, output = run(SEALS, folder, key, kept)
    assert code == 1
    assert output == "tampered with or damaged: of 22 sealed lines the last are not there\n"


def test_seals_of_another_key(folder, tmp_path):
    journal(tmp_path / "other", *written(A, 3))
    seal(tmp_path / "other")
    other = (tmp_path / "other" / "sealing.pub").read_text().strip()
    code, output = run(SEALS, folder, other)
    assert code == 1
    assert "is not signed by" in output


def test_seals_that_are_gone(folder):
    key = (folder / "sealing.pub").read_text().strip()
    (folder / "checkpoints").unlink()
    code, output = run(SEALS, folder, key)
    assert (code, output) == (
        1,
        "tampered with or damaged: a key was given, and there are no checkpoints\n",
    )


@pytest.mark.parametrize("program", [SEALS, WHOLE])
def test_what_is_no_journal_could_not_be_checked(program, tmp_path):
    code, output = run(program, tmp_path / "nowhere")
    assert code == 2
    assert output.startswith("could not be checked: ")
    assert "nowhere" in output


@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
def test_one_file(tmp_path, monkeypatch, how):
    """Each file of a journal by itself, as it is and with each of its lines changed or gone."""
    sealing.without_syncing(monkeypatch)
    for start in range(0, 40, 10):
        sealing.write(tmp_path, 6, start)
        sealing.seal(tmp_path, rotate_bytes=3000, compress=how)
    sealing.tidy(tmp_path, compress=how)
    sealing.write(tmp_path, 3)
    files = sorted(tmp_path.glob("audit*"))
    assert len(files) > 2
    for path in files:
        assert verify(path).intact
        with path.open("rb") as file, decompressed(file, path.suffix) as content:
            lines = content.read().splitlines(keepends=True)
        seen = set()
        for number, line in enumerate(lines):
            for instead in (
                b"",
                line[:-1],
                line[: len(line) // 2],
                line.replace(b"u", b"v"),
                b"{}\n",
            ):
                for name in ("audit.jsonl", "audit-000000000000.jsonl", "audit-000000000007.jsonl"):
                    copy = tmp_path / "copy" / name
                    copy.parent.mkdir(exist_ok=True)
                    copy.write_bytes(b"".join([*lines[:number], instead, *lines[number + 1 :]]))
                    seen.add(verify(copy).intact)
        assert seen == {True, False}
        if how != "none" and path.suffix:
            data = path.read_bytes()
            for cut in (0, 10, len(data) // 2, len(data) - 1):
                path.write_bytes(data[:cut])
                verify(path)
            path.write_bytes(data)
