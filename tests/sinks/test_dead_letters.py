"""Dead letters, while the process that sends them again is killed at every line of ours."""

import os
import sys

import orjson
import pytest

from klaviyo_audit.sinks import deadletters
from klaviyo_audit.sinks.base import Rejected
from klaviyo_audit.sinks.batch import DeadLetter
from klaviyo_audit.sinks.deadletters import bury, count_dead, retry_dead
from tests.sinks import entries

OURS = {deadletters.__file__, deadletters.__file__.replace("deadletters", "lines")}
LETTERS = 4


def killed_at(number, work):
    """Do some work in a process that ends at one of our lines; whether it got to its end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = number

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename not in OURS:
            return None
        left -= event == "line"
        if not left:
            os._exit(9)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
        os._exit(0)


def ids_in(path):
    return [orjson.loads(line)["entry"]["id"] for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("left", [False, True], ids=["first", "after one that was killed"])
def test_a_retry_killed_anywhere_loses_nothing(tmp_path, left):
    """The sink takes the first, rejects the second and is down at the third."""
    batch = entries.many(LETTERS)
    wanted = {entry.id for entry in batch}
    done, number = False, 0
    while not done:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        bury(folder, [DeadLetter(orjson.dumps(entry.to_dict()), "no") for entry in batch])
        if left:
            data = (folder / "dead.jsonl").read_bytes().splitlines(keepends=True)
            (folder / "dead.retried.jsonl").write_bytes(b"".join(data[:2]))
            (folder / "dead.jsonl").write_bytes(b"".join(data[2:]))
        arrived = folder / "arrived"
        arrived.touch()

        def deliver(some, arrived=arrived):
            (entry,) = some
            if entry.id == batch[1].id:
                raise Rejected([entry], "still no")
            if entry.id == batch[2].id:
                raise ConnectionError
            with arrived.open("a") as file:
                file.write(entry.id + "\n")

        def work(folder=folder, deliver=deliver):
            with pytest.raises(ConnectionError):
                retry_dead(folder, deliver, 1)

        done = killed_at(number, work)
        kept = {name for file in folder.glob("dead*.jsonl") for name in ids_in(file)}
        assert kept | set(arrived.read_text().split()) == wanted, number
        assert count_dead(folder) >= LETTERS - len(set(arrived.read_text().split()))
        again = []
        retried = retry_dead(folder, again.extend, 500)
        assert retried.kept == count_dead(folder) == 0
        assert {entry.id for entry in again} | set(arrived.read_text().split()) == wanted
    assert number > 100, "killed at every line"
    assert sorted(entry.id for entry in again) == sorted(wanted - {batch[0].id}), "none twice"


def test_a_burial_killed_anywhere_loses_no_letter_that_was_there(tmp_path):
    first, second = entries.many(2)
    letters = [DeadLetter(orjson.dumps(entry.to_dict()), "no") for entry in (first, second)]
    done, number = False, 0
    while not done:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        bury(folder, letters[:1])
        done = killed_at(number, lambda folder=folder: bury(folder, letters[1:]))
        assert first.id in ids_in(folder / "dead.jsonl")
    assert ids_in(folder / "dead.jsonl") == [first.id, second.id]
