"""The recipes of docs/webhooks.md as real programs on real servers."""

import http.client
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.deliveries import SECRET, WEBHOOK_ID, delivery
from tests.peers.processes import running
from tests.ports import free_port
from tests.waiting import PATIENCE

APPS = Path(__file__).parent / "webhook_apps"
UVICORN = ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log"]
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--no-control-socket"]
SERVERS = {
    "fastapi-uvicorn": [*UVICORN, "fastapi_app:app"],
    "flask-gunicorn": [*GUNICORN, "flask_app:app"],
    "django-gunicorn": [*GUNICORN, "django_app:app"],
    "django-uvicorn": [*UVICORN, "--lifespan", "off", "django_app:asgi_app"],
}


class Server:
    def __init__(self, port, trail):
        self.port = port
        self.trail = trail

    def post(self, body, headers, path="/klaviyo", method="POST"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def raw(self, data, *, half_close=False):
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)

    def entries(self):
        return [line for line in self.trail.of("event") if line["action"] == "klaviyo.webhook"]


@pytest.fixture(params=SERVERS)
def server(request, trail, tmp_path):
    port = free_port()
    module, *arguments = [part.format(port=port) for part in SERVERS[request.param]]
    environ = {
        **os.environ,
        "SECRETS": f"{SECRET},another-secret-of-ours",
        "REPLAYS": str(tmp_path / "replays.sqlite"),
        "KLAVIYO_AUDIT_DIR": str(trail.folder),
        "KLAVIYO_AUDIT_SERVICE": "receiver",
        "PYTHONPATH": f"{APPS}{os.pathsep}{Path(__file__).parents[2]}",
    }
    command = [sys.executable, "-m", module, *arguments]
    with running(command, [port], tmp_path / "server.log", env=environ, cwd=tmp_path):
        yield Server(port, trail)


def test_a_server_takes_what_klaviyo_signed_and_nothing_else(server):
    body, headers = delivery()
    status, answer = server.post(body, headers)
    assert status == 200
    assert json.loads(answer)["events"] == 2
    assert json.loads(answer)["bytes"] == len(body)

    # Replays: whichever worker they come to.
    replayed = {server.post(body, headers) for _ in range(12)}
    # Every refusal looks the same.
    other_body, _ = delivery(7)
    forged = {
        server.post(other_body, headers),
        server.post(body, {}),
        server.post(b"", {}),
        server.post(b"x" * 100_001, headers),
        server.post(*delivery(8, secret="nobody knows this secret")),
        server.post(*delivery(9, at=time.time() - 400)),
        server.post(body, {**headers, "Klaviyo-Webhook-Id": "other"}),
        server.post(b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}),
        server.post(b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}),
        server.post(b"", {}, method="GET"),
    }
    assert replayed == forged == {(401, b"refused\n")}

    # Neither its content type nor another secret hinders a good one.
    for number, kind in enumerate(
        [
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain",
            "\xff",
        ]
    ):
        body, headers = delivery(number + 20)
        assert server.post(body, {**headers, "Content-Type": kind})[0] == 200
    assert server.post(*delivery(30, secret="another-secret-of-ours"))[0] == 200
    # Other paths are the program's own business.
    assert server.post(b"anything", {}, "/other") == (200, b"anything")

    entries = server.entries()
    accepted = [entry for entry in entries if entry["metadata"]["verdict"] == "accepted"]
    first = accepted[0]
    assert (first["result"], first["user_id"]) == ("success", "klaviyo")
    assert first["resource"] == f"webhook:{WEBHOOK_ID}"
    assert first["origin"]["service"] == "receiver"
    assert first["metadata"]["topics"] == {"event:klaviyo.sent_sms": 2}
    assert first["metadata"]["external_ids"] == ["event-0-0", "event-0-1"]
    assert first["metadata"]["account_id"] == "AbC123"
    assert len({entry["metadata"]["signed_by"] for entry in accepted}) == 2
    refused = [entry for entry in entries if entry["metadata"]["verdict"] == "refused"]
    assert {entry["result"] for entry in refused} == {"denied"}
    reasons = [entry["metadata"]["reason"] for entry in refused]
    assert len(accepted) == 6
    assert reasons.count("replayed") == 12
    assert {"wrong_signature", "missing_header", "too_large", "too_old", "wrong_webhook_id"} < set(
        reasons
    )
    assert len(refused) == 12 + 10


def test_a_streamed_body_and_its_limit(server):
    body, headers = delivery()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"POST /klaviyo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}".encode()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    good = server.raw(start + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
    assert b" 200 " in good.splitlines()[0]
    endless = b"ffff\r\n" + b"x" * 65535 + b"\r\n"
    refused = server.raw(start + b"Transfer-Encoding: chunked\r\n\r\n" + endless * 2 + b"0\r\n\r\n")
    assert b" 401 " in refused.splitlines()[0]


def test_a_header_that_comes_twice(server):
    body, headers = delivery()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    for extra in ("Klaviyo-Signature", "klaviyo-timestamp", "KLAVIYO-WEBHOOK-ID"):
        request = (
            f"POST /klaviyo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}"
            f"{extra}: x\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        assert b" 401 " in server.raw(request).splitlines()[0]
    assert [entry["metadata"]["verdict"] for entry in server.entries()] == ["refused"] * 3


def test_a_sender_that_goes_away_in_the_middle(server):
    body, headers = delivery()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /klaviyo HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    server.raw(request.encode() + body[:50], half_close=True)
    # It was not taken for delivered.
    assert server.post(body, headers)[0] == 200


def test_a_delivery_that_the_program_failed_on_may_come_again(server):
    body, headers = delivery(body=delivery()[0].replace(b"event-0-1", b"break this"))
    assert server.post(body, headers)[0] == 500
    assert server.post(body, headers)[0] == 500
    assert {entry["metadata"]["verdict"] for entry in server.entries()} == {"accepted"}


def test_other_spellings_of_the_path_do_not_get_around(server):
    for path in ("/klaviyo/", "//klaviyo", "/./klaviyo", "/%6Blaviyo", "/KLAVIYO", "/klaviyo?x=1"):
        assert server.post(b"{}", {}, path)[0] in {401, 404, 301, 307, 308}
