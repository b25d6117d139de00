"""Every execution, once, as it was told first; what is told of it later and otherwise adds what was not stated.

Knows fill events only. Where two of them contradict each other is a break (`projections.breaks`).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import Amount, FillRecorded, is_again
from ledger.retold import completed
from projections.subscription import Subscription
from projections.tables import Database, Table


class FillRow(Struct):
    """One execution, amounts as the venue's text."""

    account: str
    fill_id: str
    order_id: str
    symbol: str
    side: str
    role: str | None
    price: Amount
    quantity: Amount
    quote_quantity: Amount | None
    fee: Amount | None
    fee_asset: str | None
    counter_order_id: str | None
    version: int
    time_ns: int


class Fills:
    """The fills of all accounts. Catches up when read."""

    name = "fills"
    version = 3

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "fill_rows", FillRow, key=2)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[FillRow]:
        """The fills, by account, time and id."""
        self.subscription.catch_up()
        return sorted(self._rows.rows(account), key=lambda row: (row.account, row.time_ns, row.fill_id))

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if type(event) is not FillRecorded:
            return
        source = event.source
        venue_ns = source.time_ns if event.time_ns is None else event.time_ns
        row = FillRow(
            recorded.account,
            event.fill_id,
            event.order_id,
            event.symbol,
            event.side,
            event.role,
            event.price,
            event.quantity,
            event.quote_quantity,
            event.fee,
            event.fee_asset,
            event.counter_order_id,
            recorded.version,
            source.received_ns if venue_ns is None else venue_ns,
        )
        first = self._rows.get(row.account, row.fill_id) if is_again(event) else None
        self._rows.put(row if first is None else completed(first, row))
