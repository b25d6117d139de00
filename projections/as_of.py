"""Balances as of a moment: what the statements said by then come to.

Knows events and the folds of balances and gaps; keeps nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ledger import Recorded
from ledger.events import SessionClosed, SessionOpened, time_of
from projections.balances_fold import BalancesFold
from projections.completeness import Later
from projections.gaps import Gap
from projections.holdings import HeldRow, Holding, by_account, holdings, judged


class AsOf:
    """Balances as of a moment; indexed like Balances."""

    def __init__(self, moment_ns: int | None) -> None:
        self._fold: Final = BalancesFold(None)
        self._gaps: Sequence[Gap] = ()
        self._logins: Mapping[str, set[str]] = {}
        self._later: Sequence[Gap] = ()
        """Those known since then, too."""
        self._is_over = False
        """Whether anything was told of after the moment."""
        self._moment_ns: Final = moment_ns
        self._next: Final[dict[str, int]] = {}
        """When something was heard first after the moment, by account."""

    def _apply(self, recorded: Recorded, account: str | None) -> bool:
        """Fold one event, if it was said by the moment; whether it was."""
        event, at = recorded.event, self._moment_ns
        if at is not None and (time_ns := time_of(event)) > at:
            self._is_over = True
            if not isinstance(event, SessionOpened | SessionClosed):
                self._next[recorded.account] = min(time_ns, self._next.get(recorded.account, time_ns))
            if event.source.late_ns is not None:
                self._fold.unread.apply(recorded)  # what that frame said is known by now, and is of later
            return False
        if account in (None, recorded.account):
            self._fold.apply(recorded)
        else:
            self._fold.unread.apply(recorded)
        return True

    def __getitem__(self, account: str) -> dict[str, Holding]:
        return holdings(self.rows(account))

    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held at that moment, by account and asset id."""
        at = self._moment_ns
        later: dict[str, Later] = {}
        if at is not None:
            ever = by_account(self._later)
            later = {name: Later(at, ever[name], self._next.get(name, at)) for name in {*ever}}
        return judged(self._fold, self._gaps, self._logins, account, later)
