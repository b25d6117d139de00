"""A projection's rows: a typed table in the ledger's own database; changed rows are held back until the batch is done.

Knows rows and SQL; knows no event. A table with no database keeps its rows in memory only (answers as of a moment).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, get_args, get_type_hints

from msgspec import Struct

Cell = str | int | bytes | None
ROWS_CACHED_MAX: Final = 50_000
PAGE_ROWS_MAX: Final = 1_000

_SQL_TYPES: Final = {str: "TEXT", int: "INTEGER", bool: "INTEGER", bytes: "BLOB"}


class Database(Protocol):
    """Where rows are kept. A Ledger is one."""

    @property
    def read_only(self) -> bool:
        """Whether rows cannot be written."""
        ...

    def select(self, sql: str, params: Sequence[Cell] = (), /) -> list[tuple[Cell, ...]]:
        """The rows of a query."""
        ...

    def write(self, statements: Iterable[tuple[str, Sequence[Sequence[Cell]]]], /) -> None:
        """Statements with their rows of parameters, in one transaction."""
        ...


R = TypeVar("R", bound=Struct)


class Table(Generic[R]):
    """Rows of one struct type, keyed by its first `key` fields, of which the first is the account.

    `get` and `of` answer with rows that may be changed in place: say so with `put`. Nothing is written before `changes`
    is taken.
    """

    def __init__(self, database: Database | None, name: str, row: type[R], *, key: int) -> None:
        hints = get_type_hints(row)
        kinds = [
            next(kind for kind in (*get_args(hints[field]), hints[field]) if kind in _SQL_TYPES)
            for field in hints
        ]
        fields = row.__struct_fields__
        self.name: Final = name
        self.key: Final = fields[:key]
        self._database = database
        self._row = row
        self._width = key
        self._bools = [index for index, kind in enumerate(kinds) if kind is bool]
        self._cache: dict[str, dict[tuple[Cell, ...], R | None]] = {}
        self._cached = 0
        self._whole: set[str] = set()
        self._dirty: dict[tuple[Cell, ...], R] = {}
        columns = ", ".join(f"{field} {_SQL_TYPES[kind]}" for field, kind in zip(fields, kinds, strict=True))
        self.create: Final = (
            f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({', '.join(self.key)}))"
        )
        self.insert: Final = f"INSERT OR REPLACE INTO {name} VALUES ({', '.join('?' * len(fields))})"
        self._select = f"SELECT {', '.join(fields)} FROM {name}"

    def detach(self) -> None:
        """Stop reading stored rows: they are another version's, or there are none yet."""
        self._database = None

    def forget(self) -> None:
        """Forget what is remembered, changed rows too: what is stored is read again."""
        self._cache, self._whole, self._cached = {}, set(), 0
        self._dirty = {}

    def get(self, *key: Cell) -> R | None:
        """The row with that key, or None."""
        account = str(key[0])
        rows = self._cache.setdefault(account, {})
        if key in rows:
            return rows[key]
        found: R | None = None
        if account not in self._whole and self._database is not None:
            where = " AND ".join(f"{field}=?" for field in self.key)
            stored = self._database.select(f"{self._select} WHERE {where}", key)
            found = self._load(stored[0]) if stored else None
        rows[key] = found
        self._cached += 1
        return found

    def of(self, account: str) -> dict[tuple[Cell, ...], R | None]:
        """All rows of an account by their key (None where there is none). For tables that are small per account."""
        rows = self._cache.setdefault(account, {})
        if account not in self._whole:
            known = len(rows)
            if self._database is not None:
                for stored in self._database.select(f"{self._select} WHERE account=?", (account,)):
                    rows.setdefault(stored[: self._width], self._load(stored))
            self._whole.add(account)
            self._cached += len(rows) - known
        return rows

    def put(self, row: R) -> None:
        """The row is new or was changed."""
        self._keep(row, row)

    def drop(self, row: R) -> None:
        """The row is no more."""
        self._keep(row, None)

    def _keep(self, row: R, now: R | None) -> None:
        key = self._key(row)
        account = str(key[0])
        rows = self._cache.get(account)
        if rows is None:
            rows = self._cache[account] = {}
        if key not in rows:
            self._cached += 1
        rows[key] = now
        self._dirty[key] = row

    def rows(self, account: str | None = None) -> Iterator[R]:
        """All rows, or an account's, in key order: stored ones page by page, with the changed ones in their place."""
        changed = {key: self._cache[str(key[0])][key] for key in self._dirty if account in (None, key[0])}
        merged = sorted(changed, key=_sortable)
        at = 0
        for stored in self._stored(account):
            key = self._key(stored)
            while at < len(merged) and _sortable(merged[at]) < _sortable(key):
                yield from _alive(changed[merged[at]])
                at += 1
            if key not in changed:
                yield stored
        for key in merged[at:]:
            yield from _alive(changed[key])

    def order(self, one: R, other: R) -> int:
        """Which of two rows comes first by key: negative, zero (the same row) or positive."""
        left, right = _sortable(self._key(one)), _sortable(self._key(other))
        return (left > right) - (left < right)

    def _stored(self, account: str | None) -> Iterator[R]:
        if self._database is None:
            return
        order = ", ".join(self.key)
        marks = ", ".join("?" * self._width)
        after: tuple[Cell, ...] | None = None
        while True:
            where: list[str] = []
            params: list[Cell] = []
            if account is not None:
                where.append("account=?")
                params.append(account)
            if after is not None:
                where.append(f"({order}) > ({marks})")
                params += list(after)
            condition = f" WHERE {' AND '.join(where)}" if where else ""
            page = self._database.select(
                f"{self._select}{condition} ORDER BY {order} LIMIT {PAGE_ROWS_MAX}", params
            )
            for stored in page:
                yield self._load(stored)
            if len(page) < PAGE_ROWS_MAX:
                return
            after = page[-1][: self._width]

    def changes(self) -> list[tuple[str, list[tuple[Cell, ...]]]]:
        """The statements that write what changed; forgets it, and the cache too where it grew past its bound."""
        kept, gone = [], []
        for key, row in self._dirty.items():
            if self._cache[str(key[0])].get(key) is None:
                gone.append(key)
            else:
                kept.append(tuple(getattr(row, field) for field in self._row.__struct_fields__))
        self._dirty = {}
        if self._cached > ROWS_CACHED_MAX:
            self._cache, self._whole, self._cached = {}, set(), 0
        where = " AND ".join(f"{field}=?" for field in self.key)
        return [(self.insert, kept), (f"DELETE FROM {self.name} WHERE {where}", gone)]

    def _key(self, row: R) -> tuple[Cell, ...]:
        return tuple([getattr(row, field) for field in self.key])

    def _load(self, stored: tuple[Cell, ...]) -> R:
        if not self._bools:
            return self._row(*stored)
        values: list[Any] = list(stored)
        for index in self._bools:
            if values[index] is not None:
                values[index] = bool(values[index])
        return self._row(*values)


def _alive(row: R | None) -> Iterator[R]:
    if row is not None:
        yield copy.copy(row)  # the next event may change it in place


def _sortable(key: tuple[Cell, ...]) -> tuple[tuple[bool, Any], ...]:
    """Keys as SQLite orders them: numbers before text, text by its UTF-8 bytes."""
    return tuple((isinstance(part, str), part.encode() if isinstance(part, str) else part) for part in key)
