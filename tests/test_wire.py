"""What untrusted JSON may look like: every guard lets through what it should, and refuses the rest, naming why.

Everything refused is `Malformed`, and only that: whatever else escaped would cost the frame.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from fractions import Fraction
from functools import partial

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger import wire
from ledger.errors import Malformed


class Shape(msgspec.Struct):
    """A small wire struct."""

    n: int = 0
    s: str = ""
    raw: msgspec.Raw = msgspec.Raw(b"null")


SHAPE = msgspec.json.Decoder(Shape)
RAWS = msgspec.json.Decoder(list[msgspec.Raw])


class Row(msgspec.Struct):
    """A row of `Table`: a text, a flag, a number, and one field whose value may be anything."""

    a: str
    b: bool | msgspec.UnsetType | None = msgspec.UNSET
    n: int | msgspec.UnsetType = msgspec.UNSET
    any: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Table(msgspec.Struct):
    """Rows by name."""

    rows: dict[str, Row]


TABLE = msgspec.json.Decoder(Table)


def strings_of(table: Table) -> int:
    """How many keys and texts were read."""
    strings = 1
    for row in table.rows.values():
        strings += 3 + (row.b is not msgspec.UNSET) + (row.n is not msgspec.UNSET)
        if row.any is not msgspec.UNSET:
            strings += 1 + bytes(row.any).startswith(b'"')
    return strings


YEAR_2000_NS = 946_684_800 * 10**9
YEAR_2200_NS = 7_258_118_400 * 10**9
times_ns = st.integers(YEAR_2000_NS, YEAR_2200_NS - 1)
amount_texts = st.from_regex(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


def refusal(read: Callable[[], object]) -> str:
    """Why it is refused."""
    with pytest.raises(Malformed) as caught:
        read()
    assert Malformed is caught.type
    return str(caught.value)


# Amounts -----------------------------------------------------------------------------------------------------------

GOOD = [
    "0",
    "-0",
    "007",
    "+1",
    "1.50",
    "-1928479.77953598",
    "0.1234567890123456789",
    "12345678901234567890123456789012345678",
    "1e99",
    "1E-99",
    "2.5e+7",
    "9" * wire.AMOUNT_CHARS_MAX,
]
BAD = [
    "",
    " ",
    "\n",
    " 1",
    "1 ",
    "1\n",
    "1\n2",
    "\n1",
    "1\r",
    "1\t",
    "1\0",
    "1\u2028",
    "NaN",
    "nan",
    "-NaN",
    "sNaN",
    "Infinity",
    "-Infinity",
    "inf",
    "1_000",
    "1,000",
    "1,5",
    "١",
    "1٠",
    "１",
    "²",
    ".5",
    "5.",
    ".",
    "+",
    "-",
    "--1",
    "1-",
    "e5",
    "1e",
    "1e+",
    "1e100",
    "1e1000000",
    "1e-100",
    "1e5.0",
    "0x10",
    "1d",
    "1.2.3",
    "null",
    "true",
    '"1"',
    "9" * (wire.AMOUNT_CHARS_MAX + 1),
    "0." + "0" * wire.AMOUNT_CHARS_MAX,
    "9" * 5_000,
    "1e1" + "0" * 5_000,
]


@pytest.mark.parametrize("text", GOOD)
def test_an_amount_keeps_every_digit_as_it_came(text: str) -> None:
    assert text == wire.amount(text)
    assert Decimal(text) == wire.decimal(wire.amount(text))
    assert wire.decimal(text).is_finite()
    wire.amounts([text])


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:20])
def test_what_is_no_plain_finite_amount_is_refused_alone_and_among_others(text: str) -> None:
    assert "not an amount" in refusal(lambda: wire.amount(text))
    for among in ([text], ["1", text], [text, "1"], ["1", text, "2"]):
        assert refusal(lambda: wire.amount(text)) == refusal(partial(wire.amounts, among))


def test_the_scale_of_an_amount_survives() -> None:
    assert "1.50" == format(wire.decimal(wire.amount("1.50")), "f")
    assert "0.10000000" == format(wire.decimal(wire.amount("0.10000000")), "f")


def test_a_refused_amount_of_any_length_is_told_in_a_short_reason() -> None:
    reason = refusal(lambda: wire.amount("9" * 5_000))
    assert "5000 characters" in reason
    assert len(reason) < 200


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"1153.006812", "1153.006812"), (b'"1153.006812"', "1153.006812"), (b"1E5", "1E5"), (b"-0.0", "-0.0")],
)
def test_a_json_number_and_a_json_string_give_the_same_digits(raw: bytes, expected: str) -> None:
    said = wire.decode(SHAPE, b'{"raw":' + raw + b"}")
    assert expected == wire.amount(said.raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b'"NaN"',
        b'"\\u0031"',
        b'" 1"',
        b"1e400",
        b'"\xff"',
        b"\xff",
        b"",
        b'"',
        b"9" * 5_000,
    ],
)
def test_raw_json_that_is_no_amount_is_refused(raw: bytes) -> None:
    assert "not an amount" in refusal(lambda: wire.amount(msgspec.Raw(raw)))


@given(st.lists(st.one_of(amount_texts, st.sampled_from(GOOD + BAD), st.text(max_size=12)), max_size=8))
@example([])
@example([""])
@example(["1\n", "2"])
@example(["1", "\n2"])
@example(["1\n2", ""])
@settings(deadline=None)
def test_many_amounts_at_once_are_judged_as_each_alone(texts: list[str]) -> None:
    why = None
    for text in texts:
        try:
            wire.amount(text)
        except Malformed as error:
            why = str(error)
            break
    if why is None:
        wire.amounts(texts)
        wire.amounts(iter(texts))
    else:
        assert why == refusal(lambda: wire.amounts(texts))


@given(st.lists(st.one_of(amount_texts, st.sampled_from(GOOD + BAD)), max_size=8))
@example(["1", "2"])
@example(["-1.5", "0", "-0.25"])
@example(["1.2.3"])
@example(["5.", "7"])
@example(["1,2"])
@example(["1,2", ""])
@example(["", "1,2"])
@example(["9" * wire.AMOUNT_CHARS_MAX, "9" * (wire.AMOUNT_CHARS_MAX + 1)])
@settings(deadline=None)
def test_many_json_values_at_once_are_judged_and_read_as_each_alone(texts: list[str]) -> None:
    numbers = [text for text in texts if _is_json_number(text)]
    for spelt in (numbers, [json.dumps(text) for text in texts], [*numbers, *map(json.dumps, texts)]):
        raws = RAWS.decode(f"[{', '.join(spelt)}]")
        reasons = [_why_refused(raw) for raw in raws]
        if any(reasons):
            assert next(filter(None, reasons)) == refusal(partial(wire.digits, raws))
        else:
            assert [wire.amount(raw) for raw in raws] == wire.digits(raws)


def _why_refused(raw: msgspec.Raw) -> str:
    try:
        wire.amount(raw)
    except Malformed as error:
        return str(error)
    return ""


def _is_json_number(text: str) -> bool:
    try:
        return type(json.loads(text, parse_int=str, parse_float=str)) is str and text[:1] != '"'
    except ValueError:
        return False


@given(st.lists(st.text("0123456789.-,+eE_ \n", max_size=5), max_size=6))
@settings(max_examples=500, deadline=None)
def test_texts_that_are_almost_amounts_are_judged_as_each_alone(texts: list[str]) -> None:
    test_many_amounts_at_once_are_judged_as_each_alone.hypothesis.inner_test(texts)  # type: ignore[attr-defined]
    test_many_json_values_at_once_are_judged_and_read_as_each_alone.hypothesis.inner_test(texts)  # type: ignore[attr-defined]


def test_plain_amounts_are_not_judged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of one alone is slow: it is for what is written otherwise."""
    monkeypatch.setattr(wire, "amount", None)
    wire.amounts(["0", "-0.5", "12.50", "999999999999.99999999"] * 50)
    assert ["1", "-2.5"] == wire.digits([msgspec.Raw(b"1"), msgspec.Raw(b'"-2.5"')])


def test_what_is_too_long_is_refused_by_the_parser_where_it_may_be_an_amount() -> None:
    decoder = msgspec.json.Decoder(list[wire.Digits])
    assert ["9" * wire.AMOUNT_CHARS_MAX] == wire.decode(decoder, b'["%b"]' % (b"9" * wire.AMOUNT_CHARS_MAX))
    assert "length <= 80" in refusal(
        lambda: wire.decode(decoder, b'["%b"]' % (b"9" * (wire.AMOUNT_CHARS_MAX + 1)))
    )


# Arithmetic --------------------------------------------------------------------------------------------------------


@given(st.lists(amount_texts, min_size=1, max_size=20))
@example(["9" * 77 + "e99", "0." + "0" * 73 + "1e-99"] * 10)
@settings(deadline=None)
def test_sums_of_any_amounts_are_exact(texts: list[str]) -> None:
    total, expected = Decimal(0), Fraction(0)
    for text in texts:
        total = wire.EXACT.add(total, wire.decimal(wire.amount(text)))
        expected += Fraction(Decimal(text))
    assert expected == Fraction(total)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: wire.EXACT.divide(Decimal(1), Decimal(3)),
        lambda: wire.EXACT.divide(Decimal(1), Decimal(0)),
        lambda: wire.EXACT.add(Decimal("1e800"), Decimal(1)),
        lambda: wire.EXACT.create_decimal("9" * 801),
        lambda: wire.EXACT.quantize(Decimal("1.25"), Decimal("0.1")),
        lambda: wire.EXACT.add(Decimal("sNaN"), Decimal(1)),
        lambda: wire.EXACT.multiply(Decimal("1e600000"), Decimal("1e600000")),
        lambda: wire.EXACT.multiply(Decimal("1e-600000"), Decimal("1e-600000")),
    ],
)
def test_arithmetic_raises_where_it_would_have_to_round(compute: Callable[[], Decimal]) -> None:
    with pytest.raises(DecimalException):
        compute()


# Frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty frame"),
        (b" \n", "truncated"),
        (b"{", "truncated"),
        (b'{"n":1}}', "trailing"),
        (b'{"n":"x"}', "$.n"),
        (b'{"n":1.5}', "$.n"),
        (b'{"n":' + b"1" * 5_000 + b"}", "out of range"),
        (b"[]", "object"),
        (b"nonsense", "malformed"),
        (b'\xef\xbb\xbf{"n":1}', "malformed"),
        (b'{"s":"\xff"}', "invalid UTF-8 at byte 6"),
        (b'{"unknown":"\xff"}', "invalid UTF-8 at byte 12"),
        (b'{"unknown":"\xc3"}', "invalid UTF-8"),
        (b'{"s":"\xed\xa0\x80"}', "invalid UTF-8"),
        (b'{"s":"\\ud800"}', ""),
        (b'{"s":"\\udc00x"}', ""),
        ('{"n":1}'.encode("utf-16"), "invalid UTF-8"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_frame_that_is_not_its_shape_is_refused_with_the_reason(payload: bytes, reason: str) -> None:
    assert reason in refusal(lambda: wire.decode(SHAPE, payload))


@pytest.mark.parametrize("apart", [wire.DEPTH_APART, True])
@pytest.mark.parametrize("depth", [1_100, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, depth: int, opened: bytes, closed: bytes, apart: bool
) -> None:
    monkeypatch.setattr(wire, "DEPTH_APART", apart)  # with another Python the same frames have to be refused
    nest = opened * depth + b"1" + closed * depth
    assert "nested too deep" in refusal(lambda: wire.decode(SHAPE, b'{"unknown":' + nest + b"}"))
    assert "nested too deep" in refusal(lambda: wire.decode(SHAPE, b'{"raw":' + nest + b"}"))
    assert "nested too deep" in refusal(lambda: wire.unique_keys(b'{"\\u0061":' + nest + b"}", {}))


def test_a_frame_of_the_greatest_size_is_read_and_one_byte_more_is_not() -> None:
    greatest = b'{"n":1}' + b" " * (wire.FRAME_BYTES_MAX - 7)
    assert 1 == wire.decode(SHAPE, greatest).n
    assert f"frame of {wire.FRAME_BYTES_MAX + 1} bytes" in refusal(
        lambda: wire.decode(SHAPE, greatest + b" ")
    )


def test_a_frame_that_is_its_shape_is_read() -> None:
    assert Shape(7, "é€😀") == wire.decode(SHAPE, '{"n":7,"s":"é€😀","other":"ü"}'.encode())
    assert "😀" == wire.decode(SHAPE, b'{"s":"\\ud83d\\ude00"}').s


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused_and_nothing_else(payload: bytes) -> None:
    with suppress(Malformed):
        wire.decode(SHAPE, payload)
    with suppress(Malformed):
        wire.unique_keys(payload, {b'"n"': 1})


# Keys --------------------------------------------------------------------------------------------------------------

DOUBLED = [
    b'{"a":1,"a":2}',
    b'{"a":1,"a":1}',
    b'[{"b":1,"a":1},{"a":1,"a":2}]',
    b'{"a":{"a":1,"b":2,"a":3}}',
    b'{"a":1,"\\u0061":2}',
    b'{"\\u0061":1,"\\u0061":2}',
    b'{"a" :1, "a"\t:2}',
    b'{"other":{"x":1,"x":2},"a":1,"z":"a"}',
]


@pytest.mark.parametrize("payload", DOUBLED)
def test_a_doubled_key_is_refused_and_named(payload: bytes) -> None:
    assert "duplicated key" in refusal(lambda: wire.unique_keys(payload, {b'"a"': 1}))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1,"b":"a"}',
        b'[{"a":1},{"a":2}]',
        b'{"a":{"a":{"a":1}}}',
        b'{"a":"say \\"a\\""}',
        b'{"\\u0061":1,"b":2}',
        b'{"a":' + b"1" * 5_000 + b',"b":"\\n"}',
        b'{"a":1e999999,"b":"\\n"}',
    ],
)
def test_a_key_once_in_each_object_is_accepted_whatever_the_count_says(payload: bytes) -> None:
    for count in (0, 1, 2, 3):
        wire.unique_keys(payload, {b'"a"': count})


def test_what_is_no_json_is_refused_by_the_slow_look_too() -> None:
    assert refusal(lambda: wire.unique_keys(b'{"a":', {b'"a"': 2}))
    assert refusal(lambda: wire.unique_keys(b'{"a":"\xff"}', {b'"a"': 2}))


def test_a_doubled_key_of_any_length_is_told_in_a_short_reason() -> None:
    key = b'"' + b"k" * 5_000 + b'"'
    assert len(refusal(lambda: wire.unique_keys(b"{%b:1,%b:2}" % (key, key), {key: 1}))) < 200


@given(st.lists(st.tuples(st.sampled_from("ab\\é"), st.integers(0, 1)), max_size=4), st.booleans())
def test_a_doubled_key_is_found_exactly_where_there_is_one(
    pairs: list[tuple[str, int]], ascii_only: bool
) -> None:
    members = ",".join(f"{json.dumps(key, ensure_ascii=ascii_only)}:{value}" for key, value in pairs)
    payload = f"{{{members}}}"
    keys = [key for key, _ in pairs]
    counts = {json.dumps(key, ensure_ascii=ascii_only).encode(): 1 for key in set(keys)}
    for told in (counts, None):
        if len(set(keys)) == len(keys):
            wire.unique_keys(payload.encode(), told)
        else:
            assert "duplicated key" in refusal(partial(wire.unique_keys, payload.encode(), told))


def test_a_count_of_strings_is_right_or_wrong() -> None:
    for strings, right in ((3, True), (2, False), (4, False), (0, False)):
        assert right == wire.holds_only(b'{"a":1, "b" :"c"}', strings)
    assert not wire.holds_only(b'{"a":1,"b":"\\u0063"}', 3)


def member(key: str, *values: str) -> st.SearchStrategy[str]:
    """One member of an object, however it may be spelt."""
    keys = [f'"{key}":', f'"{key}" : ', f'"\\u{ord(key[0]):04x}{key[1:]}":']
    return st.tuples(st.sampled_from([keys[0]] * 6 + keys), st.sampled_from(values)).map("".join)


ANY = (
    "1",
    '"x"',
    '""',
    "null",
    '{"a":"b"}',
    '["a","b"]',
    '{"x":1,"x":2}',
    '"say \\"a\\""',
    '"\\u0061"',
    '"é"',
    "1e5",
)
MEMBERS = st.lists(
    st.one_of(
        member("b", "true", "false", "null"),
        member("n", "0", "-0", "7", "-12"),
        member("any", *ANY),
        member("other", *ANY),
        member("a", '"v"', '"w"', '"\\u0076"'),
    ),
    max_size=3,
)
ROWS = st.lists(st.tuples(member("k", "{%s}") | member("l", "{%s}"), st.booleans(), MEMBERS), max_size=3)


@given(ROWS, st.sampled_from([",", ",", ", "]), st.sampled_from(["", "", ',"rows":{}', ',"more":"x"']))
@example([], ",", "")
@settings(max_examples=1_000, deadline=None)
def test_nothing_is_doubled_or_unread_where_the_count_of_strings_is_right(
    rows: list[tuple[str, bool, list[str]]], comma: str, tail: str
) -> None:
    said = [
        row.replace("%s", comma.join(['"a":"v"', *members] if first else [*members, '"a":"w"']))
        for row, first, members in rows
    ]
    text = f'{{"rows":{{{comma.join(said)}}}{tail}}}'
    table = wire.decode(TABLE, text.encode())
    pairs: list[list[str]] = []
    json.loads(text, object_pairs_hook=lambda members: pairs.append([key for key, _ in members]))
    doubled = any(len(set(keys)) < len(keys) for keys in pairs)
    unread = any(mark in text for mark in ('"other"', '"more"', '{"a":"b"}', '["a"', '{"x"', "\\"))
    assert (not doubled and not unread) == wire.holds_only(text.encode(), strings_of(table))


# Times -------------------------------------------------------------------------------------------------------------


@given(times_ns)
@example(YEAR_2000_NS)
@example(YEAR_2200_NS - 1)
def test_a_time_as_text_and_back_is_the_same_nanosecond(ns: int) -> None:
    assert ns == wire.iso_ns(wire.time_text(ns))
    assert ns == wire.parse_time(wire.time_text(ns))


@given(times_ns, st.integers(0, 9))
def test_any_number_of_fraction_digits_is_read_exactly(ns: int, digits: int) -> None:
    seconds, rest = divmod(ns, 10**9)
    fraction = f"{rest:09d}"[:digits]
    stamp = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}" + (f".{fraction}" if digits else "")
    expected = seconds * 10**9 + int(fraction.ljust(9, "0"))
    for zone in ("Z", "+00:00"):
        assert expected == wire.iso_ns(stamp + zone)
        assert expected == wire.parse_time(stamp + zone)
    assert expected == wire.parse_time(stamp)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1_795_262_400_000_000_000, "2026-11-21T12:00:00Z"),
        (1_795_262_400_120_000_000, "2026-11-21T12:00:00.120Z"),
        (1_795_262_400_000_001_000, "2026-11-21T12:00:00.000001Z"),
        (1_795_262_400_000_000_001, "2026-11-21T12:00:00.000000001Z"),
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (-62_135_596_800_000_000_000, "0001-01-01T00:00:00Z"),
        (-30_641_759_999_500_000_000, "0999-01-01T00:00:00.500Z"),
    ],
)
def test_a_time_is_written_with_the_digits_it_needs(ns: int, text: str) -> None:
    assert text == wire.time_text(ns)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-21",
        "2026-11-21T12:00Z",
        "2026-11-21T12:00:00",
        "2026-11-21 12:00:00Z",
        "2026-11-21t12:00:00z",
        "2026-11-21T12:00:00Z\n",
        " 2026-11-21T12:00:00Z",
        "2026-11-21T12:00:00.Z",
        "2026-11-21T12:00:00.1234567890Z",
        "2026-11-21T12:00:00,5Z",
        "2026-11-21T12:00:00+01:00",
        "2026-11-21T12:00:00-00:00",
        "2026-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T12:60:00Z",
        "2026-11-21T12:00:60Z",
        "٢٠٢٦-11-21T12:00:00Z",
        "2026-11-21T12:00:00.٥Z",
        "1999-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
        "0000-00-00T00:00:00Z",
        "2026-11-21T12:00:00" + "Z" * 5_000,
    ],
    ids=lambda text: ascii(text)[:36],
)
def test_what_is_no_utc_time_of_these_centuries_is_refused(text: str) -> None:
    assert len(refusal(lambda: wire.iso_ns(text))) < 120


@given(st.integers(946_684_800, 7_258_118_399), st.integers(0, 999))
def test_an_epoch_time_is_seconds_or_milliseconds_by_its_magnitude(seconds: int, ms: int) -> None:
    assert seconds * 10**9 == wire.epoch_ns(seconds)
    assert seconds * 10**9 + ms * 10**6 == wire.epoch_ns(seconds * 1000 + ms)


@pytest.mark.parametrize(
    "number",
    [
        -1,
        0,
        946_684_799,
        946_684_799_999,
        7_258_118_400,
        99_999_999_999,
        7_258_118_400_000,
        1_793_695_201_234_000,
        -(10**18),
        2**63,
        10**5_000,
        -(10**5_000),
    ],
    ids=lambda number: hex(number)[:24],
)
def test_an_epoch_time_of_other_centuries_or_units_is_refused(number: int) -> None:
    assert "out of range" in refusal(lambda: wire.epoch_ns(number))


NOON_NS = 1_795_262_400 * 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-11-21", NOON_NS - 12 * 3600 * 10**9),
        ("2026-11-21T12", NOON_NS),
        ("2026-11-21T12:00", NOON_NS),
        ("2026-11-21T12:00Z", NOON_NS),
        ("2026-11-21 12:00:00", NOON_NS),
        ("2026-11-21T12:00:00.5", NOON_NS + 500_000_000),
        ("2026-11-21T12:00:00.123456789Z", NOON_NS + 123_456_789),
        ("2026-11-21T13:00:00.5+01:00", NOON_NS + 500_000_000),
        ("2026-11-21T06:30:00.000000001-05:30", NOON_NS + 1),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_a_time_is_read_as_a_person_writes_it(text: str, ns: int) -> None:
    assert ns == wire.parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026",
        "2026-11",
        "2026-11-31",
        "2026-11-21T12:00:00,5Z",
        "2026-11-21T12:00:00.1234567890Z",
        "2026-11-21T12:00:00.Z",
        "2026-11-21T12.5",
        "2026-11-21T12:00.5",
        "2026-11-21.5",
        "2026-11-21T12:00:00+00:00:00.5",
        "2026-11-21T12:00:00.5.5Z",
        "2026-11-21T12:00:00.5Z\n",
        "2026-11-21T12:00:00.٥Z",
        "0001-01-01T00:00+05:00",
        "9999-12-31T23:00-05:00",
        "x" * 5_000,
    ],
    ids=lambda text: ascii(text)[:36],
)
def test_what_would_be_read_only_in_part_is_no_time(text: str) -> None:
    reason = refusal(lambda: wire.parse_time(text))
    assert "write it like" in reason
    assert len(reason) < 120


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2199, 12, 31)),
    st.integers(-1439, 1439),
)
def test_a_time_with_an_offset_is_the_same_moment_in_utc(stamp: datetime, minutes: int) -> None:
    sign, offset = "-" if minutes < 0 else "+", abs(minutes)
    zone = f"{sign}{offset // 60:02d}:{offset % 60:02d}"
    moment = stamp.replace(tzinfo=UTC) - timedelta(minutes=minutes)
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    assert expected == wire.parse_time(f"{stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond:06d}{zone}")


def test_a_hundred_thousand_amounts_are_judged_in_one_pass() -> None:
    random.seed(7)
    texts = [f"{random.randrange(10**12)}.{random.randrange(10**8)}" for _ in range(100_000)]
    wire.amounts(texts)
    texts[77_777] = "NaN"
    assert "'NaN'" in refusal(lambda: wire.amounts(texts))


@pytest.mark.parametrize("opened", ["[", '{"a":', '[{"[":'])
def test_where_the_recursion_limit_was_lifted_deep_nesting_is_refused_all_the_same(opened: str) -> None:
    """In a process of its own: without the guard it ends in a segmentation fault."""
    code = (
        "import sys, msgspec\n"
        "from ledger import Malformed, wire\n"
        "sys.setrecursionlimit(1_000_000)\n"
        "any_json = msgspec.json.Decoder(msgspec.Raw)\n"
        f"deep = {opened!r}.encode() * 400_000\n"
        "try:\n"
        "    wire.decode(any_json, deep)\n"
        "except Malformed as error:\n"
        "    print(error)\n"
        "wide = b'[' + b','.join([b'[]'] * 5000) + b']'\n"
        "print(len(wire.decode(any_json, wide)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (0, "JSON nested too deep\n15001\n") == (ran.returncode, ran.stdout), ran.stderr


# One text for one value ----------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    return str(wire.EXACT.normalize(Decimal(text)))


zeros_and_digits = st.text("0000123456789", min_size=1, max_size=30)
written = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    zeros_and_digits,
    st.just("") | zeros_and_digits.map(".{}".format),
    st.sampled_from(["", "", "", "e0", "E+2", "e-7", "E99", "e-99"]),
).filter(lambda text: len(text) <= wire.AMOUNT_CHARS_MAX)
fractions = st.tuples(st.integers(-(10**12), 10**12), st.integers(1, 12)).map(
    lambda each: f"{each[0] / 10 ** each[1]:.{each[1]}f}"
)


@pytest.mark.parametrize(
    "text",
    [
        "0", "-0", "+0", "00", "0.0", "-0.000", "0e5", "1", "-1", "+5", "10", "250.00", "5000.000000", "693.000000",
        "1E+2", "1e2", "1.50e10", "00012", "-007.10", "00.5", "0.5", "-0.5", "0.10", "0.000001", "0.0000010",
        "0.0000009", "-0.000001", "-0.0000001", "0.000000001", "1.0000001", "10.0000000", "100.000000001",
        "9" * 80, "-" + "9" * 79, "0." + "0" * 77 + "1", "1" * 40 + "." + "2" * 39, "1" + "0" * 79,
    ],
)  # fmt: skip
def test_the_one_text_of_a_value_is_what_decimal_makes_of_it(text: str) -> None:
    assert normalised(text) == wire.canonical(text)
    for others in ([], ["1.5"] * 9, ["12.25", "-0.125"] * 5, [text] * 9):
        assert [normalised(each) for each in (text, *others)] == wire.canonicals([text, *others])
        assert [normalised(each) for each in (*others, text)] == wire.canonicals([*others, text])


@given(st.lists(written | fractions, max_size=20) | st.lists(fractions, min_size=8, max_size=20))
@settings(max_examples=300, deadline=None)
def test_many_amounts_have_the_one_text_that_each_has_alone(texts: list[str]) -> None:
    wire.amounts(texts)
    assert [normalised(text) for text in texts] == wire.canonicals(texts)
    assert [normalised(text) for text in texts] == [wire.canonical(text) for text in texts]


def test_fractions_alone_are_written_the_one_way_without_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(wire, "decimal")
    assert ["12.5", "-0.125"] * 9 == wire.canonicals(["12.50", "-0.125"] * 9)


@pytest.mark.parametrize("length", [1, 79, 80, 81, 82, 200])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_amount_too_long_is_found_among_short_ones(length: int, sign: str) -> None:
    text = sign + "1.0e-1234567890"[: length - len(sign)].ljust(length - len(sign), "7")
    for joined in (text, f"1.5,{text}", f"{text},1.5", ",".join(["-12.50"] * 90 + [text] + ["0"] * 90)):
        assert (length <= wire.AMOUNT_CHARS_MAX) is wire.are_short(joined)


@given(st.lists(st.integers(946_684_800_000, 7_258_118_399_999) | st.integers(946_684_800, 7_258_118_399)))
def test_many_epoch_times_are_read_as_each_alone(numbers: list[int]) -> None:
    assert [wire.epoch_ns(number) for number in numbers] == wire.epochs_ns(numbers)


@pytest.mark.parametrize(
    "number", [946_684_799_999, 7_258_118_400_000, 946_684_799, 7_258_118_400, 0, -1, 2**70]
)
def test_one_time_of_another_century_refuses_them_all(number: int) -> None:
    for numbers in ([number], [number, 1_761_984_000_000], [1_761_984_000_000, number, 1_761_984_000_001]):
        with pytest.raises(Malformed, match="time out of range"):
            wire.epochs_ns(numbers)
