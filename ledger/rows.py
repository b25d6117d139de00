"""What the databases of a store have in common: the rows of a commit, and what a store asks of a database.

Knows cells; knows no event, no database and no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from ledger.view import View

Cell: TypeAlias = str | int | bytes | None
Evidence: TypeAlias = tuple[str, int, bytes]
"""Session, ordinal, raw bytes of one frame."""
Change: TypeAlias = tuple[str, Sequence[Sequence[Cell]]]
"""A statement, and its many rows of parameters."""
Once: TypeAlias = tuple[str, Sequence[Cell]]
"""A statement that must change one row."""


MEMORIES: Final = (
    "CREATE TABLE IF NOT EXISTS feed_memories "
    "(account TEXT PRIMARY KEY, memory BLOB NOT NULL, digest BLOB NOT NULL)"
)
"""What makes the table of what conversations remember (`ledger.memory`)."""

COPY: Final = "CREATE TABLE IF NOT EXISTS ledger_copy (source TEXT PRIMARY KEY)"
"""What makes the table that names the ledger of which a store is an unfinished copy (`ledger.copying`)."""

Wait: TypeAlias = Callable[[float], bool]
"""Waits so many seconds at most; whether something may have been appended."""


class Rows(msgspec.Struct):
    """The rows of one commit, each table's cells in one list, row after row; of `seals`, only the seals."""

    events: list[Cell] = []
    """Account, version, topic, state."""
    seals: list[bytes] = []
    evidence: list[Cell] = []
    """Session, ordinal, payload."""
    keys: list[Cell] = []
    """Account, instant, natural key."""


class Lease(NamedTuple):
    """The right to something that one process does at a time; whoever takes it after another has a higher token."""

    name: str
    token: int


class Engine(Protocol):
    """A database that holds a ledger. SQL comes with `?` for parameters and SQLite's types (TEXT, INTEGER, BLOB);
    everything else in it is what both databases understand."""

    POSITION: ClassVar[str]
    """The column of `stored_events` that holds an event's position."""
    EVENTS: ClassVar[str]
    """A query of events with their seals (`ledger.view.View.EVENTS`)."""
    FILE: ClassVar[bool]
    """Whether it is a file, or memory; not a server."""
    ID_BYTES_MAX: ClassVar[int | None]
    """The longest text that an index holds; None where there is no limit."""
    name: str
    """Of the database, as it may be told: no password in it."""

    def close(self) -> None:
        """Close every connection and let the next writer in. Idempotent."""
        ...

    def leave(self) -> None:
        """In a process that was forked from the one that opened it: hold nothing that the other would be thought to
        hold still."""
        ...

    def give_up_at(self, moment: float | None) -> None:
        """Try what may pass again until then at most (`time.monotonic`); None: as long as ever. From any thread."""
        ...

    def errors(self) -> AbstractContextManager[None]:
        """In which the database's errors become ours."""
        ...

    def unfinished(self) -> str | None:
        """The ledger of which this is an unfinished copy (`COPY`); None where it is none."""
        ...

    def insert(self, rows: Rows, committing: Callable[[], object], lease: Lease | None = None) -> None:
        """All rows in one transaction; `committing` is called when all that is left to do is the commit. Raises
        LeaseLost where a `lease` is asked for that another process has, or had since it was taken."""
        ...

    def lease(self, name: str) -> Lease | None:
        """Take the right to something that one process does at a time; None where another has it. It ends with
        `release`, and with the process, however that ends."""
        ...

    def keep(self, lease: Lease) -> None:
        """See that it is ours still; after a broken connection it is taken again. Raises LeaseLost where another
        process has it, or had it since."""
        ...

    def release(self, name: str) -> None:
        """Let another process have it."""
        ...

    def following(self) -> AbstractContextManager[Wait]:
        """What waits until something may have been appended since it was asked last, by any process."""
        ...

    def known(self, account: str, keys: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Those of some natural keys of an account, each with its instant, that are stored. For who writes: one thread
        at a time."""
        ...

    def select(self, sql: str, params: Sequence[Cell] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, whole: no read transaction stays open."""
        ...

    def write(self, changes: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """Statements in one transaction. Those of `once` must change one row each, else nothing is done and Overtaken
        raised."""
        ...

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        ...

    def definition(self, table: str) -> list[tuple[Any, ...]]:
        """How a table, and what belongs to it, is defined."""
        ...

    def view(self) -> AbstractContextManager[View]:
        """One moment of the whole store."""
        ...
