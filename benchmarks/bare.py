"""Alternatives to our decoders: bare msgspec, into structs of the same fields, and only to the end of the frame.

Knows the venues' wire forms; guards nothing: no size, no digits, no doubled key, no hash of the bytes, no natural key.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

from msgspec import Raw, Struct, field
from msgspec.json import Decoder

from benchmarks.samples import Sample

A = TypeVar("A")
"""What becomes of an amount: a Decimal, or its text (`Raw` where the venue sends JSON numbers)."""


class _DeltaRow(Struct, Generic[A], gc=False):
    asset: str
    asset_unit: str
    free: A
    locked: A


class _DeltaBalance(Struct, Generic[A], gc=False):
    type: str
    sub_type: str
    balance: list[_DeltaRow[A]]


class _Execution(Struct, Generic[A], gc=False):
    id: str
    order_id: str
    execution_price: A
    filled_base_qty: A
    filled_quote_qty: A
    commission: A
    commission_unit: str
    role: str
    counter_party_order_id: str
    created_at: str


class _Order(Struct, Generic[A], gc=False):
    id: str
    status: str
    symbol: str
    side: str
    type: str
    base_qty: A
    executed_base_qty: A
    quote_qty: A
    executed_quote_qty: A
    price: A
    executed_price: A
    commission: A
    commission_unit: str
    created_at: str
    updated_at: str
    order_execution_records: list[_Execution[A]]


class _DeltaOrder(Struct, Generic[A], gc=False):
    type: str
    sub_type: str
    order: _Order[A]


class _BitoproEntry(Struct, Generic[A], gc=False):
    currency: str
    amount: A
    available: A
    stake: A
    tradable: bool


class _Bitopro(Struct, Generic[A], gc=False):
    event: str
    timestamp: int
    data: dict[str, _BitoproEntry[A]]
    event_id: str = field(name="eventID")


class _KrakenRow(Struct, Generic[A], gc=False, rename="pascal"):
    currency: str
    amount: A
    available_amount: A


class _Kraken(Struct, Generic[A], gc=False):
    reqid: int
    type: str
    ts: str
    data: list[_KrakenRow[A]]
    initial: bool
    action: str
    seq_num: int = field(name="seqNum")


class _CascadeData(Struct, Generic[A], gc=False, rename="camel"):
    account: str
    subaccount_index: int
    balance: A
    updated_at: int


class _Cascade(Struct, Generic[A], gc=False):
    type: str
    data: _CascadeData[A]


class _PacificaRow(Struct, Generic[A], gc=False):
    amount: A
    balance: A
    pending_balance: A
    event_type: str
    created_at: int


class _Pacifica(Struct, Generic[A], gc=False):
    success: bool
    data: list[_PacificaRow[A]]


_FORMS: Final[dict[str, Any]] = {
    "deltadefi": _DeltaBalance,
    "order": _DeltaOrder,
    "bitopro": _Bitopro,
    "kraken_prime": _Kraken,
    "cascade": _Cascade,
    "pacifica": _Pacifica,
}


def floor() -> Callable[[bytes], Raw]:
    """bytes to the end of the JSON, by msgspec: nothing is read, it is only known to be JSON."""
    return Decoder(Raw).decode


def decimals(sample: Sample) -> Callable[[bytes], Any]:
    """bytes to wire struct, every amount a Decimal, by msgspec alone."""
    return Decoder(_FORMS[sample.form][Decimal]).decode


def texts(sample: Sample) -> Callable[[bytes], Any]:
    """bytes to wire struct, every amount as it was sent, by msgspec alone."""
    return Decoder(_FORMS[sample.form][Raw if sample.form == "deltadefi" else str]).decode
