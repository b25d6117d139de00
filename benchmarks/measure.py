"""Slices of work of several sides, interleaved in one process, and what they took.

Knows clocks and numbers; knows no ledger. A slow moment of the machine hits all sides alike, so the ratio of two sides
is taken slice beside slice, and only then the median of the ratios.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from random import Random
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import Final, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

LOOPS_MAX: Final = 1_000_000
NS: Final = 1_000_000_000

T = TypeVar("T")


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
    moments: int = 20
    """Of the history, at which balances are read."""
    soak_events: int = 3_000


QUICK: Final = Effort(5, 8_000_000, ((1, 24), (16, 6), (256, 3)), 10_000, 3, 100, 30_000)
FULL: Final = Effort(15, 40_000_000, ((1, 128), (16, 32), (256, 8)), 1_000_000, 3, 1_000, 3_000_000)


class Side(Struct, frozen=True):
    """One way to do the work: `slice()` does `units` of it."""

    name: str
    slice: Callable[[], object]
    units: int
    note: str = ""


class Absent(Struct, frozen=True):
    """A side that is not here to be measured: an optional package is not installed."""

    name: str
    note: str


class Spread(Struct, frozen=True):
    """Of all slices: the median, the least and the most."""

    median: float
    low: float
    high: float


class Run(Struct, frozen=True):
    """What one side did. `ours` is how fast our side is as a multiple of this one: 0.5 is half as fast."""

    side: str
    per_s: Spread | None
    """None where the side was not measured; `note` says why."""
    mb_per_s: float | None
    ours: Spread | None
    """By the clock on the wall."""
    ours_cpu: Spread | None = None
    """By CPU time, all threads of the process together."""
    cpu_us_each: float | None = None
    """CPU time per unit of work, the median."""
    note: str = ""


class Claim(Struct, frozen=True):
    """What is to be shown, and the figure of this run. Claims with one text are one claim: its worst case counts."""

    text: str
    figure: float | None
    """A ratio of two sides of this run; None where a side could not be measured."""
    bound: float
    at_least: bool
    """Else at most."""
    reason: str = ""
    """Why there is no figure."""

    @property
    def verdict(self) -> str:
        """Pass, falls short, or not measured."""
        if self.figure is None:
            return "not measured"
        passes = self.figure >= self.bound if self.at_least else self.figure <= self.bound
        return "pass" if passes else "falls short"


class _Took(NamedTuple):
    wall_ns: int
    cpu_ns: int


Laps: TypeAlias = dict[str, list[_Took]]
"""What each slice took, by side."""


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
    claims: tuple[Claim, ...] = ()
    server: str = ""
    """The version and settings of the server it was measured on, where there was one."""

    def run(self, side: str) -> Run:
        """What that side did."""
        return next(run for run in self.runs if run.side == side)


def repeated(
    name: str, work: Callable[[T], object], inputs: Sequence[T], slice_ns: int, note: str = ""
) -> Side:
    """A side that does one small piece of work as often as fills a slice of CPU time, the inputs in turn."""
    turns = cycle(inputs)

    def loop(times: int) -> None:
        for each in islice(turns, times):
            work(each)

    loops = 1
    while (took_ns := _time(partial(loop, loops)).cpu_ns) < slice_ns // 4 and loops < LOOPS_MAX:
        loops *= 4
    loops = max(1, loops * slice_ns // took_ns)
    return Side(name, partial(loop, loops), loops, note)


def race(
    benchmark: str, case: str, unit: str, bytes_each: int | None, sides: Sequence[Side | Absent], rounds: int
) -> Result:
    """Measure the sides, the first of which is ours, slice beside slice; in each round in another order."""
    here = [side for side in sides if isinstance(side, Side)]
    return compared(benchmark, case, unit, bytes_each, sides, laps(here, rounds))


def laps(here: Sequence[Side], rounds: int) -> Laps:
    """What each slice of each side took, slice beside slice; in each round in another order."""
    for side in here:
        side.slice()
    took: dict[str, list[_Took]] = {side.name: [] for side in here}
    # Shuffled: under load who comes late in a round is interrupted more often. Seeded: every run has the same orders.
    orders = Random(0)
    gc.collect()
    gc.freeze()  # what was made before the race is looked through by no collection of garbage within it
    try:
        for _ in range(rounds):
            gc.collect()
            for side in orders.sample(here, len(here)):
                took[side.name].append(_time(side.slice))
    finally:
        gc.unfreeze()
    return took


def compared(
    benchmark: str,
    case: str,
    unit: str,
    bytes_each: int | None,
    sides: Sequence[Side | Absent],
    took: Laps,
) -> Result:
    """Some of the sides that were measured together: the first of them is held against the others."""
    ours = next(side for side in sides if isinstance(side, Side))
    runs = [
        Run(side.name, None, None, None, note=side.note)
        if isinstance(side, Absent)
        else _run(side, took[side.name], ours, took[ours.name], bytes_each)
        for side in sides
    ]
    return Result(benchmark, case, unit, bytes_each, tuple(runs))


def _run(side: Side, took: Sequence[_Took], ours: Side, our: Sequence[_Took], bytes_each: int | None) -> Run:
    per_s = spread([side.units * NS / each.wall_ns for each in took])
    pairs = [] if side is ours else list(zip(took, our, strict=True))
    scale = ours.units / side.units
    return Run(
        side.name,
        per_s,
        None if bytes_each is None else per_s.median * bytes_each / 1e6,
        spread([scale * its.wall_ns / mine.wall_ns for its, mine in pairs]) if pairs else None,
        spread([scale * its.cpu_ns / mine.cpu_ns for its, mine in pairs]) if pairs else None,
        median(each.cpu_ns for each in took) / 1_000 / side.units,
        side.note,
    )


def _time(work: Callable[[], object]) -> _Took:
    """What it took; at least a nanosecond, so that it can be divided by."""
    wall_ns, cpu_ns = perf_counter_ns(), process_time_ns()
    work()
    return _Took(max(perf_counter_ns() - wall_ns, 1), max(process_time_ns() - cpu_ns, 1))


def spread(numbers: Sequence[float]) -> Spread:
    """Of some numbers."""
    return Spread(median(numbers), min(numbers), max(numbers))
