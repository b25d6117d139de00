"""Orders: the furthest stated state stands, in whatever order the states arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.events import OrderUpdated
from projections import Gaps, Orders, catch_up
from projections.orders import OrderRow
from tests.scripted import MAIN, RECEIVED_NS, feed, order, says, source


def after(*states: OrderUpdated) -> OrderRow:
    """The one order that these states, each a frame, are of."""
    with Ledger() as ledger:
        feed(ledger, *map(says, states))
        (row,) = Orders(ledger).rows()
        return row


# Each state further than the one before: by time, then by what was executed (as a number), then by being closed.
STATES = [
    order("o1", 1, "0", status="new"),
    order("o1", 2, "0", status="open"),
    order("o1", 2, "1", status="partial"),
    order("o1", 2, "9.5", status="more"),
    order("o1", 2, "10", status="full"),
    order("o1", 2, "10.0", status="filled", closed=True),
    order("o1", 3, "9", status="corrected"),
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrivals=st.permutations(range(len(STATES))), upto=st.integers(1, len(STATES)))
def test_any_arrival_order_of_an_orders_states_ends_at_the_same_state(arrivals: list[int], upto: int) -> None:
    some = arrivals[:upto]
    assert STATES[max(some)].status == after(*(STATES[index] for index in some)).status


@settings(max_examples=30, deadline=None, derandomize=True)
@given(arrivals=st.permutations(STATES), again=st.lists(st.sampled_from(STATES), max_size=4))
def test_states_stated_again_change_nothing(arrivals: list[OrderUpdated], again: list[OrderUpdated]) -> None:
    with Ledger() as ledger:
        feed(ledger, *map(says, arrivals))
        assert ["corrected"] == [row.status for row in Orders(ledger).rows()]
        feed(ledger, *map(says, again), session="s2")
        assert ["corrected"] == [row.status for row in Orders(ledger).rows()]


def test_of_states_as_far_as_each_other_the_last_to_arrive_stands() -> None:
    one, other = order("o1", 2, "1.0", status="one"), order("o1", 2, "1", status="other")
    assert "other" == after(one, other).status
    assert "one" == after(other, one).status


def test_an_order_without_times_goes_by_the_venues_time_then_by_receipt() -> None:
    stated = OrderUpdated(source(7), "", "o1", "ADAUSD", "buy", "limit", "open", False)
    assert 7 == after(stated).updated_ns
    assert 9 == after(order("o1", 9)).updated_ns
    assert RECEIVED_NS == after(order("o1", None)).updated_ns
    assert "late" != after(order("o1", 9), order("o1", 8, status="late")).status


@pytest.mark.parametrize("executed", [None, "0", "-0.0"])
def test_nothing_executed_is_as_far_however_it_is_written(executed: str | None) -> None:
    said = OrderUpdated(
        source(1), "", "o1", "ADAUSD", "buy", "limit", "last", False, executed=executed, updated_ns=1
    )
    assert "last" == after(order("o1", 1, "0"), said).status


def test_an_order_says_what_the_venue_said(tmp_path: Path) -> None:
    said = OrderUpdated(
        source(5),
        "",
        "o1",
        "ADAUSD",
        "sell",
        "limit",
        "Cancelled",
        True,
        "0.50",
        "100",
        "40.0",
        "50.00",
        "20.00",
        "0.500",
        "0.04",
        "USD",
        3,
        4,
    )
    expected = OrderRow(
        MAIN,
        "o1",
        "ADAUSD",
        "sell",
        "limit",
        "Cancelled",
        True,
        "0.50",
        "100",
        "40.0",
        "50.00",
        "20.00",
        "0.500",
        "0.04",
        "USD",
        3,
        4,
        2,
    )
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(said))
        assert [expected] == Orders(ledger).rows()
    with Ledger(tmp_path / "a.db") as ledger:
        assert [expected] == Orders(ledger).rows()
        assert [True] == [row.closed for row in Orders(ledger).rows() if row.closed is True]


def test_orders_of_many_events_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    select = Ledger.select

    def counted(ledger: Ledger, sql: str, *params: Any) -> Any:
        asked.append(sql)
        return select(ledger, sql, *params)

    monkeypatch.setattr(Ledger, "select", counted)
    with Ledger() as ledger:
        feed(ledger, *[says(order(f"o{number}", 1, "0")) for number in range(300)])
        projections: list[Any] = [Orders(ledger), Gaps(ledger)]
        asked.clear()
        catch_up(ledger, projections)
        assert 300 == len(projections[0].rows())
        assert 30 > len([sql for sql in asked if "order_id" in sql and " IN (" in sql]) > 0
        assert not [sql for sql in asked if sql.endswith("WHERE account=? AND order_id=?")]


def test_orders_are_their_accounts_own_and_come_by_account_and_id() -> None:
    with Ledger() as ledger:
        feed(ledger, says(order("o2", 1), order("o1", 1)), says(order("o1", 2), account="scripted:b"))
        orders = Orders(ledger)
        every = [("scripted:b", "o1", 2), (MAIN, "o1", 1), (MAIN, "o2", 1)]
        assert every == [(row.account, row.order_id, row.updated_ns) for row in orders.rows()]
        assert ["o1", "o2"] == [row.order_id for row in orders.rows(MAIN)]
        assert [] == orders.rows("scripted:c")
