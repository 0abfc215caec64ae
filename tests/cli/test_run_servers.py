"""``klaviyo-audit run`` with the servers that Python programs really run under."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests import planted
from tests.cli.test_run import command
from tests.journal.checking import verify
from tests.waiting import PATIENCE

APPS = Path(__file__).parent / "apps"
CALLS = 200
USERS = 100


@pytest.fixture
def trail(tmp_path, trail):
    trail.folder = tmp_path / "klaviyo-audit"
    trail.path = trail.folder / "audit.jsonl"
    return trail


@contextlib.contextmanager
def served(fake, tmp_path, *program, ready):
    """A program under ``klaviyo-audit run``; gives what it printed until it was ready."""
    import os

    log = tmp_path / "log"
    environ = {**os.environ, "FAKE": fake.url, "KEY": planted.API_KEY, "PYTHONPATH": str(APPS)}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command(*program), stdout=sink, stderr=sink, env=environ, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(ready, log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process, found, log
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def ask(port, number):
    user = f"u{number % USERS}"
    with urlopen(f"http://127.0.0.1:{port}/{user}/{number}", timeout=PATIENCE) as answer:
        return answer.read()


def check(trail, log, count, processes=None):
    """Every call is there once, with its own actor."""
    outcomes = trail.outcomes()
    assert sorted((line["resource"], line["user_id"]) for line in outcomes) == sorted(
        (f"/api/lists/L{number}", f"u{number % USERS}") for number in range(count)
    )
    report = verify(trail.folder)
    assert report.intact, report.findings
    if processes is not None:
        assert len({line["origin"]["pid"] for line in outcomes}) == processes
    assert f"{count} calls recorded ({count} success)" in log.read_text()


@pytest.mark.parametrize(
    "options",
    [
        ["-w", "4"],
        ["-w", "4", "--preload"],
        ["-w", "2", "-k", "gthread", "--threads", "8"],
        ["-w", "4", "--max-requests", "20"],
    ],
    ids=["prefork", "preload", "threads", "recycled"],
)
def test_gunicorn(fake, tmp_path, trail, options):
    program = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", *options, "wsgi_app:app"]
    ready = r"Listening at: http://127.0.0.1:(\d+)"
    with served(fake, tmp_path, *program, ready=ready) as (process, found, log):
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: ask(found[1], number), range(CALLS)))
        assert all(json.loads(answer)["ok"] for answer in answers)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    check(trail, log, CALLS)


def test_uvicorn(fake, tmp_path, trail):
    program = [sys.executable, "-m", "uvicorn", "--port", "0", "asgi_app:app"]
    ready = r"Uvicorn running on http://127.0.0.1:(\d+)"
    with served(fake, tmp_path, *program, ready=ready) as (process, found, log):
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: ask(found[1], number), range(CALLS)))
        process.send_signal(signal.SIGTERM)
        # It ends of the signal that it was sent, as a program should.
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM), log.read_text()
    check(trail, log, CALLS, processes=1)


def test_celery_with_a_new_process_for_each_task(fake, tmp_path, trail, broker_url, monkeypatch):
    monkeypatch.setenv("BROKER", broker_url)
    tasks = 6
    program = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-P", "prefork"]
    program += ["-c", "2", "--max-tasks-per-child", "1", "-l", "INFO", "--without-mingle"]
    program += ["--without-gossip", "--without-heartbeat"]
    with served(fake, tmp_path, *program, ready=r"celery@\S+ ready") as (process, _, log):
        sent = subprocess.run(
            [sys.executable, APPS / "celery_app.py", str(tasks)], cwd=tmp_path, check=False
        )
        assert sent.returncode == 0
        deadline = time.monotonic() + PATIENCE
        while len(trail.outcomes()) < tasks and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    check(trail, log, tasks, processes=tasks)
