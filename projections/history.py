"""The venues' own balance histories, row by row, and where their running balance does not close.

Knows imported history rows only. Nothing is repaired: a break is shown, and is gone when the missing rows arrive.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.chain import in_chain_order, links
from ledger.events import Amount, BalanceEventImported, time_of
from projections.subscription import Subscription
from projections.tables import Database, Table


class HistoryRow(Struct):
    """One row of a venue's history, amounts as the venue's text."""

    account: str
    asset_id: str
    time_ns: int
    version: int
    asset: str
    cause: str
    amount: Amount
    balance: Amount
    pending: Amount | None
    memo: bool
    reference: str | None


class Break(Struct, frozen=True):
    """Two neighbouring rows whose running balance does not close: rows between them are missing."""

    before: HistoryRow
    after: HistoryRow


class History:
    """The history rows of all accounts. Catches up when read."""

    name = "history"
    version = 1

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "history", HistoryRow, key=4)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> Iterator[HistoryRow]:
        """The rows by account, asset and time; rows of one instant in the order in which their balances follow."""
        self.subscription.catch_up()
        last: HistoryRow | None = None
        group: list[HistoryRow] = []
        for row in self._rows.rows(account):
            if group and _instant(row) != _instant(group[0]):
                last = yield from _ordered(group, last)
                group = []
            group.append(row)
        if group:
            yield from _ordered(group, last)

    def breaks(self, account: str | None = None) -> Iterator[Break]:
        """Where a row does not begin with the balance the row before it ended with, oldest first."""
        last: HistoryRow | None = None
        for row in self.rows(account):
            if last is not None and _chain(row) == _chain(last) and not links(last, row):
                yield Break(last, row)
            last = row

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if isinstance(event, BalanceEventImported):
            self._rows.put(
                HistoryRow(
                    recorded.account,
                    event.asset_id,
                    time_of(event),
                    recorded.version,
                    event.asset,
                    event.cause,
                    event.amount,
                    event.balance,
                    event.pending,
                    event.memo,
                    event.reference,
                )
            )


def _chain(row: HistoryRow) -> tuple[str, str]:
    return (row.account, row.asset_id)


def _instant(row: HistoryRow) -> tuple[str, str, int]:
    return (row.account, row.asset_id, row.time_ns)


def _ordered(group: list[HistoryRow], last: HistoryRow | None) -> Generator[HistoryRow, None, HistoryRow]:
    start = last if last is not None and _chain(last) == _chain(group[0]) else None
    ordered = in_chain_order(group, start)
    if start is not None and not links(start, ordered[0]):
        # rows before these are missing: among themselves they may follow still
        ordered = in_chain_order(group, None)
    yield from ordered
    return ordered[-1]
