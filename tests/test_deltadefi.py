"""DeltaDeFi: three generations of one stream, none numbered, and nothing may be doubled, lost or rounded."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import Ledger, wire
from ledger.errors import Malformed
from ledger.events import (
    BalanceDelta,
    BalanceEventImported,
    Event,
    FillRecorded,
    FrameQuarantined,
    OrderUpdated,
)
from ledger.venue import Frame, Venue
from ledger.venues import deltadefi
from ledger.wire import FRAME_BYTES_MAX
from tests.golden import FRAMES

GOLDEN = sorted((FRAMES / "deltadefi").glob("*.frame"))
UNIT = "5066154a102ee037390c5236f78db23239b49c5748d3d349f3ccf04b55534458"


def decoded(payload: bytes, ordinal: int = 1) -> list[Event]:
    statements = deltadefi.decode(Frame("deltadefi:main", "s", ordinal, 1_790_000_000_000_000_000, payload))
    assert {"deltadefi:main"} >= {account for account, _ in statements}
    return [event for _, event in statements]


def golden(case: str) -> bytes:
    return (FRAMES / "deltadefi" / f"{case}.frame").read_bytes()


def refusal(payload: bytes) -> str:
    with pytest.raises(Malformed) as caught:
        deltadefi.decode(Frame("deltadefi:main", "s", 1, 1, payload))
    return str(caught.value)


def row(free: str = "1", locked: str = "0", unit: str = "", asset: str = "ada") -> str:
    return f'{{"asset":"{asset}","asset_unit":"{unit}","free":{free},"locked":{locked}}}'


def balance(*rows: str) -> bytes:
    return f'{{"type":"Account","sub_type":"balance","balance":[{",".join(rows)}]}}'.encode()


def only_balances(payload: bytes) -> BalanceDelta:
    (event,) = decoded(payload)
    assert isinstance(event, BalanceDelta)
    return event


def orders_in(events: Sequence[Event]) -> list[OrderUpdated]:
    return [event for event in events if isinstance(event, OrderUpdated)]


def fills_in(events: Sequence[Event]) -> list[FillRecorded]:
    return [event for event in events if isinstance(event, FillRecorded)]


def points(**changed: object) -> bytes:
    message = json.loads(golden("dlta_points"))
    message["dlta_points"] |= changed
    return json.dumps(message).encode()


def order_info(**changed: object) -> bytes:
    message = json.loads(golden("order_info_partly_filled_stays_open"))
    message["order"] |= changed
    return json.dumps(message).encode()


def trade(order: dict[str, object] | None = None, /, **fill: object) -> bytes:
    message = json.loads(golden("trading_history"))
    message["data"][0]["orders"][0]["fills"][0] |= fill
    message["data"][0]["orders"][0] |= order or {}
    return json.dumps(message).encode()


def test_the_module_is_a_venue() -> None:
    venue: Venue = deltadefi
    assert "deltadefi" == venue.NAME


# -- balances


def test_the_documented_amounts_come_out_digit_for_digit() -> None:
    usdx, ada = only_balances(golden("balance")).balances
    assert ("1153.006812", "0") == (usdx.available, usdx.locked)
    assert ("1383.52097", "0") == (ada.available, ada.locked)


@pytest.mark.parametrize(
    "digits", ["0.1234567890123456789", "12345678901234567890123456789012345678", "0", "-0.5", "1e-7", "7E2"]
)
def test_an_amount_is_the_same_as_a_number_and_as_a_string(digits: str) -> None:
    (number,) = only_balances(balance(row(free=digits))).balances
    (string,) = only_balances(balance(row(free=f'"{digits}"'))).balances
    assert digits == number.available == string.available


def test_a_balance_states_no_total_no_time_no_key_and_removes_nothing() -> None:
    event = only_balances(balance(row()))
    assert ("", (), None) == (event.key, event.removed, event.source.time_ns)
    assert [None] == [held.total for held in event.balances]


def test_a_partial_statement_names_only_what_moved() -> None:
    assert ["lovelace"] == [held.asset_id for held in only_balances(balance(row())).balances]
    assert () == only_balances(balance()).balances


def test_the_spellings_of_an_asset_unit_are_one_asset() -> None:
    dotted = UNIT[:56].upper() + "." + UNIT[56:]
    for spellings in (("", "lovelace", "Lovelace"), (UNIT, UNIT.upper(), dotted)):
        ids = {only_balances(balance(row(unit=unit))).balances[0].asset_id for unit in spellings}
        assert {spellings[0] or "lovelace"} == ids


def test_the_label_is_kept_as_sent_and_is_not_the_asset() -> None:
    old, new = (only_balances(balance(row(unit=UNIT, asset=name))).balances[0] for name in ("usdx", "USDM"))
    assert (UNIT, "usdx", UNIT, "USDM") == (old.asset_id, old.asset, new.asset_id, new.asset)


@pytest.mark.parametrize(
    "units", [("", "lovelace"), ("", ""), (UNIT, UNIT.upper()), (UNIT, f"{UNIT[:56]}.{UNIT[56:]}")]
)
def test_one_asset_named_twice_in_one_balance_is_refused(units: tuple[str, str]) -> None:
    assert "an asset is named twice in one balance" == refusal(balance(*(row(unit=unit) for unit in units)))


@pytest.mark.parametrize("unit", [".", "...", "a" * 129])
def test_a_unit_that_is_none_is_refused_and_is_never_ada(unit: str) -> None:
    refusal(balance(row(unit=unit)))


def test_a_balance_without_its_unit_or_its_name_is_refused() -> None:
    assert "missing required field `asset_unit`" in refusal(balance('{"asset":"ada","free":1,"locked":0}'))
    assert "length >= 1" in refusal(balance(row(asset="")))
    assert "length <= 128" in refusal(balance(row(asset="a" * 129)))


def test_the_rest_balance_is_the_same_kind_of_statement_on_its_own_channel() -> None:
    event = only_balances(f"[{row(free='9.5')}]".encode())
    assert "accounts/balance" == event.source.channel
    assert only_balances(balance(row(free="9.5"))).balances == event.balances


def test_the_type_may_be_spelled_in_either_case_and_new_fields_change_nothing() -> None:
    old = only_balances(golden("balance").replace(b'"Account"', b'"account"'))
    new = only_balances(golden("balance").replace(b'"locked":0', b'"locked":0,"staked":{"x":[1]}'))
    null = only_balances(
        golden("balance").replace(b'{"type"', b'{"data":null,"order":null,"error":null,"type"')
    )
    assert only_balances(golden("balance")).balances == old.balances == new.balances == null.balances


NO_AMOUNTS = [
    '"NaN"', '"nan"', '"Infinity"', '"-Infinity"', '"1e1000000"', "1e1000000", '"1_000"', '" 1"', '"1 "', '"١"',
    '""', "null", "true", '"0x10"', '".5"', '"5."', "[1]", '{"a":1}', '"' + "9" * 5000 + '"', "9" * 5000,
    '"\\u0031"',
]  # fmt: skip


@pytest.mark.parametrize("free", NO_AMOUNTS, ids=lambda free: free[:20])
def test_what_is_not_an_amount_is_refused_in_a_balance(free: str) -> None:
    assert refusal(balance(row(free=free))).startswith("not an amount: ")
    assert refusal(balance(row(locked=free))).startswith("not an amount: ")


@pytest.mark.parametrize("free", ["NaN", "Infinity", "1_000", "01", "+1", "1.", "--1", "", '"1'])
def test_what_is_not_json_is_refused_in_a_balance(free: str) -> None:
    refusal(balance(row(free=free)))


@pytest.mark.parametrize("key", ["asset", "asset_unit", "free", "locked"])
@pytest.mark.parametrize("escaped", [False, True])
def test_a_key_twice_in_a_balance_row_is_refused(key: str, escaped: bool) -> None:
    again = f"\\u{ord(key[0]):04x}{key[1:]}" if escaped else key
    assert key == json.loads(f'"{again}"')
    for payload in (balance(row()), f"[{row()}]".encode()):
        doubled = payload.replace(b'{"asset"', b'{"%s":"9","asset"' % again.encode())
        assert f"duplicated key {key!r}" == refusal(doubled)


@pytest.mark.parametrize(
    "again", ['"balance":[]', '"sub_type":"balance"', '"type":"Account"', '"b\\u0061lance":[]']
)
def test_a_key_twice_in_the_envelope_is_refused(again: str) -> None:
    assert refusal(balance(row())[:-1] + b"," + again.encode() + b"}").startswith("duplicated key ")
    assert refusal(b"{" + again.encode() + b"," + balance(row())[1:]).startswith("duplicated key ")


# -- orders and fills


def test_two_orders_and_one_fill_whatever_order_the_frames_come_in() -> None:
    frames = [golden(case) for case in ("open_orders", "trading_history", "orders_history")]
    for deliveries in itertools.permutations(frames):
        events = {event.key: event for frame in (*deliveries, *deliveries) for event in decoded(frame)}
        assert 2 == len({order.order_id for order in orders_in(list(events.values()))})
        assert 1 == len(fills_in(list(events.values())))
        assert 4 == len(events)


def test_the_same_state_has_the_same_key_in_every_list_and_in_every_spelling_of_its_digits() -> None:
    (told,) = decoded(golden("open_orders"))
    elsewhere = golden("open_orders").replace(b"open_orders", b"orders_history")
    respelled = (
        golden("open_orders").replace(b'"25"', b"25.00").replace(b'"0"', b"0.0").replace(b"0.61", b'"0.610"')
    )
    flat = decoded(golden("open_orders_without_pages"))[0]
    assert {told.key} == {decoded(frame)[0].key for frame in (elsewhere, respelled)} | {flat.key}
    assert "25.00" == orders_in(decoded(respelled))[0].quantity


@pytest.mark.parametrize(
    "change",
    [
        {"status": "cancelled"}, {"executed_qty": "1"}, {"update_time": 1756200053}, {"orig_qty": "41"},
        {"order_id": "x", "fills": []}, {"price": 0.73}, {"executed_price": 0.71}, {"fee_charged": "0.09"},
        {"fee_unit": UNIT}, {"side": "sell"}, {"type": "limit"}, {"symbol": "IAGUSDM"}, {"create_time": 1756200050},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_differs_in_a_state_gives_it_another_key(change: dict[str, object]) -> None:
    assert decoded(trade())[0].key != decoded(trade(change))[0].key


@pytest.mark.parametrize(
    "field", ["executed_quote_qty", "quote_qty", "commission", "updated_at", "executed_base_qty"]
)
def test_whatever_differs_in_a_generation_2_state_gives_it_another_key(field: str) -> None:
    value = "2026-02-03T04:06:02Z" if field == "updated_at" else "3.25"
    assert decoded(order_info())[0].key != decoded(order_info(**{field: value}))[0].key


@pytest.mark.parametrize(
    ("status", "closed"),
    [
        ("fully_filled", True), ("cancelled", True), ("partially_cancelled", True), ("closed", True), ("failed", True),
        ("open", False), ("processing", False), ("building", False), ("partially_filled", False), ("paused", False),
    ],
)  # fmt: skip
def test_the_status_word_is_kept_and_says_whether_the_order_is_over(status: str, closed: bool) -> None:
    for frame in (trade({"status": status}), order_info(status=status)):
        (order,) = orders_in(decoded(frame))
        assert (status, closed) == (order.status, order.closed)


@pytest.mark.parametrize(
    "status", ["building", "processing", "open", "closed", "failed", "cancelled", "new_word"]
)
def test_fills_are_booked_whatever_the_status(status: str) -> None:
    assert ["60.00"] == [fill.quantity for fill in fills_in(decoded(order_info(status=status)))]
    assert ["40"] == [fill.quantity for fill in fills_in(decoded(trade({"status": status})))]


def test_an_order_comes_before_its_fills_and_no_frame_of_orders_has_a_time() -> None:
    for case in ("trading_history", "trading_history_records_only", "order_info_closed"):
        events = decoded(golden(case))
        assert isinstance(events[0], OrderUpdated)
        assert fills_in(events) == events[1:]
        assert {None} == {event.source.time_ns for event in events}


def test_a_fill_told_in_both_lists_is_booked_once_from_the_order() -> None:
    (fill,) = fills_in(decoded(golden("trading_history_fills_and_records")))
    assert ("40", "taker") == (fill.quantity, fill.role)


def test_a_fill_told_otherwise_in_the_other_list_is_booked_from_the_order_and_the_other_is_not_lost() -> None:
    message = json.loads(golden("trading_history_fills_and_records"))
    (record,) = message["data"][0]["order_filling_records"]
    message["data"][0]["order_filling_records"] = [
        record, record | {"executed_qty": "39"}, record | {"executed_price": 0.7}, record | {"executed_qty": "39.0"}
    ]  # fmt: skip
    payload = json.dumps(message).encode()
    events = decoded(payload)
    assert ["40"] == [fill.quantity for fill in fills_in(events)]
    reasons = [event.reason for event in events if isinstance(event, FrameQuarantined)]
    assert [
        f"not booked: {record['execution_id']} is told otherwise among the fills of its order in this frame"
    ] * 2 == (reasons)
    with Ledger() as ledger, ledger.intake(deltadefi, "main") as intake:
        assert [(1, 0), (0, 1)] == [
            (each.recorded, each.duplicates) for each in map(intake.receive, [payload] * 2)
        ]
        assert [] == list(ledger.verify([deltadefi]))


def test_a_fill_told_only_apart_from_its_order_is_booked_under_the_same_key() -> None:
    nested, apart = (
        fills_in(decoded(golden(case)))[0] for case in ("trading_history", "trading_history_records_only")
    )
    assert nested.key == apart.key
    assert (nested.price, nested.quantity, nested.fee, nested.time_ns) == (
        apart.price, apart.quantity, apart.fee, apart.time_ns
    )  # fmt: skip


def test_a_record_that_matches_no_fill_of_its_order_is_neither_booked_nor_lost() -> None:
    order, fill, aside = decoded(golden("trading_history_record_of_another_name"))
    assert isinstance(order, OrderUpdated)
    assert isinstance(fill, FillRecorded)
    assert isinstance(aside, FrameQuarantined)
    assert ("", True) == (aside.key, aside.reason.startswith("not booked: 9f9f9f9f-"))


def test_the_counts_of_a_page_are_no_check() -> None:
    told = decoded(golden("trading_history"))
    wrong = decoded(golden("trading_history").replace(b'"total_count":2', b'"total_count":9'))
    without = decoded(golden("trading_history").replace(b',"total_count":2,"total_page":1', b""))
    assert [event.key for event in told] == [event.key for event in wrong] == [event.key for event in without]


@pytest.mark.parametrize("page", ["[]", '[{"orders":[],"order_filling_records":[]}]', '[{"orders":null}]'])
def test_a_list_of_nothing_says_nothing(page: str) -> None:
    assert [] == decoded(f'{{"type":"Account","sub_type":"open_orders","data":{page}}}'.encode())


def test_no_fills_may_be_said_by_absence_null_or_an_empty_list() -> None:
    absent = decoded(golden("order_info_records_absent"))
    assert [OrderUpdated] == [type(event) for event in absent]
    nothings: tuple[None, list[object]] = (None, [])
    for nothing in nothings:
        assert [] == fills_in(decoded(order_info(order_execution_records=nothing)))
        assert [] == fills_in(decoded(trade({"fills": nothing})))


def test_what_a_fill_does_not_state_is_none() -> None:
    (first, _, third) = fills_in(decoded(golden("order_info_closed")))
    assert ("48.6", "0.06", "lovelace") == (first.quote_quantity, first.fee, first.fee_asset)
    assert (None, None, None) == (third.fee, third.fee_asset, third.counter_order_id)
    (old,) = fills_in(decoded(golden("trading_history")))
    assert (None, "0.08", 1756200052 * 10**9) == (old.quote_quantity, old.fee, old.time_ns)


def test_a_fee_unit_is_an_asset_id() -> None:
    (fill,) = fills_in(decoded(trade(fee_unit=f"{UNIT[:56]}.{UNIT[56:].upper()}")))
    assert UNIT == fill.fee_asset
    assert ["lovelace"] == [order.fee_asset for order in decoded_orders("order_info_generation_0")]


def decoded_orders(case: str) -> list[OrderUpdated]:
    return orders_in(decoded(golden(case)))


def test_a_fill_that_contradicts_itself_or_its_order_is_refused() -> None:
    assert refusal(golden("trading_history_one_fill_two_amounts")).endswith("is told twice, and differently")
    assert refusal(trade(order_id="other")).endswith("names another order than the one it stands in")
    assert refusal(order_info(id="other")).endswith("names another order than the one it stands in")


def test_an_order_info_is_read_by_its_shape_in_every_generation() -> None:
    quantities = [
        decoded_orders(case)[0].quantity
        for case in ("order_info_generation_0", "order_info_generation_1", "order_info")
    ]
    assert ["120", "40", "250.00"] == quantities


def test_an_amount_of_an_order_keeps_38_digits() -> None:
    digits = "12345678901234567890.123456789012345678"
    assert digits == orders_in(decoded(order_info(executed_base_qty=digits)))[0].executed
    number = golden("open_orders").replace(b'"price":0.61', f'"price":{digits}'.encode())
    assert digits == orders_in(decoded(number))[0].price


GEN_1 = ["orig_qty", "executed_qty", "price", "executed_price", "fee_charged"]
GEN_2 = [
    "base_qty",
    "quote_qty",
    "executed_base_qty",
    "executed_quote_qty",
    "price",
    "executed_price",
    "commission",
]
FILL_1 = ["execution_price", "filled_amount", "fee_amount"]
FILL_2 = ["execution_price", "filled_base_qty", "filled_quote_qty", "commission"]
WRONG: list[object] = ["NaN", "Infinity", "1e1000000", "1_000", " 1", "١", "", None, True, "5" * 5000]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:20])
def test_what_is_not_an_amount_is_refused_in_every_amount_of_an_order(wrong: object) -> None:
    for field in GEN_1:
        refusal(trade({field: wrong}))
    for field in FILL_1:
        refusal(trade(**{field: wrong}))
    for field in GEN_2:
        refusal(order_info(**{field: wrong}))
    for field in FILL_2:
        record = json.loads(order_info())["order"]["order_execution_records"][0]
        refusal(order_info(order_execution_records=[record | {field: wrong}]))
    for field in ("executed_qty", "executed_price", "fee_charged"):
        message = json.loads(golden("trading_history_records_without_pages"))
        message["data"][0][field] = wrong
        refusal(json.dumps(message).encode())


@pytest.mark.parametrize("field", ["order_id", "status", "symbol", "side", "type"])
def test_an_order_without_its_identity_is_refused(field: str) -> None:
    for wrong in ("", None, 7, "x" * 129):
        refusal(trade({field: wrong}))
        refusal(order_info(**{"id" if field == "order_id" else field: wrong}))


@pytest.mark.parametrize("time", [0, -1, 1.5, "1756200001", None, True, 10**30, 7258118400])
def test_what_is_not_a_time_is_refused(time: object) -> None:
    refusal(trade({"update_time": time}))
    refusal(trade(create_time=time))
    refusal(order_info(updated_at=time))


@pytest.mark.parametrize("time", ["", "0001-01-01T00:00:00Z", "2026-02-03 04:05:06Z", "2026-02-30T00:00:00Z"])
def test_what_is_not_an_iso_time_is_refused(time: str) -> None:
    assert "time" in refusal(order_info(created_at=time))


PAIR = re.compile(rb'"(\w+)":\s*("[^"]*"|[0-9.]+)')
# What no event is made of: nothing there can be doubled.
IGNORED = {
    "slippage", "total_count", "total_page", "account_id", "locked_base_qty", "locked_quote_qty", "slippage_bp",
    "ob_open_order_base_qty", "commission_rate_bp", "active_order_utxo_id", "market_order_limit_price",
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        "trading_history",
        "trading_history_records_only",
        "order_info_closed",
        "order_info_generation_0",
        "dlta_points",
    ],
)
def test_a_key_twice_in_any_object_of_an_event_is_refused(case: str) -> None:
    payload = golden(case)
    pairs = [pair for pair in PAIR.finditer(payload) if pair[1].decode() not in IGNORED]
    assert len(pairs) > 5
    for pair in pairs:
        doubled = payload[: pair.start()] + pair[0] + b"," + payload[pair.start() :]
        assert f"duplicated key {pair[1].decode()!r}" == refusal(doubled)


@pytest.mark.parametrize("key", ["fills", "orders", "order_filling_records", "data"])
def test_a_list_twice_is_refused_even_where_one_is_empty(key: str) -> None:
    payload = golden("trading_history").replace(
        b'"%s":' % key.encode(), b'"%s":[],"%s":' % (key.encode(), key.encode())
    )
    assert f"duplicated key {key!r}" == refusal(payload)


def test_an_escaped_key_hides_no_second_amount() -> None:
    payload = golden("trading_history").replace(
        b'"filled_amount":', b'"filled_\\u0061mount":"9","filled_amount":'
    )
    assert "duplicated key 'filled_amount'" == refusal(payload)


def test_a_value_that_looks_like_a_key_is_no_duplicate() -> None:
    assert ["status"] == [order.status for order in orders_in(decoded(trade({"status": "status"})))]
    assert ["free"] == [held.asset for held in only_balances(balance(row(asset="free"))).balances]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_frame_says_the_same_whichever_way_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass and several, with blanks and without, known whole at once or counted key by key."""
    payload = path.read_bytes()

    def said(payload: bytes) -> object:
        try:
            return [replace(event, source=None) for event in decoded(payload)]
        except Malformed as error:
            return re.sub(r"byte \d+", "byte", str(error))

    expected = said(payload)
    spread = expected
    with suppress(ValueError):
        texts = partial(json.loads, parse_float=Number, parse_int=Number, object_pairs_hook=Pairs)
        spread = said(json_text(texts(payload), " ").encode())
        assert expected == said(json_text(texts(payload), "").encode())
    assert expected == spread
    monkeypatch.setattr(deltadefi, "_is_whole", lambda *_: False)
    monkeypatch.setattr(wire, "holds_only", lambda *_: False)
    assert expected == said(payload)
    monkeypatch.setattr(deltadefi, "_USUAL", deltadefi._EXACT)
    assert expected == said(payload)


class Number(str):
    """A JSON number as it was written."""


class Pairs(list[tuple[str, object]]):
    """A JSON object, doubled keys and all."""


def json_text(value: object, blank: str) -> str:
    if isinstance(value, Number):
        return value
    if isinstance(value, Pairs):
        pairs = (f"{json.dumps(key)}{blank}:{blank}{json_text(part, blank)}" for key, part in value)
        return f"{{{blank}{f',{blank}'.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{f'{blank},'.join(json_text(part, blank) for part in value)}]"
    return json.dumps(value)


UNREAD: list[object] = [None, 7, -1.5e9, "", "price", "{", {}, [], {"a": {"b": 1}}, [{"x": "y"}]]


def test_an_order_with_the_id_of_the_older_generations_is_none_of_the_newest() -> None:
    assert "missing required field `orig_qty`" in refusal(order_info(order_id="x"))
    assert "Expected `str`, got `null`" in refusal(order_info(order_id=None))


def test_the_times_of_an_order_and_of_its_fill_are_read_to_the_last_digit() -> None:
    times = ("2026-02-03T04:05:06.123456789Z", "2026-02-03T04:05:06.12Z", "2026-02-03T04:05:06Z")
    record = json.loads(order_info())["order"]["order_execution_records"][0] | {"created_at": times[2]}
    for _ in range(2):  # the second time they are known
        order, fill = decoded(
            order_info(created_at=times[0], updated_at=times[1], order_execution_records=[record])
        )
        assert isinstance(order, OrderUpdated)
        assert isinstance(fill, FillRecorded)
        assert [1770091506123456789, 1770091506120000000, 1770091506000000000] == [
            order.created_ns,
            order.updated_ns,
            fill.time_ns,
        ]


@pytest.mark.parametrize("value", UNREAD, ids=str)
def test_what_is_not_read_may_be_anything(value: object) -> None:
    (order, fill) = decoded(order_info())
    for field in ("account_id", "locked_base_qty", "commission_rate_bp", "slippage_bp", "a_new_one"):
        assert [order.key, fill.key] == [event.key for event in decoded(order_info(**{field: value}))]
    assert [event.key for event in decoded(trade())] == [
        event.key for event in decoded(trade({"slippage": value}))
    ]


@pytest.mark.parametrize("read", ["price", "commission", "id", "status"])
def test_a_key_twice_within_what_is_not_read_hides_behind_nothing(read: str) -> None:
    twice = f'{{"{read}":"1","{read}":"2"}}'.encode()
    compact = json.dumps(json.loads(order_info(slippage_bp=0)), separators=(",", ":")).encode()
    assert decoded(compact)
    for instead in (twice, b"[" + twice + b"]"):
        payload = compact.replace(b'"slippage_bp":0', b'"slippage_bp":' + instead)
        assert f"duplicated key {read!r}" == refusal(payload)


@pytest.mark.parametrize(
    "free", ["0", "-0", "0.0", "-0.0", "12", '"0"', '"-0"', '"12"', "1E-7", '"007"', '"+5"']
)
@pytest.mark.parametrize("others", [0, 1, 40])
def test_digits_are_kept_as_they_are_written_among_any_others(free: str, others: int) -> None:
    rows = [row(f"{at}.5", str(at), f"{at:04x}") for at in range(others)]
    held = only_balances(balance(*rows, row(free, free))).balances[-1]
    assert (free.strip('"'), free.strip('"')) == (held.available, held.locked)


@pytest.mark.parametrize("amounts", [("1", '"1"'), ('"1"', "1"), ('"1"', '"1"'), ("1", "1")])
@pytest.mark.parametrize("again", ["free", "locked", "asset", "asset_unit"])
def test_a_key_twice_is_refused_whether_amounts_are_numbers_or_text(
    amounts: tuple[str, str], again: str
) -> None:
    for value in ('"1"', '"ada"') if again.startswith("asset") else ("1", '"1"', "null"):
        for payload in (balance(row(*amounts)), f"[{row(*amounts)}]".encode()):
            doubled = payload.replace(b'{"asset"', f'{{"{again}":{value},"asset"'.encode())
            assert f"duplicated key {again!r}" == refusal(doubled)


# -- points, errors and everything else


def test_points_are_a_history_and_no_balance() -> None:
    (event,) = decoded(golden("dlta_points"))
    assert isinstance(event, BalanceEventImported)
    assert ("dlta_points", "DLTA_POINTS", True, None) == (
        event.asset_id,
        event.asset,
        event.memo,
        event.time_ns,
    )
    assert ("trade", "75", "4275") == (event.cause, event.amount, event.balance)


@pytest.mark.parametrize(
    "field", ["delta", "new_total", "season_points", "source_type", "source_ref", "league"]
)
def test_a_row_of_points_is_known_by_all_it_says(field: str) -> None:
    (told,), (again,), (other,) = decoded(points()), decoded(points()), decoded(points(**{field: "81"}))
    assert told.key == again.key != other.key


def test_the_reference_of_points_is_optional() -> None:
    (event,) = decoded(points(source_ref=None))
    assert isinstance(event, BalanceEventImported)
    assert event.reference is None
    assert decoded(points(source_ref=""))[0].key == event.key


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:20])
def test_what_is_not_an_amount_of_points_is_refused(wrong: object) -> None:
    refusal(points(delta=wrong))
    refusal(points(new_total=wrong))


def test_an_error_of_the_venue_is_kept_with_its_code() -> None:
    (event,) = decoded(b'{"error":"Internal Server Error","code":5000}')
    assert isinstance(event, FrameQuarantined)
    assert ("", "venue error 5000: Internal Server Error") == (event.key, event.reason)
    (long,) = decoded(b'{"error":"%s","code":4000}' % (b"x" * 5000))
    assert isinstance(long, FrameQuarantined)
    assert "venue error 4000: " + "x" * 200 == long.reason


@pytest.mark.parametrize("frame", [b"ping", b"pong"])
def test_a_keepalive_says_nothing(frame: bytes) -> None:
    assert [] == decoded(frame)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty frame"),
        (b"{}", "unknown message: neither type nor error"),
        (b'{"type":"Account"}', "unknown message: type 'Account', sub_type 'UNSET'"),
        (b'{"type":"Market","sub_type":"balance"}', "unknown message: type 'Market', sub_type 'balance'"),
        (b'{"type":"Account","sub_type":"transfer"}', "unknown message: sub_type 'transfer'"),
        (b'{"type":"Account","sub_type":"balance","data":[]}', "balance without its 'balance'"),
        (b'{"type":"Account","sub_type":"order_info","data":[]}', "order_info without its 'order'"),
        (b'{"type":"Account","sub_type":"open_orders","order":{}}', "open_orders without its 'data'"),
        (b'{"type":"Account","sub_type":"dlta_points"}', "dlta_points without its 'dlta_points'"),
        (b'{"error":"x"}', "Object missing required field `code`"),
        (b'\xff{"type":"Account"}', "invalid UTF-8 at byte 0"),
        (b'{"type":"Account","x":"\xff"}', "invalid UTF-8 at byte 23"),
        (b"[" * 1100 + b"]" * 1100, None),
        (b'{"x":' + b"[" * 1100 + b"]" * 1100 + b"}", "JSON nested too deep"),
        (golden("open_orders").replace(b'"25"', b"[" * 1100 + b"]" * 1100), "JSON nested too deep"),
        (b" " * (FRAME_BYTES_MAX + 1), "frame of 8388609 bytes: more than 8388608 are not read"),
        (b"null", None), (b"7", None), (b'"pong"', None), (b"PING?", None), (b"[1]", None), (b"[[]]", None),
        (b'{"type":"Account","sub_type":"open_orders","data":null}', None),
        (b'{"type":"Account","sub_type":"open_orders","data":[{}]}', None),
        (b'{"type":"Account","sub_type":"open_orders","data":[7]}', None),
        (b'{"type":"Account","sub_type":"order_info","order":null}', None),
        (b'{"type":7,"sub_type":"balance","balance":[]}', None),
        (b'{type:"Account",sub_type:"balance",balance:[]}', None),
    ],
    ids=lambda part: str(part)[:50],
)  # fmt: skip
def test_a_frame_that_is_not_understood_is_refused_with_its_reason(
    payload: bytes, reason: str | None
) -> None:
    said = refusal(payload)
    assert reason is None or reason == said
    assert said


def test_a_page_beside_something_else_is_refused_whole() -> None:
    message = json.loads(golden("trading_history"))
    message["data"].append({"order_id": "x"})
    assert "neither orders nor order_filling_records - at `$.data[1]`" == refusal(
        json.dumps(message).encode()
    )


def test_every_truncation_is_refused() -> None:
    for case in (
        "balance",
        "rest_balance",
        "trading_history",
        "order_info_closed",
        "dlta_points",
        "venue_error",
    ):
        payload = golden(case).rstrip()
        for length in range(len(payload)):
            refusal(payload[:length])


def test_every_event_has_a_key_of_its_own_kind() -> None:
    kinds: dict[type[Event], str] = {
        OrderUpdated: "order",
        FillRecorded: "fill",
        BalanceEventImported: "points",
    }
    seen = 0
    for path in GOLDEN:
        try:
            events = decoded(path.read_bytes())
        except Malformed:
            continue
        named = [event.key for event in events if event.key]
        assert len(set(named)) == len(named)
        for event in events:
            assert kinds.get(type(event), "") == event.key.partition(":")[0]
            seen += 1
    assert seen > 30


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(payload: bytes) -> None:
    read_or_refused(payload)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_mutated_frame_is_read_or_refused(data: st.DataObject) -> None:
    payload = data.draw(st.sampled_from(GOLDEN)).read_bytes()
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 20)))
    piece = st.sampled_from(
        [b"", b'"', b"\\", b"1e9", b"null", b"-", b"{}", b"[", b"\xff", b"\\ud800", b"9" * 5000]
    )
    read_or_refused(payload[:start] + data.draw(piece | st.binary(max_size=8)) + payload[end:])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_frame_with_any_value_in_any_place_is_read_or_refused(data: st.DataObject) -> None:
    cases = [
        "balance",
        "rest_balance",
        "trading_history_fills_and_records",
        "order_info_closed",
        "dlta_points",
    ]
    payload = golden(data.draw(st.sampled_from(cases)))
    pair = data.draw(st.sampled_from(list(PAIR.finditer(payload))))
    value = json.dumps(data.draw(VALUES)).encode()
    read_or_refused(payload[: pair.start(2)] + value + payload[pair.end(2) :])


def read_or_refused(payload: bytes) -> None:
    frame = Frame("deltadefi:main", "s", 1, 1, payload)
    try:
        assert list(deltadefi.decode(frame)) == list(deltadefi.decode(frame))
    except Malformed:
        return


@pytest.mark.parametrize("text", ["NaN", "1_000", "١", "", " 5"])
def test_points_of_the_season_are_guarded_like_any_amount(text: str) -> None:
    points = f'{{"delta":"1","new_total":"2","season_points":"{text}","source_type":"trade"}}'
    frame = f'{{"type":"Account","sub_type":"dlta_points","dlta_points":{points}}}'
    with pytest.raises(Malformed, match="not an amount"):
        deltadefi.decode(Frame("deltadefi:main", "s", 1, 1, frame.encode()))
