"""What was planted is what is told: gaps, breaks and completeness of a thousand random histories with losses.

A seed that fails says how to see it again, frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from importlib import import_module
from typing import Any, Final, TypeAlias

import msgspec
import pytest

from ledger.errors import Malformed
from ledger.events import BalanceDelta, BalanceEventImported, BalanceSnapshot, FillRecorded, Statement
from ledger.venue import Frame
from projections import Balances, Breaks, Gaps
from tests import judging
from tests.judging import disagreements, false_alarms
from tests.planting import VENUES, Arrival, Parts, Run, clean, planted

SEEDS: Final = 200
BLOCKS: Final = 4
CLEAN_SEEDS: Final = 40


def check(runs: Iterable[Run], judge: Callable[[Run], list[str]], how: str) -> None:
    """Fails where a run is told otherwise than it was, with the line to see it again."""
    wrong: list[str] = []
    for run in runs:
        if found := judge(run):
            imports = f"from tests.judging import show; from tests.planting import {how}"
            wrong += [f"python -c '{imports}; show({how}(\"{run.venue}\", {run.seed}))'", *found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("venue", VENUES)
def test_what_was_planted_is_what_is_told(venue: str, block: int) -> None:
    runs = (planted(venue, seed) for seed in range(block, SEEDS, BLOCKS))
    check(runs, disagreements, "planted")


@pytest.mark.parametrize("venue", VENUES)
def test_where_nothing_was_planted_nothing_is_told(venue: str) -> None:
    runs = (clean(venue, seed) for seed in range(CLEAN_SEEDS))
    check(runs, lambda run: [*run.plants, *disagreements(run), *false_alarms(run)], "clean")


# The generator: what it says of a frame is what the venue module reads in it


@pytest.mark.parametrize("venue", VENUES)
def test_frames_tell_what_the_generator_says_they_tell(venue: str) -> None:
    module = import_module(f"ledger.venues.{venue}")
    for seed in range(25):
        run = planted(venue, seed)
        for recording in run.recordings:
            for ordinal, arrival in enumerate(recording.arrivals, 1):
                frame = Frame(
                    run.exchange.account,
                    recording.session,
                    ordinal,
                    arrival.received_ns,
                    arrival.payload,
                    asked=arrival.message.asked,
                )
                try:
                    agree(run, arrival, module.decode(frame))
                except Malformed:
                    assert not arrival.read


def agree(run: Run, arrival: Arrival, statements: Iterable[Statement]) -> None:
    message = arrival.message
    stated: dict[tuple[str, str], Parts | None] = {}
    rows = fills = 0
    for account, event in statements:
        if isinstance(event, BalanceSnapshot | BalanceDelta):
            for balance in event.balances:
                parts = {part: Decimal(getattr(balance, part)) for part in run.exchange.parts}
                stated[account, balance.asset_id] = parts
            removed = event.removed if isinstance(event, BalanceDelta) else ()
            stated |= dict.fromkeys(((account, asset) for asset in removed), None)
        rows += isinstance(event, BalanceEventImported)
        fills += isinstance(event, FillRecorded)
    expected: dict[tuple[str, str], Parts | None] = {}
    for said in message.said:
        expected |= {(said.account, asset): parts for asset, parts in said.balances.items()}
        expected |= dict.fromkeys(((said.account, asset) for asset in said.removed), None)
    assert arrival.read
    assert expected == stated
    assert len(message.rows) + (message.points is not None) == rows
    assert (len(message.order.fills) if message.order else 0) == fills


# The teeth: projections that are wrong in one way are found out

Rows: TypeAlias = list[Any]


def without(*kinds: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row for row in rows if row.kind not in kinds]


def always(**fields: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [msgspec.structs.replace(row, **fields) for row in rows]


def only_long_holes(rows: Rows) -> Rows:
    """As if a hole began only after the next number was missed too: `>` where `>=` belongs."""
    return [row for row in rows if row.kind != "sequence" or row.start != row.end]


def other_differences(rows: Rows) -> Rows:
    return [msgspec.structs.replace(row, difference=f"-{row.difference}".replace("--", "")) for row in rows]


def half_of_it(rows: Rows) -> Rows:
    return rows[::2]


DEFECTS: Final[list[tuple[str, type[Any], Callable[[Rows], Rows]]]] = [
    ("kraken_prime", Gaps, only_long_holes),
    ("kraken_prime", Gaps, without("sequence")),
    ("kraken_prime", Gaps, always(state="open")),
    ("kraken_prime", Gaps, always(state="closed")),
    ("kraken_prime", Breaks, without("snapshot")),
    ("kraken_prime", Breaks, always(explained_by=None)),
    ("kraken_prime", Balances, always(completeness="proven")),
    ("kraken_prime", Balances, half_of_it),
    ("bitopro", Gaps, without("blind")),
    ("bitopro", Gaps, always(state="open")),
    ("bitopro", Breaks, without("snapshot")),
    ("bitopro", Breaks, other_differences),
    ("bitopro", Breaks, always(explained_by="a gap")),
    ("bitopro", Balances, always(completeness="consistent")),
    ("cascade", Gaps, without("blind")),
    ("cascade", Breaks, without("snapshot")),
    ("cascade", Balances, always(completeness="unprovable")),
    ("deltadefi", Gaps, without("blind")),
    ("deltadefi", Gaps, without("fills")),
    ("deltadefi", Gaps, without("chain")),
    ("deltadefi", Breaks, without("fills")),
    ("deltadefi", Breaks, without("quote")),
    ("deltadefi", Breaks, without("snapshot")),
    ("deltadefi", Breaks, always(state="closed")),
    ("pacifica", Gaps, without("chain")),
    ("pacifica", Gaps, always(state="open")),
    ("pacifica", Gaps, always(missing="rows that change USDC by 1")),
    ("pacifica", Balances, always(completeness="proven")),
]


@cache
def told_right(venue: str) -> list[int]:
    """Seeds of which everything is told as it is."""
    return [seed for seed in range(25) if not disagreements(planted(venue, seed))]


@pytest.mark.parametrize("at", range(len(DEFECTS)))
def test_a_projection_that_is_wrong_in_one_way_is_found_out(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    venue, projection, altered = DEFECTS[at]
    right = told_right(venue)
    rows = projection.rows

    def wrong(self: Any) -> Rows:
        return altered(rows(self))

    monkeypatch.setattr(judging, projection.__name__, type("Wrong", (projection,), {"rows": wrong}))
    assert any(disagreements(planted(venue, seed)) for seed in right)


@pytest.mark.parametrize("projection", [Gaps, Breaks])
def test_a_false_alarm_is_found_out(projection: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    noise = next(rows for seed in range(60) if (rows := rows_of(planted("bitopro", seed), projection)))
    monkeypatch.setattr(judging, projection.__name__, type("Noisy", (projection,), {"rows": lambda _: noise}))
    assert false_alarms(clean("bitopro", 0))


def rows_of(run: Run, projection: type[Any]) -> Rows:
    with judging.taken_in(run) as ledger:
        rows: Rows = projection(ledger).rows()
        return rows
