"""A destroyed key is gone for every process and from every byte of the store."""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.subject_keys import SubjectKeys
from tests.waiting import PATIENCE

MASTER = b"a master key that is kept elsewhere"
DANA = (Kind.EMAIL, "dana@example.com")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trail" / "subjects.sqlite"


def test_each_person_has_a_key_of_their_own(path):
    keys, again = SubjectKeys(path, MASTER), SubjectKeys(path, MASTER)
    assert keys.names(*DANA) == []
    assert not path.exists()
    name = keys.name(*DANA)
    assert name.startswith("email:s1:")
    assert keys.name(*DANA) == again.name(*DANA) == again.names(*DANA)[0] == name
    assert keys.name(Kind.EMAIL, "eve@example.com") != name
    assert len(again) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_forgetting_is_seen_by_others_at_once(path):
    keys, other = SubjectKeys(path, MASTER), SubjectKeys(path, MASTER)
    name = keys.name(*DANA)
    assert other.name(*DANA) == name
    assert keys.forget(*DANA) is True
    assert keys.forget(*DANA) is False
    assert other.names(*DANA) == []
    # Somebody who comes back is somebody new.
    fresh = other.name(*DANA)
    assert fresh != name
    assert keys.name(*DANA) == fresh


def test_no_byte_of_the_key_is_left(path):
    keys = SubjectKeys(path, MASTER)
    for number in range(50):
        keys.name(Kind.EMAIL, f"person{number}@example.com")
    keys.name(*DANA)
    with sqlite3.connect(path) as connection:
        rows = dict(connection.execute("select idx, sealed from subject").fetchall())
    index = keys._index.digest(b"email:dana@example.com")
    sealed = rows[index]
    keys.forget(*DANA)
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert sealed not in everything
    assert index not in everything
    # Those of the others are there, so that the search above can find something.
    assert sum(row in everything for row in rows.values()) == 50


def test_no_byte_is_left_where_rows_were_moved_to_other_pages(path):
    """By the splits and merges of a growing and shrinking tree."""
    rng = random.Random(3)
    keys = SubjectKeys(path, MASTER)
    people = [f"p{number}@example.com" for number in range(1_500)]
    seen = set()
    for number, person in enumerate(people):
        keys.name(Kind.EMAIL, person)
        if number % 100 == 99:
            seen |= sealed(path)
            for gone in rng.sample(people[:number], 20):
                keys.forget(Kind.EMAIL, gone)
    destroyed = seen - sealed(path)
    assert len(destroyed) > 200
    keys.close()
    for file in path.parent.iterdir():
        content = file.read_bytes()
        parts = (one[at : at + 16] for one in destroyed for at in (0, 16, 32))
        assert [part for part in parts if part in content] == [], file.name


def sealed(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {bytes(one) for (one,) in connection.execute("select sealed from subject")}


@pytest.mark.parametrize("when", ["_next_epoch", "the second time", "wal_checkpoint"])
def test_who_is_killed_while_forgetting_forgets_again(path, when):
    """Others noticed nothing, and the write-ahead log kept the key, whatever was forgotten then."""
    keys = SubjectKeys(path, MASTER)
    before = keys.name(Kind.EMAIL, "a@b.de")
    (key,) = sealed(path)
    program = f"""
import os, sqlite3, sys
from pathlib import Path
from klaviyo_audit.privacy import subject_keys
from klaviyo_audit.privacy.identifiers import Kind
keys = subject_keys.SubjectKeys(Path({str(path)!r}), {MASTER!r})
times = iter([{when == "_next_epoch"}, {when == "the second time"}])
real = keys._next_epoch
def bump():
    if next(times):
        os._exit(9)
    real()
keys._next_epoch = bump
if {when == "wal_checkpoint"}:
    keys._known = type("", (), {{"clear": lambda self: os._exit(9)}})()
    keys._epoch = keys._read_epoch()
keys.forget(Kind.EMAIL, "a@b.de")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=PATIENCE)
    assert done.returncode == 9
    other = SubjectKeys(path, MASTER)
    assert other.forget(Kind.EMAIL, "a@b.de") is (when == "_next_epoch")
    for file in path.parent.iterdir():
        assert key not in file.read_bytes(), file.name
    assert keys.name(Kind.EMAIL, "a@b.de") != before


def test_the_store_names_nobody(path):
    keys = SubjectKeys(path, MASTER)
    keys.name(*DANA)
    keys.close()
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"dana" not in everything
    assert MASTER not in everything


def test_another_master_key_is_refused(path):
    SubjectKeys(path, MASTER).name(*DANA)
    wrong = SubjectKeys(path, b"another master key, not that one")
    with pytest.raises(ConfigurationError, match="subject_master_key"):
        wrong.check()
    with pytest.raises(ConfigurationError):
        wrong.names(*DANA)
    assert wrong.name(*DANA) is None, "masked, rather than a pseudonym that matches nothing"


def test_a_store_that_cannot_be_used_masks(tmp_path):
    (tmp_path / "subjects.sqlite").write_bytes(b"this is no database at all" * 100)
    keys = SubjectKeys(tmp_path / "subjects.sqlite", MASTER)
    assert keys.name(*DANA) is None
    with pytest.raises(ConfigurationError):
        keys.check()


def test_threads_and_processes_agree(path):
    root = Path(__file__).parents[2]
    program = (
        "import sys; from pathlib import Path; from klaviyo_audit.privacy.subject_keys import *\n"
        "from klaviyo_audit.privacy.identifiers import Kind\n"
        f"keys = SubjectKeys(Path(sys.argv[1]), {MASTER!r})\n"
        "for n in range(40): print(keys.name(Kind.EMAIL, f'person{n}@example.com'))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(3)
    ]
    keys, own = SubjectKeys(path, MASTER), []

    def work():
        own.append([keys.name(Kind.EMAIL, f"person{number}@example.com") for number in range(40)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    printed = [one.communicate(timeout=PATIENCE)[0].split() for one in running]
    assert all(found == own[0] for found in own + printed)
    assert None not in own[0]


def test_a_fork_opens_its_own_connection(path):
    keys = SubjectKeys(path, MASTER)
    name = keys.name(*DANA)
    child = os.fork()
    if not child:
        keys._known.clear()
        os._exit(0 if keys.name(*DANA) == name else 1)
    assert os.waitpid(child, 0)[1] == 0
    keys._known.clear()
    assert keys.name(*DANA) == name
