"""Every operation of the installed SDK gets an answer that the SDK's own models accept."""

import importlib
import inspect
import json
import subprocess
import sys
import threading
import typing
from collections import defaultdict
from datetime import UTC, date, datetime
from enum import Enum
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from klaviyo_audit.testing import FakeKlaviyo, answers
from klaviyo_audit.testing.registry import HANDLERS
from klaviyo_audit.testing.routes import operation_of, sdk_route_table, sdk_routes
from tests.waiting import PATIENCE

BY_MODULE = defaultdict(list)
for _route in sdk_routes():
    BY_MODULE[_route.source.stem].append(_route)


@pytest.fixture
def fake():
    with FakeKlaviyo() as server:
        yield server


def api_class(module_name):
    module = importlib.import_module(f"openapi_client.api.{module_name}")
    (only,) = [
        each
        for name, each in vars(module).items()
        if inspect.isclass(each) and name.endswith("Api") and each.__module__ == module.__name__
    ]
    return only


def declared_model(api, name):
    """The response's model by the annotation, which is not where FakeKlaviyo takes it from."""
    returned = inspect.signature(getattr(api, name + "_with_http_info")).return_annotation
    parameters = getattr(returned, "__pydantic_generic_metadata__", {}).get("args")
    (model,) = parameters or typing.get_args(returned)
    return model


@pytest.mark.parametrize("module", sorted(BY_MODULE))
def test_all_operations(module):
    api = api_class(module)
    wrong = []
    for route in BY_MODULE[module]:
        operation = operation_of(route)
        body = answers.body_of(operation).about("01HSOMETHING")
        model = declared_model(api, operation.name)
        try:
            if model is None:
                assert body == b""
            else:
                assert model.from_dict(json.loads(body)) is not None
        except Exception as error:
            wrong.append(f"{operation.name} ({model}): {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(BY_MODULE))
def test_no_operation_is_left_out(module):
    api = api_class(module)
    # An alias is the same function under another name.
    named = {
        value.__name__.removeprefix("_").removesuffix("_serialize")
        for name, value in vars(api).items()
        if name.startswith("_") and name.endswith("_serialize")
    }
    assert {operation_of(route).name for route in BY_MODULE[module]} == named


def test_scopes_and_limits_are_the_documented_ones():
    def of(method, path):
        return operation_of(sdk_route_table().match(method, path).route)

    merge = of("POST", "/api/profile-bulk-import-jobs")
    assert merge.scopes == {"lists:write", "profiles:write"}
    assert (merge.steady, merge.status) == (150, 202)
    assert of("GET", "/api/events").steady == 3500
    assert of("DELETE", "/api/lists/x").model is None
    without_scopes = [route for route in sdk_routes() if not operation_of(route).scopes]
    assert len(without_scopes) <= 1, without_scopes


def test_routes_of_handlers_are_routes_of_the_sdk():
    known = {(route.method, route.template) for route in sdk_routes()}
    assert set(HANDLERS) <= known


def test_reading_the_routes_imports_no_sdk_module(run_python):
    run_python(
        "import sys\n"
        "from klaviyo_audit.testing import FakeKlaviyo\n"
        "FakeKlaviyo().start().close()\n"
        "assert not [name for name in sys.modules if name.startswith('openapi_client.')]\n"
        "assert 'klaviyo_api' not in sys.modules\n"
    )


def test_scopes_are_known_without_docstrings(run_python):
    run_python(
        "from klaviyo_audit.testing.routes import operation_of, sdk_route_table\n"
        "route = sdk_route_table().match('GET', '/api/profiles').route\n"
        "raise SystemExit(0 if operation_of(route).scopes == {'profiles:read'} else 1)\n",
        "-OO",
    )


@pytest.fixture
def run_python():
    def run(code, *options):
        command = [sys.executable, *options, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr

    return run


SAMPLE = [
    ("Accounts", "get_accounts", {}),
    ("Accounts", "get_account", {"id": "AbC123"}),
    ("Campaigns", "get_campaigns", {"filter": "equals(messages.channel,'email')"}),
    ("Catalogs", "get_catalog_item", {"id": "$custom:::$default:::SKU-1"}),
    ("Events", "get_events", {}),
    ("Flows", "get_flows", {}),
    ("Images", "get_image", {"id": "7"}),
    ("Metrics", "get_metric", {"id": "Y6nRLr"}),
    ("Profiles", "get_profile", {"id": "01HPROFILE"}),
    ("Segments", "get_segment", {"id": "Y6nRLr"}),
    ("Tags", "get_tags", {}),
    ("Templates", "get_template", {"id": "Y6nRLr"}),
    ("Webhooks", "get_webhooks", {}),
]


@pytest.mark.parametrize(("group", "operation", "arguments"), SAMPLE)
def test_through_the_sdk(fake, group, operation, arguments):
    api = getattr(fake.client(), group)
    answered = getattr(api, operation + "_with_http_info")(**arguments)
    assert answered.status_code == 200
    assert isinstance(answered.data, BaseModel)
    if "id" in arguments:
        assert answered.data.data.id == arguments["id"]
    assert getattr(api, operation)(**arguments) == answered.data


def test_what_is_created_gets_an_id_of_its_own(fake):
    tags = fake.client().Tags
    body = {"data": {"type": "tag", "attributes": {"name": "winter"}}}
    assert tags.create_tag(body).data.id != tags.create_tag(body).data.id


def test_sparse_fields_and_includes_are_answered(fake):
    answer = fake.client().Profiles.get_profile("01H", fields_profile=["email"])
    assert isinstance(answer, dict)
    assert answer["data"]["id"] == "01H"


def test_headers_are_those_of_klaviyo(fake):
    client = fake.client()
    profiles = client.Profiles
    first = profiles.get_profile_with_http_info("01H").headers
    second = profiles.get_profile_with_http_info("01H").headers
    assert first["Content-Type"] == "application/vnd.api+json"
    assert first["x-klaviyo-api-revision"] == client._REVISION
    assert first["x-klaviyo-req-id"] != second["x-klaviyo-req-id"]
    assert first["CF-Ray"] != second["CF-Ray"]
    limit = int(first["RateLimit-Limit"])
    assert limit == operation_of(sdk_route_table().match("GET", "/api/profiles/x").route).steady
    assert int(first["RateLimit-Remaining"]) < limit
    assert 1 <= int(first["RateLimit-Reset"]) <= 60
    assert [each.request_id for each in fake.requests] == [
        first["x-klaviyo-req-id"],
        second["x-klaviyo-req-id"],
    ]


@given(st.text(min_size=1).filter(lambda text: "\udc80" not in text))
def test_any_id_is_found_in_the_path(value):
    match = sdk_route_table().match("GET", f"/api/profiles/{quote(value, safe='')}/lists/")
    assert match.route.template == "/api/profiles/{id}/lists"
    assert match.values == (value,)


@pytest.mark.parametrize("path", ["/", "", "/api", "/api/nothing", "/api/profiles/1/2/3"])
def test_unknown_paths_lead_nowhere(path):
    assert sdk_route_table().match("GET", path) is None


def test_a_path_with_another_method():
    assert sdk_route_table().match("PATCH", "/api/profiles").route is None


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    id: str
    again: list["Inner"]


class Everything(BaseModel):
    data: Inner
    when: datetime
    day: date
    colour: Colour
    one_of: typing.Literal["a", "b"]
    number: float | int
    maybe: str | None
    free: dict[str, typing.Any]
    named: str = Field(alias="self")
    left_out: str = "default"


def test_kinds_of_fields():
    made = answers._example_of_model(Everything, ())
    parsed = Everything.model_validate(made)
    assert parsed.data.again == []
    assert parsed.when == datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
    assert made["self"].startswith("https://")
    assert "left_out" not in made


def test_a_field_that_nothing_can_be_made_for_is_named():
    class Odd(BaseModel, arbitrary_types_allowed=True):
        strange: type(threading.Lock())

    with pytest.raises(TypeError, match="field strange of Odd"):
        answers._example_of_model(Odd, ())
