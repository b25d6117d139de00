"""One moment of a whole store, read row by row: for who checks it, exports it or signs for it.

Knows the tables; knows no venue and no rule. What is appended meanwhile is not seen; memory does not grow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ledger.errors import StoreError
from ledger.seal import Sealed

ROWS_FETCHED: Final = 256
PROBLEMS_MAX: Final = 20
EVENTS: Final = (
    "SELECT e.originator_id, e.originator_version, e.topic, e.state, e.rowid, s.seal "
    "FROM stored_events AS e LEFT JOIN seals AS s ON s.position=e.rowid"
)


class View:
    """Rows as they are stored. Iterators are read while they are used: one connection, one transaction."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self.name = name

    def events(self) -> Iterator[Sealed]:
        """Every event in the order of positions."""
        for row in self._rows(f"{EVENTS} ORDER BY e.rowid"):
            yield Sealed(*row)

    def counts(self) -> tuple[int, int]:
        """How many events there are, and how many seals."""
        return self._one("SELECT count(*) FROM stored_events"), self._one("SELECT count(*) FROM seals")

    def frames(self) -> Iterator[tuple[str, int, bytes]]:
        """Session, ordinal and raw bytes of every frame that was kept, in the order in which they were stored."""
        # One by one: a frame may be large.
        yield from self._rows("SELECT session, ordinal, payload FROM evidence ORDER BY rowid", fetched=1)

    def frame(self, session: str, ordinal: int) -> bytes | None:
        """The raw bytes of one frame."""
        payload: bytes | None = self._one(
            "SELECT payload FROM evidence WHERE session=? AND ordinal=?", (session, ordinal)
        )
        return payload

    def natural_keys(self) -> Iterator[tuple[str, int, str]]:
        """Account, instant and natural key of every event that has one."""
        yield from self._rows("SELECT account, at_ns, key FROM natural_keys")

    def has_key(self, account: str, at_ns: int, key: str) -> bool:
        """Whether an event with that natural key is recorded of the account."""
        sql = "SELECT 1 FROM natural_keys WHERE account=? AND at_ns=? AND key=?"
        return self._one(sql, (account, at_ns, key)) is not None

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with the file and its indexes; at most PROBLEMS_MAX."""
        said = [str(row[0]) for row in self._rows(f"PRAGMA integrity_check({PROBLEMS_MAX})")]
        return [] if said == ["ok"] else said

    def _rows(
        self, sql: str, params: Sequence[Any] = (), fetched: int = ROWS_FETCHED
    ) -> Iterator[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        rows = self._try(lambda: cursor.execute(sql, params).fetchmany(fetched))
        while rows:
            yield from rows
            rows = self._try(lambda: cursor.fetchmany(fetched))

    def _one(self, sql: str, params: Sequence[Any] = ()) -> Any:
        return next((row[0] for row in self._rows(sql, params, fetched=1)), None)

    def _try(self, read: Callable[[], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        try:
            return read()
        except sqlite3.Error as error:
            raise StoreError(f"{self.name}: {error}") from error
