"""Pacifica: each row of the balance history once, oldest first, in an order that chains where there is one."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from decimal import Decimal
from hashlib import sha256
from itertools import pairwise
from random import Random
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import Malformed
from ledger.events import BalanceEventImported, FrameQuarantined
from ledger.venue import Frame
from ledger.venues import pacifica
from ledger.wire import EXACT, FRAME_BYTES_MAX
from tests.golden import FRAMES

Row = dict[str, object]

T = 1_761_984_000_000
VALID = [path.read_bytes() for path in sorted((FRAMES / "pacifica").glob("*.frame"))]


signs, digits = st.sampled_from(["", "-", "+"]), st.text("0123456789", min_size=1, max_size=30)
amount_texts = st.builds(
    "{}{}{}{}".format,
    signs,
    digits,
    digits.map(".{}".format) | st.just(""),
    st.sampled_from(["", "e99", "E-99", "e0"]),
)


def row(amount: str, balance: str, at: int = T, cause: str = "trade", pending: str = "0") -> Row:
    return {
        "amount": amount,
        "balance": balance,
        "pending_balance": pending,
        "event_type": cause,
        "created_at": at,
    }


def page(*rows: Row, **envelope: object) -> bytes:
    return json.dumps({"success": True, "data": list(rows), **envelope}, separators=(",", ":")).encode()


def raw_page(**fields: str) -> bytes:
    """A page of one row, its fields given as JSON text; a field of "..." is left out."""
    texts = {
        "amount": '"1"',
        "balance": '"1"',
        "pending_balance": '"0"',
        "event_type": '"trade"',
        "created_at": str(T),
        **fields,
    }
    inner = ",".join(f'"{name}":{text}' for name, text in texts.items() if text != "...")
    return f'{{"success":true,"data":[{{{inner}}}]}}'.encode()


def frame(payload: bytes) -> Frame:
    return Frame("pacifica:main", "s1", 3, 1_790_000_000_000_000_000, payload)


def rows_of(payload: bytes) -> list[BalanceEventImported]:
    events = []
    for account, event in pacifica.decode(frame(payload)):
        assert "pacifica:main" == account
        assert isinstance(event, BalanceEventImported)
        events.append(event)
    return events


def amounts_of(payload: bytes) -> list[str]:
    return [event.amount for event in rows_of(payload)]


def keys_of(payload: bytes) -> list[str]:
    return [event.key for event in rows_of(payload)]


def refused(payload: bytes, reason: str | None = None) -> None:
    with pytest.raises(Malformed, match=reason and re.escape(reason)):
        pacifica.decode(frame(payload))


def chain(*steps: tuple[str, int], start: str = "0") -> list[Row]:
    """Rows that chain: each step is (amount, ms after T)."""
    balance, rows = Decimal(start), []
    for amount, ms in steps:
        balance += Decimal(amount)
        rows.append(row(amount, str(balance), T + ms))
    return rows


def is_chained(events: list[BalanceEventImported]) -> bool:
    return all(
        Decimal(after.balance) == Decimal(before.balance) + Decimal(after.amount)
        for before, after in pairwise(events)
    )


def test_a_row_is_a_signed_change_with_its_cause_and_the_balance_after_it() -> None:
    (event,) = rows_of(page(row("-29.654677", "4970.345323", T + 7, "withdraw", "250.5")))
    assert ("USDC", "USDC", "withdraw") == (event.asset_id, event.asset, event.cause)
    assert ("-29.654677", "4970.345323", "250.5") == (event.amount, event.balance, event.pending)
    assert (T + 7) * 1_000_000 == event.time_ns
    assert (False, None) == (event.memo, event.reference)


def test_a_page_has_no_time_of_its_own() -> None:
    source = rows_of(page(row("1", "1")))[0].source
    assert ("pacifica", "account/balance/history") == (source.venue, source.channel)
    assert (None, None, None) == (source.time_ns, source.sequence, source.message_id)


def test_all_rows_of_a_page_share_one_source() -> None:
    events = rows_of(page(*chain(("1", 0), ("1", 1))))
    assert events[0].source is events[1].source


def test_rows_are_told_oldest_first_whatever_the_order_of_the_page() -> None:
    rows = chain(("5000", 0), ("-0.275", 5), ("12.5", 60), ("-7", 61))
    expected = ["5000", "-0.275", "12.5", "-7"]
    assert expected == amounts_of(page(*rows))
    assert expected == amounts_of(page(*reversed(rows)))
    assert expected == amounts_of(page(rows[2], rows[0], rows[3], rows[1]))


def test_the_order_of_a_page_changes_no_key() -> None:
    rows = chain(("5000", 0), ("0", 5), ("0", 5), ("-7", 61))
    assert keys_of(page(*rows)) == keys_of(page(*reversed(rows)))
    assert 4 == len(set(keys_of(page(*rows))))


def test_three_overlapping_pages_tell_each_row_once() -> None:
    rows = chain(("5000", 0), ("-1", 1), ("0", 2), ("0", 2), ("-2", 3), ("3", 3), ("4", 9))[::-1]
    pages = [page(*rows[0:4]), page(*rows[2:6]), page(*rows[3:7])]
    seen = [event for each in pages for event in rows_of(each)]
    assert 12 == len(seen)
    assert set(keys_of(page(*rows))) == {event.key for event in seen}
    assert 7 == len({event.key for event in seen})


def test_two_equal_rows_of_one_page_both_count() -> None:
    first, second = keys_of(page(row("0", "5000"), row("0", "5000")))
    assert first.removesuffix(":1") == second.removesuffix(":2")
    assert first != second


def test_equal_rows_split_by_a_page_boundary_without_overlap_look_like_one() -> None:
    """The limit that the module names."""
    same = row("0", "5000")
    assert keys_of(page(same)) == keys_of(page(same))


def test_every_one_of_the_five_fields_is_part_of_the_key() -> None:
    rows = [
        row("1", "5"),
        row("2", "5"),
        row("1", "6"),
        row("1", "5", pending="1"),
        row("1", "5", cause="funding"),
        row("1", "5", T + 1),
    ]
    assert 6 == len({key for each in rows for key in keys_of(page(each))})


def test_a_key_does_not_run_fields_together() -> None:
    assert keys_of(page(row("1", "1", cause="0:x"))) != keys_of(page(row("1", "1", cause="x", pending="0")))
    assert keys_of(page(row("11", "1"))) != keys_of(page(row("1", "11")))


@pytest.mark.parametrize("written", ["5000.000000", "5000.0", "+5000", "5e3", "05000"])
def test_a_row_written_with_other_zeros_is_the_same_row(written: str) -> None:
    assert keys_of(page(row("5000", "5000"))) == keys_of(page(row(written, written)))
    assert [written] == amounts_of(page(row(written, written)))


@pytest.mark.parametrize("written", ["0.000000", "-0", "-0.0", "0e5", "0e-99", "-0e99", "00"])
def test_a_zero_written_otherwise_is_the_same_zero(written: str) -> None:
    assert keys_of(page(row("0", "7"))) == keys_of(page(row(written, "7", pending=written)))


def stored_key(amount: str, balance: str, pending: str, cause: str, at: int) -> str:
    """The key of a row as every version has stored it: a store of any of them must know the row again."""

    def plain(text: str) -> str:
        value = Decimal(text)
        return str(EXACT.normalize(value)) if value else "0"

    said = f"{at}:{plain(amount)}:{plain(balance)}:{plain(pending)}:{cause}"
    return f"row:{at}:{sha256(said.encode()).hexdigest()[:32]}:1"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(amount_texts, amount_texts, amount_texts | st.just("0.000000")), min_size=1, max_size=12
    ),
    st.sampled_from(["trade", "Vault·Yield/2", "a:b"]),
)
def test_a_row_has_the_key_that_every_version_gave_it(texts: list[tuple[str, str, str]], cause: str) -> None:
    told = [(*each, cause, T + at) for at, each in enumerate(texts)]
    rows = [
        row(amount, balance, at, cause, pending) for amount, balance, pending, cause, at in reversed(told)
    ]
    assert [stored_key(*each) for each in told] == keys_of(page(*rows))


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_page_says_the_same_with_blanks_and_with_whatever_is_beside_it(count: int) -> None:
    rows = chain(*((f"{at}.25", at) for at in range(count)))
    keys = keys_of(page(*rows))
    assert count == len(set(keys))
    beside: list[dict[str, object]] = [
        {"next_cursor": "a", "has_more": True},
        {"next_cursor": None, "has_more": None, "error": None, "code": None},
        {"next_cursor": 7, "has_more": "yes", "error": "", "code": "E17"},
        {"next_cursor": {"amount": []}, "has_more": ["x", {"y": "z"}], "code": 0, "new": [{"a": "b"}]},
    ]
    for envelope in beside:
        payload = page(*rows, **envelope)
        assert keys == keys_of(payload)
        assert keys == keys_of(json.dumps(json.loads(payload), indent=1).encode())
        doubled = payload.replace(b'"balance"', b'"balance":"1","balance"', 1)
        refused(doubled, "duplicated key 'balance'")


def test_rows_of_one_ms_are_told_in_the_order_that_chains() -> None:
    rows = chain(("100", 0), ("-3", 5), ("10", 5), ("-2", 5), ("1", 9))
    shuffled = [rows[4], rows[2], rows[1], rows[3], rows[0]]
    assert ["100", "-3", "10", "-2", "1"] == amounts_of(page(*shuffled))
    assert ["100", "-3", "10", "-2", "1"] == amounts_of(page(*reversed(shuffled)))


def test_rows_of_one_ms_that_lead_back_start_where_the_row_before_left() -> None:
    rows = chain(("100", 0), ("-3", 5), ("10", 5), ("-7", 5))
    assert ["100", "-3", "10", "-7"] == amounts_of(page(rows[0], rows[2], rows[3], rows[1]))


def test_rows_of_the_first_ms_that_lead_back_end_where_the_next_row_starts() -> None:
    rows = chain(("-3", 5), ("10", 5), ("-7", 5), ("1", 9), start="100")
    assert ["-3", "10", "-7", "1"] == amounts_of(page(rows[1], rows[2], rows[0], rows[3]))


def test_rows_that_lead_back_end_where_a_row_without_a_change_stands() -> None:
    rows = chain(("-3", 5), ("10", 5), ("-7", 5), ("0", 9), start="100")
    assert ["-3", "10", "-7", "0"] == amounts_of(page(rows[1], rows[2], rows[0], rows[3]))


def test_rows_after_a_hole_chain_among_themselves() -> None:
    held = row("100", "100", T - 1)
    first, second = chain(
        ("10", 0), ("11", 0), start="90"
    )  # 100 -> 90 is missing; both 90 and 100 are starts
    assert ["100", "10", "11"] == amounts_of(page(held, second, first))


def test_rows_after_a_hole_that_lead_back_start_with_the_first_of_the_page() -> None:
    held = row("500", "500", T - 1)
    down, up, back = chain(("-3", 0), ("10", 0), ("-7", 0), start="100")
    assert ["500", "10", "-7", "-3"] == amounts_of(page(held, up, down, back))


def test_rows_of_one_ms_that_chain_in_two_ways_stay_as_they_are() -> None:
    steps = [("100", 0), ("2", 5), ("-2", 5), ("1", 5), ("-1", 5), ("0", 5)]
    rows = chain(*steps)
    assert [amount for amount, _ in steps] == amounts_of(page(*rows)) == amounts_of(page(*reversed(rows)))


def test_rows_that_fork_from_one_balance_keep_the_order_of_the_page() -> None:
    rows = [row("5", "5", T - 1), row("1", "6"), row("2", "7")]
    assert ["5", "1", "2"] == amounts_of(page(*rows))


def test_rows_of_one_ms_with_38_digits_are_chained_exactly() -> None:
    base = 10**37
    first, second = row("0.000001", f"{base}.000001"), row("0.000002", f"{base}.000003")
    assert ["7", "0.000001", "0.000002"] == amounts_of(page(row("7", str(base), T - 1), second, first))


def test_a_page_of_one_ms_that_chains_is_taken_as_it_chains() -> None:
    rows = chain(("1", 0), ("2", 0), ("3", 0))
    assert ["1", "2", "3"] == amounts_of(page(*rows)) == amounts_of(page(*reversed(rows)))


def test_rows_of_one_ms_that_do_not_chain_keep_the_order_of_the_page() -> None:
    broken = [row("1", "50"), row("1", "60"), row("1", "70")]
    assert ["70", "60", "50"] == [event.balance for event in rows_of(page(*broken))]
    older, newer = row("5", "5", T - 1), row("9", "99", T + 1)
    assert ["5", "50", "60", "70", "99"] == [event.balance for event in rows_of(page(older, *broken, newer))]


def test_a_break_in_one_ms_disturbs_no_other() -> None:
    rows = chain(("1", 0), ("2", 0), ("3", 5), ("4", 5))
    broken = [row("1", "50", T + 9), row("1", "60", T + 9)]
    events = rows_of(page(rows[1], rows[0], rows[3], rows[2], *broken))
    assert ["1", "3", "6", "10", "50", "60"] == [event.balance for event in events]


def test_two_chains_in_one_ms_that_do_not_meet_are_left_as_they_are() -> None:
    rows = [row("100", "100", T - 1), row("0", "7"), row("1", "101"), row("1", "102")]
    assert ["100", "7", "101", "102"] == [event.balance for event in rows_of(page(*rows))]


steps = st.lists(st.tuples(st.integers(-3, 3).map(str), st.integers(0, 1)), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(steps, st.randoms(use_true_random=False))
def test_a_chain_shuffled_within_its_milliseconds_chains_again(
    steps: list[tuple[str, int]], random: Random
) -> None:
    ms, timed = 0, []
    for amount, later in steps:
        ms += later
        timed.append((amount, ms))
    timed = [("1000", -1), *timed]  # a first row of its own: every later row has a place to start from
    rows = chain(*timed)
    shuffled = list(rows)
    random.shuffle(shuffled)
    shuffled.sort(key=lambda each: -int(str(each["created_at"])))
    events = rows_of(page(*shuffled))
    assert is_chained(events)
    assert sorted(keys_of(page(*rows))) == sorted(event.key for event in events)


@pytest.mark.parametrize(
    "rows",
    [
        [row(str(i % 7 - 3), str(i * i % 11)) for i in range(1000)],
        [row("1", str(i % 2)) for i in range(1000)],
        [row(str((-1) ** i), str((i + 1) % 2)) for i in range(1000)],
        [row("0", str(i)) for i in range(1000)],
        [row("1", str(i)) for i in range(999, -1, -1)],
        [row("1", str(i * (2**61 - 1))) for i in range(1000)],
    ],
)
def test_a_thousand_rows_in_one_ms_stay_fast(rows: list[Row]) -> None:
    payload = page(*rows)
    began = perf_counter()
    assert 1000 == len(pacifica.decode(frame(payload)))
    assert perf_counter() - began < 1


def test_amounts_far_apart_are_added_exactly() -> None:
    big, small = "1" * 77 + "e99", "0." + "1" * 74 + "e-99"
    rows = [row(big, small), row(small, big), row(big, big)]
    assert 3 == len(rows_of(page(*rows)))


@pytest.mark.parametrize("envelope", [{}, {"next_cursor": "", "has_more": False}, {"next_cursor": None}])
def test_the_cursor_says_nothing_about_the_rows(envelope: dict[str, object]) -> None:
    assert keys_of(page(row("1", "1"))) == keys_of(page(row("1", "1"), **envelope))


def test_a_page_without_rows_is_control() -> None:
    assert 0 == len(pacifica.decode(frame(page())))
    assert 0 == len(pacifica.decode(frame(page(next_cursor="", has_more=False))))


@pytest.mark.parametrize("cause", ["deposit", "lake_yield", "Vault·Yield/2", "x" * 100])
def test_an_unknown_cause_is_kept_as_sent(cause: str) -> None:
    assert cause == rows_of(page(row("1", "1", cause=cause)))[0].cause


@pytest.mark.parametrize("raw", ['""', f'"{"x" * 101}"', "null", "1", "[]", "..."])
def test_a_cause_is_bounded_text(raw: str) -> None:
    refused(raw_page(event_type=raw))


@pytest.mark.parametrize("field", ["amount", "balance", "pending_balance"])
@pytest.mark.parametrize(
    "raw",
    [
        '"NaN"',
        "NaN",
        '"Infinity"',
        "-Infinity",
        '"1e1000000"',
        '"1_000"',
        '" 1"',
        '"1\\n"',
        '"\u0661"',
        '""',
        "null",
        "true",
        "1.5",
        "1",
        "[]",
        "{}",
        '"1."',
        '".5"',
        f'"{"9" * 5000}"',
        "9" * 5000,
        "...",
    ],
)
def test_an_amount_that_is_no_finite_decimal_text_is_refused(field: str, raw: str) -> None:
    refused(raw_page(**{field: raw}))


@pytest.mark.parametrize(
    "text", ["1" * 38, "-0.1234567890123456789", "1" * 38 + "." + "2" * 38, "5000", "0", "1.5e-7"]
)
def test_an_amount_keeps_every_digit_it_was_sent_with(text: str) -> None:
    (event,) = rows_of(page(row(text, text, pending=text)))
    assert (text, text, text) == (event.amount, event.balance, event.pending)


@pytest.mark.parametrize(
    "raw", ["...", "null", "true", f'"{T}"', "1.5", "0", "-1", "9" * 30, "9" * 4300, "-" + "9" * 5000]
)
def test_a_time_is_an_integer_of_a_likely_year(raw: str) -> None:
    refused(raw_page(created_at=raw))


@pytest.mark.parametrize("field", ["amount", "balance", "pending_balance", "event_type", "created_at"])
@pytest.mark.parametrize("escaped", [False, True])
def test_a_key_that_is_twice_in_a_row_is_refused(field: str, escaped: bool) -> None:
    again = f"\\u{ord(field[0]):04x}{field[1:]}" if escaped else field
    value = str(T) if field == "created_at" else '"1"'
    refused(raw_page().replace(b"[{", f'[{{"{again}":{value},'.encode()), f"duplicated key '{field}'")


@pytest.mark.parametrize("data", ["[]", "null"])
def test_a_page_with_data_or_success_twice_is_refused(data: str) -> None:
    text = page(row("1", "1")).decode()
    refused(text.replace('"data"', f'"data":{data},"data"').encode(), "duplicated key 'data'")
    refused((text[:-1] + ',"data":[]}').encode(), "duplicated key 'data'")
    refused(
        text.replace('"success":true', '"success":false,"success":true').encode(), "duplicated key 'success'"
    )


def test_words_that_look_like_keys_and_unknown_fields_are_no_duplicates() -> None:
    odd = {**row("1", "2", cause="amount"), "extra": {"amount": "3"}, "note": 'a "balance"'}
    assert ["1"] == amounts_of(page(odd))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": "Order amount too low", "code": 0}, "venue error 0: Order amount too low"),
        (
            {"error": "Insufficient balance", "code": 5, "error_id": "x"},
            "venue error 5: Insufficient balance",
        ),
        ({"error": "Invalid signature", "code": None}, "venue error: Invalid signature"),
        ({"error": None, "code": 429}, "venue error 429: without a text"),
        ({"error": "odd", "code": "E17"}, "venue error E17: odd"),
        ({}, "venue error: without a text"),
    ],
)
def test_a_refusal_stays_visible_and_makes_no_money_event(body: dict[str, object], reason: str) -> None:
    payload = json.dumps({"success": False, "data": None, **body}).encode()
    ((account, event),) = pacifica.decode(frame(payload))
    assert isinstance(event, FrameQuarantined)
    assert ("pacifica:main", "", reason) == (account, event.key, event.reason)


def test_rows_of_an_answer_that_failed_are_not_booked() -> None:
    ((_, event),) = pacifica.decode(frame(page(row("1", "1"), success=False, error="half", code=500)))
    assert isinstance(event, FrameQuarantined)


def test_a_refusal_of_a_million_characters_is_cut() -> None:
    ((_, event),) = pacifica.decode(frame(json.dumps({"success": False, "error": "x" * 1_000_000}).encode()))
    assert isinstance(event, FrameQuarantined)
    assert pacifica.ERROR_CHARS_MAX == len(event.reason)


def test_a_page_has_a_bounded_number_of_rows() -> None:
    row_text = raw_page()[len(b'{"success":true,"data":[') : -2]

    def rows(count: int) -> bytes:
        return b'{"success":true,"data":[' + b",".join([row_text] * count) + b"]}"

    assert pacifica.ROWS_MAX == len(pacifica.decode(frame(rows(pacifica.ROWS_MAX))))
    refused(rows(pacifica.ROWS_MAX + 1), "length <= 10000")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"<html></html>",
        b'{"data":[]}',
        b'{"success":"true","data":[]}',
        b'{"success":1,"data":[]}',
        b'{"success":null,"data":[]}',
        b'{"success":true}',
        b'{"success":true,"data":null}',
        b'{"success":true,"data":{}}',
        b'{"success":true,"data":[null]}',
        b'{"success":true,"data":[[]]}',
        b'{"success":true,"data":[{}]}',
        b'{"success":false,"error":"x","code":' + b"9" * 4300 + b"}",
        b'{"channel":"pong"}',
        page(row("1", "1")) * 2,
        b"\xef\xbb\xbf" + page(),
        page(note="?").replace(b"?", b"\xff"),
        page(note="?").replace(b"?", b"\xed\xa0\x80"),
        page(note="?").replace(b"?", b"\\ud800"),
        page(row("1", "1", cause="?")).replace(b"?", b"\\ud800"),
        page(note="?").replace(b'"?"', b"[" * 1100 + b"]" * 1100),
        page(note="?").replace(b'"?"', b'{"a":' * 1100 + b"1" + b"}" * 1100),
        page() + b" " * FRAME_BYTES_MAX,
    ],
)
def test_a_frame_of_another_shape_is_malformed(payload: bytes) -> None:
    refused(payload)


def test_a_row_of_the_spot_balance_is_not_booked_as_usdc() -> None:
    refused(raw_page(pending_balance="...", symbol='"SOL"'), "missing required field `pending_balance`")


def test_a_page_with_one_bad_row_books_none() -> None:
    refused(page(row("1", "1"), row("x", "2")), "not an amount: 'x'")


def test_a_frame_cut_anywhere_is_malformed() -> None:
    payload = page(row("1", "1"), row("2", "3", T + 1), next_cursor="a", has_more=True)
    for length in range(len(payload)):
        refused(payload[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(payload: bytes) -> None:
    with suppress(Malformed):
        pacifica.decode(frame(payload))


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(VALID), st.data())
def test_no_mutation_of_a_frame_raises_anything_but_malformed(payload: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(start + 20, len(payload))))
    patch = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"null", b"1e99", b'"', b"{", b"[]", b"\\u0061"])
    )
    try:
        statements = pacifica.decode(frame(payload[:start] + patch + payload[end:]))
    except Malformed:
        pass
    else:
        assert ["pacifica:main"] * len(statements) == [account for account, _ in statements]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(amount_texts, amount_texts, amount_texts), max_size=5))
def test_any_amounts_that_pass_the_guard_are_told_as_sent(texts: list[tuple[str, str, str]]) -> None:
    events = rows_of(page(*[row(amount, balance, pending=pending) for amount, balance, pending in texts]))
    assert sorted(texts) == sorted((event.amount, event.balance, str(event.pending)) for event in events)
