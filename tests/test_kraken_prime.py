"""What Kraken Prime's frames become, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import wire
from ledger.errors import Malformed
from ledger.events import Balance, BalanceDelta, BalanceSnapshot, Event, FrameQuarantined, Valuation
from ledger.venue import Frame
from ledger.venues import kraken_prime
from tests.doubled import doublings
from tests.golden import FRAMES

BASELINE = (FRAMES / "kraken_prime/baseline_with_equivalents.frame").read_bytes()
GOLDEN = [path.read_bytes() for path in sorted((FRAMES / "kraken_prime").glob("*.frame"))]

ROW = (
    '{"Currency":"BTC","Amount":"7.50","AvailableAmount":"7",'
    '"Equivalent":{"Currency":"USD","Amount":"512.34","AvailableAmount":"478.10"}}'
)
BARE = '{"Currency":"BTC","Amount":"7.50","AvailableAmount":"7"}'


def balance_frame(rows: str = ROW, more: str = "", sequence: str = '"seqNum":2,') -> str:
    return (
        f'{{"reqid":31,"type":"Balance","ts":"2026-11-03T08:40:01.000250Z",{sequence}{more}"data":[{rows}]}}'
    )


def event_of(payload: bytes | str, session: str = "s", ordinal: int = 5) -> Event:
    payload = payload.encode() if isinstance(payload, str) else payload
    [(account, event)] = kraken_prime.decode(Frame("kraken_prime:main", session, ordinal, 1, payload))
    assert account == "kraken_prime:main"
    return event


def snapshot_of(payload: bytes | str) -> BalanceSnapshot:
    event = event_of(payload)
    assert isinstance(event, BalanceSnapshot)
    return event


def delta_of(payload: bytes | str) -> BalanceDelta:
    event = event_of(payload)
    assert isinstance(event, BalanceDelta)
    return event


def refusal(payload: bytes | str) -> str:
    with pytest.raises(Malformed) as caught:
        event_of(payload)
    assert Malformed is caught.type
    return str(caught.value)


def test_a_negative_balance_keeps_its_eight_digits() -> None:
    usd, btc = snapshot_of(BASELINE).balances
    assert ("USD", "-1928479.77953598", "-1928479.77953598") == (usd.asset_id, usd.total, usd.available)
    assert ("BTC", "7.20519004", "7.10000000") == (btc.asset_id, btc.total, btc.available)


def test_a_valuation_is_kept_aside_and_is_no_balance() -> None:
    worth = Valuation("USD", "512.34", "478.10")
    expected = Balance("BTC", "BTC", total="7.50", available="7", valuation=worth)
    assert (expected,) == delta_of(balance_frame()).balances


def test_a_valuation_may_be_absent_in_part_or_whole() -> None:
    assert (Balance("BTC", "BTC", total="7.50", available="7"),) == delta_of(balance_frame(BARE)).balances
    [part] = delta_of(balance_frame(ROW.replace(',"AvailableAmount":"478.10"', ""))).balances
    assert Valuation("USD", "512.34") == part.valuation


def test_the_source_has_the_venues_time_sequence_and_subscription() -> None:
    source = event_of(balance_frame()).source
    assert ("kraken_prime", "Balance", "s", 5) == (
        source.venue,
        source.channel,
        source.session,
        source.ordinal,
    )
    assert (1_793_695_201_000_250_000, 2, "s/31", None) == (
        source.time_ns,
        source.sequence,
        source.subscription,
        source.message_id,
    )


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ('"seqNum":1,', 1),
        ('"seq":148191,', 148_191),
        ('"seq":9,"seqNum":0,', 0),
        ('"seq":0,', 0),
        ('"seq":9007199254740991,', 2**53 - 1),
        ("", None),
    ],
)
def test_the_sequence_is_seq_num_or_else_seq_or_unknown(sequence: str, expected: int | None) -> None:
    assert expected == event_of(balance_frame(sequence=sequence)).source.sequence


@pytest.mark.parametrize(
    "number", ["-1", "9007199254740992", "1.0", "1e2", '"1"', "true", "null", "9" * 5_000]
)
@pytest.mark.parametrize("name", ["seqNum", "seq"])
def test_a_sequence_is_a_bounded_whole_number(name: str, number: str) -> None:
    assert f"$.{name}" in refusal(balance_frame(sequence=f'"{name}":{number},'))


@pytest.mark.parametrize("number", ["-1", "9007199254740992", "1.0", '"31"', "true", "null", "9" * 5_000])
def test_a_reqid_is_a_bounded_whole_number(number: str) -> None:
    assert "$.reqid" in refusal(balance_frame().replace('"reqid":31', f'"reqid":{number}'))


def test_the_initial_flag_makes_a_whole_baseline() -> None:
    event = snapshot_of(balance_frame(more='"initial":true,'))
    assert ("s/31", False) == (event.part, event.more)


def test_a_baseline_goes_on_while_next_says_so() -> None:
    event = snapshot_of(balance_frame(more='"initial":true,"next":"b2Zm",'))
    assert ("s/31", True) == (event.part, event.more)
    event = snapshot_of(balance_frame(more='"initial":true,"next":"",'))
    assert ("s/31", False) == (event.part, event.more)


def test_a_page_that_does_not_repeat_the_initial_flag_is_still_a_page() -> None:
    event = snapshot_of(balance_frame(more='"next":"b2Zm",'))
    assert ("s/31", True) == (event.part, event.more)


def test_an_empty_next_is_none() -> None:
    assert delta_of(balance_frame(more='"next":"",')).balances


@pytest.mark.parametrize(
    "more",
    ["", '"action":"Update",', '"initial":false,', '"initial":false,"action":"Update",', '"initial":false,"next":"b",'],
)  # fmt: skip
def test_anything_else_states_only_what_moved(more: str) -> None:
    event = delta_of(balance_frame(more=more))
    assert (1, ()) == (len(event.balances), event.removed)


def test_the_baseline_may_say_that_it_updates() -> None:
    assert snapshot_of(balance_frame(more='"initial":true,"action":"Update",')).balances


def test_the_place_in_the_session_does_not_make_a_baseline() -> None:
    assert isinstance(event_of(balance_frame(), ordinal=1), BalanceDelta)


def test_a_removal_names_what_left_the_view_and_states_no_balance() -> None:
    rows = f'{BARE},{{"Currency":"DOGE"}}'
    event = delta_of(balance_frame(rows, '"action":"Remove",'))
    assert ((), ("BTC", "DOGE")) == (event.balances, event.removed)


@pytest.mark.parametrize("old", ['"7.50"', '"7"', '"512.34"', '"478.10"'])
def test_amounts_of_removed_rows_are_guarded_too(old: str) -> None:
    assert "not an amount: '1_0'" == refusal(balance_frame(ROW.replace(old, '"1_0"'), '"action":"Remove",'))


@pytest.mark.parametrize(
    "row", ['{"Currency":"BTC","Amount":"x"}', '{"Currency":"BTC","AvailableAmount":"x"}']
)
def test_one_amount_alone_of_a_removed_row_is_guarded_too(row: str) -> None:
    assert "not an amount: 'x'" == refusal(balance_frame(row, '"action":"Remove",'))


@pytest.mark.parametrize("more", ['"initial":true,', '"next":"b",'])
def test_a_baseline_removes_nothing(more: str) -> None:
    assert "rows removed in a baseline" == refusal(balance_frame(BARE, more + '"action":"Remove",'))


@pytest.mark.parametrize("action", ["Replace", "remove", "update", "", "Remove "])
def test_an_unknown_action_is_refused(action: str) -> None:
    assert f"unknown action {action!r}" == refusal(balance_frame(more=f'"action":"{action}",'))


def test_one_currency_twice_in_a_frame_is_refused() -> None:
    for more in ("", '"initial":true,', '"action":"Remove",'):
        assert "one currency twice" == refusal(balance_frame(f"{BARE},{BARE}", more))


def test_a_currency_is_neither_empty_nor_endless() -> None:
    for name in ("", "B" * 65):
        assert "$.data[0].Currency" in refusal(balance_frame(BARE.replace("BTC", name)))
        assert "$.data[0].Equivalent.Currency" in refusal(balance_frame(ROW.replace("USD", name)))
    [balance] = delta_of(balance_frame(BARE.replace("BTC", "B" * 64))).balances
    assert "B" * 64 == balance.asset_id


@pytest.mark.parametrize("missing", ['"Amount":"7.50",', ',"AvailableAmount":"7"'])
def test_a_row_that_is_not_removed_states_both_amounts(missing: str) -> None:
    assert "'BTC' without Amount or AvailableAmount" == refusal(balance_frame(BARE.replace(missing, "")))


@pytest.mark.parametrize("missing", ['"Currency":"USD",', '"Amount":"512.34",'])
def test_a_valuation_states_its_currency_and_total(missing: str) -> None:
    assert "$.data[0].Equivalent" in refusal(balance_frame(ROW.replace(missing, "")))


def test_the_same_frame_has_the_same_key_in_any_session() -> None:
    key = event_of(balance_frame(), "a", 1).key
    assert key.startswith("statement:")
    assert len("statement:") + 64 == len(key)
    assert key == event_of(balance_frame(), "b", 9).key


def test_frames_that_differ_in_anything_have_different_keys() -> None:
    frames = [
        balance_frame(),
        balance_frame().replace('"reqid":31', '"reqid":32'),
        balance_frame().replace("000250Z", "000251Z"),
        balance_frame().replace('"478.10"', '"478.11"'),
        balance_frame().replace('"7.50"', '"7.5"'),
        balance_frame(BARE),
        balance_frame(sequence='"seqNum":3,'),
        balance_frame(sequence='"seq":2,'),
        balance_frame(sequence=""),
        balance_frame(more='"initial":true,'),
        balance_frame(more='"action":"Update",'),
        balance_frame(more='"action":"Remove",'),
    ]
    assert len(frames) == len({event_of(frame).key for frame in frames})


@pytest.mark.parametrize(
    "payload",
    [
        '{"type":"hello","ts":"2026-11-03T08:40:00.000000Z","session_id":"2B7KQ9ZD4M100"}',
        '{"reqid":2,"type":"Pong","seqNum":0,"ts":"2026-11-03T08:40:20.000100Z"}',
        '{"reqid":2,"type":"Pong","data":[{}]}',
        '{"type":"pong"}',
    ],
)
def test_hello_and_pong_say_nothing_of_the_account(payload: str) -> None:
    assert [] == list(kraken_prime.decode(Frame("kraken_prime:main", "s", 1, 1, payload.encode())))


def test_an_error_keeps_its_place_in_the_sequence() -> None:
    event = event_of('{"reqid":31,"type":"error","seq":4,"error":{"code":1003,"msg":"missing Ping data"}}')
    assert isinstance(event, FrameQuarantined)
    assert ("", "venue error 1003: missing Ping data") == (event.key, event.reason)
    assert (4, "s/31", None) == (event.source.sequence, event.source.subscription, event.source.time_ns)


def test_an_error_may_count_by_seq_num_and_tell_its_time() -> None:
    source = event_of(
        '{"reqid":7,"type":"error","seqNum":1,"ts":"2026-11-03T08:40:01.000250Z","error":{"code":"E","msg":""}}'
    ).source
    assert (1, "s/7", 1_793_695_201_000_250_000) == (source.sequence, source.subscription, source.time_ns)


def test_an_error_may_belong_to_no_request() -> None:
    event = event_of('{"type":"error","error":{"code":"Throttled","msg":"slow down"}}')
    assert isinstance(event, FrameQuarantined)
    assert "venue error Throttled: slow down" == event.reason
    assert (None, None) == (event.source.sequence, event.source.subscription)


def test_a_long_error_is_cut() -> None:
    event = event_of('{"type":"error","error":{"code":1,"msg":"' + "x" * 100_000 + '"}}')
    assert isinstance(event, FrameQuarantined)
    assert kraken_prime.ERROR_CHARS_MAX == len(event.reason)


@pytest.mark.parametrize(
    "kind", ["Exposure", "Order", "Currency", "Trade", "subscribe", "balance", "Hello", ""]
)
def test_another_type_is_unknown(kind: str) -> None:
    assert f"unknown type {kind!r}" == refusal(balance_frame().replace('"Balance"', f'"{kind}"'))


def test_a_balance_frame_does_not_hide_behind_a_second_type() -> None:
    for kind in ("hello", "Pong", "error"):
        rest = ',"session_id":"2B","error":{"code":1,"msg":"m"}}'
        assert refusal(balance_frame()[:-1] + f',"type":"{kind}"' + rest)
        assert refusal(f'{{"type":"{kind}",' + balance_frame()[1:-1] + rest)


AMOUNTS_REFUSED = [
    '"NaN"', '"Infinity"', '"-Infinity"', '"1e1000000"', '"1_000"', '"10,000"', '" 1"', '"1 "', '"1\\n"', '"\u0661"',
    '"\\u0661"', '""', '"-"', '".5"', '"5."', '"0x10"', '"1\\u0000"', "null", "true", "1", "1.5", "[]", "{}", "NaN",
    '"' + "9" * 5_000 + '"',
]  # fmt: skip


@pytest.mark.parametrize("old", ['"7.50"', '"7"', '"512.34"', '"478.10"'])
@pytest.mark.parametrize("value", AMOUNTS_REFUSED, ids=lambda value: str(value)[:12])
def test_what_is_no_amount_is_refused(old: str, value: str) -> None:
    assert 1 == ROW.count(old)
    assert refusal(balance_frame(ROW.replace(old, value)))


AMOUNTS_KEPT = [
    "0", "-0", "0.00000000", "-1928479.77953598", "1000000", "14.156000000000", "0.1234567890123456789", "9" * 38,
    "-" + "9" * 19 + "." + "9" * 19, "1E+3", "1e-18",
]  # fmt: skip


@pytest.mark.parametrize("text", AMOUNTS_KEPT)
def test_every_digit_of_an_amount_survives(text: str) -> None:
    row = ROW
    for old in ("7.50", "7", "512.34", "478.10"):
        row = row.replace(f'"{old}"', f'"{text}"')
    assert (Balance("BTC", "BTC", text, text, valuation=Valuation("USD", text, text)),) == delta_of(
        balance_frame(row)
    ).balances


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"Currency":"BTC"', '"Currency":"ETH","Currency":"BTC"'),
        ('"Amount":"7.50"', '"Amount":"7.50","Amount":"8"'),
        ('"Amount":"7.50"', '"Amount":"7.50","\\u0041mount":"8"'),
        ('"AvailableAmount":"7"', '"AvailableAmount":"7","AvailableAmount":"7"'),
        ('"Currency":"USD"', '"Currency":"USD","Currency":"EUR"'),
        ('"Amount":"512.34"', '"Amount":"512.34","Amount":"1"'),
        ('"AvailableAmount":"478.10"', '"AvailableAmount":"478.10","AvailableAmount":"1"'),
        (ROW[:-1], ROW[:-1] + ',"Equivalent":{"Currency":"EUR","Amount":"1"}'),
        ('"reqid":31', '"reqid":31,"reqid":32'),
        ('"ts":', '"ts":"2026-11-03T08:40:02.000250Z","ts":'),
        ('"seqNum":2', '"seqNum":2,"seqNum":3'),
        ('"seqNum":2', '"seq":2,"seq":3'),
        ('"seqNum":2', '"initial":true,"initial":false'),
        ('"seqNum":2', '"action":"Remove","action":"Update"'),
        ('"seqNum":2', '"next":"b","next":""'),
        ('"data":', f'"data":[{BARE}],"data":'),
    ],
)
def test_a_key_twice_is_refused(old: str, new: str) -> None:
    payload = balance_frame()
    assert 1 == payload.count(old)
    assert refusal(payload.replace(old, new)).startswith("duplicated key ")


VARIANTS = [
    BASELINE,
    balance_frame().encode(),
    balance_frame(BARE).encode(),
    balance_frame(f"{BARE},{ROW.replace('BTC', 'ETH')}").encode(),
    balance_frame(ROW.replace(',"AvailableAmount":"478.10"', "")).encode(),
    balance_frame("").encode(),
    balance_frame(BARE, sequence="").encode(),
    balance_frame(BARE, sequence='"seq":7,').encode(),
    balance_frame(BARE, sequence='"seq":7,"seqNum":8,').encode(),
    balance_frame(BARE, more='"initial":true,"next":"p2",').encode(),
    balance_frame(BARE, more='"initial":null,"next":null,"action":null,').encode(),
    balance_frame(BARE, more='"initial":false,"next":"","action":"Update",').encode(),
    balance_frame('{"Currency":"BTC"}', more='"action":"Remove",').encode(),
    balance_frame(
        '{"Currency":"BTC","Amount":"0"},{"Currency":"ETH","AvailableAmount":"0"}', '"action":"Remove",'
    ).encode(),
]


@pytest.mark.parametrize("payload", VARIANTS)
def test_a_member_said_twice_is_refused_or_changes_nothing(payload: bytes) -> None:
    """What changes nothing: a second `type` that agrees, an empty `data` before the filled one."""
    expected = _what_is_said(event_of(payload))
    refused = 0
    for key, doubled in doublings(payload):
        try:
            event = event_of(doubled)
        except Malformed:
            refused += 1
        else:
            assert expected == _what_is_said(event)
            assert key in ("type", "data")
    assert refused


def _what_is_said(event: Event) -> object:
    """All of an event that does not come of the frame's bytes as such."""
    return type(event), replace(event, source=replace(event.source, evidence=b""), key="")


@pytest.mark.parametrize("payload", VARIANTS)
def test_of_a_frame_without_unknown_fields_no_key_is_counted(
    payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many strings it holds is known exactly, whatever it leaves out and however it is spaced."""
    expected = event_of(payload)
    monkeypatch.setattr(wire, "unique_keys", None)
    assert expected == event_of(payload)
    spaced = event_of(json.dumps(json.loads(payload), indent=1))
    assert _what_is_said(expected) == _what_is_said(spaced)


def test_a_plain_frame_is_read_by_one_parser_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser that sees every pair is slow: it is for doubtful frames."""
    monkeypatch.setattr("json.loads", None)
    assert snapshot_of(BASELINE).balances
    assert delta_of(balance_frame(more='"initial":false,"action":"Update","next":"",')).balances


def test_unknown_fields_are_ignored_even_when_named_like_known_ones() -> None:
    row = BARE[:-1] + ',"Revision":4,"Held":{"Amount":"x","Currency":null},"n\\u0061me":[1e999]}'
    event = delta_of(balance_frame(row, '"tag":"desk","total_count":1,"page":true,'))
    assert (Balance("BTC", "BTC", total="7.50", available="7"),) == event.balances


DEEP = "[" * 1_100 + "]" * 1_100


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty frame"),
        (b" ", "truncated"),
        (BASELINE[:-3], "truncated"),
        (b"[]", "got `array`"),
        (b"null", "got `null`"),
        (b"{}", "missing required field `type`"),
        (b'"Balance"', "got `str`"),
        (BASELINE + b"x", "trailing characters"),
        (b"\xef\xbb\xbf" + BASELINE, "malformed"),
        (balance_frame().encode().replace(b'"data"', b'"tag":"\xff","data"'), "invalid UTF-8"),
        (balance_frame().encode().replace(b'"BTC"', b'"\xc3("'), "invalid UTF-8"),
        (balance_frame(more=f'"tag":{DEEP},').encode(), "nested too deep"),
        (balance_frame(DEEP).encode(), "nested too deep"),
        (b" " * wire.FRAME_BYTES_MAX + BASELINE, "are not read"),
        (b'{"type":1}', "$.type"),
        (b'{"type":"hello","session_id":null}', "$.session_id"),
        (b'{"type":"error"}', "missing required field `error`"),
        (b'{"type":"error","error":"no"}', "$.error"),
        (b'{"type":"error","error":{"code":' + b"9" * 5_000 + b"}}", "$.error.code"),
        (b'{"type":"error","ts":"now","error":{}}', "not an ISO-8601 UTC time"),
    ],
    ids=lambda part: part if isinstance(part, str) else str(len(part)),
)
def test_what_is_no_frame_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    assert reason in refusal(payload)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"reqid":31,', ""),
        ('"ts":"2026-11-03T08:40:01.000250Z",', ""),
        ("2026-11-03T08:40:01.000250Z", "2026-11-03 08:40:01"),
        ("2026-11-03T08:40:01.000250Z", "2026-13-03T08:40:01Z"),
        ('"2026-11-03T08:40:01.000250Z"', "1793695201000"),
        ('"seqNum":2', '"initial":1'),
        ('"seqNum":2', '"initial":"true"'),
        ('"seqNum":2', '"next":7'),
        (f',"data":[{ROW}]', ""),
        (f"[{ROW}]", "null"),
        (f"[{ROW}]", ROW),
        (ROW, "null"),
        (ROW, '"BTC"'),
        ('"Equivalent":{', '"Equivalent":null,"x":{'),
    ],
)
def test_a_frame_of_another_shape_is_refused(old: str, new: str) -> None:
    payload = balance_frame()
    assert 1 == payload.count(old)
    assert refusal(payload.replace(old, new))


def decoded_or_refused(payload: bytes) -> None:
    """Anything but Malformed fails the test; so does an event with an amount that is none."""
    try:
        statements = kraken_prime.decode(Frame("kraken_prime:main", "s", 1, 1, payload))
    except Malformed:
        return
    for _, event in statements:
        if isinstance(event, BalanceSnapshot | BalanceDelta):
            for balance in event.balances:
                worth = balance.valuation or Valuation("", "0", "0")
                for text in (balance.total, balance.available, worth.total, worth.available or "0"):
                    assert text is not None
                    assert wire.decimal(text).is_finite()


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, database=None)
def test_arbitrary_bytes_are_decoded_or_refused(payload: bytes) -> None:
    decoded_or_refused(payload)


PIECES = st.sampled_from(
    [
        b"",
        b"null",
        b"1e9",
        b'"',
        b"{",
        b"}",
        b"[",
        b",",
        b'"Amount":"1",',
        b'"\\u0041mount":"1",',
        b"\\",
        b"\xff",
    ]
)


@given(st.sampled_from(GOLDEN), st.floats(0, 1), st.integers(0, 40), PIECES | st.binary(max_size=8))
@settings(max_examples=250, deadline=None, database=None)
def test_a_mutated_frame_is_decoded_or_refused(payload: bytes, place: float, cut: int, piece: bytes) -> None:
    at = int(place * len(payload))
    decoded_or_refused(payload[:at] + piece + payload[at + cut :])


def test_null_is_as_good_as_absent_where_a_key_is_optional() -> None:
    for key in ("initial", "action", "next"):
        assert isinstance(event_of(balance_frame(more=f'"{key}":null,')), BalanceDelta)


def test_only_the_first_number_of_a_subscription_begins_a_statement() -> None:
    for sequence, begins in {'"seqNum":1,': True, '"seq":1,': True, "": True, '"seqNum":2,': False}.items():
        frame = balance_frame(more='"initial":true,', sequence=sequence)
        assert begins is snapshot_of(frame).begins, sequence
    assert snapshot_of(balance_frame(more='"next":"x",', sequence="")).begins is False


def test_a_subscription_belongs_to_the_conversation_that_the_hello_names() -> None:
    hello = b'{"type":"hello","ts":"2026-11-03T08:40:00.000000Z","session_id":"K9"}'
    assert "K9" == kraken_prime.conversation(hello)
    for other in (
        b"",
        b'"hello"',
        b'{"type":"hello"}',
        b'{"type":"Pong","x":"hello"}',
        balance_frame().encode(),
    ):
        assert None is kraken_prime.conversation(other)
    frame = Frame("kraken_prime:main", "s", 2, 1, balance_frame().encode(), "K9")
    [(_, event)] = kraken_prime.decode(frame)
    assert "K9/31" == event.source.subscription
