"""The frames no event could be made of, with the reason. Knows quarantine events only."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import FrameQuarantined
from projections.subscription import Subscription
from projections.tables import Database, Table


class QuarantineRow(Struct):
    """One quarantined frame; its bytes are the ledger's evidence at (session, ordinal)."""

    account: str
    version: int
    reason: str
    session: str
    ordinal: int
    evidence_sha256: str
    received_ns: int


class Quarantine:
    """The quarantined frames of all accounts. Catches up when read."""

    name = "quarantine"
    version = 1

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "quarantine", QuarantineRow, key=2)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[QuarantineRow]:
        """The frames, by account and version."""
        self.subscription.catch_up()
        return list(self._rows.rows(account))

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if isinstance(event, FrameQuarantined):
            source = event.source
            self._rows.put(
                QuarantineRow(
                    recorded.account,
                    recorded.version,
                    event.reason,
                    source.session,
                    source.ordinal,
                    source.evidence.hex(),
                    source.received_ns,
                )
            )
