"""Rotel, an OpenTelemetry collector in Rust, from its package on PyPI."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.peers.processes import PeerMissing, running
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Rotel:
    grpc: str
    http: str
    output: Path

    def endpoint(self, protocol: str) -> str:
        return self.grpc if protocol == "grpc" else f"{self.http}/v1/logs"


def rotel_program() -> str:
    spec = importlib.util.find_spec("rotel")
    program = Path(spec.submodule_search_locations[0]) / "rotel-agent" if spec else None
    if program is None or not program.exists():
        raise PeerMissing("rotel is missing (PyPI): run `make peers`")
    return str(program)


@contextmanager
def rotel(folder: Path, *arguments: str) -> Iterator[Rotel]:
    """A collector that takes logs over both protocols.

    Args:
        folder: For its process id and what it prints.
        arguments: What it does with them, e.g. ``--exporter blackhole``.
    """
    program, grpc, http = rotel_program(), free_port(), free_port()
    command = [
        program,
        "start",
        "--otlp-grpc-endpoint",
        f"127.0.0.1:{grpc}",
        "--otlp-http-endpoint",
        f"127.0.0.1:{http}",
        "--pid-file",
        str(folder / "rotel.pid"),
        *arguments,
    ]
    output = folder / "rotel.txt"
    with running(command, [grpc, http], output):
        yield Rotel(f"http://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}", output)
