"""Knows Pacifica's balance history: pages of rows, each the signed change and the USDC balance after it.

Must not know other pages: rows have no id and pages overlap, so a row is named by what it says, plus a count
where one page says the very same thing twice (document "Get account balance history", and its revision with
cursors).

The limit of that naming: rows that are equal in all five fields count as often as the fullest page holds
them. Where a page boundary splits them and no page holds them all, the surplus looks like rows we have. Rows
that change the balance are equal only if others of the same millisecond change it back, so such a loss breaks
the running balance and shows, unless what is lost adds up to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.json import Decoder

from ledger import wire
from ledger.errors import Malformed
from ledger.events import Amount, BalanceEventImported, FrameQuarantined, Statement
from ledger.venue import Frame

NAME: Final = "pacifica"

ASSET: Final = "USDC"
CHANNEL: Final = "account/balance/history"
ERROR_CHARS_MAX: Final = 500
ROWS_MAX: Final = 10_000


class _Row(Struct, gc=False):
    """All five are required: without `pending_balance` a row would get another key than when told in full,
    and count twice; and a row of the spot balance history, which has none, would be booked as USDC.
    """

    amount: str
    balance: str
    pending_balance: str
    event_type: Annotated[str, Meta(min_length=1, max_length=100)]  # open: the venue adds causes unannounced
    created_at: int


class _Page(Struct, gc=False):
    """`next_cursor` and `has_more` are for whoever fetches the next page."""

    success: bool
    data: Annotated[list[_Row], Meta(max_length=ROWS_MAX)] | None = None
    error: str | None = None
    code: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str | None = None


_PAGE: Final = Decoder(_Page)


def decode(frame: Frame) -> Sequence[Statement]:
    """The rows of a page, oldest first, whatever the order of the page (the document promises none)."""
    page = wire.decode(_PAGE, frame.payload)
    source = frame.source(NAME, CHANNEL)
    if not page.success:
        code = "" if page.code is None else f" {page.code}"
        reason = f"venue error{code}: {page.error or 'without a text'}"
        return [(frame.account, FrameQuarantined(source, "", reason[:ERROR_CHARS_MAX]))]
    rows = page.data
    if rows is None:
        raise Malformed("success without data")
    wire.unique_keys(
        frame.payload,
        {
            b'"success"': 1,
            b'"data"': 1,
            b'"amount"': len(rows),
            b'"balance"': len(rows),
            b'"pending_balance"': len(rows),
            b'"event_type"': len(rows),
            b'"created_at"': len(rows),
        },
    )
    wire.amounts(text for row in rows for text in (row.amount, row.balance, row.pending_balance))
    statements: list[Statement] = []
    told: dict[str, int] = {}
    for row in _oldest_first(rows):
        time_ns = wire.epoch_ns(row.created_at)
        name = _name(row)
        told[name] = times = told.get(name, 0) + 1
        event = BalanceEventImported(
            source,
            f"{name}:{times}",
            ASSET,
            ASSET,
            row.event_type,
            row.amount,
            row.balance,
            row.pending_balance,
            time_ns,
        )
        statements.append((frame.account, event))
    return statements


def _name(row: _Row) -> str:
    """What the row says, by value: the venue writes one amount as `5000` here and as `5000.000000` there."""
    said = f"{_plain(row.amount)}:{_plain(row.balance)}:{_plain(row.pending_balance)}:{row.event_type}"
    return f"row:{row.created_at}:{sha256(f'{row.created_at}:{said}'.encode()).hexdigest()[:32]}"


def _plain(text: Amount) -> str:
    """One text for one value, however many zeros it was written with."""
    value = wire.decimal(text)
    return str(value.normalize(wire.EXACT)) if value else "0"


def _oldest_first(rows: list[_Row]) -> list[_Row]:
    """By time, and within one millisecond by the running balance where that gives an order."""
    if rows and rows[0].created_at >= rows[-1].created_at:
        rows = rows[::-1]  # the venue answers newest first: assumed of a page within one millisecond too
    created_at = attrgetter("created_at")
    groups = [list(group) for _, group in groupby(sorted(rows, key=created_at), created_at)]
    if len(groups) == len(rows):
        return [row for (row,) in groups]
    # The balance before the page. A group that ends where it began could begin anywhere: the next one tells.
    before = next((start for start in map(_start, groups) if start is not None), None)
    ordered: list[_Row] = []
    for group in groups:
        ordered += _chained(group, before) if len(group) > 1 else group
        before = _plain(ordered[-1].balance)
    return ordered


def _before(row: _Row) -> str:
    """The balance before the row, if its amount is what it changed."""
    before = wire.EXACT.subtract(wire.decimal(row.balance), wire.decimal(row.amount))
    return str(before.normalize(wire.EXACT)) if before else "0"


def _start(group: list[_Row]) -> str | None:
    """The balance the rows must start from if they are one chain in some order; None where several do."""
    leaving: dict[str, int] = {}
    for row in group:
        before, after = _before(row), _plain(row.balance)
        leaving[before] = leaving.get(before, 0) + 1
        leaving[after] = leaving.get(after, 0) - 1
    if len(leaving) == 1:
        return next(iter(leaving))
    return next((balance for balance, surplus in leaving.items() if surplus > 0), None)


def _chained(group: list[_Row], before: str | None) -> list[_Row]:
    """The rows in an order where each starts from the balance that the one before left, if there is one.

    A row leads from one balance to another. The order is a trail over every edge of that graph; Hierholzer's
    algorithm finds it in linear time, so there is no search that a hostile page could make long. It takes the
    edges in the page's order, so a page that chains stays as it is. Where there is no trail, the page's order
    stays too, and the break in the running balance shows.
    """
    edges: dict[str, list[_Row]] = {}
    for row in reversed(group):
        edges.setdefault(_before(row), []).append(row)
    start = _start(group) or before
    if start is None or start not in edges:
        start = _before(group[0])
    path: list[tuple[str, _Row | None]] = [(start, None)]
    trail: list[_Row] = []
    while path:
        balance, arrived_by = path[-1]
        if onward := edges.get(balance):
            row = onward.pop()
            path.append((_plain(row.balance), row))
        else:
            path.pop()
            if arrived_by is not None:
                trail.append(arrived_by)
    trail.reverse()
    return trail if len(trail) == len(group) and _is_chain(trail) else group


def _is_chain(rows: list[_Row]) -> bool:
    return all(_plain(row.balance) == _before(following) for row, following in pairwise(rows))
