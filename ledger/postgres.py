"""A ledger in a PostgreSQL database: eventsourcing's recorder, and the table that stock eventsourcing reads.

The seam where its errors and psycopg's become ours. Knows rows; knows no event and no rule. What may be the server's
doing and passes (it restarts, another takes over, a lock is held) is tried again until PATIENCE_S are over; a commit
whose answer was lost is looked up, never guessed.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from typing import Any, ClassVar, Final, TypeVar, cast

import psycopg
from eventsourcing.persistence import PersistenceError
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import PoolClosed, PoolTimeout

from ledger.arrays import numbers, texts
from ledger.dialect import DEFINES, DELETE, UPSERT, among, at_once, query, spoken
from ledger.errors import (
    Closed,
    Conflict,
    Corrupt,
    LeaseLost,
    LedgerError,
    NoSuchLedger,
    Overtaken,
    StoreError,
    Unstorable,
)
from ledger.nul import heard, told
from ledger.postgres_recorder import (
    MADE,
    SCHEMA_VERSION,
    STALL_S,
    TABLES,
    Connection,
    Datastore,
    Recorder,
    configure,
    options_of,
    parameters,
    place_of,
)
from ledger.postgres_view import PostgresView, words
from ledger.rows import Cell, Change, Lease, Once, Rows, Wait
from ledger.view import View

PATIENCE_S: Final = 30.0
"""How long what may pass is tried again."""
RETRY_S: Final = 0.2
READER_S: Final = 1.0
"""How long a connection to read with is waited for at a time: who has to end is not held up longer."""
LEASE_S: Final = 15.0
"""How long a lease that was lost with its connection is asked for again."""
TEXT_BYTES_MAX: Final = 500
"""Of a text in an index, of which there may be five: an entry is at most 2,704 bytes (PostgreSQL manual, 65.1)."""
CHANNEL: Final = "stored_events"
"""Notified of each append, also by stock eventsourcing."""

_PASSING: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    PoolTimeout,
)
"""What may be over if it is tried again."""
_FOR_GOOD: Final = (
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
    errors.ReadOnlySqlTransaction,
    errors.InsufficientPrivilege,
    errors.ProgramLimitExceeded,
    errors.ConfigurationLimitExceeded,
    errors.DiskFull,
)
"""Of those, what will not: it is told at once."""

log = logging.getLogger("accountledger")
T = TypeVar("T")


class Postgres:
    """A ledger in a PostgreSQL database. Thread-safe for any number of readers beside one writing thread at a time.

    Raises NoSuchLedger, Corrupt or StoreError.
    """

    POSITION: ClassVar[str] = PostgresView.POSITION
    EVENTS: ClassVar[str] = PostgresView.EVENTS
    FILE: ClassVar[bool] = False
    ID_BYTES_MAX: ClassVar[int | None] = TEXT_BYTES_MAX

    def __init__(self, url: str, *, read_only: bool) -> None:
        self.name = place_of(url)
        self._url: Final = url
        self._read_only: Final = read_only
        self._writing: Final = threading.RLock()
        self._writer: Connection | None = None
        self._held: Final[set[str]] = set()
        """The leases that the writer's connection holds."""
        self._tokens: Final[dict[str, int]] = {}
        """Of each lease taken, the last token it was had with."""
        self._closed = False
        self._end = math.inf
        """When nothing is tried again any more (`time.monotonic`)."""
        self._columns: dict[str, dict[str, str]] = {}
        """The types of a table's columns, of tables that are there."""
        self._datastore: Datastore | None = None
        try:
            with self.errors():
                self._writer = self._connect()
                self._datastore = Datastore(url, self._schema(self._writer), self._ends, read_only=read_only)
                self._recorder: Final = Recorder(self._datastore)
            self._patiently(self._lacks_nothing if read_only else self._make)
        except BaseException:
            self.close()
            raise

    def _schema(self, connection: Connection) -> str:
        """Where unqualified names are made; it must be there."""
        found = connection.execute("SELECT current_schema()").fetchone()
        if found is None or found[0] is None:
            raise NoSuchLedger(
                f"{self.name}: the schema of its search_path is not there, or not for this role"
            )
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreError(f"{self.name}: a database in {encoding}; a ledger wants one in UTF8")
        return str(found[0])

    def _lacks_nothing(self, connection: Connection) -> None:
        """Raise NoSuchLedger where it is none."""
        if self._version(connection) is None:
            raise NoSuchLedger(f"{self.name}: there is no ledger here")

    def _has(self, connection: Connection, tables: Sequence[str]) -> bool:
        sql = "SELECT count(*) FROM unnest(%b) AS t(name) WHERE to_regclass(name) IS NULL"
        return connection.execute(sql, (texts(tables),)).fetchone() == (0,)

    def _make(self, connection: Connection) -> None:
        """Make the tables where they are not there: who may not make any can write where they are. Once: who starts at
        the same time waits."""
        if self._is_made(connection):
            return
        assert self._datastore is not None
        held = f"accountledger schema {self._datastore.schema}"
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (held,))
            if not self._is_made(connection):
                self._refuse_others(connection)
                try:
                    connection.execute(query(self._recorder.script()))
                except errors.InsufficientPrivilege as error:
                    raise StoreError(
                        f"{self.name}: {words(error)}: the ledger's tables are not all there, and only who may make "
                        "them can open it first"
                    ) from error

    def _refuse_others(self, connection: Connection) -> None:
        """Raise StoreError where a table of a name that is to be made is there, and it is no ledger's."""
        if self._version(connection) is not None:
            return
        sql = (
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))"
        )
        there = {name for (name,) in connection.execute(sql)}
        if others := sorted(there & set(MADE)):
            raise StoreError(
                f"{self.name}: there is a table {others[0]} that is not the ledger's: rename it, or give the ledger a "
                "schema of its own"
            )

    def _is_made(self, connection: Connection) -> bool:
        return self._version(connection) == SCHEMA_VERSION and self._has(connection, MADE)

    def _version(self, connection: Connection) -> int | None:
        """The version of the ledger's schema; None where there is no ledger. Raises StoreError where it is a newer one,
        Corrupt where tables are gone: made again they would be empty, and whatever is told again would be doubled."""
        found = {table: set(columns) for table, columns in connection.execute(_THERE, (texts(list(TABLES)),))}
        there = {table for table, own in TABLES.items() if own <= found.get(table, set())}
        sealed = "seal" in found.get("stored_events", ())
        if not there or (there == {"stored_events"} and not sealed):  # stock eventsourcing makes it, too
            return None
        said = None
        if "ledger_schema" in there:
            said = connection.execute("SELECT version FROM ledger_schema").fetchone()
        version: int = 0 if said is None else said[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.name}: made by a newer version of accountledger (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); update this one"
            )
        if lost := sorted(set(TABLES) - there):
            raise Corrupt(f"{self.name}: a damaged ledger (it lost the tables {', '.join(lost)})")
        if not sealed:
            raise Corrupt(f"{self.name}: a damaged ledger (its seals are gone)")
        return version

    def unfinished(self) -> str | None:
        """The ledger of which this is an unfinished copy. Asked at each opening: by the connection that is there."""
        return self._patiently(self._unfinished)

    def _unfinished(self, connection: Connection) -> str | None:
        if not self._has(connection, ("ledger_copy",)):
            return None
        found = connection.execute("SELECT source FROM ledger_copy").fetchone()
        return None if found is None else str(found[0])

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        if self._datastore is not None:
            self._datastore.close()
        with self._writing:
            if self._writer is not None:
                if self._held:  # now, not when the server notices that nobody is there
                    with suppress(psycopg.Error):
                        self._writer.execute("SELECT pg_advisory_unlock_all()")
                self._writer.close()
                self._writer = None

    def leave(self) -> None:
        """The leases are the other process's as long as its connection is open, wherever it is."""
        if self._writer is not None and not self._writer.closed:
            os.close(self._writer.fileno())

    def give_up_at(self, moment: float | None) -> None:
        """Try what may pass again until then at most. No answer is waited for much longer, either: a server that is
        frozen, or cut off behind a proxy, gives none, and no error."""
        self._end = math.inf if moment is None else moment

    @contextmanager
    def errors(self) -> Generator[None]:
        """In which psycopg's errors and eventsourcing's become ours."""
        try:
            yield
        except LedgerError:
            raise
        except PoolClosed:
            raise Closed(f"{self.name}: the ledger is closed") from None
        except errors.UniqueViolation as error:
            raise Conflict(f"{self.name}: somebody else appended first ({words(error)})") from error
        except errors.InvalidCatalogName as error:
            raise NoSuchLedger(f"{self.name}: {words(error)}") from error
        except errors.InsufficientPrivilege as error:
            raise StoreError(
                f"{self.name}: {words(error)}: that takes more rights than this role has"
            ) from error
        except errors.ReadOnlySqlTransaction as error:
            raise StoreError(f"{self.name}: {words(error)}: it can only be read here") from error
        except (psycopg.Error, PersistenceError, PoolTimeout) as error:
            raise StoreError(f"{self.name}: {words(error)}") from error

    def _ends(self) -> float:
        return self._end

    def _connect(self) -> Connection:
        """A connection outside the pool."""
        given: dict[str, Any] = {
            **parameters(self._url),
            "options": options_of(self._url, read_only=self._read_only),
        }
        if time.monotonic() > self._end:
            given["connect_timeout"] = math.ceil(STALL_S)
        connection = Connection.connect(**given, autocommit=True)
        try:
            configure(connection, self._ends)
        except BaseException:
            connection.close()
            raise
        return connection

    def _patiently(
        self, work: Callable[[Connection], T], unsure: Callable[[Connection], T | None] | None = None
    ) -> T:
        """Work on the writer's connection; what may pass is tried again. `unsure` is asked before that whether it was
        done all the same, where the connection broke before it was told."""
        began = time.monotonic()
        cut = False
        with self._writing:
            while True:
                try:
                    with self.errors():
                        return self._once(work, unsure if cut else None)
                except StoreError as error:
                    broken = self._writer is None or self._writer.closed
                    cut = cut or broken
                    if isinstance(error, Conflict) and cut and unsure is not None:
                        with self.errors():
                            done = self._once(unsure, None)
                        if done is not None:
                            return done
                    if not _passes(error) or self._closed:
                        raise
                    now = time.monotonic()
                    left = min(began + PATIENCE_S, self._end) - now
                    if left < 0:
                        raise StoreError(
                            f"{error} (tried again for {now - began:.0f} s)"
                        ) from error.__cause__
                    log.warning("%s; tried again for up to %.0f s", error, left)
                    time.sleep(RETRY_S)

    def _once(self, work: Callable[[Connection], T], unsure: Callable[[Connection], T | None] | None) -> T:
        connection = self._writers()
        try:
            if unsure is not None:
                done = unsure(connection)
                if done is not None:
                    return done
            return work(connection)
        except BaseException:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.close()  # interrupted in the middle: the server ends what was begun
            raise

    def _writers(self) -> Connection:
        """The writer's connection, made anew where it broke."""
        if self._closed:
            raise Closed(f"{self.name}: the ledger is closed")
        if self._writer is None or self._writer.closed:
            self._writer = None
            self._held.clear()
            self._writer = self._connect()
        return self._writer

    def lease(self, name: str) -> Lease | None:
        """A lock of the writer's own session: it is gone with the connection that appends (PostgreSQL manual, section
        13.3.5, advisory locks). Whoever loses it so can tell by the token whether another had it meanwhile."""

        def take(connection: Connection) -> Lease | None:
            def tell() -> None:
                self._tokens[name] = self._raised(connection, name)

            return Lease(name, self._tokens[name]) if self._hold(connection, name, tell) else None

        return self._patiently(take)

    def keep(self, lease: Lease) -> None:
        """See that it is ours still, whatever became of the connection."""

        def look(connection: Connection) -> bool:
            connection.execute("SELECT 1")  # whether it is there
            self._keep(connection, lease)
            return True

        self._patiently(look)

    def _hold(self, connection: Connection, name: str, check: Callable[[], None]) -> bool:
        """Have the lock; it is given back where `check`, which is called under it, raises."""
        if name not in self._held:
            sql = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
            found = connection.execute(sql, (self._lease_of(name),)).fetchone()
            if found is None or not found[0]:
                return False
            self._held.add(name)
            try:
                check()
            except BaseException:
                self.release(name)
                raise
        return True

    def _raised(self, connection: Connection, name: str) -> int:
        """The token, under the lock: a higher one, unless the last one was given to us."""
        sql = (
            "INSERT INTO ledger_leases AS l (name, token) VALUES (%s, 1) ON CONFLICT (name) "
            "DO UPDATE SET token = l.token + (l.token <> %s)::int RETURNING token"
        )
        found = connection.execute(sql, (told(name), self._tokens.get(name, 0))).fetchone()
        assert found is not None
        return int(found[0])

    def _lease_of(self, name: str) -> str:
        assert self._datastore is not None
        return f"accountledger lease {self._datastore.schema} {told(name)}"

    def release(self, name: str) -> None:
        """Let another process have it; where the connection broke, it is gone already."""
        with self._writing:
            if name in self._held and self._writer is not None:
                self._held.discard(name)
                with suppress(psycopg.Error):
                    sql = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
                    self._writer.execute(sql, (self._lease_of(name),))

    def _keep(self, connection: Connection, lease: Lease) -> None:
        """Have the lease; after a break it has to be taken again. Raises LeaseLost where another has it, or had it
        since. Its own old session may hold it until the server has noticed that nobody is there."""
        lost = LeaseLost(f"{self.name}: another process feeds {lease.name} now, or has since we did")

        def check() -> None:
            sql = "SELECT token FROM ledger_leases WHERE name = %s"
            if connection.execute(sql, (told(lease.name),)).fetchone() != (lease.token,):
                raise lost

        until = time.monotonic() + LEASE_S
        while not self._hold(connection, lease.name, check):
            check()
            if time.monotonic() > min(until, self._end):
                raise lost
            time.sleep(RETRY_S)
        if self._tokens[lease.name] != lease.token:
            raise lost  # it was had anew

    @contextmanager
    def following(self) -> Generator[Wait]:
        """LISTEN on a connection of its own; where that breaks, it looks for itself until there is another."""
        listening: Connection | None = None

        def listener() -> Connection:
            nonlocal listening
            if listening is None or listening.closed:
                listening = self._connect()
                listening.execute(query(f"LISTEN {CHANNEL}"))
            return listening

        def wait(seconds: float) -> bool:
            nonlocal listening
            if self._closed:
                raise Closed(f"{self.name}: the ledger is closed")
            try:
                fresh = listening is None or listening.closed
                return fresh | bool(list(listener().notifies(timeout=seconds, stop_after=1)))
            except psycopg.Error as error:
                if listening is not None:
                    listening.close()
                log.warning("%s: %s; not told of appends, looks for itself", self.name, words(error))
                time.sleep(seconds)
                return True

        try:
            with suppress(psycopg.Error):  # a server that only reads lets nobody listen
                listener()
            yield wait
        finally:
            if listening is not None:
                listening.close()

    def insert(self, rows: Rows, committing: Callable[[], object], lease: Lease | None = None) -> None:
        """All rows in one transaction, and one round trip."""

        def stored(connection: Connection) -> bool | None:
            # The seal of an event tells all that was stored with it and before it: nobody else's is the same.
            events = cast("list[Any]", rows.events)
            account, version, seal = told(events[-4]), events[-3], rows.seals[-1]
            found = connection.execute(
                "SELECT seal FROM stored_events WHERE originator_id = %s AND originator_version = %s",
                (account, version),
            ).fetchone()
            return True if found is not None and found[0] == seal else None

        def append(connection: Connection) -> bool:
            if lease is not None:
                self._keep(connection, lease)
            committing()  # nothing is done here while the server works
            try:
                self._recorder.append(connection, rows)
            except (errors.DataError, errors.ProgramLimitExceeded) as error:
                raise Unstorable(words(error)) from error
            return True

        self._patiently(append, stored)

    def known(self, account: str, keys: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Those of the natural keys that are stored."""
        sql = (
            "SELECT at_ns, key FROM natural_keys WHERE account = %s "
            "AND (at_ns, key) IN (SELECT * FROM unnest(%b, %b))"
        )
        params = (told(account), numbers([at for at, _ in keys]), texts([key for _, key in keys]))

        def ask(connection: Connection) -> list[tuple[int, str]]:
            return [cast("tuple[int, str]", heard(row)) for row in connection.execute(sql, params)]

        return self._patiently(ask)

    def select(self, sql: str, params: Sequence[Cell] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, whole: no read transaction stays open."""
        said, cells = _asked(sql, params)

        def ask() -> list[tuple[Any, ...]]:
            with self._reader() as cursor:
                return [heard(row) for row in cursor.execute(said, cells).fetchall()]

        return self._asked_again(ask)

    def _asked_again(self, ask: Callable[[], T]) -> T:
        """What is only read: asked again where that may pass."""
        began = time.monotonic()
        while True:
            try:
                with self.errors():
                    return ask()
            except StoreError as error:
                over = time.monotonic() > min(began + PATIENCE_S, self._end)
                if over or self._closed or not _passes(error):
                    raise
                log.warning("%s; asked again", error)
                time.sleep(RETRY_S)

    @contextmanager
    def _reader(self) -> Generator[psycopg.Cursor[tuple[Any, ...]]]:
        if self._closed or self._datastore is None:
            raise Closed(f"{self.name}: the ledger is closed")
        pool = self._datastore.pool
        pool.open()
        with (
            pool.connection(READER_S) as connection,
            connection.cursor(binary=True, row_factory=tuple_row) as cursor,
        ):
            yield cursor

    def write(self, changes: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """Statements in one transaction."""
        wanted = list(changes)

        def work(connection: Connection) -> bool:
            with connection.transaction():
                if any(
                    sql.startswith(DEFINES) for sql, _ in wanted
                ):  # one at a time: PostgreSQL does not queue them
                    connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended('accountledger tables', 0))"
                    )
                for sql, params in once:
                    if connection.execute(spoken(sql), [told(cell) for cell in params]).rowcount != 1:
                        raise Overtaken(f"{self.name}: somebody else wrote it first")
                for without, changes in groupby(wanted, lambda change: not any(change[1])):
                    if without:
                        self._script(connection, changes)
                    else:
                        for sql, rows in changes:
                            self._change(connection, sql, rows)
            return True

        self._patiently(work)

    def _script(self, connection: Connection, changes: Iterable[Change]) -> None:
        """Statements without parameters that follow one another, in one round trip: a projection makes many tables."""
        if script := [spoken(sql) for sql, rows in changes for _ in rows]:
            self._columns.clear()  # it may make tables
            connection.execute(query(";\n".join(script)), ())

    def _change(self, connection: Connection, sql: str, rows: Sequence[Sequence[Cell]]) -> None:
        if not rows:
            return
        if len(rows) > 1:
            all_at_once = at_once(sql, self._types_of(connection, sql))
            if all_at_once is not None:
                statement, makers = all_at_once
                columns = zip(*rows, strict=True)
                connection.execute(
                    statement,
                    [make(column) for make, column in zip(makers, columns, strict=True)],
                )
                return
        cursor = connection.cursor()
        if len(rows) == 1:
            cursor.execute(spoken(sql), [told(cell) for cell in rows[0]])
        else:
            cursor.executemany(spoken(sql), [[told(cell) for cell in row] for row in rows])

    def _types_of(self, connection: Connection, sql: str) -> tuple[tuple[str, str], ...]:
        """The columns of the table a statement changes, with their types."""
        found = UPSERT.fullmatch(sql) or DELETE.fullmatch(sql)
        if found is None:
            return ()
        table = found[1]
        if table not in self._columns:
            self._columns[table] = dict(connection.execute(_COLUMNS, (table,)).fetchall())
        return tuple(self._columns[table].items())

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        return {name for name, _ in self.select(_COLUMNS.replace("%s", "?"), (table,))}

    def definition(self, table: str) -> list[tuple[Any, ...]]:
        """A table's columns, constraints and triggers."""
        sql = (
            "SELECT 'column', column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND table_name = ? "
            "UNION ALL SELECT 'constraint', '', pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = to_regclass(?) AND contype <> 'n' "
            "UNION ALL SELECT 'index', '', indexdef FROM pg_indexes "
            "WHERE schemaname = current_schema() AND tablename = ? "
            "UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger "
            "WHERE tgrelid = to_regclass(?) AND NOT tgisinternal ORDER BY 1, 2, 3"
        )
        return self.select(sql, (table,) * 4)

    @contextmanager
    def view(self) -> Generator[View]:
        """One moment of the whole store."""
        with self.errors(), closing(self._asked_again(self._moment)) as connection:
            yield PostgresView(connection, self.name, self.definition)

    def _moment(self) -> Connection:
        connection = self._connect()
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(_NEVER_IDLE)
        except BaseException:
            connection.close()
            raise
        return connection


def _asked(sql: str, params: Sequence[Cell]) -> tuple[Any, list[Any]]:
    """A query and its parameters, as psycopg takes them."""
    listed = among(sql)
    if listed is not None:
        cells = params[listed.before :]
        kinds = set(map(type, cells))
        make = listed.makers.get(kinds.pop()) if len(kinds) == 1 else None
        if make is not None:
            with suppress(struct.error):  # a number that is wider
                return listed.statement, [*map(told, params[: listed.before]), make(cells)]
    return spoken(sql), [told(cell) for cell in params]


def _passes(error: StoreError) -> bool:
    """Whether it may be over if it is tried again."""
    return isinstance(error.__cause__, _PASSING) and not isinstance(error.__cause__, _FOR_GOOD)


_NEVER_IDLE: Final = "SET LOCAL idle_in_transaction_session_timeout = 0"
"""Of a moment: who folds the ledger between two looks at it takes as long as that takes."""
_THERE: Final = (
    "SELECT relname::text, array_agg(attname::text) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid "
    "WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relname = ANY(%b) "
    "AND attnum > 0 AND NOT attisdropped GROUP BY relname"
)
"""The columns of those tables that are there. One statement: who makes a ledger meanwhile has made all, or none."""
_COLUMNS: Final = (
    "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute "
    "WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.' || quote_ident(%s)) "
    "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
