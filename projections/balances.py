"""Balances as the venues last stated them: now, and as of any time or version; each with how complete it is.

Knows balance events; computes no posting. A statement older than what is known of an asset changes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from heapq import merge
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from ledger import Ledger, Recorded
from ledger.events import (
    Amount,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    FrameQuarantined,
    Source,
    is_answer,
    known_ns,
    time_of,
)
from ledger.wire import EXACT, decimal, parse_time
from projections.agreement import ENDS_MAX, NOTHING, Agreement, BreakRow, End, Known, last_of_instant
from projections.completeness import UNPROVABLE, Evidence, verdict
from projections.gaps import Gap, Gaps, GapsFold
from projections.statements import Statements
from projections.subscription import Projection, Subscription, catch_up
from projections.tables import Database, Table


class BalanceRow(Struct):
    """One asset of one account, amounts as the venue's text. `held` False: the venue no longer names it."""

    account: str
    asset_id: str
    asset: str
    total: Amount | None
    available: Amount | None
    locked: Amount | None
    staked: Amount | None
    pending: Amount | None
    tradable: bool | None
    held: bool
    version: int
    time_ns: int
    ends: str | None = None
    """Where the history rows of this instant begin and end (JSON of `End`)."""
    subscription: str | None = None
    sequence: int | None = None
    agreed: int | None = None
    """This is a full statement, and says what the statements before it had come to by this version."""
    full: int = 0
    """The last full statement that names it, also where it came late."""
    torn_version: int = 0
    torn_ns: int = 0
    """Of what was known before a whole statement without it, pages of which are missing: that says nothing of it."""


class HeldRow(BalanceRow):
    """A balance as it is shown: with how complete it is (`projections.completeness`), and why, in one sentence."""

    completeness: str = UNPROVABLE
    reason: str = ""


class StatementRow(Struct):
    """What is known of an account's whole statements: when the last complete one began, and of one still arriving in
    pages what it is, where it began, and the assets it named so far (a JSON list)."""

    account: str
    complete_ns: int
    part: str | None = None
    since_ns: int = 0
    since_version: int = 0
    named: str | None = None
    subscription: str | None = None
    sequence: int | None = None
    whole_ns: int = 0
    whole_version: int = 0
    whole_subscription: str | None = None
    """The newest of which no page is missing: when it began, its last page, and its subscription where it is
    numbered."""
    restated_version: int = 0
    """The last such to arrive, also where it is not the newest."""
    numbered_version: int = 0
    numbered_sequence: int = 0
    """The last numbered event of that subscription."""
    answered_ns: int = 0
    answered_version: int = 0
    """The last answer to a question about the account's balances."""
    unread_version: int = 0
    """The last frame without a number that could not be read."""


A = TypeVar("A", Gap, BreakRow)
ACCOUNTS_KEPT_MAX: Final = 64
"""Accounts of which the gaps are remembered until something is recorded."""

_names: Final = msgspec.json.Decoder(list[str])
_ends: Final = msgspec.json.Decoder(list[End])


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


class Balances:
    """Current balances: `balances["bitopro:main"]["ADA"].available`. Catches up when read.

    Assets are found by their id, and by the venue's label where it is unambiguous.
    """

    name = "balances"
    version = 2

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self._ledger = ledger
        database = ledger if database is None else database
        self.fold: Final = _Fold(database)
        self.gaps: Final = Gaps(ledger, database)
        self._known_at: tuple[int, ...] = ()
        self._known_gaps: Final[dict[str | None, Sequence[Gap]]] = {}
        self.tables: Final = self.fold.tables
        self.apply: Final = self.fold.apply
        self.subscription: Final = Subscription(ledger, self, database)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """This one, and those whose rows its verdicts rest on: they are caught up together."""
        return (self, *self.gaps.projections)

    def __getitem__(self, account: str) -> dict[str, Holding]:
        return _holdings(self.rows(account))

    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held, by account and asset id."""
        catch_up(self._ledger, self.projections)
        return _judged(self.fold, self._gaps_of(account), account)

    def _gaps_of(self, account: str | None) -> Sequence[Gap]:
        """The gaps, worked out once for as long as nothing is recorded."""
        place = tuple(each.subscription.position for each in self.projections)
        if place != self._known_at:
            self._known_at = place
            self._known_gaps.clear()
        if account not in self._known_gaps:
            if len(self._known_gaps) == ACCOUNTS_KEPT_MAX:
                self._known_gaps.clear()
            self._known_gaps[account] = self.gaps.folded(account)
        return self._known_gaps[account]

    def at(
        self,
        moment: int | str | datetime,
        account: str | None = None,
        *,
        known_at: str | datetime | None = None,
    ) -> AsOf:
        """Balances as of a version (int) of each account, or as of a time (ISO-8601 text or datetime, UTC): what the
        statements up to and including it say. With `known_at`, only what we knew by that time counts. Raises Malformed
        where the text is no time."""
        version, until_ns = (moment, None) if isinstance(moment, int) else (None, _ns(moment))
        known_until_ns = None if known_at is None else _ns(known_at)
        fold, gaps, later = _Fold(None), GapsFold(), GapsFold()
        for recorded in self._events(account):
            event = recorded.event
            if version is not None and recorded.version > version and account in (None, recorded.account):
                if account is None:
                    continue
                break
            if known_until_ns is None or known_ns(event) <= known_until_ns:
                if until_ns is not None:
                    later.apply(recorded)
                if until_ns is None or time_of(event) <= until_ns:
                    gaps.apply(recorded)
                    if account in (None, recorded.account):
                        fold.apply(recorded)
            if version == recorded.version and account == recorded.account:
                break  # what the logins it was heard through did after it does not count
        return AsOf(fold, gaps, later, until_ns)

    def _events(self, account: str | None) -> Iterator[Recorded]:
        """The events of an account, and of the logins it was heard through: they tell when nobody was listening."""
        if account is None:
            return self._ledger.replay()
        catch_up(self._ledger, self.gaps.projections)
        names = {account, *self.gaps.logins(account)}
        return merge(*map(self._ledger.replay, sorted(names)), key=attrgetter("position"))


class AsOf:
    """Balances as of a moment; indexed like Balances."""

    def __init__(self, fold: _Fold, gaps: GapsFold, later: GapsFold, moment_ns: int | None) -> None:
        self._fold = fold
        self._gaps = gaps
        self._later = later
        self._moment_ns = moment_ns

    def __getitem__(self, account: str) -> dict[str, Holding]:
        return _holdings(self.rows(account))

    def rows(self, account: str | None = None) -> list[HeldRow]:
        """The balances held at that moment, by account and asset id."""
        gaps, later = self._gaps.rows(account), self._later.rows(account)
        return _judged(self._fold, gaps, account, self._moment_ns, later)


def _by_account(rows: Iterable[A]) -> defaultdict[str, list[A]]:
    of: defaultdict[str, list[A]] = defaultdict(list)
    for row in rows:
        of[row.account].append(row)
    return of


def _judged(
    fold: _Fold,
    gaps: Sequence[Gap],
    account: str | None,
    moment_ns: int | None = None,
    later: Sequence[Gap] = (),
) -> list[HeldRow]:
    """The rows held, each with its verdict; gaps and breaks are looked through once, not row by row."""
    ours, ever = _by_account(gaps), _by_account(later)
    breaks = _by_account(row for row in fold.agreement.breaks.rows(account) if row.closed_by is None)
    evidence: dict[str, Evidence] = {}
    found: list[HeldRow] = []
    for row in fold.held(account):
        name = row.account
        if name not in evidence:
            evidence[name] = Evidence(fold.statement(name), ours[name], breaks[name], moment_ns, ever[name])
        word, reason = verdict(row, fold.agreement.history(name, row.asset_id), evidence[name])
        found.append(HeldRow(**asdict(row), completeness=word, reason=reason))
    return found


class _Fold:
    def __init__(self, database: Database | None) -> None:
        self._rows = Table(database, "balances", BalanceRow, key=2)
        self._statements = Table(database, "balance_statements", StatementRow, key=1)
        self.agreement: Final = Agreement(database)
        self._pages = Statements(database, "balance_pages")
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._rows,
            self._statements,
            *self._pages.tables,
            *self.agreement.tables,
        )

    def held(self, account: str | None) -> list[BalanceRow]:
        return [row for row in self._rows.rows(account) if row.held]

    def statement(self, account: str) -> StatementRow:
        return self._statements.get(account) or StatementRow(account, 0)

    def apply(self, recorded: Recorded) -> None:
        event = recorded.event
        full = self._pages.apply(recorded)
        if isinstance(event, BalanceDelta):
            self._delta(recorded, event)
        elif isinstance(event, BalanceSnapshot):
            self._snapshot(recorded, event, whole=full is not None)
        elif isinstance(event, BalanceEventImported) and not event.memo:
            self._imported(recorded, event)
        self._count(recorded)

    def _count(self, recorded: Recorded) -> None:
        """Note what a verdict needs to know: numbers that come, frames that cannot be read."""
        event, source = recorded.event, recorded.event.source
        unread = isinstance(event, FrameQuarantined) and source.sequence is None
        if not unread and source.sequence is None:
            return
        statement = self.statement(recorded.account)
        if unread:
            statement.unread_version = recorded.version
        elif source.subscription != statement.whole_subscription:
            return
        else:
            statement.numbered_version = recorded.version
            statement.numbered_sequence = max(source.sequence or 0, statement.numbered_sequence)
        self._statements.put(statement)

    def _delta(self, recorded: Recorded, event: BalanceDelta) -> None:
        account, time_ns = recorded.account, time_of(event)
        statement = self.statement(account)
        for balance in event.balances:
            self._state(recorded, balance, time_ns, statement)
        for asset_id in event.removed:
            self._remove(recorded, asset_id, time_ns)
        if is_answer(event) and time_ns > statement.answered_ns:
            statement.answered_ns, statement.answered_version = time_ns, recorded.version
            self._statements.put(statement)

    def _snapshot(self, recorded: Recorded, event: BalanceSnapshot, *, whole: bool) -> None:
        account, time_ns = recorded.account, time_of(event)
        statement = self.statement(account)
        for balance in event.balances:
            self._state(recorded, balance, time_ns, statement)
        source = event.source
        again = event.begins and source.sequence is not None  # unnumbered, every page may say that it begins
        if event.part is None or statement.part != event.part or again:
            if not event.begins:
                return  # a page of a statement whose beginning is not here: it says nothing of absent assets
            # Another statement: one that was still arriving is overtaken.
            statement.part, statement.named = event.part, None
            statement.since_ns, statement.since_version = time_ns, recorded.version
            statement.subscription, statement.sequence = source.subscription, source.sequence
        statement.since_ns = min(statement.since_ns, time_ns)
        named = {*_names.decode(statement.named or "[]"), *(balance.asset_id for balance in event.balances)}
        statement.named = msgspec.json.encode(sorted(named)).decode() if event.more else None
        self._statements.put(statement)
        if not event.more:
            self._complete(recorded, statement, named, whole=whole)

    def _complete(self, recorded: Recorded, statement: StatementRow, named: set[str], *, whole: bool) -> None:
        """Every page is there. What no page names is not held from when the statement began, unless stated since; what
        was not held before is so from then on too, so that nothing late brings it back."""
        version = recorded.version
        statement.part = None
        statement.complete_ns = max(statement.complete_ns, statement.since_ns)
        if whole:
            statement.restated_version = version
            if statement.since_ns >= statement.whole_ns:
                statement.whole_ns, statement.whole_version = statement.since_ns, version
                numbered = statement.sequence is not None
                if not numbered or statement.whole_subscription != statement.subscription:
                    statement.numbered_sequence = 0
                statement.whole_subscription = statement.subscription if numbered else None
        for row in list(self._rows.of(statement.account).values()):
            if row is not None and row.asset_id not in named and _is_before(row, statement):
                self._drop(recorded, row, statement, whole=whole)

    def _drop(self, recorded: Recorded, row: BalanceRow, statement: StatementRow, *, whole: bool) -> None:
        since_ns = statement.since_ns
        if not whole:
            if row.held:
                row.torn_version, row.torn_ns = row.version, row.time_ns
        else:
            known = _known(row)
            if _is_older(row, statement.subscription, statement.sequence, since_ns):
                self.agreement.stated(recorded, row.asset_id, NOTHING, since_ns, known, full=True)
            row.torn_version = row.torn_ns = 0
        row.held, row.version, row.time_ns, row.agreed = False, recorded.version, since_ns, None
        row.subscription, row.sequence = statement.subscription, statement.sequence
        self._rows.put(row)

    def _complete_ns(self, account: str) -> int:
        statement = self._statements.get(account)
        return 0 if statement is None else statement.complete_ns

    def _state(self, recorded: Recorded, said: Balance, time_ns: int, statement: StatementRow) -> None:
        account, source = recorded.account, recorded.event.source
        row = self._rows.of(account).get((account, said.asset_id))
        parts = (_total(said), said.available, said.locked, said.staked, said.pending)
        late = time_ns < statement.complete_ns if row is None else _is_late(source, time_ns, row)
        full = isinstance(recorded.event, BalanceSnapshot) or source.asked is not None
        known = None
        if full and row is None:
            known = _unnamed(recorded, statement, time_ns)
        elif row is not None and full and _is_older(row, source.subscription, source.sequence, time_ns):
            known = _known(row)
        agreed = self.agreement.stated(recorded, said.asset_id, parts, time_ns, known, full=full)
        named = recorded.version if full else 0 if row is None else row.full
        if late:
            if row is not None and full:
                row.full = named
                self._rows.put(row)
            return
        self._rows.put(
            BalanceRow(
                account,
                said.asset_id,
                said.asset,
                *parts,
                said.tradable,
                True,
                recorded.version,
                time_ns,
                None,
                source.subscription,
                source.sequence,
                agreed,
                named,
            )
        )

    def _remove(self, recorded: Recorded, asset_id: str, time_ns: int) -> None:
        account, source = recorded.account, recorded.event.source
        self.agreement.stated(recorded, asset_id, NOTHING, time_ns, None, full=False)
        row = self._rows.of(account).get((account, asset_id))
        if row is None:
            if time_ns < self._complete_ns(account):
                return
            row = BalanceRow(account, asset_id, asset_id, None, None, None, None, None, None, False, 0, 0)
        elif _is_late(source, time_ns, row):
            return
        row.held, row.version, row.time_ns, row.agreed = False, recorded.version, time_ns, None
        row.subscription, row.sequence = source.subscription, source.sequence
        row.torn_version = row.torn_ns = 0
        self._rows.put(row)

    def _imported(self, recorded: Recorded, event: BalanceEventImported) -> None:
        account, time_ns = recorded.account, time_of(event)
        self.agreement.imported(recorded, event, time_ns)
        row = self._rows.of(account).get((account, event.asset_id))
        if time_ns < self._complete_ns(account) or (row is not None and time_ns < row.time_ns):
            return
        same = row is not None and row.time_ns == time_ns and row.ends is not None
        ends = _ends.decode(row.ends) if row is not None and row.ends is not None and same else []
        end = last_of_instant(ends, event)
        version = recorded.version
        if row is not None and same and end.balance == row.total and end.balance != event.balance:
            version = row.version  # what is known ends later than this row
        self._rows.put(
            BalanceRow(
                account,
                event.asset_id,
                event.asset,
                end.balance,
                None,
                None,
                None,
                end.pending,
                None,
                True,
                version,
                time_ns,
                msgspec.json.encode(ends[-ENDS_MAX:]).decode(),
            )
        )


def _known(row: BalanceRow) -> Known:
    """What a row says is held; nothing, where it is not."""
    if row.torn_version:
        parts = (row.total, row.available, row.locked, row.staked, row.pending)
        return Known(parts, row.torn_version, row.torn_ns)
    parts = (row.total, row.available, row.locked, row.staked, row.pending) if row.held else NOTHING
    return Known(parts, row.version, row.time_ns)


def _unnamed(recorded: Recorded, statement: StatementRow, time_ns: int) -> Known | None:
    """That an asset was not named by the full statement before; None where there was none."""
    if 0 < statement.whole_ns < time_ns:
        return Known(NOTHING, statement.whole_version, statement.whole_ns)
    if is_answer(recorded.event) and 0 < statement.answered_ns < time_ns:
        return Known(NOTHING, statement.answered_version, statement.answered_ns)
    return None


def _is_older(row: BalanceRow, subscription: str | None, sequence: int | None, time_ns: int) -> bool:
    """Whether a row was stated before a statement, not at the same instant."""
    if sequence is not None and row.sequence is not None and subscription == row.subscription:
        return row.sequence < sequence
    return row.time_ns < time_ns


def _is_late(source: Source, time_ns: int, row: BalanceRow) -> bool:
    """Whether a statement is older than what is known: by the venue's sequence where both have one of the same
    subscription, else by time. Of one instant, the last to arrive counts."""
    if source.sequence is not None and row.sequence is not None and source.subscription == row.subscription:
        return source.sequence < row.sequence
    return time_ns < row.time_ns


def _is_before(row: BalanceRow, statement: StatementRow) -> bool:
    """Whether a row was stated before a whole statement began: by sequence or time as above, then by arrival."""
    ours, first = row.sequence, statement.sequence
    if ours is not None and first is not None and row.subscription == statement.subscription:
        return (ours, row.version) < (first, statement.since_version)
    return (row.time_ns, row.version) < (statement.since_ns, statement.since_version)


def _total(said: Balance) -> Amount | None:
    if said.total is not None or said.available is None or said.locked is None:
        return said.total
    return format(EXACT.add(decimal(said.available), decimal(said.locked)), "f")


def _holdings(rows: Sequence[HeldRow]) -> dict[str, Holding]:
    found = {row.asset_id: _holding(row) for row in rows}
    labels = Counter(row.asset for row in rows)
    for row in rows:
        if labels[row.asset] == 1:
            found.setdefault(row.asset, found[row.asset_id])
    return found


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


def _ns(moment: str | datetime) -> int:
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
    return parse_time(moment)
