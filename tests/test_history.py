"""Histories: the venue's rows by account, asset and time; rows of one instant as their balances follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.events import BalanceEventImported
from projections import History, tables
from tests.scripted import MAIN, feed, imported, says


def balances(*rows: BalanceEventImported) -> list[str]:
    """The balances in the order of the history, each row a frame of its own."""
    with Ledger() as ledger:
        feed(ledger, *map(says, rows))
        return [row.balance for row in History(ledger).rows()]


def breaks(*rows: BalanceEventImported) -> list[tuple[str, str]]:
    with Ledger() as ledger:
        feed(ledger, *map(says, rows))
        return [(each.before.balance, each.after.balance) for each in History(ledger).breaks()]


def test_rows_come_by_account_asset_and_time() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            says(imported(2, "1", "2"), imported(1, "1", "1"), imported(1, "7", "7", asset="A")),
            says(imported(1, "9", "9"), account="scripted:b"),
        )
        history = History(ledger)
        every = [("scripted:b", "USDC", 1), (MAIN, "A", 1), (MAIN, "USDC", 1), (MAIN, "USDC", 2)]
        assert every == [(row.account, row.asset, row.time_ns) for row in history.rows()]
        assert every[1:] == [(row.account, row.asset, row.time_ns) for row in history.rows(MAIN)]
        assert [] == list(history.rows("scripted:c"))


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[BalanceEventImported], list[BalanceEventImported]]:
    """A history that closes, many rows of it of one instant; and the same rows as they might arrive."""
    amounts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    times = sorted(draw(st.lists(st.integers(1, 3), min_size=len(amounts), max_size=len(amounts))))
    rows = [
        imported(time, str(amount), str(sum(amounts[: index + 1])))
        for index, (time, amount) in enumerate(zip(times, amounts, strict=True))
    ]
    return rows, draw(st.permutations(rows))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(chain=chains())
def test_rows_of_one_instant_follow_one_another_in_any_order_of_arrival(
    chain: tuple[list[BalanceEventImported], list[BalanceEventImported]],
) -> None:
    rows, arrived = chain
    assert [row.balance for row in rows] == balances(*arrived)
    assert [] == breaks(*arrived)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chain=chains(), missing=st.data())
def test_one_missing_instant_is_one_break(
    chain: tuple[list[BalanceEventImported], list[BalanceEventImported]], missing: st.DataObject
) -> None:
    """All rows of one instant are missing between two others: within those the order is still found."""
    rows, arrived = chain
    gone = missing.draw(st.sampled_from(sorted({row.time_ns or 0 for row in rows})))
    kept = [row for row in rows if row.time_ns != gone]
    inside = any((row.time_ns or 0) < gone for row in kept) and any((row.time_ns or 0) > gone for row in kept)
    came = [row for row in arrived if row.time_ns != gone]
    assert [row.balance for row in kept] == balances(*came)
    assert int(inside) == len(breaks(*came))


def test_two_equal_rows_both_stand() -> None:
    assert ["5", "3", "5", "3"] == balances(
        imported(1, "5", "5"), imported(2, "-2", "3"), imported(3, "2", "5"), imported(4, "-2", "3")
    )
    equal = imported(2, "0", "5")
    assert ["5", "5", "5"] == balances(imported(1, "5", "5"), equal, equal)


def test_rows_of_one_instant_that_do_not_follow_stay_as_they_came() -> None:
    assert ["9", "4"] == balances(imported(1, "1", "9"), imported(1, "1", "4"))


def test_a_break_names_the_rows_around_it() -> None:
    one, two, three = imported(1, "5", "5"), imported(2, "2", "7"), imported(3, "1", "8")
    assert [] == breaks(one, two, three)
    assert [("5", "8")] == breaks(one, three)
    assert [("5", "8")] == breaks(three, one)
    assert [] == breaks(three)


def test_histories_of_different_assets_and_accounts_do_not_follow_one_another() -> None:
    with Ledger() as ledger:
        feed(ledger, says(imported(1, "5", "5")), says(imported(2, "7", "9", asset="A")))
        feed(ledger, says(imported(3, "7", "9"), account="scripted:b"), session="s2")
        assert [] == list(History(ledger).breaks())


@pytest.mark.parametrize(
    ("row", "closes"),
    [
        (imported(2, "-3", "7", cause="withdraw"), True),
        (imported(2, "3", "7", cause="withdraw"), True),  # written without its sign
        (imported(2, "3", "7", cause="trade"), False),
        (imported(2, "-3.000", "7.0", cause="trade"), True),
        (imported(2, "4", "10", cause="deposit", pending="5"), True),  # above the cap: pending moves
        (imported(2, "4", "10", cause="deposit", pending="4"), False),
        (imported(2, "4", "10", cause="deposit"), False),
        (imported(2, "4", "10", cause="trade", pending="5"), False),
    ],
)
def test_what_may_follow_a_balance_of_ten_and_one_pending(row: BalanceEventImported, closes: bool) -> None:
    assert ([] if closes else [("10", row.balance)]) == breaks(imported(1, "10", "10", pending="1"), row)


def test_a_row_says_what_the_venue_said() -> None:
    with Ledger() as ledger:
        feed(ledger, says(imported(3, "+1.50", "2.50", cause="points", pending="0.0", asset="P", memo=True)))
        (row,) = History(ledger).rows()
        found = (row.account, row.asset_id, row.time_ns, row.version, row.asset, row.cause, row.reference)
        assert (MAIN, "P", 3, 2, "P", "points", None) == found
        assert ("+1.50", "2.50", "0.0", True) == (row.amount, row.balance, row.pending, row.memo)


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_a_history_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(tables, "PAGE_ROWS_MAX", page)
    rows = [imported(index // 3, "1", str(index + 1)) for index in range(10)]
    assert [str(number) for number in range(1, 11)] == balances(*reversed(rows))


def test_the_first_rows_need_not_wait_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGE_ROWS_MAX", 10)
    with Ledger() as ledger:
        feed(ledger, says(*(imported(index, "1", str(index + 1)) for index in range(100))))
        reads: Sequence[str] = []
        history = History(ledger)
        history.subscription.catch_up()
        rows = history.rows()
        assert "1" == next(rows).balance
        ledger.write([("DELETE FROM history WHERE time_ns >= 50", [()])])
        reads = [row.balance for row in rows]
        assert [str(number) for number in range(2, 51)] == reads
        assert all(int(one) + 1 == int(other) for one, other in pairwise(reads))
