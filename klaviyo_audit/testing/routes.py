"""The operations of the installed SDK as routes of a server, read from its source text.

Importing the SDK's API modules takes seconds, finding the routes in their text takes a tenth of
one. The text also says what ``-OO`` takes from the running modules: scopes and rate limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_SENT = re.compile(rb"method='([A-Z]+)',\s*resource_path='([^']+)'")
_SCOPES = re.compile(r"\*\*Scopes:\*\*\s*((?:`[^`]+`\s*)+)")
_STEADY = re.compile(r"Steady:\s*`(\d+)/m`")
_BURST = re.compile(r"Burst:\s*`(\d+)/s`")
_ANSWERED = re.compile(r"'(2\d\d|2XX)': \"?(\w+)\"?,")
_DEFAULT_STEADY = 700
_DEFAULT_BURST = 75
_DEFAULT_STATUS = 200


@dataclass(frozen=True, slots=True)
class Route:
    """One operation's stable identity, with where the SDK's source has it."""

    method: str
    """HTTP method, upper case."""
    template: str
    """Path template without a trailing slash, ``/api/profiles/{id}``."""
    source: Path
    """The API module's file."""
    offset: int
    """Where in the file, in bytes, the operation's request is put together."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What the SDK's source says about one route."""

    name: str
    """Canonical name in the installed SDK."""
    scopes: frozenset[str]
    """Scopes that a key needs, from the docstring."""
    steady: int
    """Requests a minute that Klaviyo allows, from the docstring."""
    burst: int
    """Requests a second that Klaviyo allows, from the docstring."""
    status: int
    """Status of success."""
    model: tuple[str, str] | None
    """Module and class of the response; ``None`` where the body is empty."""


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """Where a path leads."""

    route: Route | None
    """``None``: the path exists, but not with this method."""
    values: tuple[str, ...]
    """What stands in the path for the template's parameters, unquoted, in order."""


class RouteTable:
    """Finds the operation a request is for.

    Args:
        routes: All routes there are.
    """

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.template.strip("/").split("/"):
                if segment.startswith("{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment, _Node())
            node.routes[route.method] = route

    def match(self, method: str, path: str) -> Match | None:
        """The route of a concrete path, or ``None`` where no operation has such a path.

        A literal segment wins over a parameter; a trailing slash does not matter.
        """
        node = self._root
        values: list[str] = []
        for segment in path.strip("/").split("/"):
            following = node.literals.get(segment)
            if following is None:
                following = node.parameter
                values.append(unquote(segment))
            if following is None:
                return None
            node = following
        if not node.routes:
            return None
        return Match(node.routes.get(method), tuple(values))


@cache
def sdk_routes() -> tuple[Route, ...]:
    """All routes of the installed SDK. No module of it is imported.

    Raises:
        LookupError: There is no SDK, or its source cannot be read.
    """
    spec = find_spec("openapi_client")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found: list[Route] = []
    for folder in folders:
        for source in sorted(Path(folder, "api").glob("*_api.py")):
            for sent in _SENT.finditer(source.read_bytes()):
                template = sent[2].decode().rstrip("/")
                found.append(Route(sent[1].decode(), template, source, sent.start()))
    if not found:
        raise LookupError(
            f"No operation of Klaviyo's SDK was found in {folders or 'the installed packages'}: "
            "FakeKlaviyo reads them from the source of klaviyo-api (package openapi_client); "
            "install klaviyo-api 17.0.0 or newer"
        )
    return tuple(found)


@cache
def sdk_route_table() -> RouteTable:
    """The table of all routes of the installed SDK, made once."""
    return RouteTable(sdk_routes())


@cache
def operation_of(route: Route) -> Operation:
    """What the SDK's source says about a route, read again from its file and kept.

    Raises:
        LookupError: The source does not look as in SDK 17.0.0 to 25.0.0.
    """
    text = route.source.read_bytes()
    serialize = text.rfind(b"def _", 0, route.offset)
    name = text[serialize + len(b"def _") : text.find(b"_serialize(", serialize)].decode()
    start = text.find(f"def {name}(".encode())
    answers = text.find(b"_response_types_map: ", start)
    end = text.find(b"}", answers)
    if min(serialize, start, answers, end) < 0:
        raise LookupError(
            f"The operation of {route.method} {route.template} cannot be read from {route.source}"
        )
    about = text[start:answers].decode()
    scopes = _SCOPES.search(about)
    steady, burst = _STEADY.search(about), _BURST.search(about)
    status, model = _success(text[answers:end].decode())
    return Operation(
        name=name,
        scopes=frozenset(re.findall(r"`([^`]+)`", scopes[1])) if scopes else frozenset(),
        steady=int(steady[1]) if steady else _DEFAULT_STEADY,
        burst=int(burst[1]) if burst else _DEFAULT_BURST,
        status=status,
        model=(_module_of(text, model), model) if model else None,
    )


def _success(answers: str) -> tuple[int, str | None]:
    declared = _ANSWERED.search(answers)
    if declared is None:
        return _DEFAULT_STATUS, None
    status = int(declared[1]) if declared[1].isdecimal() else _DEFAULT_STATUS
    return status, None if declared[2] == "None" else declared[2].strip('"')


def _module_of(text: bytes, model: str) -> str:
    imported = re.search(rb"from (openapi_client\.models\.\w+) import %b\n" % model.encode(), text)
    if imported is None:
        raise LookupError(f"The SDK's source does not say in which module {model} is")
    return imported[1].decode()


def model_class(operation: Operation) -> Any:
    """The pydantic model of an operation's response; imports its module.

    Raises:
        LookupError: The operation's response has no body.
    """
    from importlib import import_module

    if operation.model is None:
        raise LookupError(f"The response of {operation.name} has no body")
    module, name = operation.model
    return getattr(import_module(module), name)
