"""What untrusted JSON may look like: guards on size, text, digits, keys and times, each with its bound.

Knows no venue. Everything here raises `Malformed` with a reason a person can act on, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
from sys import getrecursionlimit
from typing import Final, TypeVar

import msgspec

from ledger.errors import Malformed
from ledger.events import Amount

FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
AMOUNT_CHARS_MAX: Final = 80
DEPTH_MAX: Final = 1_000
_NESTING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
DEPTH_GUARDED_MAX: Final = 5_000
"""The highest recursion limit with which the parser guards the stack by itself."""
WORDS_CHARS_MAX: Final = 200
AMOUNT_EXPONENT_MAX: Final = 99
"""By the two digits an exponent may have."""

_AMOUNT = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
_ONE = re.compile(_AMOUNT)
_MANY = re.compile(rf"(?:{_AMOUNT}\n)*")
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)", re.ASCII)

_FRACTION = re.compile(r"(?<=[T ]\d\d:\d\d:\d\d)\.(\d{1,9})(?=Z|[+-]|\Z)", re.ASCII)

_YEAR_2000_S: Final = 946_684_800
_YEAR_2200_S: Final = 7_258_118_400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

EXACT: Final = Context(
    prec=400,
    Emin=-999_999,
    Emax=999_999,
    traps=[Inexact, Rounded, InvalidOperation, DivisionByZero, Overflow, Underflow, Subnormal, Clamped],
)
"""Arithmetic that raises where it would have to round. 400 digits hold any sum of amounts the guard lets through."""

T = TypeVar("T")


def legible(text: str, chars_max: int = WORDS_CHARS_MAX) -> str:
    """Words of somebody else's, as they may be shown: printable, and not too many."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text[:chars_max])


def decode(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    """The frame as its wire struct. Raises Malformed for whatever is wrong with it: empty, oversize, not UTF-8, not
    JSON, nested too deep, not of that shape. Only msgspec's own error is a MsgspecError: invalid UTF-8 and deep
    nesting are not, so both are caught by name."""
    if not payload:
        raise Malformed("empty frame")
    if len(payload) > FRAME_BYTES_MAX:
        raise Malformed(f"frame of {len(payload)} bytes: more than {FRAME_BYTES_MAX} are not read")
    if getrecursionlimit() > DEPTH_GUARDED_MAX and _nested_too_deep(payload):
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
    """What Python's recursion limit tells, where somebody has lifted it (a library below eth-account does): msgspec
    trusts it, and the stack of a thread ends long before 100,000 levels."""
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
    if isinstance(text, msgspec.Raw):
        text = str(bytes(text), "utf-8", "replace")
        if text[:1] == '"':
            text = text[1:-1]
    if len(text) > AMOUNT_CHARS_MAX or _ONE.fullmatch(text) is None:
        raise _not_an_amount(text)
    return text


def amounts(texts: Iterable[str]) -> None:
    """Check many amounts in one pass. Raises Malformed naming the first that is none."""
    texts = list(texts)
    joined = "\n".join(texts)
    if texts and (
        max(map(len, texts)) > AMOUNT_CHARS_MAX
        or joined.count("\n") >= len(texts)
        or _MANY.fullmatch(joined + "\n") is None
    ):
        for text in texts:
            amount(text)


def decimal(text: Amount) -> Decimal:
    """The amount as a number, every digit kept."""
    return Decimal(text)


def _not_an_amount(text: str) -> Malformed:
    shown = text if len(text) <= AMOUNT_CHARS_MAX else f"{text[:AMOUNT_CHARS_MAX]}… ({len(text)} characters)"
    return Malformed(f"not an amount: {shown!r}")


def unique_keys(payload: bytes, counts: dict[bytes, int]) -> None:
    """Raise Malformed if a JSON object in the payload has one key twice (parsers silently keep the last).

    `counts` says how often each quoted key must stand in the payload if none is doubled: counting bytes is cheap. Only
    when a count is off, or an escape could hide a key, is the payload read again by a parser that sees every pair.
    """
    if b"\\" not in payload and all(payload.count(key) == count for key, count in counts.items()):
        return
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
    match = _ISO.fullmatch(text)
    if match is None:
        raise Malformed(f"not an ISO-8601 UTC time: {text[:40]!r}")
    try:
        seconds = int((datetime.fromisoformat(match[1] + "+00:00") - _EPOCH).total_seconds())
    except ValueError:
        raise Malformed(f"not an ISO-8601 UTC time: {text[:40]!r}") from None
    return _checked_s(seconds, text) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))


def epoch_ns(number: int) -> int:
    """Nanoseconds of an epoch time in seconds or milliseconds, told apart by magnitude: from 1e11 on it is ms."""
    if number.bit_length() > 63:  # of such a number not even the digits are asked
        raise Malformed(f"time out of range (2000 to 2199): a number of {number.bit_length()} bits")
    if number >= 100_000_000_000:
        seconds, ms = divmod(number, 1000)
        return _checked_s(seconds, number) * 1_000_000_000 + ms * 1_000_000
    return _checked_s(number, number) * 1_000_000_000


def _checked_s(seconds: int, said: object) -> int:
    if not _YEAR_2000_S <= seconds < _YEAR_2200_S:
        raise Malformed(f"time out of range (2000 to 2199): {str(said)[:40]}")
    return seconds


def time_text(ns: int) -> str:
    """A time as people and JSON read it: ISO-8601, UTC, as many fraction digits (0, 3, 6 or 9) as it needs."""
    seconds, rest = divmod(ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{rest:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{stamp}.{digits}Z" if digits else f"{stamp}Z"


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
    except ValueError:
        raise Malformed(f"not a time: {text[:40]!r} (write it like 2026-11-21T12:00:00Z)") from None
    since = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or "0")
