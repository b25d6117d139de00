"""Every balance as it was stated: nothing left out, nothing made up."""

from __future__ import annotations

from pathlib import Path

from ledger import Ledger
from projections.stated import Stated, StatedRow
from tests.scripted import MAIN, delta, feed, imported, order, says, snapshot

NOTHING = (None, None, None, None)


def test_each_statement_gives_a_row_for_each_asset_it_names(tmp_path: Path) -> None:
    expected = [
        StatedRow(MAIN, "A", 2, "snapshot", "A", "1.50", *NOTHING, 1),
        StatedRow(MAIN, "A", 3, "delta", "A", "2", *NOTHING, 2),
        StatedRow(MAIN, "B", 2, "snapshot", "B", "-0", *NOTHING, 1),
        StatedRow(MAIN, "B", 3, "removed", "B", None, *NOTHING, 2),
    ]
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(snapshot(1, {"A": "1.50", "B": "-0"})), says(delta(2, {"A": "2"}, ["B"])))
        assert expected == Stated(ledger).rows() == Stated(ledger).rows(MAIN)
        assert [] == Stated(ledger).rows("scripted:other")
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert expected == Stated(ledger).rows()


def test_what_states_no_balance_gives_none() -> None:
    with Ledger() as ledger:
        feed(ledger, says(order("o1", 1), imported(1, "1", "1")), b"junk")
        assert [] == Stated(ledger).rows()


def test_of_an_asset_that_a_statement_names_twice_the_last_counts() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"}, ["A"])))
        assert [("delta", "1")] == [(row.kind, row.total) for row in Stated(ledger).rows()]
