"""Suspect: a gap touches the movements it may hide something in, and no other."""

from __future__ import annotations

import msgspec
import pytest

from projections.breaks import Break
from projections.gaps import ARRIVED, STATED, Gap
from projections.suspect import Moved, Trouble, explains

SEQUENCE = Gap("v:main", "sequence", "4", "4", "4", "all", "s", "7", 10, 100)
BLIND = Gap(
    "v:main", "blind", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "all", "all", "s", None, 10, 100
)
CHAIN = Gap(
    "v:main",
    "chain",
    "2026-01-01T00:00:00Z",
    "2026-01-02T00:00:00Z",
    "rows that change ADA by 3",
    "",
    None,
    None,
    10,
    100,
    asset="A",
)
DAY_2 = 1_767_312_000_000_000_000
BREAK = Break(
    "v:main", "snapshot", "A", "total", "1", "3", "2", 5, 10, 100, 0, None, "open", None, None, None
)
MOVED = Moved("A", 10, DAY_2, False, "unexplained")


def closed(gap: Gap, by: int, how: str = STATED) -> Gap:
    return msgspec.structs.replace(gap, state="closed", closed_by=by, closed_ns=1, closed_how=how)


def touched(moved: Moved, *gaps: Gap, breaks: tuple[Break, ...] = ()) -> bool:
    return bool(Trouble(gaps, breaks).of(moved))


def moved(**changed: object) -> Moved:
    return msgspec.structs.replace(MOVED, **changed)


@pytest.mark.parametrize(
    ("version", "gap", "expected"),
    [
        (9, SEQUENCE, False),
        (10, SEQUENCE, True),
        (99, SEQUENCE, True),
        (12, closed(SEQUENCE, 12), True),
        (13, closed(SEQUENCE, 12), False),
        (11, closed(SEQUENCE, 12, ARRIVED), False),
        (12, closed(BLIND, 12), True),
        (13, closed(BLIND, 12), False),
        (13, BLIND, True),
        (10, CHAIN, True),
        (11, CHAIN, False),
        (10, closed(CHAIN, 12, ARRIVED), False),
    ],
)
def test_a_gap_touches_what_was_told_from_it_until_it_is_closed(
    version: int, gap: Gap, expected: bool
) -> None:
    assert expected == touched(moved(version=version), gap)


def test_a_blind_interval_touches_what_came_after_it_and_no_history() -> None:
    assert not touched(moved(received_ns=DAY_2 - 1), BLIND)
    assert not touched(moved(imported=True), BLIND)


def test_a_chain_gap_touches_the_missing_rows_of_its_asset() -> None:
    assert not touched(moved(asset_id="B"), CHAIN)
    assert not touched(moved(cause="trade"), CHAIN)


def test_a_break_touches_the_statement_that_differs() -> None:
    assert touched(MOVED, breaks=(BREAK,))
    assert not touched(moved(asset_id="B"), breaks=(BREAK,))
    assert not touched(moved(version=11), breaks=(BREAK,))


def test_a_quote_that_differs_touches_the_movement_its_fill_explains() -> None:
    quote = msgspec.structs.replace(BREAK, kind="quote", subject="f2", stated_version=3)
    assert touched(moved(cause="fills f1, f2"), breaks=(quote,))
    assert not touched(moved(cause="fills f1"), breaks=(quote,))


def test_whatever_is_told_otherwise_of_a_fill_touches_the_movement_it_explains() -> None:
    of = [
        msgspec.structs.replace(BREAK, kind=kind, subject="f2", part=part)
        for kind, part in (("quote", None), ("retold", "price"), ("retold", "fee"))
    ]
    trouble = Trouble((), of)
    assert ["quote", "retold", "retold"] == [
        each.split()[0] for each in trouble.of(moved(cause="fills f1, f2"))
    ]
    assert () == trouble.of(moved(cause="fills f1"))
    assert 3 == len(trouble.open_in(99, 100, ["A"]))


def test_a_period_is_touched_by_what_is_open_in_it() -> None:
    day_1 = DAY_2 - 86_400_000_000_000
    trouble = Trouble([SEQUENCE, BLIND, CHAIN, closed(SEQUENCE, 12)], [BREAK])
    assert ["sequence gap", "break"] == kinds(trouble.open_in(99, 100, None))
    assert ["sequence gap"] == kinds(trouble.open_in(100, 101, None))
    assert ["sequence gap", "blind interval", "chain gap"] == kinds(trouble.open_in(day_1, DAY_2, None))
    assert ["sequence gap", "blind interval"] == kinds(trouble.open_in(DAY_2, DAY_2 + 1, None))
    assert ["sequence gap", "blind interval"] == kinds(trouble.open_in(day_1, DAY_2, ["B"]))
    assert [] == trouble.open_in(1, 99, None)


def kinds(found: list[str]) -> list[str]:
    words = ("sequence gap", "blind interval", "chain gap", "break")
    return [word for text in found for word in words if word in text]


def test_the_reason_names_the_gaps_without_their_fate() -> None:
    found = Trouble([SEQUENCE, closed(BLIND, 12)], [BREAK]).of(MOVED)
    assert 3 == len(found)
    assert (
        "found after the sequence gap: number 4 of 7; the blind interval 2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z"
        == explains(found)
    )
    assert explains(()) is None
