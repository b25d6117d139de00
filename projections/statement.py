"""Account statements: what was held at one time, every movement since, and what was held at another.

Knows balance events, fills and balances as of a time; computes the differences between what was stated, and repairs
nothing: what neither the venue's history nor a fill explains is called unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain, groupby
from typing import TypeAlias

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.chain import in_course, links
from ledger.events import (
    Amount,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    FillRecorded,
    known_ns,
    time_of,
)
from ledger.wire import EXACT, decimal, moment_ns, time_text
from projections.balances import Balances
from projections.causes import UNEXPLAINED, Effect, effects, meant, told
from projections.course import Course, Standing, standing
from projections.holdings import HeldRow
from projections.suspect import Moved, Trouble, explains, trouble

BalanceEvent: TypeAlias = BalanceSnapshot | BalanceDelta | BalanceEventImported


class Movement(Struct, frozen=True):
    """A change of what is held of an asset (`amount`, signed), what is held then, and the cause: the venue's word of a
    history row, `fills` and their ids, or `unexplained`; `reason` says why. The event that told it, by its version."""

    time_ns: int
    asset_id: str
    asset: str
    amount: Amount
    balance: Amount
    cause: str
    reason: str | None
    version: int
    venue_time_ns: int | None
    received_ns: int
    late: bool
    """It came when something newer had been stated of the asset, or was decoded long after it came."""
    session: str
    ordinal: int
    suspect: tuple[str, ...] = ()
    """The gaps and breaks that touch it."""


class AssetStatement(Struct, frozen=True):
    """One asset: what was held, what moved, what is held; zero where it is not held (`opening_held`, `closing_held`),
    else with how complete that is known, and why. `difference` is what opening and movements lack of closing: always
    zero, and `adds_up` says that it was checked."""

    asset_id: str
    asset: str
    opening: Amount
    opening_held: bool
    opening_completeness: str | None
    opening_reason: str | None
    movements: tuple[Movement, ...]
    closing: Amount
    closing_held: bool
    closing_completeness: str | None
    closing_reason: str | None
    adds_up: bool
    difference: Amount


class Statement(Struct, frozen=True):
    """Of one account: every movement after `start_ns`, up to and including `end_ns`, as known at `known_at_ns` (None:
    as known now). `wrong` says what is wrong with it, in sentences."""

    account: str
    start_ns: int
    end_ns: int
    known_at_ns: int | None
    adds_up: bool
    assets: tuple[AssetStatement, ...]
    wrong: tuple[str, ...]


class _Heard(Struct):
    """What one pass over an account's events tells: those of the period, and what is needed to say what they mean."""

    course: Course
    period: list[Recorded]
    labels: dict[str, str]
    fills: list[Recorded]
    late: set[tuple[int, str]]
    trouble: Trouble
    first_ns: int | None = None
    """The time of the first statement of balances."""


class _End(Struct, frozen=True):
    """What is held before or after rows of a history, as if one more row had left it so."""

    balance: Amount
    pending: Amount | None
    cause: str = ""
    amount: Amount = "0"


def statement(
    ledger: Ledger,
    account: str,
    start: str | datetime,
    end: str | datetime,
    *,
    known_at: str | datetime | None = None,
    asset: str | None = None,
) -> Statement:
    """The statement of an account between two times (ISO-8601 text or datetime, UTC); of one asset, where an id or a
    label is named. Raises Malformed where a text is no time, ValueError where the start is not before the end.

    Opening and closing are `Balances.at` of the two times; the movements are found on the way between, event by event;
    that the one and the other come to the same is checked.
    """
    start_ns, end_ns = moment_ns(start), moment_ns(end)
    known_at_ns = None if known_at is None else moment_ns(known_at)
    if start_ns >= end_ns:
        raise ValueError("a statement begins before it ends")
    heard = _listen(ledger, account, start_ns, end_ns, known_at_ns)
    opening = _held(ledger, account, start_ns, known_at_ns)
    closing = _held(ledger, account, end_ns, known_at_ns)
    movements = _movements(heard)
    named = sorted(heard.labels if asset is None else meant(heard.labels, asset))
    assets = tuple(
        _asset(
            heard.labels[asset_id],
            asset_id,
            opening.get(asset_id),
            movements.get(asset_id, []),
            closing.get(asset_id),
        )
        for asset_id in named
        if asset is not None or asset_id in movements or asset_id in opening or asset_id in closing
    )
    wrong = [
        f"{each.asset}: opening and movements miss closing by {each.difference}"
        for each in assets
        if not each.adds_up
    ]
    only = None if asset is None else named
    ends = [
        f"{each.asset} at its {end}: {reason}"
        for each in assets
        for end, completeness, reason in (
            ("opening", each.opening_completeness, each.opening_reason),
            ("closing", each.closing_completeness, each.closing_reason),
        )
        if completeness == "gap"
    ]
    return Statement(
        account,
        start_ns,
        end_ns,
        known_at_ns,
        not wrong,
        assets,
        (
            *wrong,
            *_unknown(heard, account, end_ns, known_at_ns),
            *(heard.trouble.open_in(start_ns, end_ns, only) or ends),
        ),
    )


def _held(ledger: Ledger, account: str, at_ns: int, known_at_ns: int | None) -> Mapping[str, HeldRow]:
    known_at = None if known_at_ns is None else time_text(known_at_ns)
    rows = Balances(ledger).at(time_text(at_ns), account, known_at=known_at).rows(account)
    return {row.asset_id: row for row in rows}


def _listen(ledger: Ledger, account: str, start_ns: int, end_ns: int, known_at_ns: int | None) -> _Heard:
    heard = _Heard(Course(account), [], {}, [], set(), trouble(ledger, account, known_at_ns))
    newest: dict[str, tuple[str, int, int]] = {}
    for recorded in _known(ledger, account, known_at_ns):
        event = recorded.event
        if isinstance(event, FillRecorded):
            heard.fills.append(recorded)
        if not isinstance(event, BalanceEvent) or (isinstance(event, BalanceEventImported) and event.memo):
            continue
        for asset_id, label in _says(event):
            heard.labels[asset_id] = label or heard.labels.get(asset_id, asset_id)
            if _came_late(recorded, asset_id, newest):
                heard.late.add((recorded.version, asset_id))
        time_ns = time_of(event)
        heard.first_ns = time_ns if heard.first_ns is None else min(time_ns, heard.first_ns)
        if time_ns <= start_ns:
            heard.course.before(recorded, first=not heard.period)
        elif time_ns <= end_ns:
            heard.period.append(recorded)
    heard.period.sort(key=lambda recorded: (time_of(recorded.event), recorded.version))
    return heard


def _known(ledger: Ledger, account: str, known_at_ns: int | None) -> Iterator[Recorded]:
    for recorded in ledger.replay(account):
        if known_at_ns is None or known_ns(recorded.event) <= known_at_ns:
            yield recorded


def _unknown(heard: _Heard, account: str, end_ns: int, known_at_ns: int | None) -> Iterator[str]:
    """That nothing is known of the account up to the end, if it is so: then nothing says that nothing was held."""
    if heard.first_ns is None:
        by = "" if known_at_ns is None else f" by {time_text(known_at_ns)}"
        yield f"nothing is known of {account}: no balance was stated{by}"
    elif heard.first_ns > end_ns:
        yield f"nothing is known of {account} before {time_text(heard.first_ns)}"


def _says(event: BalanceEvent) -> list[tuple[str, str | None]]:
    """The assets an event names, with their labels."""
    if isinstance(event, BalanceEventImported):
        return [(event.asset_id, event.asset)]
    named: list[tuple[str, str | None]] = [(balance.asset_id, balance.asset) for balance in event.balances]
    if isinstance(event, BalanceDelta):
        named += [(asset_id, None) for asset_id in event.removed]
    return named


def _came_late(recorded: Recorded, asset_id: str, newest: dict[str, tuple[str, int, int]]) -> bool:
    """Whether something newer had been stated of the asset before. A history is often told backwards: of its rows only
    what other sessions had told counts."""
    event, time_ns = recorded.event, time_of(recorded.event)
    session = event.source.session
    told_in, told_ns, others_ns = newest.get(asset_id, (session, 0, 0))
    if told_in != session:
        told_in, told_ns, others_ns = session, 0, max(told_ns, others_ns)
    newest[asset_id] = (told_in, max(told_ns, time_ns), others_ns)
    if isinstance(event, BalanceEventImported):
        told_ns = 0
    return event.source.late_ns is not None or time_ns < max(told_ns, others_ns)


def _asset(
    label: str,
    asset_id: str,
    opening: HeldRow | None,
    movements: Sequence[Movement],
    closing: HeldRow | None,
) -> AssetStatement:
    first, last = standing(opening), standing(closing)
    total = decimal(first.amount)
    for movement in movements:
        total = EXACT.add(total, decimal(movement.amount))
    difference = EXACT.subtract(decimal(last.amount), total)
    return AssetStatement(
        asset_id,
        label,
        first.amount,
        first.held,
        None if opening is None else opening.completeness,
        None if opening is None else opening.reason,
        tuple(movements),
        last.amount,
        last.held,
        None if closing is None else closing.completeness,
        None if closing is None else closing.reason,
        not difference,
        _text(difference),
    )


# Movements


class _Step(Struct, frozen=True):
    """What one event changed of an asset; `row`: of whose history it is a row."""

    recorded: Recorded
    row: BalanceEventImported | None
    was: Standing
    now: Standing


def _movements(heard: _Heard) -> dict[str, list[Movement]]:
    instants: dict[str, list[list[_Step]]] = {}
    for _, instant in groupby(heard.period, key=lambda recorded: time_of(recorded.event)):
        steps: dict[str, list[_Step]] = {}
        for recorded in instant:
            for asset_id, (was, now) in heard.course.take(recorded).items():
                row = _row_of(recorded, asset_id)
                if row is not None or was != now:
                    steps.setdefault(asset_id, []).append(_Step(recorded, row, was, now))
        for asset_id, each in steps.items():
            instants.setdefault(asset_id, []).append(each)
    changed = effects(heard.fills, heard.labels)
    found: dict[str, list[Movement]] = {}
    for asset_id, every in instants.items():
        for by_rows, run in groupby(every, _is_told_by_rows):
            of = [*run]
            moved = _told_by_rows(of, asset_id, heard) if by_rows else None
            if moved is None:
                moved = [*_told_by_balances(chain(*of), asset_id, heard, changed.get(asset_id, []))]
            if moved:
                found.setdefault(asset_id, []).extend(moved)
    return found


def _row_of(recorded: Recorded, asset_id: str) -> BalanceEventImported | None:
    """The row of an asset's history that an event is."""
    event = recorded.event
    return event if isinstance(event, BalanceEventImported) and event.asset_id == asset_id else None


def _is_told_by_rows(steps: Sequence[_Step]) -> bool:
    """Whether rows of its history tell what an instant changed of an asset: what is held then is what one of them says,
    and what was stated beside them."""
    now = steps[-1].now
    held = decimal(now.amount)
    rows = [step.row for step in steps if step.row is not None]
    if len(rows) == len(steps):
        return any(step.recorded.version == now.version for step in steps)
    beside = (step for step in steps if step.row is None)
    return any(decimal(row.balance) == held for row in rows) and all(
        decimal(step.now.amount) == held for step in beside
    )


def _told_by_rows(instants: Sequence[Sequence[_Step]], asset_id: str, heard: _Heard) -> list[Movement] | None:
    """The movements of instants that history rows tell, in the order in which their balances follow, from what is held
    before to what is held after; before a row that begins elsewhere, what is missing. None where they do not lead
    there."""
    was, now = instants[0][0].was, instants[-1][-1].now
    start = _End(was.amount, was.pending)
    groups: list[list[BalanceEventImported | _End]] = []
    by: dict[int, Recorded] = {}
    for steps in instants:
        groups.append([step.row for step in steps if step.row is not None])
        by |= {id(step.row): step.recorded for step in steps}
        if len(groups[-1]) < len(steps) or steps is instants[-1]:
            groups.append([_End(steps[-1].now.amount, steps[-1].now.pending)])
    course = in_course(groups, start if was.version else None)
    ordered = [row for group, _ in course for row in group if isinstance(row, BalanceEventImported)]
    if decimal(ordered[-1].balance) != decimal(now.amount):
        return None
    found: list[Movement] = []
    last: BalanceEventImported | _End = start
    for row in ordered:
        recorded, held = by[id(row)], decimal(last.balance)
        if not links(last, row):
            begins = EXACT.subtract(decimal(row.balance), _signed(row))
            if begins != held:
                reason = _missing(was if last is start else None, held, begins, recorded)
                found.append(_movement(recorded, asset_id, heard, held, begins, UNEXPLAINED, reason))
            held = begins
        found.append(_movement(recorded, asset_id, heard, held, decimal(row.balance), row.cause, None))
        last = row
    return found


def _missing(was: Standing | None, held: Decimal, begins: Decimal, recorded: Recorded) -> str:
    if was is not None and not was.version:
        return "the first row known of the asset begins from it: what was before is not known"
    if was is not None and begins in map(decimal, was.others):
        return _open_until(was, recorded)
    change = _text(EXACT.subtract(begins, held))
    return f"rows are missing in the history before version {recorded.version}: together they change {change}"


def _open_until(was: Standing, recorded: Recorded) -> str:
    return (
        f"the history rows of {time_text(was.time_ns)} lead back to where they begin: at which balance they ended, "
        f"only version {recorded.version} tells"
    )


def _signed(event: BalanceEventImported) -> Decimal:
    amount = decimal(event.amount)
    return amount.copy_negate() if event.cause == "withdraw" and amount > 0 else amount


def _told_by_balances(
    steps: Iterable[_Step], asset_id: str, heard: _Heard, of: Sequence[Effect]
) -> Iterator[Movement]:
    """The movements one by one, as the statements of each instant came."""
    for step in steps:
        was, now = decimal(step.was.amount), decimal(step.now.amount)
        if step.row is not None:
            follows = EXACT.subtract(now, was) == _signed(step.row)
            cause = step.row.cause if follows else UNEXPLAINED
            reason = None if follows else "the history rows of this instant do not follow one another"
        elif was == now:
            continue
        else:
            cause, reason = _cause(step, EXACT.subtract(now, was), of)
        yield _movement(step.recorded, asset_id, heard, was, now, cause, reason)


def _cause(step: _Step, change: Decimal, of: Sequence[Effect]) -> tuple[str, str | None]:
    if not step.was.version:
        return UNEXPLAINED, "the first statement of the asset: what was before is not known"
    if decimal(step.now.amount) in map(decimal, step.was.others):
        return UNEXPLAINED, _open_until(step.was, step.recorded)
    upto = (time_of(step.recorded.event), step.recorded.version)
    cause, reason = told(change, (step.was.time_ns, step.was.version), upto, of)
    if reason is not None and not step.now.held:
        reason = f"the venue names it no more; {reason}"
    return cause, reason


def _movement(
    recorded: Recorded,
    asset_id: str,
    heard: _Heard,
    was: Decimal,
    now: Decimal,
    cause: str,
    reason: str | None,
) -> Movement:
    event, source, label = recorded.event, recorded.event.source, heard.labels[asset_id]
    time_ns, venue_time_ns, imported = time_of(event), source.time_ns, isinstance(event, BalanceEventImported)
    if isinstance(event, BalanceEventImported) and event.time_ns is not None:
        venue_time_ns = event.time_ns
    suspect = heard.trouble.of(Moved(asset_id, recorded.version, source.received_ns, imported, cause))
    if cause == UNEXPLAINED:
        reason = "; ".join(each for each in (explains(suspect), reason) if each)
    return Movement(
        time_ns,
        asset_id,
        label,
        _text(EXACT.subtract(now, was)),
        _text(now),
        cause,
        reason,
        recorded.version,
        venue_time_ns,
        source.received_ns,
        (recorded.version, asset_id) in heard.late,
        source.session,
        source.ordinal,
        suspect,
    )


def _text(number: Decimal) -> Amount:
    return format(number, "f") if number else "0"
