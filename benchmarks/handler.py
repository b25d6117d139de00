"""An alternative to our BitoPro decoder: ccxt's, from the text of a frame to the balance a caller of it is given.

Drives the WebSocket client of ccxt.pro without a socket. What it gives are floats; it reads no staked amount, and keeps
the venue's dictionaries beside what it made of them, under `info`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ccxt.async_support.base.ws.client import Client  # type: ignore[import-untyped]
from ccxt.pro import bitopro  # type: ignore[import-untyped]

SKIPS: Final = "stake"
"""The field of an entry that it does not read."""


def decoder() -> Callable[[bytes], dict[str, Any]]:
    """bytes to ccxt's balance, as its client does it when a frame is there."""

    async def connected() -> tuple[Any, Any]:
        exchange: Any = bitopro()
        return exchange, Client(
            "wss://nowhere.invalid", exchange.handle_message, _nothing, _nothing, _nothing
        )

    with (
        asyncio.Runner() as runner
    ):  # the two want a loop when they are made; later nothing waits for anything
        exchange, client = runner.run(connected())

    def decode(payload: bytes) -> dict[str, Any]:
        client.handle_text_or_binary_message(payload)
        balance: dict[str, Any] = exchange.balance
        return balance

    return decode


def figures(balance: dict[str, Any]) -> object:
    """What ccxt made of a frame: without `info`, which is what it made it of."""
    return {name: value for name, value in balance.items() if name != "info"}


def _nothing(*_: object) -> None:
    """Nothing opens, fails or closes here."""
