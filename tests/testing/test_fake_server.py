"""The HTTP server under FakeKlaviyo: what comes off the wire, and what is left after it."""

import os
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.testing import FakeKlaviyo
from tests.ports import free_port
from tests.waiting import PATIENCE

GET = b"GET /api/profiles/01H HTTP/1.1\r\nHost: x\r\n"
LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


@pytest.fixture
def fake():
    with FakeKlaviyo() as server:
        yield server


@pytest.fixture(scope="module")
def shared():
    with FakeKlaviyo() as server:
        yield server


def connect(fake):
    port = int(fake.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def exchange(fake, sent):
    """Send bytes, end the sending side, and give all that comes back."""
    with connect(fake) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection):
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def own_threads():
    return {each for each in threading.enumerate() if each.name.startswith("fake-klaviyo")}


def connections_of(fake):
    name = f"fake-klaviyo:{fake.url.rsplit(':', 1)[1]}:connection"
    return [each for each in own_threads() if each.name == name]


# In a process of its own: what other tests have running opens and closes descriptors of theirs meanwhile.
COMES_AND_GOES = """
import contextlib, gc, os, pathlib, socket, sys, threading, urllib3, warnings
from klaviyo_audit.testing import FakeKlaviyo

def left():
    gc.collect()
    found = set()
    for each in list(pathlib.Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the listing's own is gone again
            found.add((each.name, os.readlink(each)))
    return found | {each.name for each in threading.enumerate()}

def use(leave):
    with FakeKlaviyo() as fake:
        idle = socket.create_connection(("127.0.0.1", int(fake.url.rsplit(":", 1)[1])), timeout=60)
        with urllib3.PoolManager(num_pools=4, maxsize=4) as pool:
            for _ in range(3):
                pool.request("GET", fake.url + "/api/accounts")
        assert sum(each.name.startswith("fake-klaviyo") for each in threading.enumerate()) > 1
    leave(idle)

warnings.simplefilter("error")
use(socket.socket.close)  # what is made once and kept
before, kept = left(), []
use(kept.append if "keep" in sys.argv else socket.socket.close)
print(*left() ^ before)
for each in kept:
    each.close()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc/self/fd")
def test_nothing_is_left_after_close():
    assert run_and_tell_what_is_left() == ""
    assert "socket:" in run_and_tell_what_is_left("keep")


def run_and_tell_what_is_left(*arguments):
    command = [sys.executable, "-c", COMES_AND_GOES, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.strip()


def test_close_ends_a_connection_that_is_kept_open():
    fake = FakeKlaviyo().start()
    with connect(fake) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        fake.close()
        assert connection.recv(65536) == b""


def test_start_and_close_can_be_repeated():
    fake = FakeKlaviyo()
    fake.close()
    assert fake.start() is fake
    url = fake.url
    assert fake.start().url == url
    fake.client().Lists.create_list(LIST)
    fake.close()
    fake.close()
    with fake:
        (kept,) = fake.client().Lists.get_lists().data
        assert kept.attributes.name == "Newsletter"


def test_no_url_before_the_start():
    with pytest.raises(RuntimeError, match="start"):
        _ = FakeKlaviyo().url


def test_port_of_ones_choice():
    port = free_port()
    with FakeKlaviyo(port=port) as other:
        assert other.url.endswith(f":{port}")
        with pytest.raises(OSError, match="in use"):
            FakeKlaviyo(port=port).start()


def test_a_log_that_cannot_be_opened(tmp_path):
    before = own_threads()
    with pytest.raises(FileNotFoundError):
        FakeKlaviyo(requests_log=tmp_path / "missing" / "log").start()
    assert own_threads() <= before


def test_connection_is_kept_and_answers_in_order(fake):
    answers = exchange(fake, 3 * (GET + b"\r\n"))
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert fake.count == 3


def test_sdk_uses_one_connection(fake):
    profiles = fake.client().Profiles
    for _ in range(5):
        profiles.get_profile("01H")
    assert len(connections_of(fake)) == 1


@pytest.mark.parametrize(
    "head", [GET + b"Connection: close\r\n", GET.replace(b"HTTP/1.1", b"HTTP/1.0")]
)
def test_connection_is_closed_if_wished(fake, head):
    with connect(fake) as connection:
        connection.sendall(head + b"\r\n")
        assert b"\r\nConnection: close\r\n" in read_all(connection)


def test_body_in_pieces_and_requests_behind_it(fake):
    body = b'{"data":{"type":"list","attributes":{"name":"slow"}}}'
    head = b"POST /api/lists HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    whole = head + body + GET + b"\r\n"
    with connect(fake) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(0, len(whole), 7):
            connection.sendall(whole[place : place + 7])
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 201 Created\r\n") == 1
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert fake.requests[0].body == body


def test_what_was_received_is_kept_as_it_came(fake):
    sent = (
        b"GET /api/profiles/a%2Fb/?filter=equals(email,%22x%22)&a=?b HTTP/1.1\r\n"
        b"X-Twice: 1\r\nx-twice:2\r\nRevision: 2026-10-15\r\n\r\n"
    )
    exchange(fake, sent)
    (request,) = fake.requests
    assert (request.method, request.path) == ("GET", "/api/profiles/a%2Fb/")
    assert request.query == "filter=equals(email,%22x%22)&a=?b"
    assert request.headers == {"x-twice": "1, 2", "revision": "2026-10-15"}
    assert (request.body, request.status) == (b"", 200)


def test_only_the_latest_requests_are_kept():
    with FakeKlaviyo(keep=3) as fake:
        exchange(fake, b"".join(b"GET /api/lists/%d HTTP/1.1\r\n\r\n" % n for n in range(5)))
        assert [each.path for each in fake.requests] == [f"/api/lists/{n}" for n in (2, 3, 4)]
        assert fake.count == 5
        fake.clear()
        assert (fake.requests, fake.count) == ([], 0)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (GET + b"no colon here\r\n\r\n", 400),
        (GET + b"Content-Length: -1\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n", 411),
        (GET + b"X: " + b"x" * 70_000, 431),
        (b"GET /api/nothing HTTP/1.1\r\n\r\n", 404),
        (b"PUT /api/profiles HTTP/1.1\r\n\r\n", 405),
    ],
)
def test_what_cannot_be_answered_is_refused(fake, sent, status):
    assert exchange(fake, sent).startswith(b"HTTP/1.1 %d " % status)


def test_head_has_no_body(fake):
    answer = exchange(fake, b"HEAD /api/profiles HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_204_has_no_length(fake):
    answer = exchange(fake, b"DELETE /api/lists/L HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"Content-Length" not in answer
    assert b"Content-Type" not in answer


@given(st.binary(max_size=300) | st.builds(lambda end: GET + end, st.binary(max_size=100)))
@settings(max_examples=60)
def test_no_bytes_break_it(shared, sent):
    exchange(shared, sent)
    assert exchange(shared, GET + b"\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_clients_that_disappear(fake):
    body = b'{"data":{"type":"list","attributes":{"name":"n"}}}'
    head = b"POST /api/lists HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    for sent in (b"", b"GET /ap", head, head + body[:10], head + body):
        connection = connect(fake)
        connection.sendall(sent)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert fake.client().Profiles.get_profile("01H").data.id == "01H"


def test_reset_is_a_reset(fake):
    fake.fail(None, reset=True)
    with connect(fake) as connection:
        connection.sendall(GET + b"\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(65536)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_server_alone(fake):
    client = fake.client()
    client.Profiles.get_profile("before")
    before = connections_of(fake)
    assert exit_of(forked(fake.close)) == 0
    client.Profiles.get_profile("after")
    assert connections_of(fake) == before, "it was not cut off"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_keeps_no_connection_open(fake):
    held, hold = os.pipe()
    with connect(fake) as connection:
        connection.sendall(GET + b"\r\n")
        connection.recv(65536)
        child = forked(lambda: os.close(hold) or os.read(held, 1))
        connection.sendall(GET + b"Connection: close\r\n\r\n")
        assert b"Connection: close" in read_all(connection)
    os.close(hold)
    os.close(held)
    assert exit_of(child) == 0


def forked(function):
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads, which is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def exit_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_program_that_forgets_to_close_ends_quietly():
    code = (
        "import urllib3\n"
        "from klaviyo_audit.testing import FakeKlaviyo\n"
        "fake = FakeKlaviyo().start()\n"
        "with urllib3.PoolManager() as pool:\n"
        "    assert pool.request('GET', fake.url + '/api/accounts').status == 200\n"
    )
    command = [sys.executable, "-W", "default::ResourceWarning", "-X", "dev", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr
    assert "Traceback" not in done.stderr
