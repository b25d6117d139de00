"""replay: stored events into current balances, from zero, beside a bare SELECT of the same rows.

A third side only reads the events, so that what the fold costs can be told from what reading costs.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.decode import OURS
from benchmarks.frames import START_MS
from benchmarks.measure import Effort, Result, Side, Unequal, race
from benchmarks.samples import SAMPLES, Sample
from ledger import Ledger
from projections import Balances, catch_up

BATCH_FRAMES: Final = 64
LARGE: Final = ("200 entries", "100 rows")
"""Kinds of frames that are left out of the history: they are rare in one."""

SELECT: Final = (
    "SELECT originator_id, originator_version, topic, state, rowid FROM stored_events ORDER BY rowid"
)


def replay(effort: Effort) -> Iterator[Result]:
    """A history of small statements of all five venues."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with Ledger(path) as ledger:
            fill(ledger, effort.replay_events)
            events = len(bare_select(path))
            sides = (
                Side(f"{OURS}: Balances", lambda: fold(ledger), events),
                Side("Ledger.replay alone", lambda: deque(ledger.replay(), maxlen=0), events),
                Side("bare SELECT", lambda: bare_select(path), events),
            )
            check_equal(ledger, path)
            case = f"five venues, {events:,} events"
            yield race("replay", case, "events", None, sides, effort.replay_rounds)


def fill(ledger: Ledger, events: int) -> None:
    """Ingest all kinds of small frames in turn until there are that many events."""
    samples = [sample for sample in SAMPLES if sample.name not in LARGE]
    at = 0
    while ledger.position() < events:
        for place, sample in enumerate(samples):
            _ingest(ledger, sample, place, at)
        at += BATCH_FRAMES


def fold(ledger: Ledger) -> Balances:
    """All balances, from zero, into a database of their own."""
    with Ledger() as scratch:
        balances = Balances(ledger, scratch)
        catch_up(ledger, [balances])
    return balances


def bare_select(path: Path) -> list[tuple[object, ...]]:
    """The rows a replay reads, by sqlite3 alone."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(SELECT).fetchall()
    finally:
        connection.close()


def check_equal(ledger: Ledger, path: Path) -> None:
    """Every side must read every event, in order. Raises Unequal."""
    selected = [row[:2] for row in bare_select(path)]
    if [(each.account, each.version) for each in ledger.replay()] != selected:
        raise Unequal("the ledger and a bare SELECT read different events")
    if fold(ledger).subscription.position != ledger.position():
        raise Unequal("the balances do not reach the end of the ledger")


def _ingest(ledger: Ledger, sample: Sample, place: int, at: int) -> None:
    session = f"{sample.venue.NAME}-{place}-{at}"
    frames = [
        (sample.make(n * len(SAMPLES) + place), (START_MS + n) * 1_000_000)
        for n in range(at, at + BATCH_FRAMES)
    ]
    with ledger.intake(sample.venue, "main", session=session, opened_ns=START_MS * 1_000_000) as intake:
        intake.receive_all(frames)
