"""What is known to be missing: holes in a venue's sequence, breaks in a running balance.

Knows sequences and history rows. A gap is shown as long as it is open, and is gone when what was missing arrives.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import time_of
from ledger.wire import EXACT, decimal, time_text
from projections.history import Break, History
from projections.subscription import Subscription, catch_up
from projections.tables import Database, Table


class SequenceRow(Struct):
    """How far one subscription has counted."""

    account: str
    subscription: str
    last: int


class HoleRow(Struct):
    """Sequence numbers `first` to `last` of a subscription that were never received; found at `version`."""

    account: str
    subscription: str
    first: int
    last: int
    session: str
    version: int
    time_ns: int


class Gap(Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Something missing. `start` and `end`: the missing sequence numbers, or the times of the rows around a break."""

    account: str
    kind: str
    start: str
    end: str
    missing: str
    suspect: str
    session: str | None
    subscription: str | None
    version: int
    time_ns: int


class Gaps:
    """The open gaps of all accounts. Catches up when read."""

    name = "gaps"
    version = 1

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._ledger = ledger
        self._sequences: Final = Table(database, "sequences", SequenceRow, key=2)
        self._holes: Final = Table(database, "sequence_holes", HoleRow, key=3)
        self._history: Final = History(ledger, database)
        self.tables: Final = (self._sequences, self._holes)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[Gap]:
        """The open gaps by account: sequence holes, then breaks of a running balance."""
        catch_up(self._ledger, [self, self._history])
        gaps = [_sequence_gap(row) for row in self._holes.rows(account)]
        gaps += [_chain_gap(found) for found in self._history.breaks(account)]
        return sorted(gaps, key=lambda gap: gap.account)

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        source = recorded.event.source
        number = source.sequence
        if number is None or source.subscription is None:
            return
        account, subscription = recorded.account, source.subscription
        row = self._sequences.get(account, subscription)
        if row is None:
            row = SequenceRow(account, subscription, 0)
        if number <= row.last:
            self._fill(account, subscription, number)
            return
        if number > row.last + 1:
            hole = HoleRow(
                account,
                subscription,
                row.last + 1,
                number - 1,
                source.session,
                recorded.version,
                time_of(recorded.event),
            )
            self._holes.put(hole)
        row.last = number
        self._sequences.put(row)

    def _fill(self, account: str, subscription: str, number: int) -> None:
        """A number at or below the last came late: if it was missing, it is not any more."""
        for row in list(self._holes.of(account).values()):
            if row is None or row.subscription != subscription:
                continue
            if row.first <= number <= row.last:
                self._holes.drop(row)
                for first, last in ((row.first, number - 1), (number + 1, row.last)):
                    if first <= last:
                        self._holes.put(
                            HoleRow(account, subscription, first, last, row.session, row.version, row.time_ns)
                        )


def _sequence_gap(row: HoleRow) -> Gap:
    missing = str(row.first) if row.first == row.last else f"{row.first}-{row.last}"
    return Gap(
        row.account,
        "sequence",
        str(row.first),
        str(row.last),
        missing,
        "every balance of the account, until the venue states the whole account again",
        row.session,
        row.subscription,
        row.version,
        row.time_ns,
    )


def _chain_gap(found: Break) -> Gap:
    before, after = found.before, found.after
    expected = EXACT.add(decimal(before.balance), decimal(after.amount))
    difference = EXACT.subtract(decimal(after.balance), expected)
    return Gap(
        after.account,
        "chain",
        time_text(before.time_ns),
        time_text(after.time_ns),
        f"rows that change {after.asset} by {difference:f}",
        f"the history of {after.asset} between these rows",
        None,
        None,
        after.version,
        after.time_ns,
    )
