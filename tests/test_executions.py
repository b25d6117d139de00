"""Executions against fills: what an order says was executed and no fill tells, until one does."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from msgspec.structs import replace

from ledger import Ledger
from ledger.wire import EXACT
from projections import Breaks, Gaps
from projections.gaps import Gap
from projections.statement import statement
from projections.view_sql import MARK
from tests.scripted import MAIN, RECEIVED_NS, feed, fill, order, says, snapshot


def gaps(*frames: bytes) -> list[Gap]:
    with Ledger() as ledger:
        feed(ledger, *frames)
        return Gaps(ledger).rows()


def order_lives(*frames: bytes) -> list[tuple[str, str, int, int | None, str | None]]:
    with Ledger() as ledger:
        feed(ledger, *frames)
        live = Gaps(ledger)
        return [(gap.start, gap.missing, gap.version, gap.closed_by, gap.closed_how) for gap in live.rows()]


def test_an_order_that_was_executed_further_than_its_fills_is_a_gap_until_they_arrive() -> None:
    (gap,) = gaps(says(order("o1", 5, "3.5"), fill("f1", 5, quantity="1")))
    assert (
        Gap(
            MAIN,
            "fills",
            "o1",
            "o1",
            "2.5",
            "the fills of this order, no balance",
            "s1",
            None,
            2,
            RECEIVED_NS,
        )
        == gap
    )
    assert [("o1", "2.5", 2, 5, "its fills arrived")] == order_lives(
        says(order("o1", 5, "3.5"), fill("f1", 5)), says(fill("f2", 6), fill("f3", 6, quantity="1.5"))
    )


def test_an_order_before_its_fills_in_one_frame_is_no_gap() -> None:
    assert [] == order_lives(says(order("o1", 5, "2"), fill("f1", 5), fill("f2", 5)))
    assert [] == order_lives(says(fill("f1", 5), fill("f2", 5), order("o1", 5, "2")))
    assert [] == order_lives(says(fill("f1", 5), fill("f2", 5)), says(order("o1", 5, "1")))  # more: no gap


def test_a_gap_that_grew_and_shrank_is_told_as_it_was_at_the_most() -> None:
    grew = [says(order("o1", 5, "2")), says(order("o1", 6, "7")), says(fill("f1", 6, quantity="3"))]
    assert [("o1", "4", 2, None, None)] == order_lives(*grew)
    assert [("o1", "7", 2, 5, "its fills arrived")] == order_lives(*grew, says(fill("f2", 6, quantity="4")))


def test_a_later_statement_that_less_was_executed_closes_the_gap_and_an_older_one_does_not() -> None:
    less = "a later statement of the order says that less was executed"
    assert [("o1", "2", 2, 3, less)] == order_lives(says(order("o1", 5, "2")), says(order("o1", 6, "0")))
    assert [("o1", "2", 2, None, None)] == order_lives(says(order("o1", 5, "2")), says(order("o1", 4, "0")))


def test_a_fill_told_twice_counts_once_and_fills_of_an_unknown_order_wait_for_it() -> None:
    assert [("o1", "1", 4, None, None)] == order_lives(
        says(fill("f1", 5)), says(fill("f1", 5)), says(order("o1", 5, "2"))
    )


def test_what_former_versions_kept_of_orders_and_fills_goes_where_the_tables_are_made_anew(
    tmp_path: Path,
) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(order("o1", 5, "2"), fill("f1", 5)))
        assert [] != Gaps(ledger).rows()
        for name in ("order_sums", "execution_fills"):
            ledger.write([(f"CREATE TABLE {name} (account TEXT)", [()])])
            if not ledger.in_file:
                ledger.write([(f"COMMENT ON TABLE {name} IS '{MARK}'", [()])])
        ledger.write([("UPDATE projection_positions SET version=3", [()])])
    with Ledger(tmp_path / "a.db") as ledger:
        assert ["1"] == [gap.missing for gap in Gaps(ledger).rows()]
        assert set() == ledger.columns("order_sums") | ledger.columns("execution_fills")


def test_the_next_gap_of_an_order_is_another_one() -> None:
    assert [
        ("o1", "1", 4, None, None),
        ("o1", "2", 2, 3, "its fills arrived"),
    ] == order_lives(says(order("o1", 5, "2")), says(fill("f1", 5, quantity="2")), says(order("o1", 6, "3")))


WIDE = ("9" * 76 + "e99", "0." + "0" * 73 + "1e-99")
"""The largest and the smallest amounts the guard lets through."""


def test_fills_of_the_widest_numbers_are_compared_and_added_up_without_rounding() -> None:
    large, small = WIDE
    with Ledger() as ledger:
        feed(
            ledger,
            says(snapshot(1, {"ADA": "1", "USD": small})),
            says(replace(fill("f1", 5, quantity=large), price=large, quote_quantity=small)),
            says(replace(fill("f2", 6, quantity=small), price=small)),
            says(snapshot(9 * 10**9, {"ADA": "2", "USD": "5"})),
        )
        (found,) = (each for each in Breaks(ledger).rows() if each.kind == "quote")
        assert f"{EXACT.multiply(Decimal(large), Decimal(large)):f}" == found.expected
        said = statement(ledger, MAIN, "1970-01-01T00:00:00.000000001Z", "1970-01-01T00:01:00Z")
    assert ["ADA", "USD"] == [each.asset_id for each in said.assets]
