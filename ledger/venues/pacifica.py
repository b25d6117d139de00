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
from itertools import groupby
from operator import attrgetter
from typing import Annotated, Final

from msgspec import Meta, Struct, field
from msgspec.json import Decoder

from ledger import wire
from ledger.chain import in_chain_order
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
    pending: str = field(name="pending_balance")
    # Open: the venue adds causes unannounced.
    cause: Annotated[str, Meta(min_length=1, max_length=100)] = field(name="event_type")
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
    wire.amounts(text for row in rows for text in (row.amount, row.balance, row.pending))
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
            row.cause,
            row.amount,
            row.balance,
            row.pending,
            time_ns,
        )
        statements.append((frame.account, event))
    return statements


def _name(row: _Row) -> str:
    """What the row says, by value: the venue writes one amount as `5000` here and as `5000.000000` there."""
    said = f"{_plain(row.amount)}:{_plain(row.balance)}:{_plain(row.pending)}:{row.cause}"
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
    ordered: list[_Row] = []
    for group, later in zip(groups, [*groups[1:], []], strict=True):
        ordered += in_chain_order(group, ordered[-1] if ordered else None, later)
    return ordered
