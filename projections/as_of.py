"""Balances as of a moment: what the statements said by then come to.

Knows events, the folds of balances and gaps, and where checkpoints of them are; keeps no rows. From the last checkpoint
of which nothing is of after the moment it folds the events since then that are of before it; with no checkpoint, all.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import known_ns, time_of
from projections.checkpoints import Checkpoints, Folds, is_said
from projections.completeness import Later
from projections.gaps import Gap, Gaps
from projections.holdings import ByAccount, HeldRow, by_account, judged, known
from projections.tables import Cell, Scratch
from projections.unread import NewestRow, Unread, UnreadRow

EVER: Final = (1 << 63) - 1
"""A version, position or time after all others."""
EVERY: Final = (1 << 62) - 1
"""Rows: how many there are."""
EVENTS_WAITING_MAX: Final = 1_000
"""Events held in memory; the rows of more are written to a scratch database."""
ACCOUNTS_KEPT_MAX: Final = 64
"""Accounts of which the logins and the gaps are remembered until something is recorded."""


class Moment(Struct, frozen=True):
    """Up to where events count: to a version and a position, those of times up to `time_ns`, known by `known_ns`."""

    version: int = EVER
    position: int = EVER
    time_ns: int = EVER
    known_ns: int = EVER

    def knows(self, recorded: Recorded) -> bool:
        """Whether an event had been recorded by then, and was known."""
        return (
            recorded.version <= self.version
            and recorded.position <= self.position
            and (self.known_ns == EVER or known_ns(recorded.event) <= self.known_ns)
        )


class AsOf(ByAccount):
    """Balances as of a moment; indexed like Balances. Of one account only where it was asked for one: ValueError says
    so to whoever asks for another."""

    def __init__(self, folds: Folds, unread: Unread, account: str | None, later: Mapping[str, Later]) -> None:
        self._fold: Final = folds.balances
        self._account: Final = account
        self._known: Final = known(folds.balances, *folds.gaps.with_logins(account), account)
        self._unread: Final = unread
        self._later: Final = later

    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held at that moment, by account and asset id."""
        if account is not None and self._account not in (None, account):
            raise ValueError(f"these are balances of {self._account}, not of {account}")
        return judged(self._fold, self._known, account, self._unread, self._later)


class Plan(Struct, frozen=True):
    """How an account comes to a moment: on from the checkpoint of a version (0: from nothing), with the events of these
    ranges of versions (after, upto). `last`: the version of its last checkpoint."""

    moment: Moment
    start: int
    ranges: Sequence[tuple[int, int]]
    last: int


class Past:
    """Answers as of moments. Brings the checkpoints up to date, where it may write."""

    def __init__(self, ledger: Ledger, checkpoints: Checkpoints, gaps: Gaps) -> None:
        self._ledger: Final = ledger
        self._checkpoints: Final = checkpoints
        self._gaps: Final = gaps
        self._head = -1
        self._covered = 0
        """How far the checkpoints go: what is of later positions is in none."""
        self._names: Final[dict[str | None, frozenset[str]]] = {}
        self._now: Final[dict[str | None, Sequence[Gap]]] = {}
        self._ends: Final[dict[str, tuple[int, Sequence[Recorded] | None]]] = {}
        """The last checkpoint of an account, and the events after it."""
        self._unread_ever = False
        """Whether there are frames that nobody could read when they came."""

    def at(self, moment: Moment, account: str | None) -> AsOf:
        """As of a moment, of one account or of all."""
        self._bring_up()
        plans = self._plans(moment, account)
        unread = self._unread(plans, every=account is None)
        next_ns: dict[str, int] = {}
        said: list[Recorded] = []
        with self._folds(plans) as (folds, events):
            for recorded in events:
                name, event = recorded.account, recorded.event
                if not plans[name].moment.knows(recorded):
                    continue
                time_ns = time_of(event)
                over = time_ns > moment.time_ns
                if recorded.position > self._covered and (not over or event.source.late_ns is not None):
                    unread.apply(recorded)  # what was read late is known by now, also where it is of later
                if not over:
                    said.append(recorded)
                elif is_said(recorded):
                    next_ns[name] = min(time_ns, next_ns.get(name, time_ns))
                if len(said) == EVENTS_WAITING_MAX:
                    folds.apply(said, account)
                    said = []
            folds.apply(said, account)
            folds.settle()
            later: Mapping[str, Later] = {}
            if moment.time_ns != EVER:
                later = self._later(plans, self._ever(moment.known_ns, account), next_ns)
            return AsOf(folds, unread, account, later)

    def _bring_up(self) -> None:
        """See what is new, and forget what may be otherwise now."""
        head, covered = self._ledger.position(), self._checkpoints.covered()
        if not self._checkpoints.database.read_only and (head != self._head or covered < head):
            self._checkpoints.catch_up()
            covered = self._checkpoints.covered()
        if (head, covered) != (self._head, self._covered):
            self._head, self._covered = head, covered
            for kept in (self._names, self._now, self._ends):
                kept.clear()
            self._unread_ever = covered > 0 and self._checkpoints.has_frames()

    def _of(self, account: str | None) -> frozenset[str]:
        """An account, and the logins it was heard through: they tell when nobody was listening."""
        if account not in self._names:
            if len(self._names) == ACCOUNTS_KEPT_MAX:
                self._names.clear()
            self._gaps.sessions.subscription.catch_up()
            logins = self._gaps.logins(account)
            names = frozenset(logins) if account is None else frozenset({account})
            self._names[account] = names.union(*logins.values())
        return self._names[account]

    def _plans(self, moment: Moment, account: str | None) -> dict[str, Plan]:
        """A plan for each account: what logins did after an account's version does not count."""
        names, others = self._of(account), moment
        if account is not None and len(names) > 1 and moment.version != EVER:
            found = next(self._ledger.replay(account, after=moment.version - 1, upto=moment.version), None)
            position = EVER if found is None else found.position
            others = Moment(EVER, position, moment.time_ns, moment.known_ns)
        return {name: self._plan(name, moment if name == account else others) for name in sorted(names)}

    def _plan(self, name: str, moment: Moment) -> Plan:
        checkpoints, upto = self._checkpoints, moment.version
        last, apart = self._end(name)[0], checkpoints.apart
        near = min(last, upto)
        if (moment.position, moment.time_ns, moment.known_ns) == (EVER, EVER, EVER):
            start = near - near % apart
            return Plan(moment, start, [(start, upto)], last)
        until = (moment.position, moment.time_ns, moment.known_ns)
        start = checkpoints.before(name, near, *until) if near else 0
        if start == last:
            return Plan(moment, start, [(start, upto)], last)
        late = checkpoints.late(name, start + apart, last, moment.time_ns, moment.known_ns)
        ranges = [(end - apart, min(end, upto)) for end in (start + apart, *late, last + apart)]
        ranges[-1] = (last, upto)
        return Plan(moment, start, [each for each in ranges if each[0] < each[1]], last)

    @contextmanager
    def _folds(self, plans: Mapping[str, Plan]) -> Generator[tuple[Folds, Iterator[Recorded]]]:
        """The folds as the checkpoints have them, and the events of the plans in the order they were appended."""
        each = [self._events(name, plan) for name, plan in plans.items()]
        events = each[0] if len(each) == 1 else merge(*each, key=attrgetter("position"))
        first = list(islice(events, EVENTS_WAITING_MAX + 1))
        with ExitStack() as stack:
            # Many events may be many rows: those of gaps need not stay in memory.
            scratch = stack.enter_context(Scratch()) if len(first) > EVENTS_WAITING_MAX else None
            folds = self._checkpoints.folds(scratch)
            for name, plan in plans.items():
                if plan.start:
                    folds.restore(name, plan.start, self._checkpoints.states(name, plan.start))
            yield folds, chain(first, events)

    def _events(self, name: str, plan: Plan) -> Iterator[Recorded]:
        for after, upto in plan.ranges:
            end, tail = self._end(name)
            yield from (
                self._ledger.replay(name, after=after, upto=upto) if after < end or tail is None else tail
            )

    def _end(self, name: str) -> tuple[int, Sequence[Recorded] | None]:
        """The last checkpoint of an account, and the events after it, where they are few."""
        if name not in self._ends:
            if len(self._ends) == ACCOUNTS_KEPT_MAX:
                self._ends.clear()
            last = self._checkpoints.last(name, self._covered)
            tail = (
                list(islice(self._ledger.replay(name, after=last), self._checkpoints.apart)) if last else None
            )
            few = tail is not None and len(tail) < self._checkpoints.apart
            self._ends[name] = (last, tail if few else None)
        return self._ends[name]

    def _unread(self, plans: Mapping[str, Plan], *, every: bool) -> Unread:
        """The frames that nobody could read by then, as far as the checkpoints go."""
        unread = Unread(None)
        if not self._unread_ever:
            return unread
        frames, newest = unread.tables
        moment = next(iter(plans.values())).moment
        read = "r.known_ns<=? AND r.version<=?"
        by: list[Cell] = [moment.known_ns, moment.version]
        if not every:
            read = " OR ".join(
                ["(r.known_ns<=? AND r.account=? AND r.version<=? AND r.position<=?)"] * len(plans)
            )
            by = [
                cell
                for name, plan in plans.items()
                for cell in (plan.moment.known_ns, name, plan.moment.version, plan.moment.position)
            ]
        for name, plan in plans.items():
            of = plan.moment
            upto = (of.version, of.position, of.time_ns, of.known_ns)
            # Where nothing came since, the newest is all that is asked for.
            found = self._checkpoints.frames(
                name, upto, read, by, 1 if self._covered >= self._head else EVERY
            )
            for row in found:
                frames.put(UnreadRow(name, row.session, row.ordinal, row.version, row.position))
            if found:
                newest.put(NewestRow(name, found[0].version, found[0].position))
        return unread

    def _later(
        self, plans: Mapping[str, Plan], gaps: Sequence[Gap], next_ns: Mapping[str, int]
    ) -> dict[str, Later]:
        """What is known since the moment, by account."""
        found: dict[str, Later] = {}
        for name, ever in by_account(gaps).items():
            plan = plans[name]
            heard = [next_ns[name]] if name in next_ns else []
            if plan.last and any(gap.kind == "sequence" for gap in ever):
                heard += self._heard(name, plan)
            at = plan.moment.time_ns
            found[name] = Later(at, ever, min(heard, default=at))
        return found

    def _ever(self, known_ns: int, account: str | None) -> Sequence[Gap]:
        """The gaps as known now, or by a time; without those of fills."""
        now = known_ns == EVER
        if now and account in self._now:
            return self._now[account]
        plans = self._plans(Moment(known_ns=known_ns), account)
        with self._folds(plans) as (folds, events):
            for recorded in events:
                if plans[recorded.account].moment.knows(recorded):
                    folds.gaps.apply(recorded)
            found = folds.gaps.rows(account)
        if now:
            if len(self._now) == ACCOUNTS_KEPT_MAX:
                self._now.clear()
            self._now[account] = found
        return found

    def _heard(self, name: str, plan: Plan) -> list[int]:
        """When something was heard first after the moment, where that is in none of the plan's ranges."""
        moment, times = plan.moment, list[int]()
        for end, said_ns in self._checkpoints.heard(name, plan.start, plan.last, moment.time_ns):
            if moment.known_ns == EVER:
                times.append(said_ns)
                continue
            for recorded in self._ledger.replay(name, after=end - self._checkpoints.apart, upto=end):
                time_ns = time_of(recorded.event)
                if moment.knows(recorded) and is_said(recorded) and time_ns > moment.time_ns:
                    times.append(time_ns)
        return times
