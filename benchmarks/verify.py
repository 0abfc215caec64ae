"""Verifying a journal, without and with checkpoints, against one SHA-256 pass over its file.

With checkpoints a line is hashed for its checksum and as a leaf, and the tree has as many nodes as
lines: what these hashes alone cost, one `hashlib` call each, is told beside it.
"""

from __future__ import annotations

import statistics
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from benchmarks.harness import Effort, Reading, interleave, medians, ratio
from klaviyo_audit.journal.format import encode
from klaviyo_audit.journal.sealer import Sealer
from klaviyo_audit.journal.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.journal.verified import Verified

ROW = "verify"
_WRITER = "9f2c41d07a3be815"
_FILES = 20


def run(effort: Effort) -> list[Reading]:
    """Entries a second of processor time, and how many times a plain SHA-256 pass that is."""
    count = 50_000 if effort.quick else 200_000
    bare, sealed = effort.folder / "bare", effort.folder / "sealed"
    for folder in (bare, sealed):
        folder.mkdir()
        _write(folder / "audit.jsonl", count)
    Sealer(sealed, compress="none", rotate_age=1e9, rotate_bytes=2**40, pause=0).close(600)
    blocks = {
        "sha256": _timed(lambda: _hash(bare / "audit.jsonl")),
        "hashes": _timed(lambda: _hashes(bare / "audit.jsonl")),
        "lines": _timed(lambda: _verify(bare)),
        "lines and tree": _timed(lambda: _verify(sealed)),
    }
    taken = interleave(blocks, effort.rounds(7, 3))
    detail = f"{medians(taken, 'ms')} of processor time, {count:,} entries"
    readings = []
    for name, what in (("lines", "never sealed"), ("lines and tree", "with checkpoints")):
        speed = count / statistics.median(taken[name]) * 1000
        times = ratio(taken[name], taken["sha256"])
        readings += [
            Reading(ROW, f"verify, {what}", speed, "lines/s", 400_000, detail, at_least=True),
            Reading(ROW, f"verify, {what} / one SHA-256 pass", times, "x", 4.0, detail),
        ]
    alone = ratio(taken["hashes"], taken["sha256"])
    what = "its hashes alone, with checkpoints / one SHA-256 pass"
    readings.append(Reading(ROW, what, alone, "x", None, detail))
    return [*readings, _resumed(effort, count)]


def _resumed(effort: Effort, count: int) -> Reading:
    """A verification that goes on from an earlier one, against one of the whole journal."""
    trail = effort.folder / "rotated"
    trail.mkdir()
    for number in range(_FILES):
        mark = verify(trail).verified if number == _FILES - 1 else None
        _write(trail / "audit.jsonl", count // _FILES, f"{number:016x}")
        Sealer(trail, rotate_age=1e9, rotate_bytes=1, pause=0).close(600)
    assert mark
    blocks = {
        "whole": _timed(lambda: _verify(trail)),
        "resumed": _timed(lambda: _verify(trail, mark)),
    }
    taken = interleave(blocks, effort.rounds(7, 3))
    detail = f"{medians(taken, 'ms')} of processor time, {count:,} entries in {_FILES} files"
    what = f"verify --resume, 1 line in {_FILES} is new / the whole journal"
    return Reading(ROW, what, ratio(taken["resumed"], taken["whole"]), "x", None, detail)


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def block() -> float:
        begun = time.process_time_ns()
        call()
        return (time.process_time_ns() - begun) / 1e6

    return block


def _hash(path: Path) -> None:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            digest.update(chunk)


def _hashes(path: Path) -> None:
    with path.open("rb", buffering=1 << 18) as file:
        last = bytes(32)
        for line in file:
            sha256(line[:-27]).digest()  # checksum, without the member itself
            leaf = sha256(b"\0" + line[:-1]).digest()
            last = sha256(b"\1" + last + leaf).digest()


def _verify(folder: Path, since: int | Verified = 0) -> None:
    report = verify(folder, since=since)
    assert report.intact, report.findings


def _write(path: Path, count: int, writer: str = _WRITER) -> None:
    with path.open("ab") as file:
        for number in range(count):
            first, last = number == 0, number == count - 1
            action = "journal.open" if first else "journal.close" if last else "klaviyo.profiles"
            members = {
                "v": 1,
                "id": str(uuid7()),
                "writer": writer,
                "n": number,
                "timestamp": "2026-11-23T19:00:00.123456Z",
                "phase": "journal" if first or last else "outcome",
                "action": action,
                "user_id": "dana",
                "result": "success",
                "call": {"operation": "get_profile", "path": "/api/profiles/{id}", "risk": "low"},
                "origin": {"service": "loyalty", "host": "web-1", "thread": "MainThread"},
                "metadata": {"lines": count} if last else {"text": "x" * 250},
            }
            file.write(encode(members))
