"""FakeKlaviyo as a process of its own."""

import json
import signal
import subprocess
import sys
import time

import pytest
import urllib3

from klaviyo_audit.testing import FakeKlaviyo
from tests.ports import free_port
from tests.waiting import PATIENCE, wait_for

LIST = b'{"data":{"type":"list","attributes":{"name":"Newsletter"}}}'


@pytest.fixture
def spawn():
    running = []

    def start(*options):
        command = [sys.executable, "-m", "klaviyo_audit.testing.fake_klaviyo", *options]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        return process, json.loads(process.stdout.readline())["url"]

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def pool():
    with urllib3.PoolManager() as pool:
        yield pool


def test_it_serves_until_its_input_is_closed(spawn, pool):
    process, url = spawn()
    answer = pool.request("GET", url + "/api/profiles/01H")
    assert answer.json()["data"]["id"] == "01H"
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_it_ends_on_sigterm(spawn, pool):
    process, url = spawn()
    pool.request("GET", url + "/api/profiles/01H")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=PATIENCE)
    assert (process.returncode, process.stderr.read()) == (0, b"")


def test_port_and_strictness(spawn, pool):
    port = str(free_port())
    _, url = spawn("--port", port, "--strict")
    assert url.endswith(":" + port)
    assert pool.request("GET", url + "/api/profiles/01H").status == 404


def test_requests_log(spawn, pool, tmp_path):
    log = tmp_path / "requests.jsonl"
    log.write_bytes(b'{"earlier": true}\n')
    began = time.time()
    process, url = spawn("--requests-log", str(log))
    pool.request("POST", url + "/api/lists?secret=1", body=LIST)
    pool.request("GET", url + "/nowhere")
    process.kill()
    earlier, *lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert earlier == {"earlier": True}, "it appends"
    assert [(line["method"], line["path"]) for line in lines] == [
        ("POST", "/api/lists"),
        ("GET", "/nowhere"),
    ]
    assert all(set(line) == {"method", "path", "at"} for line in lines)
    assert all(began <= line["at"] <= time.time() for line in lines)


def test_a_request_is_logged_before_it_is_answered(pool, tmp_path):
    log = tmp_path / "requests.jsonl"
    with FakeKlaviyo(requests_log=log) as fake:
        fake.fail(None, delay=3600.0)
        patience = urllib3.Timeout(connect=60, read=0.2)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            pool.request(
                "POST", fake.url + "/api/lists", body=LIST, timeout=patience, retries=False
            )
        wait_for(log.read_bytes)
        assert json.loads(log.read_bytes())["method"] == "POST"
