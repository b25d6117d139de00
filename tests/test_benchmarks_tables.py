"""The benchmarks' tables: a row a line where there is room, and whole, line by line, where there is not."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Final

import pytest
from rich.console import Console, RenderableType

from benchmarks import claims, decode, delays, growth, postgres, replay, report, transport
from benchmarks.measure import Claim, Result, Run, Spread
from benchmarks.soak import Sample
from benchmarks.tables import Fitted

NAMES: Final = ("accountledger, append of the rows", "stock repository.get, amounts as text", decode.CCXT)
CASE: Final = "followers: beside a writer, 3 balances, 1 order with fill"
FIGURES: Final = ("1,234,567", "1,123,456-1,345,678", "1,234.5", "12.34", "98.70", "97.60-99.80", "88.80")
VERDICTS: Final = (
    "98.70, at least 0.35: pass; not exact: floats",
    "88.80, at least 99: falls short; 50,000 events",
    "p99 is 12.3 times a bare commit's, at most 3: falls short",
    "not measured",
)
TEXT: Final = "replay of 1,009,000 events into all balances (asked of 1,000,000): our speed / that of"


def rates(unit: str = "frames") -> list[Result]:
    """Long names, long figures, all of them, and verdicts."""
    per_s, ours = Spread(1_234_567, 1_123_456, 1_345_678), Spread(98.7, 97.6, 99.8)
    by_cpu = Spread(88.8, 88.8, 88.8)
    runs = [
        Run(side, per_s, 1_234.5, ours, by_cpu, 12.34, note)
        for side, note in zip(NAMES, VERDICTS, strict=False)
    ]
    runs.append(Run("gone", None, None, None, note="not measured"))
    judged = tuple(
        Claim(f"{TEXT} {name}", figure, 1.0, True, "" if figure else f"{name}: not installed")
        for name, figure in zip(NAMES, (12.34, 0.35, None), strict=True)
    )
    return [Result("replay", CASE, unit, 23_142, tuple(runs), 999_999, judged, "PostgreSQL 18.4: " + CASE)]


def waits() -> list[Result]:
    runs = [
        delays.delays(side, [[1_234.5] * 1_234], (), 250.0, note)
        for side, note in zip(NAMES, VERDICTS, strict=False)
    ]
    return [Result("transport", CASE, "frames", None, tuple(runs))]


def soak() -> list[Result]:
    samples = [
        Sample(each * 100_000, (1_234 + each) << 20, 1_024, 16 << 20, each * 12.5, each * 9.0, 0, 87_654)
        for each in range(1, 31)
    ]
    return [*rates(), growth._soak(samples, 3_000_000)]


TABLES: Final[dict[str, tuple[Callable[[], list[Result]], Callable[[list[Result]], RenderableType]]]] = {
    "decode, ingest": (rates, report.table),
    "replay": (lambda: [*rates(), *waits()], replay.table),
    "growth": (soak, growth.table),
    "transport": (lambda: [*waits(), *rates()], transport.table),
    "postgres": (lambda: [*rates(), *rates("events")], postgres.table),
}


def printed(table: RenderableType, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, highlight=False, markup=False).print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("which", TABLES)
def test_in_a_narrow_window_every_side_its_figures_and_its_verdict_are_there_whole(
    which: str, width: int
) -> None:
    make, table = TABLES[which]
    results = make()
    lines = printed(table(results), width).splitlines()
    assert max(map(len, lines)) <= width
    for run in (run for result in results for run in result.runs if not isinstance(run, growth.Soak)):
        wanted = [run.note, *(FIGURES if run.ours is not None else ())]
        records = [lines[at : at + 4] for at, line in enumerate(lines) if line.strip().startswith(run.side)]
        assert any(all(any(each in line for line in record) for each in wanted) for record in records)


@pytest.mark.parametrize("width", [40, 80, 100])
def test_in_a_narrow_window_every_claim_its_figure_and_its_verdict_are_there_whole(width: int) -> None:
    told = claims.told(rates())
    lines = printed(report.claims_table(told, "all claims"), width).splitlines()
    assert max(map(len, lines)) <= width
    said = " ".join(" ".join(lines).split())
    for claim in told:
        figure = "" if claim.figure is None else f"figure {claim.figure:5.2f} "
        asked = f"{claim.text} asked at least 1 {figure}{claim.verdict}"
        assert " ".join(asked.split()) in said
        assert any(claim.verdict in line for line in lines)


def test_the_samples_of_a_soak_are_a_table_in_80_columns() -> None:
    text = printed(growth.table(soak()), 80)
    assert "events  events/s  CPU us each  resident MiB  open files  log MiB   reads\n" in text
    [last] = [line for line in text.splitlines() if "1,263.0" in line]
    assert ["2,900,000", "8,000", "90.0", "1,263.0", "1024", "16.0", "87,654"] == last.split()


def test_what_fits_or_has_room_is_a_row_a_line() -> None:
    small = Fitted("title")
    for name in ("", "figure"):
        small.add_column(name, justify="right")
    small.add_row("side", "12")
    assert ["title", "      figure", "side      12"] == [
        line.rstrip() for line in printed(small, 40).splitlines()
    ]
    wide = printed(report.table(rates()), 240).splitlines()
    assert len(wide) == 2 + 1 + 4
    assert all(figure in wide[3] for figure in (*FIGURES, NAMES[0], VERDICTS[0]))
