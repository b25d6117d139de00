"""A ledger in a PostgreSQL database: eventsourcing's recorder, and the table that stock eventsourcing reads.

The seam where its errors and psycopg's become ours. Knows rows; knows no event and no rule. What may be the server's
doing and passes (it restarts, another takes over, a lock is held) is tried again until PATIENCE_S are over; a commit
whose answer was lost is looked up, never guessed.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, TypeVar, cast

import psycopg
from eventsourcing.persistence import PersistenceError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import PoolClosed, PoolTimeout

from ledger.arrays import ARRAYS, MAKERS, Array, blobs, heard, numbers, texts, told
from ledger.errors import (
    Closed,
    Conflict,
    LeaseLost,
    LedgerError,
    NoSuchLedger,
    Overtaken,
    StoreError,
    Unstorable,
)
from ledger.rows import Cell, Change, Once, Rows, Wait
from ledger.view import View

PATIENCE_S: Final = 30.0
"""How long what may pass is tried again."""
RETRY_S: Final = 0.2
CONNECT_S: Final = 5
LEASE_S: Final = 15.0
"""How long a lease that was lost with its connection is asked for again."""
LOCK_S: Final = 10
"""How long one attempt waits for a lock."""
IDLE_IN_TRANSACTION_S: Final = 60
"""After which the server ends a transaction of ours that nobody goes on with: it may hold the lock on the table."""
KEEPALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A peer that is gone is noticed in about ten seconds: at our end by these, at the server's by `_SETTINGS`."""
READERS_MAX: Final = 16
PAGE_ROWS: Final = 2_000
"""Of a view, read from the server at once."""
TEXT_BYTES_MAX: Final = 500
"""Of a text in an index, of which there may be five: an entry is at most 2,704 bytes (PostgreSQL manual, 65.1)."""
SCHEMA_VERSION: Final = 1
TABLES: Final = ("stored_events", "evidence", "natural_keys", "seals")
CHANNEL: Final = "stored_events"
"""Notified of each append, also by stock eventsourcing."""

_SETTINGS: Final = (
    f"SET lock_timeout = '{LOCK_S}s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; "
    "SET tcp_keepalives_count = 3; SET client_min_messages = warning; "
    f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'"
)
_PASSING: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.SerializationFailure,
    errors.DeadlockDetected,
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

_CREATE: Final = (
    'CREATE TABLE IF NOT EXISTS evidence (row_id BIGSERIAL PRIMARY KEY, session TEXT COLLATE "C" NOT NULL, '
    "ordinal BIGINT NOT NULL, payload BYTEA NOT NULL, UNIQUE (session, ordinal))",
    'CREATE TABLE IF NOT EXISTS natural_keys (account TEXT COLLATE "C" NOT NULL, at_ns BIGINT NOT NULL, '
    'key TEXT COLLATE "C" NOT NULL, PRIMARY KEY (account, at_ns, key))',
    "CREATE TABLE IF NOT EXISTS seals (position BIGINT PRIMARY KEY, seal BYTEA NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_schema (version BIGINT NOT NULL)",
)
_APPEND: Final = """
CREATE OR REPLACE FUNCTION accountledger_append(
    accounts TEXT[], versions BIGINT[], topics TEXT[], states BYTEA[], sealed BYTEA[],
    sessions TEXT[], ordinals BIGINT[], payloads BYTEA[],
    owners TEXT[], instants BIGINT[], keys TEXT[]
) RETURNS BIGINT LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    before BIGINT;
BEGIN
    -- What needs no position is written before others have to wait; in one order, so that nobody waits in a circle.
    INSERT INTO natural_keys (account, at_ns, key)
        SELECT unnest(owners), unnest(instants), unnest(keys) ORDER BY 1, 2, 3;
    -- Positions are given in the order of commits: who reads on from one never misses what is committed later.
    LOCK TABLE stored_events IN EXCLUSIVE MODE;
    SELECT coalesce(max(notification_id), 0) INTO before FROM stored_events;
    INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)
        SELECT unnest(accounts), unnest(versions), unnest(topics), unnest(states),
            before + generate_series(1, cardinality(accounts));
    INSERT INTO seals (position, seal)
        SELECT before + generate_series(1, cardinality(sealed)), unnest(sealed);
    INSERT INTO evidence (session, ordinal, payload)
        SELECT unnest(sessions), unnest(ordinals), unnest(payloads);
    -- For stock eventsourcing, which takes positions from the sequence.
    PERFORM setval('stored_events_notification_id_seq', before + cardinality(accounts));
    NOTIFY stored_events;
    RETURN before;
END $$
"""
_INSERT: Final = f"SELECT accountledger_append({', '.join(['%b'] * 11)})"
_UPSERT: Final = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES \((?:\?, )*\?\)( ON CONFLICT .*)?")
_DELETE: Final = re.compile(r"DELETE FROM (\w+) WHERE (\w+=\?(?: AND \w+=\?)*)")
_DEFINES: Final = ("CREATE ", "DROP ", "ALTER ")
_TYPES: Final = (
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
)

log = logging.getLogger("accountledger")
T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


class _Datastore(PostgresDatastore):
    """The stock datastore, with text ids, connecting with any URL that libpq takes. Reads no environment of
    eventsourcing's."""

    def __init__(self, url: str, schema: str, *, read_only: bool) -> None:
        super().__init__(
            "",
            "",
            "",
            "",
            "",
            schema=schema,
            originator_id_type="text",
            pool_size=0,
            max_overflow=READERS_MAX,
        )
        self.pool.kwargs = {
            **cast("dict[str, Any]", self.pool.kwargs),
            **parameters(url),
            "options": _options(url, read_only=read_only),
        }
        for unset in ("dbname", "host", "port", "user", "password"):
            if not self.pool.kwargs.get(unset):
                self.pool.kwargs.pop(unset, None)

    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        return _configure

    def register_type_adapters(self) -> None:
        """Nothing: the type is for stock eventsourcing, which reads and writes the same table; ours needs none."""


def _configure(connection: psycopg.Connection[Any]) -> None:
    connection.autocommit = True
    for kind, dumper in ARRAYS:
        connection.adapters.register_dumper(kind, dumper)
    connection.execute(_query(_SETTINGS))


def parameters(url: str) -> dict[str, Any]:
    """What to connect with. Raises StoreError where the URL is none; says nothing of what is in it."""
    try:
        said = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreError(
            "not the URL of a PostgreSQL database: postgresql://user@host:port/database"
        ) from None
    return {"connect_timeout": CONNECT_S, **KEEPALIVE, "application_name": "accountledger", **said}


def _options(url: str, *, read_only: bool) -> str:
    options = str(parameters(url).get("options") or "")
    return f"{options} -c default_transaction_read_only=on".strip() if read_only else options


def place_of(url: str) -> str:
    """The name of a database, without password."""
    said = parameters(url)
    user = f"{said['user']}@" if said.get("user") else ""
    port = f":{said['port']}" if said.get("port") else ""
    options = str(said.get("options") or "")
    schema = f" ({options.split('search_path=')[1].split()[0]})" if "search_path=" in options else ""
    return f"postgresql://{user}{said.get('host') or ''}{port}/{said.get('dbname') or ''}{schema}"


class Recorder(PostgresApplicationRecorder):
    """The stock recorder and table, plus what must be in the same transaction: seals, evidence and natural keys; all of
    it in one statement."""

    def create_table(self) -> None:
        with self.datastore.get_connection() as connection:
            connection.execute(_query(self.script()))

    def script(self) -> str:
        """What makes the tables that are not there, for one round trip."""
        stock = [each.as_string().rstrip("; ") for each in self.sql_create_statements]
        found = [
            f"DO $type$ BEGIN {each}; EXCEPTION WHEN duplicate_object THEN NULL; END $type$"
            if each.startswith("CREATE TYPE")
            else each
            for each in stock
        ]
        version = ("DELETE FROM ledger_schema", f"INSERT INTO ledger_schema VALUES ({SCHEMA_VERSION})")
        return ";\n".join((*found, *_CREATE, _APPEND, *version))

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        rows = Rows()
        for each in stored_events:
            rows.events += (str(each.originator_id), each.originator_version, each.topic, each.state)
        if not rows.events:
            return []
        with self.datastore.get_connection() as connection:
            before = self.append(cast("Connection", connection), rows)
        return list(range(before + 1, before + 1 + len(stored_events)))

    def append(self, connection: Connection, rows: Rows) -> int:
        """All rows in one transaction and one round trip; the position of the last event before them."""
        events, evidence, keys = (
            cast("list[Any]", rows.events),
            cast("list[Any]", rows.evidence),
            cast("list[Any]", rows.keys),
        )
        arrays = (
            texts(events[::4]),
            numbers(events[1::4]),
            texts(events[2::4]),
            blobs(events[3::4]),
            blobs(rows.seals),
            texts(evidence[::3]),
            numbers(evidence[1::3]),
            blobs(evidence[2::3]),
            texts(keys[::3]),
            numbers(keys[1::3]),
            texts(keys[2::3]),
        )
        with connection.cursor(row_factory=tuple_row) as cursor:
            found = cursor.execute(_query(_INSERT), arrays, prepare=True).fetchone()
        assert found is not None
        return int(found[0])


class Postgres:
    """A ledger in a PostgreSQL database. Thread-safe for any number of readers beside one writing thread at a time.

    Raises NoSuchLedger or StoreError.
    """

    POSITION: ClassVar[str] = "notification_id"
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
        self._closed = False
        self._columns: dict[str, dict[str, str]] = {}
        """The types of a table's columns, of tables that are there."""
        self._datastore: _Datastore | None = None
        try:
            with self.errors():
                self._writer = self._connect()
                self._datastore = _Datastore(url, self._schema(self._writer), read_only=read_only)
                self._recorder: Final = Recorder(self._datastore)
            self._patiently(self._lacks_nothing if read_only else self._make)
        except BaseException:
            self.close()
            raise

    def _schema(self, connection: Connection) -> str:
        """Where unqualified names are made; it must be there."""
        found = connection.execute("SELECT current_schema()").fetchone()
        if found is None or found[0] is None:
            raise NoSuchLedger(f"{self.name}: the schema of its search_path is not there")
        return str(found[0])

    def _lacks_nothing(self, connection: Connection) -> None:
        """Raise NoSuchLedger where it is none."""
        sql = "SELECT count(*) FROM unnest(%b) AS t(name) WHERE to_regclass(name) IS NULL"
        lacks = connection.execute(sql, (texts(TABLES),)).fetchone()
        if lacks is None or lacks[0]:
            raise NoSuchLedger(f"{self.name}: there is no ledger here")
        self._is_made(connection)

    def _make(self, connection: Connection) -> None:
        """Make the tables where they are not there. Once: who starts at the same time waits."""
        if self._is_made(connection):
            return
        assert self._datastore is not None
        held = f"accountledger schema {self._datastore.schema}"
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (held,))
            if not self._is_made(connection):
                connection.execute(_query(self._recorder.script()))

    def _is_made(self, connection: Connection) -> bool:
        found = connection.execute(
            "SELECT to_regclass(quote_ident(current_schema()) || '.ledger_schema')"
        ).fetchone()
        if found is None or found[0] is None:
            return False
        version = connection.execute("SELECT version FROM ledger_schema").fetchone()
        if version is not None and version[0] > SCHEMA_VERSION:
            raise StoreError(
                f"{self.name}: made by a newer version of accountledger (schema {version[0]}, this one knows "
                f"{SCHEMA_VERSION}); update this one"
            )
        return version is not None and version[0] == SCHEMA_VERSION

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        if self._datastore is not None:
            self._datastore.close()
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

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
            raise Conflict(f"{self.name}: somebody else appended first ({_words(error)})") from error
        except errors.InvalidCatalogName as error:
            raise NoSuchLedger(f"{self.name}: {_words(error)}") from error
        except (psycopg.Error, PersistenceError, PoolTimeout) as error:
            raise StoreError(f"{self.name}: {_words(error)}") from error

    def _connect(self) -> Connection:
        """A connection outside the pool."""
        given: dict[str, Any] = {
            **parameters(self._url),
            "options": _options(self._url, read_only=self._read_only),
        }
        connection = psycopg.connect(**given, autocommit=True)
        try:
            _configure(connection)
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
                    cause = error.__cause__
                    broken = self._writer is None or self._writer.closed
                    cut = cut or broken
                    if isinstance(error, Conflict) and cut and unsure is not None:
                        with self.errors():
                            done = unsure(self._writers())
                        if done is not None:
                            return done
                    if not isinstance(cause, _PASSING) or isinstance(cause, _FOR_GOOD) or self._closed:
                        raise
                    spent = time.monotonic() - began
                    if spent > PATIENCE_S:
                        raise StoreError(f"{error} (tried again for {spent:.0f} s)") from cause
                    log.warning("%s; tried again for up to %.0f s", error, PATIENCE_S - spent)
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

    def lease(self, name: str) -> bool:
        """A lock of the writer's own session: it is gone with the connection that appends (PostgreSQL manual, section
        13.3.5, advisory locks)."""

        def take(connection: Connection) -> bool:
            return self._hold(connection, name)

        return self._patiently(take)

    def _hold(self, connection: Connection, name: str) -> bool:
        if name not in self._held:
            sql = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
            found = connection.execute(sql, (self._lease_of(name),)).fetchone()
            if found is None or not found[0]:
                return False
            self._held.add(name)
        return True

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

    def _keep(self, connection: Connection, name: str) -> None:
        """Have the lease; after a break it has to be taken again. Raises LeaseLost where another has it. Its own old
        session may hold it until the server has noticed that nobody is there."""
        until = time.monotonic() + LEASE_S
        while not self._hold(connection, name):
            if time.monotonic() > until:
                raise LeaseLost(f"{self.name}: another process feeds {name} now")
            time.sleep(RETRY_S)

    @contextmanager
    def following(self) -> Generator[Wait]:
        """LISTEN on a connection of its own; where that breaks, it looks for itself until there is another."""
        listening: Connection | None = None

        def listener() -> Connection:
            nonlocal listening
            if listening is None or listening.closed:
                listening = self._connect()
                listening.execute(_query(f"LISTEN {CHANNEL}"))
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
                log.warning("%s: %s; not told of appends, looks for itself", self.name, _words(error))
                time.sleep(seconds)
                return True

        try:
            with suppress(psycopg.Error):  # a server that only reads lets nobody listen
                listener()
            yield wait
        finally:
            if listening is not None:
                listening.close()

    def insert(self, rows: Rows, committing: Callable[[], object], lease: str | None = None) -> None:
        """All rows in one transaction, and one round trip."""

        def stored(connection: Connection) -> bool | None:
            # The seal of an event tells all that was stored with it and before it: nobody else's is the same.
            events = cast("list[Any]", rows.events)
            account, version, seal = told(events[-4]), events[-3], rows.seals[-1]
            found = connection.execute(
                "SELECT s.seal FROM stored_events AS e JOIN seals AS s ON s.position = e.notification_id "
                "WHERE e.originator_id = %s AND e.originator_version = %s",
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
                raise Unstorable(_words(error)) from error
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
        began = time.monotonic()
        spoken, cells = _spoken(sql), [told(cell) for cell in params]
        while True:
            try:
                with self.errors(), self._reader() as cursor:
                    return [heard(row) for row in cursor.execute(spoken, cells).fetchall()]
            except StoreError as error:
                cause = error.__cause__
                passing = isinstance(cause, (*_PASSING, PoolTimeout)) and not isinstance(cause, _FOR_GOOD)
                if not passing or self._closed or time.monotonic() - began > PATIENCE_S:
                    raise
                log.warning("%s; asked again", error)
                time.sleep(RETRY_S)

    @contextmanager
    def _reader(self) -> Generator[psycopg.Cursor[tuple[Any, ...]]]:
        if self._closed or self._datastore is None:
            raise Closed(f"{self.name}: the ledger is closed")
        pool = self._datastore.pool
        pool.open()
        with pool.connection() as connection, connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            yield cursor

    def write(self, changes: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """Statements in one transaction."""
        wanted = list(changes)

        def work(connection: Connection) -> bool:
            with connection.transaction():
                if any(
                    sql.startswith(_DEFINES) for sql, _ in wanted
                ):  # one at a time: PostgreSQL does not queue them
                    connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended('accountledger tables', 0))"
                    )
                for sql, params in once:
                    if connection.execute(_spoken(sql), [told(cell) for cell in params]).rowcount != 1:
                        raise Overtaken(f"{self.name}: somebody else wrote it first")
                for sql, rows in wanted:
                    self._change(connection, sql, rows)
            return True

        self._patiently(work)

    def _change(self, connection: Connection, sql: str, rows: Sequence[Sequence[Cell]]) -> None:
        if sql.startswith(_DEFINES):
            self._columns.clear()
        if not rows:
            return
        if len(rows) > 1:
            at_once = _at_once(sql, self._types_of(connection, sql))
            if at_once is not None:
                statement, makers = at_once
                columns = zip(*rows, strict=True)
                connection.execute(
                    statement,
                    [make(column) for make, column in zip(makers, columns, strict=True)],
                )
                return
        cursor = connection.cursor()
        if len(rows) == 1:
            cursor.execute(_spoken(sql), [told(cell) for cell in rows[0]])
        else:
            cursor.executemany(_spoken(sql), [[told(cell) for cell in row] for row in rows])

    def _types_of(self, connection: Connection, sql: str) -> tuple[tuple[str, str], ...]:
        """The columns of the table a statement changes, with their types."""
        found = _UPSERT.fullmatch(sql) or _DELETE.fullmatch(sql)
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
        with self.errors():
            connection = self._connect()
            try:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield PostgresView(connection, self)
            finally:
                connection.close()


_COLUMNS: Final = (
    "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute AS a JOIN pg_class AS t ON t.oid = attrelid "
    "WHERE t.relname = %s AND t.relnamespace = to_regnamespace(quote_ident(current_schema())) "
    "AND t.relkind IN ('r', 'p', 'v') AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)


class PostgresView(View):
    """One moment of a PostgreSQL database: a transaction that reads only."""

    POSITION = "notification_id"
    FRAME = "row_id"

    def __init__(self, connection: Connection, engine: Postgres) -> None:
        self._connection = connection
        self._engine = engine
        self.name = engine.name
        self._cursors = 0

    @contextmanager
    def inspected(self) -> Generator[Callable[[], list[str]]]:
        """The definitions only: its own files a server checks itself (`pg_amcheck`, checksums)."""
        yield self._misshapen

    def _misshapen(self) -> list[str]:
        found = []
        for table, wanted in _DEFINITIONS.items():
            said = {(kind, text) for kind, _, text in self._engine.definition(table) if kind != "index"}
            found += [f"the {kind} {text} of {table} is gone" for kind, text in sorted(wanted - said)]
            found += [
                f"a {kind} was added to {table}: {text}"
                for kind, text in sorted(said - wanted)
                if kind == "trigger"
            ]
        return found

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> Iterator[Any]:
        self._cursors += 1
        if any(type(cell) is int and not -(1 << 63) <= cell < 1 << 63 for cell in params):
            return  # a number that no row can hold
        cursor: Any
        try:
            if params:
                cursor = self._connection.cursor(binary=True, row_factory=tuple_row)
            else:  # a whole table: the server keeps what is not read yet
                cursor = self._connection.cursor(f"view_{self._cursors}", binary=True, row_factory=tuple_row)
                cursor.itersize = PAGE_ROWS
            with cursor:
                for row in cursor.execute(_spoken(sql), [told(cell) for cell in params]):
                    yield heard(row)
        except psycopg.Error as error:
            raise StoreError(f"{self.name}: {_words(error)}") from error


_DEFINITIONS: Final[dict[str, set[tuple[str, str]]]] = {
    "stored_events": {("constraint", "PRIMARY KEY (originator_id, originator_version)")},
    "evidence": {("constraint", "PRIMARY KEY (row_id)"), ("constraint", "UNIQUE (session, ordinal)")},
    "natural_keys": {("constraint", "PRIMARY KEY (account, at_ns, key)")},
    "seals": {("constraint", 'PRIMARY KEY ("position")')},
}


class _AtOnce(NamedTuple):
    statement: Any
    makers: tuple[Callable[[Any], Array], ...]


@cache
def _at_once(sql: str, types: tuple[tuple[str, str], ...]) -> _AtOnce | None:
    """A statement for one row as one for many, given as an array for each parameter; None where it cannot be."""
    kinds = dict(types)
    if found := _UPSERT.fullmatch(sql):
        table, names, conflict = found[1], found[2].split(", "), found[3] or ""
        given = ", ".join(["unnest(%b)"] * len(names))  # side by side: faster than one of many columns
        said = f"INSERT INTO {table} ({', '.join(names)}) SELECT {given}{conflict}"
    elif found := _DELETE.fullmatch(sql):
        table, names = found[1], [each.removesuffix("=?") for each in found[2].split(" AND ")]
        gone = " AND ".join(f"{table}.{name}=gone.{name}" for name in names)
        given = ", ".join(["%b"] * len(names))
        said = f"DELETE FROM {table} USING unnest({given}) AS gone({', '.join(names)}) WHERE {gone}"
    else:
        return None
    if any(kinds.get(name) not in MAKERS for name in names):
        return None
    return _AtOnce(_query(said), tuple(MAKERS[kinds[name]] for name in names))


@cache
def _spoken(sql: str) -> Any:
    """A statement as psycopg and PostgreSQL take it."""
    said = sql.replace("%", "%%").replace("?", "%s")
    if sql.startswith(_DEFINES):
        for kind, ours in _TYPES:
            said = kind.sub(ours, said)
    return _query(said)


def _words(error: BaseException) -> str:
    """What an error says, in one line, without its statement; of a constraint also which row broke it."""
    said = str(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        said = f"{error.diag.message_primary} {error.diag.message_detail or ''}"
    return " ".join(said.split()) or type(error).__name__


def _query(text: str) -> Any:
    """Text as psycopg takes a query: its types want it to stand in the program."""
    return text
