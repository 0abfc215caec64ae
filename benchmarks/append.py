"""The journal's append alone, against encoding the same bytes and writing them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks.harness import Effort, Reading, interleave, medians, ratio, ratio_noise, timed
from benchmarks.server import running
from benchmarks.subject import without_http

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.journal.writer import JournalWriter

ROW = "append"
_CALLS = 200


def run(effort: Effort) -> list[Reading]:
    """The ratio, with an entry as the recorder hands it on, and for entries that are no call."""
    with running() as url, without_http(effort.folder, url) as both:
        writer, entry = caught_entry(both)
        general = orjson.loads(last_line(writer.path))
        del general["sum"]
        line = last_line(writer.path)
        plain = orjson.loads(line)
        # The recorder encodes what calls have in common once; the same done by hand.
        prepared = {
            name: orjson.Fragment(orjson.dumps(member)) if isinstance(member, dict) else member
            for name, member in plain.items()
        }
        descriptor = os.open(effort.folder / "plain.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            blocks = {
                "append": timed(appending(writer, entry), _CALLS),
                "plain": timed(_dump_and_write(descriptor, plain), _CALLS),
                "general": timed(lambda: writer.append(general), _CALLS),
                "prepared": timed(_dump_and_write(descriptor, prepared), _CALLS),
            }
            taken = interleave(blocks, effort.rounds(300, 60))
        finally:
            os.close(descriptor)
    detail = f"{medians(taken, 'us')}, {len(line) + 1} bytes a line"
    what = "append / (orjson.dumps + os.write of the same bytes)"
    return [
        Reading(
            ROW,
            what,
            ratio(taken["append"], taken["plain"]),
            "x",
            1.4,
            detail,
            ratio_noise(taken["plain"]),
        ),
        Reading(
            ROW,
            f"{what}, its objects encoded beforehand",
            ratio(taken["append"], taken["prepared"]),
            "x",
            None,
            "harder than the row asks for: whoever writes plain JSON has no such objects",
        ),
        Reading(
            ROW,
            "append of an entry that is no call, encoded there and then, likewise",
            ratio(taken["general"], taken["plain"]),
            "x",
            None,
            "the recorder encodes a call's entry itself, which is in the row `added`",
        ),
    ]


def caught_entry(both: Any) -> tuple[JournalWriter, tuple[str, str, str, str]]:
    """The journal's writer, and an entry as it gets one for a call.

    Args:
        both: A `Subject` whose audited client can make a call.
    """
    writer: JournalWriter = both.auditor.recorder._writer
    caught: list[tuple[str, str, str, str]] = []
    append_line = writer.append_line

    def catch(action: str, entry_id: str, facts: str, rest: str = "", **_: Any) -> OSError | None:
        caught.append((action, entry_id, facts, rest))
        return append_line(action, entry_id, facts, rest)

    writer.append_line = catch  # type: ignore[method-assign]  # to look at one entry, once
    try:
        both.held()["audited"]()
    finally:
        del writer.append_line
    return writer, caught[-1]


def appending(writer: JournalWriter, entry: tuple[str, str, str, str]) -> Callable[[], object]:
    """Append an entry over and over as if it were a new one each time."""
    action, entry_id, facts, rest = entry
    return lambda: writer.append_line(action, entry_id, facts, rest)


def last_line(path: Path) -> bytes:
    """The last line of a journal, without its newline."""
    return path.read_bytes().splitlines()[-1]


def _dump_and_write(descriptor: int, entry: dict[str, Any]) -> Callable[[], object]:
    newline = orjson.OPT_APPEND_NEWLINE
    return lambda: os.write(descriptor, orjson.dumps(entry, option=newline))
