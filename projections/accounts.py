"""Which accounts there are, and when we last heard of them. Knows events' envelopes, nothing of what they say."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import SessionClosed, SessionOpened
from projections.subscription import Subscription
from projections.tables import Database, Table


class AccountRow(Struct):
    """One account. `stated` False: only sessions are recorded, the venue said nothing of it (a login whose frames name
    other accounts, such as a Cascade owner with subaccounts)."""

    account: str
    venue: str
    version: int
    first_ns: int
    last_ns: int
    stated: bool


class Accounts:
    """The accounts the venues said something of. Catches up when read."""

    name = "accounts"
    version = 1

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "accounts", AccountRow, key=1)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self) -> list[AccountRow]:
        """The accounts, by name."""
        self.subscription.catch_up()
        return [row for row in self._rows.rows() if row.stated]

    def __contains__(self, account: str) -> bool:
        self.subscription.catch_up()
        return self._rows.get(account) is not None

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        stated = type(event) is not SessionOpened and type(event) is not SessionClosed
        received_ns = event.source.received_ns
        row = self._rows.get(recorded.account)
        if row is None:
            row = AccountRow(recorded.account, event.source.venue, 0, received_ns, received_ns, stated)
        row.version = recorded.version
        row.first_ns = min(row.first_ns, received_ns)
        row.last_ns = max(row.last_ns, received_ns)
        row.stated = row.stated or stated
        self._rows.put(row)
