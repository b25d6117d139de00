"""The rows of histories as they were up to a version of their account, from the tables of `projections.history`.

Knows rows of histories and SQL; judges nothing. Rows are facts and stay: of a moment are those up to its version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from projections.history import HistoryRow
from projections.tables import Database, Ordered, Table

ROWS_READ: Final = 64
"""Rows read at once where those from an instant on are wanted."""
_SELECT: Final = (
    f"SELECT {', '.join(HistoryRow.__struct_fields__)} FROM history WHERE account=? AND asset_id=?"
)


class EndedRow(Struct):
    """Which row is the last of an instant that has several, from the checkpoint of the version `since` on."""

    account: str
    asset_id: str
    time_ns: int
    since: int
    version: int


class ChainSpanRow(Struct):
    """The times between which the rows of a chain are, as of a checkpoint."""

    account: str
    asset_id: str
    first_ns: int
    last_ns: int


class HistoryUpto:
    """The rows up to a version of each account. Of an account without one there are none.

    Where rows came in another order than that of their times, there may be many of a later version near those asked
    for: the spans keep out all that are of before the first time or after the last.
    """

    def __init__(self, database: Database, spans: Table[ChainSpanRow], ends: Ordered[EndedRow]) -> None:
        self._database: Final = database
        self._spans: Final = spans
        self._ends: Final = ends
        self._upto: Final[dict[str, int]] = {}
        self._last: Final[dict[tuple[str, str], Sequence[HistoryRow]]] = {}
        """The last two rows of a chain: what comes in order follows them."""

    def reach(self, account: str, version: int) -> None:
        """The rows are those up to this version now; the spans too."""
        self._upto[account] = version
        self._last.clear()

    def before(self, account: str, asset_id: str, time_ns: int) -> Sequence[HistoryRow]:
        """As `projections.history.Before`."""
        span = self._spans.get(account, asset_id)
        if span is None or time_ns <= span.first_ns:
            return ()
        if time_ns > span.last_ns and (last := self._last.get((account, asset_id))) is not None:
            return last
        sql = f"{_SELECT} AND time_ns>=? AND time_ns<? AND version<=? ORDER BY time_ns DESC, version DESC LIMIT 2"
        times = (span.first_ns, min(time_ns, span.last_ns + 1))
        found = self._read(sql, (account, asset_id, *times, self._upto[account]))
        if time_ns > span.last_ns:
            self._last[account, asset_id] = found
        return found

    def beginning(self, account: str, asset_id: str, time_ns: int) -> Iterator[HistoryRow]:
        """As `projections.history.Before`."""
        span = self._spans.get(account, asset_id)
        if span is None or time_ns > span.last_ns:
            return
        sql = (
            f"{_SELECT} AND time_ns<=? AND version<=? AND (time_ns, version)>(?, ?) ORDER BY time_ns, version "
            f"LIMIT {ROWS_READ}"
        )
        place = (max(time_ns, span.first_ns), 0)
        while True:
            rows = self._read(sql, (account, asset_id, span.last_ns, self._upto[account], *place))
            yield from rows
            if len(rows) < ROWS_READ:
                return
            place = (rows[-1].time_ns, rows[-1].version)

    def end(self, account: str, asset_id: str, time_ns: int) -> int | None:
        """As `projections.history.Before`."""
        found = self._ends.before(account, asset_id, time_ns, self._upto.get(account, 0) + 1)
        return found[0].version if found else None

    def _read(self, sql: str, params: tuple[str | int, ...]) -> list[HistoryRow]:
        rows: list[tuple[Any, ...]] = self._database.select(sql, params)
        found = [HistoryRow(*row) for row in rows]
        for row in found:
            row.memo = bool(row.memo)
        return found
