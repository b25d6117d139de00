"""Causes: a change is explained by fills only where they come to exactly so much."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from ledger import Recorded
from ledger.events import AGAIN, FillRecorded, Source
from projections.causes import Effect, effects, meant, pair, told

LABELS = {"lovelace": "ada", "c48c": "usdm", "BTC": "BTC", "USD": "USD"}


def fill(
    side: str, symbol: str = "ADAUSDM", *, quote: str | None = None, fee_asset: str = "lovelace"
) -> Recorded:
    source = Source("v", "c", "s", 1, 10, b"")
    event = FillRecorded(source, "", "f1", "o1", symbol, side, "0.61", "250", quote, "0.25", fee_asset)
    return Recorded("v:main", 3, event)


def amounts(recorded: Recorded) -> dict[str, list[str]]:
    found = effects([recorded], LABELS)
    return {asset_id: [str(effect.amount) for effect in each] for asset_id, each in found.items()}


def test_a_buyer_gets_the_base_and_pays_quote_and_fee() -> None:
    assert {"lovelace": ["250", "-0.25"], "c48c": ["-152.50"]} == amounts(fill("buy"))


def test_a_seller_gives_the_base_and_gets_the_quote_that_is_stated() -> None:
    sold = fill("SELL", "BTC/USD", quote="152.4", fee_asset="usd")
    assert {"BTC": ["-250"], "USD": ["152.4", "-0.25"]} == amounts(sold)


@pytest.mark.parametrize(("side", "symbol"), [("buy", "ADAEUR"), ("long", "ADAUSDM")])
def test_a_fill_of_unknown_assets_or_side_explains_nothing(side: str, symbol: str) -> None:
    assert {} == amounts(fill(side, symbol))


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("ADAUSDM", ("lovelace", "c48c")),
        ("BTC/USD", ("BTC", "USD")),
        ("usd_btc", ("USD", "BTC")),
        ("USD", None),
        ("", None),
    ],
)
def test_a_symbol_is_two_labels(symbol: str, expected: tuple[str, str] | None) -> None:
    assert expected == pair(symbol, LABELS)


def test_a_symbol_that_can_be_read_twice_is_not_read() -> None:
    assert pair("ABC", {"1": "A", "2": "BC", "3": "AB", "4": "C"}) is None


def test_an_asset_is_meant_by_its_id_before_a_label_and_a_label_before_other_letters() -> None:
    labels = {"ada": "x", "lovelace": "ada", "l2": "ADA"}
    assert {"ada"} == meant(labels, "ada")
    assert {"l2"} == meant(labels, "ADA")
    assert {"ada", "lovelace", "l2"} == meant(labels, "Ada")
    assert set() == meant(labels, "btc")


def test_only_the_fills_told_between_the_statements_count_and_only_if_exact() -> None:
    of = [Effect((place, place), Decimal(1), f"f{place}") for place in (1, 2, 3, 4)]
    assert ("fills f2, f3", None) == told(Decimal("2.0"), (1, 1), (3, 9), of)
    assert ("unexplained", "the fills since the statement before (version 1) change it by 2") == told(
        Decimal("2.1"), (1, 1), (3, 9), of
    )
    cause, reason = told(Decimal(1), (4, 4), (9, 9), of)
    assert ("unexplained", True) == (cause, "no fill came" in str(reason))


def test_a_fill_told_again_has_its_effect_once_where_it_was_told_first_with_what_was_added() -> None:
    first = fill("buy")
    bare = replace(first.event, fee=None, fee_asset=None)
    added = replace(
        first.event, key=f"{AGAIN}1", price="0.99", source=replace(first.event.source, received_ns=20)
    )
    told_again = [replace(first, event=bare), replace(first, version=9, event=added)]
    assert effects([first], LABELS) == effects(told_again, LABELS)
    assert effects([first], LABELS) == effects([first, told_again[1]], LABELS)
