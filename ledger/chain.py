"""Running balances: whether one history row follows another, and in which order rows of one instant follow.

Knows amounts; knows no venue and no event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Final, Protocol, TypeVar

from ledger.events import Amount
from ledger.wire import EXACT, decimal

LINKS_MAX: Final = 50_000
"""Pairs of rows looked at before the given order is kept."""


class Row(Protocol):
    """A row of a history: what changed, and what was held after."""

    @property
    def cause(self) -> str: ...
    @property
    def amount(self) -> Amount: ...
    @property
    def balance(self) -> Amount: ...
    @property
    def pending(self) -> Amount | None: ...


R = TypeVar("R", bound=Row)


def links(last: Row, row: Row) -> bool:
    """Whether `row` can follow `last` with nothing missing between them: balance = last balance + amount.

    Two liberties, both where Pacifica documents no rule (venue notes C.3): a withdrawal may be written without its
    sign, and a deposit above the cap may move the pending balance instead.
    """
    was, now, amount = decimal(last.balance), decimal(row.balance), decimal(row.amount)
    if now == EXACT.add(was, amount):
        return True
    if row.cause == "withdraw" and now == EXACT.subtract(was, amount):
        return True
    if row.cause == "deposit" and now == was and last.pending is not None and row.pending is not None:
        return decimal(row.pending) == EXACT.add(decimal(last.pending), amount)
    return False


def in_chain_order(rows: Sequence[R], start: Row | None, later: Sequence[Row] = ()) -> list[R]:
    """The rows in an order in which each follows the one before it, the first following `start` where that can be; the
    given order where there is no such order, or none is found within LINKS_MAX.

    Rows that end where they begin could begin anywhere: where `start` is not known, the `later` rows tell.
    """
    given = list(rows)
    if len(given) < 2:
        return given
    anchor = _beginning(later) if start is None and later else None
    if _chained(given, start) and anchor in (None, decimal(given[-1].balance)):
        return given
    ordered = _path(given, start, anchor) or (given if _chained(given, start) else _search(given, start))
    if ordered is None and start is not None:
        # Something is missing before them: they may follow one another still.
        return in_chain_order(given, None, later)
    return given if ordered is None else ordered


def _before(row: Row) -> Decimal:
    return EXACT.subtract(decimal(row.balance), decimal(row.amount))


def _beginning(rows: Sequence[Row]) -> Decimal | None:
    """The balance that the rows begin from, if they are one chain in some order; None where they lead back to it, so
    that there are several."""
    left, reached = Counter(map(_before, rows)), Counter(decimal(row.balance) for row in rows)
    if len(left | reached) == 1:
        return next(iter(left))
    return next((balance for balance in left if left[balance] > reached[balance]), None)


def _path(rows: list[R], start: Row | None, anchor: Decimal | None) -> list[R] | None:
    """An order by balance = last balance + amount alone: a path over every row, each an edge from the balance before it
    to the one after it (Hierholzer's algorithm: one pass, whatever the rows)."""
    after = [decimal(row.balance) for row in rows]
    before = list(map(_before, rows))
    leaving: dict[Decimal, list[int]] = {}
    for index in reversed(range(len(rows))):
        leaving.setdefault(before[index], []).append(index)
    if start is not None:
        first = decimal(start.balance)
    elif (beginning := _beginning(rows)) is not None:
        first = beginning
    else:
        first = before[0] if anchor is None or anchor not in leaving else anchor
    open_rows: list[int] = []
    path: list[int] = []
    here = first
    while True:
        if leaving.get(here):
            open_rows.append(leaving[here].pop())
        elif open_rows:
            path.append(open_rows.pop())
        else:
            break
        here = after[open_rows[-1]] if open_rows else first
    ordered = [rows[index] for index in reversed(path)]
    return ordered if len(ordered) == len(rows) and _chained(ordered, start) else None


def _search(rows: list[R], start: Row | None) -> list[R] | None:
    """An order by everything `links` allows, by trying; bounded, for there may be very many to try."""
    tries = LINKS_MAX
    path: list[int] = []
    tried: list[int] = [0]
    used = [False] * len(rows)
    while tried and tries > 0:
        last = rows[path[-1]] if path else start
        index = tried[-1]
        while index < len(rows) and (used[index] or (last is not None and not links(last, rows[index]))):
            index += 1
        tries -= index - tried[-1] + 1
        if index == len(rows):
            tried.pop()
            if path:
                used[path.pop()] = False
            continue
        tried[-1] = index + 1
        used[index] = True
        path.append(index)
        if len(path) == len(rows):
            return [rows[place] for place in path]
        tried.append(0)
    return None


def _chained(rows: Sequence[Row], start: Row | None) -> bool:
    if start is not None and not links(start, rows[0]):
        return False
    return all(links(last, row) for last, row in pairwise(rows))
