"""Running balances: whether one history row follows another, and in which order rows of one instant follow.

Knows amounts; knows no venue and no event.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice, pairwise
from typing import Final, Protocol, TypeVar

from ledger.events import Amount
from ledger.wire import EXACT, decimal

LINKS_MAX: Final = 50_000
"""Pairs of rows looked at before the given order is kept."""
LATER_MAX: Final = 32
"""Instants looked at for where rows that lead back to where they begin must have ended."""


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


def in_course(groups: Iterable[Sequence[R]], last: R | None = None) -> Iterator[tuple[list[R], Sequence[R]]]:
    """Rows of one chain, each instant's together, `last` being the row before them: every instant as `ordered` has it,
    by what is before it and, where that leaves it open, by what is after it."""
    coming = iter(groups)
    ahead: deque[Sequence[R]] = deque()
    sure = True
    while group := ahead.popleft() if ahead else next(coming, None):
        later = _ahead(ahead, coming)
        given, ends = ordered(group, last, later)
        if not sure and len(group) > 1:
            ends = _merged([*ends, *(order[-1] for order in _orders(group, None)[0])])
        yield given, ends
        last, sure = given[-1], len(ends) == 1


def ordered(
    rows: Sequence[R], start: Row | None, later: Iterable[Sequence[Row]]
) -> tuple[list[R], Sequence[R]]:
    """The rows of an instant in an order in which each follows the one before it, the first following `start` where
    that can be; the given order where there is no such order, or none is found within LINKS_MAX. Rows that end where
    they begin could begin anywhere: where `start` does not tell, the rows of the instants after it, `later`, do.

    And the rows they may end with, one for each balance: the first is the one they are taken to end with, and the only
    one where those before and after leave nothing open.
    """
    if len(rows) < 2:
        return [*rows], rows
    found, whole = _orders(rows, start)
    if not found and start is not None:
        # Something is missing before them: they may follow one another still.
        found, whole = _orders(rows, None)
    if not found:
        return [*rows], rows[-1:]
    if len(found) > 1:
        found = _leading_on(found, later)
    ends = [order[-1] for order in found]
    return found[0], ends if whole else _merged([*ends, *rows])


def may_end_otherwise(rows: Sequence[Row]) -> bool:
    """Whether rows of an instant, with nothing known before them, may end at several balances."""
    found, whole = _orders(rows, None)
    return len(found) > 1 or not whole


def _ahead(ahead: deque[Sequence[R]], coming: Iterator[Sequence[R]]) -> Iterator[Sequence[R]]:
    """The groups to come, which stay to come."""
    yield from tuple(ahead)
    for group in coming:
        ahead.append(group)
        yield group


def _merged(rows: Iterable[R]) -> list[R]:
    """One row for each balance."""
    found: dict[Decimal, R] = {}
    for row in rows:
        found.setdefault(decimal(row.balance), row)
    return [*found.values()]


def _leading_on(found: list[list[R]], later: Iterable[Sequence[Row]]) -> list[list[R]]:
    """Those of the orders that the later rows can follow; all, where they can follow none."""
    alive: list[tuple[list[R], list[Row]]] = [(order, [order[-1]]) for order in found]
    for group in islice(later, LATER_MAX):
        following = [
            (order, _merged(after[-1] for last in lasts for after in _orders(group, last)[0]))
            for order, lasts in alive
        ]
        following = [(order, lasts) for order, lasts in following if lasts]
        if not following:
            break
        alive = following
        if len(alive) == 1:
            break
    return [order for order, _ in alive]


def _orders(rows: Sequence[R], start: Row | None) -> tuple[list[list[R]], bool]:
    """Orders in which each row follows the one before it and the first one `start`, one for each balance at which they
    can end, the nearest to the given order first; and whether these are all."""
    if len(rows) == 1:
        return ([[*rows]] if start is None or links(start, rows[0]) else []), True
    given = [*rows]
    first = given if _chained(given, start) else _path(given, start)
    found = [] if first is None else [first]
    if _is_free(given, start):
        tried, whole = _search(given, start)
        found += tried
    else:
        whole = True
        if start is None and first is not None and _before(first[0]) == decimal(first[-1].balance):
            found += [first[at:] + first[:at] for at in _rotations(first)]
    ends: dict[Decimal, list[R]] = {}
    for order in found:
        ends.setdefault(decimal(order[-1].balance), order)
    return [*ends.values()], whole


def _rotations(loop: Sequence[Row]) -> Iterable[int]:
    """Where a loop can begin, one place for each balance."""
    places: dict[Decimal, int] = {}
    for at, row in enumerate(loop, 1):
        places.setdefault(decimal(row.balance), at)
    return places.values()


def _is_free(rows: Sequence[Row], start: Row | None) -> bool:
    """Whether `links` allows a row another beginning than its balance without its amount."""
    if any(row.cause == "withdraw" and decimal(row.amount) for row in rows):
        return True
    moved = [row for row in rows if row.cause == "deposit" and row.pending is not None]
    if not moved:
        return False
    left = {
        (decimal(row.balance), decimal(row.pending))
        for row in ([*rows] if start is None else [start, *rows])
        if row.pending is not None
    }
    return any(
        (decimal(row.balance), EXACT.subtract(decimal(row.pending or "0"), decimal(row.amount))) in left
        for row in moved
    )


def _before(row: Row) -> Decimal:
    return EXACT.subtract(decimal(row.balance), decimal(row.amount))


def _beginning(rows: Sequence[Row]) -> Decimal | None:
    """The balance that the rows begin from, if they are one chain in some order; None where they lead back to it, so
    that there are several."""
    left, reached = Counter(map(_before, rows)), Counter(decimal(row.balance) for row in rows)
    return next((balance for balance in left if left[balance] > reached[balance]), None)


def _path(rows: list[R], start: Row | None) -> list[R] | None:
    """An order by balance = last balance + amount alone: a path over every row, each an edge from the balance before it
    to the one after it (Hierholzer's algorithm: one pass, whatever the rows)."""
    after = [decimal(row.balance) for row in rows]
    before = list(map(_before, rows))
    leaving: dict[Decimal, list[int]] = {}
    for index in reversed(range(len(rows))):
        leaving.setdefault(before[index], []).append(index)
    if start is not None:
        first = decimal(start.balance)
    else:
        beginning = _beginning(rows)
        first = before[0] if beginning is None else beginning
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


def _search(rows: list[R], start: Row | None) -> tuple[list[list[R]], bool]:
    """Orders by everything `links` allows, one for each balance they end at, by trying; and whether they are all:
    it is bounded, for there may be very many to try."""
    tries = LINKS_MAX
    found: dict[Decimal, list[R]] = {}
    seen: set[tuple[int, int]] = set()
    path: list[int] = []
    tried: list[int] = [0]
    used = 0
    while tried and tries > 0:
        last = rows[path[-1]] if path else start
        index = tried[-1]
        while index < len(rows) and (
            used >> index & 1
            or (used | 1 << index, index) in seen
            or (last is not None and not links(last, rows[index]))
        ):
            index += 1
        tries -= index - tried[-1] + 1
        if index == len(rows):
            tried.pop()
            if path:
                used ^= 1 << path.pop()
            continue
        tried[-1] = index + 1
        used |= 1 << index
        seen.add((used, index))
        path.append(index)
        if len(path) == len(rows):
            order = [rows[place] for place in path]
            found.setdefault(decimal(order[-1].balance), order)
        tried.append(0)
    return [*found.values()], not tried


def _chained(rows: Sequence[Row], start: Row | None) -> bool:
    if start is not None and not links(start, rows[0]):
        return False
    return all(links(last, row) for last, row in pairwise(rows))
