"""How both databases make the SQL views, in place of older ones; and who may read them.

Knows SQL and what views there are; knows no event and no fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.errors import StoreError
from projections.tables import Cell, Change, Database, Table
from projections.view_columns import AMOUNT, FLAG, INTEGER, PARTS, TEXT, TIME, VIEWS, Column, View

VERSION: Final = 4
"""Of the views and the rows of their own (`projections.views`), kept like that of a projection; where the stored one is
another, both are made again. Change it with anything that changes either."""
MARK: Final = "made by accountledger"
"""The comment of a table that a projection made on a server: any other is somebody's, and never dropped."""
RENAMED: Final = {"order_rows": "orders", "fill_rows": "fills", "quarantine_rows": "quarantine"}
"""Tables, and what versions before 0.5.0 called them: the views have these names now."""
_GONE: Final = {**RENAMED, "executions": "order_sums", "fill_tellings": "execution_fills"}
"""Tables, and those of former versions that go where they are made."""
STATEMENT_TIMEOUT_S: Final = 60
IDLE_S: Final = 60
"""How long a reader's query may run, and how long its transaction may be left open."""

TABLES: Final = frozenset(
    {"stated_balances", "history", "chain_gaps", "shown_balances", "shown_gaps", "shown_breaks", *RENAMED}
)
"""Those that views are of, beside that of positions."""


_IN_SERVER: Final[dict[str, Any]] = {
    "parts": "jsonb_array_elements(balances::jsonb) AS said",
    "part": [f"(said.value ->> {place})" for place in range(PARTS)],
    "joined": "string_agg",
}
_IN_FILE: Final[dict[str, Any]] = {
    "parts": "json_each(balances) AS said",
    "part": [f"json_extract(said.value, '$[{place}]')" for place in range(PARTS)],
    "joined": "group_concat",
}
"""How each takes a statement apart, and joins texts (`View.rows`)."""

TYPES: Final = {
    TEXT: ("text", "TEXT"),
    INTEGER: ("bigint", "INTEGER"),
    AMOUNT: ("numeric", "TEXT"),
    FLAG: ("boolean", "INTEGER"),
    TIME: ("text", "TEXT"),
}
"""Of columns, in PostgreSQL and in SQLite."""


def on_server(database: Database) -> bool:
    """Whether it is PostgreSQL."""
    return not database.in_file


def relations(database: Database) -> dict[str, str]:
    """The tables and views there are: which of the two each is."""
    if on_server(database):
        sql = (
            "SELECT relname::text, CASE relkind WHEN 'v' THEN 'view' ELSE 'table' END FROM pg_class "
            f"WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND {_HERE}"
        )
    else:  # the cast: a name that one flipped bit made bytes is damage, and not ours to tell
        sql = "SELECT CAST(name AS TEXT), type FROM sqlite_master WHERE type IN ('table', 'view')"
    return {str(name): str(kind) for name, kind in database.select(sql)}


def foreign(database: Database) -> set[str]:
    """The tables and views that are not known to be a ledger's: on a server, where others' may stand beside them,
    tables without its mark, and views of none of its tables. A file is a ledger's own."""
    if not on_server(database):
        return set()
    return {str(name) for (name,) in database.select(_FOREIGN)}


def is_as_made(database: Database, table: Table[Any]) -> bool:
    """Whether a projection's table has the columns it was made with and, on a server, its primary key: without that no
    row of it can be written over."""
    if database.columns(table.name) != table.columns:
        return False
    return not on_server(database) or bool(database.select(_KEYED, (table.name, len(table.key))))


def _refusal(name: str) -> StoreError:
    return StoreError(
        f"there is a table or view {name} that is not the ledger's: rename it, or give the ledger a schema of its own"
    )


def dropping(database: Database, found: dict[str, str], others: set[str]) -> list[Change]:
    """The statements that drop the views there are, but those of `others`. PostgreSQL remembers who might read them."""
    server = on_server(database)
    # On a server another process may make them at this moment, and be done before it is our turn.
    names = [
        view.name for view in VIEWS if view.name not in others and (found.get(view.name) == "view" or server)
    ]
    drops: list[Change] = [(f"DROP VIEW IF EXISTS {name}", [()]) for name in names]
    return [(_READERS, [()]), (_REMEMBER, [()]), *drops] if server else drops


def emptying(database: Database, tables: Sequence[Table[Any]], *, before: Cell, now: int) -> list[Change]:
    """The statements that make a projection's tables anew, which it had made as of a version `before` (None: never).
    Where views are of them, and on a server, where others may have rights to them, tables of this version stay, and
    only their rows go; of others, and of such that somebody changed, the views go too, until they are made again.
    Raises StoreError where a table or view of somebody else's has the name of one that was never made."""
    found, server = relations(database), on_server(database)
    names = {view.name for view in VIEWS} | {table.name for table in tables} | set(_GONE.values())
    others = foreign(database) if names & found.keys() else set[str]()
    for table in tables:
        if before is None and table.name in others:
            raise _refusal(table.name)
    shown = bool(TABLES & {table.name for table in tables}) and any(
        found.get(view.name) == "view" and view.name not in others for view in VIEWS
    )
    as_made = before == now and all(is_as_made(database, each) for each in tables)
    if as_made and (shown or server):
        return [(f"DELETE FROM {each.name}", [()]) for each in tables]
    changes = dropping(database, found, others) if shown else []
    for table in tables:
        former = _GONE.get(table.name, "")
        if found.get(former) == "table" and before is not None and former not in others:
            changes.append((f"DROP TABLE IF EXISTS {former}", [()]))
        changes += [(f"DROP TABLE IF EXISTS {table.name}", [()]), (table.create, [()])]
        if table.index is not None:
            changes.append((table.index, [()]))
        if server:
            changes.append((f"COMMENT ON TABLE {table.name} IS {_quoted(MARK)}", [()]))
    return changes


def making(database: Database) -> list[Change]:
    """The statements that make the views, in place of those there are. Raises StoreError where a table of somebody
    else's has a view's name."""
    found, others = relations(database), foreign(database)
    taken = [view.name for view in VIEWS if found.get(view.name) == "table"]
    if taken:
        raise StoreError(
            f"no view can be made: there is a table {taken[0]} that is not the ledger's; rename it"
        )
    for view in VIEWS:
        if view.name in others:
            raise _refusal(view.name)
    server = on_server(database)
    changes = [*dropping(database, found, others), *((sql_of(view, server=server), [()]) for view in VIEWS)]
    if server:
        changes += [(_READERS, [()]), (_comments(), [()]), (_REGRANT, [()])]
    return changes


def is_made(database: Database) -> bool:
    """Whether the views are there. They are of the version of the rows they are of: with those, they go."""
    found, others = relations(database), foreign(database)
    return all(found.get(view.name) == "view" and view.name not in others for view in VIEWS)


def sql_of(view: View, *, server: bool) -> str:
    """How a database makes a view."""
    return f"CREATE VIEW {view.name} AS {query_of(view, server=server)}"


def query_of(view: View, *, server: bool) -> str:
    """The query that a view is."""
    columns = ", ".join(f"{_expression(each, server=server)} AS {each.name}" for each in view.columns)
    rows = view.rows.format(**(_IN_SERVER if server else _IN_FILE))
    return f"SELECT {columns} FROM {rows}"


def _expression(column: Column, *, server: bool) -> str:
    head = f"(SELECT coalesce(max({'notification_id' if server else 'rowid'}), 0) FROM stored_events)"
    sql = (column.sql or f"t.{column.name}").replace("{head}", head)
    if column.kind == TIME:
        return _server_time(sql) if server else _file_time(sql)
    if server and column.kind == AMOUNT:
        return f"{sql}::numeric"
    if server and column.kind == FLAG:
        return f"({sql} <> 0)"
    return sql


def _server_time(ns: str) -> str:
    stamp = f"to_char(to_timestamp({ns} / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')"
    return _with_fraction(stamp, ns, "lpad(({part})::text, {digits}, '0')")


def _file_time(ns: str) -> str:
    stamp = f"strftime('%Y-%m-%dT%H:%M:%S', {ns} / 1000000000, 'unixepoch')"
    return _with_fraction(stamp, ns, "printf('%0{digits}d', {part})")


def _with_fraction(stamp: str, ns: str, padded: str) -> str:
    """A time to the second, with as many digits more as it needs, as `ledger.wire.time_text` writes it."""
    fractions = [
        "'.' || " + padded.format(part=f"{ns} % 1000000000 / {unit}", digits=digits)
        for unit, digits in ((1000000, 3), (1000, 6), (1, 9))
    ]
    return (
        f"{stamp} || CASE WHEN {ns} % 1000000000 = 0 THEN '' WHEN {ns} % 1000000 = 0 THEN {fractions[0]} "
        f"WHEN {ns} % 1000 = 0 THEN {fractions[1]} ELSE {fractions[2]} END || 'Z'"
    )


_HERE: Final = "relnamespace = to_regnamespace(quote_ident(current_schema()))"
_FOREIGN: Final = (
    f"WITH ours AS (SELECT oid FROM pg_class WHERE {_HERE} "
    f"AND (obj_description(oid, 'pg_class') = '{MARK}' OR relname IN ('stored_events', 'projection_positions'))), "
    "read AS (SELECT ev_class AS oid FROM pg_rewrite AS rule JOIN pg_depend AS uses "
    "ON uses.classid = 'pg_rewrite'::regclass AND uses.objid = rule.oid "
    "WHERE uses.refclassid = 'pg_class'::regclass AND uses.refobjid IN (SELECT oid FROM ours)) "
    f"SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND {_HERE} "
    "AND oid NOT IN (SELECT oid FROM ours UNION SELECT oid FROM read)"
)
_KEYED: Final = (
    "SELECT 1 FROM pg_constraint WHERE conrelid = to_regclass(?) AND contype = 'p' "
    "AND conkey = ARRAY(SELECT generate_series(1, ?))::smallint[]"
)
"""Whether a table's primary key is its first columns."""
_NAMES: Final = ", ".join(f"'{view.name}'" for view in VIEWS)
_READERS: Final = "CREATE TABLE IF NOT EXISTS view_readers (name TEXT, role TEXT, PRIMARY KEY (name, role))"
_REMEMBER: Final = (
    "INSERT INTO view_readers SELECT DISTINCT table_name::text, grantee::text "
    "FROM information_schema.role_table_grants WHERE table_schema = current_schema() "
    f"AND table_name IN ({_NAMES}) AND privilege_type = 'SELECT' AND grantee::text <> current_user::text "
    "ON CONFLICT DO NOTHING"
)
_REGRANT: Final = (
    "DO $$ DECLARE reader RECORD; BEGIN "
    "FOR reader IN SELECT name, role FROM view_readers WHERE to_regclass(quote_ident(name)) IS NOT NULL "
    "AND (role = 'PUBLIC' OR role IN (SELECT rolname::text FROM pg_roles)) LOOP "
    "EXECUTE 'GRANT SELECT ON ' || quote_ident(reader.name) || ' TO ' "
    "|| CASE reader.role WHEN 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(reader.role) END; "
    "END LOOP; DELETE FROM view_readers; END $$"
)


def _comments() -> str:
    """What each view and column means, for PostgreSQL to keep."""
    said = [f"COMMENT ON VIEW {view.name} IS {_quoted(view.meaning)};" for view in VIEWS]
    said += [
        f"COMMENT ON COLUMN {view.name}.{each.name} IS {_quoted(each.meaning)};"
        for view in VIEWS
        for each in view.columns
    ]
    return f"DO $$ BEGIN {' '.join(said)} END $$"


def role_script(role: str, database: str, schema: str) -> str:
    """What an owner runs in psql to let a role read the views, and nothing else. Holds no password."""
    name, of, within = _named(role), _named(database), _named(schema)
    names = ", ".join(f"{within}.{view.name}" for view in VIEWS)
    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"'{STATEMENT_TIMEOUT_S}s'",
        "idle_in_transaction_session_timeout": f"'{IDLE_S}s'",
        "search_path": within,
    }
    return "\n".join(
        (
            "-- A role that reads the views of a ledger, and nothing else. Run it as who owns the ledger's tables (and",
            "-- may make roles), and again after an update that brings new views. It sets no password.",
            "DO $make$ BEGIN",
            f"  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_quoted(role)}) THEN",
            f"    CREATE ROLE {name} LOGIN;",
            "  END IF;",
            "END $make$;",
            *(f"ALTER ROLE {name} IN DATABASE {of} SET {key} = {value};" for key, value in settings.items()),
            f"GRANT CONNECT ON DATABASE {of} TO {name};",
            f"GRANT USAGE ON SCHEMA {within} TO {name};",
            f"GRANT SELECT ON {names} TO {name};",
            "",
        )
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _named(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
