"""The frames no event could be made of, with the reason, as long as none could.

Knows quarantine events, and that a late event is of a frame that was quarantined before.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import FrameQuarantined
from projections.subscription import Place, Subscription
from projections.tables import ROWS_CACHED_MAX, Database, Table


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
        self._frames: dict[Place, list[QuarantineRow]] | None = None
        """The rows by their frame; None until a frame is read late."""
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
            self._release((source.session, source.ordinal))
        elif type(event) is FrameQuarantined:
            row = QuarantineRow(
                recorded.account,
                recorded.version,
                event.reason,
                source.session,
                source.ordinal,
                source.evidence.hex(),
                source.received_ns,
            )
            self._rows.put(row)
            if self._frames is not None:
                self._frames.setdefault(_frame(row), []).append(row)

    def settle(self) -> None:
        """Do not remember more rows than a table does."""
        if self._frames is not None and len(self._frames) > ROWS_CACHED_MAX:
            self._frames = None

    def forget(self) -> None:
        """Forget what is remembered: what is stored is read again."""
        self._frames = None

    def _release(self, place: Place) -> None:
        """The frame could be read after all, whatever its login was. Of its events the first says so."""
        if self._frames is None:
            self._frames = {}
            for row in self._rows.rows():
                self._frames.setdefault(_frame(row), []).append(row)
        for row in self._frames.pop(place, ()):
            self._rows.drop(row)


def _frame(row: QuarantineRow) -> Place:
    return row.session, row.ordinal
