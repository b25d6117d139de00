"""eventsourcing's recorder in a SQLite file: its table beside ours, and connections that are durable or are not had.

Knows rows and connections; knows no event, no rule and no file but by its URI.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

from eventsourcing.persistence import ConnectionPoolClosedError, StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteDatastore,
)

from ledger.rows import Cell, Rows
from ledger.sqlite_file import BUSY_TIMEOUT_S

SYNCHRONOUS_FULL: Final = 2
READERS_KEPT_MAX: Final = 5
"""Connections to read with that stay open while nobody reads."""
STATEMENTS_CACHED_MAX: Final = 128
ROWS_AT_ONCE: Final = (32, 8, 1)
"""In one statement; few sizes, so that the statements stay prepared."""

SEALS: Final = "CREATE TABLE IF NOT EXISTS seals (position INTEGER PRIMARY KEY, seal BLOB NOT NULL)"
"""What makes the table of the seals."""


class Connection(sqlite3.Connection):
    """A plain one, that remembers how patient it is."""

    wait_s: float = BUSY_TIMEOUT_S
    """How long it waits for a lock."""


class _Pooled(SQLiteConnection):
    def __init__(self, plain: Connection, max_age: float | None) -> None:
        super().__init__(plain, max_age)
        self.plain: Final = plain


class Pool(SQLiteConnectionPool):
    """Connections with the durability set and read back; the stock pool leaves `synchronous` to the library build."""

    _end: float | None = None

    def give_up_at(self, moment: float | None) -> None:
        """Wait until then at most (`time.monotonic`) for a lock that another process has; None: as long as ever."""
        self._end = moment

    def hurry(self, connection: Connection) -> None:
        """Let it wait as long as it may now."""
        left_s = BUSY_TIMEOUT_S if self._end is None else self._end - time.monotonic()
        wait_s = max(0.0, min(left_s, BUSY_TIMEOUT_S))
        if wait_s != connection.wait_s:
            connection.execute(f"PRAGMA busy_timeout={wait_s * 1000:.0f}")
            connection.wait_s = wait_s

    def get_connection(self, timeout: float | None = None, *, is_writer: bool | None = None) -> _Pooled:
        try:
            connection = super().get_connection(timeout, is_writer=is_writer)
            assert isinstance(connection, _Pooled)
            self.hurry(connection.plain)
            return connection
        except sqlite3.Error:
            # No connection could be made: give back the turn, which the stock pool would keep.
            if is_writer is True:
                self._num_writers -= 1
                self._writer_lock.release()
            elif is_writer is False:
                with self._no_readers:
                    self._num_readers -= 1
                    self._no_readers.notify()
            raise

    def connect(self) -> Connection:
        """A connection outside the pool."""
        connection = sqlite3.connect(
            self.db_name,
            factory=Connection,
            uri=True,
            check_same_thread=False,
            isolation_level=None,
            cached_statements=STATEMENTS_CACHED_MAX,
            timeout=BUSY_TIMEOUT_S,
        )
        try:
            if not self.is_sqlite_memory_mode and not self.db_name.endswith("mode=ro"):
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise sqlite3.OperationalError(f"journal mode is {mode}, not wal")
                self.is_journal_mode_wal = True
            connection.execute("PRAGMA synchronous=FULL")
            if connection.execute("PRAGMA synchronous").fetchone()[0] != SYNCHRONOUS_FULL:
                raise sqlite3.OperationalError("synchronous=FULL was refused")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_connection(self) -> SQLiteConnection:
        connection = self.connect()
        connection.row_factory = sqlite3.Row
        return _Pooled(connection, self.max_age)


class Datastore(SQLiteDatastore):
    """The stock datastore over our pool, with text ids. Takes arguments only: no environment is read."""

    def __init__(self, uri: str) -> None:
        self.pool: Pool = Pool(db_name=uri)
        self.single_row_tracking = True
        self.originator_id_type = "text"


class Readers:
    """Connections to a file to read with: the pool's turns take longer than most answers. From any thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool: Final = pool
        self._idle: Final[list[Connection]] = []
        self._closed = False

    def take(self) -> Connection:
        """One that nobody else has. Raises ConnectionPoolClosedError."""
        if self._closed:
            raise ConnectionPoolClosedError
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.connect()
        self._pool.hurry(connection)
        return connection

    def put(self, connection: Connection) -> None:
        """Give it back."""
        if len(self._idle) < READERS_KEPT_MAX:
            self._idle.append(connection)
        else:
            connection.close()
        if self._closed:
            self.close()

    def close(self) -> None:
        """Those that are read with are closed when they are given back."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


def _insert(cursor: sqlite3.Cursor, table: str, width: int, cells: Sequence[Cell]) -> None:
    """Rows into a table. Many in one statement: each statement costs, and lets go of the interpreter's lock."""
    at = 0
    for rows in ROWS_AT_ONCE:
        step = rows * width
        while len(cells) - at >= step:
            cursor.execute(_insert_statement(table, width, rows), cells[at : at + step])
            at += step


@cache
def _insert_statement(table: str, width: int, rows: int) -> str:
    row = f"({','.join('?' * width)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)}"


class Recorder(SQLiteApplicationRecorder):
    """The stock recorder and table, plus what must be in the same transaction: seals, evidence and natural keys."""

    def construct_create_table_statements(self) -> list[str]:
        return [
            *super().construct_create_table_statements(),
            "CREATE TABLE IF NOT EXISTS evidence ("
            "session TEXT NOT NULL, ordinal INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (session, ordinal))",
            # By instant, so that new keys are appended at the end of the index, not all over it.
            "CREATE TABLE IF NOT EXISTS natural_keys (account TEXT NOT NULL, at_ns INTEGER NOT NULL, "
            "key TEXT NOT NULL, PRIMARY KEY (account, at_ns, key)) WITHOUT ROWID",
            SEALS,
        ]

    def insert(self, connection: sqlite3.Connection, rows: Rows, committing: Callable[[], object]) -> None:
        """All rows in one transaction; `committing` is called when all that is left to do is the commit."""
        cursor = connection.execute("BEGIN")
        try:
            self._insert(cursor, rows)
            cursor.close()  # not later: who lets go of the interpreter's lock waits for it
            committing()
            connection.commit()
        except BaseException:
            connection.rollback()
            raise

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **_: Any
    ) -> Sequence[int]:
        rows = Rows()
        for each in stored_events:
            rows.events += (str(each.originator_id), each.originator_version, each.topic, each.state)
        return list(self._insert(c.sqlite_cursor, rows))

    def _insert(self, cursor: sqlite3.Cursor, rows: Rows) -> range:
        """The positions of the events."""
        _insert(cursor, "stored_events", 4, rows.events)
        # One writer and one transaction: the row ids just given are consecutive.
        last, count = cursor.lastrowid or 0, len(rows.events) // 4
        positions = range(last - count + 1, last + 1)
        sealed: list[Any] = [None] * (2 * len(rows.seals))
        sealed[::2], sealed[1::2] = positions[: len(rows.seals)], rows.seals
        _insert(cursor, "seals", 2, sealed)
        _insert(cursor, "evidence", 3, rows.evidence)
        _insert(cursor, "natural_keys", 3, rows.keys)
        return positions
