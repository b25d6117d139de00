"""What an account stood at, at one instant after the other: as `Balances.at` says it for each, in one pass.

Knows balance events and the fold of balances; knows no movement and no cause.
"""

from __future__ import annotations

import copy
from bisect import bisect
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

import msgspec
from msgspec import Struct

from ledger import Recorded
from ledger.events import (
    Amount,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    Event,
    Source,
)
from projections.balances_fold import BalanceRow, BalancesFold

KEPT_EVERY_EVENTS: Final = 1_000
"""So many events lie between two states kept, from which a late event is folded in where it belongs."""

_version: Final = attrgetter("version")
_OTHERS: Final = msgspec.json.Decoder(tuple[Amount, ...])


class Standing(Struct, frozen=True):
    """What an account holds of an asset; zero of what it does not hold. `amount` is the total, or of a venue that
    states none the first part it states (available, locked, staked, pending). `others`: at which other amounts the rows
    of a history that state it may have ended."""

    amount: Amount
    held: bool
    pending: Amount | None
    time_ns: int
    version: int
    others: tuple[Amount, ...] = ()


NOTHING: Final = Standing("0", False, None, 0, 0)


class Course:
    """The states of one account. First `before` with the events up to the beginning, as they came; then `take` with the
    later ones by time, those of one instant as they came.

    `Balances.at(T)` folds the events up to T as they came, so an event of a later instant may belong before events
    that are folded already. If it is newer than all of them by every measure the fold knows, then where it is folded
    makes no difference, and it is folded last. Else they are folded again, in order.
    """

    def __init__(self, account: str) -> None:
        self._account = account
        self._fold = BalancesFold(None)
        self._folded: list[Recorded] = []  # by version: what may have to be folded again
        self._kept: list[tuple[int, BalancesFold]] = []  # after so many of them, folded as they came
        self._as_came = True
        self._last = 0
        self._snapshot = 0
        self._paged = False
        self._newest: dict[str | None, tuple[int, int]] = {}
        self._standings: dict[str, Standing] = {}

    def before(self, recorded: Recorded, *, first: bool) -> None:
        """Fold an event of before the beginning; `first`: it came before any later one that will be taken."""
        if first:
            self._fold.apply(recorded)
            self._note(recorded)
        else:
            self._append(recorded)
        self._look(self._touched(recorded.event))

    def take(self, recorded: Recorded) -> dict[str, tuple[Standing, Standing]]:
        """Fold the next event: the assets it names or changes, each before and after."""
        event = recorded.event
        if self._as_came and recorded.version > self._last:
            self._append(recorded)
        elif self._is_newest(recorded):
            self._insert(recorded)
            self._as_came = self._as_came and recorded.version > self._last
            self._fold.apply(recorded)
            self._note(recorded)
        else:
            self._insert(recorded)
            self._note(recorded)
            self._fold_again()
            return self._look(None)
        return self._look(self._touched(event))

    def _append(self, recorded: Recorded) -> None:
        if not self._kept:
            self._kept.append((0, copy.deepcopy(self._fold)))
        elif len(self._folded) - self._kept[-1][0] >= KEPT_EVERY_EVENTS:
            self._kept.append((len(self._folded), copy.deepcopy(self._fold)))
        self._folded.append(recorded)
        self._fold.apply(recorded)
        self._note(recorded)

    def _insert(self, recorded: Recorded) -> None:
        index = bisect(self._folded, recorded.version, key=_version)
        self._folded.insert(index, recorded)
        if not self._kept:
            self._kept.append((0, copy.deepcopy(self._fold)))
        while self._kept[-1][0] > index:
            self._kept.pop()

    def _fold_again(self) -> None:
        start, kept = self._kept[-1]
        self._fold = copy.deepcopy(kept)
        for count, recorded in enumerate(self._folded[start:], start + 1):
            self._fold.apply(recorded)
            if count - self._kept[-1][0] >= KEPT_EVERY_EVENTS:
                self._kept.append((count, copy.deepcopy(self._fold)))
        self._as_came = True

    def _note(self, recorded: Recorded) -> None:
        self._last = max(self._last, recorded.version)
        if isinstance(recorded.event, BalanceSnapshot):
            self._snapshot = max(self._snapshot, recorded.version)
            self._paged = self._paged or not _is_one_page(recorded.event)
        source = recorded.event.source
        if source.sequence is not None:
            newest = self._newest.get(source.subscription, (0, 0))
            self._newest[source.subscription] = max(newest, (source.sequence, recorded.version))

    def _is_newest(self, recorded: Recorded) -> bool:
        """Whether an event is newer than all that are folded, not only by time (it is taken in that order) but by the
        venue's sequence too; and, where it states the whole account, cuts no statement in two that comes in pages (and
        leaves no history's end behind that rows of its own instant would go on from)."""
        event, source = recorded.event, recorded.event.source
        if not self._follows(source, recorded.version):
            return False
        if not isinstance(event, BalanceSnapshot):
            return True
        if recorded.version > self._last:
            return not self._paged or recorded.version > self._snapshot
        if self._paged or not _is_one_page(event):
            return False
        return all(row.ends is None for row in self._rows())

    def _follows(self, source: Source, version: int) -> bool:
        newest = self._newest.get(source.subscription)
        return source.sequence is None or newest is None or (source.sequence, version) > newest

    def _touched(self, event: Event) -> Iterable[str] | None:
        """The assets whose row the event may change; None: any."""
        if isinstance(event, BalanceDelta):
            return [*(balance.asset_id for balance in event.balances), *event.removed]
        if isinstance(event, BalanceEventImported):
            return [event.asset_id]
        return None

    def _look(self, touched: Iterable[str] | None) -> dict[str, tuple[Standing, Standing]]:
        found: dict[str, tuple[Standing, Standing]] = {}
        if touched is None:
            touched = {row.asset_id for row in self._rows()} | set(self._standings)
        for asset_id in dict.fromkeys(touched):
            was = self._standings.get(asset_id, NOTHING)
            now = self._standings[asset_id] = standing(self._fold.row(self._account, asset_id))
            found[asset_id] = (was, now)
        return found

    def _rows(self) -> list[BalanceRow]:
        return [row for row in self._fold._rows.of(self._account).values() if row is not None]


def _is_one_page(event: BalanceSnapshot) -> bool:
    return event.begins and not event.more


def standing(row: BalanceRow | None) -> Standing:
    """What a row of the balances says is held."""
    if row is None:
        return NOTHING
    parts = (row.total, row.available, row.locked, row.staked, row.pending) if row.held else ()
    amount = next((part for part in parts if part is not None), "0")
    others = () if row.ends is None else _OTHERS.decode(row.ends)
    return Standing(amount, row.held, row.pending, row.time_ns, row.version, others)
