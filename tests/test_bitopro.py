"""What BitoPro's messages become, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import wire
from ledger.errors import Malformed
from ledger.events import Balance, BalanceDelta, BalanceSnapshot, Event, FrameQuarantined
from ledger.venue import Frame
from ledger.venues import bitopro
from tests.doubled import doublings
from tests.golden import FRAMES

FIRST = (FRAMES / "bitopro/first_message_states_all_currencies.frame").read_bytes()
LATER = (FRAMES / "bitopro/later_message_states_what_moved@2.frame").read_bytes()
GOLDEN = [path.read_bytes() for path in sorted((FRAMES / "bitopro").glob("*.frame"))]

ENTRY = '{"currency":"ADA","amount":"3.50","available":"1","stake":"2","tradable":true}'
UPDATE = '{"event":"ACCOUNT_BALANCE","eventID":"e-1","timestamp":1793695201234,"data":{"ADA":%s}}'
OLD = UPDATE.replace('"eventID":"e-1",', "")


def event_of(payload: bytes | str, ordinal: int = 2, session: str = "s") -> Event:
    payload = payload.encode() if isinstance(payload, str) else payload
    [(account, event)] = bitopro.decode(Frame("bitopro:main", session, ordinal, 1, payload))
    assert account == "bitopro:main"
    return event


def balances_of(payload: bytes | str, ordinal: int = 2) -> dict[str, Balance]:
    event = event_of(payload, ordinal)
    assert isinstance(event, BalanceSnapshot | BalanceDelta)
    return {balance.asset_id: balance for balance in event.balances}


def refusal(payload: bytes | str, ordinal: int = 2) -> str:
    with pytest.raises(Malformed) as caught:
        event_of(payload, ordinal)
    assert Malformed is caught.type
    return str(caught.value)


def changed(old: str, new: str) -> str:
    """The update with one piece of its entry replaced."""
    assert 1 == ENTRY.count(old)
    return UPDATE % ENTRY.replace(old, new)


def test_the_two_documented_messages_leave_all_ada_held_and_none_available() -> None:
    held = balances_of(FIRST, ordinal=1)
    assert 11 == len(held)
    held |= balances_of(LATER)
    assert ("999999999999.99999999", "0") == (held["ADA"].total, held["ADA"].available)
    assert ("999999999999.99999999", "999999999999.99999999") == (held["BTC"].total, held["BTC"].available)


def test_the_first_frame_states_the_whole_account_and_any_later_one_only_what_moved() -> None:
    assert isinstance(event_of(LATER, ordinal=1), BalanceSnapshot)
    assert isinstance(event_of(LATER, ordinal=2), BalanceDelta)
    assert isinstance(event_of(FIRST, ordinal=100_000), BalanceDelta)


def test_a_whole_account_comes_in_one_page() -> None:
    event = event_of(FIRST, ordinal=1)
    assert isinstance(event, BalanceSnapshot)
    assert (None, False) == (event.part, event.more)


def test_a_partial_statement_names_only_what_moved_and_removes_nothing() -> None:
    event = event_of(LATER)
    assert isinstance(event, BalanceDelta)
    assert (["ADA"], ()) == ([balance.asset_id for balance in event.balances], event.removed)


def test_what_is_locked_is_never_derived() -> None:
    assert {None} == {balance.locked for balance in balances_of(FIRST, ordinal=1).values()}


def test_stake_and_tradable_are_kept_apart_from_the_total() -> None:
    expected = Balance("ADA", "ADA", total="3.50", available="1", staked="2", tradable=True)
    assert {"ADA": expected} == balances_of(UPDATE % ENTRY)
    assert False is balances_of(FIRST, ordinal=1)["MITH"].tradable


def test_an_old_entry_without_stake_and_tradable_states_neither() -> None:
    said = balances_of(changed(',"stake":"2","tradable":true', ""))
    assert {"ADA": Balance("ADA", "ADA", total="3.50", available="1")} == said


def test_stake_and_tradable_may_be_absent_from_some_entries_only() -> None:
    bare = '{"currency":"BTC","amount":"1","available":"1","tradable":false}'
    said = balances_of(UPDATE.replace("%s", f'{ENTRY},"BTC":{bare}'))
    assert ("2", None) == (said["ADA"].staked, said["BTC"].staked)
    assert (True, False) == (said["ADA"].tradable, said["BTC"].tradable)


def test_more_may_be_available_than_there_is() -> None:
    said = balances_of(changed('"available":"1"', '"available":"9"'))
    assert ("3.50", "9") == (said["ADA"].total, said["ADA"].available)


def test_the_source_has_the_venues_time_and_message_id() -> None:
    source = event_of(UPDATE % ENTRY, ordinal=7).source
    assert ("bitopro", "account-balance", "s", 7) == (
        source.venue,
        source.channel,
        source.session,
        source.ordinal,
    )
    assert (1_793_695_201_234_000_000, "e-1") == (source.time_ns, source.message_id)
    assert (None, None) == (source.sequence, source.subscription)


def test_the_key_is_the_event_id_with_what_is_said_wherever_the_message_comes_again() -> None:
    key = event_of(UPDATE % ENTRY, 1, "a").key
    assert key == event_of(UPDATE % ENTRY, 9, "b").key
    assert key == event_of((UPDATE % ENTRY).replace(":", ": "), 9, "b").key
    assert key.startswith("statement:e-1:")


def test_one_event_id_over_other_amounts_is_another_statement() -> None:
    other = ENTRY.replace('"available":"1"', '"available":"0"')
    assert event_of(UPDATE % ENTRY).key != event_of(UPDATE % other).key


def test_without_an_event_id_the_content_is_the_key() -> None:
    key = event_of(OLD % ENTRY, 1, "a").key
    assert key.startswith("statement::")
    assert key == event_of(OLD % ENTRY, 9, "b").key
    assert None is event_of(OLD % ENTRY).source.message_id


def test_one_timestamp_is_no_key() -> None:
    other = ENTRY.replace('"available":"1"', '"available":"0"')
    assert event_of(OLD % ENTRY).key != event_of(OLD % other).key
    assert event_of(FIRST, ordinal=1).key != event_of(LATER).key
    assert event_of(FIRST, ordinal=1).source.time_ns == event_of(LATER).source.time_ns


def test_equal_content_at_another_time_is_another_statement() -> None:
    later = OLD.replace("1793695201234", "1793695201235")
    assert event_of(OLD % ENTRY).key != event_of(later % ENTRY).key


def test_an_empty_event_id_is_none() -> None:
    event = event_of(UPDATE.replace("e-1", "") % ENTRY)
    assert event.key.startswith("statement:")
    assert None is event.source.message_id


def test_a_currency_is_known_by_its_upper_case_and_shown_as_sent() -> None:
    said = balances_of(changed('"ADA"', '"ada"'))
    assert ("ADA", "ada") == (said["ADA"].asset_id, said["ADA"].asset)


def test_an_entry_must_stand_under_its_own_currency() -> None:
    assert "currency 'ETH' under the key 'ADA'" == refusal(changed('"ADA"', '"ETH"'))


def test_one_currency_in_two_spellings_is_refused() -> None:
    twice = UPDATE.replace("%s", f'{ENTRY},"ada":{ENTRY}')
    assert "one currency twice, in two spellings" == refusal(twice)


def test_a_currency_is_neither_empty_nor_endless() -> None:
    for name in ("", "A" * 65):
        assert "$.data[...].currency" in refusal(UPDATE.replace("ADA", name) % ENTRY.replace("ADA", name))
    longest = "A" * 64
    said = balances_of(UPDATE.replace("ADA", longest) % ENTRY.replace("ADA", longest))
    assert [longest] == list(said)


def test_an_endless_event_id_is_refused() -> None:
    assert "$.eventID" in refusal(UPDATE.replace("e-1", "e" * 129) % ENTRY)


def test_an_error_body_is_kept_as_what_the_venue_said() -> None:
    event = event_of('{"error":"Invalid Signature"}', ordinal=1)
    assert isinstance(event, FrameQuarantined)
    assert ("", "venue error: Invalid Signature") == (event.key, event.reason)
    assert ("bitopro", 1) == (event.source.venue, event.source.ordinal)


def test_a_long_error_is_cut() -> None:
    event = event_of('{"error":"' + "x" * 100_000 + '"}')
    assert isinstance(event, FrameQuarantined)
    assert len("venue error: ") + bitopro.ERROR_CHARS_MAX == len(event.reason)


@pytest.mark.parametrize(
    "name", ["ACTIVE_ORDERS", "RECENT_HISTORY_ORDERS", "USER_TRADE", "account_balance", ""]
)
def test_another_event_is_unknown(name: str) -> None:
    assert f"unknown event {name!r}" == refusal(f'{{"event":"{name}","error":"no","data":{{"a":[1]}}}}')


def test_a_balance_message_that_cannot_be_read_is_no_error_body() -> None:
    broken = (UPDATE % ENTRY)[:-1] + ',"error":"busy"}'
    assert "Expected `str`, got `null`" in refusal(broken.replace('"3.50"', "null"))


AMOUNTS_REFUSED = [
    '"NaN"', '"Infinity"', '"-Infinity"', '"1e1000000"', '"1_000"', '"10,000"', '" 1"', '"1 "', '"1\\n"', '"\u0661"',
    '"\\u0661"', '""', '"-"', '".5"', '"5."', '"0x10"', '"1\\u0000"', "null", "true", "1", "1.5", "[]", "{}", "NaN",
    '"' + "9" * 5_000 + '"',
]  # fmt: skip


@pytest.mark.parametrize("key", ["amount", "available", "stake"])
@pytest.mark.parametrize("value", AMOUNTS_REFUSED, ids=lambda value: str(value)[:12])
def test_what_is_no_amount_is_refused(key: str, value: str) -> None:
    entry = json.loads(ENTRY)
    assert refusal(changed(f'"{key}":"{entry[key]}"', f'"{key}":{value}'))


AMOUNTS_KEPT = [
    "0", "-0", "0.00000000", "-12.5", "999999999999.99999999", "0.1234567890123456789", "9" * 38,
    "-" + "9" * 19 + "." + "9" * 19, "1E+3", "1e-18",
]  # fmt: skip


@pytest.mark.parametrize("text", AMOUNTS_KEPT)
def test_every_digit_of_an_amount_survives(text: str) -> None:
    entry = ENTRY.replace('"3.50"', f'"{text}"').replace('"1"', f'"{text}"').replace('"2"', f'"{text}"')
    said = balances_of(UPDATE % entry)["ADA"]
    assert (text, text, text) == (said.total, said.available, said.staked)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"amount":"3.50"', '"amount":"3.50","amount":"4"'),
        ('"amount":"3.50"', '"amount":"3.50","\\u0061mount":"4"'),
        ('"available":"1"', '"available":"1","available":"1"'),
        ('"stake":"2"', '"stake":"2","stake":"3"'),
        ('"tradable":true', '"tradable":true,"tradable":false'),
        ('"currency":"ADA"', '"currency":"BTC","currency":"ADA"'),
    ],
)
def test_a_key_twice_in_an_entry_is_refused(old: str, new: str) -> None:
    assert refusal(changed(old, new)).startswith("duplicated key ")


@pytest.mark.parametrize(
    ("twice", "reason"),
    [
        (UPDATE.replace("%s", f'{ENTRY},"ADA":{ENTRY}'), "duplicated key 'ADA'"),
        ((UPDATE % ENTRY)[:-1] + ',"data":{}}', "duplicated key 'data'"),
        ((UPDATE % ENTRY)[:-1] + ',"timestamp":1793695201235}', "duplicated key 'timestamp'"),
        ((UPDATE % ENTRY)[:-1] + ',"eventID":"e-2"}', "duplicated key 'eventID'"),
        ((UPDATE % ENTRY)[:-1] + ',"event":"USER_TRADE"}', "unknown event 'USER_TRADE'"),
    ],
)
def test_a_key_twice_around_the_entries_is_refused(twice: str, reason: str) -> None:
    assert reason == refusal(twice)


VARIANTS = [
    (FIRST, 1),
    (LATER, 2),
    ((UPDATE % ENTRY).encode(), 2),
    ((OLD % ENTRY).encode(), 2),
    (changed(',"stake":"2"', "").encode(), 2),
    (changed(',"tradable":true', "").encode(), 2),
    (changed(',"stake":"2","tradable":true', "").encode(), 2),
    (UPDATE.replace("%s", f'{ENTRY},"btc":{ENTRY.replace("ADA", "btc")}').encode(), 2),
    ((UPDATE % ENTRY).replace('"data"', '"datetime":"2021-12-15T07:15:03Z","data"').encode(), 2),
    ((UPDATE % ENTRY).replace('"data"', '"datetime":1639552503,"data"').encode(), 2),
    ((UPDATE % ENTRY).replace('"data"', '"datetime":null,"data"').encode(), 2),
    ((UPDATE % ENTRY).replace("e-1", "").encode(), 2),
    (b'{"event":"ACCOUNT_BALANCE","timestamp":1639553303365,"data":{}}', 1),
]


@pytest.mark.parametrize(("payload", "ordinal"), VARIANTS)
def test_a_member_said_twice_is_refused_or_changes_nothing(payload: bytes, ordinal: int) -> None:
    """What changes nothing: a second `event` that agrees, an empty `data` before the filled one, a `datetime`."""
    expected = event_of(payload, ordinal)
    refused = 0
    for key, doubled in doublings(payload):
        try:
            event = event_of(doubled, ordinal)
        except Malformed:
            refused += 1
        else:
            assert (expected.key, expected.source.time_ns) == (event.key, event.source.time_ns)
            assert key in ("event", "data", "datetime")
    assert refused


@pytest.mark.parametrize(("payload", "ordinal"), VARIANTS)
def test_of_a_message_without_unknown_fields_no_key_is_counted(
    payload: bytes, ordinal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many strings it holds is known exactly, whatever it leaves out and however it is spaced."""
    expected = event_of(payload, ordinal)
    monkeypatch.setattr(wire, "unique_keys", None)
    assert expected == event_of(payload, ordinal)
    assert expected.key == event_of(json.dumps(json.loads(payload), indent=1), ordinal).key


def test_an_unknown_field_is_ignored_whatever_is_doubled_in_it() -> None:
    said = balances_of(changed('"stake":"2"', '"stake":"2","extra":{"x":1,"x":2}'))
    assert ("3.50", "2") == (said["ADA"].total, said["ADA"].staked)


def test_a_plain_message_is_read_by_one_parser_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser that sees every pair is slow: it is for doubtful frames."""
    monkeypatch.setattr("json.loads", None)
    assert balances_of(FIRST, ordinal=1)


def test_unknown_fields_are_ignored_even_when_named_like_known_ones() -> None:
    said = balances_of(
        changed('"stake":"2"', '"stake":"2","extra":{"amount":"7","stake":null},"n\\u0061me":1')
    )
    assert ("3.50", "2") == (said["ADA"].total, said["ADA"].staked)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty frame"),
        (b" ", "truncated"),
        (LATER[:-3], "truncated"),
        (b"[]", "got `array`"),
        (b"null", "got `null`"),
        (b"{}", "missing required field `event`"),
        (b'"ACCOUNT_BALANCE"', "got `str`"),
        (LATER + b"x", "trailing characters"),
        (b"\xef\xbb\xbf" + LATER, "malformed"),
        (LATER.replace(b'"stake"', b'"note":"\xff","stake"'), "invalid UTF-8"),
        (LATER.replace(b'"ADA"', b'"\xc3("'), "invalid UTF-8"),
        (
            LATER.replace(b'"stake"', b'"note":' + b"[" * 1_100 + b"]" * 1_100 + b',"stake"'),
            "nested too deep",
        ),
        (b"[" * 1_100, "nested too deep" if wire.DEPTH_APART else "array"),
        (b" " * wire.FRAME_BYTES_MAX + LATER, "are not read"),
        (b'{"event":1}', "$.event"),
        (b'{"error":{"code":1}}', "$.error"),
    ],
    ids=lambda part: part if isinstance(part, str) else str(len(part)),
)
def test_what_is_no_message_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    assert reason in refusal(payload)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1793695201234", '"1793695201234"'),
        ("1793695201234", "1793695201234.5"),
        ("1793695201234", "1" + "0" * 5_000),
        ("1793695201234", "-1"),
        ("1793695201234", "0"),
        ("1793695201234", "null"),
        ('"timestamp":1793695201234,', ""),
        ('"e-1"', "null"),
        ('"e-1"', "7"),
        ('{"ADA":', '{"":'),
        ('"data":{"ADA":%s}', '"data":null'),
        ('"data":{"ADA":%s}', '"data":[%s]'),
        ('"data":{"ADA":%s}', '"data":{"ADA":null}'),
        (',"data":{"ADA":%s}', ""),
    ],
)
def test_an_envelope_of_another_shape_is_refused(old: str, new: str) -> None:
    assert 1 == UPDATE.count(old)
    assert refusal(UPDATE.replace(old, new).replace("%s", ENTRY))


@pytest.mark.parametrize("key", ["currency", "amount", "available"])
def test_an_entry_without_a_required_key_is_refused(key: str) -> None:
    entry = json.loads(ENTRY)
    del entry[key]
    assert f"missing required field `{key}`" in refusal(UPDATE % json.dumps(entry))


@pytest.mark.parametrize("value", ["null", "1", '"true"', '""'])
def test_tradable_is_yes_or_no(value: str) -> None:
    assert "$.data[...].tradable" in refusal(changed('"tradable":true', f'"tradable":{value}'))


def decoded_or_refused(payload: bytes, ordinal: int) -> None:
    """Anything but Malformed fails the test; so does an event with an amount that is none."""
    try:
        statements = bitopro.decode(Frame("bitopro:main", "s", ordinal, 1, payload))
    except Malformed:
        return
    for _, event in statements:
        if isinstance(event, BalanceSnapshot | BalanceDelta):
            for balance in event.balances:
                for text in (balance.total, balance.available, balance.staked or "0"):
                    assert text is not None
                    assert wire.decimal(text).is_finite()


@given(st.binary(max_size=300), st.integers(1, 3))
@settings(max_examples=100, deadline=None, database=None)
def test_arbitrary_bytes_are_decoded_or_refused(payload: bytes, ordinal: int) -> None:
    decoded_or_refused(payload, ordinal)


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
        b'"amount":"1",',
        b'"\\u0061mount":"1",',
        b"\\",
        b"\xff",
    ]
)


@given(st.sampled_from(GOLDEN), st.floats(0, 1), st.integers(0, 40), PIECES | st.binary(max_size=8))
@settings(max_examples=250, deadline=None, database=None)
def test_a_mutated_message_is_decoded_or_refused(
    payload: bytes, place: float, cut: int, piece: bytes
) -> None:
    at = int(place * len(payload))
    decoded_or_refused(payload[:at] + piece + payload[at + cut :], 2)
