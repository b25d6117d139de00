"""The SQL views: what each is called, where its rows are from, and what its columns mean.

Knows the names of tables and columns; knows no database. What is said of a column is said here, once: the command
prints it, PostgreSQL keeps it as comments, and the README repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

TEXT: Final = "text"
INTEGER: Final = "integer"
AMOUNT: Final = "amount"
FLAG: Final = "flag"
TIME: Final = "time"
PARTS: Final = 7
"""So many of a balance in a statement are shown: its ids and its amounts, in the order of `ledger.events.Balance`."""


class Column(Struct, frozen=True):
    """A column of a view. `sql`: where it is from, if not from the column of its name of the table `t`."""

    name: str
    kind: str
    meaning: str
    sql: str = ""


class View(Struct, frozen=True):
    """A view: what its rows are, where they are from (`{parts}`: a row for each balance of a statement of
    `projections.stated`; `{part[0]}`: its first part; `{joined}`: what joins texts), and its columns. `projection`:
    whose position says how far it goes."""

    name: str
    meaning: str
    rows: str
    columns: Sequence[Column]
    projection: str


def _time(name: str, meaning: str) -> tuple[Column, Column]:
    """A time: nanoseconds, and the same as text."""
    return (
        Column(f"{name}_ns", INTEGER, f"{meaning}; nanoseconds since 1970 (UTC)."),
        Column(
            name, TIME, "The same as text: ISO-8601, UTC, with as many digits as it needs.", f"t.{name}_ns"
        ),
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


def _suspect(*kinds: str) -> str:
    """The open breaks of some kinds, in words, by what they are of."""
    among = ", ".join(f"'{kind}'" for kind in kinds)
    return (
        "(SELECT DISTINCT account, subject, {joined}(said, '; ') OVER (PARTITION BY account, subject ORDER BY said "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS said FROM (SELECT DISTINCT account, subject, "
        "'expected ' || expected || ', stated ' || stated AS said FROM shown_breaks "
        f"WHERE state = 'open' AND kind IN ({among})) AS each)"
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
    "views",
)

_HISTORY: Final = (
    "(SELECT account, {part[0]} AS asset_id, time_ns, version, coalesce({part[1]}, {part[0]}) AS asset, "
    "CASE WHEN {part[1]} IS NULL THEN 'removed' ELSE kind END AS kind, NULL AS cause, NULL AS amount, "
    "{part[2]} AS balance, {part[3]} AS available, {part[4]} AS locked, {part[5]} AS staked, {part[6]} AS pending, "
    "NULL AS memo, NULL AS reference FROM stated_balances, {parts} UNION ALL "
    "SELECT account, asset_id, time_ns, version, asset, 'row', cause, amount, balance, "
    "NULL, NULL, NULL, pending, memo, reference FROM history)"
)
BALANCE_HISTORY: Final = View(
    "balance_history",
    "Every balance the venues stated, and the rows of their own histories: those are what `accountledger history` "
    "prints.",
    f"{_HISTORY} AS t LEFT JOIN chain_gaps AS g "
    "ON g.account = t.account AND g.asset_id = t.asset_id AND g.after_version = t.version",
    (
        _ACCOUNT,
        _ASSET_ID,
        *_time("time", "When that was true by the venue's clock, else when it was received"),
        Column("version", INTEGER, "The version of the account's event that tells it."),
        _ASSET,
        Column(
            "kind",
            TEXT,
            "`row` of the venue's own history; or stated with the whole account (`snapshot`: what it does not name is "
            "held no more), because it moved (`delta`), or as held no more (`removed`).",
        ),
        Column("cause", TEXT, "Why the balance changed, in the venue's word; of a `row` only."),
        Column("amount", AMOUNT, "By how much, as the venue signs it; of a `row` only."),
        Column("balance", AMOUNT, "All that is held then; NULL where the venue states no total."),
        Column("available", AMOUNT, "What is free to use then; NULL where it is not stated."),
        Column("locked", AMOUNT, "What open orders hold then; NULL where it is not stated."),
        Column("staked", AMOUNT, "What is staked then; NULL where it is not stated."),
        Column("pending", AMOUNT, "What is on its way then; NULL where it is not stated."),
        Column(
            "memo",
            FLAG,
            "Whether it is of something that is no asset to spend (loyalty points); of a `row` only.",
        ),
        Column("reference", TEXT, "The venue's id of what caused it, where it has one; of a `row` only."),
        Column(
            "suspect",
            TEXT,
            "`rows are missing before this one` where the balance before a `row` does not lead to it; else NULL.",
            "CASE WHEN g.account IS NULL THEN NULL ELSE 'rows are missing before this one' END",
        ),
    ),
    "stated",
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
        Column(
            "executed", AMOUNT, "How much of it was executed so far; NULL where the venue does not state it."
        ),
        Column("quote_quantity", AMOUNT, "How much was ordered, in the quote asset; NULL where not stated."),
        Column(
            "executed_quote",
            AMOUNT,
            "How much was executed so far, in the quote asset; NULL where not stated.",
        ),
        Column(
            "average_price",
            AMOUNT,
            "The average price so far, as the venue states it; NULL where not stated.",
        ),
        Column("fee", AMOUNT, "All fees of it so far; NULL where the venue does not state them."),
        Column("fee_asset", TEXT, "The asset of the fees; NULL where the venue does not state it."),
        *_time("created", "When it was placed; NULL where the venue does not say"),
        *_time("updated", "When this was true"),
        Column("version", INTEGER, "The version of the account's event that states it."),
        Column(
            "suspect", TEXT, "What is wrong where its fills do not come to `executed`; else NULL.", "s.said"
        ),
    ),
    "orders",
)

FILLS: Final = View(
    "fills",
    "Every execution, once: what `accountledger fills` prints.",
    f"fill_rows AS t LEFT JOIN {_suspect('quote', 'retold')} AS s ON s.account = t.account AND s.subject = t.fill_id",
    (
        _ACCOUNT,
        Column("fill_id", TEXT, "The venue's id of the execution."),
        Column("order_id", TEXT, "The venue's id of the order that was executed."),
        Column("symbol", TEXT, "What was traded, in the venue's word."),
        Column("side", TEXT, "Which way, in the venue's word."),
        Column("role", TEXT, "Maker or taker, in the venue's word; NULL where it does not say."),
        Column("price", AMOUNT, "At which price."),
        Column("quantity", AMOUNT, "How much of the base asset."),
        Column(
            "quote_quantity", AMOUNT, "How much of the quote asset; NULL where the venue does not state it."
        ),
        Column("fee", AMOUNT, "Its fee; NULL where the venue does not state it."),
        Column("fee_asset", TEXT, "The asset of the fee; NULL where the venue does not state it."),
        Column(
            "counter_order_id", TEXT, "The order on the other side; NULL where the venue does not state it."
        ),
        Column("version", INTEGER, "The version of the account's event that tells it."),
        *_time("time", "When it was executed by the venue's clock, else when it was received"),
        Column(
            "suspect",
            TEXT,
            "What is wrong where `quote_quantity` is not price x quantity, or the venue told it otherwise again; else "
            "NULL.",
            "s.said",
        ),
    ),
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
        Column(
            "healed",
            FLAG,
            "Whether what was missing arrived after all (the command shows it with `--all` only).",
        ),
        *_CLOSED,
    ),
    "views",
)

BREAKS: Final = View(
    "breaks",
    "Where two statements should agree and do not, or did not: what `accountledger breaks` prints.",
    "shown_breaks AS t",
    (
        _ACCOUNT,
        Column("kind", TEXT, "`snapshot`, `account`, `fills`, `quote` or `retold`."),
        Column("subject", TEXT, "What they are statements of: an asset, an order or a fill, by id."),
        Column("part", TEXT, "Which part of a balance, or of what is told of a fill; else NULL."),
        Column("expected", AMOUNT, "What the earlier statements come to."),
        Column("stated", AMOUNT, "What the later one says."),
        Column("difference", AMOUNT, "`stated` less `expected`."),
        Column(
            "expected_version",
            INTEGER,
            "The version of the account's event that `expected` rests on, or NULL.",
        ),
        Column(
            "stated_version", INTEGER, "The version of the account's event that `stated` rests on, or NULL."
        ),
        *_time("time", "When the later statement was true"),
        Column(
            "age_s", INTEGER, "Seconds from when it was found until it was closed; NULL while it is open."
        ),
        Column(
            "explained_by",
            TEXT,
            "The gaps in which the difference was missed, in words; NULL where none was.",
        ),
        *_CLOSED,
    ),
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
        Column(
            "evidence_sha256",
            TEXT,
            "SHA-256 of its bytes, which are kept (`accountledger quarantine --json`).",
        ),
        *_time("received", "When it was received"),
    ),
    "quarantine",
)

_VIEWS: Final = (CURRENT_BALANCES, BALANCE_HISTORY, ORDERS, FILLS, GAPS, BREAKS, QUARANTINE)

FRESHNESS: Final = View(
    "freshness",
    "How far each view goes: what came later is not in it yet (`accountledger views` brings it up to date).",
    "("
    + " UNION ALL ".join(
        f"SELECT '{each.name}' AS name, '{each.projection}' AS projection" for each in _VIEWS
    )
    + ") AS t JOIN projection_positions AS p ON p.name = t.projection",
    (
        Column("name", TEXT, "The view."),
        Column(
            "position", INTEGER, "The position in the ledger of the last event that is in it.", "p.position"
        ),
        Column("behind", INTEGER, "How many events came since.", "{head} - p.position"),
    ),
    "",
)

VIEWS: Final = (*_VIEWS, FRESHNESS)
