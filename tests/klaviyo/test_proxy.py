"""The proxy is transparent, keeps its groups, and leaves the wrapped client alone."""

import asyncio
import copy
import functools
import inspect
import pickle

import pytest
from klaviyo_api import KlaviyoAPI
from openapi_client.api import ProfilesApi

from klaviyo_audit import AccessDenied, Auditor, ConfigurationError, acting_as, suppress_audit
from tests import planted


def test_one_line_leaves_a_complete_entry(klaviyo, trail, auditor):
    profile = klaviyo.Profiles.get_profile("01HPROFILE")
    assert profile.data.id == "01HPROFILE"
    entry = trail.outcome()
    assert entry["action"] == "klaviyo.profiles.get_profile"
    assert entry["user_id"] == "dana"
    assert entry["resource"] == "/api/profiles/01HPROFILE"
    assert entry["result"] == "success"
    assert entry["duration_ms"] > 0
    call = entry["call"]
    from importlib.metadata import version

    assert call.pop("sdk") == version("klaviyo-api")
    assert call.pop("revision") == KlaviyoAPI._REVISION
    assert call == {
        "group": "Profiles",
        "operation": "get_profile",
        "called_as": "get_profile",
        "variant": "plain",
        "method": "GET",
        "path": "/api/profiles/{id}",
        "scopes": ["profiles:read"],
        "risk": call["risk"],
        "personal_data": True,
    }
    assert entry["key"]["kind"] == "private"
    assert len(entry["key"]["fingerprint"]) == 12
    assert entry["origin"]["service"] == "shop"


def test_the_wrapped_client_is_untouched_and_not_audited(client, auditor, trail):
    before = dict(vars(client)), dict(vars(type(client))), dict(vars(client.api_client))
    audited = auditor.audit(client)
    audited.Profiles.get_profile("01HPROFILE")
    after = dict(vars(client)), dict(vars(type(client))), dict(vars(client.api_client))
    assert before == after
    client.Profiles.get_profile("01HPROFILE")
    assert len(trail.outcomes()) == 1


def test_isinstance_attributes_and_dir(klaviyo, client):
    assert isinstance(klaviyo, KlaviyoAPI)
    assert isinstance(klaviyo.Profiles, ProfilesApi)
    assert dir(klaviyo) == dir(client)
    assert set(dir(client.Profiles)) == set(dir(klaviyo.Profiles))
    assert klaviyo.max_retries == client.max_retries
    klaviyo.max_retries = 7
    assert client.max_retries == 7
    assert klaviyo.configuration is client.configuration
    assert type(klaviyo.Profiles).__name__ == "ProfilesApi"


def test_name_help_and_signature_are_the_operations_own(klaviyo):
    operation = klaviyo.Profiles.get_profile
    bound = ProfilesApi(None).get_profile
    assert operation.__name__ == "get_profile"
    assert operation.__doc__ == bound.__doc__
    assert inspect.signature(operation) == inspect.signature(bound)
    assert "id" in inspect.signature(operation).parameters
    assert inspect.signature(klaviyo.Profiles.get_profile_with_http_info).parameters


def test_groups_are_kept(klaviyo):
    assert klaviyo.Profiles is klaviyo.Profiles
    assert klaviyo.Profiles is not klaviyo.Lists


def test_a_new_api_client_is_taken_up(klaviyo, client, fake, trail):
    klaviyo.Profiles.get_profile("before")
    other = KlaviyoAPI(planted.OTHER_KEY, test_host=fake.url)
    client.api_client = other.api_client
    klaviyo.Profiles.get_profile("after")
    first, second = trail.outcomes()
    assert first["key"]["fingerprint"] != second["key"]["fingerprint"]
    assert fake.requests[-1].headers["authorization"].endswith(planted.OTHER_KEY)
    klaviyo.api_client = KlaviyoAPI(planted.SITE_KEY, test_host=fake.url).api_client
    klaviyo.Profiles.get_profile("again")
    assert trail.last()["key"]["site"] == "AbC123"


def test_changed_settings_of_the_client_count(klaviyo, client, fake, trail):
    klaviyo.Profiles.get_profile("before")
    client.retry_wrapper.num_retries = 1
    fake.fail(504, times=None)
    with pytest.raises(Exception, match="504"):
        klaviyo.Lists.create_list({"data": {"type": "list", "attributes": {"name": "x"}}})
    assert trail.last()["http"]["attempts"] == 1
    fake.heal()
    client.configuration.api_key["Klaviyo-API-Key"] = f"Klaviyo-API-Key {planted.SITE_KEY}"
    klaviyo.Profiles.get_profile("after")
    assert trail.last()["key"]["site"] == "AbC123"
    client.configuration.host = "http://127.0.0.1:9"
    with pytest.raises(Exception, match="127.0.0.1"):
        klaviyo.Profiles.get_profile("nowhere")


def test_a_subclass_with_its_own_retry_logic(auditor, fake, trail):
    used = []

    class Shop(KlaviyoAPI):
        def retry_logic(self, func, *args, **kwargs):
            used.append(func.__name__)
            return super().retry_logic(func, *args, **kwargs)

    auditor.audit(Shop(planted.API_KEY, test_host=fake.url)).Profiles.get_profile("01H")
    assert "get_profile" in used
    assert len(trail.outcomes()) == 1


def test_aliases_and_variants(klaviyo, trail):
    body = {"data": {"type": "profile-subscription-bulk-create-job"}}
    names = [
        "bulk_subscribe_profiles",
        "subscribe_profiles",
        "subscribe_profiles_with_http_info",
        "subscribe_profiles_without_preload_content",
    ]
    body = {
        "data": {
            "type": "profile-subscription-bulk-create-job",
            "attributes": {"profiles": {"data": []}},
        }
    }
    for name in names:
        getattr(klaviyo.Profiles, name)(body)
    calls = [entry["call"] for entry in trail.outcomes()]
    assert [call["called_as"] for call in calls] == names
    assert {call["operation"] for call in calls} == {ProfilesApi.subscribe_profiles.__name__}
    assert [call["variant"] for call in calls] == [
        "plain",
        "plain",
        "with_http_info",
        "without_preload_content",
    ]


def test_key_of_one_call(klaviyo, trail):
    klaviyo.Profiles.get_profile("01H")
    klaviyo.Profiles.get_profile("01H", _request_auth=planted.SITE_KEY)
    usual, other = trail.outcomes()
    assert usual["key"]["fingerprint"] != other["key"]["fingerprint"]
    assert other["key"]["site"] == "AbC123"


def test_oauth(auditor, fake, trail):
    klaviyo = auditor.audit(KlaviyoAPI(None, access_token=planted.OAUTH_TOKEN, test_host=fake.url))
    klaviyo.Profiles.get_profile("01H")
    assert trail.outcome()["key"]["kind"] == "oauth"


def test_label_names_the_variable_the_key_is_in(auditor, fake, trail, monkeypatch):
    monkeypatch.setenv("SHOP_WRITE_KEY", planted.OTHER_KEY)
    from klaviyo_audit.klaviyo import keys

    keys._known.clear()
    auditor.audit(KlaviyoAPI(planted.OTHER_KEY, test_host=fake.url)).Profiles.get_profile("01H")
    assert trail.outcome()["key"]["label"] == "SHOP_WRITE_KEY"


def test_revision_of_one_call(klaviyo, trail):
    klaviyo.api_client.default_headers["revision"] = "2026-07-15.pre"
    klaviyo.Profiles.get_profile("01H")
    assert trail.outcome()["call"]["revision"] == "2026-07-15.pre"


def test_audit_of_an_audited_client_is_itself(klaviyo, auditor):
    assert auditor.audit(klaviyo) is klaviyo
    assert auditor.audit(klaviyo.Profiles) is klaviyo.Profiles


@pytest.mark.parametrize("how", ["property", "constructed", "api_client"])
def test_one_group(how, client, fake, auditor, trail):
    group = {
        "property": lambda: auditor.audit(client.Profiles),
        "constructed": lambda: auditor.audit(ProfilesApi(client.api_client)),
        "api_client": lambda: ProfilesApi(auditor.audit(client.api_client)),
    }[how]()
    assert isinstance(group, ProfilesApi)
    group.get_profile("01H")
    group.get_profile_with_http_info("01H")
    first, second = trail.outcomes()
    assert first["action"] == second["action"] == "klaviyo.profiles.get_profile"
    assert second["call"]["variant"] == "with_http_info"
    assert first["http"]["attempts"] == 1


def test_one_group_keeps_the_retries_of_its_client(client, fake, auditor, trail, monkeypatch):
    monkeypatch.setattr(
        "klaviyo_api.custom_retry.RetryWithExponentialBackoff.exponential_backoff",
        lambda self, iteration: 0,
    )
    group = client.Profiles
    audited = auditor.audit(group)
    fake.fail(429, times=2)
    audited.get_profile("01H")
    assert trail.outcome()["http"]["attempts"] == 3
    group.get_profile("01H")
    assert len(trail.outcomes()) == 1, "the group itself is not audited"


def test_a_group_wrapped_in_an_unknown_way_is_refused(client, auditor):
    group = client.Profiles
    group.get_profile = lambda *args: None
    with pytest.raises(ConfigurationError, match=r"audit\(client\)"):
        auditor.audit(group)


def test_page_cursor_of_the_sdk_still_works(klaviyo, fake):
    fake.fail(200, body=b'{"data":[],"links":{"self":"x"}}')
    klaviyo.Profiles.get_profiles(
        page_cursor="https://a.klaviyo.com/api/profiles/?page%5Bcursor%5D=abc%3D&x=1"
    )
    assert "abc" in fake.requests[-1].query
    assert "https" not in fake.requests[-1].query


def test_pickle_says_why_not(klaviyo):
    with pytest.raises(TypeError, match="cannot be pickled.*in the process that uses it") as caught:
        pickle.dumps(klaviyo)
    assert planted.API_KEY not in str(caught.value)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(klaviyo.api_client)


def test_copies_stay_audited(klaviyo, trail):
    copy.copy(klaviyo).Profiles.get_profile("01H")
    assert len(trail.outcomes()) == 1


def test_suppressed_calls_leave_nothing(klaviyo, trail):
    with suppress_audit():
        klaviyo.Profiles.get_profile("01H")
    assert trail.outcomes() == []


def test_a_group_that_does_not_exist(klaviyo):
    with pytest.raises(AttributeError, match="Profles"):
        klaviyo.Profles  # noqa: B018


def test_an_operation_that_does_not_exist(klaviyo):
    with pytest.raises(AttributeError, match="get_profle"):
        klaviyo.Profiles.get_profle("01H")


@pytest.mark.parametrize("value", [None, "client", 5, KlaviyoAPI, pytest, len, {}])
def test_what_cannot_be_audited(value, auditor):
    with pytest.raises(ConfigurationError, match=r"audit\(\) was given"):
        auditor.audit(value)


class Ledger:
    def __init__(self):
        self.total = 0

    def add(self, amount):
        """Add an amount."""
        self.total += amount
        return self.total

    def fail(self):
        raise LookupError(planted.EMAIL)

    async def later(self, amount):
        return amount

    @property
    def balance(self):
        return self.total

    def _private(self):
        return 1


def test_any_other_object(auditor, trail):
    import asyncio

    ledger = auditor.audit(Ledger())
    assert isinstance(ledger, Ledger)
    assert ledger.add(5) == 5
    assert ledger.balance == 5
    assert ledger._private() == 1
    assert asyncio.run(ledger.later(3)) == 3
    assert ledger.add.__doc__ == "Add an amount."
    with pytest.raises(LookupError):
        ledger.fail()
    entries = trail.outcomes()
    assert [entry["action"] for entry in entries] == ["Ledger.add", "Ledger.later", "Ledger.fail"]
    assert entries[2]["error"] == {"type": "LookupError", "module": "builtins", "stage": "function"}
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ledger)


def test_two_auditors_two_journals(client, tmp_path, trail, auditor):
    with Auditor(journal=tmp_path / "other") as other:
        other.audit(client).Profiles.get_profile("01H")
    assert trail.outcomes() == []
    assert (tmp_path / "other" / "audit.jsonl").read_text().count('"outcome"') == 1


def test_a_path_that_climbs_is_recorded_as_it_is_sent(klaviyo, fake, trail):
    """The SDK does not quote dots and urllib3 resolves them, so another resource is asked."""
    klaviyo.Profiles.get_lists_for_profile_without_preload_content("..")
    assert fake.requests[-1].path == "/api/lists"
    assert trail.outcome()["resource"] == "/api/lists"


def test_the_agent_that_calls_is_named(client, auditor, trail):
    client.api_client.user_agent = f"klaviyo-mcp/0.4.2 claude-ai/1.0 \x1b {planted.API_KEY}"
    klaviyo = auditor.audit(client)
    klaviyo.Lists.get_lists()
    with acting_as("erin", reason="asked for"):
        klaviyo.Lists.delete_list("L1")
    read, deleted = trail.outcomes()
    assert read["actor"]["agent"].startswith("klaviyo-mcp/0.4.2 claude-ai/1.0")
    assert deleted["actor"] == {"agent": read["actor"]["agent"], "reason": "asked for"}
    assert trail.of("intent")[0]["actor"] == deleted["actor"]


class Base(KlaviyoAPI):
    def _drop(self, number):
        self.dropped = number
        return self.Lists.delete_list(f"L{number}")


class ShopKlaviyo(Base):
    """What programs make of the client: methods of their own that call Klaviyo."""

    def drop(self):
        return self._drop(1)

    @property
    def groups(self):
        return {"lists": self.Lists}

    @functools.cached_property
    def service(self):
        return functools.partial(self._drop, 3)

    def fluent(self):
        return self

    def overriding(self):
        return super()._drop(5)

    dropping = functools.partialmethod(Base._drop, 6)

    @acting_as("robot")
    def decorated(self):
        return self._drop(7)

    async def asynchronous(self):
        return self._drop(8)

    def generator(self):
        yield self._drop(9)

    def __getitem__(self, number):
        return self._drop(number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._drop(13)


def entered(client):
    with client as inside:
        return inside._drop(11)


async def entered_async(client):
    async with client as inside:
        return inside._drop(12)


WAYS = {
    "method": lambda client: client.drop(),
    "property": lambda client: client.groups["lists"].delete_list("L2"),
    "cached property": lambda client: client.service(),
    "fluent": lambda client: client.fluent()._drop(4),
    "super": lambda client: client.overriding(),
    "partialmethod": lambda client: client.dropping(),
    "decorated": lambda client: client.decorated(),
    "async": lambda client: asyncio.run(client.asynchronous()),
    "generator": lambda client: next(client.generator()),
    "item": lambda client: client[10],
    "with": entered,
    "async with": lambda client: asyncio.run(entered_async(client)),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_subclass_does_in_its_own_methods_is_audited_and_guarded(fake, trail, way):
    client = ShopKlaviyo(planted.API_KEY, test_host=fake.url)
    with Auditor(journal=trail.folder) as auditor:
        klaviyo = auditor.audit(client)
        assert isinstance(klaviyo, ShopKlaviyo)
        WAYS[way](klaviyo)
    assert [entry["http"]["requests"] for entry in trail.outcomes()] == [1] * len(fake.requests)
    assert len(trail.of("intent")) == len(fake.requests) > 0
    if way != "property":
        assert klaviyo.dropped == client.dropped, "its attributes are the client's"
    sent = len(fake.requests)
    again = ShopKlaviyo(planted.API_KEY, test_host=fake.url)
    with Auditor(journal=trail.folder, guard="development") as auditor:
        klaviyo = auditor.audit(again)
        with pytest.raises(AccessDenied):
            WAYS[way](klaviyo)
    assert len(fake.requests) == sent
    again.drop()  # the client itself is not audited
    assert trail.outcomes()[-1]["result"] == "denied"


def test_a_plain_client_has_no_more_than_it_had(klaviyo):
    with pytest.raises((TypeError, AttributeError)):
        klaviyo["x"]
    with pytest.raises((TypeError, AttributeError)), klaviyo:
        pass


def test_a_subclass_with_slots_and_values(fake, auditor):
    class Slotted(KlaviyoAPI):
        __slots__ = ("note",)
        limit = 3

    client = Slotted(planted.API_KEY, test_host=fake.url)
    client.note = "x"
    klaviyo = auditor.audit(client)
    assert (klaviyo.note, klaviyo.limit) == ("x", 3)
    client.limit = 4
    assert klaviyo.limit == 4


REST_CLIENT = {
    "client": lambda client: client.api_client.rest_client,
    "group": lambda client: client.Lists.api_client.rest_client,
    "copy": lambda client: copy.copy(client.api_client.rest_client),
}


@pytest.mark.parametrize("way", REST_CLIENT)
def test_the_rest_client_is_audited_and_guarded(way, client, fake, trail):
    with Auditor(journal=trail.folder, guard="development") as auditor:
        rest = REST_CLIENT[way](auditor.audit(client))
        url = f"{fake.url}/api/lists/L1"
        with pytest.raises(AccessDenied):
            rest.request("DELETE", url, headers={})
        assert fake.count == 0
        assert rest.request(method="GET", url=url).status == 200
        with suppress_audit():
            rest.request("GET", url)
    denied, got = trail.outcomes()
    assert (denied["action"], denied["result"]) == ("klaviyo.lists.delete_list", "denied")
    assert (got["action"], got["http"]["status"]) == ("klaviyo.lists.get_list", 200)
    assert type(rest).__name__ == "RESTClientObject"
    assert isinstance(rest, type(client.api_client.rest_client))


def test_a_request_that_is_put_into_the_rest_client_is_run_once_and_recorded_once(
    auditor, client, fake, trail
):
    """As programs do to log or to mock: they take what is there and put their own around it."""
    audited = auditor.audit(client)
    rest = audited.api_client.rest_client
    taken = rest.request
    seen = []

    def request(*args, **kwargs):
        seen.append(args[0])
        return taken(*args, **kwargs)

    rest.request = request
    audited.Lists.get_list("L1")
    assert audited.api_client.rest_client.request("GET", f"{fake.url}/api/lists/L2").status == 200
    assert seen == ["GET", "GET"]
    rest.request = taken
    audited.Lists.get_list("L3")
    assert seen == ["GET", "GET"]
    assert [entry["resource"][-2:] for entry in trail.outcomes()] == ["L1", "L2", "L3"]
    assert {entry["http"]["requests"] for entry in trail.outcomes()} == {1}
    assert fake.count == 3


def test_a_rest_client_that_is_exchanged(auditor, client, fake, trail):
    audited = auditor.audit(client)
    audited.api_client.rest_client = other = fake.client().api_client.rest_client
    assert client.api_client.rest_client is other
    audited.api_client.rest_client = audited.api_client.rest_client
    assert client.api_client.rest_client is other
    audited.Lists.get_list("L1")
    assert len(trail.outcomes()) == 1
