"""growth: what must not grow with history: the time an append takes, memory, open files, the write-ahead log.

Knows what a soak in another process tells (`benchmarks.soak`); judges it. Memory is a straight line through the samples
of the last two thirds: the first third fills the caches.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from rich.console import Group

from benchmarks import report
from benchmarks.claims import faster
from benchmarks.measure import Claim, Effort, Result, Run, Spread, Unequal
from benchmarks.soak import YOUNG, Raced, Sample, Seen, Wrong
from benchmarks.stream import progress
from benchmarks.tables import Fitted

MIB: Final = 1 << 20
MILLION: Final = 1_000_000
KEYS: Final = "of balances, whose keys rise with time,"
SOAKED: Final = "one account with three assets"
APPEND_BOUND: Final = 0.9
SLOPE_BOUND: Final = 1.0
WAL_BOUND: Final = 16.0
"""Four times the 4 MiB (1,000 pages) at which SQLite copies the log back: a commit may run over it, and a reader may
keep it from being begun anew for a while."""
SAMPLES_MIN: Final = 10
FEWEST_EVENTS: Final = 1_000_000
"""Of which a slope per million can be told: below, what a page or two make is multiplied up."""
_decode: Final = msgspec.json.Decoder(Seen)


class Soak(Run, frozen=True, kw_only=True):
    """A soak: how the process was from one sample to the last."""

    samples: tuple[Sample, ...]
    mib_per_million: float | None
    """Slope of the resident memory."""


def cases(effort: Effort) -> int:
    """How many results there will be."""
    return 9


def growth(effort: Effort) -> Iterator[Result]:
    """A soak, and the append rate as it goes."""
    yield from judged(_told(effort), effort.soak_events)


def judged(seen: Iterable[Seen], events: int) -> Iterator[Result]:
    """What was told, as results with claims. Raises Unequal where the work was not done."""
    tell = progress("soak", events)
    samples: list[Sample] = []
    for each in seen:
        if isinstance(each, Wrong):
            raise Unequal(each.reason)
        if isinstance(each, Raced):
            yield _append(each)
        else:
            samples.append(each)
            tell(each.events)
    yield _soak(samples, events)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through points that is nearest to them (least squares)."""
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread


def table(results: list[Result]) -> Group:
    """The appends, then the soak: every fifth sample."""
    made = Fitted("growth: soak")
    for name in (
        "events",
        "events/s",
        "CPU us each",
        "resident MiB",
        "open files",
        "log MiB",
        "reads",
    ):
        made.add_column(name, justify="right", no_wrap=True)
    notes: list[str] = []
    for run in (run for result in results for run in result.runs if isinstance(run, Soak)):
        shown = run.samples[:: max(1, len(run.samples) // 12)]
        for before, each in pairwise((None, *shown)):
            assert each is not None
            made.add_row(
                f"{each.events:,}",
                *_pace(before, each),
                f"{each.resident_bytes / MIB:,.1f}",
                f"{each.files}",
                f"{each.wal_bytes / MIB:,.1f}",
                f"{each.reads:,}",
            )
        notes.append(run.note)
    appends = [each for each in results if not isinstance(each.runs[0], Soak)]
    return Group(report.table(appends), "", made, *notes)


def _told(effort: Effort) -> Iterator[Seen]:
    """What the other process tells. Raises Unequal where it ends otherwise than well."""
    root = Path(__file__).parent.parent
    with TemporaryDirectory() as folder:  # here, so that it goes also where the process is killed
        command = [
            sys.executable,
            "-m",
            "benchmarks.soak",
            folder,
            str(effort.soak_events),
            str(effort.rounds),
        ]
        # In a session of its own it hears no Ctrl-C: that is for us, who end it.
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield _decode.decode(line)
                process.wait()
            finally:
                process.kill()
    if process.returncode != 0:
        raise Unequal(f"the soak ended with exit code {process.returncode}")


def _append(raced: Raced) -> Result:
    """The rate is claimed of old accounts of balances; of a young one it tells how far two equal ledgers differ."""
    result = raced.result
    young = result.runs[1].side
    if raced.version == YOUNG or not raced.claimed:
        return result
    text = f"append rate {KEYS} at version {raced.version:,} / that at version {YOUNG:,}"
    return faster(result, young, text, APPEND_BOUND)


def _soak(samples: Sequence[Sample], events: int) -> Result:
    later = [each for each in samples if each.events >= events // 3]
    if len(later) < SAMPLES_MIN:
        raise Unequal(f"only {len(later)} samples of a soak of {events:,} events")
    of_memory = slope([(each.events / MILLION, each.resident_bytes / MIB) for each in later])
    files = [each.files for each in later]
    text = f"soak of {events:,} events, {SOAKED}"
    few = "" if events >= FEWEST_EVENTS else f"{of_memory:.1f} measured, of too few events to say so"
    claims = (
        Claim(
            f"{text}: resident memory, MiB per million", None if few else of_memory, SLOPE_BOUND, False, few
        ),
        Claim(f"{text}: open files, most / fewest", max(files) / min(files), 1.0, at_least=False),
        Claim(
            f"{text}: write-ahead log, MiB at most",
            max(each.wal_bytes for each in samples) / MIB,
            WAL_BOUND,
            at_least=False,
        ),
    )
    steps = [_rate(before, after) for before, after in pairwise(samples) if before.stage == after.stage]
    run = Soak(
        "writer, projection and reader",
        Spread(sorted(steps)[len(steps) // 2], min(steps), max(steps)),
        None,
        None,
        samples=tuple(samples),
        mib_per_million=of_memory,
        note=f"resident memory grows by {of_memory:.2f} MiB per million events, from {events // 3:,} on",
    )
    return Result("growth", f"soak of {events:,} events", "events", None, (run,), claims=claims)


def _rate(before: Sample, after: Sample) -> float:
    """Events a second between two samples of one stage."""
    return (after.events - before.events) / (after.seconds - before.seconds)


def _pace(before: Sample | None, after: Sample) -> tuple[str, str]:
    if before is None or before.stage != after.stage:
        return "", ""  # a race was between
    cpu_us = 1e6 * (after.cpu_seconds - before.cpu_seconds) / (after.events - before.events)
    return f"{_rate(before, after):,.0f}", f"{cpu_us:,.1f}"
