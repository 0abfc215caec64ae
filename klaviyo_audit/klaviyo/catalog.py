"""The operations of the installed Klaviyo SDK."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, cast

from klaviyo_audit.klaviyo.risks import Operation, by_rule, key, table, template_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from importlib.machinery import ModuleSpec

    from klaviyo_audit.entry import Variant

__all__ = [
    "Operation",
    "api_groups",
    "by_template",
    "by_url",
    "is_klaviyo_sdk",
    "operation_of",
    "operations",
    "sdk_sources",
    "sdk_version",
]

_API_PACKAGE = "openapi_client.api"
_CLIENT_MODULE = "openapi_client.api_client"
_USER_AGENT = "klaviyo-api-python/"
_METHODS = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"})
_SUFFIXES: tuple[tuple[str, Variant], ...] = (
    ("_with_http_info", "with_http_info"),
    ("_without_preload_content", "without_preload_content"),
)
_METHOD = re.compile(r"[A-Za-z]{1,16}")
_SCOPES = re.compile(r"\*\*Scopes:\*\*((?:\s*`[^`\s]+`)+)")


def operation_of(func: Callable[..., Any]) -> tuple[Operation, Variant]:
    """The operation that a function of an API class calls, and which of its variants it is.

    Method and template are read from the constants of the compiled ``_<name>_serialize`` function
    beside it, which are there without source files and under ``python -OO`` too. Nothing of the
    SDK is run.

    Args:
        func: A function of a class in ``openapi_client.api``, or a method bound to an object of
            one, under any alias.

    Raises:
        LookupError: It is no operation of Klaviyo's SDK.
    """
    function = getattr(func, "__func__", func)
    if not isinstance(function, Hashable):
        raise _no_operation(function)
    return _resolve(function)


def operations(api_class: type) -> dict[str, Operation]:
    """The operations of one API class by public name, aliases included, variants not."""
    return dict(_operations(api_class))


def by_template(method: str, path: str) -> Operation | None:
    """The operation with this HTTP method and path template; None if it is not known.

    Looks in the API modules that the program has imported, then in the table, whose names are those
    of the newest SDK. Imports none itself.

    Args:
        method: HTTP method, in any case.
        path: Path template; a trailing slash and the names of parameters don't count.
    """
    wanted = key(method, path)
    row = table().get(wanted)
    for api_class in _imported_classes(row.group if row else None):
        found = _by_identity(api_class).get(wanted)
        if found is not None:
            return found
    return row


def by_url(method: str, url_path: str) -> Operation:
    """The operation that a request is, told by its URL.

    Args:
        method: HTTP method, in any case. What can be none (a URL, where arguments were swapped) is
            told as ``OTHER``: it may hold anything.
        url_path: Concrete path (``/api/profiles/01H.../lists``) or URL. Of several templates that
            fit, the most literal is taken.

    Returns:
        An operation made by `by_rule` if no template fits. Its path holds ``{id}`` in place of all
        that may be an id.
    """
    if not _METHOD.fullmatch(method):
        method = "OTHER"
    segments = _segments(url_path)
    template = _best_template(_templates().get(method.upper(), {}), segments)
    if template is not None:
        return by_template(method, template) or table()[key(method, template)]
    return _unlisted(method.upper(), template_of("/" + "/".join(segments)))


@cache
def sdk_version() -> str:
    """Version of the installed ``klaviyo-api``; ``unknown`` where its metadata was left out."""
    from importlib import metadata  # it imports the e-mail package

    try:
        return metadata.version("klaviyo-api")
    except metadata.PackageNotFoundError:
        return "unknown"


def api_groups(client_class: type) -> tuple[str, ...]:
    """Names of the properties of ``KlaviyoAPI`` (or a subclass) that are API groups.

    Told by what their getters import, so that none is built and no API module is imported.
    """
    return _api_groups(client_class)


@cache
def is_klaviyo_sdk() -> bool:
    """Whether ``openapi_client`` is Klaviyo's and not another vendor's package of that name.

    Told by the user agent in the code of its ``ApiClient``. Nothing of the package is run, and it
    is not imported: in 17.0.0 that alone would import every API module.
    """
    spec = _client_spec()
    get_code = getattr(spec.loader, "get_code", None) if spec else None
    try:
        code = get_code(_CLIENT_MODULE) if get_code else None
    except (ImportError, OSError):  # the package's files are gone, or are no Python
        return False
    return code is not None and any(text.startswith(_USER_AGENT) for text in _strings(code))


def sdk_sources() -> Iterator[tuple[str, str]]:
    """Each API group in lower case, with the source of its module; nothing is imported.

    Nothing at all where the SDK was installed without its source.
    """
    spec = importlib.util.find_spec("openapi_client") if is_klaviyo_sdk() else None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder, "api").glob("*_api.py")):
            with suppress(OSError):
                yield path.name.removesuffix("_api.py"), path.read_text("utf-8", "replace")


def _no_operation(thing: object) -> LookupError:
    # Only the type's name: a repr could hold a key (that of KlaviyoAPI does).
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return LookupError(
        f"{name!s} is no operation of Klaviyo's SDK: pass a method of an API group, "
        "such as client.Profiles or openapi_client.api.ProfilesApi."
    )


@cache
def _resolve(function: Callable[..., Any]) -> tuple[Operation, Variant]:
    try:
        raw = inspect.unwrap(function)  # validate_call of pydantic, and whoever wrapped after it
    except ValueError as error:
        raise _no_operation(function) from error
    if not (isinstance(raw, FunctionType) and str(raw.__module__).startswith(_API_PACKAGE + ".")):
        raise _no_operation(function)
    name, variant = _split(raw.__name__)
    api_class = raw.__globals__.get(raw.__qualname__.rpartition(".")[0])
    serialize = inspect.unwrap(getattr(api_class, f"_{name}_serialize", raw))
    identity = _identity(serialize) if serialize is not raw else None
    if identity is None or not is_klaviyo_sdk():
        raise _no_operation(function)
    return _judge(*identity, _group_of(raw.__module__), name, raw.__doc__), variant


def _judge(method: str, path: str, group: str, name: str, doc: str | None) -> Operation:
    stated = _SCOPES.search(doc or "")  # python -OO leaves no docstring
    scopes = tuple(sorted(re.findall(r"`([^`]+)`", stated[1]))) if stated else ()
    row = table().get(key(method, path))
    if row is None:
        return by_rule(method, path, group=group, name=name, scopes=scopes)
    return replace(row, group=group, name=name, path=path, scopes=scopes or row.scopes)


def _split(name: str) -> tuple[str, Variant]:
    for suffix, variant in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix), variant
    return name, "plain"


def _identity(serialize: Any) -> tuple[str, str] | None:
    code = getattr(serialize, "__code__", None)
    constants = [c for c in getattr(code, "co_consts", ()) if isinstance(c, str)]
    methods = {text for text in constants if text in _METHODS}
    paths = {text for text in constants if text.startswith("/")}
    if len(methods) != 1 or len(paths) != 1:
        return None
    return methods.pop(), paths.pop().rstrip("/")


def _group_of(module: str) -> str:
    """``openapi_client.api.web_feeds_api`` is the property ``Web_Feeds``."""
    return "_".join(part.title() for part in module.rpartition(".")[2].split("_")[:-1])


@cache
def _api_groups(client_class: type) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for owner in reversed(client_class.__mro__):
        for name, member in vars(owner).items():
            getter = member.fget if isinstance(member, property) else None
            if isinstance(getter, FunctionType) and _API_PACKAGE in getter.__code__.co_names:
                names[name] = None
    return tuple(names)


@cache
def _operations(api_class: type) -> Mapping[str, Operation]:
    found: dict[str, Operation] = {}
    for owner in reversed(api_class.__mro__):
        for name, member in vars(owner).items():
            if name.startswith("_"):
                continue
            try:
                operation, variant = operation_of(member)
            except LookupError:
                found.pop(name, None)  # a subclass put something else in its place
                continue
            if variant == "plain":
                found[name] = operation
    return found


@cache
def _by_identity(api_class: type) -> Mapping[tuple[str, str], Operation]:
    return {key(found.method, found.path): found for found in _operations(api_class).values()}


def _imported_classes(group: str | None) -> Iterator[type]:
    """API classes the program has imported: that of one group, or all."""
    names = [f"{_API_PACKAGE}.{group.lower()}_api"] if group else list(sys.modules)
    for name in names:
        if name.startswith(_API_PACKAGE + ".") and name.endswith("_api"):
            class_name = _group_of(name).replace("_", "") + "Api"
            # None while another thread is still importing the module
            api_class = getattr(sys.modules.get(name), class_name, None)
            if isinstance(api_class, type):
                yield api_class


@lru_cache(maxsize=1024)
def _unlisted(method: str, template: str) -> Operation:
    return by_rule(method, template)


def _segments(url_path: str) -> list[str]:
    """Segments from ``api`` or ``client`` on, with ``.`` and ``..`` resolved as urllib3 does."""
    path = url_path.partition("#")[0].partition("?")[0]
    path = path.partition("://")[2].partition("/")[2] if "://" in path else path
    resolved: list[str] = []
    for segment in path.strip("/").split("/"):
        if segment == "..":
            del resolved[-1:]
        elif segment != ".":
            resolved.append(segment)
    # A proxy's address can have a path of its own before Klaviyo's.
    starts = [resolved.index(prefix) for prefix in ("api", "client") if prefix in resolved]
    return resolved[min(starts, default=0) :]


@cache
def _templates() -> Mapping[str, Mapping[str, Any]]:
    """A tree of path segments for each HTTP method; the template itself is under ``/``."""
    trees: dict[str, dict[str, Any]] = {}
    for operation in table().values():
        branch = trees.setdefault(operation.method, {})
        for segment in operation.path.strip("/").split("/"):
            branch = branch.setdefault("{}" if segment.startswith("{") else segment, {})
        branch["/"] = operation.path
    return trees


def _best_template(tree: Mapping[str, Any], segments: list[str]) -> str | None:
    if not segments:
        return cast("str | None", tree.get("/"))
    first, rest = segments[0], segments[1:]
    for branch in (first, "{}") if first else ():
        if branch in tree:
            found = _best_template(tree[branch], rest)
            if found is not None:
                return found
    return None


def _client_spec() -> ModuleSpec | None:
    imported = sys.modules.get(_CLIENT_MODULE)
    if imported is not None:
        return getattr(imported, "__spec__", None)
    try:
        package = importlib.util.find_spec("openapi_client")
    except ValueError:  # something without a spec was put in its place
        return None
    if package is None:
        return None
    return PathFinder.find_spec(_CLIENT_MODULE, package.submodule_search_locations)


def _strings(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _strings(constant)
