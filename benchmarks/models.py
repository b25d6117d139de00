"""An alternative to our decoders: pydantic, into models of the same fields, every amount a Decimal.

Knows the venues' wire forms. Its JSON parser reads a number into a float before it is a Decimal: digits may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel, to_pascal

from benchmarks.samples import Sample


class _DeltaRow(BaseModel):
    asset: str
    asset_unit: str
    free: Decimal
    locked: Decimal


class _DeltaBalance(BaseModel):
    type: str
    sub_type: str
    balance: list[_DeltaRow]


class _Execution(BaseModel):
    id: str
    order_id: str
    execution_price: Decimal
    filled_base_qty: Decimal
    filled_quote_qty: Decimal
    commission: Decimal
    commission_unit: str
    role: str
    counter_party_order_id: str
    created_at: str


class _Order(BaseModel):
    id: str
    status: str
    symbol: str
    side: str
    type: str
    base_qty: Decimal
    executed_base_qty: Decimal
    quote_qty: Decimal
    executed_quote_qty: Decimal
    price: Decimal
    executed_price: Decimal
    commission: Decimal
    commission_unit: str
    created_at: str
    updated_at: str
    order_execution_records: list[_Execution]


class _DeltaOrder(BaseModel):
    type: str
    sub_type: str
    order: _Order


class _BitoproEntry(BaseModel):
    currency: str
    amount: Decimal
    available: Decimal
    stake: Decimal
    tradable: bool


class _Bitopro(BaseModel):
    event: str
    timestamp: int
    data: dict[str, _BitoproEntry]
    event_id: str = Field(alias="eventID")


class _KrakenRow(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal)

    currency: str
    amount: Decimal
    available_amount: Decimal


class _Kraken(BaseModel):
    reqid: int
    type: str
    ts: str
    data: list[_KrakenRow]
    initial: bool
    action: str
    seq_num: int = Field(alias="seqNum")


class _CascadeData(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    account: str
    subaccount_index: int
    balance: Decimal
    updated_at: int


class _Cascade(BaseModel):
    type: str
    data: _CascadeData


class _PacificaRow(BaseModel):
    amount: Decimal
    balance: Decimal
    pending_balance: Decimal
    event_type: str
    created_at: int


class _Pacifica(BaseModel):
    success: bool
    data: list[_PacificaRow]


_FORMS: Final[dict[str, type[BaseModel]]] = {
    "deltadefi": _DeltaBalance,
    "order": _DeltaOrder,
    "bitopro": _Bitopro,
    "kraken_prime": _Kraken,
    "cascade": _Cascade,
    "pacifica": _Pacifica,
}


def decimals(sample: Sample) -> Callable[[bytes], BaseModel]:
    """bytes to model, by pydantic alone."""
    return _FORMS[sample.form].model_validate_json


def plain(model: BaseModel) -> object:
    """What is in a model."""
    return model.model_dump()
