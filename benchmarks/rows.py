"""The very rows that a ledger stores for some frames, and raw sqlite3 that stores the same rows.

Knows SQLite; of a ledger only that it can be asked for rows. What the tables are called and what is in them is read
back, so it stays true when the store changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from ledger import Ledger

PRAGMAS: Final = ("journal_mode", "synchronous", "page_size", "cache_size", "wal_autocheckpoint")
"""What both sides must have set alike."""

Row: TypeAlias = tuple[Any, ...]
Batch: TypeAlias = dict[str, list[Row]]
"""The rows of one commit, by table."""
Select: TypeAlias = Callable[[str], Sequence[Row]]

_TABLES: Final = (
    "SELECT name, sql FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
)
_SCHEMA: Final = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"


def contents(select: Select) -> Batch:
    """Every row of every table, sorted."""
    return {name: sorted(select(f"SELECT * FROM {name}")) for name, _ in select(_TABLES)}


def size(batch: Batch) -> int:
    """Bytes of the texts and blobs in the rows."""
    cells = (cell for rows in batch.values() for row in rows for cell in row)
    return sum(
        len(cell.encode() if isinstance(cell, str) else cell)
        for cell in cells
        if isinstance(cell, str | bytes)
    )


class Fresh:
    """The rows that were added to a ledger since it was last asked, in the order they were added."""

    def __init__(self, ledger: Ledger) -> None:
        self._select = ledger.select
        self._tables = [(str(name), str(sql)) for name, sql in ledger.select(_TABLES)]
        self._last = {name: 0 for name, _ in self._tables}
        self._seen: dict[str, set[Row]] = {name: set() for name, _ in self._tables}

    def take(self) -> Batch:
        """By table; a table without row ids is compared with what it held before."""
        batch: Batch = {}
        for name, sql in self._tables:
            if "WITHOUT ROWID" in sql:
                seen = self._seen[name]
                batch[name] = [row for row in self._select(f"SELECT * FROM {name}") if row not in seen]
                seen.update(batch[name])
            else:
                added = self._select(
                    f"SELECT rowid, * FROM {name} WHERE rowid > ? ORDER BY rowid", (self._last[name],)
                )
                batch[name] = [row[1:] for row in added]
                self._last[name] = int(added[-1][0] or 0) if added else self._last[name]
        return batch


class Raw:
    """A file with the tables, indexes and pragmas of a ledger, written to by nothing but sqlite3."""

    def __init__(self, path: Path, like: Ledger) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}={like.select(f'PRAGMA {pragma}')[0][0]!s}")
        for (sql,) in like.select(_SCHEMA):
            self._connection.execute(str(sql))
        self._inserts: dict[str, str] = {}
        for name in [str(name) for name, _ in like.select(_TABLES)]:
            width = len(like.select(f"PRAGMA table_info({name})"))
            self._inserts[name] = f"INSERT INTO {name} VALUES ({','.join('?' * width)})"

    def insert(self, batch: Batch) -> None:
        """One commit."""
        self._connection.execute("BEGIN IMMEDIATE")
        for name, rows in batch.items():
            if rows:
                self._connection.executemany(self._inserts[name], rows)
        self._connection.execute("COMMIT")

    def select(self, sql: str) -> list[Row]:
        """The rows of a query."""
        return self._connection.execute(sql).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
