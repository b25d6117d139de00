"""A ledger in a SQLite file, or in memory: eventsourcing's recorder, and the table that stock eventsourcing reads.

The seam where its errors and sqlite3's become ours. Knows rows; knows no event and no rule.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from eventsourcing.persistence import (
    ConnectionPoolClosedError,
    IntegrityError,
    PersistenceError,
    StoredEvent,
)
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteDatastore,
)

from ledger.errors import Closed, Conflict, Corrupt, LedgerBusy, NoSuchLedger, Overtaken, StoreError, Unsealed
from ledger.rows import Cell, Change, Lease, Once, Rows, Wait
from ledger.seal import Sealed, genesis, leaf, seal
from ledger.view import SQLiteView, View

fcntl: Any
try:
    import fcntl
except ImportError:  # no such module off POSIX
    fcntl = None

SYNCHRONOUS_FULL: Final = 2
BUSY_TIMEOUT_S: Final = 5
READERS_KEPT_MAX: Final = 5
"""Connections to read with that stay open while nobody reads."""
POLL_S: Final = 0.05
"""How often a follower looks for what another process appended."""
STATEMENTS_CACHED_MAX: Final = 128
SEARCHED_MIB_MAX: Final = 1024
ROWS_AT_ONCE: Final = (32, 8, 1)
"""In one statement; few sizes, so that the statements stay prepared."""
KEYS_ASKED_MAX: Final = 500
"""At once: SQLite takes at least 999 parameters."""
TABLES: Final = frozenset({"stored_events", "evidence", "natural_keys"})
"""Without which a file is no ledger. The seals came later: a ledger of 0.2.0 gets them when first written to."""
SEALED: Final = 1
"""The `user_version` of a file that has seals: without them it is damaged, not old."""
WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
"""First and last SQLite release in which a WAL reset can corrupt a file that two connections write at once
(sqlite.org/wal.html, fixed in 3.51.3)."""
PAGE_EVENTS: Final = 1_000
"""Events sealed at a time."""

_SEALS: Final = "CREATE TABLE IF NOT EXISTS seals (position INTEGER PRIMARY KEY, seal BLOB NOT NULL)"


class StoreWarning(UserWarning):
    """Something about the machine makes the store less safe than it should be."""


class _Plain(sqlite3.Connection):
    wait_s: float = BUSY_TIMEOUT_S
    """How long it waits for a lock."""


class _Connection(SQLiteConnection):
    def __init__(self, plain: _Plain, max_age: float | None) -> None:
        super().__init__(plain, max_age)
        self.plain: Final = plain


class _Pool(SQLiteConnectionPool):
    """Connections with the durability set and read back; the stock pool leaves `synchronous` to the library build."""

    _end: float | None = None

    def give_up_at(self, moment: float | None) -> None:
        """Wait until then at most (`time.monotonic`) for a lock that another process has; None: as long as ever."""
        self._end = moment

    def hurry(self, connection: _Plain) -> None:
        """Let it wait as long as it may now."""
        left_s = BUSY_TIMEOUT_S if self._end is None else self._end - time.monotonic()
        wait_s = max(0.0, min(left_s, BUSY_TIMEOUT_S))
        if wait_s != connection.wait_s:
            connection.execute(f"PRAGMA busy_timeout={wait_s * 1000:.0f}")
            connection.wait_s = wait_s

    def get_connection(
        self, timeout: float | None = None, *, is_writer: bool | None = None
    ) -> SQLiteConnection:
        try:
            connection = super().get_connection(timeout, is_writer=is_writer)
            assert isinstance(connection, _Connection)
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

    def connect(self) -> _Plain:
        """A connection outside the pool."""
        connection = sqlite3.connect(
            self.db_name,
            factory=_Plain,
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
        return _Connection(connection, self.max_age)


class _Datastore(SQLiteDatastore):
    """The stock datastore over our pool, with text ids. Takes arguments only: no environment is read."""

    def __init__(self, uri: str) -> None:
        self.pool: _Pool = _Pool(db_name=uri)
        self.single_row_tracking = True
        self.originator_id_type = "text"


class _Readers:
    """Connections to a file to read with: the pool's turns take longer than most answers. From any thread."""

    def __init__(self, pool: _Pool) -> None:
        self._pool: Final = pool
        self._idle: Final[list[_Plain]] = []
        self._closed = False

    def take(self) -> _Plain:
        """One that nobody else has. Raises ConnectionPoolClosedError."""
        if self._closed:
            raise ConnectionPoolClosedError
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.connect()
        self._pool.hurry(connection)
        return connection

    def put(self, connection: _Plain) -> None:
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
            _SEALS,
        ]

    def insert(self, rows: Rows, committing: Callable[[], object]) -> None:
        """All rows in one transaction; `committing` is called when all that is left to do is the commit."""
        pool = self.datastore.pool
        connection = pool.get_connection(is_writer=True)
        try:  # what the library's transaction does, in a third of its time
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            try:
                self._insert(cursor, rows)
                cursor.sqlite_cursor.close()  # not later: who lets go of the interpreter's lock waits for it
                committing()
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
        finally:
            pool.put_connection(connection)

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **_: Any
    ) -> Sequence[int]:
        rows = Rows()
        for each in stored_events:
            rows.events += (str(each.originator_id), each.originator_version, each.topic, each.state)
        return list(self._insert(c, rows))

    def _insert(self, c: SQLiteCursor, rows: Rows) -> range:
        """The positions of the events."""
        cursor = c.sqlite_cursor
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
        self._lock: _WriterLock | None = None
        self._asking: sqlite3.Connection | None = None
        self._readers: _Readers | None = None
        """None in memory, where who reads must not meet who writes: the pool sees to that."""
        if path is None:
            uri = f"file:{uuid4().hex}?mode=memory&cache=shared"
        else:
            uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            if path.exists():
                _refuse_other_files(path, read_only=read_only)
            elif read_only:
                raise NoSuchLedger(f"{path}: there is no ledger here")
            if not read_only:
                self._lock = _WriterLock(path)
        try:
            self._datastore: Final = _Datastore(uri)
            if path is not None:
                self._readers = _Readers(self._datastore.pool)
            self._recorder: Final = Recorder(self._datastore)
            if read_only:
                self.select("SELECT 1")
            else:
                self._make()
                self._writers_view()  # as long as that is open, SQLite keeps its log where it is
            self._files: Final = (
                [] if path is None else [(each, _identity(each)) for each in self._written(path)]
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
        if self._asking is not None:
            self._asking.close()
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
            cursor.execute(_SEALS)
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
            self._recorder.insert(rows, last)
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
            if _identity(name) == file:
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
                found += self._writers_view().execute(sql, (*chain.from_iterable(asked), account))
        return found

    def _writers_view(self) -> sqlite3.Connection:
        """A connection for what is asked before each commit: the pool's turns would cost more than the answer."""
        if self._datastore.pool.closed:
            raise ConnectionPoolClosedError
        if self._asking is None:
            self._asking = self._datastore.pool.connect()
        return self._asking

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


def _refuse_other_files(path: Path, *, read_only: bool) -> None:
    """Raise NoSuchLedger where the file is something else. Looks without writing: such a file stays as it is."""
    if not path.is_file():
        raise NoSuchLedger(f"{path}: not a ledger (not a file)")
    damage = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB)
    try:
        tables = _tables(path, "ro")
        if tables is None and not read_only:
            tables = _tables(path, "rw")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        code = (
            sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else error.sqlite_errorcode & 0xFF
        )
        if code == sqlite3.SQLITE_CORRUPT or (code in damage and _was_ledger(path)):
            raise Corrupt(f"{path}: a damaged ledger ({error})") from error
        if code == sqlite3.SQLITE_CANTOPEN:
            _refuse_without_room(path)
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB):
            raise NoSuchLedger(f"{path}: not a ledger ({error})") from error
        raise StoreError(f"{path}: {error}") from error
    if tables is None:
        _refuse_without_room(path)
    if (tables or read_only) and (lacks := sorted(TABLES - (tables or set()))):
        if tables is not None and _was_ledger(path):
            raise Corrupt(f"{path}: a damaged ledger (it lost the tables {', '.join(lacks)})")
        raise NoSuchLedger(f"{path}: not a ledger (it lacks the tables {', '.join(sorted(TABLES))})")


def _refuse_without_room(path: Path) -> None:
    """Raise StoreError where SQLite cannot make the files that it keeps beside one that is written ahead."""
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise StoreError(
            f"{path}: nothing can be written in its folder, and SQLite reads no ledger without: copy it, and "
            f"{path.name}-wal where that is there, to another folder"
        )


def _was_ledger(path: Path) -> bool:
    """Whether a file that cannot be read as a ledger speaks of a ledger's own tables all the same."""
    marks = {name: name.encode() for name in ("natural_keys", "originator_version", "at_ns")}
    before = b""
    with path.open("rb") as file:
        for _ in range(SEARCHED_MIB_MAX):
            chunk = file.read(1 << 20)
            marks = {name: mark for name, mark in marks.items() if mark not in before + chunk}
            if not marks or not chunk:
                break
            before = chunk[-32:]
    return len(marks) < 2  # one may be what is damaged


def _tables(path: Path, mode: str) -> set[str] | None:
    """The tables of a SQLite file; None where a transaction was cut off and must first be rolled back, which needs a
    connection that writes (a ledger killed while it was made)."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        try:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                return None
            raise
    return {row[0] for row in rows}


def _identity(name: str) -> tuple[int, int] | None:
    """Which file it is; None where there is none."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _WriterLock:
    """One writing process at a time: a lock on a file beside the ledger, freed by the kernel when the process ends.

    Not on the ledger file itself: closing any handle of that file would drop SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        self._handle: int | None = None
        if not path.parent.is_dir():
            raise NoSuchLedger(f"{path}: there is no folder {path.parent}")
        if fcntl is None:
            return _warn_two_writers(path)
        try:
            # Beside the file itself: two links to one ledger are one ledger.
            handle = os.open(f"{os.path.realpath(path)}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise LedgerBusy(
                f"{path}: process {holder or '?'} is writing to this ledger; one process writes at a time. "
                "Wait until it is done; reading works meanwhile (read_only=True)"
            ) from None
        except OSError:
            os.close(handle)
            return _warn_two_writers(path)
        self._handle = handle
        with suppress(OSError):  # who holds it is a courtesy: the lock is held all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _warn_two_writers(path: Path) -> None:
    """No lock can be had here, so two writers could meet: say so where this SQLite would not survive it."""
    first, last = WAL_RESET_BUG
    if first <= sqlite3.sqlite_version_info <= last:
        warnings.warn(
            f"{path}: no writer lock on this file system, and SQLite {sqlite3.sqlite_version} has the WAL-reset bug "
            "(fixed in 3.51.3): two processes writing at once can corrupt the file. Make sure that only one writes",
            StoreWarning,
            stacklevel=7,
        )
