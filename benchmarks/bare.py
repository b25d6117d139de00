"""An alternative to our decoders: bare msgspec, into structs of the same fields.

Knows the venues' wire forms; guards nothing: no size, no digits, no doubled key, no hash of the bytes, no natural key.
Amounts stay text (`Raw` where the venue sends JSON numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Raw, Struct, field
from msgspec.json import Decoder

from benchmarks.samples import Sample


class _DeltaRow(Struct, gc=False):
    asset: str
    asset_unit: str
    free: Raw
    locked: Raw


class _DeltaBalance(Struct, gc=False):
    type: str
    sub_type: str
    balance: list[_DeltaRow]


class _Execution(Struct, gc=False):
    id: str
    order_id: str
    execution_price: str
    filled_base_qty: str
    filled_quote_qty: str
    commission: str
    commission_unit: str
    role: str
    counter_party_order_id: str
    created_at: str


class _Order(Struct, gc=False):
    id: str
    status: str
    symbol: str
    side: str
    type: str
    base_qty: str
    executed_base_qty: str
    quote_qty: str
    executed_quote_qty: str
    price: str
    executed_price: str
    commission: str
    commission_unit: str
    created_at: str
    updated_at: str
    order_execution_records: list[_Execution]


class _DeltaOrder(Struct, gc=False):
    type: str
    sub_type: str
    order: _Order


class _BitoproEntry(Struct, gc=False):
    currency: str
    amount: str
    available: str
    stake: str
    tradable: bool


class _Bitopro(Struct, gc=False):
    event: str
    timestamp: int
    data: dict[str, _BitoproEntry]
    event_id: str = field(name="eventID")


class _KrakenRow(Struct, gc=False, rename="pascal"):
    currency: str
    amount: str
    available_amount: str


class _Kraken(Struct, gc=False):
    reqid: int
    type: str
    ts: str
    data: list[_KrakenRow]
    initial: bool
    action: str
    seq_num: int = field(name="seqNum")


class _CascadeData(Struct, gc=False, rename="camel"):
    account: str
    subaccount_index: int
    balance: str
    updated_at: int


class _Cascade(Struct, gc=False):
    type: str
    data: _CascadeData


class _PacificaRow(Struct, gc=False):
    amount: str
    balance: str
    pending_balance: str
    event_type: str
    created_at: int


class _Pacifica(Struct, gc=False):
    success: bool
    data: list[_PacificaRow]


def decoder(sample: Sample) -> Callable[[bytes], Struct]:
    """bytes to wire struct, by msgspec alone."""
    return _BARE[sample.form]


_BARE: Final[dict[str, Callable[[bytes], Struct]]] = {
    "deltadefi": Decoder(_DeltaBalance).decode,
    "order": Decoder(_DeltaOrder).decode,
    "bitopro": Decoder(_Bitopro).decode,
    "kraken_prime": Decoder(_Kraken).decode,
    "cascade": Decoder(_Cascade).decode,
    "pacifica": Decoder(_Pacifica).decode,
}
