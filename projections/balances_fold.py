"""What the venues last stated to be held: one event after another into rows.

Knows balance events; computes no posting. A statement older than what is known of an asset changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import Recorded
from ledger.events import (
    Amount,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    FillRecorded,
    OrderUpdated,
    SessionClosed,
    SessionOpened,
    is_answer,
    time_of,
)
from ledger.wire import EXACT, decimal
from projections.agreement import (
    NOTHING,
    TAIL_INSTANTS,
    Agreement,
    Known,
    Parts,
    came_before,
    is_older,
    is_stale,
    told_by,
)
from projections.newest import NEVER_NS, Front, Tail
from projections.statements import Full, Statements
from projections.tables import Database, Table
from projections.unread import Unread


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
    """Rows of a history state it: the other balances at which those of this instant may have ended (a JSON list), where
    neither the rows before them nor those after tell."""
    subscription: str | None = None
    sequence: int | None = None
    agreed: int | None = None
    """This is a full statement, and says what the statements before it had come to by this version."""
    last_full: int = 0
    """The last full statement that names it, also where it came late."""
    settled: int = 0
    """The last full statement that said what the statements before it had come to."""
    position: int = 0
    """Of the event that states what is held, in the ledger."""
    since: int = 0
    """The statement of this instant after which its rows of a history came."""
    received_ns: int = 0
    ordinal: int = 0
    """When the frame of the statement came, and its place in the conversation; 0 where a history states it."""


class StatementRow(Struct):
    """What is known of an account's full statements. `whole_*`: the newest of which no page is missing: when it began,
    the version that made it whole, and its subscription and first number where it is numbered."""

    account: str
    whole_ns: int = 0
    whole_version: int = 0
    whole_subscription: str | None = None
    restated_version: int = 0
    """The last such to arrive, also where it is not the newest."""
    numbered_position: int = 0
    numbered_sequence: int = 0
    """The last numbered event of that subscription."""
    answered_ns: int = 0
    answered_version: int = 0
    """The last answer to a question about the account's balances."""
    whole_sequence: int = 0


BEGAN_AGAIN: Final = ""
"""In place of a subscription: one in which the whole account was stated later, by its time, with no higher number. Then
numbers prove nothing."""
FRONTS_MAX: Final = 10_000
_SAYING_NOTHING: Final = frozenset((OrderUpdated, FillRecorded, SessionOpened, SessionClosed))
"""Events that say nothing of what is held."""


class BalancesFold:
    """Folds events into what the venues last stated to be held, and whether statements agree; for `Balances`, and for
    answers as of a moment."""

    def __init__(self, database: Database | None) -> None:
        self._rows = Table(database, "balances", BalanceRow, key=2)
        self._statements = Table(database, "balance_statements", StatementRow, key=1)
        self.agreement: Final = Agreement(database)
        self._pages = Statements(database, "balance_pages")
        self.unread: Final = Unread(database)
        self._fronts: Final[dict[str, Front]] = {}
        self.tables: Final[tuple[Table[Any], ...]] = (
            self._rows,
            self._statements,
            *self._pages.tables,
            *self.unread.tables,
            *self.agreement.tables,
        )

    def held(self, account: str | None) -> list[BalanceRow]:
        return [row for row in self._rows.rows(account) if row.held]

    def statement(self, account: str) -> StatementRow:
        return self._statements.get(account) or StatementRow(account)

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        front = self._fronts.pop(recorded.account, None)
        if front is not None:
            self._write(recorded.account, front)
        self._apply(recorded)

    def apply_all(self, run: Sequence[Recorded]) -> None:
        """Fold events: the same rows as one by one, once `settle` was called. What is usual waits until then."""
        account, front = "", None
        for recorded in run:
            if recorded.account != account or front is None:  # events of one account follow one another
                account = recorded.account
                front = self._fronts.get(account) or self._front(account)
            event = recorded.event
            source = event.source
            if source.late_ns is not None:
                pass
            elif isinstance(event, BalanceDelta):
                time_ns = source.time_ns
                if time_ns is None:
                    time_ns = source.received_ns
                if (
                    time_ns >= front.newest_ns
                    and time_ns > front.quiet_ns
                    and source.asked is None
                    and not event.removed
                    and (source.sequence is None or front.counts(recorded, source))
                ):
                    front.newest_ns = time_ns
                    stated = front.stated
                    for balance in event.balances:
                        stated[balance.asset_id] = recorded
                    continue
            elif isinstance(event, BalanceEventImported):
                if self._imports(recorded, event, front):
                    continue
            elif type(event) in _SAYING_NOTHING and (
                source.sequence is None or front.counts(recorded, source)
            ):
                continue
            self.apply(recorded)
            front = None

    def _imports(self, recorded: Recorded, event: BalanceEventImported, front: Front) -> bool:
        """Let a row of a history wait, if it is usual."""
        time_ns = time_of(event)
        usual = event.memo or (time_ns >= front.newest_ns and time_ns > front.explained_ns)
        if not usual or not front.counts(recorded, event.source):
            return False
        if event.memo:
            return True
        front.newest_ns, front.quiet_ns = time_ns, NEVER_NS
        tail = front.history.get(event.asset_id)
        if tail is None:
            tail = front.history[event.asset_id] = Tail()
        tail.add(recorded, TAIL_INSTANTS)
        return True

    def _front(self, account: str) -> Front:
        """How far an account is known."""
        statement = self.statement(account)
        newest_ns = statement.whole_ns
        numbers: dict[str | None, int] = {}
        for row in self._rows.of(account).values():
            if row is not None:
                newest_ns = max(newest_ns, row.time_ns)
                if row.sequence is not None:
                    numbers[row.subscription] = max(row.sequence, numbers.get(row.subscription, 0))
        upto_ns, has_history = self.agreement.reaches(account)
        front = self._fronts[account] = Front(
            newest_ns,
            upto_ns,
            NEVER_NS if has_history else upto_ns,
            self._pages.arriving(account),
            numbers,
            statement.whole_subscription,
            statement.numbered_sequence,
        )
        return front

    def settle(self) -> None:
        """Make rows of what waits."""
        for account, front in self._fronts.items():
            if front.waits():
                self._write(account, front)
        if len(self._fronts) > FRONTS_MAX:
            self._fronts.clear()

    def forget(self) -> None:
        """Forget what waits: its events will be folded again."""
        self._fronts.clear()

    def _write(self, account: str, front: Front) -> None:
        """Make rows of what waits of an account: no statement waits once a row of a history does."""
        rows, stated = self._rows.of(account), front.stated
        for recorded in {id(each): each for each in stated.values()}.values():
            event = recorded.event
            assert isinstance(event, BalanceDelta), event
            time_ns = time_of(event)
            for said in event.balances:
                if stated[said.asset_id] is recorded:
                    row = rows.get((account, said.asset_id))
                    full, settled = (0, 0) if row is None else (row.last_full, row.settled)
                    self._rows.put(_stated(recorded, said, _parts(said), time_ns, None, full, settled))
        front.stated = {}
        for asset_id, tail in front.history.items():
            self.agreement.imported_all(account, asset_id, tail)
            last = tail.events[-1]
            if isinstance(last.event, BalanceEventImported):
                self._stand(last, last.event, time_of(last.event))
        front.history = {}
        if front.position:
            statement = self.statement(account)
            statement.numbered_position, statement.numbered_sequence = front.position, front.number
            self._statements.put(statement)
            front.position = 0

    def _apply(self, recorded: Recorded) -> None:
        event = recorded.event
        full = self._pages.apply(recorded)
        if isinstance(event, BalanceDelta):
            self._delta(recorded, event)
        elif isinstance(event, BalanceSnapshot):
            for balance in event.balances:
                self._state(recorded, balance, time_of(event), full=True)
        elif isinstance(event, BalanceEventImported) and not event.memo:
            self._imported(recorded, event)
        if full is not None and not full.answer:
            self._complete(recorded, full)
        self.unread.apply(recorded)
        if event.source.sequence is not None:
            self._count(recorded, event.source.sequence)

    def _count(self, recorded: Recorded, number: int) -> None:
        """Note the last number of the subscription in which the whole account was stated."""
        statement = self.statement(recorded.account)
        counts = recorded.event.source.subscription == statement.whole_subscription
        if counts and number >= statement.numbered_sequence:
            statement.numbered_position, statement.numbered_sequence = recorded.position, number
            self._statements.put(statement)

    def row(self, account: str, asset_id: str) -> BalanceRow | None:
        """The balance of an asset as it was told last, held or not."""
        return self._rows.of(account).get((account, asset_id))

    def _delta(self, recorded: Recorded, event: BalanceDelta) -> None:
        account, time_ns = recorded.account, time_of(event)
        answer = is_answer(event)
        for balance in event.balances:
            self._state(recorded, balance, time_ns, full=answer)
        for asset_id in event.removed:
            self._remove(recorded, asset_id, time_ns)
        if answer:
            statement = self.statement(account)
            if time_ns > statement.answered_ns:
                statement.answered_ns, statement.answered_version = time_ns, recorded.version
                self._statements.put(statement)

    def _complete(self, recorded: Recorded, full: Full) -> None:
        """Every page is there. What no page names is not held from when the statement began, unless stated since; what
        was not held before is so from then on too, so that nothing late brings it back."""
        account, version = full.account, full.version
        statement = self.statement(account)
        statement.restated_version = version
        if full.since_ns >= statement.whole_ns:
            number = full.sequence
            again = (
                number is not None
                and full.subscription == statement.whole_subscription
                and number <= statement.whole_sequence
                and full.since_ns > statement.whole_ns
            )
            statement.whole_ns, statement.whole_version = full.since_ns, version
            statement.whole_subscription = (
                BEGAN_AGAIN if again else None if number is None else full.subscription
            )
            statement.whole_sequence = number or 0
            # Where a page came late, a frame that could not be read may have been of a later number.
            in_order = recorded.event.source.sequence == full.reached
            statement.numbered_position = recorded.position if in_order else full.since_position
            statement.numbered_sequence = full.reached or 0
        self._statements.put(statement)
        source = recorded.event.source
        place = (full.subscription, full.sequence, source.received_ns, source.ordinal)
        said = Known(NOTHING, version, full.since_ns, *place)
        for row in list(self._rows.of(account).values()):
            if row is None or row.asset_id in full.named:
                continue
            if _is_before(row, full) and not (row.time_ns == full.since_ns and came_before(recorded, row)):
                self._drop(recorded, row, said)
            elif is_older(said, row):
                self._late(recorded, row, said, full=True)

    def _drop(self, recorded: Recorded, row: BalanceRow, said: Known) -> None:
        if is_older(row, said):
            self.agreement.full(recorded, row.asset_id, said, _known(row), answer=False)
        self._gone(row, said)

    def _gone(self, row: BalanceRow, said: Known) -> None:
        row.held, row.version, row.time_ns, row.agreed, row.ends = (
            False,
            said.version,
            said.time_ns,
            None,
            None,
        )
        row.subscription, row.sequence = said.subscription, said.sequence
        row.received_ns, row.ordinal = said.received_ns, said.ordinal
        self._rows.put(row)

    def _late(self, recorded: Recorded, row: BalanceRow, said: Known, *, full: bool) -> None:
        """A statement came that is older than what is known: a full statement after it may agree with it, or not."""
        judged = self.agreement.late(recorded, row.asset_id, said, full=full)
        if judged is None:
            return
        if judged.version == row.version:
            row.agreed = judged.agreed
        if judged.agreed is not None:
            row.settled = max(row.settled, judged.version)
        self._rows.put(row)

    def _state(self, recorded: Recorded, said: Balance, time_ns: int, *, full: bool) -> None:
        account, source, asset_id = recorded.account, recorded.event.source, said.asset_id
        row = self.row(account, asset_id)
        parts = _parts(said)
        place = (source.subscription, source.sequence, source.received_ns, source.ordinal)
        now = Known(parts, recorded.version, time_ns, *place)
        if row is None:
            row = self._unheld(recorded, said, time_ns)
        if row is not None and is_stale(recorded, now, row):
            if full:
                row.last_full = recorded.version
                self._rows.put(row)
            self._late(recorded, row, now, full=full)
            self.agreement.said(recorded, asset_id, now, full=full)
            return
        agreed = self.agreement.said(recorded, asset_id, now, full=full)
        settled = 0 if row is None else row.settled
        if full and (
            row is None or is_older(row, now) or (source.asked is not None and row.time_ns == time_ns)
        ):
            known = self._unnamed(recorded, time_ns) if row is None else _known(row)
            agreed = (
                self.agreement.full(recorded, asset_id, now, known, answer=source.asked is not None) or agreed
            )
        if agreed is not None:
            settled = recorded.version
        last_full = recorded.version if full else 0 if row is None else row.last_full
        self._rows.put(_stated(recorded, said, parts, time_ns, agreed, last_full, settled))

    def _unheld(self, recorded: Recorded, said: Balance, time_ns: int) -> BalanceRow | None:
        """An asset of which nothing was known: not held where a whole statement, newer than this one, is without it."""
        account, asset_id = recorded.account, said.asset_id
        statement = self.statement(account)
        if time_ns >= statement.whole_ns:
            return None
        whole = Known(NOTHING, statement.whole_version, statement.whole_ns)
        self.agreement.full(recorded, asset_id, whole, None, answer=False)
        row = BalanceRow(account, asset_id, said.asset, None, None, None, None, None, None, False, 0, 0)
        self._gone(row, whole)
        return row

    def _unnamed(self, recorded: Recorded, time_ns: int) -> Known | None:
        """That an asset was not named by the full statement before; None where there was none."""
        statement = self.statement(recorded.account)
        if 0 < statement.whole_ns < time_ns:
            return Known(NOTHING, statement.whole_version, statement.whole_ns)
        if is_answer(recorded.event) and 0 < statement.answered_ns < time_ns:
            return Known(NOTHING, statement.answered_version, statement.answered_ns)
        return None

    def _remove(self, recorded: Recorded, asset_id: str, time_ns: int) -> None:
        account, source = recorded.account, recorded.event.source
        place = (source.subscription, source.sequence, source.received_ns, source.ordinal)
        said = Known(NOTHING, recorded.version, time_ns, *place)
        row = self.row(account, asset_id)
        if row is None:
            if time_ns < self.statement(account).whole_ns:
                return
            row = BalanceRow(account, asset_id, asset_id, None, None, None, None, None, None, False, 0, 0)
        elif is_stale(recorded, said, row):
            self._late(recorded, row, said, full=False)
            self.agreement.said(recorded, asset_id, said, full=False)
            return
        self.agreement.said(recorded, asset_id, said, full=False)
        self._gone(row, said)

    def _imported(self, recorded: Recorded, event: BalanceEventImported) -> None:
        account, time_ns = recorded.account, time_of(event)
        self.agreement.imported(recorded, event, time_ns)
        row = self.row(account, event.asset_id)
        if time_ns >= self.statement(account).whole_ns and (row is None or time_ns >= row.time_ns):
            self._stand(recorded, event, time_ns)
        elif row is not None and row.ends is not None:
            self._stand(recorded, event, row.time_ns)  # what is before an instant may tell where it ends

    def _stand(self, recorded: Recorded, event: BalanceEventImported, time_ns: int) -> None:
        """What is held after the rows of a history up to an instant, which nothing known is newer than."""
        account, since, stated = recorded.account, 0, None
        row = self.row(account, event.asset_id)
        at = row if row is not None and row.time_ns == time_ns else None
        if at is not None:
            since = at.since
            if at.ends is None:
                since, stated = at.version, at.total if at.held else "0"
        stands = self.agreement.stands(account, event.asset_id, time_ns, since, stated)
        if stands is None and time_ns != time_of(event):
            return
        end, others = stands or (told_by(recorded, event), [])
        if end.version <= since and at is not None and at.ends is None:
            return  # the history comes to what was stated
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
                end.version,
                time_ns,
                msgspec.json.encode(others).decode(),
                settled=0 if row is None else row.settled,
                position=end.position,
                since=since,
            )
        )


def _parts(said: Balance) -> Parts:
    return (_total(said), said.available, said.locked, said.staked, said.pending)


def _stated(
    recorded: Recorded,
    said: Balance,
    parts: Parts,
    time_ns: int,
    agreed: int | None,
    full: int,
    settled: int,
) -> BalanceRow:
    """What is held by a statement."""
    source = recorded.event.source
    return BalanceRow(
        recorded.account,
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
        full,
        settled,
        recorded.position,
        0,
        source.received_ns,
        source.ordinal,
    )


def _known(row: BalanceRow) -> Known:
    """What a row says is held; nothing, where it is not."""
    parts = (row.total, row.available, row.locked, row.staked, row.pending) if row.held else NOTHING
    place = (row.subscription, row.sequence, row.received_ns, row.ordinal)
    return Known(parts, row.version, row.time_ns, *place)


def _is_before(row: BalanceRow, full: Full) -> bool:
    """Whether a row was stated before a whole statement began: by sequence or time as above, then by arrival."""
    ours, first = row.sequence, full.sequence
    if ours is not None and first is not None and row.subscription == full.subscription:
        return (ours, row.version) < (first, full.since_version)
    return (row.time_ns, row.version) < (full.since_ns, full.since_version)


def _total(said: Balance) -> Amount | None:
    if said.total is not None or said.available is None or said.locked is None:
        return said.total
    return format(EXACT.add(decimal(said.available), decimal(said.locked)), "f")
