"""What is known to be missing, since when, and what closed it: the life of every gap.

Knows sequences, history rows, sessions and orders' executions, where the breaks of orders and fills are found, too;
computes no balance. A closed gap stays on the list.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from ledger import Ledger, Recorded
from ledger.events import Event, known_ns, time_of
from ledger.wire import time_text
from projections.agreement import BreakRow
from projections.executions import ExecutionsFold, MissingRow
from projections.history import Before, ChainRow, ClosedChainRow, History, HistoryFold
from projections.sessions import Blind, Listening, Sessions, SessionsFold
from projections.statements import Full, Statements
from projections.subscription import (
    Place,
    Projection,
    Subscription,
    catch_up,
    frame_of,
)
from projections.tables import Database, Scratch, Table

ARRIVED: Final = "arrived late"
STATED: Final = "the whole account was stated again"
WAITING_EVENTS_MAX: Final = 1_000
"""Events of which the rows wait to be written to a scratch database."""
ACCOUNTS_KEPT_MAX: Final = 64
"""Accounts of which the open holes are remembered in order."""
_KINDS: Final = {"sequence": 0, "chain": 1, "blind": 2, "fills": 3}


Logins: TypeAlias = dict[str, set[str]]
"""The logins by which each account was heard."""


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
    asset: str | None = None
    """The id of the asset whose history it is a gap of (`chain`); None of other kinds."""

    @property
    def healed(self) -> bool:
        """Whether what was missing is there after all; a gap that is closed and not healed was lost for good."""
        return self.state == "closed" and self.closed_how != STATED


class RestatedRow(Struct):
    """The newest statement of a whole account: when it began, what it was numbered, and the version that made it
    whole."""

    account: str
    since_ns: int
    since_version: int
    version: int
    subscription: str | None
    sequence: int | None


class _Fold:
    """Holes in sequences, and orders against their fills (where asked for): what needs tables of its own."""

    def __init__(self, database: Database | None, *, fills: bool = True) -> None:
        self._fills: Final = fills
        self._sequences: Final = Table(database, "sequences", SequenceRow, key=2)
        self._holes: Final = Table(database, "sequence_holes", HoleRow, key=3)
        self._filled: Final = Table(database, "sequence_holes_closed", FilledRow, key=3)
        self._statements: Final = Statements(database, "sequence_pages")
        self._restated: Final = Table(database, "sequence_restated", RestatedRow, key=1)
        self.executions: Final = ExecutionsFold(database)
        self._firsts: Final[dict[str, dict[str, list[int]]]] = {}
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._sequences,
            self._holes,
            self._filled,
            *self._statements.tables,
            self._restated,
            *self.executions.tables,
        )

    @property
    def changed(self) -> tuple[int, ...]:
        return self._holes.changed, self._filled.changed, self.executions.changed

    def apply(self, recorded: Recorded) -> None:
        event = recorded.event
        if self._fills:
            self.executions.apply(recorded)
        source = event.source
        if source.sequence is not None and source.subscription is not None:
            self._count(recorded, source.subscription, source.sequence)
        full = self._statements.apply(recorded)
        if full is not None and not full.answer:
            self._restate(full, event)

    def forget(self) -> None:
        self.executions.forget()
        self._firsts.clear()

    def _count(self, recorded: Recorded, subscription: str, number: int) -> None:
        account = recorded.account
        row = self._sequences.get(account, subscription)
        if row is None:
            row = SequenceRow(account, subscription, 0)
        if number == row.last:
            return
        if number < row.last:
            self._fill(recorded, subscription, number)
            return
        if number > row.last + 1:
            event = recorded.event
            session, version = event.source.session, recorded.version
            hole = HoleRow(account, subscription, row.last + 1, number - 1, session, version, time_of(event))
            restated = self._restated.get(account)
            if restated is None or not _is_after(restated, hole):
                self._put(hole)
            else:  # it came late: what is missing was over by then
                by, closed_ns = restated.version, known_ns(event)
                self._close(hole, hole.first, hole.last, by, closed_ns, STATED)
        row.last = number
        self._sequences.put(row)

    def _fill(self, recorded: Recorded, subscription: str, number: int) -> None:
        """A number below the last came late: if it was missing, it is not any more."""
        firsts = self._open_of(recorded.account).get(subscription, [])
        place = bisect_right(firsts, number) - 1
        hole = self._holes.get(recorded.account, subscription, firsts[place]) if place >= 0 else None
        if hole is None or number > hole.last:
            return
        self._drop(hole)
        self._close(hole, number, number, recorded.version, known_ns(recorded.event), ARRIVED)
        for first, last in ((hole.first, number - 1), (number + 1, hole.last)):
            if first <= last:
                self._put(replace(hole, first=first, last=last))

    def _restate(self, full: Full, event: Event) -> None:
        """The whole account was stated: what was missing before that is in it."""
        newest = self._restated.get(full.account)
        if newest is None or full.since_ns >= newest.since_ns:
            place = (full.version, full.subscription, full.sequence)
            self._restated.put(RestatedRow(full.account, full.since_ns, full.since_version, *place))
        for subscription, firsts in [*self._open_of(full.account).items()]:
            for first in [*firsts]:
                hole = self._holes.get(full.account, subscription, first)
                if hole is not None and _is_after(full, hole):
                    self._drop(hole)
                    self._close(hole, hole.first, hole.last, full.version, known_ns(event), STATED)

    def _open_of(self, account: str) -> dict[str, list[int]]:
        """The first numbers of an account's open holes, in order, by subscription."""
        if account not in self._firsts:
            if len(self._firsts) == ACCOUNTS_KEPT_MAX:
                self._firsts.clear()
            of = self._firsts[account] = {}
            for row in self._holes.rows(account):  # in order
                of.setdefault(row.subscription, []).append(row.first)
        return self._firsts[account]

    def _put(self, hole: HoleRow) -> None:
        insort(self._open_of(hole.account).setdefault(hole.subscription, []), hole.first)
        self._holes.put(hole)

    def _drop(self, hole: HoleRow) -> None:
        of = self._open_of(hole.account)
        firsts = of[hole.subscription]
        del firsts[bisect_left(firsts, hole.first)]
        if not firsts:
            del of[hole.subscription]
        self._holes.drop(hole)

    def _close(self, hole: HoleRow, first: int, last: int, by: int, closed_ns: int, how: str) -> None:
        place = (hole.account, hole.subscription, first, last, hole.session, hole.version, hole.time_ns)
        self._filled.put(FilledRow(*place, by, closed_ns, how))

    def rows(self, account: str | None) -> Iterator[Gap]:
        yield from map(_sequence_gap, self._holes.rows(account))
        yield from map(_sequence_gap, self._filled.rows(account))
        yield from map(_fills_gap, self.executions.missing(account))


class GapsFold:
    """The gaps of a run of events: those of a moment. `apply` the events in order, then `settle`.

    In memory; with a scratch database only the latest events are, for as long as the run may be. Without `fills` those
    are not looked for: they touch no balance. `before`: the history rows that were folded before.
    """

    def __init__(
        self, scratch: Scratch | None = None, *, fills: bool = True, before: Before | None = None
    ) -> None:
        self._own: Final = _Fold(scratch, fills=fills)
        self.history: Final = HistoryFold(scratch, before)
        self._sessions: Final = SessionsFold(scratch)
        self.tables: Final[tuple[Table[Any], ...]] = (
            *self._own.tables,
            *self.history.tables,
            *self._sessions.tables,
        )
        self._scratch: Final = scratch
        self._waiting = 0
        self._frame: Place | None = None
        if scratch is not None:
            scratch.write([(table.create, [()]) for table in self.tables])

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        if self._scratch is not None:
            self._wait(self._scratch, frame_of(recorded.event))
        self._own.apply(recorded)
        self.history.apply(recorded)
        self._sessions.apply(recorded)

    def _wait(self, scratch: Scratch, frame: Place) -> None:
        """Write what is waiting, once it is much, and forget it; at the end of a frame."""
        if self._waiting >= WAITING_EVENTS_MAX and frame != self._frame:
            self._own.executions.settle()
            scratch.write([change for table in self.tables for change in table.changes() if change[1]])
            for table in self.tables:
                table.forget()
            self._waiting = 0
        self._waiting += 1
        self._frame = frame

    def settle(self) -> None:
        """That was the last event of its frame."""
        self._own.executions.settle()
        self.history.settle()

    def rows(self, account: str | None = None, open_only: bool = False) -> list[Gap]:
        """As `Gaps.rows`."""
        return self.with_logins(account, open_only)[0]

    def with_logins(self, account: str | None = None, open_only: bool = False) -> tuple[list[Gap], Logins]:
        """As `Gaps.with_logins`."""
        self.settle()
        heard = self._sessions.listening(account)
        return _gaps(self._own, self.history, heard, account, open_only), _logins(heard)

    def breaks(self, account: str | None = None) -> Iterator[BreakRow]:
        """As `Gaps.breaks`."""
        self.settle()
        return self._own.executions.breaks(account)


class Gaps:
    """The gaps of all accounts, open and closed; and the breaks of orders and fills, found as theirs are. Catches up
    when read."""

    name = "gaps"
    version = 8  # more than the versions together that gaps and breaks had when each folded orders for itself

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._ledger = ledger
        self._fold: Final = _Fold(database)
        self.history: Final = History(ledger, database)
        self.sessions: Final = Sessions(ledger, database)
        self.tables: Final = self._fold.tables
        self.apply: Final = self._fold.apply
        self.ahead: Final = self._fold.executions.ahead
        self.settle: Final = self._fold.executions.settle
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

    @property
    def changed(self) -> tuple[tuple[int, ...], ...]:
        """The same while what `with_logins` gives is."""
        return self._fold.changed, self.history.fold.changed, self.sessions.fold.changed

    def folded(self, account: str | None = None, open_only: bool = False) -> list[Gap]:
        """The gaps as far as `projections` have come."""
        return self.with_logins(account, open_only)[0]

    def breaks(self, account: str | None = None) -> Iterator[BreakRow]:
        """The breaks of orders and fills as far as `projections` have come."""
        return self._fold.executions.breaks(account)

    def logins(self, account: str | None = None) -> Logins:
        """The logins each account (or the one named) was heard through, as far as `projections` have come."""
        return _logins(self.sessions.fold.listening(account))

    def with_logins(self, account: str | None = None, open_only: bool = False) -> tuple[list[Gap], Logins]:
        """Both, for which the sessions are read once."""
        heard = self.sessions.fold.listening(account)
        return _gaps(self._fold, self.history.fold, heard, account, open_only), _logins(heard)


def _logins(heard: Sequence[Listening]) -> Logins:
    return {each.account: {one.account for one in each.sessions} for each in heard}


def _gaps(
    own: _Fold, history: HistoryFold, heard: Sequence[Listening], account: str | None, open_only: bool
) -> list[Gap]:
    gaps = [*own.rows(account), *map(_chain_gap, history.open(account))]
    gaps += map(_chain_gap, history.closed(account))
    gaps += [_blind_gap(blind) for each in heard for blind in each.blind]
    kept = [gap for gap in gaps if gap.state == "open" or not open_only]
    return sorted(kept, key=lambda gap: (gap.state != "open", gap.account, _KINDS[gap.kind], gap.version))


def _is_after(full: Full | RestatedRow, hole: HoleRow) -> bool:
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
        asset=row.asset_id,
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
