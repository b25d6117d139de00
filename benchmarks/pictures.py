"""Tables as pictures: one SVG each, the same file for the same figures.

Knows results and matplotlib; measures nothing. A dot is a median, its whisker the least and the most; a soak is a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from benchmarks import delays
from benchmarks.decode import OURS
from benchmarks.delays import Delays
from benchmarks.growth import MIB, Soak
from benchmarks.measure import Result, Run, Spread

STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "accountledger",  # the ids in the file: by chance else
    "svg.fonttype": "none",  # text stays text: small, and to be searched
    "font.family": "sans-serif",
    "font.size": 9.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "black",
}
COLOURS: Final = (
    *("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666"),
)
"""Told apart by those who see no red or green, too. The first is ours."""
WIDTH_IN: Final = 10.0
ROW_IN: Final = 0.17
HEAD_IN: Final = 1.5


def _ratio(run: Run) -> tuple[Spread, float | None] | None:
    return None if run.ours is None else (run.ours, None)


def _speed(run: Run) -> tuple[Spread, float | None] | None:
    return None if run.per_s is None else (run.per_s, None)


def _delay(run: Run) -> tuple[Spread, float | None] | None:
    return (Spread(run.p50_ms, run.p50_ms, run.p999_ms), run.p99_ms) if isinstance(run, Delays) else None


class Kind(NamedTuple):
    """What is drawn of a run: its figures and, for some, a place for a tick."""

    name: str
    label: str
    value: Callable[[Run], tuple[Spread, float | None] | None]


RATIO: Final = Kind(
    "ratios",
    "accountledger's speed as a multiple of its (logarithmic; right of 1 accountledger is faster)",
    _ratio,
)
BESIDE: Final = Kind(
    "beside",
    "speed of the one named at the left as a multiple of its (logarithmic; right of 1 that one is faster)",
    _ratio,
)
DELAYS: Final = Kind(
    "delays", "ms: p50 is a dot, p99 a tick, the whisker ends at p99.9 (logarithmic)", _delay
)
SPEED: Final = Kind("speeds", "a second (logarithmic)", _speed)
MEMORY: Final = Kind("memory", "MiB resident, by million events", _speed)
RATIOS: Final = (RATIO, BESIDE)
DECADE: Final = 10.0
LABELS: Final = 8
"""On an axis of less than a decade."""


def _kind(result: Result) -> Kind:
    if isinstance(result.runs[0], Soak):
        return MEMORY
    if delays.is_of(result):
        return DELAYS
    if all(run.ours is None for run in result.runs):
        return SPEED
    return RATIO if result.runs[0].side.startswith(OURS) else BESIDE


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the results of one benchmark: a file named after it, and more where its figures are not of one kind."""
    kinds: dict[Kind, list[Result]] = {}
    for result in results:
        if any(run.per_s is not None for run in result.runs):
            kinds.setdefault(_kind(result), []).append(result)
    paths: list[Path] = []
    for kind, those in kinds.items():
        path = folder / f"{results[0].benchmark}{f'-{kind.name}' if paths else ''}.svg"
        with mpl.rc_context(STYLE):
            drawn = _memory(those, kind) if kind is MEMORY else _drawn(those, kind)
            drawn.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        paths.append(path)
    return paths


def _drawn(results: Sequence[Result], kind: Kind) -> Figure:
    """A band for each case, in it a row for each side that has a figure."""
    sides = list(dict.fromkeys(run.side for result in results for run in result.runs if kind.value(run)))
    colour = dict(zip(sides, (COLOURS[at % len(COLOURS)] for at in _places(sides, kind)), strict=True))
    rows = sum(len(result.runs) + 1 for result in results)
    height = HEAD_IN + ROW_IN * rows
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    axes: Any = figure.add_subplot()
    ticks: list[tuple[float, str]] = []
    y = 0.0
    for at, result in enumerate(results):
        top = y
        for run in result.runs:
            if (figures := kind.value(run)) is not None:
                y += 1
                _dot(axes, y, *figures, colour[run.side])
        if at % 2:
            axes.axhspan(top + 0.25, y + 0.75, color="#f2f2f2", zorder=0)
        named = f"{result.case}:\n{result.runs[0].side}" if kind is BESIDE else result.case
        ticks.append(((top + 1 + y) / 2, named))
        y += 0.5
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.set_ylim(y + 0.5, 0.25)
    axes.set_xscale("log")
    if kind in RATIOS:
        axes.axvline(1.0, color="black", linewidth=1.0)
    low, high = axes.get_xlim()
    decades = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < DECADE**3 else (1.0,))
    axes.xaxis.set_major_locator(decades if high / low > DECADE else MaxNLocator(LABELS, steps=(1, 2, 5, 10)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.grid(axis="x", color="#cccccc", linewidth=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(kind.label, loc="right")  # it may be longer than the axis: there is room at its left
    keys = [Line2D([], [], marker="o", linestyle="", color=colour[side], label=side) for side in sides]
    legend = figure.legend(
        handles=keys, title=results[0].benchmark, loc="outside upper left", ncols=4, frameon=False
    )
    legend.get_title().set_fontweight("bold")
    legend.set_alignment("left")
    return figure


def _memory(results: Sequence[Result], kind: Kind) -> Figure:
    """A line for each soak, through its samples."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / 2), layout="constrained")
    axes: Any = figure.add_subplot()
    for result, colour in zip(results, cycle(COLOURS)):
        samples = [each for run in result.runs if isinstance(run, Soak) for each in run.samples]
        millions, mib = (
            [each.events / 1e6 for each in samples],
            [each.resident_bytes / MIB for each in samples],
        )
        axes.plot(millions, mib, color=colour, marker="o", markersize=3, label=result.case)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.grid(color="#cccccc", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(kind.label, loc="right")
    axes.set_title(results[0].benchmark, loc="left", fontweight="bold")
    axes.legend(loc="lower right", frameon=False)
    return figure


def _places(sides: Sequence[str], kind: Kind) -> range:
    """The first colour is left to us, who stand at 1 where ratios are drawn."""
    first = 1 if kind in RATIOS else 0
    return range(first, first + len(sides))


def _dot(axes: Any, y: float, spread: Spread, tick: float | None, colour: str) -> None:
    line = partial(axes.plot, color=colour, zorder=3)
    line([spread.low, spread.high], [y, y], linewidth=1.2, solid_capstyle="butt")
    line([spread.low, spread.high], [y, y], linestyle="", marker="|", markersize=5)
    line([spread.median], [y], linestyle="", marker="o", markersize=4)
    if tick is not None:
        line([tick], [y], linestyle="", marker="|", markersize=9, markeredgewidth=2)
