"""Whether a program that receives Klaviyo's webhooks verifies them, by its source."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klaviyo_audit.security.checks.outcome import Outcome, Place, failed, listed, passed, unchecked
from klaviyo_audit.security.code_scopes import parsed, python_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klaviyo_audit.security.checks.project import Project

_VERIFIERS: Final = frozenset(
    {"verify_webhook", "verify_signature", "KlaviyoWebhooks", "klaviyo_webhook", "WebhookReceiver"}
)
_PACKAGE: Final = "klaviyo_audit"
_HEADERS: Final = re.compile(r"(?i)^(?:http[_-])?klaviyo[_-](?:signature|timestamp|webhook[_-]id)$")
_ROUTING: Final = frozenset(
    {
        "add_api_route", "add_post", "add_route", "add_url_rule", "api_route", "path", "post",
        "put", "re_path", "route", "Route", "url",
    }
)  # fmt: skip
_TESTS: Final = re.compile(r"(?:^|/)(?:tests?/|test_[^/]*\.py$|[^/]*_test\.py$|conftest\.py$)")


@dataclass(slots=True)
class WebhookCode:
    """What the source says about webhooks."""

    received: list[Place] = field(default_factory=list)
    """Routes, functions and headers of Klaviyo's webhooks."""
    verified: list[Place] = field(default_factory=list)
    """Uses of what verifies them in this package."""
    unread: list[tuple[str, str]] = field(default_factory=list)
    files: int = 0


def webhooks(project: Project) -> Outcome:
    """Where Klaviyo's webhooks are received, something of this package verifies them."""
    code = read_webhook_code(project.path)
    if code.unread and not code.verified:
        # What verifies them may be in there.
        names = listed([f"{name} ({why})" for name, why in code.unread])
        return unchecked(f"not read as Python: {names}", "correct the files, or let them be read")
    if code.received and not code.verified:
        places = [_shown(place) for place in code.received]
        return failed(
            f"webhooks are received and nothing of klaviyo_audit verifies them: {listed(places)}",
            "verify_webhook(body, headers, secret), or a receiver (docs/webhooks.md) on it",
            code.received,
        )
    if code.verified:
        return passed(f"verified by {listed([_shown(place) for place in code.verified])}")
    return unchecked(f"no route of Klaviyo's webhooks is in {code.files:,} files of Python")


def read_webhook_code(path: Path) -> WebhookCode:
    """Read the Python files below a path, but for tests.

    Received are webhooks where a route's path or a function's name has ``webhook`` in it and the
    word klaviyo stands there or in an import of the file, and where one of the headers is named.
    What verifies them has to be imported from this package, and used.

    Raises:
        ScanFailed: There is nothing there that could be read.
    """
    found = WebhookCode()

    def unread(name: str, why: str) -> None:
        found.unread.append((name, why))

    for source in python_files(path, unread):
        if _TESTS.search(source.path):
            continue
        tree = parsed(source, unread)
        if tree is None:
            continue
        found.files += 1
        nodes = list(ast.walk(tree))
        found.received += _places(source.path, _received(nodes))
        found.verified += _places(source.path, _verified(nodes))
    return found


def _received(nodes: list[ast.AST]) -> Iterator[int]:
    in_klaviyo = any("klaviyo" in module for node in nodes for module in _modules(node))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name.lower()
            if "webhook" in name and "klaviyo" in name:
                yield node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _HEADERS.match(node.value):
                yield node.lineno
        elif isinstance(node, ast.Call) and _called(node.func) in _ROUTING:
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                text = argument.value if isinstance(argument, ast.Constant) else None
                words = text.lower() if isinstance(text, str) else ""
                if "hook" in words and (in_klaviyo or "klaviyo" in words):
                    yield node.lineno


def _verified(nodes: list[ast.AST]) -> Iterator[int]:
    names, modules = set(), set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                if alias.name in _VERIFIERS:
                    names.add(alias.asname or alias.name)
                else:
                    modules.add(alias.asname or alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name):
                    modules.add(alias.asname or _PACKAGE)
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
            yield node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in _VERIFIERS:
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                yield node.lineno


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == _PACKAGE


def _called(function: ast.expr) -> str | None:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def _places(path: str, lines: Iterator[int]) -> list[Place]:
    return [Place(path, line) for line in sorted(set(lines))]


def _shown(place: Place) -> str:
    return f"{place.path}:{place.line}"
