"""The frames of each login that nobody could read, as long as nobody can: what they said is not known.

Knows quarantine events, and that a late event is of a frame that was quarantined before; knows no balance.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from ledger import Recorded
from ledger.events import FrameQuarantined, Source
from projections.tables import Database, Table


class UnreadRow(Struct):
    """One frame without a number that could not be read; `account` is the login's."""

    account: str
    session: str
    ordinal: int
    version: int
    position: int


class NewestRow(Struct):
    """The newest such frame of a login, by its event's version and position in the ledger; zero where all were read."""

    account: str
    version: int
    position: int


class Unread:
    """Notes frames that could not be read, and forgets those that could be after all."""

    def __init__(self, database: Database | None) -> None:
        self._frames: Final = Table(database, "unread_frames", UnreadRow, key=3)
        self._newest: Final = Table(database, "unread_newest", NewestRow, key=1)
        self.tables: Final[tuple[Table[Any], ...]] = (self._frames, self._newest)

    def apply(self, recorded: Recorded) -> None:
        """Fold one event. One with a number is missed by its number: it is none of these."""
        event, source = recorded.event, recorded.event.source
        if source.late_ns is not None:
            self._read(source)
        elif type(event) is FrameQuarantined and source.sequence is None:
            login, version, position = recorded.account, recorded.version, recorded.position
            self._frames.put(UnreadRow(login, source.session, source.ordinal, version, position))
            self._newest.put(NewestRow(login, version, position))

    def _read(self, source: Source) -> None:
        """A frame could be read late. Its event may be of another account than its login's."""
        for newest in list(self._newest.rows()):
            frame = self._frames.get(newest.account, source.session, source.ordinal)
            if frame is None:
                continue
            self._frames.drop(frame)
            if frame.position == newest.position:
                left = max(self._frames.rows(newest.account), key=lambda row: row.position, default=None)
                place = (0, 0) if left is None else (left.version, left.position)
                self._newest.put(NewestRow(newest.account, *place))

    def newest(self, logins: Iterable[str]) -> NewestRow | None:
        """The newest frame of some logins that could not be read; None where there is none."""
        found = [row for login in logins if (row := self._newest.get(login)) is not None and row.position]
        return max(found, key=lambda row: row.position, default=None)
