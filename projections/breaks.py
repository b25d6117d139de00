"""Breaks: where two statements should agree and do not; as long as it is so, and what resolved it.

Knows the differences that `projections.agreement` found between balances and `projections.executions` of orders and
fills; knows gaps only to say which of them explains a difference. Nothing is repaired.

Of each kind, what is compared with what (`expected` with `stated`):

* `snapshot`: what the statements before came to, with what a full statement says; of an asset, the total alone where
  that differs, else each part that does.
* `account`: what the venue's own history comes to, with the balance it states of the account.
* `fills`: the executed quantity of an order, with the sum of its fills.
* `quote`: price x quantity of a fill, with the quote quantity the venue states.
* `retold`: what was told of a fill first, with what is told of it otherwise later, part by part. Where that is no
  amount (its order, its side, its time), all of its quantity, with none of it: so much is told otherwise.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from ledger import Ledger
from ledger.events import Amount
from ledger.wire import EXACT, decimal
from projections.agreement import BreakRow
from projections.balances import Balances
from projections.completeness import Missed
from projections.gaps import Gap
from projections.subscription import Projection, catch_up
from projections.tables import Database

FILLS: Final = ("quote", "retold")
"""The kinds of which a fill is the subject."""
MISSED: Final = "missed in the gap; the statement counts"

_NS: Final = 1_000_000_000


class Break(Struct, frozen=True):
    """Two statements that should agree and do not. `subject`: an asset, order or fill id; `difference`: stated -
    expected; `time_ns`: when the later statement was true; `age_s`: from when it was found until it was closed, or
    until now."""

    account: str
    kind: str
    subject: str
    part: str | None
    expected: Amount
    stated: Amount
    difference: Amount
    expected_version: int | None
    stated_version: int | None
    time_ns: int
    age_s: int
    explained_by: str | None
    state: str
    closed_by: int | None
    closed_ns: int | None
    closed_how: str | None


class Breaks:
    """The breaks of all accounts, open and closed. Catches up when read; folds nothing itself."""

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger = ledger
        self.balances: Final = Balances(ledger, database)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Those whose rows it reads: they are caught up together."""
        return self.balances.projections

    def rows(
        self, account: str | None = None, open_only: bool = False, *, now_ns: int | None = None
    ) -> list[Break]:
        """The breaks: open ones first, by account and time. `now_ns`: until when an open one ages, if not now."""
        catch_up(self._ledger, self.projections)
        found = self.folded(self.balances.gaps.folded(account), account, now_ns=now_ns)
        return [each for each in found if each.state == "open" or not open_only]

    def folded(
        self, gaps: Sequence[Gap], account: str | None = None, *, now_ns: int | None = None
    ) -> list[Break]:
        """The breaks as far as `projections` have come, with the gaps that may explain them."""
        return told(
            [*self.balances.fold.agreement.breaks.rows(account), *self.balances.gaps.breaks(account)],
            gaps,
            time.time_ns() if now_ns is None else now_ns,
        )


def told(rows: Iterable[BreakRow], gaps: Sequence[Gap], now_ns: int) -> list[Break]:
    """Breaks as they are shown: with what explains them, open ones first, by account and time."""
    of: dict[str, list[Gap]] = defaultdict(list)
    for gap in gaps:
        of[gap.account].append(gap)
    rows = list(rows)
    missed = {account: Missed(of[account]) for account in {row.account for row in rows}}
    found = [_shown(row, missed[row.account].explaining(row), now_ns) for row in rows]
    return sorted(found, key=lambda each: (each.state != "open", each.account, each.time_ns, each.kind))


def _shown(row: BreakRow, explained_by: str | None, now_ns: int) -> Break:
    closed_by, closed_ns, how = row.closed_by, row.closed_ns, row.closed_how
    if explained_by is not None:
        closed_by, closed_ns, how = row.stated_version, row.found_ns, MISSED
    until_ns = now_ns if closed_ns is None else closed_ns
    return Break(
        row.account,
        row.kind,
        row.subject,
        row.part or None,
        row.expected,
        row.stated,
        format(EXACT.subtract(decimal(row.stated), decimal(row.expected)), "f"),
        row.expected_version,
        row.stated_version,
        row.time_ns,
        max(0, (until_ns - row.found_ns) // _NS),
        explained_by,
        "open" if closed_by is None else "closed",
        closed_by,
        closed_ns,
        how,
    )
