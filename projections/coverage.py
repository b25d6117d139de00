"""What we heard of each account, channel by channel: when we listened, and what evidence the channel gives.

Knows sessions, gaps and where histories begin; decides from what is stored, and knows no venue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from ledger import Ledger
from ledger.events import Amount
from projections.gaps import Gaps
from projections.sessions import ChannelRow, Listening
from projections.subscription import Projection, catch_up
from projections.tables import Database

NONE: Final = "none"


class Coverage(Struct, frozen=True):
    """One channel of one account. `listening` and `blind`: times (from, to; ns) from the first session in which the
    channel was heard; a blind one with whether it is closed. `open`: the last session has no closing, it goes on or it
    crashed; `unclosed` counts all that have none. `files` of the sessions are recordings without times, read at the
    times said: nobody knows when they were heard. `frames` and `quarantined` are those of the sessions, whole.

    `evidence`: what would show that something is missing. `open_gaps`: of the account. `history_*`: where an imported
    history begins with a balance that is not zero, and the balance: what came before is not here.
    """

    account: str
    channel: str | None
    since_ns: int | None
    until_ns: int | None
    open: bool
    sessions: int
    unclosed: int
    files: int
    events: int
    evidence: str
    heard_ns: int | None
    last_full_ns: int | None
    frames: int
    quarantined: int
    open_gaps: int
    history_from_ns: int | None
    history_opening: Amount | None
    history_asset: str | None
    listening: Sequence[tuple[int, int]]
    blind: Sequence[tuple[int, int, bool]]

    @property
    def listened_ns(self) -> int:
        """How long we listened."""
        return sum(until - since for since, until in self.listening)

    @property
    def blind_ns(self) -> int:
        """For how long nobody did, in between."""
        return sum(until - since for since, until, _ in self.blind)


class Coverages:
    """The coverage of all accounts. Catches up when read."""

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger: Final = ledger
        self._gaps: Final = Gaps(ledger, database)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Those whose rows it reads: they are caught up together."""
        return self._gaps.projections

    def rows(self, account: str | None = None) -> list[Coverage]:
        """By account and channel; a login that was told nothing has one row, with no channel."""
        catch_up(self._ledger, self.projections)
        gaps = [gap.account for gap in self._gaps.folded(account, open_only=True)]
        return [
            self._row(each, channel, gaps.count(each.account))
            for each in self._gaps.sessions.fold.listening(account)
            for channel in (
                *sorted({row.channel for row in each.channels}),
                *([] if each.channels else [None]),
            )
        ]

    def _row(self, listening: Listening, channel: str | None, open_gaps: int) -> Coverage:
        rows = [row for row in listening.channels if row.channel == channel]
        heard = {row.session for row in rows}
        first = next((at for at, each in enumerate(listening.sessions) if each.session in heard), 0)
        sessions = listening.sessions[first:]
        since_ns = min((each.opened_ns for each in sessions), default=0)
        # What a later version listens to more was not listened to before.
        times = [(max(since, since_ns), until) for since, until in listening.intervals if until >= since_ns]
        blind = [
            (each.from_ns, each.to_ns, each.closed_by is not None)
            for each in listening.blind
            if each.from_ns >= since_ns
        ]
        times = sorted([*times, *((each.opened_ns, each.until_ns) for each in sessions if not each.timed)])
        history = self._beginning(listening.account, rows)
        return Coverage(
            listening.account,
            channel,
            times[0][0] if times else None,
            max(until for _, until in times) if times else None,
            bool(sessions) and sessions[-1].open,
            len(sessions),
            sum(each.open for each in sessions),
            sum(not each.timed for each in sessions),
            sum(row.events for row in rows),
            _evidence(rows),
            max((row.last_ns for row in rows), default=None),
            max((row.stated_ns for row in rows if row.stated_ns is not None), default=None),
            sum(each.frames for each in sessions),
            sum(each.quarantined for each in sessions),
            open_gaps,
            *history,
            times,
            blind,
        )

    def _beginning(
        self, account: str, rows: Sequence[ChannelRow]
    ) -> tuple[int | None, Amount | None, str | None]:
        memo = {flag for row in rows for flag, count in ((False, row.imported), (True, row.memos)) if count}
        if memo:
            for row, opening in self._gaps.history.fold.beginnings(account):
                if row.memo in memo and opening.strip("-0."):
                    return row.time_ns, opening, row.asset
        return None, None, None


def _evidence(rows: Sequence[ChannelRow]) -> str:
    """The strongest evidence that there is."""
    kinds = (
        ("sequence", sum(row.numbered for row in rows)),
        ("running balance", sum(row.imported + row.memos for row in rows)),
        ("full statements", sum(row.full_ns is not None for row in rows)),
        ("executed quantities", sum(row.executed for row in rows)),
    )
    return next((name for name, count in kinds if count), NONE)
