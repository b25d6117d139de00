"""One moment of a whole store, read row by row: for who checks it, exports it or signs for it.

Knows the tables; knows no venue and no rule. What is appended meanwhile is not seen; memory does not grow.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from ledger.errors import StoreError

PROBLEMS_MAX: Final = 20
INTERRUPTED_EVERY_S: Final = 0.01
_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_INTEGRITY: Final = f"PRAGMA integrity_check({PROBLEMS_MAX})"

Row: TypeAlias = tuple[str, int, str, bytes, int, bytes | None]
"""An event as it is stored: the fields of `ledger.seal.Sealed`. Damage may have changed even their types."""
FrameRow: TypeAlias = tuple[int, str, int, bytes]
"""A frame as it is stored: the fields of `Kept`."""


class Kept(NamedTuple):
    """A frame that was kept: its place among them, session, ordinal and raw bytes."""

    row: int
    session: str
    ordinal: int
    payload: bytes


class View(ABC):
    """Rows as they are stored. Iterators are read while they are used: one connection, one transaction."""

    POSITION: ClassVar[str]
    """The column of `stored_events` that holds an event's position."""
    EVENTS: ClassVar[str]
    """A query of events with their seals: the cells of `Row`. Of `stored_events`, which is `e`."""
    FRAME: ClassVar[str]
    """The column of `evidence` that holds a frame's place."""
    name: str

    def events(self) -> Iterator[Row]:
        """Every event in the order of positions."""
        return self._rows(f"{self.EVENTS} ORDER BY e.{self.POSITION}")

    def frames(self) -> Iterator[FrameRow]:
        """Every frame that was kept, in the order in which they were stored."""
        return self._rows(
            f"SELECT {self.FRAME}, session, ordinal, payload FROM evidence ORDER BY {self.FRAME}"
        )

    def frame(self, session: str, ordinal: int) -> Kept | None:
        """One frame that was kept."""
        sql = f"SELECT {self.FRAME}, session, ordinal, payload FROM evidence WHERE session=? AND ordinal=?"
        return next((Kept(*row) for row in self._rows(sql, (session, ordinal))), None)

    def natural_keys(self) -> Iterator[tuple[str, int, str]]:
        """Account, instant and natural key of every event that has one."""
        return self._rows("SELECT account, at_ns, key FROM natural_keys")

    def has_key(self, account: str, at_ns: int, key: str) -> bool:
        """Whether an event with that natural key is recorded of the account."""
        sql = "SELECT 1 FROM natural_keys WHERE account=? AND at_ns=? AND key=?"
        return self._one(sql, (account, at_ns, key)) is not None

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, whole. For projections."""
        return list(self._rows(sql, params))

    @abstractmethod
    def orphaned_seals(self) -> int:
        """How many more seals than events there are."""

    @abstractmethod
    def first_orphan(self) -> int:
        """The position of the first seal that is of no event; 0 where there is none."""

    @abstractmethod
    def inspected(self) -> AbstractContextManager[Callable[[], list[str]]]:
        """What is wrong with the tables' definitions, and what the database itself finds wrong with its files and
        indexes; of that at most PROBLEMS_MAX. It may begin at once, beside whatever is done in the block: ask at the
        end."""

    @abstractmethod
    def _rows(self, sql: str, params: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query, read while they are used."""

    def _one(self, sql: str, params: Sequence[Any] = ()) -> Any:
        return next((row[0] for row in self._rows(sql, params)), None)


class SQLiteView(View):
    """One moment of a SQLite file. `made_by` are the statements that make the tables of a new ledger."""

    POSITION = "rowid"
    EVENTS = (
        "SELECT e.originator_id, e.originator_version, e.topic, e.state, e.rowid, s.seal "
        "FROM stored_events AS e LEFT JOIN seals AS s ON s.position=e.rowid"
    )
    FRAME = "rowid"

    def __init__(self, connection: sqlite3.Connection, name: str, made_by: tuple[str, ...]) -> None:
        self._connection = connection
        self._made_by = made_by
        self.name = name

    def orphaned_seals(self) -> int:
        sql = "SELECT (SELECT count(*) FROM seals) - (SELECT count(*) FROM stored_events)"
        more: int = self._one(sql)
        return max(0, more)

    def first_orphan(self) -> int:
        sql = "SELECT coalesce(min(position), 0) FROM seals WHERE position NOT IN (SELECT rowid FROM stored_events)"
        first: int = self._one(sql)
        return first

    @contextmanager
    def inspected(self) -> Generator[Callable[[], list[str]]]:
        """SQLite begins at once: it needs no lock of the interpreter's."""
        with _Inspection(self._file) as inspection:
            yield lambda: self._misshapen() + self._told(inspection.end())

    def _told(self, said: list[str] | None) -> list[str]:
        if said is None:  # in memory, or not to be opened twice
            said = [str(row[0]) for row in self._rows(_INTEGRITY)]
        return [] if said == ["ok"] else said

    @property
    def _file(self) -> str:
        """Where the store is; empty where it is in memory."""
        sql = "SELECT file FROM pragma_database_list WHERE name='main'"
        return self._one(sql) or ""

    def _misshapen(self) -> list[str]:
        wanted = _schema(self._made_by)
        found = set(self._rows(_SCHEMA))
        names = {row[1] for row in wanted}
        return [f"the {kind} {name} is not defined as it was made" for kind, name, _, _ in wanted - found] + [
            f"a {kind} {name} was added to {table}"
            for kind, name, table, _ in found - wanted
            if table in names and kind == "trigger"
        ]

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> Iterator[Any]:
        given = 0
        while True:
            cursor = self._connection.cursor()
            cursor.row_factory = None
            try:
                for row in islice(cursor.execute(sql, params), given, None):
                    given += 1
                    yield row
                return
            except OverflowError:  # a number that no row can hold was asked for
                return
            except (sqlite3.Error, UnicodeDecodeError) as error:  # its own words may quote what is damaged
                damaged = not isinstance(error, (sqlite3.OperationalError, UnicodeDecodeError))
                if damaged or self._connection.text_factory is _legible:
                    raise StoreError(f"{self.name}: {error}") from error
                # Perhaps text that is none. Go on from there with what can be read of it, which is slower.
                self._connection.text_factory = _legible


class _Inspection:
    """SQLite's own check of a file, in a thread and on a connection of its own."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._said: list[str] | None = None
        self._connection: sqlite3.Connection | None = None
        self._thread = Thread(target=self._run, name="accountledger inspection", daemon=True)

    def __enter__(self) -> _Inspection:
        if self._file:
            try:
                uri = f"{Path(self._file).as_uri()}?mode=ro"
                self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            except sqlite3.Error:
                return self
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            while self._thread.is_alive():  # nobody wants to know any more
                self._connection.interrupt()
                self._thread.join(INTERRUPTED_EVERY_S)
            self._connection.close()

    def _run(self) -> None:
        assert self._connection is not None
        self._connection.text_factory = _legible
        try:
            self._said = [str(row[0]) for row in self._connection.execute(_INTEGRITY)]
        except (sqlite3.Error, UnicodeDecodeError):  # asked again where its words are told
            self._said = None

    def end(self) -> list[str] | None:
        """What it said; None where it could not be asked."""
        if self._connection is not None:
            self._thread.join()
        return self._said


def _legible(data: bytes) -> str:
    """Text that may be damaged: then it is not what it was, but it can be read."""
    return data.decode("utf-8", "backslashreplace")


@cache
def _schema(made_by: tuple[str, ...]) -> frozenset[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statement in made_by:
            fresh.execute(statement)
        return frozenset(fresh.execute(_SCHEMA))
