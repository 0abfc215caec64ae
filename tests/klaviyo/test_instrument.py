"""instrument() sees every client of the process, once, and uninstrument() leaves no trace."""

import functools
import subprocess
import sys
import textwrap

import pytest
import wrapt
from klaviyo_api.custom_retry import RetryWithExponentialBackoff
from openapi_client.api import ListsApi, ProfilesApi
from openapi_client.api_client import ApiClient
from openapi_client.rest import RESTClientObject

from klaviyo_audit import (
    AccessDenied,
    Auditor,
    Guard,
    audited,
    configure,
    instrument,
    suppress_audit,
    uninstrument,
)
from klaviyo_audit.default import reset_default
from tests.waiting import PATIENCE

PATCHED = (
    (ApiClient, "call_api"),
    (RetryWithExponentialBackoff, "with_retry"),
    (RESTClientObject, "request"),
)
LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


@pytest.fixture
def on(auditor):
    instrument(auditor)
    yield
    uninstrument()


def attributes():
    return [vars(owner)[name] for owner, name in PATCHED]


def test_clients_made_before_and_after(client, fake, auditor, trail):
    held = client.Profiles
    instrument(auditor)
    try:
        held.get_profile("held")
        client.Profiles.get_profile("before")
        fake.client(api_key="k" * 10).Profiles.get_profile("after")
    finally:
        uninstrument()
    client.Profiles.get_profile("not audited")
    entries = trail.outcomes()
    assert [entry["resource"].rpartition("/")[2] for entry in entries] == [
        "held",
        "before",
        "after",
    ]
    assert all(entry["action"] == "klaviyo.profiles.get_profile" for entry in entries)


@pytest.mark.usefixtures("on")
def test_attempts_of_one_call_are_one_entry(client, fake, trail, monkeypatch):
    monkeypatch.setattr(
        RetryWithExponentialBackoff, "exponential_backoff", lambda self, iteration: 0
    )
    fake.fail(429, times=1)
    client.Lists.create_list(LIST)
    entry = trail.outcome()
    assert entry["http"]["attempts"] == 2
    assert len(trail.of("intent")) == 1
    assert trail.of("intent")[0]["id"] == entry["id"]


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("variant", ["", "_with_http_info", "_without_preload_content"])
def test_variants_and_direct_use_of_openapi_client(client, trail, variant):
    getattr(client.Profiles, "get_profile" + variant)("01H")
    getattr(ProfilesApi(client.api_client), "get_profile" + variant)("01H")
    through_client, direct = trail.outcomes()
    for entry in (through_client, direct):
        assert entry["call"]["operation"] == "get_profile"
        assert entry["call"]["variant"] == (variant.removeprefix("_") or "plain")
        assert entry["http"]["status"] == 200


@pytest.mark.usefixtures("on")
def test_a_request_nobody_generated(client, trail):
    """Own requests through the SDK's ApiClient are calls too, known by their path."""
    request = client.api_client.param_serialize(
        "GET", "/api/profiles/{id}/lists", path_params={"id": "01H"}, auth_settings=[]
    )
    client.api_client.call_api(*request)
    entry = trail.outcome()
    assert entry["call"]["path"] == "/api/profiles/{id}/lists"
    assert "variant" not in entry["call"]


@pytest.mark.usefixtures("on")
def test_an_endpoint_nobody_knows(client, trail):
    request = client.api_client.param_serialize("DELETE", "/api/unheard-of/7", auth_settings=[])
    client.api_client.call_api(*request)
    (intent,) = trail.of("intent")
    entry = trail.outcome()
    assert intent["id"] == entry["id"], "what is unknown may change data"
    assert entry["resource"] == "/api/unheard-of/7"
    assert entry["call"]["risk"] in ("high", "critical")


@pytest.mark.usefixtures("on")
def test_nothing_is_recorded_twice(client, auditor, trail):
    klaviyo = auditor.audit(client)
    klaviyo.Profiles.get_profile("proxy")
    klaviyo.Profiles.get_profile_with_http_info("proxy")
    ProfilesApi(klaviyo.api_client).get_profile("group of the proxy")
    auditor.audit(client.Profiles).get_profile("audited group")
    entries = trail.outcomes()
    assert len(entries) == 4
    assert [entry["http"]["attempts"] for entry in entries] == [1, 1, 1, 1]


@pytest.mark.usefixtures("on")
def test_suppressed(client, trail):
    with suppress_audit():
        client.Profiles.get_profile("01H")
        ProfilesApi(client.api_client).get_profile("01H")
    assert trail.outcomes() == []


@pytest.mark.usefixtures("on")
def test_a_call_made_while_another_is_in_transport_is_its_child(client, trail, monkeypatch):
    """A transport that fetches a token first makes a call of its own inside a call."""
    request = client.api_client.rest_client.request
    inner = iter([True])

    def fetches_first(*args, **kwargs):
        if next(inner, False):
            client.Accounts.get_accounts()
        return request(*args, **kwargs)

    monkeypatch.setattr(client.api_client.rest_client, "request", fetches_first)
    client.Profiles.get_profile("01H")
    child, parent = trail.outcomes()
    assert child["action"] == "klaviyo.accounts.get_accounts"
    assert child["parent_id"] == parent["id"]
    assert parent["http"]["attempts"] == child["http"]["attempts"] == 1


def test_undo_is_exact_100_times(auditor):
    before = attributes()
    for _ in range(100):
        instrument(auditor)
        instrument(auditor)
        assert not any(now is then for now, then in zip(attributes(), before, strict=True))
        uninstrument()
        uninstrument()
        assert all(now is then for now, then in zip(attributes(), before, strict=True))


def test_undo_from_under_a_later_wrapper(auditor, client, trail):
    original = vars(ApiClient)["call_api"]
    seen = []

    def later(wrapped, _instance, args, kwargs):
        seen.append(args[0])
        return wrapped(*args, **kwargs)

    instrument(auditor)
    try:
        ApiClient.call_api = wrapt.FunctionWrapper(vars(ApiClient)["call_api"], later)
        for _ in range(100):
            uninstrument()
            assert vars(ApiClient)["call_api"].__wrapped__ is original
            instrument(auditor)
        client.Profiles.get_profile("01H")
        uninstrument()
        client.Profiles.get_profile("01H")
        assert seen == ["GET", "GET"]
        assert len(trail.outcomes()) == 1
    finally:
        uninstrument()
        ApiClient.call_api = original


def test_undo_under_an_opaque_wrapper_passes_on(auditor, client, trail):
    original = vars(ApiClient)["call_api"]
    instrument(auditor)
    try:
        ours = vars(ApiClient)["call_api"]

        def opaque(self, *args, **kwargs):
            return ours.__get__(self)(*args, **kwargs)

        ApiClient.call_api = opaque
        uninstrument()
        client.Profiles.get_profile("01H")
        assert trail.outcomes() == []
        for _ in range(3):
            instrument(auditor)
            client.Profiles.get_profile("01H")
            uninstrument()
        assert len(trail.outcomes()) == 3
        assert vars(ApiClient)["call_api"] is opaque
    finally:
        uninstrument()
        ApiClient.call_api = original


def test_the_default_auditor_is_followed(client, trail, tmp_path):
    configure(journal=tmp_path / "first").close()
    instrument()
    try:
        client.Profiles.get_profile("01H")
        configure(journal=trail.folder)
        client.Profiles.get_profile("01H")
    finally:
        uninstrument()
        reset_default()
    assert len(trail.outcomes()) == 1


def test_parent_of_calls_in_an_audited_function(auditor, client, trail):
    instrument(auditor)
    try:

        @auditor.audited
        def redeem():
            client.Profiles.get_profile("01H")

        redeem()
    finally:
        uninstrument()
    child, parent = trail.outcomes()
    assert child["parent_id"] == parent["id"]
    assert audited is not None


def run(code, *, folder):
    script = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
    )


def test_no_api_module_is_imported(tmp_path):
    done = run(
        """
        import sys
        def loaded():
            return {n for n in sys.modules if n.startswith("openapi_client.api.")}
        import klaviyo_api  # SDK 17 itself imports them all here
        before = loaded()
        import klaviyo_audit
        klaviyo_audit.instrument(klaviyo_audit.Auditor(journal="trail"))
        assert loaded() == before, loaded() - before
        """,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_instrumented_before_the_sdk_is_imported(tmp_path, fake, trail):
    done = run(
        f"""
        import klaviyo_audit
        klaviyo_audit.instrument(klaviyo_audit.Auditor(journal="trail"))
        from klaviyo_api import KlaviyoAPI
        KlaviyoAPI("k" * 9, test_host={fake.url!r}).Profiles.get_profile("01H")
        rest = KlaviyoAPI("k" * 9).api_client.rest_client
        rest.request("GET", {fake.url + "/api/lists/L1"!r})
        klaviyo_audit.uninstrument()
        KlaviyoAPI("k" * 9, test_host={fake.url!r}).Profiles.get_profile("01H")
        rest.request("GET", {fake.url + "/api/lists/L1"!r})
        """,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    actions = [entry["action"] for entry in trail.outcomes()]
    assert actions == ["klaviyo.profiles.get_profile", "klaviyo.lists.get_list"]


def test_another_vendors_openapi_client_is_left_alone(tmp_path):
    package = tmp_path / "openapi_client"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "api_client.py").write_text(
        "class ApiClient:\n"
        "    user_agent = 'OpenAPI-Generator/1.0.0/python'\n"
        "    def call_api(self, *args):\n"
        "        return 'theirs'\n"
    )
    done = run(
        """
        import sys
        sys.path.insert(0, ".")
        import klaviyo_audit
        klaviyo_audit.instrument(klaviyo_audit.Auditor(journal="trail"))
        from openapi_client.api_client import ApiClient
        assert type(vars(ApiClient)["call_api"]).__name__ == "function"
        assert ApiClient().call_api("GET", "http://x") == "theirs"
        """,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr


class NotOfOurs(ApiClient):
    """Overrides ``call_api`` without calling the SDK's."""

    def call_api(self, method, url, header_params=None, body=None, post_params=None, **more):
        return self.rest_client.request(
            method, url, headers=header_params, body=body, post_params=post_params, **more
        )


def with_its_own_call_api(client):
    own = NotOfOurs(client.api_client.configuration)
    vars(own).update(vars(client.api_client))
    client.api_client = own
    return client


def with_a_wrapped_call_api(client):
    taken = client.api_client.call_api
    client.api_client.call_api = functools.partial(taken)
    return client


def around(fake):
    """Ways to Klaviyo that were taken before `instrument`, or go around ``call_api``."""
    overridden = with_its_own_call_api(fake.client())
    wrapped = with_a_wrapped_call_api(fake.client())
    plain = fake.client().api_client
    taken = ApiClient.call_api
    url = f"{fake.url}/api/lists/L1"
    return {
        "overridden": lambda: overridden.Lists.delete_list("L1"),
        "overridden, direct": lambda: ListsApi(overridden.api_client).delete_list("L1"),
        "wrapped": lambda: wrapped.Lists.delete_list("L1"),
        "wrapped, direct": lambda: ListsApi(wrapped.api_client).delete_list("L1"),
        "taken": lambda: taken(plain, "DELETE", url, {}),
        "rest_client": lambda: plain.rest_client.request("DELETE", url, headers={}),
        "rest_client, named": lambda: plain.rest_client.request(method="DELETE", url=url),
    }


def test_what_goes_around_call_api_is_recorded_once(fake, auditor, trail):
    ways = around(fake)
    instrument(auditor)
    try:
        for delete in ways.values():
            delete()
    finally:
        uninstrument()
    for entries in (trail.outcomes(), trail.of("intent")):
        told = [(entry["action"], entry["resource"]) for entry in entries]
        assert told == [("klaviyo.lists.delete_list", "/api/lists/L1")] * len(ways)
    assert {entry["http"]["status"] for entry in trail.outcomes()} == {204}
    assert {entry["http"]["requests"] for entry in trail.outcomes()} == {1}
    assert len(fake.requests) == len(ways)


def test_what_goes_around_call_api_is_guarded(fake, trail):
    ways = around(fake)
    with Auditor(journal=trail.folder, guard="development") as auditor:
        instrument(auditor)
        try:
            for delete in ways.values():
                with pytest.raises(AccessDenied):
                    delete()
        finally:
            uninstrument()
    assert fake.requests == []
    assert [entry["result"] for entry in trail.outcomes()] == ["denied"] * len(ways)


@pytest.mark.parametrize("audited_too", [True, False])
def test_calls_that_confirm_makes_are_their_own(fake, trail, audited_too):
    """A call within a call, before the outer one's request has gone out."""
    client = fake.client()

    def confirm(radius):
        client.Lists.create_list(LIST)
        ListsApi(client.api_client).get_list("L2")
        client.api_client.rest_client.request("GET", f"{fake.url}/api/lists/L3", headers={})
        return True

    guard = Guard("production", allow=["lists.*"], limit=1, confirm=confirm)
    with Auditor(journal=trail.folder, guard=guard) as auditor:
        instrument(auditor)
        try:
            (auditor.audit(client) if audited_too else client).Lists.delete_list("L1")
        finally:
            uninstrument()
    told = [
        (e["call"]["operation"], e["resource"], e["http"]["requests"]) for e in trail.outcomes()
    ]
    assert told == [
        ("create_list", "/api/lists", 1),
        ("get_list", "/api/lists/L2", 1),
        ("get_list", "/api/lists/L3", 1),
        ("delete_list", "/api/lists/L1", 1),
    ]
    *inner, outer = trail.outcomes()
    assert {entry["parent_id"] for entry in inner} == {outer["id"]}
    assert [e["call"]["operation"] for e in trail.of("intent")] == ["create_list", "delete_list"]
