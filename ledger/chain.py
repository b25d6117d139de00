"""Running balances: whether one history row follows another, and in which order rows of one instant follow.

Knows amounts; knows no venue and no event.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol, TypeVar

from ledger.events import Amount
from ledger.wire import EXACT, decimal

STEPS_MAX: Final = 20_000
"""How long an order is looked for before the given one is kept."""


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


def in_chain_order(rows: Sequence[R], start: Row | None) -> list[R]:
    """The rows in an order in which each follows the one before it (the first follows `start`, where given); the given
    order where there is no such order, or none is found within STEPS_MAX."""
    given = list(rows)
    if len(given) == 1 or _chained(given, start):
        return given
    steps = STEPS_MAX
    path: list[int] = []
    tried: list[int] = [0]
    used = [False] * len(given)
    while tried and steps:
        steps -= 1
        last = given[path[-1]] if path else start
        index = tried[-1]
        while index < len(given) and (used[index] or (last is not None and not links(last, given[index]))):
            index += 1
        if index == len(given):
            tried.pop()
            if path:
                used[path.pop()] = False
            continue
        tried[-1] = index + 1
        used[index] = True
        path.append(index)
        if len(path) == len(given):
            return [given[place] for place in path]
        tried.append(0)
    return given


def _chained(rows: Sequence[Row], start: Row | None) -> bool:
    if start is not None and not links(start, rows[0]):
        return False
    return all(links(last, row) for last, row in pairwise(rows))
