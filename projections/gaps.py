"""What is known to be missing, since when, and what closed it: the life of every gap.

Knows sequences, history rows, sessions and orders' executions; computes no balance. A closed gap stays on the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from ledger import Ledger, Recorded
from ledger.events import Event, FillRecorded, OrderUpdated, known_ns, time_of
from ledger.wire import time_text
from projections.executions import ExecutionsFold, MissingRow
from projections.history import ChainRow, ClosedChainRow, History, HistoryFold
from projections.sessions import Blind, Sessions, SessionsFold
from projections.statements import Full, Statements
from projections.subscription import Projection, Subscription, catch_up
from projections.tables import Database, Table

ARRIVED: Final = "arrived late"
STATED: Final = "the whole account was stated again"
_KINDS: Final = {"sequence": 0, "chain": 1, "blind": 2, "fills": 3}


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


class FilledRow(Struct):
    """A hole, or a part of one, that is closed."""

    account: str
    subscription: str
    first: int
    last: int
    session: str
    version: int
    time_ns: int
    closed_by: int
    closed_ns: int
    closed_how: str


class Gap(Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Something missing. `start` and `end`: the missing sequence numbers (`sequence`), the times of the rows around a
    break (`chain`), the times between which nobody listened (`blind`) or, both, the order's id (`fills`).

    `version` and `time_ns`: of the event that showed it. `closed_by`, `closed_ns`: the version of the event that closed
    it, and since when that is known.
    """

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
    state: str = "open"
    closed_by: int | None = None
    closed_ns: int | None = None
    closed_how: str | None = None

    @property
    def healed(self) -> bool:
        """Whether what was missing is there after all; a gap that is closed and not healed was lost for good."""
        return self.state == "closed" and self.closed_how != STATED


class _Fold:
    """Holes in sequences, and executions without fills: what needs tables of its own."""

    def __init__(self, database: Database | None) -> None:
        self._sequences: Final = Table(database, "sequences", SequenceRow, key=2)
        self._holes: Final = Table(database, "sequence_holes", HoleRow, key=3)
        self._filled: Final = Table(database, "sequence_holes_closed", FilledRow, key=3)
        self._statements: Final = Statements(database, "sequence_pages")
        self._executions: Final = ExecutionsFold(database)
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._sequences,
            self._holes,
            self._filled,
            *self._statements.tables,
            *self._executions.tables,
        )

    def apply(self, recorded: Recorded) -> None:
        event = recorded.event
        self._executions.turn(event)
        if isinstance(event, OrderUpdated | FillRecorded):
            self._executions.apply(recorded)
        source = event.source
        if source.sequence is not None and source.subscription is not None:
            self._count(recorded, source.subscription, source.sequence)
        full = self._statements.apply(recorded)
        if full is not None and not full.answer:
            self._restate(full, event)

    def settle(self) -> None:
        self._executions.settle()

    def forget(self) -> None:
        self._executions.forget()

    def _count(self, recorded: Recorded, subscription: str, number: int) -> None:
        account = recorded.account
        row = self._sequences.get(account, subscription)
        if row is None:
            row = SequenceRow(account, subscription, 0)
        if number <= row.last:
            self._fill(recorded, subscription, number)
            return
        if number > row.last + 1:
            event = recorded.event
            session, version = event.source.session, recorded.version
            self._holes.put(
                HoleRow(account, subscription, row.last + 1, number - 1, session, version, time_of(event))
            )
        row.last = number
        self._sequences.put(row)

    def _fill(self, recorded: Recorded, subscription: str, number: int) -> None:
        """A number at or below the last came late: if it was missing, it is not any more."""
        for hole in self._open_of(recorded.account):
            if hole.subscription == subscription and hole.first <= number <= hole.last:
                self._holes.drop(hole)
                self._close(hole, number, number, recorded.version, known_ns(recorded.event), ARRIVED)
                for first, last in ((hole.first, number - 1), (number + 1, hole.last)):
                    if first <= last:
                        self._holes.put(
                            HoleRow(
                                hole.account,
                                subscription,
                                first,
                                last,
                                hole.session,
                                hole.version,
                                hole.time_ns,
                            )
                        )

    def _restate(self, full: Full, event: Event) -> None:
        """The whole account was stated: what was missing before that is in it."""
        for hole in self._open_of(full.account):
            if _is_after(full, hole):
                self._holes.drop(hole)
                self._close(hole, hole.first, hole.last, full.version, known_ns(event), STATED)

    def _open_of(self, account: str) -> list[HoleRow]:
        return [row for row in self._holes.of(account).values() if row is not None]

    def _close(self, hole: HoleRow, first: int, last: int, by: int, closed_ns: int, how: str) -> None:
        place = (hole.account, hole.subscription, first, last, hole.session, hole.version, hole.time_ns)
        self._filled.put(FilledRow(*place, by, closed_ns, how))

    def rows(self, account: str | None) -> Iterator[Gap]:
        yield from map(_sequence_gap, self._holes.rows(account))
        yield from map(_sequence_gap, self._filled.rows(account))
        yield from map(_fills_gap, self._executions.missing(account))


class GapsFold:
    """The gaps of a run of events, in memory: those of a moment. `apply` the events in order, then `settle`."""

    def __init__(self) -> None:
        self._own: Final = _Fold(None)
        self._history: Final = HistoryFold(None)
        self._sessions: Final = SessionsFold(None)

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        self._own.apply(recorded)
        self._history.apply(recorded)
        self._sessions.apply(recorded)

    def settle(self) -> None:
        """That was the last event of its frame."""
        self._own.settle()
        self._history.settle()

    def rows(self, account: str | None = None, open_only: bool = False) -> list[Gap]:
        """As `Gaps.rows`."""
        self.settle()
        return _gaps(self._own, self._history, self._sessions, account, open_only)


class Gaps:
    """The gaps of all accounts, open and closed. Catches up when read."""

    name = "gaps"
    version = 2

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._ledger = ledger
        self._fold: Final = _Fold(database)
        self.history: Final = History(ledger, database)
        self.sessions: Final = Sessions(ledger, database)
        self.tables: Final = self._fold.tables
        self.apply: Final = self._fold.apply
        self.settle: Final = self._fold.settle
        self.forget: Final = self._fold.forget
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None, open_only: bool = False) -> list[Gap]:
        """The gaps: open ones first, then by account, kind, and the version they were found at."""
        catch_up(self._ledger, self.projections)
        return self.folded(account, open_only)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """This one, and those whose rows it reads: they are caught up together."""
        return (self, self.history, self.sessions)

    def folded(self, account: str | None = None, open_only: bool = False) -> list[Gap]:
        """The gaps as far as `projections` have come."""
        return _gaps(self._fold, self.history.fold, self.sessions.fold, account, open_only)

    def logins(self, account: str) -> set[str]:
        """The logins an account was heard through, as far as `projections` have come."""
        return {
            session.account for each in self.sessions.fold.listening(account) for session in each.sessions
        }


def _gaps(
    own: _Fold, history: HistoryFold, sessions: SessionsFold, account: str | None, open_only: bool
) -> list[Gap]:
    gaps = [*own.rows(account), *map(_chain_gap, history.open(account))]
    gaps += map(_chain_gap, history.closed(account))
    gaps += [_blind_gap(blind) for each in sessions.listening(account) for blind in each.blind]
    kept = [gap for gap in gaps if gap.state == "open" or not open_only]
    return sorted(kept, key=lambda gap: (gap.state != "open", gap.account, _KINDS[gap.kind], gap.version))


def _is_after(full: Full, hole: HoleRow) -> bool:
    """Whether a statement began after what is missing: by the numbers where it is of the same subscription, else by
    time, then by arrival."""
    if full.sequence is not None and full.subscription == hole.subscription:
        return full.sequence > hole.last
    return (full.since_ns, full.since_version) > (hole.time_ns, hole.version)


def _closed(gap: Gap, by: int, closed_ns: int | None, how: str | None) -> Gap:
    return replace(gap, state="closed", closed_by=by, closed_ns=closed_ns, closed_how=how)


def _sequence_gap(row: HoleRow | FilledRow) -> Gap:
    missing = str(row.first) if row.first == row.last else f"{row.first}-{row.last}"
    gap = Gap(
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
    return gap if isinstance(row, HoleRow) else _closed(gap, row.closed_by, row.closed_ns, row.closed_how)


def _chain_gap(row: ChainRow | ClosedChainRow) -> Gap:
    gap = Gap(
        row.account,
        "chain",
        time_text(row.before_ns),
        time_text(row.after_ns),
        f"rows that change {row.asset} by {row.difference}",
        f"the history of {row.asset} between these rows",
        None,
        None,
        row.version,
        row.time_ns,
    )
    return gap if isinstance(row, ChainRow) else _closed(gap, row.closed_by, row.closed_ns, ARRIVED)


def _blind_gap(blind: Blind) -> Gap:
    gap = Gap(
        blind.account,
        "blind",
        time_text(blind.from_ns),
        time_text(blind.to_ns),
        "whatever happened while nobody listened",
        "every balance of the account, until the venue states it again",
        blind.session,
        None,
        blind.version,
        blind.to_ns,
    )
    return gap if blind.closed_by is None else _closed(gap, blind.closed_by, blind.closed_ns, STATED)


def _fills_gap(row: MissingRow) -> Gap:
    gap = Gap(
        row.account,
        "fills",
        row.order_id,
        row.order_id,
        row.missing,
        "the fills of this order, no balance",
        row.session,
        None,
        row.version,
        row.time_ns,
    )
    return gap if row.closed_by is None else _closed(gap, row.closed_by, row.closed_ns, row.closed_how)
