"""Retold: an execution is told the same however its amounts are written; anything else has a key of its content."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.events import FillRecorded, is_again
from ledger.retold import Told, by_content, completed, differing, told_again, told_of
from tests.scripted import source

FILL = FillRecorded(
    source(), "fill:f1", "f1", "o1", "ADAUSD", "buy", "0.50", "2.0", "1.00", "0.1", "ADA", "maker", "o9", 8
)
OTHERWISE: dict[str, object] = {
    "order_id": "o2",
    "symbol": "ADAEUR",
    "side": "sell",
    "price": "0.51",
    "quantity": "2.1",
    "quote_quantity": "1.01",
    "fee": "0.2",
    "fee_asset": "USD",
    "role": "taker",
    "counter_order_id": "o8",
    "time_ns": 9,
}


def test_all_that_a_fill_tells_is_compared_but_where_it_was_told() -> None:
    assert set(OTHERWISE) == set(Told.__struct_fields__)
    assert set(FillRecorded.__struct_fields__) - set(OTHERWISE) == {"source", "key", "fill_id"}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_told_otherwise_has_a_key_of_its_content(name: str) -> None:
    other = replace(FILL, **{name: OTHERWISE[name]})
    again = told_again(FILL, other)
    assert again is not None
    assert is_again(again)
    assert replace(again, key=FILL.key) == other
    assert [name] == differing(told_of(FILL), told_of(other))
    assert again.key not in (by_content(FILL).key, by_content(replace(other, key="fill:f2")).key)


@pytest.mark.parametrize("name", Told.__struct_fields__[5:])
def test_what_is_told_less_is_nothing_new_and_what_is_told_more_is(name: str) -> None:
    less = replace(FILL, **{name: None})
    assert told_again(FILL, less) is None
    assert told_again(less, FILL) == by_content(FILL)
    assert [] == differing(told_of(less), told_of(FILL))
    assert told_of(FILL) == completed(told_of(less), told_of(FILL)) == completed(told_of(FILL), told_of(less))


@pytest.mark.parametrize(("price", "fee"), [("0.5", "0.100"), ("5e-1", "+0.1"), ("00.5", "1E-1")])
def test_an_amount_is_the_same_however_it_is_written(price: str, fee: str) -> None:
    written = replace(FILL, price=price, fee=fee)
    assert told_again(FILL, written) is None
    assert by_content(FILL).key == by_content(written).key
    assert told_again(replace(FILL, fee="0"), replace(FILL, fee="-0.00")) is None


def test_what_is_no_amount_is_compared_as_text() -> None:
    odd = replace(FILL, price="much")
    assert told_again(odd, odd) is None
    assert told_again(odd, FILL) is not None


def test_what_was_told_first_stands() -> None:
    other = replace(FILL, price="0.6", fee_asset=None)
    assert told_of(FILL) == completed(told_of(FILL), told_of(other))
    assert (
        "USD"
        == completed(
            told_of(replace(other, fee_asset=None)), told_of(replace(FILL, fee_asset="USD"))
        ).fee_asset
    )
