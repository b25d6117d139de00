"""Breaks: where two statements should agree and do not; as long as it is so, and what resolved it.

Knows orders, fills and the differences `projections.agreement` found between balances; knows gaps only to say which of
them explains a difference. Nothing is repaired.

Of each kind, what is compared with what (`expected` with `stated`):

* `snapshot`: what the statements before came to, with what a full statement says; of an asset, the total alone where
  that differs, else each part that does.
* `account`: what the venue's own history comes to, with the balance it states of the account.
* `fills`: the executed quantity of an order, with the sum of its fills.
* `quote`: price x quantity of a fill, with the quote quantity the venue states.
* `retold`: what was told of a fill first, with what is told of it otherwise later, part by part. Where that is no
  amount (its order, its side, its time), all of its quantity, with none of it: so much is told otherwise.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import Amount, FillRecorded, OrderUpdated, is_again, time_of
from ledger.retold import AMOUNTS, Told, completed, differing, told_of
from ledger.wire import EXACT, decimal
from projections.agreement import BreakRow, close, frame_text, opened
from projections.balances import Balances
from projections.completeness import Missed
from projections.gaps import Gap
from projections.subscription import Projection, Subscription, catch_up
from projections.tables import Database, Table

QUOTE_PART_MAX: Final = Decimal("0.0001")
"""How far a quote quantity may be from price x quantity, as a part of it: venues round."""
FILLS: Final = ("quote", "retold")
"""The kinds of which a fill is the subject."""
MISSED: Final = "missed in the gap; the statement counts"

_NS: Final = 1_000_000_000


class Break(Struct, frozen=True):
    """Two statements that should agree and do not. `subject`: an asset, order or fill id; `difference`: stated -
    expected; `time_ns`: when the later statement was true; `age_s`: from when it was found until it was closed, or
    until now."""

    account: str
    kind: str
    subject: str
    part: str | None
    expected: Amount
    stated: Amount
    difference: Amount
    expected_version: int | None
    stated_version: int | None
    time_ns: int
    age_s: int
    explained_by: str | None
    state: str
    closed_by: int | None
    closed_ns: int | None
    closed_how: str | None


class OrderSumRow(Struct):
    """An order's executed quantity as last stated, and the sum of its fills; `found` is the version that found them to
    differ, 0 where they do not. `was` is its open break as `frame` found it (JSON of `Sides`): what is within a frame
    never was."""

    account: str
    order_id: str
    updated_ns: int = 0
    executed: Amount | None = None
    closed: bool = False
    order_version: int | None = None
    filled: Amount = "0"
    fill_version: int | None = None
    found: int = 0
    frame: str = ""
    was: str | None = None


class ToldRow(Struct):
    """One fill: what was told of it first (JSON of `Told`), and by which version; with what was added later."""

    account: str
    fill_id: str
    version: int
    told: str


class Sides(Struct, array_like=True):
    """The two sides of a break of an order."""

    expected: Amount
    stated: Amount
    expected_version: int | None
    stated_version: int | None
    time_ns: int


_sides: Final = msgspec.json.Decoder(Sides)
_told: Final = msgspec.json.Decoder(Told)
_encode: Final = msgspec.json.Encoder().encode


class BreaksFold:
    """The breaks of orders and fills, event by event; those of balances are found with the balances."""

    def __init__(self, database: Database | None) -> None:
        self._orders: Final = Table(database, "order_sums", OrderSumRow, key=2)
        self._breaks: Final = Table(database, "order_breaks", BreakRow, key=5)
        self._fills: Final = Table(database, "fill_tellings", ToldRow, key=2)
        self.tables: Final[tuple[Table[Any], ...]] = (self._orders, self._breaks, self._fills)

    def ahead(self, run: Sequence[Recorded]) -> None:
        """These events are folded next: their orders are read at once."""
        self._orders.fetch(
            (each.account, each.event.order_id)
            for each in run
            if isinstance(each.event, OrderUpdated | FillRecorded)
        )

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if type(event) is OrderUpdated:
            self._ordered(recorded, event)
        elif type(event) is FillRecorded:
            self._filled(recorded, event)

    def rows(self, account: str | None = None) -> list[BreakRow]:
        """The breaks, open and closed."""
        return list(self._breaks.rows(account))

    def _ordered(self, recorded: Recorded, event: OrderUpdated) -> None:
        if event.executed is None:
            return  # what it says is nothing to compare
        order = self._order(recorded.account, event.order_id)
        updated_ns = time_of(event) if event.updated_ns is None else event.updated_ns
        progress = (
            updated_ns,
            decimal(event.executed),
            event.closed,
        )  # as `projections.orders` judges
        if order.order_version is not None and progress < (
            order.updated_ns,
            decimal(order.executed or "0"),
            order.closed,
        ):
            return
        order.updated_ns, order.executed, order.closed = updated_ns, event.executed, event.closed
        order.order_version = recorded.version
        self._settle(recorded, order, updated_ns)

    def _filled(self, recorded: Recorded, event: FillRecorded) -> None:
        time_ns = time_of(event) if event.time_ns is None else event.time_ns
        told = told_of(event)
        first = self._fills.get(recorded.account, event.fill_id) if is_again(event) else None
        if first is None:
            self._fills.put(
                ToldRow(recorded.account, event.fill_id, recorded.version, _encode(told).decode())
            )
            order = self._order(recorded.account, event.order_id)
            order.filled = format(EXACT.add(decimal(order.filled), decimal(event.quantity)), "f")
            order.fill_version = recorded.version
            self._settle(recorded, order, time_ns)
            known = None
        else:
            before = _told.decode(first.told)
            self._retold(recorded, event, first, before)
            known = before.quote_quantity
        if event.quote_quantity is None or known is not None:
            return
        product = EXACT.multiply(decimal(event.price), decimal(event.quantity))
        off = EXACT.subtract(decimal(event.quote_quantity), product)
        if abs(off) > EXACT.multiply(abs(product), QUOTE_PART_MAX):
            row = opened(recorded, "quote", event.fill_id, time_ns)
            row.expected, row.stated = format(product, "f"), event.quote_quantity
            row.expected_version = recorded.version
            self._breaks.put(row)

    def _retold(self, recorded: Recorded, fill: FillRecorded, first: ToldRow, before: Told) -> None:
        """Compare what is told of a fill with what was told of it before."""
        told = told_of(fill)
        for name in differing(before, told):
            row = opened(recorded, "retold", fill.fill_id, time_of(fill))
            row.part, row.expected_version = name, first.version
            row.expected, row.stated = (
                (getattr(before, name), getattr(told, name)) if name in AMOUNTS else (before.quantity, "0")
            )
            self._breaks.put(row)
        first.told = _encode(completed(before, told)).decode()
        self._fills.put(first)

    def _order(self, account: str, order_id: str) -> OrderSumRow:
        return self._orders.get(account, order_id) or OrderSumRow(account, order_id)

    def _settle(self, recorded: Recorded, order: OrderSumRow, time_ns: int) -> None:
        """Compare, and keep, change or close the break of an order."""
        key = (order.account, "fills", order.order_id, order.found, "")
        row = self._breaks.get(*key) if order.found else None
        frame = frame_text(recorded)
        if row is not None and frame != order.frame:
            sides = (row.expected, row.stated, row.expected_version, row.stated_version, row.time_ns)
            order.frame, order.was = frame, msgspec.json.encode(Sides(*sides)).decode()
        if order.executed is not None and decimal(order.executed) != decimal(order.filled):
            if row is None:
                row = opened(recorded, "fills", order.order_id, time_ns)
                order.found, order.frame, order.was = recorded.version, frame, None
            row.expected, row.stated, row.time_ns = order.executed, order.filled, time_ns
            row.expected_version, row.stated_version = order.order_version, order.fill_version
            self._breaks.put(row)
        elif order.executed is not None and row is not None:
            if order.was is not None:
                was = _sides.decode(order.was)
                row.expected, row.stated, row.time_ns = was.expected, was.stated, was.time_ns
                row.expected_version, row.stated_version = was.expected_version, was.stated_version
            close(self._breaks, row, recorded, f"version {recorded.version} makes them equal")
            order.found, order.was = 0, None
        self._orders.put(order)


class Breaks:
    """The breaks of all accounts, open and closed. Catches up when read."""

    name = "breaks"
    version = 3

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._ledger = ledger
        self.balances: Final = Balances(ledger, database)
        self._fold: Final = BreaksFold(database)
        self.tables: Final = self._fold.tables
        self.apply: Final = self._fold.apply
        self.ahead: Final = self._fold.ahead
        self.subscription: Final = Subscription(ledger, self, database)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """This one, and those whose rows it reads: they are caught up together."""
        return (self, *self.balances.projections)

    def rows(
        self, account: str | None = None, open_only: bool = False, *, now_ns: int | None = None
    ) -> list[Break]:
        """The breaks: open ones first, by account and time. `now_ns`: until when an open one ages, if not now."""
        catch_up(self._ledger, self.projections)
        found = self.folded(self.balances.gaps.folded(account), account, now_ns=now_ns)
        return [each for each in found if each.state == "open" or not open_only]

    def folded(
        self, gaps: Sequence[Gap], account: str | None = None, *, now_ns: int | None = None
    ) -> list[Break]:
        """The breaks as far as `projections` have come, with the gaps that may explain them."""
        return told(
            [*self.balances.fold.agreement.breaks.rows(account), *self._fold.rows(account)],
            gaps,
            time.time_ns() if now_ns is None else now_ns,
        )


def told(rows: Iterable[BreakRow], gaps: Sequence[Gap], now_ns: int) -> list[Break]:
    """Breaks as they are shown: with what explains them, open ones first, by account and time."""
    of: dict[str, list[Gap]] = defaultdict(list)
    for gap in gaps:
        of[gap.account].append(gap)
    missed = {account: Missed(of[account]) for account in of}
    nothing = Missed(())
    found = [_shown(row, missed.get(row.account, nothing).explaining(row), now_ns) for row in rows]
    return sorted(found, key=lambda each: (each.state != "open", each.account, each.time_ns, each.kind))


def _shown(row: BreakRow, explained_by: str | None, now_ns: int) -> Break:
    closed_by, closed_ns, how = row.closed_by, row.closed_ns, row.closed_how
    if explained_by is not None:
        closed_by, closed_ns, how = row.stated_version, row.found_ns, MISSED
    until_ns = now_ns if closed_ns is None else closed_ns
    return Break(
        row.account,
        row.kind,
        row.subject,
        row.part or None,
        row.expected,
        row.stated,
        format(EXACT.subtract(decimal(row.stated), decimal(row.expected)), "f"),
        row.expected_version,
        row.stated_version,
        row.time_ns,
        max(0, (until_ns - row.found_ns) // _NS),
        explained_by,
        "open" if closed_by is None else "closed",
        closed_by,
        closed_ns,
        how,
    )
