"""The SQL views: what each is called, what its columns mean, and how both databases make it.

Knows the names of tables and columns; knows no event and no fold. What is said of a column is said here, once: the
command prints it, PostgreSQL keeps it as comments, and the README repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from ledger.errors import StoreError
from projections.tables import Change, Database

VERSION: Final = 1
"""Of the views: they are made again where they are of another. Change it with anything that changes their SQL."""
RENAMED: Final = {"order_rows": "orders", "fill_rows": "fills", "quarantine_rows": "quarantine"}
"""Tables, and what versions before 0.5.0 called them: the views have these names now."""
STATEMENT_TIMEOUT_S: Final = 60
IDLE_S: Final = 60
"""How long a reader's query may run, and how long its transaction may be left open."""

TEXT: Final = "text"
INTEGER: Final = "integer"
AMOUNT: Final = "amount"
FLAG: Final = "flag"
TIME: Final = "time"


class Column(Struct, frozen=True):
    """A column of a view. `sql`: where it is from, if not from the column of its name of the table `t`."""

    name: str
    kind: str
    meaning: str
    sql: str = ""


class View(Struct, frozen=True):
    """A view: what is in a row of it, where the rows are from, its columns, and how they are ordered to be equal to what
    the command of that name prints."""

    name: str
    meaning: str
    rows: str
    columns: Sequence[Column]
    order: str
    projection: str
    """Whose position says how far it goes."""


def _time(name: str, meaning: str) -> tuple[Column, Column]:
    """A time: nanoseconds, and the same as text."""
    return (
        Column(f"{name}_ns", INTEGER, f"{meaning}; nanoseconds since 1970 (UTC)."),
        Column(name, TIME, f"The same as text: ISO-8601, UTC, with as many digits as it needs.", f"t.{name}_ns"),
    )


_ACCOUNT: Final = Column("account", TEXT, "The account: venue and name, `bitopro:main`.")
_ASSET_ID: Final = Column("asset_id", TEXT, "The asset by the venue's id.")
_ASSET: Final = Column("asset", TEXT, "The asset by the venue's label.")
_CLOSED: Final = (
    Column("state", TEXT, "`open` or `closed`."),
    Column("closed_by", INTEGER, "The version of the account's event that closed it; NULL while it is open."),
    *_time("closed", "Since when that is known; NULL while it is open"),
    Column("closed_how", TEXT, "What closed it, in words; NULL while it is open."),
)


def _suspect(kind: str) -> str:
    """The open breaks of a kind, in words, by what they are of."""
    return (
        "(SELECT account, subject, max('expected ' || expected || ', stated ' || stated) AS said FROM shown_breaks "
        f"WHERE state = 'open' AND kind = '{kind}' GROUP BY account, subject)"
    )


CURRENT_BALANCES: Final = View(
    "current_balances",
    "What is held now, and how complete that is: what `accountledger balances` prints.",
    "shown_balances AS t",
    (
        _ACCOUNT,
        _ASSET,
        _ASSET_ID,
        Column("total", AMOUNT, "All that is held; NULL where the venue states no total."),
        Column("available", AMOUNT, "What is free to use; NULL where the venue does not state it."),
        Column("locked", AMOUNT, "What open orders hold; NULL where the venue does not state it."),
        Column("staked", AMOUNT, "What is staked; NULL where the venue does not state it."),
        Column("pending", AMOUNT, "What is on its way; NULL where the venue does not state it."),
        Column("tradable", FLAG, "Whether the venue lets it be traded; NULL where it does not say."),
        Column("version", INTEGER, "The version of the account's event that states it."),
        *_time("time", "When that was true by the venue's clock, else when it was received"),
        Column("completeness", TEXT, "`proven`, `consistent`, `unprovable` or `gap`."),
        Column("reason", TEXT, "Why it is that, in one sentence."),
    ),
    "account, asset_id",
    "views",
)

BALANCE_HISTORY: Final = View(
    "balance_history",
    "The venues' own balance histories, row by row, as imported: what `accountledger history` prints.",
    "history AS t LEFT JOIN chain_gaps AS g "
    "ON g.account = t.account AND g.asset_id = t.asset_id AND g.after_version = t.version",
    (
        _ACCOUNT,
        _ASSET_ID,
        *_time("time", "When it happened, as the venue says"),
        Column("version", INTEGER, "The version of the account's event that tells it."),
        _ASSET,
        Column("cause", TEXT, "Why the balance changed, in the venue's word."),
        Column("amount", AMOUNT, "By how much, as the venue signs it."),
        Column("balance", AMOUNT, "The balance after it."),
        Column("pending", AMOUNT, "What was on its way then; NULL where the venue does not state it."),
        Column("memo", FLAG, "Whether it is only noted: told beside a balance that states the same."),
        Column("reference", TEXT, "The venue's id of what caused it; NULL where there is none."),
        Column(
            "suspect",
            TEXT,
            "`rows are missing before this one` where the balance before it does not lead to it; else NULL.",
            "CASE WHEN g.account IS NULL THEN NULL ELSE 'rows are missing before this one' END",
        ),
    ),
    "account, asset_id, time_ns, version",
    "history",
)

ORDERS: Final = View(
    "orders",
    "The orders as the venues last stated them, open and closed: what `accountledger orders` prints.",
    f"order_rows AS t LEFT JOIN {_suspect('fills')} AS s ON s.account = t.account AND s.subject = t.order_id",
    (
        _ACCOUNT,
        Column("order_id", TEXT, "The venue's id of the order."),
        Column("symbol", TEXT, "What is traded, in the venue's word."),
        Column("side", TEXT, "Which way, in the venue's word."),
        Column("type", TEXT, "Which type of order, in the venue's word."),
        Column("status", TEXT, "The venue's word for its state."),
        Column("closed", FLAG, "Whether nothing more can happen to it."),
        Column("price", AMOUNT, "Its limit; NULL where it has none."),
        Column("quantity", AMOUNT, "How much was ordered; NULL where the venue does not state it."),
        Column("executed", AMOUNT, "How much of it was executed so far; NULL where the venue does not state it."),
        Column("quote_quantity", AMOUNT, "How much was ordered, in the quote asset; NULL where not stated."),
        Column("executed_quote", AMOUNT, "How much was executed so far, in the quote asset; NULL where not stated."),
        Column("average_price", AMOUNT, "The average price so far, as the venue states it; NULL where not stated."),
        Column("fee", AMOUNT, "All fees of it so far; NULL where the venue does not state them."),
        Column("fee_asset", TEXT, "The asset of the fees; NULL where the venue does not state it."),
        *_time("created", "When it was placed; NULL where the venue does not say"),
        *_time("updated", "When this was true"),
        Column("version", INTEGER, "The version of the account's event that states it."),
        Column("suspect", TEXT, "What is wrong where its fills do not come to `executed`; else NULL.", "s.said"),
    ),
    "account, order_id",
    "orders",
)

FILLS: Final = View(
    "fills",
    "Every execution, once: what `accountledger fills` prints.",
    f"fill_rows AS t LEFT JOIN {_suspect('quote')} AS s ON s.account = t.account AND s.subject = t.fill_id",
    (
        _ACCOUNT,
        Column("fill_id", TEXT, "The venue's id of the execution."),
        Column("order_id", TEXT, "The venue's id of the order that was executed."),
        Column("symbol", TEXT, "What was traded, in the venue's word."),
        Column("side", TEXT, "Which way, in the venue's word."),
        Column("role", TEXT, "Maker or taker, in the venue's word; NULL where it does not say."),
        Column("price", AMOUNT, "At which price."),
        Column("quantity", AMOUNT, "How much of the base asset."),
        Column("quote_quantity", AMOUNT, "How much of the quote asset; NULL where the venue does not state it."),
        Column("fee", AMOUNT, "Its fee; NULL where the venue does not state it."),
        Column("fee_asset", TEXT, "The asset of the fee; NULL where the venue does not state it."),
        Column("counter_order_id", TEXT, "The order on the other side; NULL where the venue does not state it."),
        Column("version", INTEGER, "The version of the account's event that tells it."),
        *_time("time", "When it was executed by the venue's clock, else when it was received"),
        Column("suspect", TEXT, "What is wrong where `quote_quantity` is not price x quantity; else NULL.", "s.said"),
    ),
    "account, time_ns, fill_id",
    "fills",
)

GAPS: Final = View(
    "gaps",
    "What is or was missing, and what closed it: what `accountledger gaps --all` prints.",
    "shown_gaps AS t",
    (
        _ACCOUNT,
        Column("kind", TEXT, "`sequence`, `chain`, `blind` or `fills`."),
        Column(
            "gap_from",
            TEXT,
            "Where it begins: a number of the sequence, the time of the row before it, the time since which nobody "
            "listened, or the order's id.",
        ),
        Column("gap_to", TEXT, "Where it ends, likewise."),
        Column("missing", TEXT, "What is missing, in words."),
        Column("suspect", TEXT, "What cannot be relied on because of it, in words."),
        Column("session", TEXT, "The conversation that showed it; NULL of a `chain`."),
        Column("subscription", TEXT, "The sequence in which numbers are missing; NULL of other kinds."),
        Column("asset_id", TEXT, "The asset whose history it is a gap of; NULL of other kinds than `chain`."),
        Column("version", INTEGER, "The version of the account's event that showed it."),
        *_time("time", "When that was true"),
        Column("healed", FLAG, "Whether what was missing arrived after all (the command shows it with `--all` only)."),
        *_CLOSED,
    ),
    "account, number",
    "views",
)

BREAKS: Final = View(
    "breaks",
    "Where two statements should agree and do not, or did not: what `accountledger breaks` prints.",
    "shown_breaks AS t",
    (
        _ACCOUNT,
        Column("kind", TEXT, "`snapshot`, `account`, `fills` or `quote`."),
        Column("subject", TEXT, "What they are statements of: an asset, an order or a fill, by id."),
        Column("part", TEXT, "Which part of a balance; NULL of orders and fills."),
        Column("expected", AMOUNT, "What the earlier statements come to."),
        Column("stated", AMOUNT, "What the later one says."),
        Column("difference", AMOUNT, "`stated` less `expected`."),
        Column("expected_version", INTEGER, "The version of the account's event that `expected` rests on, or NULL."),
        Column("stated_version", INTEGER, "The version of the account's event that `stated` rests on, or NULL."),
        *_time("time", "When the later statement was true"),
        Column("age_s", INTEGER, "Seconds from when it was found until it was closed; NULL while it is open."),
        Column("explained_by", TEXT, "The gaps in which the difference was missed, in words; NULL where none was."),
        *_CLOSED,
    ),
    "account, number",
    "views",
)

QUARANTINE: Final = View(
    "quarantine",
    "The frames no event could be made of, as long as none can: what `accountledger quarantine` prints.",
    "quarantine_rows AS t",
    (
        _ACCOUNT,
        Column("version", INTEGER, "The version of the account's event that records it."),
        Column("reason", TEXT, "Why it could not be read."),
        Column("session", TEXT, "The conversation it came in."),
        Column("ordinal", INTEGER, "Its number in the conversation."),
        Column("evidence_sha256", TEXT, "SHA-256 of its bytes, which are kept (`accountledger quarantine --json`)."),
        *_time("received", "When it was received"),
    ),
    "account, version",
    "quarantine",
)

_VIEWS: Final = (CURRENT_BALANCES, BALANCE_HISTORY, ORDERS, FILLS, GAPS, BREAKS, QUARANTINE)

FRESHNESS: Final = View(
    "freshness",
    "How far each view goes: what came later is not in it yet (`accountledger views` brings it up to date).",
    "("
    + " UNION ALL ".join(f"SELECT '{each.name}' AS name, '{each.projection}' AS projection" for each in _VIEWS)
    + ") AS t JOIN projection_positions AS p ON p.name = t.projection",
    (
        Column("name", TEXT, "The view."),
        Column("position", INTEGER, "The position in the ledger of the last event that is in it.", "p.position"),
        Column("behind", INTEGER, "How many events came since.", "{head} - p.position"),
    ),
    "name",
    "",
)

VIEWS: Final = (*_VIEWS, FRESHNESS)
TABLES: Final = frozenset({"history", "chain_gaps", "shown_balances", "shown_gaps", "shown_breaks", *RENAMED})
"""Those that views are of, beside that of positions."""


def on_server(database: Database) -> bool:
    """Whether it is PostgreSQL."""
    return not getattr(database, "in_file", True)


def relations(database: Database) -> dict[str, str]:
    """The tables and views there are: which of the two each is."""
    if on_server(database):
        sql = (
            "SELECT table_name::text, CASE table_type WHEN 'VIEW' THEN 'view' ELSE 'table' END "
            "FROM information_schema.tables WHERE table_schema = current_schema()"
        )
    else:  # the cast: a name that one flipped bit made bytes is damage, and not ours to tell
        sql = "SELECT CAST(name AS TEXT), type FROM sqlite_master WHERE type IN ('table', 'view')"
    return {str(name): str(kind) for name, kind in database.select(sql)}


def dropping(database: Database, found: dict[str, str]) -> list[Change]:
    """The statements that drop the views there are. PostgreSQL remembers who might read them."""
    names = [view.name for view in VIEWS if found.get(view.name) == "view"]
    drops: list[Change] = [(f"DROP VIEW IF EXISTS {name}", [()]) for name in names]
    if names and on_server(database):
        drops[:0] = [(_READERS, [()]), (_REMEMBER, [()])]
    return drops


def making(database: Database) -> list[Change]:
    """The statements that make the views, in place of those there are. Raises StoreError where a table of somebody
    else's has a view's name."""
    found = relations(database)
    taken = [view.name for view in VIEWS if found.get(view.name) == "table"]
    if taken:
        raise StoreError(f"no view can be made: there is a table {taken[0]} that is not the ledger's; rename it")
    server = on_server(database)
    changes = [*dropping(database, found), *((sql_of(view, server=server), [()]) for view in VIEWS)]
    if server:
        changes += [(_READERS, [()]), (_comments(), [()]), (_REGRANT, [()])]
    return [*changes, (_MADE, [()]), ("DELETE FROM views_made", [()]), (f"INSERT INTO views_made VALUES ({VERSION})", [()])]


def is_made(database: Database) -> bool:
    """Whether the views are there, and of this version."""
    found = relations(database)
    if found.get("views_made") != "table" or any(found.get(view.name) != "view" for view in VIEWS):
        return False
    return database.select("SELECT version FROM views_made") == [(VERSION,)]


def sql_of(view: View, *, server: bool) -> str:
    """How a database makes a view."""
    columns = ", ".join(f"{_expression(each, server=server)} AS {each.name}" for each in view.columns)
    return f"CREATE VIEW {view.name} AS SELECT {columns} FROM {view.rows}"


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


_MADE: Final = "CREATE TABLE IF NOT EXISTS views_made (version INTEGER PRIMARY KEY)"
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
            "-- may make roles), again after an update that brings new views. It sets no password: \\password in psql.",
            f"SELECT 'CREATE ROLE ' || quote_ident({_quoted(role)}) || ' LOGIN'",
            f"WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_quoted(role)}) \\gexec",
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
