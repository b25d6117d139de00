"""Balances as the venues last stated them: now, and as of any time or version.

Knows balance events; computes no posting. A statement older than what is known of an asset changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import (
    Amount,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    Source,
    time_of,
)
from ledger.wire import EXACT, decimal, parse_time
from projections.subscription import Subscription
from projections.tables import Database, Table

ENDS_MAX: Final = 32
"""Ends of one instant's history rows that are remembered; more are only left where many rows are missing."""


class BalanceRow(Struct):
    """One asset of one account, amounts as the venue's text. `held` False: the venue no longer names it."""

    account: str
    asset_id: str
    asset: str
    total: Amount | None
    available: Amount | None
    locked: Amount | None
    staked: Amount | None
    pending: Amount | None
    tradable: bool | None
    held: bool
    version: int
    time_ns: int
    ends: str | None = None
    """Where the history rows of this instant begin and end (JSON of `_End`)."""
    subscription: str | None = None
    sequence: int | None = None


class StatementRow(Struct):
    """What is known of an account's whole statements: when the last complete one began, and of one still arriving in
    pages what it is, where it began, and the assets it named so far (a JSON list)."""

    account: str
    complete_ns: int
    part: str | None = None
    since_ns: int = 0
    since_version: int = 0
    named: str | None = None
    subscription: str | None = None
    sequence: int | None = None


class _End(Struct, array_like=True):
    """A balance that more history rows of one instant lead to (`net` above zero) or start from (below).

    In a chain of rows all others cancel out: what is left is where it begins and where it ends, in whatever order the
    rows arrived.
    """

    balance: Amount
    net: int
    pending: Amount | None = None


_names: Final = msgspec.json.Decoder(list[str])
_ends: Final = msgspec.json.Decoder(list[_End])


class Holding(Struct, frozen=True):
    """A balance as numbers. None where the venue does not state that part."""

    asset_id: str
    asset: str
    total: Decimal | None
    available: Decimal | None
    locked: Decimal | None
    staked: Decimal | None
    pending: Decimal | None
    version: int
    time_ns: int


class Balances:
    """Current balances: `balances["bitopro:main"]["ADA"].available`. Catches up when read.

    Assets are found by their id, and by the venue's label where it is unambiguous.
    """

    name = "balances"
    version = 1

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger = ledger
        database = ledger if database is None else database
        self._fold: Final = _Fold(database)
        self.tables: Final = self._fold.tables
        self.apply: Final = self._fold.apply
        self.subscription: Final = Subscription(ledger, self, database)

    def __getitem__(self, account: str) -> dict[str, Holding]:
        self.subscription.catch_up()
        return self._fold.holdings(account)

    def rows(self, account: str | None = None) -> list[BalanceRow]:
        """The balances held, by account and asset id."""
        self.subscription.catch_up()
        return self._fold.held(account)

    def at(self, moment: int | str | datetime, account: str | None = None) -> AsOf:
        """Balances as of a version (int) of each account, or as of a time (ISO-8601 text or datetime, UTC): what the
        statements up to and including it say. Raises Malformed where the text is no time."""
        fold = _Fold(None)
        if isinstance(moment, int):
            version, until = moment, None
        else:
            version, until = None, _ns(moment)
        for recorded in self._ledger.replay(account):
            if version is not None and recorded.version > version:
                if account is not None:
                    break
                continue
            if until is None or time_of(recorded.event) <= until:
                fold.apply(recorded)
        return AsOf(fold)


class AsOf:
    """Balances as of a moment; indexed like Balances."""

    def __init__(self, fold: _Fold) -> None:
        self._fold = fold

    def __getitem__(self, account: str) -> dict[str, Holding]:
        return self._fold.holdings(account)

    def rows(self, account: str | None = None) -> list[BalanceRow]:
        """The balances held at that moment, by account and asset id."""
        return self._fold.held(account)


class _Fold:
    def __init__(self, database: Database | None) -> None:
        self._rows = Table(database, "balances", BalanceRow, key=2)
        self._statements = Table(database, "balance_statements", StatementRow, key=1)
        self.tables = (self._rows, self._statements)

    def held(self, account: str | None) -> list[BalanceRow]:
        return [row for row in self._rows.rows(account) if row.held]

    def holdings(self, account: str) -> dict[str, Holding]:
        rows = self.held(account)
        found = {row.asset_id: _holding(row) for row in rows}
        labels = [row.asset for row in rows]
        for row in rows:
            if labels.count(row.asset) == 1:
                found.setdefault(row.asset, found[row.asset_id])
        return found

    def apply(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, BalanceDelta):
            self._delta(recorded, event)
        elif isinstance(event, BalanceSnapshot):
            self._snapshot(recorded, event)
        elif isinstance(event, BalanceEventImported) and not event.memo:
            self._imported(recorded, event)

    def _delta(self, recorded: Recorded, event: BalanceDelta) -> None:
        account, time_ns = recorded.account, time_of(event)
        complete_ns = self._complete_ns(account)
        for balance in event.balances:
            self._state(recorded, balance, time_ns, complete_ns)
        for asset_id in event.removed:
            self._remove(recorded, asset_id, time_ns)

    def _snapshot(self, recorded: Recorded, event: BalanceSnapshot) -> None:
        account, time_ns = recorded.account, time_of(event)
        complete_ns = self._complete_ns(account)
        for balance in event.balances:
            self._state(recorded, balance, time_ns, complete_ns)
        statement = self._statements.get(account) or StatementRow(account, 0)
        source = event.source
        again = event.begins and source.sequence is not None  # unnumbered, every page may say that it begins
        if event.part is None or statement.part != event.part or again:
            if not event.begins:
                return  # a page of a statement whose beginning is not here: it says nothing of absent assets
            # Another statement: one that was still arriving is overtaken.
            statement.part, statement.named = event.part, None
            statement.since_ns, statement.since_version = time_ns, recorded.version
            statement.subscription, statement.sequence = source.subscription, source.sequence
        statement.since_ns = min(statement.since_ns, time_ns)
        named = {*_names.decode(statement.named or "[]"), *(balance.asset_id for balance in event.balances)}
        statement.named = msgspec.json.encode(sorted(named)).decode() if event.more else None
        self._statements.put(statement)
        if not event.more:
            self._complete(statement, named, recorded.version)

    def _complete(self, statement: StatementRow, named: set[str], version: int) -> None:
        """Every page is there. What no page names is not held from when the statement began, unless stated since; what
        was not held before is so from then on too, so that nothing late brings it back."""
        statement.part = None
        statement.complete_ns = max(statement.complete_ns, statement.since_ns)
        for row in list(self._rows.of(statement.account).values()):
            if row is not None and row.asset_id not in named and _is_before(row, statement):
                row.held, row.version, row.time_ns = False, version, statement.since_ns
                row.subscription, row.sequence = statement.subscription, statement.sequence
                self._rows.put(row)

    def _complete_ns(self, account: str) -> int:
        statement = self._statements.get(account)
        return 0 if statement is None else statement.complete_ns

    def _state(self, recorded: Recorded, said: Balance, time_ns: int, complete_ns: int) -> None:
        account, source = recorded.account, recorded.event.source
        row = self._rows.of(account).get((account, said.asset_id))
        if time_ns < complete_ns if row is None else _is_late(source, time_ns, row):
            return
        self._rows.put(
            BalanceRow(
                account,
                said.asset_id,
                said.asset,
                _total(said),
                said.available,
                said.locked,
                said.staked,
                said.pending,
                said.tradable,
                True,
                recorded.version,
                time_ns,
                None,
                source.subscription,
                source.sequence,
            )
        )

    def _remove(self, recorded: Recorded, asset_id: str, time_ns: int) -> None:
        account, source = recorded.account, recorded.event.source
        row = self._rows.of(account).get((account, asset_id))
        if row is None:
            if time_ns < self._complete_ns(account):
                return
            row = BalanceRow(account, asset_id, asset_id, None, None, None, None, None, None, False, 0, 0)
        elif _is_late(source, time_ns, row):
            return
        row.held, row.version, row.time_ns = False, recorded.version, time_ns
        row.subscription, row.sequence = source.subscription, source.sequence
        self._rows.put(row)

    def _imported(self, recorded: Recorded, event: BalanceEventImported) -> None:
        account, time_ns = recorded.account, time_of(event)
        row = self._rows.of(account).get((account, event.asset_id))
        if time_ns < self._complete_ns(account) or (row is not None and time_ns < row.time_ns):
            return
        same = row is not None and row.time_ns == time_ns and row.ends is not None
        ends = _ends.decode(row.ends) if row is not None and row.ends is not None and same else []
        end = _last_of_instant(ends, event)
        version = recorded.version
        if row is not None and same and end.balance == row.total and end.balance != event.balance:
            version = row.version  # what is known ends later than this row
        self._rows.put(
            BalanceRow(
                account,
                event.asset_id,
                event.asset,
                end.balance,
                None,
                None,
                None,
                end.pending,
                None,
                True,
                version,
                time_ns,
                msgspec.json.encode(ends[-ENDS_MAX:]).decode(),
            )
        )


def _is_late(source: Source, time_ns: int, row: BalanceRow) -> bool:
    """Whether a statement is older than what is known: by the venue's sequence where both have one of the same
    subscription, else by time. Of one instant, the last to arrive counts."""
    if source.sequence is not None and row.sequence is not None and source.subscription == row.subscription:
        return source.sequence < row.sequence
    return time_ns < row.time_ns


def _is_before(row: BalanceRow, statement: StatementRow) -> bool:
    """Whether a row was stated before a whole statement began: by sequence or time as above, then by arrival."""
    ours, first = row.sequence, statement.sequence
    if ours is not None and first is not None and row.subscription == statement.subscription:
        return (ours, row.version) < (first, statement.since_version)
    return (row.time_ns, row.version) < (statement.since_ns, statement.since_version)


def _last_of_instant(ends: list[_End], event: BalanceEventImported) -> _End:
    """Take one more row of an instant in, and say at which balance the rows end; the latest where that is not sure."""
    latest = _End(event.balance, 1, event.pending)
    amount = decimal(event.amount)
    if event.cause == "withdraw" and amount > 0:
        amount = amount.copy_negate()  # written without its sign (`ledger.chain.links`)
    _count(ends, _End(format(EXACT.subtract(decimal(event.balance), amount), "f"), -1))
    _count(ends, latest)
    last = [end for end in ends if end.net > 0]
    return last[-1] if len(last) == 1 else latest


def _count(ends: list[_End], step: _End) -> None:
    for end in ends:
        if decimal(end.balance) == decimal(step.balance):
            end.net += step.net
            if step.net > 0:
                end.balance, end.pending = step.balance, step.pending
            if end.net == 0:
                ends.remove(end)
            return
    ends.append(step)


def _total(said: Balance) -> Amount | None:
    if said.total is not None or said.available is None or said.locked is None:
        return said.total
    return format(EXACT.add(decimal(said.available), decimal(said.locked)), "f")


def _holding(row: BalanceRow) -> Holding:
    parts = (row.total, row.available, row.locked, row.staked, row.pending)
    total, available, locked, staked, pending = (None if part is None else decimal(part) for part in parts)
    return Holding(
        row.asset_id, row.asset, total, available, locked, staked, pending, row.version, row.time_ns
    )


def _ns(moment: str | datetime) -> int:
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
    return parse_time(moment)
