"""Orders against their fills: what is missing of them, what closed that, and where two things told of them disagree.

Knows orders and fills; repairs nothing. Fills of more than was executed are no gap: that is a contradiction, and shown
as one (`projections.breaks` says which there are).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import Recorded
from ledger.events import AMOUNTS, Amount, Event, FillRecorded, OrderUpdated, is_again, known_ns, time_of
from ledger.retold import Told, completed, differing, told_of
from ledger.wire import EXACT, decimal
from projections.agreement import BreakRow, close, opened
from projections.subscription import Place, frame_of
from projections.tables import Database, Table

ARRIVED: Final = "its fills arrived"
LOWERED: Final = "a later statement of the order says that less was executed"
QUOTE_PART_MAX: Final = Decimal("0.0001")
"""How far a quote quantity may be from price x quantity, as a part of it: venues round."""


class ExecutionRow(Struct):
    """One order: what its latest statement says was executed (None: none did), and what its fills add up to, each with
    the version that said so last."""

    account: str
    order_id: str
    executed: Amount | None
    updated_ns: int
    closed: bool
    order_version: int | None
    filled: Amount
    fill_version: int | None
    found: int = 0
    """The version at which its open gap was found; 0 where it has none."""
    broken: int = 0
    """The version that found the two to differ; 0 where they do not."""


class ToldRow(Struct):
    """One fill: what was told of it first (JSON of `Told`), and by which version; with what was added later. Told
    again, it counts once."""

    account: str
    fill_id: str
    version: int
    told: str


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


class _Touched:
    """An order that the frame at hand speaks of."""

    __slots__ = ("agreed", "differs", "said")

    def __init__(self) -> None:
        self.said: list[Recorded] = []
        self.agreed: Recorded | None = None
        """What made it agree with its fills first in the frame."""
        self.differs: Recorded | None = None
        """Since when it does not, in the frame."""


_told: Final = msgspec.json.Decoder(Told)
_encode: Final = msgspec.json.Encoder().encode


class ExecutionsFold:
    """Orders against their fills, frame by frame: an order stands before its own fills."""

    def __init__(self, database: Database | None) -> None:
        self._orders: Final = Table(database, "executions", ExecutionRow, key=2)
        self._fills: Final = Table(database, "fill_tellings", ToldRow, key=2)
        self._missing: Final = Table(database, "execution_gaps", MissingRow, key=3)
        self._breaks: Final = Table(database, "order_breaks", BreakRow, key=5)
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._orders,
            self._fills,
            self._missing,
            self._breaks,
        )
        self._touched: dict[tuple[str, str], _Touched] = {}
        self._frame: Place | None = None

    @property
    def changed(self) -> int:
        """The same while what `missing` gives is."""
        return self._missing.changed

    def ahead(self, run: Sequence[Recorded]) -> None:
        """These events are folded next: their orders and fills are read at once."""
        orders: list[tuple[str, str]] = []
        fills: list[tuple[str, str]] = []
        for each in run:
            event = each.event
            if type(event) is OrderUpdated:
                orders.append((each.account, event.order_id))
            elif type(event) is FillRecorded:
                orders.append((each.account, event.order_id))
                fills.append((each.account, event.fill_id))
        self._orders.fetch(orders)
        self._fills.fetch(fills)

    def apply(self, recorded: Recorded) -> None:
        """Fold one event; one of another frame than the one at hand settles that."""
        event = recorded.event
        if self._touched and frame_of(event) != self._frame:
            self.settle()
        if type(event) is OrderUpdated:
            self._state(recorded, event)
        elif type(event) is FillRecorded:
            self._add(recorded, event)

    def _of(self, account: str, order_id: str) -> ExecutionRow:
        row = self._orders.get(account, order_id)
        return ExecutionRow(account, order_id, None, 0, False, None, "0", None) if row is None else row

    def _state(self, recorded: Recorded, event: OrderUpdated) -> None:
        if event.executed is None:
            return  # what it says is nothing to compare
        row = self._of(recorded.account, event.order_id)
        updated_ns = _time(event)
        said = (updated_ns, decimal(event.executed), event.closed)
        if row.executed is not None and said < (row.updated_ns, decimal(row.executed), row.closed):
            return  # an older statement (`projections.orders`)
        row.executed, row.updated_ns, row.closed = event.executed, updated_ns, event.closed
        row.order_version = recorded.version
        self._touch(recorded, row)

    def _add(self, recorded: Recorded, event: FillRecorded) -> None:
        first = self._fills.get(recorded.account, event.fill_id)
        known: Amount | None = None
        if first is None:
            told = _encode(told_of(event)).decode()
            self._fills.put(ToldRow(recorded.account, event.fill_id, recorded.version, told))
            row = self._of(recorded.account, event.order_id)
            row.filled = format(EXACT.add(decimal(row.filled), decimal(event.quantity)), "f")
            row.fill_version = recorded.version
            self._touch(recorded, row)
        elif is_again(event):
            before = _told.decode(first.told)
            known = before.quote_quantity
            self._retold(recorded, event, first, before)
        if event.quote_quantity is not None and known is None:
            self._price(recorded, event, event.quote_quantity)

    def _retold(self, recorded: Recorded, fill: FillRecorded, first: ToldRow, before: Told) -> None:
        """Compare what is told of a fill with what was told of it before."""
        told = told_of(fill)
        for name in differing(before, told):
            row = opened(recorded, "retold", fill.fill_id, time_of(fill))
            row.part, row.expected_version = name, first.version
            row.expected, row.stated = (
                (getattr(before, name), getattr(told, name))
                if name in AMOUNTS[FillRecorded]
                else (before.quantity, "0")
            )
            self._breaks.put(row)
        first.told = _encode(completed(before, told)).decode()
        self._fills.put(first)

    def _price(self, recorded: Recorded, fill: FillRecorded, quote: Amount) -> None:
        """Compare price x quantity with the quote quantity."""
        product = EXACT.multiply(decimal(fill.price), decimal(fill.quantity))
        off = EXACT.subtract(decimal(quote), product)
        if abs(off) > EXACT.multiply(abs(product), QUOTE_PART_MAX):
            row = opened(recorded, "quote", fill.fill_id, _time(fill))
            row.expected, row.stated = format(product, "f"), quote
            row.expected_version = recorded.version
            self._breaks.put(row)

    def _touch(self, recorded: Recorded, row: ExecutionRow) -> None:
        """Something was said of an order that counts."""
        self._orders.put(row)
        self._frame = frame_of(recorded.event)
        key = (row.account, row.order_id)
        touched = self._touched.get(key)
        if touched is None:
            touched = self._touched[key] = _Touched()
        touched.said.append(recorded)
        if row.executed is None:
            return
        if row.executed == row.filled or decimal(row.executed) == decimal(row.filled):
            touched.agreed, touched.differs = touched.agreed or recorded, None
        elif touched.differs is None:
            touched.differs = recorded

    def settle(self) -> None:
        """The frame is over: judge the orders it spoke of."""
        touched, self._touched = self._touched, {}
        for (account, order_id), frame in touched.items():
            row = self._of(account, order_id)
            if row.executed is not None and (frame.differs or row.found or row.broken):
                self._miss(row, row.executed, frame.said)
                self._compare(row, row.executed, frame)

    def forget(self) -> None:
        """Forget the frame at hand."""
        self._touched = {}

    def _miss(self, row: ExecutionRow, executed: Amount, said: Sequence[Recorded]) -> None:
        """Find, keep or close the gap of an order."""
        missing = EXACT.subtract(decimal(executed), decimal(row.filled))
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

    def _compare(self, row: ExecutionRow, executed: Amount, frame: _Touched) -> None:
        """Find, keep or close the break of an order: what is within a frame never was."""
        key = (row.account, "fills", row.order_id, row.broken, "")
        found = self._breaks.get(*key) if row.broken else None
        if found is not None and frame.agreed is not None:
            close(self._breaks, found, frame.agreed, f"version {frame.agreed.version} makes them equal")
            row.broken, found = 0, None
            self._orders.put(row)
        if frame.differs is None:
            return
        if found is None:
            found = opened(frame.differs, "fills", row.order_id, _time(frame.differs.event))
            row.broken = frame.differs.version
            self._orders.put(row)
        found.expected, found.stated, found.time_ns = executed, row.filled, _time(frame.said[-1].event)
        found.expected_version, found.stated_version = row.order_version, row.fill_version
        self._breaks.put(found)

    def missing(self, account: str | None = None) -> list[MissingRow]:
        """The fills that are or were missing, by account, order and version."""
        return list(self._missing.rows(account))

    def breaks(self, account: str | None = None) -> Iterator[BreakRow]:
        """What disagrees, or did, by account, kind, subject and version."""
        return self._breaks.rows(account)


def _time(event: Event) -> int:
    """When what is said of an order or a fill was true."""
    own_ns: int | None = None
    if type(event) is OrderUpdated:
        own_ns = event.updated_ns
    elif type(event) is FillRecorded:
        own_ns = event.time_ns
    return time_of(event) if own_ns is None else own_ns
