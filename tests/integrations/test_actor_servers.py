"""100 users at once through real servers: every entry has its own."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import planted
from tests.journal.checking import verify
from tests.waiting import PATIENCE

APPS = Path(__file__).parent / "actor_apps"
USERS = 100
KINDS = ("plain", "async", "streamed")
GUNICORN = ["gunicorn", "-b", "127.0.0.1:0", "-k", "gthread"]
UVICORN = ["uvicorn", "--port", "0"]
READY = r"(?:Listening at: |Uvicorn running on )http://127.0.0.1:(\d+)"


@pytest.fixture
def trail(tmp_path, trail):
    trail.folder = tmp_path / "klaviyo-audit"
    trail.path = trail.folder / "audit.jsonl"
    return trail


@pytest.fixture
def environ(fake):
    return {**os.environ, "FAKE": fake.url, "KEY": planted.API_KEY, "PYTHONPATH": str(APPS)}


@contextlib.contextmanager
def served(environ, tmp_path, *program):
    """The port of a program that serves."""
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *program], stdout=sink, stderr=sink, env=environ, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(READY, log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    assert "Traceback" not in log.read_text(), log.read_text()


def ask(port, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, path
        return answer
    finally:
        connection.close()


def check(trail, kinds=KINDS):
    """Every call is there once, with the user who asked for it."""
    found = sorted((line["resource"], line["user_id"]) for line in trail.outcomes())
    assert found == sorted(
        (f"/api/lists/L{kind}{number}", f"u{number}") for kind in kinds for number in range(USERS)
    )
    assert verify(trail.folder).intact


@pytest.mark.parametrize(
    "program",
    [
        [*GUNICORN, "--threads", "25", "-w", "2", "flask_app:app"],
        [*UVICORN, "fastapi_app:app"],
    ],
    ids=["flask-gunicorn", "fastapi-uvicorn"],
)
def test_100_users_at_once(environ, tmp_path, trail, program):
    with served(environ, tmp_path, *program) as port, ThreadPoolExecutor(USERS) as pool:

        def as_user(task):
            kind, number = task
            # What a client says of itself is not believed.
            headers = {"Authorization": f"User u{number}", "X-Forwarded-User": "admin"}
            return ask(port, f"/{kind}/{kind}{number}", headers)

        list(pool.map(as_user, [(kind, number) for number in range(USERS) for kind in KINDS]))
    check(trail)


@pytest.mark.parametrize(
    "program",
    [
        [*GUNICORN, "--threads", "25", "-w", "2", "django_app:wsgi"],
        [*UVICORN, "django_app:asgi"],
    ],
    ids=["gunicorn", "uvicorn"],
)
def test_django(environ, tmp_path, trail, program):
    made = subprocess.run(
        [sys.executable, APPS / "django_app.py"],
        env=environ,
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    kinds = ("plain", "async", "streamed", "asyncstreamed")
    with served(environ, tmp_path, *program) as port, ThreadPoolExecutor(20) as pool:
        # One after the other: SQLite takes one writer at a time.
        cookies = [ask(port, f"/login/u{n}").getheader("Set-Cookie") for n in range(USERS)]

        def as_user(number):
            headers = {"Cookie": cookies[number].partition(";")[0]}
            for kind in kinds:
                answer = ask(port, f"/{kind}/{kind}{number}", headers)
                assert answer.getheader("Vary") is None, "the audit made the page uncacheable"

        list(pool.map(as_user, range(USERS)))
        assert ask(port, "/untouched").getheader("Vary") is None
        ask(port, "/plain/nobody")
    entries = trail.outcomes()
    (nobody,) = [line for line in entries if line["resource"] == "/api/lists/Lnobody"]
    assert nobody["user_id"] == "anonymous"
    trail.outcomes = lambda: [line for line in entries if line is not nobody]
    check(trail, kinds)
    assert {line["actor"]["ip"] for line in entries} == {"127.0.0.1"}
    assert len({line["metadata"]["session"] for line in entries if line is not nobody}) == USERS
    assert {line["origin"]["service"] for line in entries} == {"shop"}
