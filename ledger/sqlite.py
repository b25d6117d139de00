"""A ledger in a SQLite file, or in memory: what a store asks of a database (`ledger.rows.Engine`), asked of SQLite.

The seam where its errors and sqlite3's become ours. Knows rows; knows no event and no rule.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from eventsourcing.persistence import (
    ConnectionPoolClosedError,
    IntegrityError,
    PersistenceError,
)

from ledger.errors import Closed, Conflict, Corrupt, NoSuchLedger, Overtaken, StoreError, Unsealed
from ledger.rows import Cell, Change, Lease, Once, Rows, Wait
from ledger.seal import Sealed, genesis, leaf, seal
from ledger.sqlite_file import SEALED, WriterLock, identity, refuse_other_files
from ledger.sqlite_recorder import SEALS, Connection, Datastore, Readers, Recorder
from ledger.view import SQLiteView, View

POLL_S: Final = 0.05
"""How often a follower looks for what another process appended."""
KEYS_ASKED_MAX: Final = 500
"""At once: SQLite takes at least 999 parameters."""
PAGE_EVENTS: Final = 1_000
"""Events sealed at a time."""


class _Notice:
    """Rung at each append of this process, whichever ledger object made it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.rung = 0

    def ring(self) -> None:
        with self._changed:
            self.rung += 1
            self._changed.notify_all()

    def wait(self, rung: int, seconds: float) -> None:
        """Wait until it rings again after that time, so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: self.rung != rung, seconds)


_notices: Final[WeakValueDictionary[str, _Notice]] = WeakValueDictionary()


def _notice_of(path: Path | None) -> _Notice:
    return _Notice() if path is None else _notices.setdefault(os.path.realpath(path), _Notice())


class SQLite:
    """A ledger in a SQLite file, or in memory where `path` is None. Thread-safe for any number of readers beside one
    writer. Raises NoSuchLedger, LedgerBusy or StoreError."""

    POSITION: ClassVar[str] = SQLiteView.POSITION
    EVENTS: ClassVar[str] = SQLiteView.EVENTS
    FILE: ClassVar[bool] = True
    ID_BYTES_MAX: ClassVar[int | None] = None

    def __init__(self, path: Path | None, *, read_only: bool) -> None:
        self.name = "memory" if path is None else str(path)
        self._notice: Final = _notice_of(path)
        self._lock: WriterLock | None = None
        self._kept: Connection | None = None
        self._readers: Readers | None = None
        """None in memory, where who reads must not meet who writes: the pool sees to that."""
        if path is None:
            uri = f"file:{uuid4().hex}?mode=memory&cache=shared"
        else:
            uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            if path.exists():
                refuse_other_files(path, read_only=read_only)
            elif read_only:
                raise NoSuchLedger(f"{path}: there is no ledger here")
            if not read_only:
                self._lock = WriterLock(path)
        try:
            self._datastore: Final = Datastore(uri)
            if path is not None:
                self._readers = Readers(self._datastore.pool)
            self._recorder: Final = Recorder(self._datastore)
            if read_only:
                self.select("SELECT 1")
            else:
                self._make()
                self._writer()  # as long as that is open, SQLite keeps its log where it is
            self._files: Final = (
                [] if path is None else [(each, identity(each)) for each in self._written(path)]
            )
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        if self._is_unsealed():
            self._seal_what_is_there()
        with self.errors():
            self._recorder.create_table()
        if self.select("PRAGMA user_version") != [(SEALED,)]:
            with self.errors(), self._datastore.transaction(commit=True) as cursor:
                cursor.execute(f"PRAGMA user_version={SEALED}")

    def close(self) -> None:
        """Close every connection and let the next writer in."""
        if self._readers is not None:
            self._readers.close()
        if hasattr(self, "_datastore"):
            self._datastore.close()
        if self._kept is not None:
            self._kept.close()
        if self._lock is not None:
            self._lock.release()

    def __del__(self) -> None:
        """Who forgot to close it keeps nobody out."""
        with suppress(Exception):
            self.close()

    def leave(self) -> None:
        """The lock is the other process's as long as that has it open; it would be ours after that."""
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def errors(self) -> Generator[None]:
        """In which SQLite's errors and eventsourcing's become ours."""
        try:
            yield
        except ConnectionPoolClosedError:
            raise Closed(f"{self.name}: the ledger is closed") from None
        except (IntegrityError, sqlite3.IntegrityError) as error:
            raise Conflict(f"{self.name}: somebody else appended first ({error})") from error
        except (
            PersistenceError,
            sqlite3.Error,
            UnicodeDecodeError,
        ) as error:  # SQLite's words may quote damage
            raise StoreError(f"{self.name}: {error}") from error

    def unfinished(self) -> str | None:
        """The ledger of which this is an unfinished copy."""
        found = self.select("SELECT source FROM ledger_copy") if self.columns("ledger_copy") else []
        return str(found[0][0]) if found else None

    def _is_unsealed(self) -> bool:
        """Whether the store is older than seals."""
        # The cast: a name that one flipped bit made bytes is damage, not age.
        sql = "SELECT CAST(name AS TEXT) FROM sqlite_master WHERE CAST(name AS TEXT) IN ('stored_events', 'seals')"
        if self.select(sql) != [("stored_events",)]:
            return False
        if self.select("PRAGMA user_version") == [(SEALED,)]:
            raise Corrupt(f"{self.name}: a damaged ledger (its seals are gone)")
        return True

    def _seal_what_is_there(self) -> None:
        """Seal the events of a ledger that is older than seals, and make their table: both or nothing."""
        heads: dict[str, bytes] = {}
        after = 0
        with self.errors(), self._datastore.transaction(commit=True) as cursor:
            cursor.execute(SEALS)
            while True:
                cursor.execute(
                    f"{self.EVENTS} WHERE e.rowid>? ORDER BY e.rowid LIMIT {PAGE_EVENTS}",
                    (after,),
                )
                page = [Sealed(*row) for row in cursor.fetchall()]
                for each in page:
                    before = heads.get(each.account) or genesis(each.account)
                    heads[each.account] = seal(before, leaf(each.version, each.topic, each.state))
                    cursor.execute("INSERT INTO seals VALUES (?,?)", (each.position, heads[each.account]))
                    after = each.position
                if not page:
                    return

    def give_up_at(self, moment: float | None) -> None:
        """Wait until then at most for a lock that another process has."""
        self._datastore.pool.give_up_at(moment)

    def insert(self, rows: Rows, committing: Callable[[], object], lease: Lease | None = None) -> None:
        """All rows in one transaction. No lease is lost: one process writes."""

        def last() -> None:
            self._is_there()
            committing()

        with self.errors():
            if self._readers is not None:
                self._recorder.insert(self._writer(), rows, last)
            else:
                pool = self._datastore.pool
                pooled = pool.get_connection(is_writer=True)
                try:
                    self._recorder.insert(pooled.plain, rows, last)
                finally:
                    pool.put_connection(pooled)
        self._notice.ring()

    def _written(self, path: Path) -> list[str]:
        """The files that SQLite writes to: the ledger, and the log that holds what was committed last, which is beside
        the file, not beside a link to it."""
        log = [] if self._lock is None else [f"{os.path.realpath(path)}-wal"]
        return [os.path.abspath(path), *log]

    def _is_there(self) -> None:
        """Raise StoreError where a file is another now, or none: what is written to the one that was opened is found
        by nobody. (In WAL mode SQLite does not look.)"""
        for place, (name, file) in enumerate(self._files):
            if identity(name) == file:
                continue
            if place == 0:
                raise StoreError(
                    f"{self.name}: moved, removed or replaced while it was open; nothing more is stored in it"
                )
            raise StoreError(
                f"{self.name}: {os.path.basename(name)} was removed while it was open; nothing more is stored before "
                "it is closed, which brings what is stored into the ledger itself, and opened again"
            )

    def lease(self, name: str) -> Lease:
        """It is had at once: one process writes."""
        return Lease(name, 1)

    def keep(self, lease: Lease) -> None:
        """Nothing to be done."""

    def release(self, name: str) -> None:
        """Nothing to be done."""

    @contextmanager
    def following(self) -> Generator[Wait]:
        """Woken by who appends in this process; of other processes' appends it looks for itself."""
        sql = f"SELECT max({self.POSITION}) FROM stored_events"
        seen = self.select(sql)

        def wait(seconds: float) -> bool:
            nonlocal seen
            until = time.monotonic() + seconds
            while True:
                self._is_there()
                rung = self._notice.rung
                before, seen = seen, self.select(sql)
                if seen != before:
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._notice.wait(rung, min(left, POLL_S))

        yield wait

    def known(self, account: str, keys: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Those of the natural keys that are stored."""
        found: list[tuple[int, str]] = []
        for start in range(0, len(keys), KEYS_ASKED_MAX):
            asked = keys[start : start + KEYS_ASKED_MAX]
            sql = (
                f"WITH asked(at_ns, key) AS (VALUES {','.join(['(?,?)'] * len(asked))}) "
                "SELECT known.at_ns, known.key FROM asked CROSS JOIN natural_keys AS known "
                "WHERE known.account=? AND known.at_ns=asked.at_ns AND known.key=asked.key"
            )
            with self.errors():
                found += self._writer().execute(sql, (*chain.from_iterable(asked), account))
        return found

    def _writer(self) -> Connection:
        """The connection of who writes, for what is asked before each commit, too: the pool's turns would cost more."""
        pool = self._datastore.pool
        if pool.closed:
            raise ConnectionPoolClosedError
        if self._kept is None:
            self._kept = pool.connect()
        pool.hurry(self._kept)
        return self._kept

    def select(self, sql: str, params: Sequence[Cell] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, whole: no read transaction stays open."""
        with self.errors():
            if self._readers is None:
                pool = self._datastore.pool
                pooled = pool.get_connection(is_writer=False)
                try:  # one statement is its own transaction: the library's would take longer than most answers
                    return _fetched(pooled.cursor().sqlite_cursor, sql, params)
                finally:
                    pool.put_connection(pooled)
            connection = self._readers.take()
            try:
                return _fetched(connection.cursor(), sql, params)
            finally:
                self._readers.put(connection)

    def write(self, changes: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """Statements in one transaction."""
        with self.errors(), self._datastore.transaction(commit=True) as cursor:
            for each in once:
                if cursor.sqlite_cursor.execute(*each).rowcount != 1:
                    raise Overtaken(f"{self.name}: somebody else wrote it first")
            for sql, rows in changes:
                cursor.executemany(sql, rows)
            self._is_there()

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        return {name for (name,) in self.select("SELECT name FROM pragma_table_info(?)", (table,))}

    def definition(self, table: str) -> list[tuple[Any, ...]]:
        """How a table, and what belongs to it, is defined."""
        sql = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name=?"
        return sorted(self.select(sql, (table,)), key=repr)

    @contextmanager
    def view(self) -> Generator[View]:
        """One moment of the whole store. Raises Unsealed where it is older than seals and opened to read only."""
        if self._is_unsealed():
            raise Unsealed(
                f"{self.name}: made by a version before 0.3.0 and not sealed yet; whatever writes to it seals it "
                "(accountledger ingest, for one)"
            )
        with self.errors(), self._datastore.transaction(commit=False) as cursor:
            connection = cursor.sqlite_cursor.connection
            try:
                yield SQLiteView(
                    connection, self.name, tuple(self._recorder.construct_create_table_statements())
                )
            finally:
                connection.text_factory = str


def _fetched(cursor: sqlite3.Cursor, sql: str, params: Sequence[Cell]) -> list[tuple[Any, ...]]:
    cursor.row_factory = None  # plain tuples: a Row for each costs more than reading it
    try:
        return cursor.execute(sql, params).fetchall()
    finally:
        cursor.close()  # not when who holds an error lets go of it
