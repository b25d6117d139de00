"""Slices of work of several sides, interleaved in one process, and what they took.

Knows clocks and numbers; knows no ledger. A slow moment of the machine hits all sides alike, so the ratio of two sides
is taken slice beside slice, and only then the median of the ratios.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from statistics import median
from time import perf_counter_ns
from typing import Final

from msgspec import Struct

LOOPS_MAX: Final = 1_000_000
NS: Final = 1_000_000_000


class Unequal(Exception):  # noqa: N818 - what it says of the sides
    """The sides did not do the same work: their times say nothing."""


class Effort(Struct, frozen=True):
    """How much is measured."""

    rounds: int
    """Measured slices of each side; one more before them warms up."""
    decode_slice_ns: int
    ingest_commits: tuple[tuple[int, int], ...]
    """Frames per commit, and commits per slice."""
    replay_events: int
    replay_rounds: int


QUICK: Final = Effort(5, 8_000_000, ((1, 32), (16, 8), (256, 2)), 4_000, 3)
FULL: Final = Effort(15, 40_000_000, ((1, 128), (16, 32), (256, 8)), 50_000, 7)


class Side(Struct, frozen=True):
    """One way to do the work: `slice()` does `units` of it."""

    name: str
    slice: Callable[[], object]
    units: int


class Spread(Struct, frozen=True):
    """Of all slices: the median, the least and the most."""

    median: float
    low: float
    high: float


class Run(Struct, frozen=True):
    """What one side did. `ours` is how fast our side is as a multiple of this one: 0.5 is half as fast."""

    side: str
    per_s: Spread
    mb_per_s: float | None
    ours: Spread | None


class Result(Struct, frozen=True):
    """One case of a benchmark: our side first, then the alternatives."""

    benchmark: str
    case: str
    unit: str
    bytes_each: int | None
    """Of the frames taken in."""
    runs: tuple[Run, ...]
    stored_each: int | None = None
    """Bytes in the rows that every side stored of a frame, without what SQLite adds to them."""


def repeated(name: str, work: Callable[[], object], slice_ns: int) -> Side:
    """A side that does one small piece of work as often as fills a slice."""

    def loop(times: int) -> None:
        for _ in repeat(None, times):
            work()

    loops = 1
    while (took_ns := _time(partial(loop, loops))) < slice_ns // 4 and loops < LOOPS_MAX:
        loops *= 4
    loops = max(1, loops * slice_ns // max(took_ns, 1))
    return Side(name, partial(loop, loops), loops)


def race(
    benchmark: str, case: str, unit: str, bytes_each: int | None, sides: Sequence[Side], rounds: int
) -> Result:
    """Measure the sides, the first of which is ours, slice by slice in turn; each round begins with another side."""
    for side in sides:
        side.slice()
    per_s: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds):
        gc.collect()
        for place in range(len(sides)):
            index = (turn + place) % len(sides)
            side = sides[index]
            per_s[index].append(side.units * NS / _time(side.slice))
    runs = [
        Run(
            side.name,
            _spread(speeds),
            None if bytes_each is None else median(speeds) * bytes_each / 1e6,
            None if index == 0 else _spread([a / b for a, b in zip(per_s[0], speeds, strict=True)]),
        )
        for index, (side, speeds) in enumerate(zip(sides, per_s, strict=True))
    ]
    return Result(benchmark, case, unit, bytes_each, tuple(runs))


def _time(work: Callable[[], object]) -> int:
    start = perf_counter_ns()
    work()
    return max(perf_counter_ns() - start, 1)


def _spread(numbers: Sequence[float]) -> Spread:
    return Spread(median(numbers), min(numbers), max(numbers))
