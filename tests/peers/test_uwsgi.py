"""uWSGI, which forks past Python's hooks and ends past Python's exit.

A program is loaded by the master and forked (no lazy-apps), as uWSGI does by default.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.peers.processes import running
from tests.ports import free_port
from tests.waiting import PATIENCE

APPLICATION = """
import os

from klaviyo_audit import Auditor

auditor = Auditor(journal=os.environ["TRAIL"], sinks=["stdout"], service="shop")
auditor.record("loaded")


def application(environ, start_response):
    auditor.record("called", metadata={"pid": os.getpid()})
    flushed = environ["PATH_INFO"] == "/flush" and auditor.flush(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {flushed}".encode()]
"""


@contextmanager
def serving(needed, folder, *options):
    program = Path(sys.executable).with_name("uwsgi")
    needed(program)
    (folder / "app.py").write_text(APPLICATION)
    os.environ["TRAIL"] = str(folder / "trail")
    os.environ["KLAVIYO_AUDIT_PSEUDONYM_KEY"] = "00" * 32
    port = free_port()
    command = [str(program), "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "3"]
    command += ["--wsgi-file", str(folder / "app.py"), "--die-on-term", "--need-app", *options]
    try:
        with running(command, [port], folder / "uwsgi.txt") as process:
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
    finally:
        del os.environ["TRAIL"], os.environ["KLAVIYO_AUDIT_PSEUDONYM_KEY"]


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read().decode()


def wait_for(file, words, count, seconds=PATIENCE):
    until = time.monotonic() + seconds
    while (found := file.read_text().count(words)) < count and time.monotonic() < until:
        time.sleep(0.1)
    return found >= count


@pytest.mark.parametrize(
    "options",
    [(), ("--enable-threads",), ("--enable-threads", "--lazy-apps"), ("--threads", "2")],
    ids=["no threads", "threads", "lazy", "threaded"],
)
def test_workers_record_deliver_and_say_goodbye(needed, tmp_path, trail, options):
    with serving(needed, tmp_path, *options) as url:
        answers = [get(url) for _ in range(12)]
        if options:
            shipped = wait_for(tmp_path / "uwsgi.txt", '"action":"called"', len(answers))
            assert shipped, "threads of the workers ship, without being asked to"
        flushed = get(f"{url}/flush")
        # The answer is there before the worker is done with the request, and uWSGI runs no exit
        # functions in a worker that it ends in the middle of one.
        assert wait_for(tmp_path / "uwsgi.txt", "GET /flush => generated", 1)
    lines = trail.lines()
    calls = [line for line in lines if line["action"] == "called"]
    assert len(calls) == len(answers) + 1
    assert flushed.endswith(" True")
    assert all(line["origin"]["pid"] == line["metadata"]["pid"] for line in calls)

    # The last two groups of digits are random. Workers that go on from the same state share them.
    assert len({line["id"][19:] for line in lines}) == len(lines)

    writers = defaultdict(list)
    for line in lines:
        writers[line["writer"]].append(line)
    for written in writers.values():
        assert len({line["origin"]["pid"] for line in written}) == 1, (
            "a fork is a writer of its own"
        )
        assert [line["n"] for line in written] == list(range(len(written)))
    said = (tmp_path / "uwsgi.txt").read_text()
    goodbyes = {line["writer"] for line in lines if line["action"] == "journal.close"}
    assert {line["writer"] for line in calls} <= goodbyes, said
    assert "panicked" not in said
    assert "Traceback" not in said

    delivered = [json.loads(line) for line in said.splitlines() if line.startswith('{"v":1')]
    ids = [line["id"] for line in delivered]
    assert {line["id"] for line in calls} <= set(ids)
    assert len(set(ids)) == len(ids)
    assert said.count("uWSGI runs this program without threads") == (0 if options else 1), said
