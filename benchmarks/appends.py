"""Appends on PostgreSQL: rows to durable beside COPY of the very same rows, and frames to durable beside both that and
stock eventsourcing.

The rows of every commit are known from a rehearsal in memory. At the end the tables of all three are compared, row by
row, and eventsourcing is asked for every amount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, zip_longest
from typing import Any, Final, TypeVar

from eventsourcing.persistence import StoredEvent

from benchmarks import ingest
from benchmarks.claims import faster
from benchmarks.ingest import Part, Work
from benchmarks.measure import Effort, Result, Side, Unequal, compared, laps
from benchmarks.samples import SINGLE
from benchmarks.server import DURABLE, Place, Server, connected
from benchmarks.stock import Stock
from ledger import Ledger
from ledger.intake import BATCH_FRAMES_MAX
from ledger.rows import Lease, Rows

APPEND: Final = "accountledger, append of the rows"
INGEST: Final = "accountledger, from the frames"
COPY: Final = "COPY BINARY of the rows"
STOCK: Final = "eventsourcing, Decimals"
INSERT: Final = "eventsourcing, insert of its events"
TABLES: Final = {
    "stored_events": (
        "originator_id text",
        "originator_version int8",
        "topic text",
        "state bytea",
        "seal bytea",
        "notification_id int8",
    ),
    "evidence": ("session text", "ordinal int8", "payload bytea"),
    "natural_keys": ("account text", "at_ns int8", "key text"),
}
"""What is written by a commit, by table."""

KINDS: Final = (SINGLE,)
"""Of larger frames, a commit of 256 never comes back from stock eventsourcing's recorder."""

T = TypeVar("T")


class Copied:
    """A ledger's tables and indexes, written to by nothing but COPY BINARY: a transaction for each commit."""

    def __init__(self, place: Place) -> None:
        with Ledger(place.url):
            pass  # the tables are made
        self._connection: Final = connected(place.url)
        self._connection.autocommit = False
        self._position = 0

    def insert(self, rows: Rows) -> None:
        """One commit."""
        events: Any = zip(*[iter(rows.events)] * 4, strict=True)
        sealed = zip_longest(events, rows.seals)
        numbered = enumerate(sealed, self._position + 1)
        self._copy("stored_events", [(*event, seal, place) for place, (event, seal) in numbered if event])
        self._copy("evidence", list(zip(*[iter(rows.evidence)] * 3, strict=True)))
        self._copy("natural_keys", list(zip(*[iter(rows.keys)] * 3, strict=True)))
        self._position += len(rows.events) // 4
        self._connection.commit()

    def _copy(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        names, kinds = zip(*(column.split() for column in TABLES[table]), strict=True)
        sql = f"COPY {table} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
        with self._connection.cursor().copy(sql.encode()) as copy:
            copy.set_types(kinds)
            for row in rows:
                copy.write_row(row)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class PostgresStock(Stock):
    """Stock eventsourcing on PostgreSQL."""

    def _check_durable(self) -> None:
        recorder: Any = self._app.recorder
        with recorder.datastore.get_connection() as connection:
            for name, wanted in DURABLE.items():
                if connection.execute(f"SELECT current_setting('{name}')").fetchone() != {
                    "current_setting": wanted
                }:
                    raise Unequal(f"eventsourcing's {name} is not the ledger's")


class Prebuilt:
    """What stock eventsourcing stores of some frames, made beforehand; and its recorder, to insert it."""

    def __init__(self, place: Place, work: Work) -> None:
        self.commits: list[list[StoredEvent]] = []
        with closing(Stock({"PERSISTENCE_MODULE": "eventsourcing.popo"}, work.accounts)) as making:
            recorder: Any = making._app.recorder
            recorder.insert_events = lambda events, **_: self._keep(events)
            for part in work.parts:
                making.take(part.account, part.arrivals)
        self._stock: Final = PostgresStock(place.stock(), 1)

    def _keep(self, events: Sequence[StoredEvent]) -> Sequence[int]:
        self.commits.append(list(events))
        return []

    def insert(self, events: list[StoredEvent]) -> None:
        """One commit."""
        recorder: Any = self._stock._app.recorder
        recorder.insert_events(events)

    def check(self) -> None:
        """All must be there, as it was given. Raises Unequal."""
        recorder: Any = self._stock._app.recorder
        given: dict[Any, list[StoredEvent]] = {}
        for each in chain.from_iterable(self.commits):
            given.setdefault(each.originator_id, []).append(each)
        for account, events in given.items():
            if recorder.select_events(account) != events:
                raise Unequal("eventsourcing does not hold the events that were inserted")

    def close(self) -> None:
        """Close the connections."""
        self._stock.close()


def appends(server: Server, effort: Effort) -> Iterator[Result]:
    """Balances of one asset, at every batch size, of one account and of many."""
    for sample in KINDS:
        for accounts in ingest.ACCOUNTS:
            for frames, commits in effort.ingest_commits:
                work = ingest.work(sample, accounts, frames, commits, effort.rounds + 1)
                yield from appended(server, work, effort.rounds)


def cases(effort: Effort) -> int:
    """How many there are."""
    return 2 * len(KINDS) * len(ingest.ACCOUNTS) * len(effort.ingest_commits)


def appended(server: Server, work: Work, rounds: int) -> list[Result]:
    """One case: the append, and the whole way of the frames; measured together."""
    opening, stored = rehearse(work)
    with ExitStack() as stack:
        ours, whole, bare, theirs, made = (stack.enter_context(server.place()) for _ in range(5))
        ledger = stack.enter_context(Ledger(ours.url))
        taking = stack.enter_context(Ledger(whole.url))
        copied = stack.enter_context(closing(Copied(bare)))
        stock = stack.enter_context(closing(PostgresStock(theirs.stock(), work.accounts)))
        prebuilt = stack.enter_context(closing(Prebuilt(made, work)))
        intakes = ingest.opened(taking, work)
        for rows in opening:
            insert(ledger, rows)
            copied.insert(rows)
        units, commits = work.frames * work.commits, work.commits
        append = Side(APPEND, _slices(stored, commits, lambda rows: insert(ledger, rows)), units)
        copy = Side(COPY, _slices(stored, commits, copied.insert), units)
        slices = iter(range(0, len(work.parts), commits))

        def take_next() -> None:
            first = next(slices)
            ingest.receive(intakes, work.parts[first : first + commits])

        take = Side(INGEST, take_next, units)
        save = Side(STOCK, _slices(work.parts, commits, lambda part: _save(stock, part)), units)
        put = Side(INSERT, _slices(prebuilt.commits, commits, prebuilt.insert), units)
        took = laps([append, copy, put, take, save], rounds)
        check_equal(server, [ours, bare, whole])
        ingest.check_stock(stock, work)
        prebuilt.check()
    each = len(work.parts[0].arrivals[0][0])
    rows_only = compared("postgres", f"append: {work.case}", "frames", each, [append, copy, put], took)
    frames = compared("postgres", f"ingest: {work.case}", "frames", each, [take, save, copy], took)
    return [claimed_append(work, rows_only), claimed_ingest(work, frames)]


def claimed_append(work: Work, result: Result) -> Result:
    """The append with its claims: it does what COPY does, and eventsourcing's recorder."""
    if work.frames != BATCH_FRAMES_MAX:
        return result
    batch = f"batch {work.frames}: append of rows"
    result = faster(result, COPY, f"{batch} / COPY BINARY of the same rows", 0.6)
    return faster(result, INSERT, f"{batch} / stock eventsourcing's insert of its events", 4.0)


def claimed_ingest(work: Work, result: Result) -> Result:
    """The whole way with its claim: it does what eventsourcing does. COPY, beside it, is given what is made of them."""
    if work.frames != BATCH_FRAMES_MAX:
        return result
    return faster(result, STOCK, f"batch {work.frames}: frames to durable / stock eventsourcing's", 4.0)


def insert(ledger: Ledger, rows: Rows) -> None:
    """What an append does once its rows are made."""
    ledger._store._engine.insert(rows, lambda: None)


class _Rehearsal(Ledger):
    """A ledger in memory that remembers the rows of each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Rows] = []
        store = self._store._engine.insert

        def watched(rows: Rows, committing: Callable[[], object], lease: Lease | None = None) -> None:
            self.seen.append(rows)
            store(rows, committing, lease)

        self._store._engine.insert = watched  # type: ignore[method-assign]


def rehearse(work: Work) -> tuple[list[Rows], list[Rows]]:
    """The rows of the sessions' openings, commit by commit; then those of every part."""
    with _Rehearsal() as ledger:
        intakes = ingest.opened(ledger, work)
        opening, ledger.seen = ledger.seen, []
        for part in work.parts:
            intakes[part.account].receive_all(part.arrivals)
        return opening, ledger.seen


def check_equal(server: Server, places: Sequence[Place]) -> None:
    """All must hold the same rows, with the same indexes. Raises Unequal."""
    for table in TABLES:
        first, *others = (
            (
                sorted(server.select(f"SELECT * FROM {place.schema}.{table}")),
                [row[0].replace(place.schema, "") for row in _indexes(server, place, table)],
            )
            for place in places
        )
        for other in others:
            if other != first:
                raise Unequal(f"the sides do not hold the same {table}")


def _indexes(server: Server, place: Place, table: str) -> list[tuple[Any, ...]]:
    sql = "SELECT indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = %s ORDER BY 1"
    return server.select(sql, (place.schema, table))


def _save(stock: Stock, part: Part) -> None:
    stock.take(part.account, part.arrivals)


def _slices(items: Sequence[T], each: int, do: Callable[[T], object]) -> Callable[[], None]:
    """Each call does the next `each` pieces of the work."""
    at = iter(items)

    def next_slice() -> None:
        for _ in range(each):
            do(next(at))

    return next_slice
