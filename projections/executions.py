"""What orders say was executed of them, against the fills that were told: what is missing, and what closed it.

Knows orders and fills. Fills of more than was executed are no gap: that is a contradiction, and shown as one elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from ledger import Recorded
from ledger.events import Amount, Event, FillRecorded, OrderUpdated, known_ns, time_of
from ledger.wire import EXACT, decimal
from projections.subscription import Place, frame_of
from projections.tables import Database, Table

ARRIVED: Final = "its fills arrived"
LOWERED: Final = "a later statement of the order says that less was executed"


class ExecutionRow(Struct):
    """One order: what its latest statement says was executed (None: none did), and what its fills add up to."""

    account: str
    order_id: str
    executed: Amount | None
    updated_ns: int
    closed: bool
    filled: Amount
    found: int = 0
    """The version at which its open gap was found; 0 where it has none."""


class FilledRow(Struct):
    """One fill's quantity; told again, it counts once."""

    account: str
    fill_id: str
    order_id: str
    quantity: Amount


class MissingRow(Struct):
    """Fills of an order that are missing: `missing` is how much; or were: how much it was at the `most`."""

    account: str
    order_id: str
    version: int
    missing: Amount
    session: str
    time_ns: int
    closed_by: int | None = None
    closed_ns: int | None = None
    closed_how: str | None = None
    most: Amount = "0"


class ExecutionsFold:
    """Orders against their fills, frame by frame: an order stands before its own fills."""

    def __init__(self, database: Database | None) -> None:
        self._orders: Final = Table(database, "executions", ExecutionRow, key=2)
        self._fills: Final = Table(database, "execution_fills", FilledRow, key=2)
        self._missing: Final = Table(database, "execution_gaps", MissingRow, key=3)
        self.tables: Final[tuple[Table[Any], ...]] = (self._orders, self._fills, self._missing)
        self._touched: dict[tuple[str, str], list[Recorded]] = {}
        self._frame: Place | None = None

    @property
    def changed(self) -> int:
        """The same while what `missing` gives is."""
        return self._missing.changed

    def turn(self, event: Event) -> None:
        """Settle, if this event is not of the frame at hand."""
        if self._touched and frame_of(event) != self._frame:
            self.settle()

    def ahead(self, run: Sequence[Recorded]) -> None:
        """These events are folded next: their orders and fills are read at once."""
        told = [
            (each.account, each.event) for each in run if isinstance(each.event, OrderUpdated | FillRecorded)
        ]
        self._orders.fetch((account, event.order_id) for account, event in told)
        self._fills.fetch(
            (account, event.fill_id) for account, event in told if isinstance(event, FillRecorded)
        )

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if type(event) is OrderUpdated:
            touched = self._state(recorded.account, event)
        elif type(event) is FillRecorded:
            touched = self._add(recorded.account, event)
        else:
            return
        if touched:
            self._frame = frame_of(event)
            self._touched.setdefault((recorded.account, event.order_id), []).append(recorded)

    def _of(self, account: str, order_id: str) -> ExecutionRow:
        row = self._orders.get(account, order_id)
        return ExecutionRow(account, order_id, None, 0, False, "0") if row is None else row

    def _state(self, account: str, event: OrderUpdated) -> bool:
        if event.executed is None:
            return False
        row = self._of(account, event.order_id)
        updated_ns = time_of(event) if event.updated_ns is None else event.updated_ns
        said = (updated_ns, decimal(event.executed), event.closed)
        if row.executed is not None and said < (row.updated_ns, decimal(row.executed), row.closed):
            return False  # an older statement (`projections.orders`)
        row.executed, row.updated_ns, row.closed = event.executed, updated_ns, event.closed
        self._orders.put(row)
        return True

    def _add(self, account: str, event: FillRecorded) -> bool:
        if self._fills.get(account, event.fill_id) is not None:
            return False
        self._fills.put(FilledRow(account, event.fill_id, event.order_id, event.quantity))
        row = self._of(account, event.order_id)
        row.filled = format(EXACT.add(decimal(row.filled), decimal(event.quantity)), "f")
        self._orders.put(row)
        return True

    def settle(self) -> None:
        """The frame is over: judge the orders it spoke of."""
        touched, self._touched = self._touched, {}
        for (account, order_id), said in touched.items():
            row = self._of(account, order_id)
            if row.executed is not None:
                self._judge(row, said)

    def forget(self) -> None:
        """Forget the frame at hand."""
        self._touched = {}

    def _judge(self, row: ExecutionRow, said: list[Recorded]) -> None:
        missing = EXACT.subtract(decimal(row.executed or "0"), decimal(row.filled))
        gap = self._missing.get(row.account, row.order_id, row.found) if row.found else None
        if missing > 0:
            if gap is None:
                showing = next((each for each in said if isinstance(each.event, OrderUpdated)), said[0])
                source = showing.event.source
                row.found = showing.version
                gap = MissingRow(
                    row.account, row.order_id, row.found, "0", source.session, time_of(showing.event)
                )
                self._orders.put(row)
            gap.missing = format(missing, "f")
            gap.most = max(gap.most, gap.missing, key=decimal)
            self._missing.put(gap)
        elif gap is not None:
            by = said[-1]
            filled = any(isinstance(each.event, FillRecorded) for each in said)
            gap.closed_by, gap.closed_ns = by.version, known_ns(by.event)
            gap.missing = gap.most
            gap.closed_how = ARRIVED if filled else LOWERED
            self._missing.put(gap)
            row.found = 0
            self._orders.put(row)

    def missing(self, account: str | None = None) -> list[MissingRow]:
        """The fills that are or were missing, by account, order and version."""
        return list(self._missing.rows(account))
