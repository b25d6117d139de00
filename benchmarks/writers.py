"""Several processes that write to one PostgreSQL ledger, each its own account: how many events a second together.

The processes live through all rounds; in each, one, two and four of them write at the same time. Meanwhile the server
is asked now and again whether anybody holds the lock on the table of events: where it is held nearly always, that is
the cap.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from random import Random
from typing import Final, NamedTuple

import msgspec
from msgspec import structs

from benchmarks.claims import faster
from benchmarks.feeder import LIVE, SAMPLES, Turn
from benchmarks.measure import Effort, Result, Run, Unequal, spread
from benchmarks.processes import Process
from benchmarks.samples import Sample
from benchmarks.server import Place, Server, connected
from ledger import Ledger
from ledger.intake import BATCH_FRAMES_MAX

WAYS: Final = {LIVE: "a call for each commit", "import": "one call for all"}
COUNTS: Final = (2, 1, 4)
"""Of processes at the same time; the first is held against the others."""
ASKED: Final = 1.3
LOOK_S: Final = 0.01
TIMES: Final = 2
"""As many commits in a lap as another benchmark has in a slice: processes begin a little apart."""
_LOCKED: Final = (
    "SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks "
    "WHERE relation = to_regclass(%s) AND mode = 'ExclusiveLock'"
)
_decode: Final = msgspec.json.Decoder(Turn)


class Case(NamedTuple):
    """How processes write: so many frames a commit, so many commits each in a lap."""

    way: str
    sample: Sample
    frames: int
    commits: int


class Looked(NamedTuple):
    """How often the lock was looked at, how often it was held, and how many waited for it, all together."""

    times: int
    held: int
    waiting: int


class Lap(NamedTuple):
    """What some processes did at the same time."""

    events: int
    seconds: float
    commits: int
    looked: Looked

    @property
    def per_s(self) -> float:
        """Events a second."""
        return self.events / self.seconds


def cases(effort: Effort) -> int:
    """How many results there will be."""
    return len(_cases(effort))


def writers(server: Server, effort: Effort) -> Iterator[Result]:
    """Every way of writing, every kind of frame, every size of a commit."""
    for case in _cases(effort):
        yield written(server, case, effort.rounds)


def _cases(effort: Effort) -> list[Case]:
    """Given all at once, frames are stored in commits of a ledger's own size."""
    return [
        Case(way, sample, frames, commits * TIMES)
        for way in WAYS
        for sample in SAMPLES.values()
        for frames, commits in effort.ingest_commits
        if way == LIVE or frames == BATCH_FRAMES_MAX
    ]


def written(server: Server, case: Case, rounds: int) -> Result:
    """One case: rounds of one, two and four processes."""
    took: dict[int, list[Lap]] = {count: [] for count in COUNTS}
    orders = Random(0)
    with server.place() as place, ExitStack() as stack:
        stack.enter_context(Ledger(place.url))  # the tables are made
        said = (case.frames, case.commits, case.way, case.sample.name)
        feeders = [
            stack.enter_context(Process("benchmarks.feeder", place.url, number, *said))
            for number in range(max(COUNTS))
        ]
        for each in feeders:
            each.is_ready()
        lap(place, feeders, case.commits)  # warms up
        for _ in range(rounds):
            for count in orders.sample(COUNTS, len(COUNTS)):
                took[count].append(lap(place, feeders[:count], case.commits))
        check_positions(server, place)
    runs = tuple(_run(count, took) for count in COUNTS)
    sample = case.sample
    name = f"writers: {WAYS[case.way]}, {sample.venue.NAME}, {sample.name}, batch {case.frames}"
    result = Result("postgres", name, "events", len(sample.make(0)), runs)
    if case.way != LIVE or case.frames != BATCH_FRAMES_MAX:
        return result
    return faster(result, _name(1), f"batch {case.frames}: 2 writer processes / 1", ASKED)


def lap(place: Place, feeders: Sequence[Process], commits: int) -> Lap:
    """Let some processes write at the same time, each so many commits."""
    done = threading.Event()
    looks: list[tuple[int, int]] = []
    watching = threading.Thread(target=_watch, args=(place, done, looks))
    watching.start()
    try:
        for each in feeders:
            each.begin()
        turns = [_decode.decode(each.line()) for each in feeders]
    finally:
        done.set()
        watching.join()
    for each in feeders:
        each.is_ready()
    seconds = max(turn.ended_s for turn in turns) - min(turn.began_s for turn in turns)
    looked = Looked(len(looks), sum(held for held, _ in looks), sum(waiting for _, waiting in looks))
    return Lap(sum(turn.events for turn in turns), seconds, commits * len(feeders), looked)


def check_positions(server: Server, place: Place) -> None:
    """Positions and versions must be without holes. Raises Unequal."""
    [(events, last)] = server.select(
        f"SELECT count(*), max(notification_id) FROM {place.schema}.stored_events"
    )
    holed = server.select(
        f"SELECT originator_id FROM {place.schema}.stored_events GROUP BY 1 "
        "HAVING max(originator_version) <> count(*)"
    )
    if events != last or holed:
        raise Unequal(f"{events} events up to position {last}; holes in {holed}")


def _watch(place: Place, done: threading.Event, looks: list[tuple[int, int]]) -> None:
    with connected(place.url) as connection:
        while not done.wait(LOOK_S):
            found = connection.execute(_LOCKED, (f"{place.schema}.stored_events",), prepare=True).fetchone()
            assert found is not None
            looks.append((int(found[0]), int(found[1])))


def _name(count: int) -> str:
    return "1 writer" if count == 1 else f"{count} writers"


def _run(count: int, took: dict[int, list[Lap]]) -> Run:
    laps, ours = took[count], took[COUNTS[0]]
    ratios = [mine.per_s / its.per_s for its, mine in zip(laps, ours, strict=True)]
    run = Run(_name(count), spread([each.per_s for each in laps]), None, None, note=_lock_text(laps))
    return run if count == COUNTS[0] else structs.replace(run, ours=spread(ratios))


def _lock_text(laps: Sequence[Lap]) -> str:
    """How long the lock was held, and by how many it was waited for."""
    times = sum(each.looked.times for each in laps)
    if not times:
        return "too short to look at the lock"
    held = sum(each.looked.held for each in laps) / times
    waiting = sum(each.looked.waiting for each in laps) / times
    each_ms = 1_000 * held * sum(each.seconds for each in laps) / sum(each.commits for each in laps)
    return f"lock held {held:.0%} of the time ({each_ms:.1f} ms a commit), {waiting:.1f} waiting for it"
