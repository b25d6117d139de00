"""An alternative to our decoders: the standard library's json, every amount a Decimal.

Knows the venues' wire forms; guards nothing, names nothing: what comes out are the venue's dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from benchmarks.samples import Sample


def decoder(sample: Sample) -> Callable[[bytes], dict[str, Any]]:
    """bytes to dictionaries whose amounts are Decimals, by the standard library alone."""
    amount_fields = _AMOUNT_FIELDS[sample.form]

    def numbers(members: dict[str, Any]) -> dict[str, Any]:
        for name in amount_fields:
            if name in members:
                members[name] = Decimal(members[name])
        return members

    def decode(payload: bytes) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(payload, parse_float=Decimal)
        for entry in _entries(message):
            numbers(entry)
        return message

    return decode


def _entries(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that hold the amounts."""
    if order := message.get("order"):
        return [order, *order["order_execution_records"]]
    data = message["balance"] if "balance" in message else message["data"]
    if isinstance(data, list):
        return data
    return [data] if "balance" in data else list(data.values())


# fmt: off
_AMOUNT_FIELDS: Final = {
    "deltadefi": (),  # JSON numbers: the parser makes Decimals of them
    "order": (
        "base_qty", "quote_qty", "price", "executed_base_qty", "executed_quote_qty", "executed_price", "commission",
        "execution_price", "filled_base_qty", "filled_quote_qty",
    ),
    "bitopro": ("amount", "available", "stake"),
    "kraken_prime": ("Amount", "AvailableAmount"),
    "cascade": ("balance",),
    "pacifica": ("amount", "balance", "pending_balance"),
}
# fmt: on
