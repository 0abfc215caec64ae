"""Every operation of the installed SDK accepts the arguments made for it, up to the request."""

from __future__ import annotations

import functools
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from klaviyo_api import KlaviyoAPI
from openapi_client.api_client import ApiClient

from klaviyo_audit.klaviyo import catalog
from tests.contract.arguments import TEXT, arguments_for

GROUPS = catalog.api_groups(KlaviyoAPI)
VARIANTS = ("", "_with_http_info", "_without_preload_content")


class Sent(Exception):
    """The SDK has a request ready."""


class Unconnected(ApiClient):
    """The SDK's own client, with its last step taken out: nothing goes to a network."""

    def call_api(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        header_params, body, post_params = args[:3]
        raise Sent(method, urlsplit(url).path, header_params, body, post_params)


@pytest.fixture
def client() -> KlaviyoAPI:
    client = KlaviyoAPI("not-a-key")
    client.api_client = Unconnected(client.configuration)
    return client


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_in_every_variant_comes_to_a_request(group: str, client: KlaviyoAPI) -> None:
    api = getattr(client, group)
    bare = type(api)(client.api_client)  # the SDK's retry layer hides the signature
    for name, operation in catalog.operations(type(api)).items():
        for suffix in VARIANTS:
            function = getattr(bare, name + suffix)
            arguments = arguments_for(function)
            with pytest.raises(Sent) as sent:
                getattr(api, name + suffix)(**arguments)
            method, path, _, body, files = sent.value.args
            assert (method, path) == (operation.method, _filled(operation.path)), name
            if method == "POST":
                assert body or files, name
            if body is not None:
                assert '"type"' in json.dumps(body), name


def _filled(template: str) -> str:
    return "/".join(TEXT if part.startswith("{") else part for part in template.split("/"))


def test_only_what_is_required_is_given(client: KlaviyoAPI) -> None:
    api = type(client.Profiles)
    assert arguments_for(api.get_profiles) == {}
    assert arguments_for(api.get_profile) == {"id": TEXT}
    assert list(arguments_for(api.update_profile)) == ["id", "profile_partial_update_query"]


def test_a_body_is_new_at_each_call(client: KlaviyoAPI) -> None:
    function = type(client.Lists).create_list
    first, second = arguments_for(function), arguments_for(function)
    assert first == second
    first["list_create_query"].data.attributes.name = "changed"
    assert first != second
    assert arguments_for(function) == second


def test_a_file_is_bytes_since_a_name_would_be_opened(client: KlaviyoAPI) -> None:
    assert arguments_for(type(client.Images).upload_image_from_file) == {"file": TEXT.encode()}


def test_a_bound_or_wrapped_method_is_seen_through(client: KlaviyoAPI) -> None:
    bare = type(client.Lists)(client.api_client)

    @functools.wraps(bare.get_list)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return bare.get_list(*args, **kwargs)

    assert arguments_for(wrapper) == arguments_for(bare.get_list) == {"id": TEXT}


def test_an_unknown_type_is_an_error_that_names_it() -> None:
    def operation(amount): ...

    operation.__annotations__["amount"] = complex
    with pytest.raises(TypeError, match="complex"):
        arguments_for(operation)
