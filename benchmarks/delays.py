"""How long single things took: quantiles of one side, and a table of them.

Knows numbers; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median, quantiles

from benchmarks.claims import bound_text
from benchmarks.measure import Claim, Result, Run, Spread
from benchmarks.tables import Fitted


class Delays(Run, frozen=True, kw_only=True):
    """How long it took (ms), with one side."""

    frames: int
    """Of which each was waited for; or reads, or starts: what the result's unit says."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    per_commit: float | None = None
    """Frames in a commit."""


def delays(
    side: str,
    turns: Sequence[Sequence[float]],
    per_s: Sequence[float] = (),
    per_commit: float | None = None,
    note: str = "",
) -> Delays:
    """Of the waits of all turns (ms); how many came a second in each turn, if that is not just how long they took."""
    waits = [wait for turn in turns for wait in turn]
    # To the nanosecond: between two equal times a quantile comes out a rounding away from them.
    cuts = [round(cut, 6) for cut in quantiles(waits, n=1000, method="inclusive")]
    per_s = per_s or [1000 * len(each) / sum(each) for each in turns]
    return Delays(
        side,
        Spread(median(per_s), min(per_s), max(per_s)),
        None,
        None,
        note=note,
        frames=len(waits),
        p50_ms=cuts[499],
        p99_ms=cuts[989],
        p999_ms=cuts[998],
        max_ms=max(waits),
        per_commit=per_commit,
    )


def within(text: str, ours_ms: float, theirs_ms: float, bound: float) -> Claim:
    """The claim that a time of ours is at most so many times another."""
    return Claim(text, ours_ms / theirs_ms, bound, at_least=False)


def told(claim: Claim) -> str:
    """A claim's figure and verdict, to stand beside the side it was taken from."""
    figure = "" if claim.figure is None else f"{claim.figure:.2f}, {bound_text(claim)}: "
    return f"{figure}{claim.verdict}"


def is_of(result: Result) -> bool:
    """Whether a result tells delays: any, or nothing else."""
    return all(isinstance(run, Delays) or run.per_s is None for run in result.runs)


def table(results: Iterable[Result], title: str) -> Fitted:
    """A row per side, under the case."""
    made = Fitted(title)
    made.add_column("", overflow="fold")
    for name in ("times", "a commit", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("", overflow="fold")
    for result in results:
        made.add_row(result.case, *[""] * 7, style="bold")
        for run in result.runs:
            made.add_row(f"  {run.side}", *_figures(run), run.note)
        made.add_section()
    return made


def _figures(run: Run) -> tuple[str, ...]:
    if not isinstance(run, Delays):
        return ("",) * 6
    return (
        f"{run.frames:,}",
        "" if run.per_commit is None else f"{run.per_commit:.1f}",
        *(f"{each:,.2f}" for each in (run.p50_ms, run.p99_ms, run.p999_ms, run.max_ms)),
    )
