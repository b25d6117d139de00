"""The venues' own balance histories, row by row, and where their running balance does not close.

Knows imported history rows only. Nothing is repaired: a break is shown, and closed when the missing rows arrive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby, pairwise
from typing import Any, Final, Protocol

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.chain import LATER_MAX, in_course, links, may_end_otherwise
from ledger.events import Amount, BalanceEventImported, known_ns, time_of
from ledger.wire import EXACT, decimal
from projections.subscription import Place, Subscription, frame_of
from projections.tables import Database, Ordered, Table


class HistoryRow(Struct):
    """One row of a venue's history, amounts as the venue's text."""

    account: str
    asset_id: str
    time_ns: int
    version: int
    asset: str
    cause: str
    amount: Amount
    balance: Amount
    pending: Amount | None
    memo: bool
    reference: str | None


class Break(Struct, frozen=True):
    """Two neighbouring rows whose running balance does not close: rows between them are missing."""

    before: HistoryRow
    after: HistoryRow


class EndRow(Struct):
    """Which row is the last of an instant that has several."""

    account: str
    asset_id: str
    time_ns: int
    version: int


class ChainRow(Struct):
    """A break between two rows, as long as it is open. `since_*` and `first_*` are what was missing when it was found;
    where some of it arrived, less is."""

    account: str
    asset_id: str
    after_version: int
    before_version: int
    asset: str
    before_ns: int
    after_ns: int
    difference: Amount
    version: int
    time_ns: int
    first_before_ns: int
    first_after_ns: int
    first_difference: Amount


class ClosedChainRow(Struct):
    """A break that was, as it was found, and the row that closed it."""

    account: str
    asset_id: str
    version: int
    before_ns: int
    after_ns: int
    closed_by: int
    asset: str
    difference: Amount
    time_ns: int
    closed_ns: int


class FreshRow(Struct):
    """A row of the frame at hand, which is not judged before all of the frame is there. `known_ns`: the time since
    which it is known."""

    account: str
    version: int
    asset_id: str
    time_ns: int
    known_ns: int
    session: str
    ordinal: int


class Before(Protocol):
    """Rows that were folded before, and are kept elsewhere; all of a lower version than those to come."""

    def before(self, account: str, asset_id: str, time_ns: int, /) -> Sequence[HistoryRow]:
        """The last two rows of before an instant, the last one first."""
        ...

    def beginning(self, account: str, asset_id: str, time_ns: int, /) -> Iterator[HistoryRow]:
        """The rows from an instant on, by time and version."""
        ...

    def end(self, account: str, asset_id: str, time_ns: int, /) -> int | None:
        """The version of the row that an instant of several rows ends with."""
        ...


class HistoryFold:
    """The rows, and the life of every break of their running balances, frame by frame. With rows folded `before`, only
    what came since is here, and the breaks that are open."""

    def __init__(self, database: Database | None, before: Before | None = None) -> None:
        self._before: Final = before
        self._rows: Final = Ordered(database, "history", HistoryRow, key=4)
        self._ends: Final = Table(database, "history_ends", EndRow, key=3)
        self._open: Final = Table(database, "chain_gaps", ChainRow, key=3)
        self._closed: Final = Table(database, "chain_gaps_closed", ClosedChainRow, key=6)
        self.tables: Final[tuple[Table[Any], ...]] = (self._rows, self._ends, self._open, self._closed)
        self.let_go_tables: Final[tuple[Table[Any], ...]] = (self._rows, self._ends, self._closed)
        """Those that `let_go` leaves empty."""
        self._fresh: dict[str, list[FreshRow]] = {}
        """The rows of the frame at hand by account: one is over when its account is told something in another."""

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event, account = recorded.event, recorded.account
        if account in self._fresh and frame_of(event) != _frame(self._fresh[account][0]):
            self._settle(self._fresh.pop(account))
        if type(event) is not BalanceEventImported:
            return
        row = HistoryRow(
            account,
            event.asset_id,
            time_of(event),
            recorded.version,
            event.asset,
            event.cause,
            event.amount,
            event.balance,
            event.pending,
            event.memo,
            event.reference,
        )
        self._rows.put(row)
        place = (account, row.version, row.asset_id, row.time_ns, known_ns(event))
        self._fresh.setdefault(account, []).append(FreshRow(*place, *frame_of(event)))

    def settle(self) -> None:
        """The frame is over: judge the running balances around its rows."""
        fresh, self._fresh = self._fresh, {}
        for rows in fresh.values():
            self._settle(rows)

    def _settle(self, fresh: Sequence[FreshRow]) -> None:
        by_asset: defaultdict[str, list[FreshRow]] = defaultdict(list)
        for row in fresh:
            by_asset[row.asset_id].append(row)
        for asset_id, rows in by_asset.items():
            gone, found = self._walk((rows[0].account, asset_id), {row.time_ns for row in rows})
            if gone or found:
                self._replace(gone, found, rows)

    def fresh(self, account: str) -> Sequence[FreshRow]:
        """The rows of an account that are not judged yet."""
        return self._fresh.get(account, ())

    def resume(self, fresh: Sequence[FreshRow]) -> None:
        """Go on in the middle of a frame, with rows folded before."""
        for row in fresh:
            self._fresh.setdefault(row.account, []).append(row)

    def let_go(self) -> tuple[list[HistoryRow], list[EndRow]]:
        """The rows that came, and the instants that end otherwise since; both are forgotten here (`Before` has them
        from now on), and so are the breaks that were."""
        found = ([*self._rows.rows()], [*self._ends.rows()])
        for table in self.let_go_tables:
            table.forget()
        return found

    def forget(self) -> None:
        """Forget the frame at hand."""
        self._fresh = {}

    def _walk(self, chain: tuple[str, str], instants: set[int]) -> tuple[list[ChainRow], list[Break]]:
        """The breaks that are no more, and those that are new, from these instants on as far as they change anything:
        in which order the rows of an instant follow depends on the row before them."""
        gone: list[ChainRow] = []
        found: list[Break] = []
        done_ns = -1
        known_gaps = self._open.of(chain[0])
        places: dict[int, Sequence[HistoryRow]] = {}
        for instant in instants:
            places |= self._open_before(chain, instant)
        for instant in sorted(places):
            if instant <= done_ns:
                continue
            last = self._last_of(chain, places[instant])
            for group, _ in in_course(_groups(self._beginning(chain, instant)), last):
                for before, after in pairwise([last, *group]):
                    assert after is not None
                    known = known_gaps.get((*chain, after.version))
                    broken = before is not None and not links(before, after)
                    same = known is not None and before is not None and known.before_version == before.version
                    if known is not None and not (broken and same):
                        self._open.drop(known)
                        gone.append(known)
                    if broken and not same:
                        assert before is not None
                        found.append(Break(before, after))
                    last = after
                assert last is not None
                done_ns = last.time_ns
                if not self._ends_otherwise(group, last) and done_ns not in places:
                    break
        return gone, found

    def _open_before(self, chain: tuple[str, str], instant: int) -> dict[int, Sequence[HistoryRow]]:
        """An instant, and those just before it whose rows lead back to where they begin: what comes after may tell
        where they ended. Of each, the last two rows before it."""
        found: dict[int, Sequence[HistoryRow]] = {}
        while True:
            rows = found[instant] = self._two_before(chain, instant)
            if len(found) > LATER_MAX or len(rows) < 2 or rows[0].time_ns != rows[1].time_ns:
                return found
            instant = rows[0].time_ns
            if not may_end_otherwise(next(_groups(self._beginning(chain, instant)))):
                return found

    def _two_before(self, chain: tuple[str, str], instant: int) -> Sequence[HistoryRow]:
        rows = self._rows.before(*chain, instant)
        if self._before is None:
            return rows
        return sorted([*rows, *self._before.before(*chain, instant)], key=_place, reverse=True)[:2]

    def _last_of(self, chain: tuple[str, str], rows: Sequence[HistoryRow]) -> HistoryRow | None:
        """The row that comes last, of the last two before an instant: those of one instant follow as it ends."""
        if len(rows) < 2 or rows[0].time_ns != rows[1].time_ns:
            return rows[0] if rows else None
        end = self._end(chain, rows[0].time_ns)
        same = self._beginning(chain, rows[0].time_ns)
        return rows[0] if end is None else next(row for row in same if row.version == end)

    def _beginning(self, chain: tuple[str, str], instant: int) -> Iterator[HistoryRow]:
        rows = self._rows.beginning(*chain, instant)
        before = iter(()) if self._before is None else self._before.beginning(*chain, instant)
        first = next(before, None)
        return rows if first is None else merge(rows, [first], before, key=_place)

    def _end(self, chain: tuple[str, str], instant: int) -> int | None:
        """The version of the row that an instant ends with, as it was found last."""
        end = self._ends.get(*chain, instant)
        if end is not None:
            return end.version
        return None if self._before is None else self._before.end(*chain, instant)

    def _ends_otherwise(self, group: list[HistoryRow], last: HistoryRow) -> bool:
        """Remember the row that an instant ends with; whether it is another than before."""
        if len(group) == 1:
            return False
        if self._end(_chain(last), last.time_ns) == last.version:
            return False
        self._ends.put(EndRow(last.account, last.asset_id, last.time_ns, last.version))
        return True

    def _replace(self, gone: list[ChainRow], found: list[Break], rows: Sequence[FreshRow]) -> None:
        """A new break within one that was is what is left of it; of which nothing is left, that is closed."""
        parts: dict[int, list[Break]] = defaultdict(list)
        for each in found:
            of = next((old for old in gone if _holds(old, each)), None)
            parts[-1 if of is None else of.after_version].append(each)
        for each in parts[-1]:
            self._open.put(_opened(each))
        for old in gone:
            left = parts[old.after_version]
            for each in left:
                row = _opened(each)
                row.version, row.time_ns = old.version, old.time_ns
                if len(left) == 1:
                    row.first_before_ns, row.first_after_ns = old.first_before_ns, old.first_after_ns
                    row.first_difference = old.first_difference
                self._open.put(row)
            if not left:
                self._close(old, rows)

    def _close(self, old: ChainRow, rows: Sequence[FreshRow]) -> None:
        within = [each for each in rows if old.before_ns <= each.time_ns <= old.after_ns]
        by = (within or rows)[-1]
        self._closed.put(
            ClosedChainRow(
                old.account,
                old.asset_id,
                old.version,
                old.first_before_ns,
                old.first_after_ns,
                by.version,
                old.asset,
                old.first_difference,
                old.time_ns,
                by.known_ns,
            )
        )

    def rows(self, account: str | None = None) -> Iterator[HistoryRow]:
        """As `History.rows`."""
        for _, chain in groupby(self._rows.rows(account), key=_chain):
            for ordered, _ in in_course(_groups(chain)):
                yield from ordered

    def breaks(self, account: str | None = None) -> Iterator[Break]:
        """As `History.breaks`."""
        last: HistoryRow | None = None
        for row in self.rows(account):
            if last is not None and _chain(row) == _chain(last) and not links(last, row):
                yield Break(last, row)
            last = row

    @property
    def changed(self) -> tuple[int, int]:
        """The same while what `open` and `closed` give is."""
        return self._open.changed, self._closed.changed

    def open(self, account: str | None = None) -> list[ChainRow]:
        """The open breaks by account, asset and time."""
        return sorted(
            self._open.rows(account),
            key=lambda row: (row.account, row.asset_id, row.after_ns, row.after_version),
        )

    def closed(self, account: str | None = None) -> list[ClosedChainRow]:
        """The breaks that were, by account, asset and version."""
        return list(self._closed.rows(account))

    def beginnings(self, account: str) -> Iterator[tuple[HistoryRow, Amount]]:
        """The first row of each of an account's chains, and the balance before it: what came before is not here."""
        asset_id = ""
        while (found := next(self._rows.beginning(account, asset_id), None)) is not None:
            groups = _groups(self._rows.beginning(account, found.asset_id, found.time_ns))
            row = next(in_course(groups))[0][0]
            yield row, _opening(row)
            asset_id = f"{found.asset_id}\0"


class History:
    """The history rows of all accounts. Catches up when read."""

    name = "history"
    version = 3

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self.fold: Final = HistoryFold(ledger if database is None else database)
        self.tables: Final = self.fold.tables
        self.apply: Final = self.fold.apply
        self.settle: Final = self.fold.settle
        self.forget: Final = self.fold.forget
        self.subscription: Final = Subscription(ledger, self, ledger if database is None else database)

    def rows(self, account: str | None = None) -> Iterator[HistoryRow]:
        """The rows by account, asset and time; rows of one instant in the order in which their balances follow."""
        self.subscription.catch_up()
        return self.fold.rows(account)

    def breaks(self, account: str | None = None) -> Iterator[Break]:
        """Where a row does not begin with the balance the row before it ended with, oldest first; by looking at every
        row there is."""
        self.subscription.catch_up()
        return self.fold.breaks(account)


def _chain(row: HistoryRow) -> tuple[str, str]:
    return (row.account, row.asset_id)


def _place(row: HistoryRow) -> tuple[int, int]:
    return (row.time_ns, row.version)


def _frame(row: FreshRow) -> Place:
    return (row.session, row.ordinal)


def _groups(rows: Iterator[HistoryRow]) -> Iterator[list[HistoryRow]]:
    """The rows of one instant together."""
    group: list[HistoryRow] = []
    for row in rows:
        if group and (_chain(row), row.time_ns) != (_chain(group[0]), group[0].time_ns):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _holds(old: ChainRow, new: Break) -> bool:
    return old.before_ns <= new.before.time_ns and new.after.time_ns <= old.after_ns


def _opened(found: Break) -> ChainRow:
    before, after = found.before, found.after
    difference = EXACT.subtract(
        decimal(after.balance), EXACT.add(decimal(before.balance), decimal(after.amount))
    )
    missing = format(difference, "f")
    return ChainRow(
        after.account,
        after.asset_id,
        after.version,
        before.version,
        after.asset,
        before.time_ns,
        after.time_ns,
        missing,
        max(before.version, after.version),
        after.time_ns,
        before.time_ns,
        after.time_ns,
        missing,
    )


def _opening(row: HistoryRow) -> Amount:
    amount = decimal(row.amount)
    if row.cause == "withdraw" and amount > 0:
        amount = amount.copy_negate()  # written without its sign (`ledger.chain.links`)
    return format(EXACT.subtract(decimal(row.balance), amount), "f")
