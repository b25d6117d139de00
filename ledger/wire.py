"""What untrusted JSON may look like: guards on size, text, digits, keys and times, each with its bound.

Knows no venue. Everything here raises `Malformed` with a reason a person can act on, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import (
    Clamped,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    Rounded,
    Subnormal,
    Underflow,
)
from functools import lru_cache
from sys import getrecursionlimit, version_info
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from ledger.errors import Malformed
from ledger.events import Amount

FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
AMOUNT_CHARS_MAX: Final = 80
DEPTH_MAX: Final = 1_000
_NESTING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
DEPTH_GUARDED_MAX: Final = 5_000
"""The highest recursion limit with which the parser guards the stack by itself."""
DEPTH_APART: Final = version_info >= (3, 12)
"""Whether Python's recursion limit does not count what is written in C: parsers go thousands of levels deep there."""
WORDS_CHARS_MAX: Final = 200
AMOUNT_EXPONENT_MAX: Final = 99
"""By the two digits an exponent may have."""

_AMOUNT = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
_ONE = re.compile(_AMOUNT)
_QUOTE: Final = ord('"')  # bytes look for a number faster than for bytes
_BACKSLASH: Final = ord("\\")
_GRAMMAR: Final = msgspec.json.Decoder(msgspec.Raw).decode
_DIGITS: Final = b"0123456789-"
_LEVEL: Final = bytes.maketrans(b"123456789-+.eE", b"0" * 14)
_TOO_LONG: Final = b"0" * (AMOUNT_CHARS_MAX + 1)
_MANY: Final = 8
"""Fewer texts than that are faster one by one."""
_TO_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_AFTER_SECONDS = re.compile(r"(?:\.(\d{1,9}))?(?:Z|\+00:00)", re.ASCII)

_FRACTION = re.compile(r"(?<=[T ]\d\d:\d\d:\d\d)\.(\d{1,9})(?=Z|[+-]|\Z)", re.ASCII)

_YEAR_2000_S: Final = 946_684_800
_YEAR_2200_S: Final = 7_258_118_400
_YEAR_2000_MS: Final = _YEAR_2000_S * 1000
_YEAR_2200_MS: Final = _YEAR_2200_S * 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UTC: Final = datetime(1970, 1, 1)

EXACT: Final = Context(
    prec=800,
    Emin=-999_999,
    Emax=999_999,
    traps=[Inexact, Rounded, InvalidOperation, DivisionByZero, Overflow, Underflow, Subnormal, Clamped],
)
"""Arithmetic that raises where it would have to round. 800 digits hold any sum of amounts that `amounts` lets
through, and of products of two of them."""

T = TypeVar("T")
Digits: TypeAlias = Annotated[str, msgspec.Meta(max_length=AMOUNT_CHARS_MAX)]
"""A field of a wire struct that should be an amount: the parser refuses what is too long for one."""


def legible(text: str, chars_max: int = WORDS_CHARS_MAX) -> str:
    """Words of somebody else's, as they may be shown: printable, and not too many."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text[:chars_max])


def decode(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    """The frame as its wire struct. Raises Malformed for whatever is wrong with it: empty, oversize, not UTF-8, not
    JSON, nested too deep, not of that shape. Only msgspec's own error is a MsgspecError: invalid UTF-8 and deep
    nesting are not, so both are caught by name."""
    if not 0 < len(payload) <= FRAME_BYTES_MAX:
        raise Malformed(
            f"frame of {len(payload)} bytes: more than {FRAME_BYTES_MAX} are not read"
            if payload
            else "empty frame"
        )
    if (DEPTH_APART or getrecursionlimit() > DEPTH_GUARDED_MAX) and _nested_too_deep(payload):
        raise Malformed("JSON nested too deep")
    try:
        if not payload.isascii():
            payload.decode()  # msgspec skips the text of fields it does not know
        return decoder.decode(payload)
    except UnicodeDecodeError as error:
        raise Malformed(f"invalid UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Malformed("JSON nested too deep") from None
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from None


def _nested_too_deep(payload: bytes) -> bool:
    """What Python's recursion limit tells, where it counts no C, or where somebody has lifted it (a library below
    eth-account does): msgspec trusts it, and the stack of a thread ends long before 100,000 levels."""
    if payload.count(b"[") + payload.count(b"{") <= DEPTH_MAX:
        return False
    depth = 0
    for found in _NESTING.finditer(payload):
        mark = found[0]
        depth += mark in b"[{" or -(mark in b"]}")
        if depth > DEPTH_MAX:
            return True
    return False


def amount(text: str | msgspec.Raw) -> Amount:
    """The digits of one amount as they came: from a JSON string, or from a JSON number as `msgspec.Raw`."""
    if not isinstance(text, str):
        text = str(bytes(text), "utf-8", "replace")
        if text[:1] == '"':
            text = text[1:-1]
    if len(text) > AMOUNT_CHARS_MAX or _ONE.fullmatch(text) is None:
        raise _not_an_amount(text)
    return text


def amounts(texts: Iterable[str], bounded: bool = False) -> None:
    """Check many amounts in one pass. Raises Malformed naming the first that is none.

    `bounded`: the parser has already refused what is longer than `AMOUNT_CHARS_MAX` (a `Digits` field).
    """
    if not isinstance(texts, list):
        texts = list(texts)
    joined = ",".join(texts)
    if not _plain(joined, len(texts)) or not (bounded or are_short(joined)):
        for text in texts:
            amount(text)


def digits(raws: Sequence[msgspec.Raw]) -> list[Amount]:
    """The digits of many amounts, each as the parser gave it: a JSON number or a JSON string. Like `amount` of each,
    in one pass. Raises Malformed naming the first that is none."""
    joined = b",".join(raws).decode("utf-8", "replace")
    # A JSON value with quotes, but with no bracket and no backslash, is a string with nothing around it.
    joined = joined.replace('"', "")
    texts = joined.split(",")
    if _plain(joined, len(raws)) and are_short(joined):
        return texts
    return [amount(raw) for raw in raws]


def _plain(joined: str, count: int) -> bool:
    """Whether so many texts, joined by commas, are plain amounts: digits, with a minus or a fraction at the most.

    Without digits and minus, only one comma for each may be left, and points. Then each is a number if, and only if,
    all are one JSON array: the parser knows where a minus and a point may stand. The first 0 makes one empty text an
    error too.
    """
    try:
        marks = joined.encode().translate(None, _DIGITS) + b","
        if marks != b".," * count and marks.replace(b".", b"") != b"," * count:
            return False
        _GRAMMAR(f"[0,{joined}]")
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return False
    return True


def are_short(joined: str) -> bool:
    """Whether, of JSON numbers joined by commas, none is longer than an amount may be."""
    return len(joined) <= AMOUNT_CHARS_MAX or _TOO_LONG not in joined.encode().translate(_LEVEL)


def decimal(text: Amount) -> Decimal:
    """The amount as a number, every digit kept."""
    return Decimal(text)


def canonical(text: Amount) -> str:
    """One text for one value, however many zeros it was written with: `str` of its `Decimal`, normalised."""
    short = text.rstrip("0").removesuffix(".") if "." in text else text
    if short == "0":
        return short
    size = short.lstrip("-")
    # A number that ends in no zero, from six decimals up, is told by Decimal just so: no exponent, nothing to strip.
    if (
        ("1" <= size < ":" or "0.000001" <= size < "0/")
        and size[-1] != "0"
        and "e" not in size
        and "E" not in size
    ):
        return short
    return str(decimal(text).normalize(EXACT))


def canonicals(texts: list[Amount]) -> list[str]:
    """`canonical` of each, in one pass where all are the same, or all are fractions."""
    if len(texts) >= _MANY:
        if texts.count(texts[0]) == len(texts):
            return [canonical(texts[0])] * len(texts)
        shorts = [text.rstrip("0") for text in texts]
        joined = ",".join(shorts)
        if joined.count(".") == len(texts) and not any(odd in joined for odd in ("e", "E", "0.000000")):
            try:  # JSON knows no plus, no zero before another digit, and no point at an end
                _GRAMMAR(f"[{joined}]")
            except msgspec.MsgspecError:
                pass
            else:
                return shorts
    return [canonical(text) for text in texts]


def _not_an_amount(text: str) -> Malformed:
    shown = text if len(text) <= AMOUNT_CHARS_MAX else f"{text[:AMOUNT_CHARS_MAX]}… ({len(text)} characters)"
    return Malformed(f"not an amount: {shown!r}")


def holds_only(payload: bytes, strings: int) -> bool:
    """Whether a payload, already read as JSON, holds just so many strings (keys and values): then no key is doubled,
    and nothing is there that was not read.

    Without a backslash every string is two quotes. `strings` counts what was read, each string once: it must never be
    more than what the payload holds of it. A doubled or unknown key adds at least two quotes, so the numbers differ;
    False only means that `unique_keys` has to look. A field that may be absent counts where it is there; one whose
    value may be anything (`msgspec.Raw`) counts two only where the value is a string.
    """
    return payload.count(_QUOTE) == 2 * strings and _BACKSLASH not in payload


def unique_keys(payload: bytes, counts: Mapping[bytes, int] | None = None) -> None:
    """Raise Malformed if a JSON object in the payload has one key twice (parsers silently keep the last).

    `counts` says how often each quoted key must stand in the payload if none is doubled: counting bytes is cheap. Only
    when a count is off, or an escape could hide a key, is the payload read again by a parser that sees every pair.
    Without `counts` it always is.
    """
    if (
        counts is not None
        and _BACKSLASH not in payload
        and all(payload.count(key) == count for key, count in counts.items())
    ):
        return
    if DEPTH_APART and _nested_too_deep(payload):
        raise Malformed("JSON nested too deep")
    try:
        json.loads(payload, object_pairs_hook=_pairs, parse_int=str, parse_float=str)
    except RecursionError:
        raise Malformed("JSON nested too deep") from None
    except ValueError as error:
        raise Malformed(str(error)) from None


def _pairs(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise Malformed(f"duplicated key {key[:AMOUNT_CHARS_MAX]!r}")
        seen.add(key)


def iso_ns(text: str) -> int:
    """Nanoseconds since the epoch of an ISO-8601 UTC time with 0 to 9 fraction digits; by integers, never by float."""
    fraction = text[20:-1]
    if (
        text[19:20] + text[-1:] != ".Z"
        or len(fraction) > 9
        or not (fraction.isascii() and fraction.isdigit())
    ):
        match = _AFTER_SECONDS.fullmatch(text, 19)
        if match is None:
            raise Malformed(f"not an ISO-8601 UTC time: {text[:40]!r}")
        fraction = match[1] or "0"
    try:
        seconds = _seconds(text[:19])
    except ValueError:
        raise Malformed(f"not an ISO-8601 UTC time: {text[:40]!r}") from None
    if not _YEAR_2000_S <= seconds < _YEAR_2200_S:
        raise _out_of_range(text)
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


@lru_cache(maxsize=1024)
def _seconds(text: str) -> int:
    """Of the epoch. Kept, for many messages come in one second. Raises ValueError."""
    if _TO_SECONDS.fullmatch(text) is None:
        raise ValueError
    since = datetime.fromisoformat(text) - _EPOCH_UTC
    return since.days * 86_400 + since.seconds


def epoch_ns(number: int) -> int:
    """Nanoseconds of an epoch time in seconds or milliseconds, told apart by magnitude."""
    if _YEAR_2000_MS <= number < _YEAR_2200_MS:
        return number * 1_000_000
    if _YEAR_2000_S <= number < _YEAR_2200_S:
        return number * 1_000_000_000
    if number.bit_length() > 63:  # of such a number not even the digits are asked
        raise Malformed(f"time out of range (2000 to 2199): a number of {number.bit_length()} bits")
    raise _out_of_range(number)


def epochs_ns(numbers: list[int]) -> list[int]:
    """`epoch_ns` of each, in one pass where all are milliseconds."""
    if numbers and min(numbers) >= _YEAR_2000_MS and max(numbers) < _YEAR_2200_MS:
        return [number * 1_000_000 for number in numbers]
    return [epoch_ns(number) for number in numbers]


def _out_of_range(said: object) -> Malformed:
    return Malformed(f"time out of range (2000 to 2199): {str(said)[:40]}")


def time_text(ns: int) -> str:
    """A time as people and JSON read it: ISO-8601, UTC, as many fraction digits (0, 3, 6 or 9) as it needs."""
    seconds, rest = divmod(ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    digits = f"{rest:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{stamp}.{digits}Z" if digits else f"{stamp}Z"


def moment_ns(moment: str | datetime) -> int:
    """Nanoseconds of a time: text as `parse_time` reads it, or a datetime (UTC where it names no zone). Raises
    Malformed."""
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
    return parse_time(moment)


def parse_time(text: str) -> int:
    """Nanoseconds of a time as a person writes it: ISO-8601 down to a day, a minute or a nanosecond; UTC unless it
    names an offset. Raises Malformed."""
    match = _FRACTION.search(text)
    fraction = match[1] if match else ""
    whole = text[: match.start()] + text[match.end() :] if match else text
    try:
        if "." in whole or "," in whole:  # a fraction of something else, or of more digits, would be lost
            raise ValueError
        stamp = datetime.fromisoformat(whole)
        since = (stamp.astimezone(UTC) if stamp.tzinfo else stamp.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError):  # an offset may lead out of the years there are
        raise Malformed(f"not a time: {text[:40]!r} (write it like 2026-11-21T12:00:00Z)") from None
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or "0")
