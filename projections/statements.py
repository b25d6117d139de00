"""When a venue has stated a whole account: one snapshot, every page of one, or the answer to a question.

Knows pages and their numbers; knows no balance.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from ledger import Recorded
from ledger.events import BalanceDelta, BalanceSnapshot, is_answer, time_of
from projections.tables import Database, Table

RANGES_MAX: Final = 32
"""Holes in one statement that are remembered; with more it never becomes whole."""

NEVER: Final = (-1, -1)
"""No number: a hole that nothing fills."""

_ranges: Final = msgspec.json.Decoder(list[tuple[int, int]])
_strings: Final = msgspec.json.Decoder(list[str])


class PagesRow(Struct):
    """A statement of an account in pages, of which one is to come. `place` is the subscription where its pages are
    numbered, else its part. `reached`: the highest number of the subscription since it began; `missing`: those below
    that did not come (a JSON list of ranges); `last`: that of its last page, once that is there."""

    account: str
    place: str
    part: str | None = None
    since_ns: int = 0
    since_version: int = 0
    subscription: str | None = None
    sequence: int | None = None
    reached: int | None = None
    missing: str = "[]"
    last: int | None = None
    begun: bool = False
    """Whether the first page is there."""
    named: str = "[]"
    """The assets that its pages named so far (a JSON list)."""
    since_position: int = 0


class Full(Struct, frozen=True):
    """A full statement: where it began (`since_*`, and the number of its first page where it has one), the version of
    what made it whole, the assets it names, and the highest number of its subscription by then. `answer`: it is full
    for the assets it names only (`ledger.events.is_answer`). `since_position`: in the ledger."""

    account: str
    version: int
    since_ns: int
    since_version: int
    subscription: str | None
    sequence: int | None
    answer: bool
    named: frozenset[str]
    reached: int | None = None
    since_position: int = 0


class Statements:
    """Judges, event by event, whether a full statement is there. `name` is that of its table."""

    def __init__(self, database: Database | None, name: str) -> None:
        self._rows: Final = Table(database, name, PagesRow, key=2)
        self.tables: Final = (self._rows,)

    def arriving(self, account: str) -> bool:
        """Whether a statement of an account is under way."""
        return any(row is not None for row in self._rows.of(account).values())

    def apply(self, recorded: Recorded) -> Full | None:
        """Fold one event; the statement that it makes full, if it does."""
        event = recorded.event
        if type(event) is BalanceSnapshot:
            return self._page(recorded, event)
        source = event.source
        row = None if source.sequence is None else self._count(recorded)
        if source.asked is None or not is_answer(event):
            return None if row is None else self._full(recorded, row)
        assert isinstance(event, BalanceDelta), event
        return Full(
            recorded.account,
            recorded.version,
            time_of(event),
            recorded.version,
            source.subscription,
            source.sequence,
            True,
            _names(event),
            since_position=recorded.position,
        )

    def _count(self, recorded: Recorded) -> PagesRow | None:
        """A number of a subscription in which a statement is arriving, and that statement."""
        source = recorded.event.source
        number = source.sequence
        row = None if source.subscription is None else self._rows.get(recorded.account, source.subscription)
        if row is None or row.reached is None or number is None:
            return None
        if number > row.reached:
            if number > row.reached + 1:
                missing = [*_ranges.decode(row.missing), (row.reached + 1, number - 1)]
                if len(missing) > RANGES_MAX:
                    missing = [NEVER, *missing[-RANGES_MAX:]]
                row.missing = msgspec.json.encode(missing).decode()
            row.reached = number
            self._rows.put(row)
        elif row.missing != "[]":
            row.missing = msgspec.json.encode(_without(_ranges.decode(row.missing), number)).decode()
            self._rows.put(row)
        return row

    def _page(self, recorded: Recorded, event: BalanceSnapshot) -> Full | None:
        source = event.source
        row = None if source.subscription is None else self._rows.get(recorded.account, source.subscription)
        reached = 0 if row is None else row.reached or 0
        self._count(recorded)
        row = self._pages(recorded, event, reached)
        if row is None:
            return None
        row.since_ns = min(row.since_ns, time_of(event))
        if not event.more:
            row.last = max(row.last or 0, event.source.sequence or 0)
        row.named = _text(_named(row).union(_names(event)))
        self._rows.put(row)
        return self._full(recorded, row)

    def _full(self, recorded: Recorded, row: PagesRow) -> Full | None:
        if not _is_whole(row):
            return None
        self._rows.drop(row)
        return Full(
            recorded.account,
            recorded.version,
            row.since_ns,
            row.since_version,
            row.subscription,
            row.sequence,
            False,
            _named(row),
            row.reached,
            row.since_position,
        )

    def _pages(self, recorded: Recorded, event: BalanceSnapshot, reached: int) -> PagesRow | None:
        """The statement that a page is of; None where its beginning is not here, and cannot come late either.
        `reached`: the highest number of its subscription before it."""
        source = event.source
        number = source.sequence if source.subscription is not None else None
        place = source.subscription if number is not None else event.part
        row = self._rows.get(recorded.account, place or "")
        if row is not None and event.part is not None and row.part == event.part:
            if not event.begins or source.sequence is None:  # unnumbered, every page may say that it begins
                return row
            if number is not None and number <= reached:
                if row.begun:
                    return None  # an older statement
                ranges = [each for each in _ranges.decode(row.missing) if each[0] > number or each == NEVER]
                row.begun, row.sequence, row.missing = True, number, msgspec.json.encode(ranges).decode()
                return row
        if not event.begins and number is None:
            return None
        missing = [] if event.begins or number is None or number < 2 else [(1, number - 1)]
        return PagesRow(
            recorded.account,
            place or "",
            event.part,
            time_of(event),
            recorded.version,
            source.subscription,
            source.sequence,
            number,
            msgspec.json.encode(missing).decode(),
            None,
            event.begins,
            since_position=recorded.position,
        )


def _named(row: PagesRow) -> frozenset[str]:
    return frozenset(_strings.decode(row.named))


def _text(named: frozenset[str]) -> str:
    return msgspec.json.encode(sorted(named)).decode()


def _names(event: BalanceSnapshot | BalanceDelta) -> frozenset[str]:
    return frozenset(balance.asset_id for balance in event.balances)


def _is_whole(row: PagesRow) -> bool:
    """Whether every page up to the last is there, as far as numbers tell."""
    last = row.last
    return last is not None and row.begun and all(first > last for first, _ in _ranges.decode(row.missing))


def _without(ranges: list[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    left: list[tuple[int, int]] = []
    for first, last in ranges:
        if first <= number <= last:
            left += [each for each in ((first, number - 1), (number + 1, last)) if each[0] <= each[1]]
        else:
            left.append((first, last))
    return left
