"""Orders as the venues last stated them.

Knows order events; an older statement, arriving late, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import Amount, OrderUpdated, time_of
from ledger.wire import decimal
from projections.agreement import came_before
from projections.subscription import Subscription
from projections.tables import Database, Table


class OrderRow(Struct):
    """One order; quantities are cumulative, amounts as the venue's text, words the venue's."""

    account: str
    order_id: str
    symbol: str
    side: str
    type: str
    status: str
    closed: bool
    price: Amount | None
    quantity: Amount | None
    executed: Amount | None
    quote_quantity: Amount | None
    executed_quote: Amount | None
    average_price: Amount | None
    fee: Amount | None
    fee_asset: str | None
    created_ns: int | None
    updated_ns: int
    version: int


class Orders:
    """Current orders, open and closed. Catches up when read."""

    name = "orders"
    version = 3

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger = ledger
        database = ledger if database is None else database
        self._rows: Final = Table(database, "order_rows", OrderRow, key=2)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[OrderRow]:
        """The orders, by account and order id."""
        self.subscription.catch_up()
        return list(self._rows.rows(account))

    def ahead(self, run: Sequence[Recorded]) -> None:
        """These events are folded next: their orders are read at once."""
        self._rows.fetch(
            (each.account, each.event.order_id) for each in run if isinstance(each.event, OrderUpdated)
        )

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if type(event) is not OrderUpdated:
            return
        updated_ns = time_of(event) if event.updated_ns is None else event.updated_ns
        row = OrderRow(
            recorded.account,
            event.order_id,
            event.symbol,
            event.side,
            event.type,
            event.status,
            event.closed,
            event.price,
            event.quantity,
            event.executed,
            event.quote_quantity,
            event.executed_quote,
            event.average_price,
            event.fee,
            event.fee_asset,
            event.created_ns,
            updated_ns,
            recorded.version,
        )
        known = self._rows.get(row.account, row.order_id)
        if known is None or (_progress(row), not self._came_before(recorded, known.version)) >= (
            _progress(known),
            True,
        ):
            self._rows.put(row)

    def _came_before(self, recorded: Recorded, version: int) -> bool:
        """Whether an event is of a frame that was read late, and had come before that of another version."""
        if recorded.event.source.late_ns is None:
            return False
        known = next(self._ledger.replay(recorded.account, after=version - 1, upto=version), None)
        return known is not None and came_before(recorded, known.event.source)  # gone: `verify` says so


def _progress(row: OrderRow) -> tuple[int, object, bool]:
    """How far the order had come. Venues' times tie within a second: then more executed, then closed, is the later;
    then what came later."""
    return (row.updated_ns, decimal(row.executed or "0"), row.closed)
