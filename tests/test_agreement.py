"""Where a history stood, whatever the order of its rows; how much is remembered. What is made of it: test_breaks."""

from __future__ import annotations

from itertools import permutations

import pytest

from ledger import Recorded
from ledger.events import BalanceDelta, BalanceEventImported
from projections.agreement import INSTANTS_MAX, Agreement, Instant, Known, stood
from tests.scripted import MAIN, delta, imported

INSTANTS = [Instant(10, "5", 1, []), Instant(20, "7", 2, []), Instant(30, "5.0", 3, [])]


@pytest.mark.parametrize(
    ("time_ns", "upto_ns", "balance", "expected"),
    [
        (9, 9, "5", (None, None)),
        (10, 10, "5.00", (1, 1)),
        (19, 19, "7", (1, None)),
        (19, 20, "7", (1, 2)),
        (25, 25, "7", (2, 2)),
        (25, 40, "5", (2, 3)),
        (25, 29, "5", (2, None)),
        (9, 40, "7", (None, 2)),
    ],
)
def test_a_history_stood_at_its_last_instant_and_agrees_at_any_until_then(
    time_ns: int, upto_ns: int, balance: str, expected: tuple[int | None, int | None]
) -> None:
    found = stood(INSTANTS, time_ns, upto_ns, balance)
    assert expected == tuple(None if each is None else each.version for each in found)


def told(rows: list[BalanceEventImported]) -> Agreement:
    agreement = Agreement(None)
    for version, row in enumerate(rows, 1):
        agreement.imported(Recorded(MAIN, version, row), row, row.time_ns or 0)
    return agreement


def test_the_rows_of_an_instant_end_where_they_lead_whatever_their_order() -> None:
    rows = [imported(1, "5", "5"), imported(1, "-2", "3"), imported(1, "7", "10"), imported(2, "1", "11")]
    for order in permutations(rows):
        count, instants = told(list(order)).history(MAIN, "USDC")
        assert (4, [(1, "10"), (2, "11")]) == (count, [(each.time_ns, each.balance) for each in instants])


def test_only_the_latest_instants_are_remembered_whichever_rows_come_first() -> None:
    rows = [imported(at, "1", str(at)) for at in range(1, 3 * INSTANTS_MAX)]
    for order in (rows, rows[::-1], rows[1::2] + rows[::2]):
        count, instants = told(order).history(MAIN, "USDC")
        assert (len(rows), list(range(2 * INSTANTS_MAX, 3 * INSTANTS_MAX))) == (
            count,
            [each.time_ns for each in instants],
        )


def test_what_is_older_than_all_that_is_remembered_is_neither_agreement_nor_break() -> None:
    agreement = told([imported(at, "1", str(at)) for at in range(1, 3 * INSTANTS_MAX)])
    said = delta(5, {"USDC": "77"})
    assert isinstance(said, BalanceDelta)
    known = Known(("77", None, None, None, None), 999, 5)
    assert agreement.said(Recorded(MAIN, 999, said), "USDC", known, full=False) is None
    assert [] == list(agreement.breaks.rows())
