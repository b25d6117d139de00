"""Alternatives to our decoders: a JSON library's dictionaries, every amount in them a Decimal.

Knows the venues' wire forms; guards nothing, names nothing: what comes out are the venue's dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final

from benchmarks.samples import Sample

AMOUNT_FIELDS: Final = {
    "deltadefi": ("free", "locked"),
    "order": (
        *("base_qty", "quote_qty", "price", "executed_base_qty", "executed_quote_qty", "executed_price"),
        *("commission", "execution_price", "filled_base_qty", "filled_quote_qty"),
    ),
    "bitopro": ("amount", "available", "stake"),
    "kraken_prime": ("Amount", "AvailableAmount"),
    "cascade": ("balance",),
    "pacifica": ("amount", "balance", "pending_balance"),
}
"""Where the amounts are, by the form of a sample."""


def standard(sample: Sample) -> Callable[[bytes], dict[str, Any]]:
    """By the standard library, which makes Decimals of JSON numbers itself."""
    loads = partial(json.loads, parse_float=Decimal)
    return decoder(loads, () if sends_numbers(sample) else AMOUNT_FIELDS[sample.form])


def sends_numbers(sample: Sample) -> bool:
    """Whether the venue sends its amounts as JSON numbers: most libraries make floats of them."""
    return sample.form == "deltadefi"


def decoder(
    loads: Callable[[bytes], dict[str, Any]], fields: tuple[str, ...], text: type[str] | None = None
) -> Callable[[bytes], dict[str, Any]]:
    """bytes to dictionaries, by that library; `text` is what a number must become before it is a Decimal."""

    def decode(payload: bytes) -> dict[str, Any]:
        message = loads(payload)
        for entry in entries(message) if fields else ():
            for name in fields:
                if name in entry:
                    entry[name] = Decimal(entry[name] if text is None else text(entry[name]))
        return message

    return decode


def entries(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that hold the amounts."""
    if order := message.get("order"):
        return [order, *order["order_execution_records"]]
    data = message["balance"] if "balance" in message else message["data"]
    if isinstance(data, list):
        return data
    return [data] if "balance" in data else list(data.values())
