"""resolve --check: what a second look at Klaviyo shows of a call whose outcome is unknown."""

import json

import pytest

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
