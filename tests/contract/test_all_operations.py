"""Every operation of the installed SDK, under every name, in every variant: one true outcome each."""

import importlib
import inspect
import json
import pkgutil

import openapi_client.api
import pytest
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import Auditor, instrument, uninstrument
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.testing import FakeKlaviyo
from tests import planted
from tests.contract.arguments import arguments_for

SUFFIXES = ("", "_with_http_info", "_without_preload_content")
VARIANTS = ("plain", "with_http_info", "without_preload_content")
GROUPS = sorted(catalog.api_groups(KlaviyoAPI))


@pytest.fixture(scope="module")
def server():
    with FakeKlaviyo() as fake:
        yield fake


def names_of(client, group):
    """The names the SDK puts its retry layer on: an independent list of what can be called."""
    return sorted(
        name for name, value in vars(getattr(client, group)).items() if inspect.isfunction(value)
    )


def serialized(function, arguments):
    """Method and template, as the SDK itself hands them to its HTTP layer."""
    seen = []

    class Stop(Exception):
        pass

    class ApiClient:
        options = {}

        def select_header_accept(self, _accepts):
            return None

        def select_header_content_type(self, _types):
            return None

        def param_serialize(self, **given):
            seen.append((given["method"], given["resource_path"].rstrip("/")))
            raise Stop

    api = type(function.__self__)(ApiClient())
    with pytest.raises(Stop):
        getattr(api, function.__name__)(**arguments)
    return seen[0]


def call_every_name(klaviyo, client, group, positional):
    """Call all names and variants; give what each should be recorded as."""
    expected = []
    for name in names_of(client, group):
        bare = getattr(type(getattr(client, group)), name).__get__(getattr(client, group))
        arguments = arguments_for(bare)
        method, path = serialized(bare, arguments)
        for suffix, variant in zip(SUFFIXES, VARIANTS, strict=True):
            operation = getattr(getattr(klaviyo, group), name + suffix)
            if positional:
                operation(*arguments.values())
            else:
                operation(**arguments)
            expected.append((bare.__name__, name + suffix, variant, method, path))
    return expected


def recorded(folder):
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]
    outcomes = [line for line in lines if line["phase"] == "outcome"]
    intents = {line["id"] for line in lines if line["phase"] == "intent"}
    return outcomes, intents


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("positional", [False, True], ids=["keyword", "positional"])
def test_proxy(group, positional, server, tmp_path):
    client = server.client(api_key=planted.SITE_KEY, max_retries=1)
    server.clear()
    with Auditor(journal=tmp_path / "trail", user_id="dana") as auditor:
        expected = call_every_name(auditor.audit(client), client, group, positional)
        requests = server.count
    outcomes, intents = recorded(tmp_path / "trail")
    assert len(outcomes) == len(expected) == requests
    for entry, (name, called_as, variant, method, path) in zip(outcomes, expected, strict=True):
        call = entry["call"]
        assert call["group"] == group
        assert call["operation"] == name
        assert call["called_as"] == called_as
        assert (call["variant"], call["method"], call["path"]) == (variant, method, path)
        assert entry["action"] == f"klaviyo.{group.lower()}.{name}"
        assert entry["result"] == "success", entry
        assert isinstance(call["scopes"], list)
        assert call["risk"] in ("low", "medium", "high", "critical")
        assert isinstance(call["personal_data"], bool)
        assert call["sdk"] == catalog.sdk_version()
        assert call["revision"] == KlaviyoAPI._REVISION
        assert entry["http"]["attempts"] == entry["http"]["requests"] == 1
        assert "{" not in entry["resource"]
        if method == "GET":
            assert entry["id"] not in intents
        if method in ("DELETE", "PATCH", "PUT"):
            assert entry["id"] in intents, "what changes data leaves an intent first"
        if not path.startswith("/client"):
            assert entry["key"]["site"] == "AbC123"


@pytest.mark.parametrize("group", GROUPS)
def test_instrumented(group, server, tmp_path):
    client = server.client(api_key=planted.SITE_KEY, max_retries=1)
    server.clear()
    with Auditor(journal=tmp_path / "trail", user_id="dana") as auditor:
        instrument(auditor)
        try:
            expected = call_every_name(client, client, group, positional=False)
        finally:
            uninstrument()
        requests = server.count
    outcomes, _ = recorded(tmp_path / "trail")
    assert len(outcomes) == len(expected) == requests
    for entry, (name, _, variant, method, path) in zip(outcomes, expected, strict=True):
        call = entry["call"]
        assert (call["operation"], call["variant"]) == (name, variant)
        assert (call["method"], call["path"]) == (method, path)
        assert entry["result"] == "success"


def test_no_group_is_left_out():
    """The groups of the client are the API modules of the SDK."""
    modules = [
        module.name
        for module in pkgutil.iter_modules(openapi_client.api.__path__)
        if module.name.endswith("_api")
    ]
    assert len(GROUPS) == len(modules)
    for name in modules:
        assert importlib.util.find_spec(f"openapi_client.api.{name}") is not None
