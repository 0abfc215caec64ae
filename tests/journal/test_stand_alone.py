"""The stand-alone verifiers as one runs them: Python without any package, and a journal.

That they agree with `klaviyo-audit verify` is for checking.py, in every test that verifies a journal.
"""

import shutil
import subprocess
import sys

import pytest

from tests.journal.checking import EXAMPLES
from tests.journal.forge import A, journal, written
from tests.journal.sealing import seal

SEALS, WHOLE = EXAMPLES / "verify_seals.py", EXAMPLES / "verify_journal.py"


def run(program, *arguments):
    """Exit code and output, where nothing but the standard library can be imported."""
    command = [sys.executable, "-I", "-S", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
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
