"""resolve --check: what a second look at Klaviyo shows of a call whose outcome is unknown."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from klaviyo_audit.analysis.unknowns import look_for_evidence, unknown_outcomes
from klaviyo_audit.journal.format import encode
from klaviyo_audit.klaviyo import evidence, keys
from tests import planted


def intent(
    method="DELETE",
    path="/api/lists/{id}",
    resource="/api/lists/L1",
    at="2026-01-01T00:00:00.000000Z",
):
    return {"call": {"method": method, "path": path}, "resource": resource, "timestamp": at}


@pytest.mark.parametrize(
    ("given", "readable"),
    [
        (intent(), True),
        (intent("PATCH", "/api/profiles/{id}", "/api/profiles/01H"), True),
        (intent("POST", "/api/lists", "/api/lists"), False),
        (intent("DELETE", "/api/lists/{id}/relationships/profiles"), False),
        (intent(resource="/api/lists/[masked:20]"), False),
        ({"action": "loyalty.enrol", "timestamp": "x"}, False),
    ],
)
def test_which_calls_have_a_reader(given, readable):
    assert evidence.has_reader(given) is readable


@pytest.mark.parametrize(
    "resource",
    [
        "@{other}/api/lists/L1",
        ".{other}/api/lists/L1",
        "//{other}/api/lists/L1",
        "\\@{other}/api/lists/L1",
        "x@{other}/api/lists/L1",
        "http://{other}/api/lists/L1",
        "/api/lists/L1/relationships/profiles",
        "/api/lists/../profiles",
        "/api/lists/%2e%2e%2fprofiles",
        "/api/lists/",
        "/api/profiles/L1",
        "",
        None,
        5,
        ["/api/lists/L1"],
    ],
)
def test_a_line_that_somebody_put_there_sends_the_key_nowhere_else(
    client, auditor, fake, httpserver_elsewhere, resource
):
    """Whoever can write to the journal can write what `resolve --check` reads there."""
    other, heard = httpserver_elsewhere
    if isinstance(resource, str):
        resource = resource.format(other=other)
    forged = {**intent(resource=resource), "id": "x"}
    assert not evidence.has_reader(forged)
    before = fake.count
    assert list(look_for_evidence(auditor, client.api_client, [forged])) == [(forged, None)]
    assert heard == []
    assert fake.count == before


@pytest.fixture
def httpserver_elsewhere():
    """Another server: its host and port, and the paths it was asked for."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "members",
    [
        {"call": "DELETE"},
        {"call": ["DELETE"]},
        {"call": {"method": 5, "path": "/api/lists/{id}"}},
        {"call": {"method": ["DELETE"], "path": "/api/lists/{id}"}},
        {"call": {"method": "DELETE", "path": 7}},
        {"call": {"method": "DELETE", "path": "/api/lists/{id}", "x": []}, "metadata": []},
        {"call": {"method": "DELETE", "path": "/api/lists/{id}"}, "metadata": {"resolved": 1}},
        {"metadata": "x", "action": "klaviyo_audit.evidence", "phase": "event"},
        {"metadata": {"of": ["x"]}, "action": "klaviyo_audit.evidence", "phase": "event"},
    ],
)
def test_lines_with_members_of_other_types(client, auditor, tmp_path, members):
    line = {
        "v": 1,
        "id": "x",
        "writer": "0" * 16,
        "n": 0,
        "timestamp": "2026",
        "phase": "outcome",
        "action": "a",
        "user_id": "u",
        "resource": "/api/lists/L1",
        "result": "unknown",
    }
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "audit.jsonl").write_bytes(encode({**line, **members}))
    unknown = unknown_outcomes(tmp_path / "odd")
    assert len(list(look_for_evidence(auditor, client.api_client, unknown))) == len(unknown)


def make_list(client):
    body = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}
    return client.Lists.create_list(body).data.id


def test_gone_and_exists(client, fake):
    name = make_list(client)
    still = evidence.look(client.api_client, intent(resource=f"/api/lists/{name}"))
    assert (still["status"], still["finding"]) == (200, "exists")
    assert still["changed_since"] is True, "made after the intent's time"
    client.Lists.delete_list(name)
    gone = evidence.look(client.api_client, intent(resource=f"/api/lists/{name}"))
    assert (gone["status"], gone["finding"]) == (404, "gone")


def test_the_key_goes_along(client, fake):
    evidence.look(client.api_client, intent())
    assert fake.requests[-1].headers["authorization"].endswith(planted.API_KEY)
    assert fake.requests[-1].headers["revision"]


@pytest.mark.parametrize(
    "failure",
    [{"status": 403}, {"status": 500}, {"reset": True, "status": None}],
)
def test_what_cannot_be_read_is_no_evidence(client, fake, failure):
    fake.fail(failure.pop("status"), times=None, **failure)
    assert evidence.look(client.api_client, intent())["finding"] == "unreadable"


@pytest.mark.parametrize("body", [b"", b"no json", b'{"data":5}', b'{"data":{"attributes":[]}}'])
def test_odd_answers(client, fake, body):
    fake.fail(200, body=body)
    assert evidence.look(client.api_client, intent())["finding"] == "exists"


def test_a_key_in_two_variables_is_called_by_the_first_name(monkeypatch):
    """Not by the one that happens to be first in the process: the guard's rules ask for it."""
    key = "pk_" + "d7" * 17
    for name in ("ZZZ_KEY", "AAA_KEY", "MMM_KEY"):
        monkeypatch.setenv(name, key)
    named = keys.key_of({"Authorization": f"Klaviyo-API-Key {key}"}, "/api/lists")
    assert json.loads(named)["label"] == "AAA_KEY"
