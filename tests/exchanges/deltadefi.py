"""DeltaDeFi for tests: one stream that subscribes itself, keyed by its address; balances over REST with a header.

A push is not promised on connecting (`greets`), a balance list need not be whole (`whole`).
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final

from tests.exchanges.exchange import Exchange
from tests.exchanges.served import Answer, Asked, Served

STREAM: Final = "/accounts/stream"
BALANCE: Final = "/accounts/balance"


@dataclass(frozen=True)
class Holding:
    """What is held of an asset: `total` = `available` (free) + `locked`, all exact decimal strings."""

    total: str
    available: str
    unit: str = ""

    @property
    def locked(self) -> str:
        return format(Decimal(self.total) - Decimal(self.available), "f")


class DeltaDefi(Exchange):
    """`truth` by asset; `fills`: every execution record pushed, in order."""

    LOGIN: ClassVar[str] = STREAM

    def __init__(
        self,
        api_key: str = "test-deltadefi-key",
        *,
        greets: bool = False,
        whole: bool = False,
        numbers: bool = False,
        tls: ssl.SSLContext | None = None,
        ping_every_s: float | None = None,
        deflate: bool = False,
    ) -> None:
        super().__init__(tls=tls, ping_every_s=ping_every_s, deflate=deflate)
        self.api_key = api_key
        self.greets = greets
        self.whole = whole
        """Whether every balance message lists every asset."""
        self.numbers = numbers
        """Whether amounts are JSON numbers, as in the documentation, not strings."""
        self.truth: dict[str, Holding] = {}
        self.fills: list[dict[str, Any]] = []
        self._orders = 0

    def set(
        self, asset: str, total: str, available: str | None = None, *, unit: str = "", push: bool = True
    ) -> None:
        """What is held of an asset from now on; pushed unless told otherwise."""
        with self.lock:
            self.truth[asset] = Holding(total, total if available is None else available, unit)
            if push:
                self.send_all(self._balance_message(list(self.truth) if self.whole else [asset]))

    def push_fills(self, count: int, *, generation: int = 2) -> list[str]:
        """One order filled in so many executions, a message each, cumulative. The ids of the executions."""
        with self.lock:
            self._orders += 1
            order = f"order-{self._orders}"
            records: list[dict[str, Any]] = []
            for number in range(1, count + 1):
                make = _record_2 if generation == 2 else _record_1
                records.append(make(f"fill-{self._orders}-{number}", order))
                done = number == count
                message = _order_info if generation == 2 else _trading_history
                self.send_all(json.dumps(message(order, count, records, done)))
            self.fills.extend(records)
            return [record["id"] for record in records]

    # The venue -------------------------------------------------------------------------------------------------------

    def welcome(self, asked: Asked) -> Answer | None:
        if asked.path != STREAM:
            return Answer(404, b"404 page not found")
        if asked.query.get("api_key") != self.api_key:
            return Answer(403, b'{"error":"unauthorized","code":4010}')
        return None

    def opened(self, served: Served) -> None:
        if self.greets:
            served.send(self._balance_message(list(self.truth)))

    def answer(self, asked: Asked) -> Answer:
        if asked.path != BALANCE or asked.method != "GET":
            return Answer(404, b"404 page not found", {"Content-Type": "text/plain"})
        if asked.headers.get("x-api-key") != self.api_key:
            return Answer(401, b'{"error":"unauthorized","code":4010}')
        return Answer(200, self._rows(list(self.truth)).encode())

    def _balance_message(self, assets: list[str]) -> str:
        return f'{{"type":"Account","sub_type":"balance","balance":{self._rows(assets)}}}'

    def _rows(self, assets: list[str]) -> str:
        return f"[{','.join(self._row(asset, self.truth[asset]) for asset in assets)}]"

    def _row(self, asset: str, held: Holding) -> str:
        mark = "" if self.numbers else '"'
        return (
            f'{{"asset":{json.dumps(asset)},"asset_unit":{json.dumps(held.unit)},'
            f'"free":{mark}{held.available}{mark},"locked":{mark}{held.locked}{mark}}}'
        )


def _record_2(fill: str, order: str) -> dict[str, Any]:
    return {
        "id": fill,
        "order_id": order,
        "account_id": "account-1",
        "execution_price": "0.75",
        "filled_base_qty": "1",
        "filled_quote_qty": "0.75",
        "commission_unit": "lovelace",
        "commission": "0.001",
        "role": "taker",
        "counter_party_order_id": f"against-{fill}",
        "created_at": "2026-03-31T10:00:00Z",
    }


def _record_1(fill: str, order: str) -> dict[str, Any]:
    return {
        "id": fill,
        "order_id": order,
        "execution_price": 0.75,
        "filled_amount": "1",
        "fee_unit": "lovelace",
        "fee_amount": "0.002",
        "role": "taker",
        "counter_party_order_id": f"against-{fill}",
        "create_time": 1755747761,
    }


def _order_info(order: str, size: int, records: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    executed = len(records)
    return {
        "type": "Account",
        "sub_type": "order_info",
        "order": {
            "id": order,
            "account_id": "account-1",
            "status": "closed" if done else "open",
            "symbol": "ADAUSDM",
            "base_qty": str(size),
            "quote_qty": format(Decimal("0.75") * size, "f"),
            "side": "buy",
            "price": "0.75",
            "type": "limit",
            "locked_base_qty": "0",
            "locked_quote_qty": format(Decimal("0.75") * (size - executed), "f"),
            "executed_base_qty": str(executed),
            "executed_quote_qty": format(Decimal("0.75") * executed, "f"),
            "ob_open_order_base_qty": str(size - executed),
            "commission_unit": "lovelace",
            "commission": format(Decimal("0.001") * executed, "f"),
            "commission_rate_bp": 10,
            "executed_price": "0.75",
            "created_at": "2026-03-31T09:59:59Z",
            "updated_at": "2026-03-31T10:00:00Z",
            "order_execution_records": list(records),
        },
    }


def _trading_history(order: str, size: int, records: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    executed = len(records)
    stated = {
        "order_id": order,
        "status": "fully_filled" if done else "partially_filled",
        "symbol": "ADAUSDM",
        "orig_qty": str(size),
        "executed_qty": str(executed),
        "side": "buy",
        "price": 0.75,
        "type": "limit",
        "fee_charged": format(Decimal("0.002") * executed, "f"),
        "fee_unit": "lovelace",
        "executed_price": 0.75,
        "slippage": "0",
        "create_time": 1755747760,
        "update_time": 1755747761,
        "fills": list(records),
    }
    return {
        "type": "Account",
        "sub_type": "trading_history",
        "data": [{"orders": [stated], "order_filling_records": []}],
        "total_count": 1,
        "total_page": 1,
    }
