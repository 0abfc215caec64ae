"""The catalog against what the SDK's functions really send, and against what its files say."""

from __future__ import annotations

import functools
import inspect
import json
import os
import py_compile
import re
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openapi_client
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from klaviyo_api import KlaviyoAPI
from openapi_client.api_client import ApiClient

from klaviyo_audit.entry import Risk
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.klaviyo.risks import Operation, by_rule, key, severity, table, template_of
from tests.contract.arguments import arguments_for

GROUPS = catalog.api_groups(KlaviyoAPI)
SUFFIXES = {
    "plain": "",
    "with_http_info": "_with_http_info",
    "without_preload_content": "_without_preload_content",
}
ROWS = list(table().values())
REPOSITORY = Path(catalog.__file__).resolve().parents[2]


class Serialized(Exception):
    """The SDK has said which method and template it is about to use."""


class Telling(ApiClient):
    """The SDK's own client, that ends a call where method and template are known."""

    def param_serialize(self, method: str, resource_path: str, **kwargs: Any) -> Any:
        raise Serialized(method, resource_path.rstrip("/"))


def api_class(group: str) -> type:
    return type(getattr(KlaviyoAPI("not-a-key"), group))


# --- what the installed SDK has ---


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_and_variant_is_told_as_the_sdk_sends_it(group: str) -> None:
    bare = api_class(group)(Telling(KlaviyoAPI("not-a-key").configuration))
    for name, listed in catalog.operations(api_class(group)).items():
        for variant, suffix in SUFFIXES.items():
            bound = getattr(bare, name + suffix)
            with pytest.raises(Serialized) as serialized:
                bound(**arguments_for(bound))
            for function in (bound, getattr(api_class(group), name + suffix)):
                operation, told = catalog.operation_of(function)
                assert (operation.method, operation.path) == serialized.value.args, name + suffix
                assert operation == listed
                assert told == variant


@pytest.mark.parametrize("group", GROUPS)
def test_names_and_aliases_are_those_of_the_file(group: str) -> None:
    source = Path(inspect.getfile(api_class(group)))
    if source.suffix != ".py":
        pytest.skip(f"the SDK is installed without its source: {source}")
    text = source.read_text(encoding="utf-8")
    canonical = {name: name for name in re.findall(r"^    def ([a-z]\w*)\(", text, re.MULTILINE)}
    canonical |= dict(re.findall(r"^    ([a-z]\w*) = (\w+)$", text, re.MULTILINE))
    expected = {
        name: operation
        for name, operation in canonical.items()
        if not name.endswith(("_with_http_info", "_without_preload_content"))
    }
    found = catalog.operations(api_class(group))
    assert {name: operation.name for name, operation in found.items()} == expected
    assert {operation.group for operation in found.values()} == {group}


def test_the_table_knows_every_operation_of_the_installed_sdk() -> None:
    unknown = sorted(
        f"{operation.group}: {operation.method} {operation.path} ({operation.name})"
        for group in GROUPS
        for operation in set(catalog.operations(api_class(group)).values())
        if not operation.known
    )
    assert unknown == [], "judge these and add them to klaviyo_audit/klaviyo/risks.csv"


@pytest.mark.parametrize("group", GROUPS)
def test_scopes_of_the_docstrings_are_those_of_the_table(group: str) -> None:
    for operation in catalog.operations(api_class(group)).values():
        row = table()[key(operation.method, operation.path)]
        assert operation.scopes == row.scopes, operation


def test_api_groups_are_the_clients_properties_and_nothing_else() -> None:
    class Mine(KlaviyoAPI):
        """Overrides one group, adds two properties that are none."""

        @property
        def Profiles(self) -> Any:
            return super().Profiles

        @property
        def url(self) -> str:
            return "https://example.org"

    properties = [name for name, member in vars(KlaviyoAPI).items() if isinstance(member, property)]
    assert list(GROUPS) == properties
    assert catalog.api_groups(Mine) == GROUPS
    assert catalog.api_groups(dict) == ()


def test_version_is_that_of_the_package() -> None:
    assert catalog.sdk_version() == openapi_client.__version__


# --- functions that are wrapped, or are something else ---


def test_a_method_that_others_wrapped_is_still_its_operation() -> None:
    lists = api_class("Lists")(ApiClient())

    @functools.wraps(lists.get_list)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return lists.get_list(*args, **kwargs)

    assert catalog.operation_of(wrapper) == catalog.operation_of(lists.get_list)


def test_a_subclass_has_what_it_did_not_replace() -> None:
    base = api_class("Lists")

    class Mine(base):
        get_list = None

        def get_lists(self) -> str:
            return "mine"

        def sync_lists(self) -> None: ...

    mine = catalog.operations(Mine)
    assert set(mine) == set(catalog.operations(base)) - {"get_list", "get_lists"}
    assert catalog.operation_of(Mine(ApiClient()).create_list)[0].name == "create_list"
    for name in ("get_lists", "sync_lists"):
        with pytest.raises(LookupError):
            catalog.operation_of(getattr(Mine, name))


def _self_wrapping() -> Any:
    def function() -> None: ...

    function.__wrapped__ = function
    return function


@pytest.mark.parametrize(
    "thing",
    [
        len,
        str,
        None,
        {},
        functools.partial(print),
        lambda: None,
        ApiClient.call_api,
        KlaviyoAPI.retry_logic,
        _self_wrapping(),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_no_operation_is_a_lookup_error(thing: Any) -> None:
    with pytest.raises(LookupError, match="no operation of Klaviyo's SDK"):
        catalog.operation_of(thing)


def test_the_sdks_private_functions_are_no_operations() -> None:
    profiles = api_class("Profiles")
    for name in ("__init__", "_get_profile_serialize", "_uses_sparse_fields"):
        with pytest.raises(LookupError):
            catalog.operation_of(getattr(profiles, name))


def test_the_error_does_not_show_a_client_with_its_key() -> None:
    client = KlaviyoAPI("pk_" + "5ec2e7" + "0" * 28)
    with pytest.raises(LookupError) as error:
        catalog.operation_of(client)
    assert "5ec2e7" in repr(client)
    assert "5ec2e7" not in str(error.value)


# --- by template and by URL ---


@pytest.mark.parametrize("group", GROUPS)
def test_by_template_finds_what_operation_of_finds(group: str) -> None:
    for operation in catalog.operations(api_class(group)).values():
        renamed = re.sub(r"\{\w+\}", "{renamed}", operation.path)
        for path in (operation.path, operation.path + "/", renamed):
            assert catalog.by_template(operation.method, path) == operation
        assert catalog.by_template(operation.method.lower(), operation.path) == operation


def test_an_unknown_template_is_none() -> None:
    assert catalog.by_template("GET", "/api/widgets/{id}") is None
    assert catalog.by_template("PUT", "/api/profiles/{id}") is None
    assert catalog.by_template("", "") is None


ids = st.text(min_size=1).filter(lambda text: text not in {".", ".."})


@settings(deadline=None)
@given(row=st.sampled_from(ROWS), id_=ids, ending=st.sampled_from(["", "/", "?filter=a", "#x"]))
@example(row=table()["GET", "/api/profiles/{}"], id_="relationships", ending="")
@example(row=table()["GET", "/api/profiles/{}"], id_="api", ending="")
@example(row=table()["GET", "/api/profiles/{}"], id_="a/b", ending="?x=/api/lists")
def test_by_url_finds_the_template_a_path_was_made_from(row: Operation, id_: str, ending: str):
    path = re.sub(r"\{\w+\}", lambda _: quote(id_, safe=""), row.path)
    for url in (path, "https://a.klaviyo.com" + path, "http://127.0.0.1:9/proxy" + path):
        found = catalog.by_url(row.method.lower(), url + ending)
        assert (found.method, found.path, found.known) == (row.method, row.path, True)


def test_dots_in_a_path_are_resolved_as_urllib3_will() -> None:
    sent = catalog.by_url("GET", "/api/profiles/../lists/./X1")
    assert (sent.path, sent.name) == ("/api/lists/{id}", "get_list")
    assert catalog.by_url("GET", "/../../api/lists").path == "/api/lists"


def test_a_literal_segment_goes_before_a_parameter() -> None:
    def leaf(path: str) -> dict[str, str]:
        return {"/": path}

    tree = {
        "things": {
            "{}": {**leaf("/things/{id}"), "parts": leaf("/things/{id}/parts")},
            "all": leaf("/things/all"),
        }
    }
    assert catalog._best_template(tree, ["things", "all"]) == "/things/all"
    assert catalog._best_template(tree, ["things", "X1"]) == "/things/{id}"
    assert catalog._best_template(tree, ["things", "all", "parts"]) == "/things/{id}/parts"
    assert catalog._best_template(tree, ["things", ""]) is None
    assert catalog._best_template(tree, ["things", "X1", "other"]) is None


@settings(deadline=None)
@given(method=st.sampled_from(["GET", "post", "PATCH", "PUT", "DELETE", "TRACE"]), url=st.text())
@example(method="DELETE", url="http://[half/an/address")
@example(method="GET", url="/api/profiles//lists")
@example(method="GET", url="")
def test_by_url_always_gives_an_operation_without_ids(method: str, url: str) -> None:
    found = catalog.by_url(method, url)
    assert re.fullmatch(r"(/([a-z][a-z-]*|\{\w+\}))+", found.path)
    assert found.writes or method == "GET"
    assert found.group
    if not found.known:
        assert found.name == method.lower()


@pytest.mark.parametrize(
    ("url", "template", "group"),
    [
        ("/api/profiles/dana@example.org/secrets", "/api/profiles/{id}/secrets", "Profiles"),
        ("/api/widget-jobs/lower-case-id", "/api/widget-jobs/{id}", "Widget_Jobs"),
        ("/api/profiles/A/relationships/x/B", "/api/profiles/{id}/relationships/x/{id}", None),
        ("/client/subscriptions?company_id=ABC123", "/client/subscriptions", None),
        ("/api/%64ana/x", "/api/{id}/{id}", "Unknown"),
    ],
)
def test_the_likely_template_keeps_no_id(url: str, template: str, group: str | None) -> None:
    found = catalog.by_url("POST", url)
    assert (found.path, found.known, found.writes) == (template, False, True)
    assert group in {None, found.group}
    assert template_of(template) == template


# --- the table and the rule ---


def test_what_the_table_holds_true_for_every_row() -> None:
    for row in ROWS:
        effects = set(row.effects)
        if row.method == "GET":
            assert not row.writes
            assert severity(row.risk) <= severity(Risk.MEDIUM), row
        else:
            assert (
                row.writes
                or all(scope.endswith(":read") for scope in row.scopes)
                or (row.name == "refresh_campaign_recipient_estimation")
            )
        if row.method == "DELETE":
            assert effects & {"destructive", "unlink"}, row
        if effects & {"destructive", "money", "message-send", "config", "config-egress"}:
            assert severity(row.risk) >= severity(Risk.HIGH), row
        if effects & {"irreversible", "credentials", "body-has-secret"}:
            assert row.risk is Risk.CRITICAL, row
        if {"consent", "mass-data"} <= effects:
            assert row.risk is Risk.CRITICAL, row
        people = r"/api/(.*/)?(profiles?|events|reviews|push-tokens|conversations?)(/\{id\}.*)?"
        if re.fullmatch(people, row.path):
            assert row.personal_data, row


def test_ten_posts_only_read() -> None:
    reading = [row.name for row in ROWS if row.method != "GET" and not row.writes]
    assert sorted(reading) == [
        "query_campaign_values",
        "query_flow_series",
        "query_flow_values",
        "query_form_series",
        "query_form_values",
        "query_metric_aggregates",
        "query_segment_series",
        "query_segment_values",
        "refresh_campaign_recipient_estimation",
        "render_template",
    ]


def _is_sibling(one: Operation, other: Operation) -> bool:
    """The docstring of `by_rule`, in other words than its code."""
    mentioned = set(re.findall(r"/(?!api/|client/|relationships)([a-z]+?)s?(?=[-/]|$)", one.path))
    collection = re.match(r"/(?:api|client)/([a-z]+?)s?(?=[-/]|$)", other.path)
    return one.group == other.group or collection[1] in mentioned


@functools.cache
def judged_without_its_row() -> list[tuple[Operation, Operation]]:
    """Each row beside what the rule says of it when the table does not have it."""
    return [
        (
            row,
            by_rule(
                row.method,
                row.path,
                group=row.group,
                rows=[other for other in ROWS if other is not row],
            ),
        )
        for row in ROWS
    ]


def test_the_rule_is_never_less_strict_than_a_sibling() -> None:
    checked = 0
    for row, judged in judged_without_its_row():
        assert not judged.known
        assert judged.writes >= row.writes
        for other in ROWS:
            if other is row or not _is_sibling(row, other):
                continue
            checked += 1
            assert judged.personal_data >= other.personal_data, (row, other)
            if other.writes == judged.writes:
                assert severity(judged.risk) >= severity(other.risk), (row, other)
    assert checked > 10 * len(ROWS)


def test_where_the_rule_would_be_milder_than_the_table() -> None:
    """Its known limit: the worst of its kind cannot be told from its siblings."""
    milder = {}
    for row, judged in judged_without_its_row():
        assert judged.personal_data >= row.personal_data, row
        if severity(judged.risk) < severity(row.risk):
            milder[row.name] = (row.risk, judged.risk)
    assert milder == {
        "bulk_create_events": (Risk.CRITICAL, Risk.HIGH),
        "delete_list": (Risk.CRITICAL, Risk.HIGH),
        "delete_segment": (Risk.CRITICAL, Risk.HIGH),
        "update_api_key": (Risk.CRITICAL, Risk.HIGH),
    }


def test_an_operation_newer_than_the_table_is_judged_by_the_rule() -> None:
    found, templated, by_url = run("""
        import json
        from dataclasses import asdict
        from klaviyo_audit.klaviyo import catalog, risks
        older = dict(risks.table())
        del older["POST", "/api/webhooks"], older["GET", "/api/webhooks/{}"]
        catalog.table = risks.table = lambda: older
        from openapi_client.api.webhooks_api import WebhooksApi
        found = catalog.operations(WebhooksApi)
        print(json.dumps([
            {name: asdict(found[name]) for name in ("create_webhook", "get_webhook")},
            asdict(catalog.by_template("POST", "/api/webhooks")),
            asdict(catalog.by_url("POST", "/api/webhooks")),
        ]))
    """)
    assert found["create_webhook"] == {
        "group": "Webhooks",
        "name": "create_webhook",
        "method": "POST",
        "path": "/api/webhooks",
        "scopes": ["webhooks:write"],
        "risk": "critical",  # as deleting and changing one are
        "personal_data": True,
        "writes": True,
        "effects": [],
        "known": False,
    }
    assert found["get_webhook"]["risk"] == "low"
    assert found["get_webhook"]["personal_data"] is False
    assert templated == found["create_webhook"]
    # A bare URL says neither name nor scopes.
    assert by_url == found["create_webhook"] | {"name": "post", "scopes": []}


parts = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
words = st.lists(parts, min_size=1, max_size=3).map("-".join)


@settings(deadline=None)
@given(
    method=st.sampled_from(["POST", "PATCH", "PUT", "DELETE"]),
    collection=words,
    related=st.one_of(words, st.sampled_from(["profiles", "tags", "webhooks"])),
)
def test_an_unheard_of_write_is_never_harmless(method: str, collection: str, related: str) -> None:
    for path in (f"/api/{collection}", f"/api/{collection}/{{id}}/relationships/{related}"):
        judged = by_rule(method, path)
        assert judged.writes
        assert judged.personal_data
        assert judged.risk is not Risk.LOW
        if method == "DELETE":
            assert severity(judged.risk) >= severity(Risk.HIGH)


@settings(deadline=None)
@given(collection=words)
def test_a_read_of_something_unheard_of_may_be_about_people(collection: str) -> None:
    first = collection.partition("-")[0].removesuffix("s")
    assume(not any(first in row.path for row in ROWS))
    judged = by_rule("GET", f"/api/{collection}/{{id}}")
    assert (judged.writes, judged.personal_data, judged.risk) == (False, True, Risk.MEDIUM)


# --- other processes: no docstrings, no source, nothing imported, another vendor ---


def run(code: str, *flags: str, first: Path | None = None) -> Any:
    """What a new interpreter that runs `code` prints, decoded from JSON."""
    path = [str(part) for part in (first, REPOSITORY) if part]
    path += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            # SDK 17.0.0 imports all its modules with the package unless told otherwise.
            "KLAVIYO_PYTHON_SDK_LAZY_IMPORTS": "1",
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LISTING = """
    import json
    from dataclasses import asdict
    from klaviyo_audit.klaviyo import catalog
    from openapi_client.api import accounts_api, data_privacy_api, tags_api, webhooks_api
    classes = (accounts_api.AccountsApi, data_privacy_api.DataPrivacyApi, tags_api.TagsApi,
               webhooks_api.WebhooksApi)
    print(json.dumps([
        accounts_api.AccountsApi.get_accounts.__doc__ is None,
        tags_api.__file__,
        [asdict(operation) for api in classes for operation in catalog.operations(api).values()],
    ]))
"""


def _listed_here() -> list[dict[str, Any]]:
    return [
        json.loads(json.dumps(asdict(operation)))
        for group in ("Accounts", "Data_Privacy", "Tags", "Webhooks")
        for operation in catalog.operations(api_class(group)).values()
    ]


def test_without_docstrings_the_catalog_is_the_same() -> None:
    stripped, _, operations = run(LISTING, "-OO")
    assert stripped
    assert operations == _listed_here()


def test_without_source_files_the_catalog_is_the_same(tmp_path: Path) -> None:
    files = run("""
        import json, sys
        from openapi_client.api import accounts_api, data_privacy_api, tags_api, webhooks_api
        print(json.dumps([
            module.__file__ for name, module in list(sys.modules.items())
            if name.partition(".")[0] == "openapi_client"
        ]))
    """)
    root = Path(openapi_client.__file__).parents[1]
    for file in files:
        target = (tmp_path / Path(file).relative_to(root)).with_suffix(".pyc")
        target.parent.mkdir(parents=True, exist_ok=True)
        py_compile.compile(file, cfile=str(target), optimize=2, doraise=True)
    stripped, file, operations = run(LISTING, first=tmp_path)
    assert stripped
    assert Path(file).is_relative_to(tmp_path)
    assert operations == _listed_here()


def test_no_api_module_is_imported_unasked() -> None:
    before, after, told, template = run("""
        import json, sys
        def imported():
            return [name for name in sys.modules if name.startswith("openapi_client.api.")]
        from klaviyo_audit.klaviyo import catalog
        before = imported()
        told = catalog.is_klaviyo_sdk()
        catalog.sdk_version()
        template = catalog.by_template("PATCH", "/api/profiles/{id}/")
        assert catalog.by_url("PATCH", "/api/profiles/01H") == template
        from klaviyo_api import KlaviyoAPI
        assert "Profiles" in catalog.api_groups(KlaviyoAPI)
        print(json.dumps([before, imported(), told, [template.name, template.scopes]]))
    """)
    assert before == after == []
    assert told
    assert template == ["update_profile", ["profiles:write"]]


VENDOR = {
    "__init__.py": "",
    "api_client.py": """
        raise RuntimeError("another vendor's code was run")
        class ApiClient:
            def __init__(self):
                self.user_agent = "OpenAPI-Generator/1.0.0/python"
    """,
    "api/__init__.py": "",
    "api/pets_api.py": """
        class PetsApi:
            def get_pet(self, id):
                return self._get_pet_serialize(id)
            def _get_pet_serialize(self, id):
                return self.api_client.param_serialize(
                    method="GET", resource_path="/api/profiles/{id}"
                )
    """,
}


def test_another_vendors_package_of_that_name_is_left_alone(tmp_path: Path) -> None:
    for name, text in VENDOR.items():
        file = tmp_path / "openapi_client" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    told, operations, error = run(
        """
        import json
        from klaviyo_audit.klaviyo import catalog
        told = catalog.is_klaviyo_sdk()
        from openapi_client.api.pets_api import PetsApi
        try:
            catalog.operation_of(PetsApi.get_pet)
        except LookupError as raised:
            error = str(raised)
        print(json.dumps([told, len(catalog.operations(PetsApi)), error]))
        """,
        first=tmp_path,
    )
    assert told is False
    assert operations == 0
    assert "PetsApi.get_pet is no operation" in error


def test_without_any_sdk_it_is_not_klaviyos(tmp_path: Path) -> None:
    # A package without the module that would tell; then nothing of that name at all.
    (tmp_path / "openapi_client").mkdir()
    (tmp_path / "openapi_client" / "__init__.py").touch()
    code = """
        import json, sys
        from klaviyo_audit.klaviyo import catalog
        first = catalog.is_klaviyo_sdk()
        catalog.is_klaviyo_sdk.cache_clear()
        sys.modules["openapi_client"] = None
        print(json.dumps([first, catalog.is_klaviyo_sdk()]))
    """
    assert run(code, first=tmp_path) == [False, False]
