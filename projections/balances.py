"""Balances as the venues last stated them: now, and as of any time or version; each with how complete it is.

Knows the fold of balance events and the projections its verdicts rest on; keeps their rows up to date.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from operator import attrgetter
from typing import Final

from ledger import Ledger, Recorded
from ledger.wire import moment_ns
from projections.as_of import EVER, AsOf, Moment, Past
from projections.balances_fold import BalancesFold
from projections.checkpoints import Checkpoints
from projections.gaps import Gaps
from projections.holdings import ByAccount, HeldRow, Known, judged, known
from projections.subscription import Projection, Subscription, catch_up
from projections.tables import Database

ACCOUNTS_KEPT_MAX: Final = 64
"""Accounts of which what balances are judged by is remembered."""


class Balances(ByAccount):
    """Current balances: `balances["bitopro:main"]["ADA"].available`. Catches up when read.

    Accounts of which something is held are in it (`in`, `for`, in order); of another there is nothing, and no error.
    Assets are found by their id, and by the venue's label where it is unambiguous.
    """

    name = "balances"
    version = 8

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger = ledger
        database = ledger if database is None else database
        self._database: Final = database
        self._answers: Past | None = None
        self.fold: Final = BalancesFold(database)
        self.gaps: Final = Gaps(ledger, database)
        self._known_at: object = None
        self._known: Final[dict[str | None, Known]] = {}
        self.tables: Final = self.fold.tables
        self.apply: Final = self.fold.apply
        self.apply_all: Final = self.fold.apply_all
        self.settle: Final = self.fold.settle
        self.forget: Final = self.fold.forget
        self.subscription: Final = Subscription(ledger, self, database)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """This one, and those whose rows its verdicts rest on: they are caught up together."""
        return (self, *self.gaps.projections)

    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held, by account and asset id."""
        catch_up(self._ledger, self.projections)
        return judged(self.fold, self._known_of(account), account)

    def _known_of(self, account: str | None) -> Known:
        """Worked out again when something changed that it rests on: most that is recorded leaves it as it is."""
        changed = (self.gaps.changed, self.fold.agreement.breaks.changed)
        if changed != self._known_at:
            self._known_at = changed
            self._known.clear()
        if account not in self._known:
            if len(self._known) == ACCOUNTS_KEPT_MAX:
                self._known.clear()
            self._known[account] = known(self.fold, *self.gaps.with_logins(account), account)
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
        past = self._past()
        known = EVER if known_at is None else _ns(known_at)
        if isinstance(moment, int):
            return past.at(Moment(version=max(moment, 0), known_ns=known), account)
        return past.at(Moment(time_ns=_ns(moment), known_ns=known), account)

    def events(self, account: str) -> Iterator[Recorded]:
        """The events of an account, and of the logins it was heard through: they tell when nobody was listening."""
        self.gaps.sessions.subscription.catch_up()
        names = {account}.union(*self.gaps.logins(account).values())
        return merge(*map(self._ledger.replay, sorted(names)), key=attrgetter("position"))

    def _past(self) -> Past:
        if self._answers is None:
            checkpoints = Checkpoints(self._ledger, self._database, self.gaps.history)
            self._answers = Past(self._ledger, checkpoints, self.gaps)
        return self._answers


def _ns(moment: str | datetime) -> int:
    """A time, or the nearest to it that a stored one can be."""
    return max(-EVER, min(moment_ns(moment), EVER))
