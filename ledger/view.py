"""One moment of a whole store, read row by row: for who checks it, exports it or signs for it.

Knows the tables; knows no venue and no rule. What is appended meanwhile is not seen; memory does not grow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from itertools import starmap
from typing import Any, Final, NamedTuple

from ledger.errors import StoreError
from ledger.seal import Sealed

PROBLEMS_MAX: Final = 20
EVENTS: Final = (
    "SELECT e.originator_id, e.originator_version, e.topic, e.state, e.rowid, s.seal "
    "FROM stored_events AS e LEFT JOIN seals AS s ON s.position=e.rowid"
)
_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master"


class Kept(NamedTuple):
    """A frame that was kept: its place among them, session, ordinal and raw bytes."""

    row: int
    session: str
    ordinal: int
    payload: bytes


class View:
    """Rows as they are stored. Iterators are read while they are used: one connection, one transaction.

    `made_by` are the statements that make the tables of a new ledger.
    """

    def __init__(self, connection: sqlite3.Connection, name: str, made_by: tuple[str, ...]) -> None:
        self._connection = connection
        self._made_by = made_by
        self.name = name

    def events(self) -> Iterator[Sealed]:
        """Every event in the order of positions."""
        return starmap(Sealed, self._rows(f"{EVENTS} ORDER BY e.rowid"))

    def counts(self) -> tuple[int, int]:
        """How many events there are, and how many seals."""
        return self._one("SELECT count(*) FROM stored_events"), self._one("SELECT count(*) FROM seals")

    def frames(self) -> Iterator[Kept]:
        """Every frame that was kept, in the order in which they were stored."""
        return starmap(
            Kept, self._rows("SELECT rowid, session, ordinal, payload FROM evidence ORDER BY rowid")
        )

    def frame(self, session: str, ordinal: int) -> Kept | None:
        """One frame that was kept."""
        sql = "SELECT rowid, session, ordinal, payload FROM evidence WHERE session=? AND ordinal=?"
        return next(starmap(Kept, self._rows(sql, (session, ordinal))), None)

    def natural_keys(self) -> Iterator[tuple[str, int, str]]:
        """Account, instant and natural key of every event that has one."""
        yield from self._rows("SELECT account, at_ns, key FROM natural_keys")

    def has_key(self, account: str, at_ns: int, key: str) -> bool:
        """Whether an event with that natural key is recorded of the account."""
        sql = "SELECT 1 FROM natural_keys WHERE account=? AND at_ns=? AND key=?"
        return self._one(sql, (account, at_ns, key)) is not None

    def problems(self) -> list[str]:
        """What is wrong with the tables' definitions, and what SQLite itself finds wrong with the file and its indexes;
        of that at most PROBLEMS_MAX."""
        said = [str(row[0]) for row in self._rows(f"PRAGMA integrity_check({PROBLEMS_MAX})")]
        return self._misshapen() + ([] if said == ["ok"] else said)

    def _misshapen(self) -> list[str]:
        wanted = _schema(self._made_by)
        found = set(self._rows(_SCHEMA))
        names = {row[1] for row in wanted}
        return [f"the {kind} {name} is not defined as it was made" for kind, name, _, _ in wanted - found] + [
            f"a {kind} {name} was added to {table}"
            for kind, name, table, _ in found - wanted
            if table in names and kind == "trigger"
        ]

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        try:
            yield from cursor.execute(sql, params)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # its own words may quote what is damaged
            raise StoreError(f"{self.name}: {error}") from error

    def _one(self, sql: str, params: Sequence[Any] = ()) -> Any:
        return next((row[0] for row in self._rows(sql, params)), None)


@cache
def _schema(made_by: tuple[str, ...]) -> frozenset[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statement in made_by:
            fresh.execute(statement)
        return frozenset(fresh.execute(_SCHEMA))
