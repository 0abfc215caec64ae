"""What a writer that died left open is closed once, by whoever opens the journal next."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.journal import recovery
from klaviyo_audit.journal.format import encode
from tests.journal import sealing
from tests.journal.checking import verify
from tests.waiting import PATIENCE

LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


def die(folder, fake, body, **env):
    """Run a program that kills itself with SIGKILL."""
    code = f"""
import os, signal
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor, acting_as
auditor = Auditor(journal="trail", service="doomed")
client = KlaviyoAPI("k" * 9, test_host={fake.url!r})
klaviyo = auditor.audit(client)
def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
{textwrap.dedent(body)}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, timeout=PATIENCE, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.fixture
def killed(tmp_path, fake):
    die(
        tmp_path,
        fake,
        f"""
        klaviyo.Profiles.get_profile("01H")
        client.api_client.rest_client.request = kill
        with acting_as("dana", reason="cleaning up"):
            klaviyo.Lists.delete_list("LIST1")
        """,
    )


def wait_for_recovery(auditor):
    if auditor._recovery is not None:
        auditor._recovery.join(PATIENCE)


@pytest.mark.usefixtures("killed")
def test_an_intent_without_an_outcome_is_closed_as_unknown(trail):
    assert [line["phase"] for line in trail.lines()] == ["journal", "outcome", "intent"]
    dead = trail.lines()[0]["writer"]
    assert (trail.folder / "writers" / dead).exists()
    with Auditor(journal=trail.folder) as auditor:
        wait_for_recovery(auditor)
    intent = trail.of("intent")[0]
    outcome = trail.last()
    assert outcome["id"] == intent["id"]
    assert outcome["result"] == "unknown"
    assert outcome["user_id"] == "dana"
    assert outcome["resource"] == "/api/lists/LIST1"
    assert outcome["actor"] == {"reason": "cleaning up"}
    assert outcome["call"] == intent["call"]
    facts = outcome["metadata"]["resolved"]
    assert (facts["writer"], facts["intent_at"]) == (dead, intent["timestamp"])
    (note,) = [line for line in trail.lines() if line["action"] == "journal.recover"]
    assert note["metadata"] == {"writer": dead, "last": 2, "missing": [], "torn": []}
    assert not (trail.folder / "writers" / dead).exists()


@pytest.mark.usefixtures("killed")
def test_it_is_done_once(trail):
    for _ in range(3):
        with Auditor(journal=trail.folder) as auditor:
            wait_for_recovery(auditor)
    assert sum(line["action"] == "journal.recover" for line in trail.lines()) == 1
    assert len(trail.outcomes()) == 2


def test_torn_pieces_and_missing_numbers_are_told(trail, tmp_path, fake):
    die(tmp_path, fake, "kill()")
    (first,) = trail.lines()
    torn = b'{"v":1,"id":"01a2'
    later = dict(first, n=3)
    del later["sum"]
    size = trail.path.stat().st_size
    with trail.path.open("ab") as file:
        file.write(torn + encode(later))
    with Auditor(journal=trail.folder) as auditor:
        wait_for_recovery(auditor)
    lines = [json.loads(b'{"v":' + part) for part in trail.path.read_bytes().split(b'{"v":')[3:]]
    (note,) = [line for line in lines if line["action"] == "journal.recover"]
    assert note["metadata"]["missing"] == [1, 2]
    (piece,) = note["metadata"]["torn"]
    assert (piece["file"], piece["offset"], piece["length"]) == ("audit.jsonl", size, len(torn))


@pytest.mark.usefixtures("killed")
@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_what_lies_in_a_compressed_file_is_closed_too(trail, how):
    sealing.seal(trail.folder, rotate_bytes=1)
    sealing.tidy(trail.folder, compress=how)
    (packed,) = trail.folder.glob("audit-*.jsonl.*")
    assert not trail.path.exists()
    with Auditor(journal=trail.folder, seal="off") as auditor:
        wait_for_recovery(auditor)
    assert trail.last()["result"] == "unknown"
    (note,) = [line for line in trail.lines() if line["action"] == "journal.recover"]
    assert (note["metadata"]["last"], note["metadata"]["missing"]) == (2, [])
    report = verify(trail.folder)
    assert report.files == (packed.name, "audit.jsonl")
    assert report.intact, report.findings


def test_the_living_are_left_alone(trail, client):
    living = Auditor(journal=trail.folder)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = bool(recovery.dead_writers(trail.folder, []))
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, "the parent's writer is alive to the child"
    living.close()


@pytest.mark.usefixtures("killed")
def test_many_at_once_close_each_intent_once(trail):
    code = "from klaviyo_audit import Auditor; a = Auditor(journal='trail'); a._recovery and a._recovery.join(); a.close()"
    programs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=trail.folder.parent) for _ in range(5)
    ]
    assert [program.wait(PATIENCE) for program in programs] == [0] * 5
    assert sum(line.get("result") == "unknown" for line in trail.lines()) == 1
    assert sum(line["action"] == "journal.recover" for line in trail.lines()) == 1


@pytest.mark.usefixtures("killed")
def test_what_the_journal_did_not_take_is_done_by_whoever_comes_next(trail, monkeypatch):
    class Failing:
        """A journal that does not take the first line."""

        def __init__(self, writer):
            self.directory, self._writer, self._failed = writer.directory, writer, False

        def append(self, members, *, linked=False):
            if not self._failed:
                self._failed = True
                return OSError("for once")
            return self._writer.append(members, linked=linked)

    monkeypatch.setattr(recovery, "dead_writers", lambda *_: [])
    auditor = Auditor(journal=trail.folder)
    monkeypatch.undo()
    own = [auditor._writer.id]
    recovery.recover(Failing(auditor._writer), own)
    assert not [one for one in trail.of("journal") if one["action"] == "journal.recover"]
    recovery.recover(auditor._writer, own)
    auditor.close()
    assert [one["result"] for one in trail.outcomes() if one["resource"] == "/api/lists/LIST1"] == [
        "unknown"
    ]
    assert [one["action"] for one in trail.of("journal")].count("journal.recover") == 1


HOSTILE = [
    ("gap", "journal.gap", {"writer": "d" * 16, "numbers": [[0, 10**17]]}),
    (
        "gap",
        "journal.gap",
        {"writer": "d" * 16, "numbers": [[10**17, 0], [1], "x", None, [1, "2"]]},
    ),
    ("gap", "journal.gap", {"writer": ["d"], "numbers": {"0": 1}, "torn": "torn"}),
    ("gap", "journal.gap", {"torn": [{"offset": [1]}, {"offset": 5, "file": {}}, 7, None]}),
    ("gap", "journal.gap", [1, 2]),
    ("journal", "journal.recover", {"writer": {}, "torn": [{"file": ["x"], "offset": 1}, {}, 3]}),
    ("journal", "journal.recover", "x"),
    ("journal", "journal.close", None),
    ("outcome", "test", None),
    ("intent", "test", 5),
]


@pytest.mark.parametrize(("phase", "action", "metadata"), HOSTILE)
@pytest.mark.parametrize("number", [1, 10**17])
def test_lines_that_somebody_put_there_hold_up_no_program(
    tmp_path, phase, action, metadata, number
):
    """Of a dead writer: a number without end, and facts of other types, in lines that hold."""
    folder = tmp_path / "trail"
    sealing.write(folder, 2)
    members = {**sealing.entry(1), "writer": "d" * 16, "phase": phase, "action": action}
    lines = [
        {**sealing.entry(0), "writer": "d" * 16, "n": 0},
        {**members, "n": number, "metadata": metadata},
    ]
    sealing.append(folder, b"".join(map(encode, lines)))
    (folder / "writers" / ("d" * 16)).touch(mode=0o600)
    with Auditor(journal=folder, seal="off", sinks=()) as auditor:
        wait_for_recovery(auditor)
        assert not auditor._recovery.is_alive()
        auditor.resolve()
    told = [
        line["metadata"]
        for line in map(json.loads, (folder / "audit.jsonl").read_bytes().splitlines())
        if line["action"] == "journal.recover" and line["writer"] != "d" * 16
    ]
    assert [(facts["writer"], facts["last"]) for facts in told] == [("d" * 16, number)]
    assert len(told[0]["missing"]) <= 1000
    assert not (folder / "writers" / ("d" * 16)).exists()
