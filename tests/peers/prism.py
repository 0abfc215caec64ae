"""Prism, the public mock server, serving Klaviyo's own OpenAPI file on loopback."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.peers.processes import PeerMissing, running
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 300
"""Reading the whole file takes Prism 60 to 90 s on two quiet cores."""


def openapi_file() -> Path:
    """Klaviyo's OpenAPI file: ``KLAVIYO_OPENAPI``, else beside the repository."""
    named = os.environ.get("KLAVIYO_OPENAPI")
    file = Path(named) if named else REPOSITORY.parent / "shared/klaviyo-openapi/stable.json"
    if not file.is_file():
        source = "KLAVIYO_OPENAPI names" if named else "KLAVIYO_OPENAPI is not set;"
        raise PeerMissing(f"Klaviyo's OpenAPI file is missing: {source} {file}")
    return file


def prism_command() -> str:
    """Prism's program: the one `make peers` installed, else one on the ``PATH``."""
    if shutil.which("node") is None:
        raise PeerMissing("node is missing, and Prism needs it: run `make peers`")
    ours = REPOSITORY / ".peers/node_modules/.bin/prism"
    command = str(ours) if ours.exists() else shutil.which("prism")
    if command is None:
        raise PeerMissing(f"Prism is neither at {ours} nor on the PATH: run `make peers`")
    return command


def with_bodies(document: dict[str, Any], *paths: str) -> dict[str, Any]:
    """The document cut to some paths, which Prism serves in seconds, with bodies that it checks.

    Klaviyo writes ``nullable`` where there is no ``type``, which OpenAPI 3.0.3 says means nothing.
    The validator in Prism refuses to compile such a schema, and Prism then lets any body through
    without a word.
    """
    wanted = {path for path in document["paths"] if path.rstrip("/") in paths}
    cut = {**document, "paths": {path: document["paths"][path] for path in wanted}}
    components: dict[str, Any] = {"securitySchemes": document["components"]["securitySchemes"]}
    found = [cut["paths"]]
    while found:
        for reference in _references(found.pop()):
            _, _, kind, name = reference.split("/")
            if name not in components.setdefault(kind, {}):
                components[kind][name] = document["components"][kind][name]
                found.append(components[kind][name])
    return _without_idle_nullable({**cut, "components": components})


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    for member in part if isinstance(part, list) else ():
        yield from _references(member)


def _without_idle_nullable(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_idle_nullable(member) for member in part]
    if not isinstance(part, dict):
        return part
    idle = part.get("nullable") is True and "type" not in part
    return {
        name: _without_idle_nullable(member)
        for name, member in part.items()
        if not (idle and name == "nullable")
    }


@contextmanager
def serve(command: str, openapi: Path, output: Path) -> Iterator[str]:
    """Run Prism until the block ends.

    Args:
        command: Path of the program.
        openapi: The document to serve.
        output: File that takes what Prism prints.

    Yields:
        The address, ``http://127.0.0.1:<port>``, once it answers.

    Raises:
        RuntimeError: Prism ended, or did not listen within `START_SECONDS`; with its last lines.
    """
    port = free_port()
    arguments = [command, "mock", "-h", "127.0.0.1", "-p", str(port), "-v", "warn", str(openapi)]
    with running(arguments, [port], output, START_SECONDS):
        yield f"http://127.0.0.1:{port}"
