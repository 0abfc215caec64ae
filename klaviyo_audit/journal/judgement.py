"""What it means that a writer's lines are not all there."""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.accounts import Hole, timestamp_of
from klaviyo_audit.journal.findings import Finding, Kind, Place, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klaviyo_audit.journal.accounts import Account
    from klaviyo_audit.journal.statements import Range

IN_FLIGHT_SECONDS: Final = 5.0
"""How much later than lines with higher numbers a line can come.

A thread takes its number just before it writes, but the interpreter may let others go first:
with 64 busy threads a line came up to 6,280 numbers late, which was 0.1 s.
"""
IN_FLIGHT_LINES: Final = 256
"""How many lines can be in the act of being written: one a thread."""


class Life(StrEnum):
    """Whether a writer still lives, by the lock it holds."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


def judge(account: Account, life: Life, *, whole: bool = True) -> Iterator[Finding]:
    """What there is to say about a writer once all lines have been read.

    Args:
        account: What is known of it.
        life: Whether it lives.
        whole: The journal was read from its beginning, and nothing was removed from it by
            retention. Otherwise a writer's first lines may have been in what is not there.
    """
    if account.begin is None and not (whole and any(one.last >= 0 for one in account.recoveries)):
        return  # only a damaged line names it, or all its lines were removed
    if whole:
        yield from _beginning(account)
    yield from _numbers(account, life, whole=whole)
    yield from _ending(account, life)


def has_lines_in_flight(account: Account, *, whole: bool = True) -> bool:
    """Whether numbers are missing that a living writer may be about to write.

    Args:
        account: What is known of it.
        whole: As for `judge`.
    """
    return not account.ended and bool(_in_flight(_missing_holes(account, whole=whole), account))


def killed_while_writing(account: Account, number: int) -> Severity | None:
    """How bad it is that this entry of a writer lacks its newline, if a kill can explain it."""
    if account.close is not None or account.next - number > IN_FLIGHT_LINES:
        return None
    return Severity.NOTE if account.recoveries else Severity.WARNING


def _beginning(account: Account) -> Iterator[Finding]:
    if not account.opened and 0 not in account.claimed:
        message = "this writer's first line, journal.open, is not in the journal"
        yield _finding(account, Kind.NO_FIRST_LINE, Severity.ERROR, account.begin, message)


def _ending(account: Account, life: Life) -> Iterator[Finding]:
    if account.close is not None:
        lines, number, place = account.close
        if lines <= number:
            message = f"its goodbye counts {lines} lines and is number {number} itself"
            yield _finding(account, Kind.AFTER_GOODBYE, Severity.ERROR, place, message)
    elif account.recoveries:
        place = account.recoveries[-1].place
        message = "it died without a goodbye, and was found dead and recovered"
        yield _finding(account, Kind.NO_GOODBYE, Severity.NOTE, place, message)
    elif life is Life.ALIVE:
        message = "it is still running"
        yield _finding(account, Kind.NO_GOODBYE, Severity.NOTE, account.begin, message)
    else:
        who = "it died without a goodbye" if life is Life.DEAD else "it said no goodbye"
        message = f"{who}: it was killed, or its last lines were removed"
        yield _finding(account, Kind.NO_GOODBYE, Severity.WARNING, account.begin, message)


def _numbers(account: Account, life: Life, *, whole: bool) -> Iterator[Finding]:
    holes = _missing_holes(account, whole=whole)
    in_flight = {hole.first for hole in _in_flight(holes, account)}
    claimed = _disjoint((number, number) for number in account.claimed)
    lost_numbers = _disjoint(account.lost)
    told = _disjoint(one for recovery in account.recoveries for one in recovery.missing)
    for hole in (*account.holes, *_cut_off(account)):
        if not whole and hole.last < account.first:
            continue
        absent, _ = _split([(hole.first, hole.last)], claimed)
        absent, lost = _split(absent, lost_numbers)
        for one in lost:
            yield _missing(account, hole, one, Severity.NOTE, "could not be written, says a gap")
        if not whole and _may_be_removed(account, hole):
            for one in absent:
                yield _missing(account, hole, one, Severity.NOTE, "among those removed, perhaps")
            continue
        if hole.first not in in_flight or account.close is not None:
            for one in absent:
                yield _missing(account, hole, one, Severity.ERROR, "removed")
            continue
        absent, recovered = _split(absent, told)
        for one in recovered:
            yield _missing(account, hole, one, Severity.NOTE, "in flight when it was killed")
        for one in absent:
            if account.recoveries:
                why, severity = "removed after the writer was found dead", Severity.ERROR
            elif life is Life.ALIVE:
                why, severity = "still being written", Severity.NOTE
            else:
                why, severity = "in flight when it was killed, or removed", Severity.WARNING
            yield _missing(account, hole, one, severity, why)


def _missing_holes(account: Account, *, whole: bool) -> Sequence[Hole]:
    """The holes whose numbers are not in files that are not there."""
    if whole:
        return account.holes
    return [hole for hole in account.holes if not _may_be_removed(account, hole)]


def _may_be_removed(account: Account, hole: Hole) -> bool:
    """Whether missing numbers can be in a file before the writer's first line that is there.

    Threads overtake each other, also when a file is rotated away: one that had taken its number
    later can be the first in the new file.
    """
    if hole.last < account.first:
        return True
    first_at, at = _seconds(account.first_at), _seconds(hole.timestamp)
    return (
        hole.last - account.first <= IN_FLIGHT_LINES
        and first_at is not None
        and at is not None
        and at - first_at <= IN_FLIGHT_SECONDS
    )


def _cut_off(account: Account) -> list[Hole]:
    """Numbers after the highest one seen that must have been there."""
    ends = [(recovery.last, recovery.place) for recovery in account.recoveries]
    if account.close is not None:
        lines, _, place = account.close
        ends.append((lines - 1, place))
    if not ends:
        return []
    last, place = max(ends)
    return [Hole(account.next, last, place, "")] if last >= account.next else []


def _in_flight(holes: Sequence[Hole], account: Account) -> list[Hole]:
    """The holes so close to the end that a kill explains them; none if they are too many."""
    if not holes:
        return []
    end = _seconds(timestamp_of(account.latest))
    recent = []
    for hole in holes:
        at = _seconds(hole.timestamp)
        if end is not None and at is not None and end - at <= IN_FLIGHT_SECONDS:
            recent.append(hole)
    lost, _ = _split([(hole.first, hole.last) for hole in recent], _disjoint(account.lost))
    count = sum(last - first + 1 for first, last in lost)
    return recent if count <= IN_FLIGHT_LINES else []


def _seconds(timestamp: str) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def _split(ranges: Iterable[Range], others: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """The parts of ranges that are in none of the others, and those that are in one.

    Args:
        ranges: Any.
        others: Sorted and disjoint.
    """
    outside, inside = [], []
    for start, last in ranges:
        first = start
        index = max(bisect_right(others, (first,)) - 1, 0)
        while index < len(others) and others[index][0] <= last:
            low, high = others[index]
            index += 1
            if high < first:
                continue
            if first < low:
                outside.append((first, low - 1))
            inside.append((max(first, low), min(last, high)))
            first = high + 1
        if first <= last:
            outside.append((first, last))
    return outside, inside


def _disjoint(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        elif first <= last:
            merged.append((first, last))
    return merged


def _missing(account: Account, hole: Hole, numbers: Range, severity: Severity, why: str) -> Finding:
    first, last = numbers
    what = f"number {first} is" if first == last else f"numbers {first} to {last} are"
    return Finding(
        kind=Kind.MISSING_NUMBER,
        severity=severity,
        file=hole.place.file,
        line=hole.place.line,
        offset=hole.place.offset,
        writer=account.writer,
        n=first,
        last=None if first == last else last,
        message=f"{what} missing before this line: {why}",
    )


def _finding(
    account: Account, kind: Kind, severity: Severity, place: Place | None, message: str
) -> Finding:
    return Finding(
        kind=kind,
        severity=severity,
        file=place and place.file,
        line=place and place.line,
        offset=place and place.offset,
        writer=account.writer,
        message=message,
    )
