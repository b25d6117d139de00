"""The frames no event could be made of, with the reason, as long as none could.

Knows quarantine events, and that a late event is of a frame that was quarantined before.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import FrameQuarantined, Source
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
    version = 3

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "quarantine_rows", QuarantineRow, key=2)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[QuarantineRow]:
        """The frames, by account and version."""
        self.subscription.catch_up()
        return list(self._rows.rows(account))

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        source = event.source
        if source.late_ns is not None:
            self._release(recorded.account, source)
        elif type(event) is FrameQuarantined:
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

    def _release(self, account: str, source: Source) -> None:
        """The frame could be read after all. Its login is the account, or what the account is a part of, or any."""
        for login in (account, account.rpartition("/")[0], None):
            rows = list(self._rows.rows()) if login is None else list(self._rows.of(login).values())
            for row in rows:
                if row is not None and (row.session, row.ordinal) == (source.session, source.ordinal):
                    self._rows.drop(row)
                    return
