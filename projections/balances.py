"""Balances as the venues last stated them: now, and as of any time or version; each with how complete it is.

Knows the fold of balance events and the projections its verdicts rest on; keeps their rows up to date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from operator import attrgetter
from typing import Final

from ledger import Ledger, Recorded
from ledger.events import known_ns
from ledger.wire import parse_time
from projections.as_of import AsOf
from projections.balances_fold import BalancesFold
from projections.gaps import Gap, Gaps, GapsFold
from projections.holdings import HeldRow, Holding, holdings, judged
from projections.subscription import Projection, Subscription, catch_up
from projections.tables import Database, Scratch

ACCOUNTS_KEPT_MAX: Final = 64
"""Accounts of which the gaps are remembered until something is recorded."""


class Balances:
    """Current balances: `balances["bitopro:main"]["ADA"].available`. Catches up when read.

    Assets are found by their id, and by the venue's label where it is unambiguous.
    """

    name = "balances"
    version = 4

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger = ledger
        database = ledger if database is None else database
        self.fold: Final = BalancesFold(database)
        self.gaps: Final = Gaps(ledger, database)
        self._known_at: tuple[int, ...] = ()
        self._known: Final[dict[str | None, tuple[Sequence[Gap], Mapping[str, set[str]]]]] = {}
        self.tables: Final = self.fold.tables
        self.apply: Final = self.fold.apply
        self.subscription: Final = Subscription(ledger, self, database)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """This one, and those whose rows its verdicts rest on: they are caught up together."""
        return (self, *self.gaps.projections)

    def __getitem__(self, account: str) -> dict[str, Holding]:
        return holdings(self.rows(account))

    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held, by account and asset id."""
        catch_up(self._ledger, self.projections)
        gaps, logins = self._known_of(account)
        return judged(self.fold, gaps, logins, account)

    def _known_of(self, account: str | None) -> tuple[Sequence[Gap], Mapping[str, set[str]]]:
        """The gaps and the logins, worked out once for as long as nothing is recorded."""
        place = tuple(each.subscription.position for each in self.projections)
        if place != self._known_at:
            self._known_at = place
            self._known.clear()
        if account not in self._known:
            if len(self._known) == ACCOUNTS_KEPT_MAX:
                self._known.clear()
            self._known[account] = (self.gaps.folded(account), self.gaps.logins(account))
        return self._known[account]

    def at(
        self,
        moment: int | str | datetime,
        account: str | None = None,
        *,
        known_at: str | datetime | None = None,
    ) -> AsOf:
        """Balances as of a version (int) of each account, or as of a time (ISO-8601 text or datetime, UTC): what the
        statements up to and including it say. With `known_at`, only what we knew by that time counts. Raises Malformed
        where the text is no time."""
        version, until_ns = (moment, None) if isinstance(moment, int) else (None, _ns(moment))
        known_until_ns = None if known_at is None else _ns(known_at)
        found = AsOf(until_ns)
        with Scratch() as scratch:
            gaps = GapsFold(scratch, fills=False)
            for recorded in self._events(account):
                if version is not None and recorded.version > version and account in (None, recorded.account):
                    if account is None:
                        continue
                    break
                known = known_until_ns is None or known_ns(recorded.event) <= known_until_ns
                if known and found._apply(recorded, account):
                    gaps.apply(recorded)
                if version == recorded.version and account == recorded.account:
                    break  # what the logins it was heard through did after it does not count
            found._gaps, found._logins = gaps.rows(account), gaps.logins(account)
        found._later = self._ever(account, known_until_ns) if found._is_over else found._gaps
        return found

    def _ever(self, account: str | None, known_until_ns: int | None) -> Sequence[Gap]:
        """The gaps as known now, or by a time; without those of fills."""
        with Scratch() as scratch:
            gaps = GapsFold(scratch, fills=False)
            for recorded in self._events(account):
                if known_until_ns is None or known_ns(recorded.event) <= known_until_ns:
                    gaps.apply(recorded)
            return gaps.rows(account)

    def _events(self, account: str | None) -> Iterator[Recorded]:
        """The events of an account, and of the logins it was heard through: they tell when nobody was listening."""
        if account is None:
            return self._ledger.replay()
        self.gaps.sessions.subscription.catch_up()
        names = {account}.union(*self.gaps.logins(account).values())
        return merge(*map(self._ledger.replay, sorted(names)), key=attrgetter("position"))


def _ns(moment: str | datetime) -> int:
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
    return parse_time(moment)
