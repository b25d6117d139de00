"""The history rows that checkpoints are of: kept once, and found again as they were up to a version of their account.

Knows rows of histories and SQL; judges nothing. Rows are facts and stay: of a checkpoint are those up to its version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from projections.history import EndRow, HistoryRow
from projections.tables import Database, Ordered, Table

EVER: Final = (1 << 63) - 1
ROWS_READ: Final = 64
"""Rows read at once where those from an instant on are wanted."""
_FIELDS: Final = ", ".join(HistoryRow.__struct_fields__)


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


class KeptHistory:
    """All rows up to now, also those that are not written yet. Each account's are put in the order of its versions."""

    def __init__(self, database: Database) -> None:
        self._rows: Final = Ordered(database, "balance_checkpoint_history", HistoryRow, key=4)
        self._ends: Final = Ordered(database, "balance_checkpoint_history_ends", EndedRow, key=4)
        self.tables: Final[tuple[Table[Any], ...]] = (self._rows, self._ends)

    def put(self, rows: Sequence[HistoryRow], ends: Sequence[EndRow], since: int) -> None:
        """What came up to a checkpoint."""
        for row in rows:
            self._rows.put(row)
        for end in ends:
            self._ends.put(EndedRow(end.account, end.asset_id, end.time_ns, since, end.version))

    def before(self, account: str, asset_id: str, time_ns: int) -> Sequence[HistoryRow]:
        """As `projections.history.Before`."""
        return self._rows.before(account, asset_id, time_ns)

    def beginning(self, account: str, asset_id: str, time_ns: int) -> Iterator[HistoryRow]:
        """As `projections.history.Before`."""
        return self._rows.beginning(account, asset_id, time_ns)

    def end(self, account: str, asset_id: str, time_ns: int) -> int | None:
        """As `projections.history.Before`."""
        found = self._ends.before(account, asset_id, time_ns, EVER)
        return found[0].version if found else None


class HistoryUpto:
    """The rows up to a version of each account, of those that are written. Of an account without one there are none.

    Where rows came in another order than that of their times, there may be many of a later version near those asked
    for: the spans keep all that are of after the first and last time out.
    """

    def __init__(self, database: Database, spans: Table[ChainSpanRow]) -> None:
        self._database: Final = database
        self._spans: Final = spans
        self.upto: Final[dict[str, int]] = {}

    def before(self, account: str, asset_id: str, time_ns: int) -> Sequence[HistoryRow]:
        """As `projections.history.Before`."""
        span = self._spans.get(account, asset_id)
        if span is None or time_ns <= span.first_ns:
            return ()
        sql = (
            f"SELECT {_FIELDS} FROM balance_checkpoint_history WHERE account=? AND asset_id=? AND time_ns>=? "
            "AND time_ns<? AND version<=? ORDER BY time_ns DESC, version DESC LIMIT 2"
        )
        times = (span.first_ns, min(time_ns, span.last_ns + 1))
        return self._read(sql, (account, asset_id, *times, self.upto[account]))

    def beginning(self, account: str, asset_id: str, time_ns: int) -> Iterator[HistoryRow]:
        """As `projections.history.Before`."""
        span = self._spans.get(account, asset_id)
        if span is None or time_ns > span.last_ns:
            return
        sql = (
            f"SELECT {_FIELDS} FROM balance_checkpoint_history WHERE account=? AND asset_id=? AND time_ns<=? "
            f"AND version<=? AND (time_ns, version)>(?, ?) ORDER BY time_ns, version LIMIT {ROWS_READ}"
        )
        place = (max(time_ns, span.first_ns), 0)
        while True:
            rows = self._read(sql, (account, asset_id, span.last_ns, self.upto[account], *place))
            yield from rows
            if len(rows) < ROWS_READ:
                return
            place = (rows[-1].time_ns, rows[-1].version)

    def end(self, account: str, asset_id: str, time_ns: int) -> int | None:
        """As `projections.history.Before`."""
        if account not in self.upto:
            return None
        sql = (
            "SELECT version FROM balance_checkpoint_history_ends WHERE account=? AND asset_id=? AND time_ns=? "
            "AND since<=? ORDER BY since DESC LIMIT 1"
        )
        found = self._database.select(sql, (account, asset_id, time_ns, self.upto[account]))
        return int(found[0][0] or 0) if found else None

    def _read(self, sql: str, params: tuple[str | int, ...]) -> list[HistoryRow]:
        rows: list[tuple[Any, ...]] = self._database.select(sql, params)
        found = [HistoryRow(*row) for row in rows]
        for row in found:
            row.memo = bool(row.memo)
        return found
