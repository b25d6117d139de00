"""Projections that follow a PostgreSQL ledger, each follower a process: how fast they catch up, and whether they keep
up beside a writer that appends 20,000 events a second.

What is appended is rows made beforehand: the writer is not what is measured. How far behind a follower is, is told from
commits: from when an append was durable to when all projections that follow were written up to it.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from statistics import median
from typing import Final, NamedTuple

import msgspec

from benchmarks import frames, ingest
from benchmarks.appends import insert, rehearse
from benchmarks.follower import KINDS, Followed
from benchmarks.measure import Claim, Effort, Result, Run, Unequal, spread
from benchmarks.processes import Process
from benchmarks.samples import UPDATE, Sample
from benchmarks.server import Place, Server, connected
from ledger import Ledger
from ledger.rows import Rows
from ledger.venues import deltadefi
from projections import catch_up, compare
from projections.tables import Scratch

RATE: Final = 20_000
"""Events a second that followers are to keep up with."""
OFFERED: Final = 21_000
"""A little more, so that it can be seen to be kept."""
ACCOUNTS: Final = 4
FRAMES: Final = 200
"""In a commit."""
LIVE_S: Final = 0.4
"""How long the writer appends, for each round of the effort."""
CATCH_UP: Final = 2_000
"""Frames that are there to be caught up with, for each round of the effort."""

_ALL: Final = tuple(KINDS)
_HEAVY: Final = ("Gaps", "Orders")
"""Half of the work: a process of its own."""
SIDES: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "Balances": (("Balances",),),
    "all projections": (_ALL,),
    "all, two processes": (_HEAVY, tuple(name for name in _ALL if name not in _HEAVY)),
}
"""Which projections follow, process by process."""
_decode: Final = msgspec.json.Decoder(Followed)


def _order(n: int) -> bytes:
    """An order that nothing is wrong with: as much of it was executed as its fill says, for price times quantity."""
    message = json.loads(frames.deltadefi_order(n, agrees=True))
    [fill] = message["order"]["order_execution_records"]
    fill["execution_price"] = "0.50000000"
    fill["filled_quote_qty"] = format(Decimal(fill["filled_base_qty"]) * Decimal("0.5"), "f")
    return json.dumps(message, separators=(",", ":")).encode()


def _mixed(n: int) -> bytes:
    return _order(n) if n % 4 == 3 else frames.deltadefi_balance(n, 2)


FEEDS: Final = {
    "balances": UPDATE,
    "3 balances, 1 order with fill": Sample(deltadefi, "mixed", _mixed),
    "orders with fills": Sample(deltadefi, "orders", _order),
}


class Kept(NamedTuple):
    """What was followed beside the writer: how many events of it a second, how many were offered, and how far behind
    (s), commit by commit."""

    per_s: float
    offered: float
    behind_s: list[float]
    cpu_us_each: float


def cases(effort: Effort) -> int:
    """How many results there will be."""
    return 2 * len(FEEDS)


def followers(server: Server, effort: Effort) -> Iterator[Result]:
    """Every feed: caught up with, then kept up with."""
    times = max(1, effort.rounds // 5)
    for feed, sample in FEEDS.items():
        yield caught_up(server, feed, sample, CATCH_UP * effort.rounds, times)
        yield kept_up(server, feed, sample, round(OFFERED * LIVE_S * effort.rounds), times)


def caught_up(server: Server, feed: str, sample: Sample, number: int, times: int) -> Result:
    """From nothing to the end of what is there."""
    opening, stored = rehearse(ingest.work(sample, ACCOUNTS, FRAMES, number // FRAMES, 1))
    took: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with server.place() as place:
        with Ledger(place.url) as ledger:
            for rows in (*opening, *stored):
                insert(ledger, rows)
            events = ledger.position()
        for _ in range(times):
            for side, groups in SIDES.items():
                _forget(place)
                told = _follow(place, groups, events, lambda: None)
                seconds = max(each.marks[-1][0] for each in told) - min(each.began_s for each in told)
                took[side].append((events / seconds, 1e6 * sum(each.cpu_s for each in told) / events))
        check(place, list(SIDES.values())[-1], events)
    runs = [
        Run(
            side,
            spread([per_s for per_s, _ in took[side]]),
            None,
            None,
            cpu_us_each=median(us for _, us in took[side]),
        )
        for side in SIDES
    ]
    return Result("postgres", f"followers: catch-up, {feed}", "events", None, tuple(runs))


def kept_up(server: Server, feed: str, sample: Sample, events: int, times: int) -> Result:
    """Beside a writer."""
    opening, stored = rehearse(ingest.work(sample, ACCOUNTS, FRAMES, -(-events // FRAMES), 1))
    commits = _until(stored, events)
    took: dict[str, list[Kept]] = {side: [] for side in SIDES}
    for _ in range(times):
        for side, groups in SIDES.items():
            with server.place() as place:
                took[side].append(_kept(place, groups, opening, commits))
    runs: list[Run] = []
    claims: list[Claim] = []
    for side, kept in took.items():
        text = f"followers, {side}: events/s kept up with, {feed}"
        offered = median(each.offered for each in kept)
        per_s = spread([each.per_s for each in kept])
        reason = f"only {offered:,.0f} events/s could be appended" if offered < RATE else ""
        claim = Claim(text, None if reason else per_s.median, RATE, at_least=True, reason=reason)
        behind = [each for one in kept for each in one.behind_s]
        note = (
            f"{claim.verdict}; {offered:,.0f} offered; behind {1_000 * median(behind):,.0f} ms, "
            f"at most {1_000 * max(behind):,.0f} ms"
        )
        claims.append(claim)
        cpu_us = median(each.cpu_us_each for each in kept)
        runs.append(Run(side, per_s, None, None, cpu_us_each=cpu_us, note=note))
    case = f"followers: beside a writer, {feed}"
    return Result("postgres", case, "events", None, tuple(runs), claims=tuple(claims))


def _until(stored: Sequence[Rows], events: int) -> list[Rows]:
    """As many commits as hold so many events."""
    commits: list[Rows] = []
    for rows in stored:
        if events <= 0:
            break
        commits.append(rows)
        events -= len(rows.seals)
    return commits


def _kept(
    place: Place, groups: Sequence[Sequence[str]], opening: Sequence[Rows], commits: Sequence[Rows]
) -> Kept:
    with Ledger(place.url) as ledger:
        for rows in opening:
            insert(ledger, rows)
        before = position = ledger.position()
        until = before + sum(len(rows.seals) for rows in commits)
        done: list[tuple[int, float]] = []

        def append() -> None:
            nonlocal position
            began_s = time.monotonic()
            for rows in commits:
                time.sleep(max(0.0, began_s + (position - before) / OFFERED - time.monotonic()))
                insert(ledger, rows)
                position += len(rows.seals)
                done.append((position, time.monotonic()))

        told = _follow(place, groups, until, append)
    check(place, groups, until)
    events, start_s = until - done[0][0], done[0][1]  # those after the first commit: the clock begins with it
    behind = [_when(told, reached) - at_s for reached, at_s in done]
    return Kept(
        events / (_when(told, until) - start_s),
        events / (done[-1][1] - start_s),
        behind,
        1e6 * sum(each.cpu_s for each in told) / (until - before),
    )


def _when(told: Sequence[Followed], position: int) -> float:
    """When the last of the followers had come so far."""
    return max(each.marks[bisect_left(each.marks, position, key=lambda mark: mark[1])][0] for each in told)


def _follow(
    place: Place, groups: Sequence[Sequence[str]], until: int, meanwhile: Callable[[], object]
) -> list[Followed]:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Process("benchmarks.follower", place.url, until, *names)) for names in groups
        ]
        for each in processes:
            each.is_ready()
        for each in processes:
            each.begin()
        meanwhile()
        return [_decode.decode(each.line()) for each in processes]


def _forget(place: Place) -> None:
    with connected(place.url) as connection:
        connection.execute("DROP TABLE IF EXISTS projection_positions")


def check(place: Place, groups: Sequence[Sequence[str]], until: int) -> None:
    """All that was followed must be written up to there, and be what a fold from zero makes. Raises Unequal."""
    with Ledger(place.url, read_only=True) as ledger, Scratch() as scratch:
        stored = ledger.select("SELECT name, position FROM projection_positions")
        missing = {(KINDS[name].name, until) for names in groups for name in names} - set(stored)
        if missing:
            raise Unequal(f"not followed to {until}: {sorted(missing)}")
        for name in ("Balances", "Orders"):
            if (name.lower(), until) in stored:
                one, other = KINDS[name](ledger), KINDS[name](ledger, scratch)
                catch_up(ledger, [one, other])
                if any(True for _ in compare(one, other)):
                    raise Unequal(f"{name}: what was followed is not what a fold from zero makes")
