"""Balances as they are shown: rows that were folded, each with how complete it is, and as numbers.

Knows folded rows, gaps and breaks; folds nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict

from ledger.wire import decimal
from projections.agreement import BreakRow
from projections.balances_fold import BalanceRow, BalancesFold
from projections.completeness import UNPROVABLE, Doubts, Evidence, Later, verdict
from projections.gaps import Gap
from projections.unread import Unread

_NONE: Final = Doubts((), ())


class HeldRow(BalanceRow):
    """A balance as it is shown: with how complete it is (`projections.completeness`), and why, in one sentence."""

    completeness: str = UNPROVABLE
    reason: str = ""


class Holding(Struct, frozen=True):
    """A balance as numbers. None where the venue does not state that part."""

    asset_id: str
    asset: str
    total: Decimal | None
    available: Decimal | None
    locked: Decimal | None
    staked: Decimal | None
    pending: Decimal | None
    version: int
    time_ns: int
    completeness: str = UNPROVABLE
    """`proven`, `consistent`, `unprovable` or `gap` (`projections.completeness`)."""
    reason: str = ""


class Holdings(Mapping[str, Holding]):
    """What an account holds, by asset id; it is also found by the venue's label, where that is unambiguous."""

    def __init__(self, rows: Sequence[HeldRow]) -> None:
        self._by_id: Final = {row.asset_id: _holding(row) for row in rows}
        labels = Counter(row.asset for row in rows)
        self._ids: Final = {row.asset: row.asset_id for row in rows if labels[row.asset] == 1}

    def __getitem__(self, asset: str) -> Holding:
        return self._by_id[asset if asset in self._by_id else self._ids[asset]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return repr(self._by_id)


class ByAccount(ABC):
    """Balances by account: `held["bitopro:main"]["ADA"].available`. An account of which nothing is held is empty, and
    not in it; the others come in order."""

    @abstractmethod
    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held, by account and asset id."""

    def __getitem__(self, account: str) -> Holdings:
        return Holdings(self.rows(account))

    def __contains__(self, account: str) -> bool:
        return bool(self.rows(account))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(row.account for row in self.rows()))


def by_account(gaps: Iterable[Gap]) -> defaultdict[str, list[Gap]]:
    """Gaps by the account they are of."""
    of: defaultdict[str, list[Gap]] = defaultdict(list)
    for gap in gaps:
        of[gap.account].append(gap)
    return of


class Known(NamedTuple):
    """What balances are judged by beside what states them: what may be missing, and the logins they were heard through,
    by account."""

    doubts: Mapping[str, Doubts]
    logins: Mapping[str, set[str]]


def known(
    fold: BalancesFold, gaps: Sequence[Gap], logins: Mapping[str, set[str]], account: str | None
) -> Known:
    """Gaps and breaks, looked through once."""
    ours = by_account(gaps)
    breaks: defaultdict[str, list[BreakRow]] = defaultdict(list)
    for found in fold.agreement.breaks.rows(account):
        if found.closed_by is None:
            breaks[found.account].append(found)
    return Known({name: Doubts(ours[name], breaks[name]) for name in {*ours, *breaks}}, logins)


def judged(
    fold: BalancesFold,
    known: Known,
    account: str | None,
    unread: Unread | None = None,
    later: Mapping[str, Later] | None = None,
) -> list[HeldRow]:
    """The rows held, each with its verdict. `unread`: the frames that nobody could read, where those are not the
    fold's."""
    ever = later or {}
    frames = fold.unread if unread is None else unread
    evidence: dict[str, Evidence] = {}
    rows: list[HeldRow] = []
    for row in fold.held(account):
        name = row.account
        if name not in evidence:
            newest = frames.newest({name} | known.logins.get(name, set()))
            doubts = known.doubts.get(name, _NONE)
            evidence[name] = Evidence(fold.statement(name), doubts, newest, ever.get(name))
        word, reason = verdict(row, fold.agreement.history(name, row.asset_id), evidence[name])
        rows.append(HeldRow(**asdict(row), completeness=word, reason=reason))
    return rows


def _holding(row: HeldRow) -> Holding:
    parts = (row.total, row.available, row.locked, row.staked, row.pending)
    total, available, locked, staked, pending = (None if part is None else decimal(part) for part in parts)
    return Holding(
        row.asset_id,
        row.asset,
        total,
        available,
        locked,
        staked,
        pending,
        row.version,
        row.time_ns,
        row.completeness,
        row.reason,
    )
