"""Every balance as it was stated, one row for a statement and an asset. Knows balance statements only.

Kept for who asks the database (`projections.views`): what follows from the statements is told by others.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import Amount, BalanceDelta, BalanceSnapshot, time_of
from projections.subscription import Subscription
from projections.tables import Database, Table

SNAPSHOT: Final = "snapshot"
DELTA: Final = "delta"
REMOVED: Final = "removed"


class StatedRow(Struct):
    """One asset in one statement, amounts as the venue's text. `kind`: the whole account was stated (`snapshot`), what
    moved (`delta`), or that the asset is no more (`removed`)."""

    account: str
    asset_id: str
    version: int
    kind: str
    asset: str
    total: Amount | None
    available: Amount | None
    locked: Amount | None
    staked: Amount | None
    pending: Amount | None
    time_ns: int


class Stated:
    """The statements of all accounts. Catches up when read."""

    name = "stated"
    version = 1

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "stated_balances", StatedRow, key=3)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[StatedRow]:
        """The statements, by account, asset id and version."""
        self.subscription.catch_up()
        return list(self._rows.rows(account))

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if not isinstance(event, BalanceSnapshot | BalanceDelta):
            return
        account, version, time_ns = recorded.account, recorded.version, time_of(event)
        if isinstance(event, BalanceDelta):
            for asset_id in event.removed:
                nothing = (None, None, None, None, None)
                self._rows.put(StatedRow(account, asset_id, version, REMOVED, asset_id, *nothing, time_ns))
        kind = SNAPSHOT if isinstance(event, BalanceSnapshot) else DELTA
        for said in event.balances:
            parts = (said.total, said.available, said.locked, said.staked, said.pending)
            self._rows.put(StatedRow(account, said.asset_id, version, kind, said.asset, *parts, time_ns))
