"""Keys and scopes of a FakeKlaviyo."""

import json

import pytest
import urllib3
from openapi_client.exceptions import ApiException

from klaviyo_audit.testing import FakeKlaviyo
from klaviyo_audit.testing.routes import sdk_routes

READ = "pk_test_read"
ALL = "pk_test_all"
KEYS = {READ: {"profiles:read", "lists:write"}, ALL: None}
IMPORT = {
    "data": {
        "type": "profile-bulk-import-job",
        "attributes": {
            "profiles": {"data": [{"type": "profile", "attributes": {"email": "a@b.co"}}]}
        },
    }
}


@pytest.fixture
def fake():
    with FakeKlaviyo(keys=KEYS) as server:
        yield server


def refused(call, *args, **kwargs):
    with pytest.raises(ApiException) as raised:
        call(*args, **kwargs)
    (error,) = json.loads(raised.value.body)["errors"]
    assert error["status"] == raised.value.status
    return raised.value.status, error["code"], error["detail"]


def test_any_key_by_default():
    with FakeKlaviyo() as fake:
        fake.client("whatever").Profiles.get_profile("01H")
        fake.client().Profiles.get_profile("01H")


def test_scopes(fake):
    client = fake.client(READ)
    client.Profiles.get_profile("01H")
    status, code, detail = refused(client.Lists.get_lists)
    assert (status, code) == (403, "permission_denied")
    assert "lists:read" in detail


def test_all_of_several_scopes_are_needed(fake):
    status, _, detail = refused(fake.client(READ).Profiles.bulk_import_profiles, IMPORT)
    assert status == 403
    assert "profiles:write" in detail
    assert "lists:write" not in detail
    fake.client(ALL).Profiles.bulk_import_profiles(IMPORT)


def test_what_is_refused_is_not_done(fake):
    body = {"data": {"type": "profile", "attributes": {"email": "a@b.co"}}}
    refused(fake.client(READ).Profiles.create_profile, body)
    assert fake.client(ALL).Profiles.get_profiles().data == []


def test_unknown_key(fake):
    status, code, detail = refused(fake.client("pk_test_other").Profiles.get_profile, "01H")
    assert (status, code) == (401, "authentication_failed")
    assert "pk_test_other" not in detail


def test_no_key(fake):
    with urllib3.PoolManager() as pool:
        for headers in ({}, {"Authorization": ALL}, {"Authorization": f"Basic {ALL}"}):
            answer = pool.request("GET", fake.url + "/api/accounts", headers=headers)
            assert answer.status == 401
            assert answer.json()["errors"][0]["code"] == "not_authenticated"


def test_bearer(fake):
    fake.client(None, access_token=ALL).Profiles.get_profile("01H")
    assert fake.requests[-1].headers["authorization"] == f"Bearer {ALL}"
    status, _, _ = refused(fake.client(None, access_token=READ).Lists.get_lists)
    assert status == 403


def test_disabled_key(fake):
    client = fake.client(ALL)
    fake.disable_key(ALL)
    assert refused(client.Profiles.get_profile, "01H")[0] == 401
    fake.client(READ).Profiles.get_profile("01H")
    fake.enable_key(ALL)
    client.Profiles.get_profile("01H")


def test_disabled_key_where_any_other_is_taken():
    with FakeKlaviyo() as fake:
        fake.disable_key("leaked")
        assert refused(fake.client("leaked").Profiles.get_profile, "01H")[0] == 401
        fake.client("other").Profiles.get_profile("01H")


def test_scopes_of_ones_own():
    asked = []

    def scopes(method, template):
        asked.append((method, template))
        return {"made:up"}

    with FakeKlaviyo(keys={READ: {"made:up"}, "pk_test_none": set()}, scopes=scopes) as fake:
        fake.client(READ).Lists.get_list("L")
        assert asked == [("GET", "/api/lists/{id}")]
        status, _, detail = refused(fake.client("pk_test_none").Lists.get_list, "L")
        assert status == 403
        assert "made:up" in detail


def test_keys_are_not_shown(fake):
    client = fake.client(ALL)
    client.Profiles.get_profiles(filter='equals(email,"a@b.co")')
    shown = repr(fake.requests) + repr(fake)
    assert ALL not in shown
    assert "a@b.co" not in shown
    assert "/api/profiles" in shown


def test_public_operations_need_no_key(fake):
    public = [route for route in sdk_routes() if route.template.startswith("/client/")]
    if not public:
        pytest.skip("this SDK has no operation under /client")
    with urllib3.PoolManager() as pool:
        for route in public:
            url = fake.url + route.template.replace("{id}", "1")
            assert pool.request(route.method, url).status < 400
