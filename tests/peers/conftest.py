"""Peers for the tests beside it; a missing one skips them, or fails them where it is required."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest
from klaviyo_api import KlaviyoAPI

from tests.peers.prism import openapi_file, prism_command, serve
from tests.peers.processes import PeerMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def required() -> Iterator[None]:
    """Skip the test whose peer is missing, or fail it where peers are required."""
    try:
        yield
    except PeerMissing as missing:
        if os.environ.get("KLAVIYO_AUDIT_REQUIRE_PEERS") == "1":
            pytest.fail(f"required by KLAVIYO_AUDIT_REQUIRE_PEERS=1: {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture
def needed() -> Callable[[Path], None]:
    """Tells that a program is needed: without it the test is skipped, or fails where required."""

    def need(program: Path) -> None:
        with required():
            if not program.exists():
                raise PeerMissing(f"{program.name} is missing: run `make peers`")

    return need


@pytest.fixture(scope="session")
def openapi() -> dict:
    """Klaviyo's OpenAPI document, of the same revision as the installed SDK."""
    with required():
        file = openapi_file()
        document = orjson.loads(file.read_bytes())
        described = document["info"]["version"]
        spoken = KlaviyoAPI("not-a-key").api_client.default_headers["revision"]
        if described != spoken:
            raise PeerMissing(
                f"an SDK of revision {described} is missing, which {file.name} describes (the "
                f"installed one speaks {spoken}): run `make peers-test`"
            )
    return document


@pytest.fixture(scope="session")
def prism(openapi: dict, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prism that serves Klaviyo's OpenAPI file; what it prints goes to a file."""
    with required():
        command = prism_command()
    output = tmp_path_factory.mktemp("prism") / "output.txt"
    with serve(command, openapi_file(), output) as host:
        yield host
