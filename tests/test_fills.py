"""Fills: every execution once, by account, time and id."""

from __future__ import annotations

from pathlib import Path

from ledger import Ledger
from ledger.events import FillRecorded
from projections import Fills
from projections.fills import FillRow
from tests.scripted import MAIN, RECEIVED_NS, feed, fill, says, source


def test_fills_come_by_account_time_and_id() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            says(fill("b", 2), fill("a", 2), fill("z", 1), fill("c", 10)),
            says(fill("a", 3), account="scripted:b"),
        )
        fills = Fills(ledger)
        every = [("scripted:b", "a"), (MAIN, "z"), (MAIN, "a"), (MAIN, "b"), (MAIN, "c")]
        assert every == [(row.account, row.fill_id) for row in fills.rows()]
        assert ["z", "a", "b", "c"] == [row.fill_id for row in fills.rows(MAIN)]
        assert [] == fills.rows("scripted:c")


def test_a_redelivered_fill_is_one_fill() -> None:
    with Ledger() as ledger:
        feed(ledger, says(fill("a", 1, key="fill:a"), fill("b", 1, key="fill:b")))
        feed(ledger, says(fill("b", 1, key="fill:b")), says(fill("c", 1, key="fill:c")), session="s2")
        assert [("a", 2), ("b", 3), ("c", 6)] == [(row.fill_id, row.version) for row in Fills(ledger).rows()]


def test_the_time_is_the_fills_own_then_the_venues_then_that_of_receipt() -> None:
    stated = FillRecorded(source(7), "", "venue", "o1", "ADAUSD", "buy", "0.5", "1")
    with Ledger() as ledger:
        feed(ledger, says(fill("own", 5), stated, fill("received", None)))
        found = {row.fill_id: row.time_ns for row in Fills(ledger).rows()}
        assert {"own": 5, "venue": 7, "received": RECEIVED_NS} == found


def test_a_fill_says_what_the_venue_said(tmp_path: Path) -> None:
    said = FillRecorded(
        source(9), "", "f1", "o1", "ADAUSD", "sell", "0.50", "2.0", "1.00", "-0.001", "USD", "maker", "o9", 8
    )
    expected = FillRow(
        MAIN,
        "f1",
        "o1",
        "ADAUSD",
        "sell",
        "maker",
        "0.50",
        "2.0",
        "1.00",
        "-0.001",
        "USD",
        "o9",
        2,
        8,
    )
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(said))
        assert [expected] == Fills(ledger).rows()
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert [expected] == Fills(ledger).rows()
