"""Keeping projections up with the ledger: catch up, rebuild, compare with a fold from zero.

Knows recorded events, tables and positions; knows no venue and no transport. A projection's rows and its position are
written in one transaction, so each event is folded exactly once, whatever is killed when.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.errors import Overtaken
from ledger.events import Event
from projections import view_sql
from projections.tables import Cell, Change, Database, Once, Table, insert_sql

BATCH_EVENTS_MAX: Final = 10_000
AHEAD_RUNS: Final = 20
"""Runs of events of which what is stored is read at once."""
CONFLICTS_MAX: Final = 100
CONFLICT_S: Final = 0.05
FOLLOW_S: Final = 5.0
"""How often a follower looks for what it was not told of."""
STOP_S: Final = 0.25
"""How often a follower looks whether it is to stop."""
RESETS_MAX: Final = 10
"""How often a reset begins again because somebody else wrote meanwhile."""
REFRESHES_MAX: Final = 10
"""How often a catch up begins again because somebody else wrote the rows it read meanwhile."""

_POSITIONS: Final = (
    "CREATE TABLE IF NOT EXISTS projection_positions "
    "(name TEXT PRIMARY KEY, version INTEGER, position INTEGER, digest BLOB)"
)
_UNDIGESTED: Final = {"name", "version", "position"}
"""The columns of that table in versions before 0.4.0."""
_MARK: Final = insert_sql("projection_positions", ("name", "version", "position", "digest"), ("name",))
_FIRST: Final = (
    "INSERT INTO projection_positions (name, version, position, digest) VALUES (?,?,?,?) "
    "ON CONFLICT DO NOTHING"
)
_AGAIN: Final = (
    "UPDATE projection_positions SET version=?, position=?, digest=? "
    "WHERE name=? AND version=? AND position=?"
)
_MOVE: Final = (
    "UPDATE projection_positions SET position=?, digest=? WHERE name=? AND version=? AND position=?"
)


class Projection(Protocol):
    """What folds events into rows. `version` changes when the fold does: stored rows of another are not used."""

    @property
    def name(self) -> str:
        """Under which its position is kept."""
        ...

    @property
    def version(self) -> int:
        """Of its fold."""
        ...

    @property
    def subscription(self) -> Subscription:
        """Its place in the ledger."""
        ...

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """The tables it writes."""
        ...

    def apply(self, recorded: Recorded, /) -> None:
        """Fold one event."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A projection that judges whole frames, not event by event: what a frame opens and closes again never was.

    It settles a frame when it is given an event of the next one. `settle` is called before its rows are written or
    read; the last event folded is then the last of its frame, where no `upto` says otherwise.
    """

    def settle(self) -> None:
        """The frame at hand is over."""
        ...

    def forget(self) -> None:
        """Forget the frame at hand: its events will be folded again."""
        ...


@runtime_checkable
class Running(Settling, Protocol):
    """A projection that folds many events at once. What it holds back becomes rows when `settle` is called."""

    def apply_all(self, run: Sequence[Recorded], /) -> None:
        """Fold events that follow one another."""
        ...


@runtime_checkable
class LookingAhead(Protocol):
    """A projection that reads the stored rows of many events at once, before it folds them one by one."""

    def ahead(self, run: Sequence[Recorded], /) -> None:
        """These events are folded next."""
        ...


Place: TypeAlias = tuple[str, int]


def frame_of(event: Event) -> Place:
    """The frame an event was made of, as (session, ordinal); the ordinal is -1 for the records of a session itself. The
    events of a frame follow one another in the ledger."""
    source = event.source
    return (source.session, source.ordinal if source.evidence else -1)


_opening: Final = threading.Lock()
"""Tables are made by one thread at a time: the next finds them. (One process writes at a time.)"""


class Subscription:
    """One projection's place in the ledger. Writes what it folds; only remembers it where the database is read only.

    Rows in memory belong to a position. Where that is no longer sure (a write or a fold failed, somebody else wrote the
    rows) they are forgotten, and it goes on from what is stored.
    """

    def __init__(self, ledger: Ledger, projection: Projection, database: Database | None) -> None:
        self.ledger: Final = ledger
        self.position = 0
        self._stored = 0
        self._positions = False
        """Whether the table of positions is there."""
        self._running: bool | None = None
        self._projection = projection
        self._database = database
        if database is not None:
            self._open(database)

    def _open(self, database: Database) -> None:
        with _opening:
            columns = database.columns("projection_positions")
            self._positions = bool(columns)
            if not database.read_only and columns == _UNDIGESTED:
                database.write([("ALTER TABLE projection_positions ADD COLUMN digest BLOB", [()])])
            stored = self._read(database)
            if stored is not None:
                self.position = self._stored = stored
            elif database.read_only:
                self._detach()
            else:
                if not self._positions:
                    database.write([(_POSITIONS, [()])])
                try:
                    self._make(database)
                except Overtaken:  # another process did, at the same time
                    self.position = self._stored = self._read(database) or 0

    def _read(self, database: Database) -> int | None:
        """How far the stored rows go; None where there are none of this version."""
        if not self._positions:  # once it is there it stays
            self._positions = bool(database.columns("projection_positions"))
            if not self._positions:
                return None
        stored = database.select("SELECT * FROM projection_positions WHERE name=?", (self._projection.name,))
        return place_of(stored[0]) if stored and stored[0][1] == self._projection.version else None

    def _detach(self) -> None:
        """Fold everything in memory: the stored rows are of no use."""
        self._database = None
        for table in self._projection.tables:
            table.detach()
        self._go_on_from(0)

    def _go_on_from(self, stored: int) -> None:
        if isinstance(self._projection, Settling):
            self._projection.forget()
        for table in self._projection.tables:
            table.forget()
        self.position = self._stored = stored

    @property
    def name(self) -> str:
        """Of the projection."""
        return self._projection.name

    @property
    def is_stored(self) -> bool:
        """Whether its rows are in the database, be it none of them yet; not where those are of another version."""
        return self._database is not None

    def refresh(self) -> bool:
        """Go on from the stored rows if somebody else (the writing process, another projection of this name) wrote
        them; whether it was so."""
        if self._database is None:
            return False
        stored = self._read(self._database)
        if stored is None:
            self._detach()
            return True
        if stored == self._stored:
            return False
        self._go_on_from(stored)
        return True

    def reset(self) -> None:
        """Forget every row and start at zero."""
        self._go_on_from(0)
        if self._database is None:
            return
        for _ in range(RESETS_MAX - 1):
            with suppress(Overtaken):  # somebody else wrote at the same time
                return self._make(self._database)
        self._make(self._database)

    def _make(self, database: Database) -> None:
        """Make its tables, empty, unless somebody else moves its place meanwhile: then raise Overtaken."""
        name, version = self._projection.name, self._projection.version
        there = database.select("SELECT version, position FROM projection_positions WHERE name=?", (name,))
        place = (name, version, 0, _digest(name, 0))
        once: Once = (_MARK if there else _FIRST, place)  # what is damaged is written over
        if there and all(isinstance(cell, int) for cell in there[0]):
            once = (_AGAIN, (*place[1:], name, *there[0]))
        before = there[0][0] if there else None
        tables = self._projection.tables
        database.write(view_sql.emptying(database, tables, before=before, now=version), [once])

    def apply(self, recorded: Recorded) -> None:
        """Fold one event, if it has not been."""
        self.apply_all((recorded,))

    @property
    def looks_ahead(self) -> bool:
        """Whether `ahead` is of use."""
        return isinstance(self._projection, LookingAhead)

    def ahead(self, run: Sequence[Recorded]) -> None:
        """Read what is stored of events that will be folded next."""
        cast("LookingAhead", self._projection).ahead([each for each in run if each.position > self.position])

    def apply_all(self, run: Sequence[Recorded]) -> None:
        """Fold events that follow one another; those that have not been."""
        if run[0].position <= self.position:
            run = [recorded for recorded in run if recorded.position > self.position]
            if not run:
                return
        try:
            if self._running is None:  # asked once: the answer takes longer than a run
                self._running = isinstance(self._projection, Running)
            if self._running:
                cast("Running", self._projection).apply_all(run)
            else:
                apply = self._projection.apply
                for recorded in run:
                    apply(recorded)
        except BaseException:  # half an event may be in the rows
            self._go_on_from(self._stored)
            raise
        self.position = run[-1].position

    def flush(self) -> None:
        """Write what changed, and how far it goes, in one transaction. The frame folded last is over."""
        flush([self])

    def changes(self) -> tuple[Database, list[Change], Once] | None:
        """What is to be written, where to, and how its place moves on, which fails if somebody else moved it meanwhile;
        None where nothing is. The frame folded last is over."""
        if isinstance(self._projection, Settling):
            self._projection.settle()
        if self._database is None or self._database.read_only:
            return None
        changes: list[Change] = [
            change for table in self._projection.tables for change in table.changes() if change[1]
        ]
        name, position = self._projection.name, self.position
        moved = (position, _digest(name, position), name, self._projection.version, self._stored)
        return self._database, changes, (_MOVE, moved)

    def settled(self, *, written: bool) -> None:
        """Whether what `changes` gave was written; else it is forgotten, and folded again."""
        if written:
            self._stored = self.position
        else:
            self._go_on_from(self._stored)

    def catch_up(self) -> None:
        """Fold what the ledger has and this projection has not."""
        catch_up(self.ledger, [self._projection])

    def follow(self, stop: threading.Event) -> None:
        """Keep up with whatever any process appends, until `stop` is set (`follow`)."""
        follow(self.ledger, [self._projection], stop=stop)


def place_of(stored: Sequence[Cell]) -> int | None:
    """How far a projection is stored, by its row of `projection_positions`; None where that is not what was written.
    Versions before 0.4.0 wrote no digest."""
    name, _, position, *digest = stored
    if not isinstance(position, int) or digest not in ([], [None], [_digest(str(name), position)]):
        return None
    return position


def _digest(name: str, position: int) -> bytes:
    return sha256(f"{name}\0{position}".encode("utf-8", "backslashreplace")).digest()[:8]


def flush(subscriptions: Sequence[Subscription]) -> None:
    """Write what several projections folded, in one transaction for each database. A projection that somebody else
    wrote meanwhile goes on from there; raises Overtaken where that is behind what was folded."""
    databases: dict[int, _Writing] = {}
    try:
        for each in subscriptions:
            _gather(each, databases)
        for writing in databases.values():
            _write(writing)
    except BaseException:  # nothing was written, and half a frame may be in the rows
        for each in subscriptions:
            each.settled(written=False)
        raise
    behind = [each for writing in databases.values() for each in writing.settled()]
    if behind:
        raise Overtaken(f"{', '.join(sorted(behind))}: somebody else wrote it first")


class _Writing:
    """What is to be written to a database, by how each projection's place moves on. A projection that is there twice
    folded the same twice."""

    def __init__(self, database: Database) -> None:
        self.database: Final = database
        self.moves: dict[Once, list[Change]] = {}
        self.subscriptions: list[tuple[Subscription, Once]] = []
        self.written: set[Once] = set()

    def settled(self) -> list[str]:
        """Tell each whether it was written; the names of those that somebody else wrote, and not as far."""
        behind: list[str] = []
        for each, move in self.subscriptions:
            if move in self.written:
                each.settled(written=True)
                continue
            folded = each.position
            each.settled(written=False)
            each.refresh()
            if each.position < folded:
                behind.append(each.name)
        return behind


def _gather(subscription: Subscription, databases: dict[int, _Writing]) -> None:
    found = subscription.changes()
    if found is not None:
        database, changes, move = found
        writing = databases.setdefault(id(database), _Writing(database))
        writing.moves.setdefault(move, changes)
        writing.subscriptions.append((subscription, move))


def _write(writing: _Writing) -> None:
    moves = writing.moves
    try:
        # By name: where all move them in one order, none waits for another that waits for it.
        once = sorted(moves, key=lambda move: str(move[1][2]))
        writing.database.write([change for changes in moves.values() for change in changes], once)
        writing.written = set(moves)
    except Overtaken:  # one of them at least; the others are ours to write
        for move, changes in moves.items():
            with suppress(Overtaken):
                writing.database.write(changes, [move])
                writing.written.add(move)


def catch_up(
    ledger: Ledger,
    projections: Sequence[Projection],
    *,
    upto: int | None = None,
    progress: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Fold the ledger's new events into several projections in one pass, up to a position if given; once `stop` is set,
    no further than the batch at hand.

    `progress` is called with the number of events of each batch.
    """
    subscriptions = [projection.subscription for projection in projections]
    for each in subscriptions:
        each.refresh()

    def written(events: int) -> None:
        if progress is not None:
            progress(events)
        if stop is not None and stop.is_set():
            raise _Stopped

    with suppress(_Stopped):
        for _ in range(REFRESHES_MAX):  # beside a writer, rows may be newer than the place they were read for
            _fold_with_others(ledger, subscriptions, upto, written)
            if not any([each.refresh() for each in subscriptions]):
                return
        _fold_with_others(ledger, subscriptions, upto, written)


class _Stopped(Exception):  # noqa: N818 - nothing is wrong
    """Who catches up is told to stop."""


def _fold_with_others(
    ledger: Ledger,
    subscriptions: Sequence[Subscription],
    upto: int | None,
    written: Callable[[int], None],
) -> None:
    """Fold what nobody else has; whoever writes a batch first has it, and the others go on after it."""
    for _ in range(CONFLICTS_MAX):
        try:
            return _fold(ledger, subscriptions, upto, written)
        except Overtaken:
            time.sleep(random.uniform(0, CONFLICT_S))
            for each in subscriptions:
                each.refresh()
    _fold(ledger, subscriptions, upto, written)


def _fold(
    ledger: Ledger,
    subscriptions: Sequence[Subscription],
    upto: int | None,
    written: Callable[[int], None],
) -> None:
    start = min((each.position for each in subscriptions), default=0)
    waiting = 0
    last: Place | None = None
    for run in _looked_ahead(subscriptions, ledger.runs(after=start, upto=upto)):
        at = 0
        while at < len(run):
            end = _batch_end(run, at, waiting, last)
            if at < end:
                batch = run if end - at == len(run) else run[at:end]
                for each in subscriptions:
                    each.apply_all(batch)
                waiting += end - at
                last = frame_of(run[end - 1].event)
            if end < len(run):
                _flush(subscriptions, waiting, written)
                waiting = 0
            at = end
    if waiting:
        _flush(subscriptions, waiting, written)


def _looked_ahead(
    subscriptions: Sequence[Subscription], runs: Iterator[Sequence[Recorded]]
) -> Iterator[Sequence[Recorded]]:
    """The runs, read some at a time, so that what is stored of their events can be read at once."""
    looking = [each for each in subscriptions if each.looks_ahead]
    if not looking:
        yield from runs
        return
    while held := list(islice(runs, AHEAD_RUNS)):
        events = list(chain.from_iterable(held))
        for each in looking:
            each.ahead(events)
        yield from held


def _batch_end(run: Sequence[Recorded], at: int, waiting: int, last: Place | None) -> int:
    """Where a batch ends that goes on from `at`: once it has as many events as it may, with the frame at hand, of which
    `last` is where nothing of the run is in it yet. At the end of the run where it goes on after it."""
    end = at + max(BATCH_EVENTS_MAX - waiting, 0)
    if end >= len(run):
        return len(run)
    frame = last if end == at else frame_of(run[end - 1].event)
    while end < len(run) and frame_of(run[end].event) == frame:
        end += 1
    return end


def _flush(subscriptions: Sequence[Subscription], events: int, written: Callable[[int], None]) -> None:
    flush(subscriptions)
    written(events)


def follow(
    ledger: Ledger,
    projections: Sequence[Projection],
    *,
    stop: threading.Event,
    progress: Callable[[int], None] | None = None,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Keep projections caught up with whatever any process appends, until `stop` is set: in the order of positions,
    each event once, whoever else follows. `progress` is called as by `catch_up`, `then` each time it looked. Raises
    StoreError where the store cannot be reached any more; what was written stays, and it goes on from there."""
    with ledger.following() as wait:
        looked = -FOLLOW_S
        while not stop.is_set():
            if time.monotonic() - looked >= FOLLOW_S or wait(STOP_S):
                looked = time.monotonic()
                catch_up(ledger, projections, progress=progress, stop=stop)
            then()


class Difference(Struct, frozen=True):
    """A row that a fold from zero makes otherwise than it is stored; None where one side has no such row."""

    table: str
    stored: Struct | None
    folded: Struct | None


def compare(stored: Projection, folded: Projection, account: str | None = None) -> Iterator[Difference]:
    """The rows (of an account, where named) in which two projections of one kind differ, in key order."""
    for left, right in zip(stored.tables, folded.tables, strict=True):
        ours, fresh = left.rows(account), right.rows(account)
        one, other = next(ours, None), next(fresh, None)
        while one is not None or other is not None:
            order = 0 if one is None or other is None else left.order(one, other)
            if other is None or (one is not None and order < 0):
                yield Difference(left.name, one, None)
                one = next(ours, None)
            elif one is None or order > 0:
                yield Difference(left.name, None, other)
                other = next(fresh, None)
            else:
                if one != other:
                    yield Difference(left.name, one, other)
                one, other = next(ours, None), next(fresh, None)
