"""When we were listening, to what, and when nobody was: sessions, channels, blind intervals.

Knows session records and where each event was heard; knows no balance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any, Final

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import (
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    FrameQuarantined,
    FrameReleased,
    OrderUpdated,
    SessionClosed,
    SessionOpened,
    time_of,
)
from ledger.ledger import FILE_SESSION
from projections.statements import Statements
from projections.subscription import Subscription
from projections.tables import Database, Table


class SessionRow(Struct):
    """One conversation of a login (`account`). `closed_*` and the counts are those of the last closing recorded."""

    account: str
    session: str
    venue: str
    version: int
    opened_ns: int
    closed_ns: int | None = None
    closed_ordinal: int = 0
    cause: str | None = None
    frames: int = 0
    recorded: int = 0
    duplicates: int = 0
    control: int = 0
    quarantined: int = 0


class ChannelRow(Struct):
    """What one session said of an account on one channel; times of receipt, but `stated_ns` (when the last full
    statement was true). `full_*`: the first full statement received."""

    account: str
    session: str
    channel: str
    first_ns: int
    first_version: int
    last_ns: int
    last_version: int
    last_ordinal: int
    events: int = 0
    quarantined: int = 0
    balances: int = 0
    imported: int = 0
    memos: int = 0
    executed: int = 0
    numbered: int = 0
    full_ns: int | None = None
    full_version: int | None = None
    stated_ns: int | None = None


class Session(Struct, frozen=True):
    """One conversation of a login. `last_ns`: when it was last heard; `until_ns`: until when we were listening; `open`:
    no closing is recorded after what was heard last (it goes on, or it crashed); `timed`: its times are those of
    listening, not those of reading a file."""

    account: str
    session: str
    venue: str
    version: int
    opened_ns: int
    last_ns: int
    closed_ns: int | None
    cause: str | None
    frames: int
    recorded: int
    duplicates: int
    control: int
    quarantined: int
    open: bool
    timed: bool

    @property
    def until_ns(self) -> int:
        """Until when we were listening: the closing, else the last event."""
        return self.last_ns if self.closed_ns is None else max(self.closed_ns, self.last_ns)


class Blind(Struct, frozen=True):
    """Nobody listened to an account from `from_ns` to `to_ns`. `session` is the one that began after it; `version`, the
    first event of the account from then on; `closed_*`, the first full statement from then on."""

    account: str
    from_ns: int
    to_ns: int
    session: str
    version: int
    closed_by: int | None
    closed_ns: int | None


class Listening(Struct, frozen=True):
    """All there is to say of how an account was heard: its logins' sessions from the first in which it was, what each
    said of it, the times of listening (from, to; ns), and the blind ones."""

    account: str
    sessions: Sequence[Session]
    channels: Sequence[ChannelRow]
    intervals: Sequence[tuple[int, int]]
    blind: Sequence[Blind]


class SessionsFold:
    """Sessions and channels, event by event; the rest is worked out when read, so the order of recordings is nothing
    to it."""

    def __init__(self, database: Database | None) -> None:
        self._sessions: Final = Table(database, "sessions", SessionRow, key=2, index="session")
        self._channels: Final = Table(database, "session_channels", ChannelRow, key=3, index="session")
        self._statements: Final = Statements(database, "session_pages")
        self._moved = 0
        self._before: Final[set[str]] = set()
        """The sessions that do not reach into the last time of listening of an account that was asked for."""
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._sessions,
            self._channels,
            *self._statements.tables,
        )

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        source, account = event.source, recorded.account
        if type(event) is SessionOpened:
            row = SessionRow(account, source.session, source.venue, recorded.version, source.received_ns)
            self._sessions.put(row)
        elif type(event) is SessionClosed:
            self._close(account, event)
        elif type(event) is not FrameReleased:  # which says nothing
            self._hear(recorded)

    def _close(self, account: str, event: SessionClosed) -> None:
        source = event.source
        row = self._sessions.get(account, source.session)
        if row is None or source.ordinal < row.closed_ordinal:
            return
        row.closed_ns, row.closed_ordinal, row.cause = source.received_ns, source.ordinal, event.cause
        row.frames, row.recorded, row.duplicates = event.frames, event.recorded, event.duplicates
        row.control, row.quarantined = event.control, event.quarantined
        self._sessions.put(row)

    def _hear(self, recorded: Recorded) -> None:
        event = recorded.event
        source, version = event.source, recorded.version
        received_ns = source.received_ns
        row = self._channels.get(recorded.account, source.session, source.channel)
        moves = source.session in self._before
        if row is None:
            row = ChannelRow(
                recorded.account,
                source.session,
                source.channel,
                received_ns,
                version,
                received_ns,
                version,
                source.ordinal,
            )
        if received_ns < row.first_ns:
            row.first_ns, moves = received_ns, True
        if received_ns > row.last_ns:
            row.last_ns = received_ns
        if source.ordinal > row.last_ordinal:
            row.last_ordinal = source.ordinal
        row.last_version = version
        moves = moves or row.events == row.quarantined
        row.events += 1
        if type(event) is BalanceSnapshot or type(event) is BalanceDelta:
            row.balances += 1
        elif type(event) is BalanceEventImported:
            moves = moves or row.imported == 0
            row.imported += not event.memo
            row.memos += event.memo
        elif type(event) is FrameQuarantined:
            row.quarantined += 1
        elif type(event) is OrderUpdated:
            row.executed += event.executed is not None
        if source.sequence is not None and source.subscription is not None:
            row.numbered += 1
        if self._statements.apply(recorded) is not None:
            if row.full_ns is None or received_ns < row.full_ns:
                row.full_ns, row.full_version, moves = received_ns, version, True
            row.stated_ns = max(row.stated_ns or 0, time_of(event))
        self._channels.put(row)
        if moves:
            self._moved += 1
            self._before.clear()

    @property
    def changed(self) -> tuple[int, int]:
        """The same while of the accounts that `listening` was asked for the logins and the blind intervals are: more
        that is heard in the last time of listening only makes that longer."""
        return self._moved, self._sessions.changed  # which all tables' rows are forgotten with

    def sessions(self, login: str | None = None) -> dict[str, Session]:
        """Every session, or those of a login, by id."""
        if login is None:
            return _sessions(self._sessions.rows(), self._channels.rows())
        rows = [*self._sessions.rows(login)]
        return _sessions(rows, self._channels.among("session", [row.session for row in rows]))

    def listening(self, account: str | None = None) -> list[Listening]:
        """How each account was heard, by account; also logins that were told nothing."""
        channels: dict[str, list[ChannelRow]] = defaultdict(list)
        for row in self._channels.rows(account):
            channels[row.account].append(row)
        if account is None:
            sessions = self.sessions()
        else:  # of the logins it was heard through, and no other
            names = {row.session for row in channels.get(account, ())}
            through = {row.account for row in self._sessions.among("session", sorted(names))}
            sessions = {}
            for login in through | {account}:
                sessions |= self.sessions(login)
        logins: dict[str, set[str]] = defaultdict(set)
        heard: set[str] = set()
        for row in chain.from_iterable(channels.values()):
            if row.session in sessions:
                logins[row.account].add(sessions[row.session].account)
                heard.add(sessions[row.session].account)
        for session in sessions.values():
            if session.account == account or (account is None and session.account not in heard):
                logins[session.account].add(session.account)
        of: dict[str, list[Session]] = defaultdict(list)
        for session in sorted(sessions.values(), key=lambda each: (each.opened_ns, each.session)):
            of[session.account].append(session)
        found = [
            _listening(name, channels[name], [each for login in sorted(logins[name]) for each in of[login]])
            for name in sorted({*channels, *logins})
        ]
        for each in found:
            since_ns = each.intervals[-1][0] if each.intervals else 0
            last = {one.session for one in each.sessions if one.timed and one.until_ns >= since_ns}
            ours = chain.from_iterable(of[login] for login in logins[each.account])
            self._before.update(one.session for one in ours if one.session not in last)
        return found


class Sessions:
    """Every session, and when each account was listened to. Catches up when read."""

    name = "sessions"
    version = 3

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self.fold: Final = SessionsFold(database)
        self.tables: Final = self.fold.tables
        self.apply: Final = self.fold.apply
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[Session]:
        """The sessions of a login, or all, by login and time."""
        self.subscription.catch_up()
        found = self.fold.sessions(account).values()
        return sorted(found, key=lambda each: (each.account, each.opened_ns, each.session))

    def listening(self, account: str | None = None) -> list[Listening]:
        """How each account was heard, by account."""
        self.subscription.catch_up()
        return self.fold.listening(account)


def _sessions(rows: Iterable[SessionRow], channels: Iterable[ChannelRow]) -> dict[str, Session]:
    """Sessions by id, of their rows and of what was heard in them."""
    heard: dict[str, tuple[int, int, int]] = {}
    for row in channels:
        last_ns, ordinal, quarantined = heard.get(row.session, (0, 0, 0))
        heard[row.session] = (
            max(last_ns, row.last_ns),
            max(ordinal, row.last_ordinal),
            quarantined + row.quarantined,
        )
    return {row.session: _session(row, *heard.get(row.session, (0, 0, 0))) for row in rows}


def _session(row: SessionRow, last_ns: int, last_ordinal: int, quarantined: int) -> Session:
    closed = row.closed_ns is not None and last_ordinal <= row.closed_ordinal
    return Session(
        row.account,
        row.session,
        row.venue,
        row.version,
        row.opened_ns,
        max(last_ns, row.opened_ns),
        row.closed_ns if closed else None,
        row.cause if closed else None,
        max(row.frames, last_ordinal),
        row.recorded,
        row.duplicates,
        row.control,
        max(row.quarantined, quarantined),
        not closed,
        not row.session.startswith(FILE_SESSION),
    )


def _listening(account: str, channels: Sequence[ChannelRow], sessions: Sequence[Session]) -> Listening:
    """`sessions` are all of the account's logins. What was before it was heard for the first time is not about it."""
    first_ns = min((row.first_ns for row in channels), default=0)
    ours = sorted(
        (each for each in sessions if each.until_ns >= first_ns),
        key=lambda each: (each.opened_ns, each.session),
    )
    intervals = _union((each.opened_ns, each.until_ns) for each in ours if each.timed)
    return Listening(account, ours, channels, intervals, _blind(account, channels, ours, intervals))


def _union(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    union: list[tuple[int, int]] = []
    for since, until in sorted(intervals):
        if union and since <= union[-1][1]:
            union[-1] = (union[-1][0], max(until, union[-1][1]))
        else:
            union.append((since, until))
    return union


def _blind(
    account: str,
    channels: Sequence[ChannelRow],
    sessions: Sequence[Session],
    intervals: Sequence[tuple[int, int]],
) -> list[Blind]:
    """The times between those of listening. None where the venue's own history was imported: there the running balance
    tells what is missing; and none of an account of which nothing was said."""
    if any(row.imported for row in channels) or all(row.events == row.quarantined for row in channels):
        return []
    first_heard_ns = min(row.first_ns for row in channels if row.events > row.quarantined)
    timed = [each for each in sessions if each.timed]
    opened = {each.session: each.opened_ns for each in timed}
    first = {each.opened_ns: each.session for each in reversed(timed)}
    # What is said in sessions that began at or after a time, latest first; and before a time, earliest first.
    told = [
        (opened[row.session], row.first_version, row.full_ns, row.full_version)
        for row in channels
        if row.session in opened
    ]
    told += [(each.opened_ns, each.version, None, None) for each in sessions if each.account == account]
    told.sort(key=lambda each: each[0])
    heard = sorted(((row.last_ns, row.last_version) for row in channels), reverse=True)
    found: list[Blind] = []
    version: int | None = None
    full: tuple[int, int | None] | None = None
    for (_, from_ns), (to_ns, _) in reversed(list(pairwise(intervals))):
        if first_heard_ns > from_ns:
            break
        while told and told[-1][0] >= to_ns:
            _, said, full_ns, full_version = told.pop()
            version = said if version is None else min(version, said)
            if full_ns is not None:
                full = (full_ns, full_version) if full is None else min(full, (full_ns, full_version))
        before = (
            next((last for last_ns, last in heard if last_ns <= from_ns), 0) if version is None else version
        )
        closed_ns, closed_by = (None, None) if full is None else full
        found.append(Blind(account, from_ns, to_ns, first[to_ns], before, closed_by, closed_ns))
    return found[::-1]
