"""eventsourcing's recorder for PostgreSQL with our tables and a column beside its own, and how to connect.

Knows rows and URLs; knows no event and no rule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from ledger.arrays import ARRAYS, blobs, numbers, texts
from ledger.dialect import query, spoken
from ledger.errors import StoreError
from ledger.rows import COPY, MEMORIES, Rows

CONNECT_S: Final = 5
STALL_S: Final = 2.0
"""How long who has to end waits for the answer of a server that says nothing, and for a connection to it."""
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
SCHEMA_VERSION: Final = 1
TABLES: Final = {
    "stored_events": {"originator_id", "originator_version", "topic", "state", "notification_id"},
    "evidence": {"row_id", "session", "ordinal", "payload"},
    "natural_keys": {"account", "at_ns", "key"},
    "ledger_schema": {"version"},
}
"""Without which there is no ledger, with columns of theirs; they are made all at once."""
MADE: Final = (*TABLES, "ledger_leases", "feed_memories", "ledger_copy")
"""Those that are there before anyone writes: not everyone who writes may make tables."""

_NOT_OF_THE_ENVIRONMENT: Final = ("host", "hostaddr", "port", "dbname", "user")
"""Where the URL does not say them, libpq's own defaults hold, not PGHOST and its like: no environment redirects a
ledger. Of secrets it may know (PGPASSWORD, PGPASSFILE)."""
_SETTINGS: Final = (
    f"SET lock_timeout = '{LOCK_S}s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; "
    "SET tcp_keepalives_count = 3; SET client_min_messages = warning; "
    f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'; "
    "SET quote_all_identifiers = off; "  # definitions are compared in the server's words
    # Who waits for the table's lock sees what was committed before it was had, and need not try again.
    "SET default_transaction_isolation = 'read committed'; "
    # What is acknowledged is on the disk, whatever a role or a database says; where a standby is waited for, stays so.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; "
    # The schemas behind the first one are somebody else's: no name of ours is looked for there.
    "SELECT set_config('search_path', quote_ident(found), false) FROM current_schema() AS found "
    "WHERE found IS NOT NULL"
)
_CREATE: Final = (
    "ALTER TABLE stored_events ADD COLUMN IF NOT EXISTS seal BYTEA",  # a table costs each a row and an index entry more
    'CREATE TABLE IF NOT EXISTS evidence (row_id BIGSERIAL PRIMARY KEY, session TEXT COLLATE "C" NOT NULL, '
    "ordinal BIGINT NOT NULL, payload BYTEA NOT NULL, UNIQUE (session, ordinal))",
    'CREATE TABLE IF NOT EXISTS natural_keys (account TEXT COLLATE "C" NOT NULL, at_ns BIGINT NOT NULL, '
    'key TEXT COLLATE "C" NOT NULL, PRIMARY KEY (account, at_ns, key))',
    # A token is raised by whoever takes the lease after another.
    'CREATE TABLE IF NOT EXISTS ledger_leases (name TEXT COLLATE "C" PRIMARY KEY, token BIGINT NOT NULL)',
    spoken(MEMORIES),
    spoken(COPY),
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
    INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id, seal)
        SELECT unnest(accounts), unnest(versions), unnest(topics), unnest(states),
            before + generate_series(1, cardinality(accounts)), unnest(sealed);
    INSERT INTO evidence (session, ordinal, payload)
        SELECT unnest(sessions), unnest(ordinals), unnest(payloads);
    -- For stock eventsourcing, which takes positions from the sequence.
    PERFORM setval('stored_events_notification_id_seq', before + cardinality(accounts));
    NOTIFY stored_events;
    RETURN before;
END $$
"""
_INSERT: Final = f"SELECT accountledger_append({', '.join(['%b'] * 11)})"

Row: TypeAlias = tuple[Any, ...]
R = TypeVar("R")


class Connection(psycopg.Connection[Row]):
    """A connection on which no answer is waited for longer than STALL_S once the end has come."""

    ends: Callable[[], float] = lambda: math.inf
    """Asked when that is (`time.monotonic`)."""

    def wait(self, gen: PQGen[R], *args: Any, **given: Any) -> R:
        return super().wait(self._heeded(gen), *args, **given)

    def _heeded(self, gen: PQGen[R]) -> PQGen[R]:
        """psycopg looks in again and again, with nothing that is ready."""
        began = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > max(began, self.ends()) + STALL_S:
                    self.pgconn.finish()  # an answer that came now would be taken for another's
                    raise psycopg.OperationalError(f"no answer for {time.monotonic() - began:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return cast("R", done.value)


class Datastore(PostgresDatastore):
    """The stock datastore, with text ids, connecting with any URL that libpq takes. Reads no environment of
    eventsourcing's."""

    def __init__(
        self, url: str, schema: str, ends: Callable[[], float] = lambda: math.inf, *, read_only: bool
    ) -> None:
        self._ends: Final = ends
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
            "options": options_of(url, read_only=read_only),
        }
        self.pool.connection_class = cast("Any", Connection)
        if not self.pool.kwargs["password"]:
            del self.pool.kwargs["password"]

    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        return partial(configure, ends=self._ends)

    def register_type_adapters(self) -> None:
        """Nothing: the type is for stock eventsourcing, which reads and writes the same table; ours needs none."""


def configure(connection: psycopg.Connection[Any], ends: Callable[[], float]) -> None:
    assert isinstance(connection, Connection)
    connection.ends = ends
    connection.autocommit = True
    for kind, dumper in ARRAYS:
        connection.adapters.register_dumper(kind, dumper)
    connection.execute(query(_SETTINGS))


def parameters(url: str) -> dict[str, Any]:
    """What to connect with. Raises StoreError where the URL is none; says nothing of what is in it."""
    try:
        said = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreError(
            "not the URL of a PostgreSQL database: postgresql://user@host:port/database"
        ) from None
    return {
        **dict.fromkeys(_NOT_OF_THE_ENVIRONMENT, ""),
        "connect_timeout": CONNECT_S,
        **KEEPALIVE,
        "application_name": "accountledger",
        **said,
        "client_encoding": "UTF8",  # our arrays are: no environment, role or database says otherwise
    }


def options_of(url: str, *, read_only: bool) -> str:
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
            connection.execute(query(self.script()))

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
            found = cursor.execute(query(_INSERT), arrays, prepare=True).fetchone()
        assert found is not None
        return int(found[0])
