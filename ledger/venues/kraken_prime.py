"""Knows Kraken Prime's `Balance` stream: a baseline in one page or several, then the rows that changed or
left the view, all amounts absolute ("Balance", "Hello", "Ping", "Page" of the Prime WebSocket reference).

Must not know the frames before: a sequence (`seqNum`, or `seq` as the Talos platform beneath sends it) is
passed on, never checked. A valuation (`Equivalent`) is kept aside: it is never a balance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.json import Decoder

from ledger import wire
from ledger.errors import Malformed
from ledger.events import Balance, BalanceDelta, BalanceSnapshot, FrameQuarantined, Statement, Valuation
from ledger.venue import Frame

NAME: Final = "kraken_prime"
CHANNEL: Final = "Balance"
ERROR_CHARS_MAX: Final = 500

_Currency: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
_Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]


class _Equivalent(Struct, gc=False, rename="pascal"):
    currency: _Currency
    amount: str
    available_amount: str | UnsetType = UNSET


class _Row(Struct, gc=False, rename="pascal"):
    """`{"Currency":"BTC","Amount":"40.15480673","AvailableAmount":"40.15480673","Equivalent":{…}}`

    Amounts are absolute and may be negative (credit). A removed row need not carry any.
    """

    currency: _Currency
    amount: str | UnsetType = UNSET
    available_amount: str | UnsetType = UNSET
    equivalent: _Equivalent | UnsetType = UNSET


class _Balances(Struct, gc=False, tag_field="type", tag="Balance"):
    """`{"reqid":11,"type":"Balance","ts":"2021-09-16T16:17:06.892914Z","initial":true,"seqNum":1,"data":[…]}`

    Unknown fields are ignored on purpose, here and in the rows.
    """

    reqid: _Count
    ts: str
    data: list[_Row]
    seq_num: _Count | UnsetType = field(default=UNSET, name="seqNum")
    seq: _Count | UnsetType = UNSET
    initial: bool | UnsetType | None = UNSET
    action: str | UnsetType | None = UNSET
    next: str | UnsetType | None = UNSET
    """Where the next page begins; empty or absent on the last."""


class _Fault(Struct, gc=False):
    code: str | Annotated[int, Meta(gt=-(2**53), lt=2**53)] = ""
    msg: str = ""


class _Error(Struct, gc=False, tag_field="type", tag="error"):
    """`{"type":"error","reqid":2,"seq":1,"error":{"code":…,"msg":"…"}}`: uses up a number of its sequence."""

    error: _Fault
    reqid: _Count | UnsetType = UNSET
    ts: str | UnsetType = UNSET
    seq_num: _Count | UnsetType = field(default=UNSET, name="seqNum")
    seq: _Count | UnsetType = UNSET


class _Hello(Struct, gc=False, tag_field="type", tag="hello"):
    """The server speaks first."""

    session_id: Annotated[str, Meta(min_length=1, max_length=128)]


class _Pong(Struct, gc=False, tag_field="type", tag="Pong"):
    pass


class _PongLower(Struct, gc=False, tag_field="type", tag="pong"):
    """As clients of the platform beneath have it."""


class _Head(Struct, gc=False):
    type: str


_Said: TypeAlias = _Balances | _Error | _Hello | _Pong | _PongLower
_SAID: Final[Decoder[_Said]] = Decoder(_Said)
_HEAD: Final = Decoder(_Head)
_KNOWN: Final = frozenset(("Balance", "error", "hello", "Pong", "pong"))


def decode(frame: Frame) -> Sequence[Statement]:
    """A page of the baseline, an update or a removal; an error as quarantine; nothing from hello and pong."""
    try:
        said = wire.decode(_SAID, frame.payload)
    except Malformed:
        kind = wire.decode(_HEAD, frame.payload).type
        if kind not in _KNOWN:
            raise Malformed(f"unknown type {kind[:64]!r}") from None
        raise
    if isinstance(said, _Balances):
        return _balances(frame, said)
    if isinstance(said, _Error):
        return _error(frame, said)
    return ()


def conversation(payload: bytes) -> str | None:
    """The `session_id` of a hello: request ids and sequences count within it."""
    if b'"hello"' not in payload:
        return None
    try:
        said = wire.decode(_SAID, payload)
    except Malformed:
        return None
    return said.session_id if isinstance(said, _Hello) else None


def _subscription(frame: Frame, reqid: int) -> str:
    return f"{frame.conversation or frame.session}/{reqid}"


def _balances(frame: Frame, said: _Balances) -> Sequence[Statement]:
    _check_rows(frame.payload, said)
    subscription = _subscription(frame, said.reqid)
    source = frame.source(
        NAME, CHANNEL, time_ns=wire.iso_ns(said.ts), sequence=_sequence(said), subscription=subscription
    )
    # Another connection counts reqid and sequence anew, and a frame may lack one: only the whole is a key.
    key = f"statement:{source.evidence.hex()}"
    # A later page need not repeat the initial flag; one that denies it is an update.
    baseline = said.initial if isinstance(said.initial, bool) else bool(said.next)
    if said.action in (UNSET, None, "Update"):
        balances = tuple(map(_balance, said.data))
        if baseline:
            begins = said.initial is True and (source.sequence or 0) <= 1
            page = BalanceSnapshot(source, key, balances, subscription, bool(said.next), begins)
            return [(frame.account, page)]
        return [(frame.account, BalanceDelta(source, key, balances))]
    if said.action != "Remove":
        raise Malformed(f"unknown action {str(said.action)[:64]!r}")
    if baseline:
        raise Malformed("rows removed in a baseline")
    return [(frame.account, BalanceDelta(source, key, (), tuple(row.currency for row in said.data)))]


def _balance(row: _Row) -> Balance:
    if row.amount is UNSET or row.available_amount is UNSET:
        raise Malformed(f"{row.currency!r} without Amount or AvailableAmount")
    currency, worth = row.currency, row.equivalent
    if worth is UNSET:
        return Balance(currency, currency, row.amount, row.available_amount)
    available = None if worth.available_amount is UNSET else worth.available_amount
    return Balance(
        currency,
        currency,
        row.amount,
        row.available_amount,
        valuation=Valuation(worth.currency, worth.amount, available),
    )


def _check_rows(payload: bytes, said: _Balances) -> None:
    """Every amount is one, whatever the action; no currency and no key stands twice.

    A second `data` or `Equivalent` shows by the keys within; a second `type` must agree, or the parser refuses it.
    """
    amounts: list[str] = []
    availables: list[str] = []
    worths = 0
    for row in said.data:
        if row.amount is not UNSET:
            amounts.append(row.amount)
        if row.available_amount is not UNSET:
            availables.append(row.available_amount)
        worth = row.equivalent
        if worth is not UNSET:
            worths += 1
            amounts.append(worth.amount)
            if worth.available_amount is not UNSET:
                availables.append(worth.available_amount)
    wire.amounts(amounts + availables)
    wire.unique_keys(
        payload,
        {
            b'"Currency"': len(said.data) + worths,
            b'"Amount"': len(amounts),
            b'"AvailableAmount"': len(availables),
            b'"reqid"': 1,
            b'"ts"': 1,
            b'"seqNum"': said.seq_num is not UNSET,
            b'"seq"': said.seq is not UNSET,
            b'"initial"': said.initial is not UNSET,
            b'"action"': said.action is not UNSET,
            b'"next"': said.next is not UNSET,
        },
    )
    if len({row.currency for row in said.data}) != len(said.data):
        raise Malformed("one currency twice")


def _sequence(said: _Balances | _Error) -> int | None:
    if said.seq_num is not UNSET:
        return said.seq_num
    return None if said.seq is UNSET else said.seq


def _error(frame: Frame, said: _Error) -> Sequence[Statement]:
    source = frame.source(
        NAME,
        CHANNEL,
        time_ns=None if said.ts is UNSET else wire.iso_ns(said.ts),
        sequence=_sequence(said),
        subscription=None if said.reqid is UNSET else _subscription(frame, said.reqid),
    )
    reason = f"venue error {said.error.code}: {said.error.msg}"[:ERROR_CHARS_MAX]
    return [(frame.account, FrameQuarantined(source, "", reason))]
