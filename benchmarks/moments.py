"""Moments of a long history: balances as of any of them beside the current ones, and a start beside a young ledger's.

Knows a ledger whose history is `benchmarks.stream`'s. What is answered is compared with what the statements, one after
the other, come to.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from msgspec import Struct, structs

from benchmarks.delays import Delays, delays, told, within
from benchmarks.measure import Effort, Result, Unequal
from benchmarks.stream import fill
from ledger import Ledger, Recorded
from ledger.events import BalanceDelta, BalanceEventImported, BalanceSnapshot, time_of
from ledger.wire import time_text
from projections import Accounts, Balances, Holding

CASES: Final = 2
AS_OF_BOUND: Final = 5.0
START_BOUND: Final = 1.5
"""A start that folds its history again would take a hundred times as long; one that does not reads a few pages more of
trees that are two levels deeper, and runs of one ledger differ by a fifth."""
YOUNGER: Final = 100
"""How many times more events the old ledger has than the young one."""
BUDGET_S: Final = 60.0
"""For all reads as of a moment: where they are slow, there are fewer."""
READS_MIN: Final = 5

Parts: TypeAlias = tuple[str | None, ...]
Held: TypeAlias = dict[str, Parts]
"""Total, available, locked, staked and pending, as text, by asset id."""


class Moment(Struct, frozen=True):
    """Of an account: an event of it chosen by chance, and the time of that."""

    account: str
    version: int
    time_ns: int


def as_of(ledger: Ledger, effort: Effort) -> Result:
    """Balances as of random versions and times anywhere in the history, and in turn the current ones."""
    balances = Balances(ledger)
    balances.rows()
    chosen = moments(ledger, max(READS_MIN, effort.moments))
    now: list[float] = []
    by_version: list[float] = []
    by_time: list[float] = []
    answers: list[tuple[Moment, Held, Held]] = []
    until_s = time.perf_counter() + BUDGET_S
    for place, moment in enumerate([*chosen[:READS_MIN], *chosen]):  # the first few warm up
        name = moment.account
        waits = [
            _timed(balances.__getitem__, name),
            _timed(_at, balances, moment.version, name),
            _timed(_at, balances, time_text(moment.time_ns), name),
        ]
        if place < READS_MIN:
            continue
        for wait, kept in zip(waits, (now, by_version, by_time), strict=True):
            kept.append(wait[0])
        answers.append((moment, _held(waits[1][1]), _held(waits[2][1])))
        if time.perf_counter() > until_s and len(answers) >= READS_MIN:
            break
    check(ledger, answers)
    current = delays("current balances", [now])
    runs: list[Delays] = []
    claims = []
    for side, kept in (("as of a version", by_version), ("as of a time", by_time)):
        run = delays(side, [kept])
        text = f"balances {side}, anywhere in {ledger.position():,} events: p99 / the current balances'"
        claims.append(within(text, run.p99_ms, current.p99_ms, AS_OF_BOUND))
        runs.append(structs.replace(run, note=told(claims[-1])))
    case = f"balances of one account, {ledger.position():,} events"
    return Result("replay", case, "reads", None, (*runs, current), claims=tuple(claims))


def start(old: Path, folder: Path, effort: Effort) -> Result:
    """Open a ledger whose projections are caught up and read an account's balances: one of long history and one of
    short, in turn."""
    young = folder / "young.db"
    with Ledger(young) as ledger:
        fill(ledger, max(1, effort.replay_events // YOUNGER))
    waits: dict[Path, list[float]] = {old: [], young: []}
    again: dict[Path, list[float]] = {old: [], young: []}
    events: dict[Path, int] = {}
    names: list[str] = []
    for path in waits:
        with Ledger(path) as ledger:
            names = [row.account for row in caught_up(ledger)]
            events[path] = ledger.position()
    for turn in range(effort.moments // 4 + 2):
        for path in (old, young) if turn % 2 else (young, old):
            wait, found = _timed(_started, path, names[turn % len(names)])
            if not found:
                raise Unequal(f"nothing is held by {names[turn % len(names)]}")
            if turn > 1:
                waits[path].append(wait)
                again[path].append(_read_again(path, names[turn % len(names)]))
    runs = [delays(f"{events[path]:,} events", [each]) for path, each in waits.items()]
    text = f"start with projections caught up, {events[old]:,} events: p50 / that at {events[young]:,} events"
    claim = within(text, runs[0].p50_ms, runs[1].p50_ms, START_BOUND)
    first = delays(runs[0].side, [waits[old]], note=told(claim))
    case = "open the ledger, read the balances of an account"
    read_again = [delays(f"{events[path]:,} events, read again", [each]) for path, each in again.items()]
    return Result("replay", case, "starts", None, (first, runs[1], *read_again), claims=(claim,))


def caught_up(ledger: Ledger) -> Sequence[Any]:
    """The accounts; balances and accounts are caught up."""
    Balances(ledger).rows()
    return Accounts(ledger).rows()


def moments(ledger: Ledger, number: int) -> list[Moment]:
    """Of all accounts in turn, by chance, but the same each time."""
    chance = random.Random(5)
    rows = caught_up(ledger)
    found: list[Moment] = []
    for place in range(number):
        account = rows[place % len(rows)].account
        version = chance.randint(1, rows[place % len(rows)].version)
        event = next(iter(ledger.replay(account, after=version - 1, upto=version))).event
        found.append(Moment(account, version, time_of(event)))
    return found


def check(ledger: Ledger, answers: Sequence[tuple[Moment, Held, Held]]) -> None:
    """Each answer must be what the account's statements by then come to, one after the other. Raises Unequal."""
    for name in sorted({moment.account for moment, _, _ in answers}):
        ours = [each for each in answers if each[0].account == name]
        by_version = sorted((moment.version, number) for number, (moment, _, _) in enumerate(ours))
        by_time = sorted((moment.time_ns, number) for number, (moment, _, _) in enumerate(ours))
        for number, came_to in _states(ledger, name, by_version, lambda each: each.version):
            _same(ours[number][1], came_to, f"{name} as of version {ours[number][0].version}")
        for number, came_to in _states(ledger, name, by_time, lambda each: time_of(each.event)):
            _same(ours[number][2], came_to, f"{name} as of {time_text(ours[number][0].time_ns)}")


def _states(
    ledger: Ledger, account: str, asked: Sequence[tuple[int, int]], place: Callable[[Recorded], int]
) -> Iterator[tuple[int, Held]]:
    """What is held at each place that is asked for, and the number it is asked under. Places of events rise."""
    state: Held = {}
    waiting = iter(asked)
    next_asked = next(waiting, None)
    for recorded in ledger.replay(account):
        while next_asked is not None and place(recorded) > next_asked[0]:
            yield next_asked[1], dict(state)
            next_asked = next(waiting, None)
        if next_asked is None:
            return
        _apply(state, recorded)
    while next_asked is not None:
        yield next_asked[1], dict(state)
        next_asked = next(waiting, None)


def _apply(state: Held, recorded: Recorded) -> None:
    said = recorded.event
    if isinstance(said, BalanceSnapshot):
        state.clear()
    if isinstance(said, BalanceSnapshot | BalanceDelta):
        for each in said.balances:
            state[each.asset_id] = (each.total, each.available, each.locked, each.staked, each.pending)
    elif isinstance(said, BalanceEventImported):
        state[said.asset_id] = (said.balance, None, None, None, said.pending)


def _same(answer: Held, came_to: Held, what: str) -> None:
    """A total that no venue stated is ours alone."""
    stated = {
        asset: (None if asset in came_to and came_to[asset][0] is None else parts[0], *parts[1:])
        for asset, parts in answer.items()
    }
    if stated != came_to:
        raise Unequal(f"{what}: answered {stated}, and the statements come to {came_to}")


def _held(holdings: Mapping[str, Holding]) -> Held:
    return {
        each.asset_id: tuple(
            None if part is None else f"{part:f}"
            for part in (each.total, each.available, each.locked, each.staked, each.pending)
        )
        for each in holdings.values()
    }


def _at(balances: Balances, moment: int | str, account: str) -> Mapping[str, Holding]:
    return balances.at(moment, account)[account]


def _started(path: Path, account: str) -> Mapping[str, Holding]:
    with Ledger(path) as ledger:
        return Balances(ledger)[account]


def _read_again(path: Path, account: str) -> float:
    """How long the second read of a ledger takes (ms), with nothing new in it."""
    with Ledger(path) as ledger:
        balances = Balances(ledger)
        balances.rows(account)
        return _timed(balances.__getitem__, account)[0]


def _timed(read: Callable[..., Any], *of: object) -> tuple[float, Any]:
    """How long it took (ms), and what it gave."""
    start_ns = time.perf_counter_ns()
    found = read(*of)
    return (time.perf_counter_ns() - start_ns) / 1e6, found
