"""Cascade: one absolute balance per push; replies and refusals are told from pushes; the rest is Malformed."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import Malformed
from ledger.events import Balance, BalanceDelta, FrameQuarantined
from ledger.venue import Frame
from ledger.venues import cascade
from ledger.wire import FRAME_BYTES_MAX
from tests.doubled import doublings
from tests.golden import FRAMES

ADDRESS = "0x" + "ab12" * 10
VALID = [path.read_bytes() for path in sorted((FRAMES / "cascade").glob("*.frame"))]


def frame(payload: bytes) -> Frame:
    return Frame("cascade:main", "s1", 3, 1_790_000_000_000_000_000, payload)


def push(raw_balance: str = '"10.5"', /, **changes: object) -> bytes:
    """A balance push; `raw_balance` is JSON text, a change of `...` leaves the field out."""
    data = {"account": ADDRESS, "subaccountIndex": 0, "updatedAt": 1_761_984_000_123, **changes}
    fields = [f'"{key}":{json.dumps(value)}' for key, value in data.items() if value is not ...]
    inner = ",".join([*fields, f'"balance":{raw_balance}'])
    return f'{{"type":"Balance Update","data":{{{inner}}}}}'.encode()


def said(payload: bytes) -> tuple[str, BalanceDelta]:
    ((account, event),) = cascade.decode(frame(payload))
    assert isinstance(event, BalanceDelta)
    return account, event


def refused(payload: bytes, reason: str | None = None) -> None:
    with pytest.raises(Malformed, match=reason and re.escape(reason)):
        cascade.decode(frame(payload))


def test_a_push_states_one_balance_of_one_subaccount() -> None:
    account, event = said(push())
    assert f"cascade:{ADDRESS}/0" == account
    assert (Balance("USDC", "USDC", total="10.5"),) == event.balances
    assert () == event.removed
    assert f"statement:{ADDRESS}/0:1761984000123:10.5" == event.key


def test_the_venues_time_is_when_the_balance_was_updated() -> None:
    source = said(push())[1].source
    assert 1_761_984_000_123_000_000 == source.time_ns
    assert ("cascade", "balance", "s1", 3) == (source.venue, source.channel, source.session, source.ordinal)
    assert (None, None, None) == (source.sequence, source.subscription, source.message_id)


def test_one_socket_may_carry_many_subaccounts() -> None:
    accounts = [said(push(subaccountIndex=index))[0] for index in (0, 1, 2**31 - 1)]
    assert [f"cascade:{ADDRESS}/{index}" for index in (0, 1, 2147483647)] == accounts


def test_upper_and_lower_case_hex_are_one_account_and_one_statement() -> None:
    lower, upper = said(push()), said(push(account="0x" + "AB12" * 10))
    assert lower[0] == upper[0]
    assert lower[1].key == upper[1].key


@pytest.mark.parametrize("index", [7, "7"])
@pytest.mark.parametrize("spelling", ["subaccountIndex", "subaccount_index"])
def test_both_spellings_and_types_of_the_index_are_one_account(spelling: str, index: int | str) -> None:
    payload = push(**{"subaccountIndex": ..., spelling: index})
    assert f"cascade:{ADDRESS}/7" == said(payload)[0]
    assert f"statement:{ADDRESS}/7:1761984000123:10.5" == said(payload)[1].key


def test_two_spellings_of_the_index_at_once_are_refused() -> None:
    refused(push(subaccount_index=0), "both subaccountIndex and subaccount_index")


@pytest.mark.parametrize(
    "index",
    [
        ...,
        None,
        True,
        -1,
        2**31,
        10**30,
        1.0,
        "",
        "-1",
        "+1",
        "01",
        " 1",
        "1 ",
        "1\n",
        "\u0661",
        "1_0",
        "1e1",
        "9" * 10,
        "9" * 5000,
        [],
        {},
    ],
)
def test_an_index_is_a_bounded_plain_integer(index: object) -> None:
    refused(push(subaccountIndex=index))


@pytest.mark.parametrize(
    "account",
    [
        ...,
        None,
        1,
        "",
        "0x/1",
        "0x 1",
        " 0x1",
        "0x1\n",
        "0x1\t",
        "0xé",
        "x" * 101,
        "\u2028",
        "a\x00",
        "a\x7f",
    ],
)
def test_an_account_is_bounded_printable_text_that_cannot_forge_another_id(account: object) -> None:
    refused(push(account=account))


@pytest.mark.parametrize("account", ["a", "x" * 100, "deskUser:1"])
def test_an_account_need_not_look_like_an_address(account: str) -> None:
    assert f"cascade:{account.lower()}/0" == said(push(account=account))[0]


def test_only_what_is_stated_again_has_the_same_key() -> None:
    other = [
        push(account="0x1"),
        push(subaccountIndex=1),
        push(updatedAt=1_761_984_000_124),
        push('"10.6"'),
    ]
    assert said(push())[1].key == said(push(note="delivered again"))[1].key
    assert 5 == len({said(payload)[1].key for payload in [push(), *other]})


@pytest.mark.parametrize(
    "balance",
    [
        "0",
        "-0.000001",
        "1.5",
        "1000.500000",
        "0.1234567890123456789",
        "1" * 38,
        "1" * 38 + "." + "2" * 38,
        "1e-6",
    ],
)
def test_a_balance_keeps_every_digit_it_was_sent_with(balance: str) -> None:
    assert balance == said(push(f'"{balance}"'))[1].balances[0].total


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
        '["1"]',
        '{"v":"1"}',
        '"0x10"',
        '"1,000"',
        '"."',
        '"1."',
        '".5"',
        '"--1"',
        f'"{"9" * 5000}"',
        "9" * 5000,
    ],
)
def test_a_balance_that_is_no_finite_decimal_text_is_refused(raw: str) -> None:
    refused(push(raw))


@pytest.mark.parametrize(
    "updated",
    [..., None, True, "1761984000123", 1.5, 0, -1, 10**30, 1_761_984_000_123_456, 7_258_118_400_000],
)
def test_a_time_is_an_integer_of_a_likely_year(updated: object) -> None:
    refused(push(updatedAt=updated))


@pytest.mark.parametrize("key", ["type", "data", "account", "balance", "updatedAt", "subaccountIndex"])
@pytest.mark.parametrize("escaped", [False, True])
def test_a_key_that_is_there_twice_is_refused(key: str, escaped: bool) -> None:
    payload = push()
    again = f"\\u{ord(key[0]):04x}{key[1:]}" if escaped else key
    start = payload.index(f'"{key}":'.encode())
    doubled = payload[:start] + f'"{again}":{_value(payload, key)},'.encode() + payload[start:]
    refused(doubled, f"duplicated key '{key}'")


VARIANTS = [
    push(),
    push(updatedAt=1_761_984_000),
    push(account="0x-_."),
    push(subaccountIndex="7"),
    push(subaccountIndex=..., subaccount_index=7),
]


@pytest.mark.parametrize("payload", VARIANTS)
def test_every_member_is_refused_where_it_is_said_twice(payload: bytes) -> None:
    for _, doubled in doublings(payload):
        refused(doubled)


def test_the_documented_push_is_read_in_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is written otherwise, each key is counted; it says the same."""
    expected = said(push())
    for name in ("_unusual", "_balance"):
        monkeypatch.setattr(cascade, name, None)
    assert expected == said(push())
    assert expected[1].key == said(json.dumps(json.loads(push()), indent=1).encode())[1].key


@pytest.mark.parametrize("account", ["0x\u00e9", "0x\u0661", "\u00b2", "0x/7", "0x 7", ""])
def test_an_account_is_printable_ascii_without_a_slash(account: str) -> None:
    refused(push(account=account), "matching regex")
    refused(push(account="%").replace(b"%", account.encode()), "matching regex")


def _value(payload: bytes, key: str) -> str:
    whole = json.loads(payload)
    return json.dumps((whole | whole["data"])[key])


def test_a_second_data_that_says_nothing_is_refused_too() -> None:
    refused(push().replace(b'"data"', b'"data":null,"data"'), "duplicated key 'data'")


def test_words_that_look_like_keys_and_unknown_fields_are_no_duplicates() -> None:
    assert "1" == said(push('"1"', memo="balance", extra={"balance": "2"}))[1].balances[0].total
    assert "1" == said(push('"1"', memo='say \\"balance\\"'))[1].balances[0].total


@pytest.mark.parametrize("text", ["Subscribed to trades", "Unsubscribed from channel", "a text of tomorrow"])
@pytest.mark.parametrize("request_id", [None, 7, "seven"])
def test_a_success_reply_is_control_whatever_it_says(text: str, request_id: object) -> None:
    reply = {
        "jsonrpc": "2.0",
        "result": {"message": text},
        "usIn": 1,
        "usOut": 2,
        "usDiff": 1,
        "id": request_id,
    }
    assert 0 == len(cascade.decode(frame(json.dumps(reply).encode())))


@pytest.mark.parametrize(("request_id", "message_id"), [(7, "7"), ("seven", "seven"), (None, None)])
def test_an_error_reply_stays_visible_with_the_request_it_answers(
    request_id: object, message_id: object
) -> None:
    reply = {
        "jsonrpc": "2.0",
        "error": {"code": -32602, "message": "Bad params"},
        "usIn": 1,
        "id": request_id,
    }
    ((account, event),) = cascade.decode(frame(json.dumps(reply).encode()))
    assert isinstance(event, FrameQuarantined)
    assert "cascade:main" == account
    assert "venue error -32602: Bad params" == event.reason
    assert ("", message_id) == (event.key, event.source.message_id)


def test_an_error_reply_may_leave_the_id_out_and_wins_over_a_result() -> None:
    ((_, event),) = cascade.decode(
        frame(b'{"jsonrpc":"2.0","result":null,"error":{"code":1,"message":"no"}}')
    )
    assert isinstance(event, FrameQuarantined)
    assert "venue error 1: no" == event.reason


REPLIES = [
    b'{"jsonrpc":"2.0","result":{"message":"Subscribed"},"usIn":1,"id":2}',
    b'{"jsonrpc":"2.0","error":{"code":-32602,"message":"no"},"id":"x"}',
]


@pytest.mark.parametrize("payload", REPLIES)
def test_a_reply_that_says_a_member_twice_is_refused(payload: bytes) -> None:
    for _, doubled in doublings(payload):
        refused(doubled)


def test_a_second_error_does_not_hide_the_first() -> None:
    refused(
        b'{"jsonrpc":"2.0","error":{"code":-32602,"message":"no"},"error":null,"result":{},"id":2}',
        "duplicated key 'error'",
    )


def test_a_bare_text_is_a_refusal_by_rest() -> None:
    ((account, event),) = cascade.decode(frame(b'"Order not found"'))
    assert isinstance(event, FrameQuarantined)
    assert ("cascade:main", "venue error: Order not found") == (account, event.reason)


def test_a_refusal_of_a_million_characters_is_cut() -> None:
    ((_, event),) = cascade.decode(frame(b'"' + b"x" * 1_000_000 + b'"'))
    assert isinstance(event, FrameQuarantined)
    assert cascade.ERROR_CHARS_MAX == len(event.reason)


@pytest.mark.parametrize("name", ["Position", "Fill", "balance update", "Balance", "", "x" * 1000])
def test_another_push_is_named_as_unknown(name: str) -> None:
    refused(push().replace(b"Balance Update", name.encode()), f"unknown type {name[:80]!r}")


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"type":"Balance Update"}',
        b'{"data":{}}',
        push()[:-1] + b',"jsonrpc":"2.0"}',
        push()[:-1] + b',"jsonrpc":"2.0","result":{}}',
        push().replace(b'"type":"Balance Update"', b'"jsonrpc":"2.0","result":{}'),
        push().replace(b'"type":"Balance Update"', b'"jsonrpc":"2.0","error":{"code":1,"message":"no"}'),
        b'{"jsonrpc":"2.0","result":{},"type":"Balance Update"}',
        b'{"account":"0x1","subaccountIndex":0,"balance":"1"}',
    ],
)
def test_what_is_neither_push_nor_reply_is_not_guessed_at(payload: bytes) -> None:
    refused(payload, "neither a push (type, data) nor a reply (jsonrpc)")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b"[]",
        b"[" + push() + b"]",
        push() + push(),
        push()[:-1],
        b"\xef\xbb\xbf" + push(),
        push(note="?").replace(b"?", b"\xff"),
        push(note="?").replace(b"?", b"\xed\xa0\x80"),
        push(note="?").replace(b"?", b"\\ud800"),
        push(note="?").replace(b'"?"', b"[" * 1100 + b"]" * 1100),
        push(note="?").replace(b'"?"', b'{"a":' * 1100 + b"1" + b"}" * 1100),
        push() + b" " * FRAME_BYTES_MAX,
        b'{"type":1,"data":{}}',
        b'{"type":"Balance Update","data":null}',
        b'{"type":"Balance Update","data":[]}',
        b'{"type":"Balance Update","data":"x"}',
        b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","method":"x","params":{}}',
        b'{"jsonrpc":2,"result":{}}',
        b'{"jsonrpc":"2.0","error":"x"}',
        b'{"jsonrpc":"2.0","error":{"code":1}}',
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":[1]}',
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":' + b"9" * 4300 + b"}",
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":' + b"9" * 5000 + b"}",
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":"' + b"9" * 5000 + b'"}',
        b'{"jsonrpc":"2.0","error":{"code":' + b"9" * 4300 + b',"message":"x"},"id":1}',
    ],
)
def test_a_frame_of_another_shape_is_malformed(payload: bytes) -> None:
    refused(payload)


def test_a_frame_cut_anywhere_is_malformed() -> None:
    payload = push()
    for length in range(len(payload)):
        refused(payload[:length])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(payload: bytes) -> None:
    with suppress(Malformed):
        cascade.decode(frame(payload))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(VALID), st.data())
def test_no_mutation_of_a_frame_raises_anything_but_malformed(payload: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(start + 20, len(payload))))
    patch = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"null", b"1e999", b'"', b"{", b"[]", b"\\u0061"])
    )
    try:
        statements = cascade.decode(frame(payload[:start] + patch + payload[end:]))
    except Malformed:
        pass
    else:
        assert all(account.startswith("cascade:") for account, _ in statements)
