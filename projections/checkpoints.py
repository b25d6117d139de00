"""What an account's folds had come to, every so many events: so that a balance as of a moment folds a few events only.

Knows the folds of balances and gaps, and when each event was true and known; judges nothing. What is kept is of one
account and its own events alone: it is the same whatever happened to others, and whenever it is made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import (
    BalanceEventImported,
    FrameQuarantined,
    SessionClosed,
    SessionOpened,
    known_ns,
    time_of,
)
from projections.balances_fold import BalancesFold
from projections.gaps import GapsFold
from projections.history import EndRow, FreshRow, History
from projections.history_upto import ChainSpanRow, EndedRow, HistoryUpto
from projections.subscription import Subscription
from projections.tables import Cell, Database, Ordered, Scratch, Table

EVENTS_APART: Final = 64
"""How many events of an account lie between two checkpoints. Another number is another `Checkpoints.version`."""
FOLDS_KEPT_MAX: Final = 16
"""Accounts whose folds are remembered until their next checkpoint."""
RECENT_EVENTS_MAX: Final = FOLDS_KEPT_MAX * EVENTS_APART
"""Events that are remembered until their account's next checkpoint; where there are more, they are read again."""

Written: TypeAlias = list[tuple[str, list[tuple[Any, ...]], list[tuple[Any, ...]]]]
"""Of each table that changed: its name, the rows as they are now, and the keys of those that are no more."""
_written: Final = msgspec.msgpack.Decoder(Written)
_encode: Final = msgspec.msgpack.Encoder().encode


class CheckpointRow(Struct):
    """The folds of an account after the event of a version. `state` holds the rows that changed since the checkpoint
    before, or, where `whole` is this version, all of them: the state is that of `whole` and all from then on to this.
    """

    account: str
    version: int
    position: int
    reached_ns: int
    """The latest time of an event up to it."""
    known_ns: int
    """The latest time at which one up to it came to be known."""
    whole: int
    whole_bytes: int
    changed_bytes: int
    """Of the states between `whole` and this one, this one with them."""
    state: bytes


class SpanRow(Struct):
    """The same, to be found by time. `said_ns`: the earliest time of something said (no session began or ended with it)
    since the checkpoint before; None where there is nothing, or `LateRow` has it."""

    account: str
    reached_ns: int
    version: int
    position: int
    known_ns: int
    said_ns: int | None


class LateRow(Struct):
    """Events up to a checkpoint, from the one before it, of which one is of an earlier time than an event before them
    or was known earlier: the earliest times."""

    account: str
    version: int
    least_ns: int
    least_known_ns: int
    said_ns: int | None


class FrameRow(Struct):
    """One frame without a number that could not be read when it came (`projections.unread`)."""

    account: str
    version: int
    position: int
    session: str
    ordinal: int
    time_ns: int
    known_ns: int


class ReadRow(Struct):
    """An event of such a frame, read late."""

    account: str
    session: str
    ordinal: int
    version: int
    position: int
    known_ns: int


class Folds:
    """What a balance as of a moment is folded into; with a scratch database, for a long run of events. Of histories it
    holds what came since the checkpoint; the rows before are read from the database, the `ends` of instants as there.
    """

    def __init__(self, database: Database, ends: Ordered[EndedRow], scratch: Scratch | None = None) -> None:
        self._spans: Final = Table(None, "history_spans", ChainSpanRow, key=2)
        self._fresh: Final = Table(None, "history_fresh", FreshRow, key=2)
        self._before: Final = HistoryUpto(database, self._spans, ends)
        self.balances: Final = BalancesFold(None)
        self.gaps: Final = GapsFold(scratch, fills=False, before=self._before)
        apart = {*self.balances.unread.tables, *self.gaps.history.let_go_tables}
        every = (*self.balances.tables, *self.gaps.tables, self._spans, self._fresh)
        self._tables: Final[dict[str, Table[Any]]] = {
            table.name: table for table in every if table not in apart
        }

    def apply(self, run: Sequence[Recorded], account: str | None = None) -> None:
        """Fold events; of the balances those of one account only, where it is named."""
        stating = run if account is None else [each for each in run if each.account == account]
        self.balances.apply_all(stating)
        for each in run:
            self.gaps.apply(each)

    def settle(self) -> None:
        """Make rows of what waits."""
        self.balances.settle()

    def restore(self, account: str, version: int, states: Iterable[bytes]) -> None:
        """Go on from the checkpoint of a version of an account: the states from its whole one on."""
        for state in states:
            for name, kept, gone in _written.decode(state):
                self._tables[name].restore(kept, gone)
        self._before.reach(account, version)
        self.gaps.history.resume([*self._fresh.rows(account)])

    def let_go(self, account: str, version: int) -> list[EndRow]:
        """At a checkpoint: what came of an account's histories since the one before is not remembered from now on. The
        instants that end otherwise since."""
        self._before.reach(account, version)
        rows, ends = self.gaps.history.let_go()
        for row in rows:
            span = self._spans.get(account, row.asset_id)
            if span is None:
                span = ChainSpanRow(account, row.asset_id, row.time_ns, row.time_ns)
            elif span.first_ns <= row.time_ns <= span.last_ns:
                continue
            span.first_ns, span.last_ns = min(span.first_ns, row.time_ns), max(span.last_ns, row.time_ns)
            self._spans.put(span)
        fresh = {each.version: each for each in self.gaps.history.fresh(account)}
        for known in [*self._fresh.rows(account)]:
            if fresh.pop(known.version, None) is None:
                self._fresh.drop(known)
        for each in fresh.values():
            self._fresh.put(each)
        return ends

    def changes(self) -> bytes:
        """The rows that changed since this was asked before."""
        changed: Written = []
        for name, table in self._tables.items():
            (_, kept), (_, gone) = table.changes()
            if kept or gone:
                width = len(table.key)
                kept.sort(key=lambda values, width=width: values[:width])  # type: ignore[misc]
                changed.append((name, kept, sorted(gone)))
        return _encode(changed)

    def whole(self) -> bytes:
        """All rows."""
        rows = [(name, [_values(row) for row in table.rows()]) for name, table in self._tables.items()]
        return _encode([(name, found, []) for name, found in rows if found])


def _values(row: Struct) -> tuple[Any, ...]:
    return tuple(getattr(row, field) for field in row.__struct_fields__)


class Checkpoints:
    """Checkpoints of all accounts; they are made when their last event is folded. Rows of imported
    histories are in none: those up to its version are read from the tables of `projections.history`."""

    name = "balance_checkpoints"
    version = 6

    def __init__(
        self, ledger: Ledger, database: Database | None = None, history: History | None = None
    ) -> None:
        self._ledger: Final = ledger
        self.database: Final[Database] = ledger if database is None else database
        self._states: Final = Table(self.database, "balance_checkpoints", CheckpointRow, key=2)
        self._spans: Final = Table(self.database, "balance_checkpoint_times", SpanRow, key=3)
        self._late: Final = Table(self.database, "balance_checkpoints_late", LateRow, key=2)
        self._frames: Final = Table(self.database, "balance_checkpoint_frames", FrameRow, key=2)
        self._reads: Final = Table(self.database, "balance_checkpoint_reads", ReadRow, key=4)
        self._ends: Final = Ordered(self.database, "balance_checkpoint_ends", EndedRow, key=4)
        self._history: Final = history or History(ledger, self.database)
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._states,
            self._spans,
            self._late,
            self._frames,
            self._reads,
            self._ends,
        )
        self._folds: Final[OrderedDict[str, tuple[int, Folds]]] = OrderedDict()
        self._recent: Final[dict[str, list[Recorded]]] = {}
        """By account, events that follow one another, up to the one folded last."""
        self._recent_events = 0
        self._begun: int | None = None
        """The position before the first event that was folded here."""
        self._settled = self._stored = False
        self.apart: Final = EVENTS_APART
        self.subscription: Final = Subscription(ledger, self, database or ledger)

    def settle(self) -> None:
        """What was folded is written now."""
        self._settled = True

    def forget(self) -> None:
        """Forget what is not written."""
        self._folds.clear()
        self._recent.clear()
        self._recent_events = 0
        self._begun = None

    def apply(self, recorded: Recorded) -> None:
        """Fold one event: where it is the last one before a checkpoint, with those since the one before."""
        if self._settled and not self.database.read_only:
            for table in self.tables:
                table.forget()  # written, and not read again
        self._settled = False
        event, source = recorded.event, recorded.event.source
        if source.late_ns is not None or type(event) is FrameQuarantined:
            self._note(recorded)
        if self._begun is None:
            self._begun = recorded.position - 1
        recent = self._recent.get(recorded.account)
        if recent is None:
            recent = self._recent[recorded.account] = []
        recent.append(recorded)
        self._recent_events += 1
        if recorded.version % self.apart == 0:
            self._take(recorded)
            del self._recent[recorded.account]
            self._recent_events -= len(recent)
        elif self._recent_events > RECENT_EVENTS_MAX:
            self._recent.clear()
            self._recent_events = 0

    def _note(self, recorded: Recorded) -> None:
        """As `projections.unread` does."""
        account, version, position = recorded.account, recorded.version, recorded.position
        source, known = recorded.event.source, known_ns(recorded.event)
        if source.late_ns is not None:
            self._reads.put(ReadRow(account, source.session, source.ordinal, version, position, known))
        elif source.sequence is None:
            place = (source.session, source.ordinal)
            self._frames.put(FrameRow(account, version, position, *place, time_of(recorded.event), known))

    def _take(self, recorded: Recorded) -> None:
        if self.database.read_only:
            return  # a reader keeps none
        account, version = recorded.account, recorded.version
        after = version - self.apart
        before = self._states.get(account, after) if after else None
        if after and before is None:
            return
        events = self._recent[account]
        if len(events) != self.apart:
            events = list(self._ledger.replay(account, after=after, upto=version))
        self._bring_history(recorded.position, events)
        folds = self._at(account, before)
        folds.apply(events)
        folds.settle()
        self._folds[account] = (version, folds)
        while len(self._folds) > FOLDS_KEPT_MAX:
            self._folds.popitem(last=False)
        for end in folds.let_go(account, version):
            self._ends.put(EndedRow(account, end.asset_id, end.time_ns, version, end.version))
        self._keep(before, events, folds)

    def _bring_history(self, position: int, events: Sequence[Recorded]) -> None:
        """Have the rows stored that folds read: those of imported events before the first one that was folded here,
        and from then on."""
        assert self._begun is not None
        wanted = position if any(map(is_imported, events)) else self._begun
        if self._history.subscription.position < wanted:
            self._history.subscription.refresh()
        if self._history.subscription.position < wanted:
            self._history.subscription.catch_up()

    def _at(self, account: str, before: CheckpointRow | None) -> Folds:
        """The folds after a checkpoint."""
        version, folds = self._folds.pop(account, (0, None))
        if folds is not None and before is not None and version == before.version:
            return folds
        folds = self.folds()
        if before is not None:
            folds.restore(account, before.version, self._chain(before))
            folds.changes()
        return folds

    def _chain(self, row: CheckpointRow) -> Iterator[bytes]:
        for version in range(row.whole, row.version, self.apart):
            found = self._states.get(row.account, version)
            assert found is not None, version
            yield found.state
        yield row.state

    def _keep(self, before: CheckpointRow | None, events: Sequence[Recorded], folds: Folds) -> None:
        last = events[-1]
        times = [time_of(each.event) for each in events]
        known = [known_ns(each.event) for each in events]
        place = (last.account, last.version, last.position)
        reached, knew = max(times), max(known)
        least, least_known = min(times), min(known)
        is_late = before is not None and (least < before.reached_ns or least_known < before.known_ns)
        if before is not None:
            reached, knew = max(reached, before.reached_ns), max(knew, before.known_ns)
        said = min((time_of(each.event) for each in events if is_said(each)), default=None)
        span = SpanRow(last.account, reached, last.version, last.position, knew, None if is_late else said)
        self._spans.put(span)
        if is_late:
            self._late.put(LateRow(last.account, last.version, least, least_known, said))
        state = folds.changes()
        if before is not None and before.changed_bytes + len(state) < before.whole_bytes:
            sizes = (before.whole, before.whole_bytes, before.changed_bytes + len(state))
        else:
            state = folds.whole()
            sizes = (last.version, len(state), 0)
        self._states.put(CheckpointRow(*place, reached, knew, *sizes, state))

    def folds(self, scratch: Scratch | None = None) -> Folds:
        """Folds to go on from a checkpoint with."""
        return Folds(self.database, self._ends, scratch)

    def catch_up(self) -> None:
        """Make those that are due."""
        self._history.subscription.catch_up()
        self.subscription.catch_up()

    def covered(self) -> int:
        """Up to which position checkpoints are stored, and the histories they are of: what is of later ones is in
        none."""
        if not self._stored:
            self._stored = bool(self.database.columns("projection_positions"))
            if not self._stored:
                return 0
        sql = (
            "SELECT CASE count(*) WHEN 2 THEN min(position) END FROM projection_positions "
            "WHERE (name=? AND version=?) OR (name=? AND version=?)"
        )
        return self._first(sql, (self.name, self.version, self._history.name, self._history.version))

    def has_frames(self) -> bool:
        """Whether there are frames that nobody could read when they came."""
        return bool(self._rows("SELECT 1 FROM balance_checkpoint_frames LIMIT 1", ()))

    def last(self, account: str, covered: int) -> int:
        """The version of an account's last checkpoint; 0 where it has none."""
        sql = "SELECT version FROM balance_checkpoints WHERE account=? AND position<=? ORDER BY version DESC LIMIT 1"
        return self._first(sql, (account, covered)) if covered else 0

    def before(self, account: str, version: int, position: int, time_ns: int, known_ns: int) -> int:
        """The version of the last checkpoint of which nothing is of after any of these; 0 where there is none."""
        sql = (
            "SELECT version FROM balance_checkpoint_times WHERE account=? AND reached_ns<=? AND version<=? "
            "ORDER BY reached_ns DESC, version DESC LIMIT 1"
        )
        found = self._first(sql, (account, time_ns, version)) // self.apart
        sql = (
            "SELECT 1 FROM balance_checkpoints WHERE account=? AND version=? AND position<=? AND known_ns<=?"
        )

        def is_over(number: int) -> bool:  # once it is, it is from then on
            return not self._rows(sql, (account, number * self.apart, position, known_ns))

        if not found or not is_over(found):
            return found * self.apart
        return bisect_left(range(1, found), True, key=is_over) * self.apart

    def late(self, account: str, after: int, upto: int, time_ns: int, known_ns: int) -> list[int]:
        """The versions of the checkpoints that ended what holds an event of by then after one of after then."""
        sql = (
            "SELECT version FROM balance_checkpoints_late WHERE account=? AND version>? AND version<=? "
            "AND least_ns<=? AND least_known_ns<=? ORDER BY version"
        )
        return [int(row[0] or 0) for row in self._rows(sql, (account, after, upto, time_ns, known_ns))]

    def heard(self, account: str, after: int, upto: int, time_ns: int) -> list[tuple[int, int]]:
        """Where what was said first after a time may be: versions of the checkpoints that ended it, and the earliest
        times. The first one found in order, and all that came late."""
        where = "WHERE account=? AND version>? AND version<=? AND said_ns>?"
        place = (account, after, upto, time_ns)
        first = (
            f"SELECT version, said_ns FROM balance_checkpoint_times {where} AND reached_ns>? "
            "ORDER BY reached_ns, version LIMIT 1"
        )
        late = f"SELECT version, said_ns FROM balance_checkpoints_late {where}"
        found = [*self._rows(first, (*place, time_ns)), *self._rows(late, place)]
        return [(int(version or 0), int(said_ns or 0)) for version, said_ns in found]

    def states(self, account: str, version: int) -> list[bytes]:
        """What `Folds.restore` needs to go on from the checkpoint of a version."""
        sql = (
            "SELECT state FROM balance_checkpoints WHERE account=? AND version<=? AND version>="
            "(SELECT whole FROM balance_checkpoints WHERE account=? AND version=?) ORDER BY version"
        )
        return [row[0] for row in self._rows(sql, (account, version) * 2) if isinstance(row[0], bytes)]

    def frames(
        self, account: str, upto: tuple[int, int, int, int], read: str, by: Sequence[Cell], rows_max: int
    ) -> list[FrameRow]:
        """The frames that could not be read, newest first, up to a version, position and time, known by a time; but
        those that were read after all, as SQL of `balance_checkpoint_reads AS r`."""
        sql = (
            "SELECT account, version, position, session, ordinal, time_ns, known_ns "
            "FROM balance_checkpoint_frames AS f WHERE account=? AND version<=? AND position<=? AND time_ns<=? "
            "AND known_ns<=? AND NOT EXISTS (SELECT 1 FROM balance_checkpoint_reads AS r WHERE r.session=f.session "
            f"AND r.ordinal=f.ordinal AND r.position>f.position AND ({read})) ORDER BY version DESC LIMIT ?"
        )
        return [FrameRow(*row) for row in self._rows(sql, (account, *upto, *by, rows_max))]  # type: ignore[arg-type]

    def _first(self, sql: str, params: Sequence[Cell]) -> int:
        found = self._rows(sql, params)
        return int(found[0][0] or 0) if found else 0

    def _rows(self, sql: str, params: Sequence[Cell]) -> list[tuple[Cell, ...]]:
        return self.database.select(sql, params)


def is_imported(recorded: Recorded) -> bool:
    """Whether an event makes rows of a history."""
    return type(recorded.event) is BalanceEventImported


def is_said(recorded: Recorded) -> bool:
    """Whether an event tells something, and not when a session began or ended."""
    kind = type(recorded.event)
    return kind is not SessionOpened and kind is not SessionClosed
