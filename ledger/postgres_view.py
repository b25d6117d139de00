"""One moment of a ledger in PostgreSQL: a transaction that reads only, and what is told of the tables' definitions.

Knows the tables; knows no event and no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.rows import tuple_row

from ledger.dialect import spoken
from ledger.errors import MomentLost, StoreError
from ledger.nul import heard, told
from ledger.view import View

PAGE_ROWS: Final = 2_000
"""Of a view, read from the server at once."""

Definitions: TypeAlias = Callable[[str], list[tuple[Any, ...]]]
"""How a table is defined (`ledger.rows.Engine.definition`)."""
_DEFINITIONS: Final[dict[str, set[tuple[str, str]]]] = {
    "stored_events": {("constraint", "PRIMARY KEY (originator_id, originator_version)")},
    "evidence": {("constraint", "PRIMARY KEY (row_id)"), ("constraint", "UNIQUE (session, ordinal)")},
    "natural_keys": {("constraint", "PRIMARY KEY (account, at_ns, key)")},
}


class PostgresView(View):
    """One moment of a PostgreSQL database: a transaction that reads only."""

    POSITION = "notification_id"
    EVENTS = (
        "SELECT e.originator_id, e.originator_version, e.topic, e.state, e.notification_id, e.seal "
        "FROM stored_events AS e"
    )
    FRAME = "row_id"

    def __init__(
        self, connection: psycopg.Connection[tuple[Any, ...]], name: str, definition: Definitions
    ) -> None:
        self._connection = connection
        self._definition = definition
        self.name = name
        self._cursors = 0

    def orphaned_seals(self) -> int:
        return 0  # a seal is in its event's row, and gone with it

    def first_orphan(self) -> int:
        return 0

    @contextmanager
    def inspected(self) -> Generator[Callable[[], list[str]]]:
        """The definitions only: its own files a server checks itself (`pg_amcheck`, checksums)."""
        yield self._misshapen

    def _misshapen(self) -> list[str]:
        found = []
        for table, wanted in _DEFINITIONS.items():
            said = {(kind, text) for kind, _, text in self._definition(table) if kind != "index"}
            found += [f"the {kind} {text} of {table} is gone" for kind, text in sorted(wanted - said)]
            found += [
                f"a {kind} was added to {table}: {text}"
                for kind, text in sorted(said - wanted)
                if kind == "trigger"
            ]
        return found

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> Iterator[Any]:
        self._cursors += 1
        if any(type(cell) is int and not -(1 << 63) <= cell < 1 << 63 for cell in params):
            return  # a number that no row can hold
        cursor: Any
        try:
            if params:
                cursor = self._connection.cursor(binary=True, row_factory=tuple_row)
            else:  # a whole table: the server keeps what is not read yet
                cursor = self._connection.cursor(f"view_{self._cursors}", binary=True, row_factory=tuple_row)
                cursor.itersize = PAGE_ROWS
            with cursor:
                for row in cursor.execute(spoken(sql), [told(cell) for cell in params]):
                    yield heard(row)
        except psycopg.Error as error:
            kind = MomentLost if self._connection.closed else StoreError
            raise kind(f"{self.name}: {words(error)}") from error


def words(error: BaseException) -> str:
    """What an error says, in one line, without its statement; of a constraint also which row broke it."""
    said = str(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        said = f"{error.diag.message_primary} {error.diag.message_detail or ''}"
    return " ".join(said.split()) or type(error).__name__
