"""A projection's rows: a typed table in the ledger's own database; changed rows are held back until the batch is done.

Knows rows and SQL; knows no event. A table with no database keeps its rows in memory only (answers as of a moment).
"""

from __future__ import annotations

import copy
import sqlite3
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, Self, TypeAlias, TypeVar, get_args, get_type_hints

from msgspec import Struct
from msgspec.structs import astuple

from ledger.errors import Overtaken

Cell = str | int | bytes | None
Change: TypeAlias = tuple[str, Sequence[Sequence[Cell]]]
"""A statement, and its many rows of parameters."""
Once: TypeAlias = tuple[str, Sequence[Cell]]
"""A statement that must change one row."""
ROWS_CACHED_MAX: Final = 50_000
PAGE_ROWS_MAX: Final = 1_000
CHUNK_KEYS_MAX: Final = 1_000
TOPS_MAX: Final = 1_000
FETCHED_MAX: Final = 256
"""Rows asked for by their keys at once."""
NEAR_ROWS_MAX: Final = 64
"""Rows read at once where a few from a key on are wanted."""

_SQL_TYPES: Final = {str: "TEXT", int: "INTEGER", bool: "INTEGER", bytes: "BLOB"}


class Database(Protocol):
    """Where rows are kept. A Ledger is one."""

    @property
    def read_only(self) -> bool:
        """Whether rows cannot be written."""
        ...

    @property
    def in_file(self) -> bool:
        """Whether it is SQLite, in a file or in memory: no server."""
        ...

    def select(self, sql: str, params: Sequence[Cell] = (), /) -> list[tuple[Cell, ...]]:
        """The rows of a query."""
        ...

    def columns(self, table: str, /) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        ...

    def write(self, statements: Iterable[Change], once: Sequence[Once] = (), /) -> None:
        """Statements with their rows of parameters, in one transaction. `once` are such that must change one row each:
        where one does not, nothing is done and Overtaken raised."""
        ...


class Scratch:
    """A database of nobody's: SQLite keeps it in a file without a name, gone when it is closed. Of one thread."""

    def __init__(self) -> None:
        self._connection: Final = sqlite3.connect("")
        for pragma in ("journal_mode=OFF", "synchronous=OFF"):
            self._connection.execute(f"PRAGMA {pragma}").close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def read_only(self) -> bool:
        """It never is."""
        return False

    @property
    def in_file(self) -> bool:
        """It always is."""
        return True

    def select(self, sql: str, params: Sequence[Cell] = (), /) -> list[tuple[Cell, ...]]:
        """The rows of a query."""
        return self._connection.execute(sql, params).fetchall()

    def columns(self, table: str, /) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        return {
            name for (name,) in self._connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        }

    def write(self, statements: Iterable[Change], once: Sequence[Once] = (), /) -> None:
        """Statements with their rows of parameters. After an error the database is of no use."""
        for each in once:
            if self._connection.execute(*each).rowcount != 1:
                raise Overtaken("somebody else wrote it first")
        for sql, rows in statements:
            self._connection.executemany(sql, rows)
        self._connection.commit()


R = TypeVar("R", bound=Struct)


class Table(Generic[R]):
    """Rows of one struct type, keyed by its first `key` fields, of which the first is the account.

    `get` and `of` answer with rows that may be changed in place: say so with `put`. Nothing is written before `changes`
    is taken.
    """

    def __init__(
        self, database: Database | None, name: str, row: type[R], *, key: int, index: str | None = None
    ) -> None:
        """`index`: a field that `among` looks for."""
        shape = _shape(name, row, key)
        self.name: Final = name
        self.key: Final = shape.key
        self._database = database
        self._row = row
        self._width = key
        place: Any = shape.place
        self._key: Final[Callable[[R], tuple[Cell, ...]]] = place if key > 1 else lambda row: (place(row),)
        self._bools = shape.bools
        self._cache: dict[str, dict[tuple[Cell, ...], R | None]] = {}
        self._cached = 0
        self._whole: set[str] = set()
        self._dirty: dict[tuple[Cell, ...], R] = {}
        self.changed = 0
        """How often a row was changed, or all were forgotten: what was worked out of its rows holds while it is the
        same."""
        self.columns: Final = set(row.__struct_fields__)
        self.create: Final = shape.create
        self.index: Final = (
            None if index is None else f"CREATE INDEX IF NOT EXISTS {name}_by_{index} ON {name} ({index})"
        )
        """The statement that makes the index, if there is to be one."""
        self.insert: Final = shape.insert
        self._select = shape.select

    def detach(self) -> None:
        """Stop reading stored rows: they are another version's, or there are none yet."""
        self._database = None
        self.changed += 1

    def forget(self) -> None:
        """Forget what is remembered, changed rows too: what is stored is read again."""
        self.changed += 1
        self._cache, self._whole, self._cached = {}, set(), 0
        self._dirty = {}

    def get(self, *key: Cell) -> R | None:
        """The row with that key, or None."""
        account: Any = key[0]
        rows = self._cache.get(account)
        if rows is None:
            rows = self._cache[account] = {}
        elif key in rows:
            return rows[key]
        found: R | None = None
        if account not in self._whole and self._database is not None:
            where = " AND ".join(f"{field}=?" for field in self.key)
            stored = self._database.select(f"{self._select} WHERE {where}", key)
            found = self._load(stored[0]) if stored else None
        rows[key] = found
        self._cached += 1
        return found

    def fetch(self, keys: Iterable[tuple[Cell, ...]]) -> None:
        """Remember the rows with those keys: `get` answers without asking for each by itself."""
        if self._database is None:
            return
        asked: dict[tuple[Cell, ...], list[Cell]] = {}
        for key in dict.fromkeys(keys):
            account: Any = key[0]
            if account not in self._whole and key not in self._cache.get(account, ()):
                asked.setdefault(key[:-1], []).append(key[-1])
        for same, lasts in asked.items():
            for start in range(0, len(lasts), FETCHED_MAX):
                self._fetch(self._database, same, lasts[start : start + FETCHED_MAX])

    def _fetch(self, database: Database, same: tuple[Cell, ...], lasts: Sequence[Cell]) -> None:
        """Rows whose keys differ in the last part only."""
        width = 1 << (len(lasts) - 1).bit_length()  # few lengths: the database knows the statement
        where = "".join(f"{field}=? AND " for field in self.key[:-1])
        query = f"{self._select} WHERE {where}{self.key[-1]} IN ({', '.join('?' * width)})"
        stored = database.select(query, (*same, *lasts, *[lasts[-1]] * (width - len(lasts))))
        for last in lasts:
            key = (*same, last)
            self._cache.setdefault(str(key[0]), {})[key] = None
        for each in stored:
            self._cache[str(each[0])][each[: self._width]] = self._load(each)
        self._cached += len(lasts)

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
        account: Any = key[0]
        rows = self._cache.get(account)
        if rows is None:
            rows = self._cache[account] = {}
        if key not in rows:
            self._cached += 1
        rows[key] = now
        self._dirty[key] = row
        self.changed += 1

    def rows(self, account: str | None = None) -> Iterator[R]:
        """All rows, or an account's, in key order: stored ones page by page, with the changed ones in their place."""
        if self._database is None:
            yield from self._remembered(account)
            return
        changed = {key: self._cache[str(key[0])][key] for key in self._dirty if account in (None, key[0])}
        merged = _in_order(changed)
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

    def among(self, field: str, values: Sequence[str]) -> list[R]:
        """The rows of any account of which a field is one of the values, in key order."""
        wanted = set(values)
        if self._database is None:
            return [row for row in self._remembered(None) if getattr(row, field) in wanted]
        found: dict[tuple[Cell, ...], R] = {}
        for start in range(0, len(values), FETCHED_MAX):
            asked = values[start : start + FETCHED_MAX]
            marks = ", ".join("?" * len(asked))
            for stored in self._database.select(f"{self._select} WHERE {field} IN ({marks})", asked):
                found[stored[: self._width]] = self._load(stored)
        for key in self._dirty:
            found.pop(key, None)
            row = self._cache[str(key[0])][key]
            if row is not None and getattr(row, field) in wanted:
                found[key] = copy.copy(row)
        return [found[key] for key in _in_order(found)]

    def _remembered(self, account: str | None) -> Iterator[R]:
        """All rows there are, where none are stored."""
        names = self._cache.keys() if account is None else {account} & self._cache.keys()
        rows = {key: row for name in names for key, row in self._cache[name].items() if row is not None}
        for key in _in_order(rows):
            yield copy.copy(rows[key])  # the next event may change it in place

    def restore(self, kept: Iterable[Sequence[Cell]], gone: Iterable[Sequence[Cell]]) -> None:
        """Take rows in as `changes` gave them: those that were changed, and the keys of those dropped."""
        for values in kept:
            self.put(self._row(*values))
        for key in gone:
            row = self.get(*key)
            if row is not None:
                self.drop(row)

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
            rows = self._cache[str(key[0])]
            if rows.get(key) is None:
                gone.append(key)
                if self._database is None:  # nothing is stored that it would have to hide
                    del rows[key]
                    self._cached -= 1
            else:
                kept.append(astuple(row))
        self._dirty = {}
        if self._cached > ROWS_CACHED_MAX and self._database is not None:
            self._cache, self._whole, self._cached = {}, set(), 0
        where = " AND ".join(f"{field}=?" for field in self.key)
        return [(self.insert, kept), (f"DELETE FROM {self.name} WHERE {where}", gone)]

    def _load(self, stored: tuple[Cell, ...]) -> R:
        if not self._bools:
            return self._row(*stored)
        values: list[Any] = list(stored)
        for index in self._bools:
            if values[index] in (0, 1):  # of what else is there by damage, nothing is made
                values[index] = bool(values[index])
        return self._row(*values)


class Ordered(Table[R]):
    """A table that can be walked from a key on. Its rows may be changed, but not dropped."""

    def __init__(self, database: Database | None, name: str, row: type[R], *, key: int) -> None:
        super().__init__(database, name, row, key=key)
        self._chunks: list[list[tuple[Any, ...]]] = [[]]
        """The keys of the rows not written yet, in order, in chunks so that one more costs little."""
        self._held: set[tuple[Any, ...]] = set()
        self._tops: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        """The highest written key by what it begins with; empty where there is none."""

    def put(self, row: R) -> None:
        super().put(row)
        key = self._key(row)
        if key in self._held:
            return
        self._held.add(key)
        place = max(bisect_right(self._chunks, [key]) - 1, 0)
        chunk = self._chunks[place]
        insort(chunk, key)
        if len(chunk) > CHUNK_KEYS_MAX:
            middle = len(chunk) // 2
            self._chunks[place : place + 1] = [chunk[:middle], chunk[middle:]]

    def forget(self) -> None:
        super().forget()
        self._chunks, self._held, self._tops = [[]], set(), {}

    def changes(self) -> list[tuple[str, list[tuple[Cell, ...]]]]:
        for key in self._held:
            for width in range(1, self._width):
                top = self._tops.get(key[:width])
                if top is not None and key > top:
                    self._tops[key[:width]] = key
        self._chunks, self._held = [[]], set()
        return super().changes()

    def beginning(self, *key: Cell) -> Iterator[R]:
        """The rows that share all but the last part of this (whole or partial) key, from it on, in key order."""
        held = self._from(key)
        ours = next(held, None)
        for stored in self._near(key, ">=", "ASC", NEAR_ROWS_MAX):
            place = self._key(stored)
            while ours is not None and ours < place:
                yield self._here(ours)
                ours = next(held, None)
            if ours == place:
                yield self._here(place)
                ours = next(held, None)
            else:
                yield stored
        while ours is not None:
            yield self._here(ours)
            ours = next(held, None)

    def before(self, *key: Cell) -> list[R]:
        """The last two rows below this (whole or partial) key among those that share all but its last part, the last
        one first."""
        found = {held: self._here(held) for held in self._below(key)}
        if len(found) < 2 or min(found) <= self._top(key[:-1]):
            for row in islice(self._near(key, "<", "DESC", 2), 2):
                found.setdefault(self._key(row), row)
        return [found[place] for place in sorted(found, reverse=True)[:2]]

    def _top(self, prefix: tuple[Any, ...]) -> tuple[Any, ...]:
        """The highest written key that begins so."""
        if self._database is None:
            return ()
        top = self._tops.get(prefix)
        if top is None:
            where = " AND ".join(f"{field}=?" for field in self.key[: len(prefix)])
            order = ", ".join(f"{field} DESC" for field in self.key)
            query = f"SELECT {', '.join(self.key)} FROM {self.name} WHERE {where} ORDER BY {order} LIMIT 1"
            stored = self._database.select(query, prefix)
            top = stored[0] if stored else ()
            if len(self._tops) == TOPS_MAX:
                self._tops.clear()
            self._tops[prefix] = top
        return top

    def _here(self, key: tuple[Any, ...]) -> R:
        row = self.get(*key)
        assert row is not None, key
        return row

    def _from(self, key: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        place = max(bisect_right(self._chunks, [key]) - 1, 0)
        index = bisect_left(self._chunks[place], key)
        for chunk in self._chunks[place:]:
            for found in chunk[index:]:
                if found[: len(key) - 1] != key[:-1]:
                    return
                yield found
            index = 0

    def _below(self, key: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        place = max(bisect_right(self._chunks, [key]) - 1, 0)
        index = bisect_left(self._chunks[place], key)
        for _ in range(2):
            if index == 0 and place > 0:
                place -= 1
                index = len(self._chunks[place])
            if index == 0 or self._chunks[place][index - 1][: len(key) - 1] != key[:-1]:
                return
            index -= 1
            yield self._chunks[place][index]

    def _near(self, key: tuple[Any, ...], beyond: str, direction: str, rows_max: int) -> Iterator[R]:
        if self._database is None or (beyond == ">=" and self._top(key[:-1]) < key):
            return
        same, last = self.key[: len(key) - 1], self.key[len(key) - 1]
        where = "".join(f"{field}=? AND " for field in same)
        order = ", ".join(f"{field} {direction}" for field in self.key[len(key) - 1 :])
        query = f"{self._select} WHERE {where}{last}{beyond}? ORDER BY {order} LIMIT {rows_max} OFFSET ?"
        at = 0
        while True:
            page = self._database.select(query, (*key, at))
            for stored in page:
                yield self._load(stored)
            if len(page) < rows_max:
                return
            at += len(page)


class _Shape(Struct, frozen=True):
    """What is the same of all tables of a name, a row type and a key."""

    key: tuple[str, ...]
    place: Any
    bools: tuple[int, ...]
    create: str
    insert: str
    select: str


def insert_sql(table: str, fields: Sequence[str], key: Sequence[str]) -> str:
    """A row into a table, in the place of the one with its key, as both databases say it."""
    rest = ", ".join(f"{field}=excluded.{field}" for field in fields if field not in key)
    marks = ", ".join("?" * len(fields))
    conflict = f"ON CONFLICT ({', '.join(key)}) DO {f'UPDATE SET {rest}' if rest else 'NOTHING'}"
    return f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks}) {conflict}"


@cache
def _shape(name: str, row: type[Struct], width: int) -> _Shape:
    kinds, fields = _kinds(row), row.__struct_fields__
    key = fields[:width]
    columns = ", ".join(f"{field} {_SQL_TYPES[kind]}" for field, kind in zip(fields, kinds, strict=True))
    return _Shape(
        key,
        attrgetter(*key),
        tuple(index for index, kind in enumerate(kinds) if kind is bool),
        f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({', '.join(key)}))",
        insert_sql(name, fields, key),
        f"SELECT {', '.join(fields)} FROM {name}",
    )


@cache
def _kinds(row: type[Struct]) -> list[type]:
    """What each field of a row holds, where it holds something."""
    hints = get_type_hints(row)
    return [
        next(kind for kind in (*get_args(hints[field]), hints[field]) if kind in _SQL_TYPES)
        for field in hints
    ]


def _alive(row: R | None) -> Iterator[R]:
    if row is not None:
        yield copy.copy(row)  # the next event may change it in place


def _in_order(keys: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Keys as the databases order them: text by its UTF-8 bytes, which is by its characters."""
    keys = list(keys)
    try:
        return sorted(keys)
    except TypeError:  # numbers and texts in one place, by damage
        return sorted(keys, key=_sortable)


def _sortable(key: tuple[Cell, ...]) -> tuple[tuple[bool, Any], ...]:
    """Keys as SQLite orders them: numbers before text."""
    return tuple((isinstance(part, str), part) for part in key)
