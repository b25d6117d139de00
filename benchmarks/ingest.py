"""ingest: the bytes of frames to durable events with their evidence, beside raw sqlite3 storing the very same rows.

The rows are known beforehand from a rehearsal in memory: given the same frames, sessions and times, a ledger stores the
same bytes. At the end the two files are compared, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias

from msgspec import structs

from benchmarks.decode import OURS
from benchmarks.frames import START_MS
from benchmarks.measure import Effort, Result, Side, Unequal, race
from benchmarks.rows import PRAGMAS, Batch, Fresh, Raw, contents, size
from benchmarks.samples import ORDER, UPDATE, Sample
from ledger import Intake, Ledger

SESSION: Final = "benchmark"

Arrivals: TypeAlias = list[tuple[bytes, int]]
"""The frames of one commit, and when they came (ns)."""


def ingest(effort: Effort) -> Iterator[Result]:
    """Balances (one event a frame) and orders (two events and a natural key), at every batch size."""
    for sample in (UPDATE, ORDER):
        for frames, commits in effort.ingest_commits:
            yield _case(sample, frames, commits, effort.rounds)


def arrivals(sample: Sample, frames: int, commits: int) -> list[Arrivals]:
    """Frames of a kind, in as many commits."""
    return [
        [(sample.make(n), (START_MS + n) * 1_000_000) for n in range(at * frames, (at + 1) * frames)]
        for at in range(commits)
    ]


def rehearse(sample: Sample, batches: Sequence[Arrivals]) -> list[Batch]:
    """The rows of each commit: of the session's opening, of every batch, of the session's closing."""
    with Ledger() as ledger:
        fresh = Fresh(ledger)
        intake = _intake(ledger, sample)
        stored = [fresh.take()]
        for batch in batches:
            intake.receive_all(batch)
            stored.append(fresh.take())
        intake.close()
        return [*stored, fresh.take()]


def check_equal(ledger: Ledger, raw: Raw, frames: int) -> None:
    """Both sides must hold the same rows under the same pragmas, every frame among them. Raises Unequal."""
    for pragma in PRAGMAS:
        if ledger.select(f"PRAGMA {pragma}") != raw.select(f"PRAGMA {pragma}"):
            raise Unequal(f"the sides differ in {pragma}")
    if contents(ledger.select) != contents(raw.select):
        raise Unequal("raw sqlite3 did not store the rows that the ledger stored")
    if ledger.select("SELECT count(*) FROM evidence") != [(frames,)]:
        raise Unequal(f"not all of {frames} frames became events")


def _case(sample: Sample, frames: int, commits: int, rounds: int) -> Result:
    batches = arrivals(sample, frames, commits * (rounds + 1))
    opening, *stored, closing = rehearse(sample, batches)
    with TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.db") as ledger:
        raw = Raw(Path(folder) / "raw.db", ledger)
        try:
            with _intake(ledger, sample) as intake:
                raw.insert(opening)
                sides = (
                    Side(OURS, _slices(batches, commits, intake.receive_all), frames * commits),
                    Side("raw sqlite3", _slices(stored, commits, raw.insert), frames * commits),
                )
                case = f"{sample.venue.NAME}, {sample.name}, batch {frames}"
                each = len(batches[0][0][0])
                result = race("ingest", case, "frames", each, sides, rounds)
            raw.insert(closing)
            check_equal(ledger, raw, len(batches) * frames)
        finally:
            raw.close()
    return structs.replace(result, stored_each=sum(map(size, stored)) // (len(batches) * frames))


def _intake(ledger: Ledger, sample: Sample) -> Intake:
    at_ns = START_MS * 1_000_000
    return ledger.intake(sample.venue, "main", session=SESSION, opened_ns=at_ns, now_ns=lambda: at_ns)


def _slices(
    work: Sequence[Arrivals] | Sequence[Batch], commits: int, do: Callable[..., object]
) -> Callable[[], None]:
    """Each call does the next `commits` pieces of the work."""
    rest = iter(work)

    def next_slice() -> None:
        for _ in range(commits):
            do(next(rest))

    return next_slice
