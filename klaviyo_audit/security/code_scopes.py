"""Reading from a program's source which operations of the SDK it calls."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klaviyo_audit.klaviyo.names import sdk_names
from klaviyo_audit.security import repository, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from klaviyo_audit.klaviyo.names import SdkNames
    from klaviyo_audit.klaviyo.risks import Operation

_MODULES: Final = ("klaviyo_api", "openapi_client", "klaviyo_audit")
_GETATTR_NAMED: Final = 2
_MAX_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Reference:
    """One place in the source that names an operation."""

    operation: Operation
    path: str
    line: int
    is_certain: bool
    """Whether the group it is called on is known; else only the name says that it is the SDK's."""


@dataclass(slots=True)
class CodeScopes:
    """What a program's source says about the operations it calls."""

    references: list[Reference] = field(default_factory=list)
    dynamic: list[tuple[str, int]] = field(default_factory=list)
    """Places where the name of a group or operation is only known when the program runs."""
    unread: list[tuple[str, str]] = field(default_factory=list)
    """Files that could not be read as Python, and why."""
    files: int = 0

    def scopes(self) -> dict[str, list[Reference]]:
        """The scopes that are needed, each with the references that need it."""
        found: dict[str, list[Reference]] = {}
        for reference in self.references:
            for scope in reference.operation.scopes:
                found.setdefault(scope, []).append(reference)
        return dict(sorted(found.items()))


def read_code(path: Path) -> CodeScopes:
    """Read the Python files below a path.

    Found are ``client.Profiles.get_profile``, names and attributes that a group, an operation or an
    API class was assigned to (in the same file), and ``getattr`` with a literal. In files that
    import the SDK or this package, also names that only the SDK has, on whatever they are called.

    Args:
        path: A file or a folder; in a git work tree only what git does not ignore.

    Raises:
        ScanFailed: There is nothing there that could be read.
        ImportError: No SDK is installed.
    """
    if not path.exists():
        raise sources.ScanFailed(f"there is no {str(path)!r}")
    result = CodeScopes()
    names = sdk_names()

    def unread(name: str, why: str) -> None:
        result.unread.append((name, why))

    for source in python_files(path, unread):
        tree = parsed(source, unread)
        if tree is None:
            continue
        result.files += 1
        _File(source.path, tree, names, result).read()
    return result


def parsed(source: sources.Source, unread: Callable[[str, str], None]) -> ast.Module | None:
    """A file of Python as its syntax tree; None, and `unread` is told, if it is no Python."""
    parts = []
    left = _MAX_BYTES
    while data := source.read(_MAX_BYTES):
        left -= len(data)
        if left < 0:
            unread(source.path, f"more than {_MAX_BYTES // 2**20} MiB")
            return None
        parts.append(data)
    try:
        return ast.parse(b"".join(parts))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # The last is what deep nesting ends in, too.
        unread(source.path, type(error).__name__)
        return None


def python_files(path: Path, unread: Callable[[str, str], None]) -> Iterator[sources.Source]:
    """The files of Python below a path; in a git work tree only what git does not ignore."""
    in_git = path.is_dir() and repository.repository_of(path) and not repository.is_ignored(path)
    found: Iterable[sources.Source] = (
        repository.work_tree(path, unread) if in_git else sources.files(path, unread)
    )
    for source in found:
        if source.path.endswith(".py") or not path.is_dir():
            yield source


class _File:
    """One file, read in two passes: what names stand for, then what is called on them."""

    def __init__(self, path: str, tree: ast.AST, names: SdkNames, result: CodeScopes) -> None:
        self._path = path
        self._nodes = list(ast.walk(tree))
        self._names = names
        self._result = result
        self._groups: dict[str, str] = {}
        """Groups by the variable, attribute or parameter that holds them."""
        self._is_ours = False

    def read(self) -> None:
        """Add the file's references to the result."""
        for node in self._nodes:
            self._learn_import(node)
        # Twice, so that a name assigned from a name that is assigned further down is known too.
        for _ in range(2):
            for node in self._nodes:
                self._learn_assignment(node)
        seen: set[tuple[str, int]] = set()
        for node in self._nodes:
            for reference in self._references(node):
                place = (reference.operation.name, reference.line)
                if place not in seen:
                    seen.add(place)
                    self._result.references.append(reference)

    def _learn_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            for alias in node.names:
                if alias.asname and alias.name in self._names.classes:
                    self._groups[f"class {alias.asname}"] = self._names.classes[alias.name]
        else:
            return
        if any(module.partition(".")[0] in _MODULES for module in modules):
            self._is_ours = True

    def _learn_assignment(self, node: ast.AST) -> None:
        targets: list[ast.expr] = []
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets, value = [node.target], node.value
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            targets, value = [node.optional_vars], node.context_expr
        elif isinstance(node, ast.arg) and node.annotation is not None:
            group = self._class(node.annotation)
            if group is not None:
                self._groups[node.arg] = group
        for target in targets:
            for one, its_value in _pairs(target, value):
                name = _last_name(one)
                group = self._group(its_value) if its_value is not None else None
                if name is not None and group is not None:
                    self._groups[name] = group

    def _group(self, node: ast.expr | None) -> str | None:
        """The group that an expression gives, if that is known."""
        if isinstance(node, ast.Attribute):
            if node.attr in self._names.groups:
                return node.attr
            return self._groups.get(node.attr)
        if isinstance(node, ast.Name):
            return self._groups.get(node.id)
        if isinstance(node, ast.Call):
            named = _getattr_literal(node)
            if named in self._names.groups:
                return named
            group = self._class(node.func)
            # audit(client.Profiles) and the like give what they were given.
            return group or (self._group(node.args[0]) if len(node.args) == 1 else None)
        return None

    def _class(self, node: ast.expr) -> str | None:
        """The group of an API class, by a reference to the class."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self._names.classes.get(node.value.rpartition(".")[2])
        name = _last_name(node) or ""
        return self._names.classes.get(name) or self._groups.get(f"class {name}")

    def _references(self, node: ast.AST) -> Iterator[Reference]:
        if isinstance(node, ast.Attribute):
            yield from self._named(node.attr, node.value, node.lineno)
        elif isinstance(node, ast.Call) and _is_getattr(node):
            literal = _getattr_literal(node)
            if literal is not None:
                yield from self._named(literal, node.args[0], node.lineno)
            elif self._group(node.args[0]) is not None:
                self._result.dynamic.append((self._path, node.lineno))

    def _named(self, name: str, on: ast.expr, line: int) -> Iterator[Reference]:
        group = self._group(on)
        if group is None:
            # On an API class itself: ProfilesApi.get_profile
            group = self._class(on) if isinstance(on, ast.Name | ast.Attribute) else None
        if group is not None:
            for operation in self._names.find(name, group):
                yield Reference(operation, self._path, line, is_certain=True)
        elif self._is_ours:
            for operation in self._names.find(name):
                yield Reference(operation, self._path, line, is_certain=False)


def _pairs(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    if isinstance(target, ast.Tuple | ast.List):
        values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
        if len(values) == len(target.elts):
            for one, its_value in zip(target.elts, values, strict=True):
                yield from _pairs(one, its_value)
    else:
        yield target, value


def _last_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def _is_getattr(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and len(node.args) >= _GETATTR_NAMED
    )


def _getattr_literal(node: ast.Call) -> str | None:
    name = node.args[1] if _is_getattr(node) else None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None
