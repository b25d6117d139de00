"""Spans: every amount of every event is found in its frame, where it was read from and nowhere else."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Frame, Ledger, Malformed, Venue
from ledger import spans as module
from ledger.events import AMOUNTS, TOPICS, Asked, Balance, BalanceDelta, BalanceSnapshot, Statement, Valuation
from ledger.spans import amounts, index_of, login_of, spans, spans_of
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from ledger.wire import AMOUNT_CHARS_MAX, decimal
from tests import scripted
from tests.golden import FRAMES, RECEIVED_NS, frame_of
from tests.proving import LATER, WHOLE, take_in
from tests.scripted import delta, says, snapshot

GOLDEN = sorted(FRAMES.glob("*/*.frame"))
SAID_TWICE = {"trading_history_two_pages_one_order_again"}
"""Golden frames that say one thing twice: changed in one place only, they contradict themselves."""


def frame(venue: Venue, payload: bytes, ordinal: int = 2, asked: Asked | None = None) -> Frame:
    return Frame(f"{venue.NAME}:main", "s", ordinal, RECEIVED_NS, payload, "s", asked)


def texts(payload: bytes, found: dict[Any, module.Span]) -> dict[Any, str]:
    """What the bytes at the spans mean, as a JSON text or number."""
    return {place: json.loads(b'"%s"' % payload[span.start : span.end]) for place, span in found.items()}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_amount_of_every_golden_frame_is_found_and_its_bytes_are_its_digits(path: Path) -> None:
    venue = cast("Venue", importlib.import_module(f"ledger.venues.{path.parent.name}"))
    golden = frame_of(path)
    try:
        said = venue.decode(golden)
    except Malformed:
        with pytest.raises(Malformed):
            spans(venue.decode, golden)
        return
    found = spans(venue.decode, golden)
    assert [dict(amounts(event)) for _, event in said] == [texts(golden.payload, each) for each in found]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_other_digits_written_at_the_span_are_what_the_event_then_says(path: Path) -> None:
    """Told apart from every other place of the same digits: one digit changed there changes that amount, and no other.

    Asked of the frame itself, by plain replacement; where a check of the venue's forbids it, or a thing is said twice,
    the frame is refused or says something else, and there is nothing to compare."""
    venue = cast("Venue", importlib.import_module(f"ledger.venues.{path.parent.name}"))
    golden = frame_of(path)
    try:
        said = venue.decode(golden)
    except Malformed:
        return
    compared = total = 0
    for index, found in enumerate(spans(venue.decode, golden)):
        for place, span in found.items():
            total += 1
            digit = golden.payload[span.end - 1 : span.end]
            other = b"7" if digit != b"7" else b"8"
            payload = golden.payload[: span.end - 1] + other + golden.payload[span.end :]
            try:
                again = venue.decode(msgspec.structs.replace(golden, payload=payload))
            except Malformed:
                continue
            was = sorted(str(each) for _, event in said for each in amounts(event))
            now = sorted(str(each) for _, event in again for each in amounts(event))
            if len(now) != len(was):
                continue
            text = dict(amounts(said[index][1]))[place]
            expected = list(was)
            expected.remove(str((place, text)))
            expected.append(str((place, text[:-1] + other.decode())))
            assert sorted(expected) == now
            compared += 1
    assert compared == total or path.stem in SAID_TWICE


def test_every_amount_that_an_event_can_state_is_known_as_one() -> None:
    for struct in (*TOPICS.values(), Balance, Valuation):
        notes: dict[str, str] = struct.__annotations__
        stated = tuple(name for name, note in notes.items() if note in ("Amount", "Amount | None"))
        assert AMOUNTS.get(struct, ()) == stated


def test_equal_digits_of_two_assets_are_told_apart() -> None:
    payload = WHOLE.replace(b'"3.50"', b'"5"').replace(b'"0.84210000"', b'"5"')
    found = spans(bitopro.decode, frame(bitopro, payload, 1))[0]
    ada, btc = payload.index(b'"ADA":{'), payload.index(b'"BTC":{')
    fives = [match.start() + 1 for match in re.finditer(b'"5"', payload)]
    assert 4 == len(fives)
    assert fives == [
        found[place].start for place in ((0, "total"), (0, "available"), (1, "total"), (1, "available"))
    ]
    assert ada < fives[0] < fives[1] < btc < fives[2]


def test_digits_that_are_numbers_elsewhere_do_not_confuse() -> None:
    """A reqid, a sequence and a time of the same digits as the amount; none of them may be written otherwise."""
    payload = (
        b'{"reqid":5,"type":"Balance","ts":"2021-09-16T16:17:06.892914Z","initial":true,"seqNum":5,'
        b'"data":[{"Currency":"5","Amount":"5","AvailableAmount":"5"}]}'
    )
    found = spans(kraken_prime.decode, frame(kraken_prime, payload))[0]
    assert payload.index(b'"Amount":"5"') + 10 == found[0, "total"].start
    assert payload.index(b'"AvailableAmount":"5"') + 19 == found[0, "available"].start


def test_numbers_and_texts_of_one_frame_are_both_found() -> None:
    payload = (
        b'[{"asset":"ada","asset_unit":"","free":12.50,"locked":"12.50"},'
        b'{"asset":"x","asset_unit":"y","free":0,"locked":-0.0}]'
    )
    first, second = (
        {
            place: span
            for place, span in spans(deltadefi.decode, frame(deltadefi, payload))[0].items()
            if place[0] == at
        }
        for at in (0, 1)
    )
    assert {(0, "available"): "12.50", (0, "locked"): "12.50"} == {
        place: each.text for place, each in first.items()
    }
    assert {(1, "available"): "0", (1, "locked"): "-0.0"} == {
        place: each.text for place, each in second.items()
    }
    assert b"12.50," == payload[first[0, "available"].start : first[0, "available"].end + 1]
    assert b'12.50"' == payload[first[0, "locked"].start : first[0, "locked"].end + 1]


def test_escaped_digits_are_found_as_they_are_escaped() -> None:
    payload = LATER.replace(b'"amount":"7.25"', rb'"amount":"\u0037.2\u0035"')
    found = spans(bitopro.decode, frame(bitopro, payload))[0]
    assert rb"\u0037.2\u0035" == payload[found[0, "total"].start : found[0, "total"].end]
    assert r"\u0037.2\u0035" == found[0, "total"].text
    assert "7.25" == found[0, "available"].text


def test_an_amount_as_long_as_the_guard_allows_is_found() -> None:
    """There is no room for another zero: another digit it is."""
    text = "1." + "0" * (AMOUNT_CHARS_MAX - 2)
    payload = LATER.replace(b"7.25", text.encode())
    found = spans(bitopro.decode, frame(bitopro, payload))[0]
    assert [text, text] == [found[0, name].text for name in ("total", "available")]
    assert found[0, "total"].start < found[0, "available"].start


def test_more_places_of_one_text_than_there_are_zeros_are_told_apart() -> None:
    rows = b",".join(
        b'"C%d":{"currency":"C%d","amount":"0","available":"0"}' % (number, number) for number in range(200)
    )
    payload = b'{"event":"ACCOUNT_BALANCE","timestamp":1789999999000,"data":{%s}}' % rows
    decoded: list[Frame] = []

    def decode(asked: Frame) -> Sequence[Statement]:
        decoded.append(asked)
        return bitopro.decode(asked)

    found = spans(decode, frame(bitopro, payload))[0]
    assert 10 > len(decoded)  # not one for each of the 400 places
    starts = [found[index, name].start for index in range(200) for name in ("total", "available")]
    assert [match.start() + 1 for match in re.finditer(b'"0"', payload)] == starts


def test_a_fill_that_a_frame_tells_twice_is_found_where_it_is_told_first() -> None:
    """The venue's decoder refuses a frame that contradicts itself: both places must be written alike."""
    fill = b'{"id":"f1","order_id":"o1","execution_price":"0.51","filled_amount":"9"}'
    order = (
        b'{"order_id":"o1","status":"open","symbol":"ADAUSDM","side":"buy","type":"limit","orig_qty":"20",'
        b'"executed_qty":"9","price":"0.52","fills":[%s]}' % fill
    )
    payload = b'{"type":"Account","sub_type":"trading_history","data":[{"orders":[%s,%s]}]}' % (order, order)
    said = deltadefi.decode(frame(deltadefi, payload))
    found = spans(deltadefi.decode, frame(deltadefi, payload))
    assert [dict(amounts(event)) for _, event in said] == [texts(payload, each) for each in found]
    fills = [
        each for each, (_, event) in zip(found, said, strict=True) if type(event).__name__ == "FillRecorded"
    ]
    assert [payload.index(b'"0.51"') + 1] == [each[0, "price"].start for each in fills]
    assert [payload.index(b'"filled_amount":"9"') + 17] == [each[0, "quantity"].start for each in fills]


def test_two_equal_rows_of_a_history_have_a_place_each() -> None:
    row = (
        b'{"amount":"0","balance":"10","pending_balance":"0","event_type":"trade","created_at":1789999999000}'
    )
    payload = b'{"success":true,"data":[%s,%s]}' % (row, row)
    found = spans(pacifica.decode, frame(pacifica, payload))
    assert {match.start() + 1 for match in re.finditer(b'"10"', payload)} == {
        each[0, "balance"].start for each in found
    }
    zeros = {match.start() + 1 for match in re.finditer(b'"0"', payload)}
    assert zeros == {each[0, name].start for each in found for name in ("amount", "pending")}


def test_rows_of_one_millisecond_that_are_put_in_order_keep_their_places() -> None:
    rows = [("5", "115"), ("10", "110"), ("100", "100")]
    payload = b'{"success":true,"data":[%s]}' % b",".join(
        b'{"amount":"%s","balance":"%s","pending_balance":"0","event_type":"trade","created_at":1789999999000}'
        % (amount.encode(), balance.encode())
        for amount, balance in (rows[1], rows[0], rows[2])
    )
    said = pacifica.decode(frame(pacifica, payload))
    found = spans(pacifica.decode, frame(pacifica, payload))
    for (_, event), each in zip(said, found, strict=True):
        assert dict(amounts(event)) == texts(payload, each)
    starts = {each[0, "balance"].text: each[0, "balance"].start for each in found}
    assert payload.index(b'"110"') + 1 == starts["110"]


def test_only_the_texts_asked_for_are_looked_for() -> None:
    found = spans(bitopro.decode, frame(bitopro, WHOLE, 1), ["3.50"])
    assert [{(0, "available"): "3.50"}] == [
        {place: span.text for place, span in each.items()} for each in found
    ]


# Venues of others ----------------------------------------------------------------------------------------------------


class Lines:
    """A venue whose frames are lines of `asset;amount`, with a count of them in front."""

    NAME = "lines"

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        count, *lines = frame.payload.decode().split("\n")
        if not count.isdigit() or int(count) != len(lines):
            raise Malformed("another count")
        pairs = [line.split(";") for line in lines]
        balances = tuple(Balance(asset, asset, self.amount(text)) for asset, text in pairs)
        return [(frame.account, BalanceSnapshot(frame.source(self.NAME, "lines"), "", balances))]

    def amount(self, text: str) -> str:
        return text


class Plain(Lines):
    """The same, its amounts brought into one form."""

    NAME = "plain"

    def amount(self, text: str) -> str:
        return format(decimal(text).normalize(), "f")


class Summed(Lines):
    """The same, and the total of all put at the end by the decoder."""

    NAME = "summed"

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        ((account, event),) = super().decode(frame)
        assert isinstance(event, BalanceSnapshot)
        total = str(sum(decimal(balance.total or "0") for balance in event.balances))
        return [
            (
                account,
                msgspec.structs.replace(event, balances=(*event.balances, Balance("all", "all", total))),
            )
        ]


def test_a_frame_that_is_no_json_is_searched_all_the_same() -> None:
    payload = b"3\n2;3\nADA;3\nBTC;2"
    found = spans(Lines().decode, frame(Lines(), payload))[0]
    assert {(0, "total"): 4, (1, "total"): 10, (2, "total"): 16} == {
        place: span.start for place, span in found.items()
    }


def test_an_amount_that_the_decoder_writes_otherwise_is_found_by_its_value() -> None:
    payload = b"2\nADA;1.50\nBTC;2.5"
    found = spans(Plain().decode, frame(Plain(), payload))[0]
    assert {(0, "total"): "1.50", (1, "total"): "2.5"} == {place: span.text for place, span in found.items()}


def test_an_amount_that_the_decoder_computes_has_no_place() -> None:
    payload = b"2\nADA;1.25\nBTC;2.5"
    found = spans(Summed().decode, frame(Summed(), payload))[0]
    assert [] == [place for place in found if place[0] == 2]


def test_a_decoder_that_breaks_when_probed_breaks_nothing() -> None:
    class Fragile(Lines):
        def amount(self, text: str) -> str:
            if text != "1.5":
                raise RuntimeError(text)
            return text

    assert [{}] == spans(Fragile().decode, frame(Fragile(), b"1\nADA;1.5"))


def test_a_search_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBES_MAX", 10)
    decoded: list[Frame] = []

    def decode(asked: Frame) -> Sequence[Statement]:
        decoded.append(asked)
        return Summed().decode(asked)

    spans(decode, frame(Summed(), b"2\nA22222222222222222222;1\nB;1"))
    assert 11 == len(decoded)


def test_events_in_msgpack_are_found_too() -> None:
    """The venue that tests script: no JSON, texts with their length before them."""
    payload = says(snapshot(1, {"ADA": "1.5", "BTC": "-2"}), delta(2, {"ADA": "1.5"}))
    asked = Frame("scripted:main", "s", 1, RECEIVED_NS, payload)
    found = spans(scripted.decode, asked)
    starts = [found[0][0, "total"].start, found[0][1, "total"].start, found[1][0, "total"].start]
    assert starts == sorted(starts)
    assert [payload.index(b"1.5"), payload.index(b"-2"), payload.rindex(b"1.5")] == starts


_amount = st.from_regex(r"-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,8})?", fullmatch=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_amount, _amount, st.booleans(), st.booleans()), min_size=1, max_size=8), st.data())
def test_whatever_the_amounts_each_is_found_in_its_own_place(
    rows: list[tuple[str, str, bool, bool]], data: st.DataObject
) -> None:
    """DeltaDeFi takes numbers and texts; what the place of each is, is known because it is built here."""
    few = data.draw(st.booleans())
    parts: list[str] = []
    places: dict[tuple[int, str], int] = {}
    size = 1
    for index, (free, locked, free_text, locked_text) in enumerate(rows):
        free, locked = ("0", "1") if few else (free, locked)
        row = f'{{"asset":"a{index}","asset_unit":"{index}","free":'
        places[index, "available"] = size + len(row) + free_text
        row += f'"{free}"' if free_text else free
        row += ', "locked" : '
        places[index, "locked"] = size + len(row) + locked_text
        row += (f'"{locked}"' if locked_text else locked) + "}"
        parts.append(row)
        size += len(row) + 1
    payload = f"[{','.join(parts)}]".encode()
    found = spans(deltadefi.decode, frame(deltadefi, payload))[0]
    assert places == {place: span.start for place, span in found.items()}


# Of recorded events --------------------------------------------------------------------------------------------------


def test_the_spans_of_a_recorded_event_are_those_of_its_frame() -> None:
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE, LATER])
        recorded = list(ledger.replay("bitopro:main"))
        found = [spans_of(ledger, bitopro.decode, each) for each in recorded]
        only = spans_of(ledger, bitopro.decode, recorded[1], ["3.50"])
    assert [0, 6, 3, 0] == [len(each) for each in found]
    assert ["3.50"] == [span.text for span in only.values()]


def test_the_frame_of_another_accounts_login_is_decoded_as_that_login() -> None:
    """A Cascade login carries the accounts of its subaccounts; a question's answer keeps its question."""
    push = (
        b'{"type":"Balance Update","data":{"account":"0xAb","subaccountIndex":3,"balance":"12.5",'
        b'"updatedAt":1789999999000}}'
    )
    answer = b'{"balance":"13.25"}'
    asked = Asked("GET /account/balance?account=0xab&subaccountIndex=4", RECEIVED_NS)
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE], "b1")
        with ledger.intake(cascade, "0xab", session="c1") as intake:
            intake.receive_all([(push, RECEIVED_NS), (answer, RECEIVED_NS, asked)])
        assert "cascade:0xab" == login_of(ledger, "cascade:0xab/3", "c1")
        assert "cascade:0xab/3" == login_of(ledger, "cascade:0xab/3", "unknown")
        for account, text in (("cascade:0xab/3", "12.5"), ("cascade:0xab/4", "13.25")):
            (recorded,) = ledger.replay(account)
            assert [text] == [span.text for span in spans_of(ledger, cascade.decode, recorded).values()]


def test_the_frame_of_a_conversation_with_a_name_is_decoded_as_of_that_conversation() -> None:
    hello = b'{"type":"hello","session_id":"K1","ts":"2021-09-16T16:17:06.892914Z"}'
    page = (
        b'{"reqid":1,"type":"Balance","ts":"2021-09-16T16:17:06.892914Z","initial":true,"seqNum":1,'
        b'"data":[{"Currency":"BTC","Amount":"5.5","AvailableAmount":"5"}]}'
    )
    with Ledger() as ledger:
        take_in(ledger, kraken_prime, "main", [hello, page])
        recorded = list(ledger.replay("kraken_prime:main"))[1]
        assert "K1/1" == recorded.event.source.subscription
        assert {"5.5", "5"} == {
            span.text for span in spans_of(ledger, kraken_prime.decode, recorded).values()
        }


def test_an_event_that_todays_decoder_does_not_make_has_no_spans() -> None:
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE])
        recorded = list(ledger.replay("bitopro:main"))[1]
        assert {} == spans_of(ledger, kraken_prime.decode, recorded)
        assert {} == spans_of(ledger, lambda frame: [], recorded)


def test_an_event_that_was_read_late_is_the_same_event() -> None:
    said = bitopro.decode(frame(bitopro, LATER))
    ((account, event),) = said
    late = msgspec.structs.replace(event, source=msgspec.structs.replace(event.source, late_ns=7))
    assert isinstance(late, BalanceDelta)
    assert 0 == index_of(said, account, late)
    assert index_of(said, "bitopro:other", late) is None
