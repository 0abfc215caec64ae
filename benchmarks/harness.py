"""Measuring alternatives in one run, so that the machine's moods meet all of them alike."""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

Unit = Literal["x", "%", "us", "ms", "lines/s", "MB", "MB/s", "entries/min", "modules", "lines"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time a run may take, and where it may write.

    Attributes:
        folder: A folder for journals, empty and removed after the run.
        quick: Whether about 30 seconds have to do for all rows.
    """

    folder: Path
    quick: bool = False

    def rounds(self, full: int, quick: int) -> int:
        """How many rounds to measure."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Reading:
    """One number, and the bound it is read against.

    Attributes:
        row: Name of the row it belongs to.
        what: What was measured.
        value: The measured number, in ``unit``.
        unit: ``x`` is a ratio of medians, ``us`` and ``ms`` are differences of medians.
        bound: The number to hold; None where there is none and the value is only told.
        detail: The numbers behind it, and how they were got.
        noise: How far the bare alternative was from itself in this run, in ``unit``: the median
            of half of its blocks against that of the other half.
        at_least: Whether the bound is a floor.
    """

    row: str
    what: str
    value: float
    unit: Unit
    bound: float | None
    detail: str = ""
    noise: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the number keeps its bound; None without one."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def interleave(blocks: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run blocks in turn, each round in the opposite order of the one before.

    The garbage collector stays on. A first round warms up and is not kept.

    Args:
        blocks: What to run, by name; each returns what it measured.
        rounds: How often each is run and kept.
    """
    if not gc.isenabled():
        raise RuntimeError("the garbage collector is off; it is part of what is measured")
    kept: dict[str, list[T]] = {name: [] for name in blocks}
    order = list(blocks)
    for block in blocks.values():
        block()
    for _ in range(rounds):
        for name in order:
            kept[name].append(blocks[name]())
        order.reverse()
    return kept


def timed(call: Callable[[], object], calls: int, *, collect: bool = False) -> Callable[[], float]:
    """A block that makes calls and gives microseconds of wall time for each.

    Args:
        call: What is measured.
        calls: How many times in one block.
        collect: Collect garbage before the block, so that it does not pay for that of the block
            before. For alternatives that leave very different amounts of it.
    """
    times = range(calls)

    def block() -> float:
        if collect:
            gc.collect()
        begun = perf_counter_ns()
        for _ in times:
            call()
        return (perf_counter_ns() - begun) / calls / 1_000

    return block


def ratio(measured: Sequence[float], against: Sequence[float]) -> float:
    """The ratio of medians."""
    return statistics.median(measured) / statistics.median(against)


def difference(measured: Sequence[float], against: Sequence[float]) -> float:
    """The difference of medians."""
    return statistics.median(measured) - statistics.median(against)


def ratio_noise(bare: Sequence[float]) -> float:
    """How far the ratio of one alternative to itself was from 1."""
    return abs(ratio(*_halves(bare)) - 1)


def difference_noise(bare: Sequence[float]) -> float:
    """How far the difference of one alternative from itself was from 0."""
    return abs(difference(*_halves(bare)))


def _halves(values: Sequence[float]) -> tuple[list[float], list[float]]:
    # By pairs of rounds: the order alternates, and what ran before a block has an effect on it.
    return (
        [value for index, value in enumerate(values) if not index & 2],
        [value for index, value in enumerate(values) if index & 2],
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def medians(taken: Mapping[str, Sequence[float]], unit: str) -> str:
    """The medians in words."""
    return ", ".join(f"{name} {statistics.median(of):,.1f} {unit}" for name, of in taken.items())
