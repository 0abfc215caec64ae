"""The trail against Klaviyo's own description of its API, which Prism serves."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import AuditEntry, Auditor, audit
from tests import planted
from tests.contract.arguments import arguments_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Starting Prism takes a minute, and every operation under every name half a minute.
pytestmark = pytest.mark.timeout(600)

METHODS = {"get", "post", "put", "patch", "delete"}


@dataclass(frozen=True, slots=True)
class Called:
    """One call, and what the caller saw of it."""

    group: str
    name: str
    operation: str
    """Canonical name."""
    raised: str | None
    """Type of the exception."""


@dataclass(frozen=True, slots=True)
class Run:
    """A series of calls beside the outcomes that were recorded, both in order."""

    calls: list[Called]
    outcomes: list[AuditEntry]
    text: str

    def pairs(self) -> Iterator[tuple[Called, AuditEntry]]:
        return zip(self.calls, self.outcomes, strict=True)


def test_every_name_of_every_operation_has_one_outcome(full_run: Run, described: dict) -> None:
    called = [(call.group, call.operation, call.name) for call in full_run.calls]
    recorded = [(e.call.group, e.call.operation, e.call.called_as) for e in full_run.outcomes]
    assert recorded == called
    assert len({entry.id for entry in full_run.outcomes}) == len(called)
    assert {call.operation for call in full_run.calls} == set(described)


def test_method_path_and_scopes_are_those_of_the_file(full_run: Run, described: dict) -> None:
    recorded = {
        e.call.operation: (e.call.method, e.call.path, sorted(e.call.scopes or ()))
        for e in full_run.outcomes
    }
    assert recorded == {
        name: (method, path, sorted(operation.get("x-klaviyo-scopes", ())))
        for name, (method, path, operation) in described.items()
    }


def test_aliases_are_those_of_the_file(full_run: Run, described: dict) -> None:
    recorded = defaultdict(set)
    for entry in full_run.outcomes:
        recorded[entry.call.operation].add(entry.call.called_as)
    assert recorded == {
        name: {name, *operation.get("x-klaviyo-operation-aliases", ())}
        for name, (_, _, operation) in described.items()
    }


def test_resource_is_the_path_with_the_arguments_in_it(full_run: Run) -> None:
    for entry in full_run.outcomes:
        template = re.sub(r"\\{\w+\\}", "[^/{}]+", re.escape(entry.call.path))
        assert re.fullmatch(template, entry.resource.rstrip("/")), entry


def test_what_klaviyo_answers_by_its_own_description_is_a_success(
    full_run: Run, described: dict
) -> None:
    other = [
        (call.operation, entry.result, entry.http.status, entry.http.attempts, entry.http.requests)
        for call, entry in full_run.pairs()
        if (entry.result, entry.http.attempts, entry.http.requests) != ("success", 1, 1)
        or str(entry.http.status) not in described[call.operation][2]["responses"]
    ]
    assert other == []


def test_an_answer_the_models_refuse_is_a_success_with_an_error(full_run: Run) -> None:
    recorded = [entry.error.type if entry.error else None for entry in full_run.outcomes]
    assert recorded == [call.raised for call in full_run.calls]
    stages = {entry.error.stage for entry in full_run.outcomes if entry.error}
    assert stages <= {"after_response"}


def test_the_key_is_named_and_not_shown(full_run: Run) -> None:
    assert planted.found_in(full_run.text) == []
    # What browsers and apps call is signed with the account's public key instead.
    entries = [e for e in full_run.outcomes if not e.call.path.startswith("/client/")]
    fingerprint = hashlib.sha256(planted.API_KEY.encode()).hexdigest()[:12]
    assert {(e.key.kind, e.key.fingerprint) for e in entries} == {("private", fingerprint)}


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_error_answer_is_a_failure_with_its_status(
    status: int, prism: str, described: dict, tmp_path: Path
) -> None:
    run = _run(prism, described, tmp_path, aliases=False, _headers={"Prefer": f"code={status}"})
    assert {entry.call.operation for entry in run.outcomes} == set(described)
    other = [
        (call.operation, entry.result, entry.http.status, entry.error.type, entry.error.stage)
        for call, entry in run.pairs()
        if (entry.result, entry.http.status, entry.error.type, entry.error.stage)
        != ("failure", status, call.raised, "http")
    ]
    assert other == []


@pytest.fixture(scope="module")
def described(openapi: dict) -> dict[str, tuple[str, str, dict]]:
    """Method, path template and description of each operation that the SDK has, by its name."""
    installed = {name for _, name, _ in _operations(KlaviyoAPI(planted.API_KEY))}
    return {
        operation["operationId"]: (method.upper(), path.rstrip("/"), operation)
        for path, item in openapi["paths"].items()
        for method, operation in item.items()
        if method in METHODS
        # The SDK leaves out most of what browsers and apps call, which send a public key.
        and (operation["operationId"] in installed or not path.startswith("/client/"))
    }


@pytest.fixture(scope="module")
def full_run(prism: str, described: dict, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every operation once under each of its names, all answered as described."""
    return _run(prism, described, tmp_path_factory.mktemp("journal"), aliases=True)


def _run(host: str, described: dict, folder: Path, *, aliases: bool, **extra: Any) -> Run:
    client = KlaviyoAPI(planted.API_KEY, max_retries=0, test_host=host)
    calls = []
    with Auditor(journal=folder) as auditor:
        audited = audit(client, auditor=auditor)
        for group, name, function in _operations(client):
            if not aliases and name != function.__name__:
                continue
            arguments = _arguments(function, described[function.__name__][2])
            raised = None
            try:
                getattr(getattr(audited, group), name)(**arguments, **extra)
            except Exception as error:
                raised = type(error).__name__
            calls.append(Called(group, name, function.__name__, raised))
    lines = (folder / "audit.jsonl").read_text()
    entries = [AuditEntry.from_json(line) for line in lines.splitlines()]
    return Run(calls, [entry for entry in entries if entry.phase == "outcome"], lines)


def _arguments(function: Any, operation: dict) -> dict[str, Any]:
    """Arguments by the types, made to fit the file in the two places where it asks for more."""
    arguments = arguments_for(function)
    for body in arguments.values():
        attributes = getattr(getattr(body, "data", None), "attributes", None)
        if hasattr(attributes, "timeframe"):  # to the SDK any dictionary
            attributes.timeframe = {"key": "last_7_days"}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and "enum" in parameter["schema"]:  # to the SDK any string
            arguments[parameter["name"]] = parameter["schema"]["enum"][0]
    return arguments


def _operations(client: KlaviyoAPI) -> Iterator[tuple[str, str, Any]]:
    """Group, name and function of every operation, an alias being a name of its own."""
    for group, member in inspect.getmembers(type(client)):
        if not isinstance(member, property):
            continue
        for name, function in vars(type(getattr(client, group))).items():
            variant = name.endswith(("_with_http_info", "_without_preload_content"))
            if inspect.isfunction(function) and not name.startswith("_") and not variant:
                yield group, name, function
