"""Balances as they are shown: found by id and by label, as numbers."""

from __future__ import annotations

from decimal import Decimal

from ledger import Ledger
from ledger.events import Balance, BalanceSnapshot
from projections import Balances
from tests.scripted import MAIN, delta, feed, says


def labelled(*pairs: tuple[str, str, str]) -> bytes:
    said = tuple(Balance(asset_id, label, total) for asset_id, label, total in pairs)
    return says(BalanceSnapshot(delta(1, {}).source, "", said))


def test_a_balance_is_found_by_its_id_and_by_its_label() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("unit1", "ADA", "1.50"), ("unit2", "BTC", "2")))
        for found in (Balances(ledger)[MAIN], Balances(ledger).at(9)[MAIN]):
            assert Decimal("1.50") == found["ADA"].total == found["unit1"].total
            assert "1.50" == str(found["ADA"].total)
            assert {"unit1", "unit2", "ADA", "BTC"} == set(found)


def test_a_label_of_two_assets_names_neither() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("unit1", "ADA", "1"), ("unit2", "ADA", "2")))
        assert {"unit1", "unit2"} == set(Balances(ledger)[MAIN])


def test_an_id_goes_before_another_assets_label() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("ADA", "fake", "1"), ("unit2", "ADA", "2")))
        assert Decimal(1) == Balances(ledger)[MAIN]["ADA"].total


def test_an_asset_no_longer_held_is_not_found_and_leaves_its_label() -> None:
    with Ledger() as ledger:
        gone = delta(2, {}, ["unit1"])
        feed(ledger, labelled(("unit1", "ADA", "1"), ("unit2", "ADA", "2")), says(gone))
        found = Balances(ledger)[MAIN]
        assert {"unit2", "ADA"} == set(found)
        assert Decimal(2) == found["ADA"].total
        assert {} == Balances(ledger)["scripted:nobody"]
