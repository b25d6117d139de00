"""ingest: the bytes of frames to durable, sealed events with their evidence, beside two others that store the same.

Raw sqlite3 stores the very same rows: they are known beforehand from a rehearsal in memory, for given the same frames,
sessions and times a ledger stores the same bytes; at the end the two files are compared, row by row. Stock
eventsourcing stores what the frames say, in events of its own; at the end every amount of them is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct, structs

from benchmarks.claims import faster
from benchmarks.decode import OURS
from benchmarks.frames import START_MS
from benchmarks.measure import Effort, Result, Side, Unequal, race
from benchmarks.rows import PRAGMAS, Batch, Fresh, Raw, contents, size
from benchmarks.samples import ORDER, SINGLE, UPDATE, Sample
from benchmarks.stock import Stock
from ledger import Intake, Ledger
from ledger.intake import BATCH_FRAMES_MAX

RAW: Final = "raw sqlite3"
STOCK: Final = "eventsourcing, Decimals"
LEAN: Final = "eventsourcing, texts"
SINGLY: Final = "eventsourcing, one by one"

KINDS: Final = (SINGLE, UPDATE, ORDER)
ACCOUNTS: Final = (1, 100)
SINGLES: Final = 16
"""Frames that are saved one by one in a slice, beside a slice of whole batches."""

Arrivals: TypeAlias = list[tuple[bytes, int]]
"""The frames of one commit, and when they came (ns)."""
T = TypeVar("T")


class Part(NamedTuple):
    """One commit: of one account."""

    account: int
    arrivals: Arrivals


class Work(Struct, frozen=True):
    """What a case takes in: `commits` a slice, of `frames` each, the accounts in turn."""

    sample: Sample
    accounts: int
    frames: int
    commits: int
    parts: list[Part]

    @property
    def case(self) -> str:
        """What it is called."""
        whose = "1 account" if self.accounts == 1 else f"{self.accounts} accounts"
        return f"{self.sample.venue.NAME}, {self.sample.name}, batch {self.frames}, {whose}"


def ingest(effort: Effort) -> Iterator[Result]:
    """Balances, one or eleven (an event a frame), and orders (two events and a natural key), at every batch size."""
    for sample in KINDS:
        for accounts in ACCOUNTS:
            for frames, commits in effort.ingest_commits:
                yield ingested(work(sample, accounts, frames, commits, effort.rounds + 1), effort.rounds)


def cases(effort: Effort) -> int:
    """How many there are."""
    return len(KINDS) * len(ACCOUNTS) * len(effort.ingest_commits)


def work(sample: Sample, accounts: int, frames: int, commits: int, slices: int) -> Work:
    """The frames of a case, in as many slices of as many commits."""
    parts = [
        Part(
            at % accounts,
            [(sample.make(n), (START_MS + n) * 1_000_000) for n in range(first, first + frames)],
        )
        for at, first in enumerate(range(0, slices * commits * frames, frames))
    ]
    return Work(sample, accounts, frames, commits, parts)


def ingested(work: Work, rounds: int) -> Result:
    """One case, and what is claimed of it."""
    opening, *stored, ending = rehearse(work)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        ledger = stack.enter_context(Ledger(Path(folder) / "ledger.db"))
        raw = stack.enter_context(closing(Raw(Path(folder) / "raw.db", ledger)))
        stock = stack.enter_context(closing(Stock(Path(folder) / "stock.db", work.accounts)))
        lean = stack.enter_context(closing(Stock(Path(folder) / "lean.db", work.accounts, lean=True)))
        singly = stack.enter_context(closing(Stock(Path(folder) / "singly.db", 1)))
        intakes = opened(ledger, work)
        raw.insert(opening)
        units = work.frames * work.commits
        sides = [
            Side(OURS, _slices(work.parts, work.commits, lambda parts: receive(intakes, parts)), units),
            Side(RAW, _slices(stored, work.commits, lambda batches: _each(raw.insert, batches)), units),
            Side(STOCK, _slices(work.parts, work.commits, lambda parts: _save(stock, parts)), units),
            Side(LEAN, _slices(work.parts, work.commits, lambda parts: _save(lean, parts)), units),
        ]
        singles = [Part(0, [arrival]) for part in work.parts for arrival in part.arrivals]
        if work.frames > 1:
            units = min(SINGLES, units)
            sides.append(Side(SINGLY, _slices(singles, units, lambda parts: _save(singly, parts)), units))
        each = len(work.parts[0].arrivals[0][0])
        result = race("ingest", work.case, "frames", each, sides, rounds)
        for intake in intakes:
            intake.close()
        raw.insert(ending)
        check_equal(ledger, raw, work)
        check_stock(stock, work)
        check_stock(lean, work)
        if work.frames > 1:
            singly.check(0, [part.arrivals[0][0] for part in singles[: units * (rounds + 1)]])
    stored_each = sum(map(size, stored)) // (len(stored) * work.frames)
    return claimed(work, structs.replace(result, stored_each=stored_each))


def claimed(work: Work, result: Result) -> Result:
    """The result with its claims."""
    if work.frames == 1:
        return faster(result, RAW, "batch 1: our speed / raw sqlite3's, the same rows", 0.7)
    if work.frames != BATCH_FRAMES_MAX:
        return result
    batch = f"batch {work.frames}: our speed"
    result = faster(result, RAW, f"{batch} / raw sqlite3's, the same rows", 0.55)
    result = faster(result, STOCK, f"{batch} / stock eventsourcing's, same batch", 4.0)
    return faster(result, SINGLY, f"{batch} / stock eventsourcing's, one by one", 30.0)


def opened(ledger: Ledger, work: Work) -> list[Intake]:
    """An intake for each account."""
    at_ns = START_MS * 1_000_000
    return [
        ledger.intake(
            work.sample.venue,
            f"main-{number}",
            session=f"benchmark-{number}",
            opened_ns=at_ns,
            now_ns=lambda: at_ns,
        )
        for number in range(work.accounts)
    ]


def receive(intakes: Sequence[Intake], parts: Sequence[Part]) -> None:
    """Ours: a call for each commit; where a part is a ledger's own batch, one call for as many as follow each other."""
    if len(parts[0].arrivals) != BATCH_FRAMES_MAX:
        for part in parts:
            intakes[part.account].receive_all(part.arrivals)
        return
    for account, those in groupby(parts, key=lambda part: part.account):
        intakes[account].receive_all(list(chain.from_iterable(part.arrivals for part in those)))


def rehearse(work: Work) -> list[Batch]:
    """The rows of each commit: of the sessions' openings (together), of every part, of the closings (together)."""
    with Ledger() as ledger:
        fresh = Fresh(ledger)
        intakes = opened(ledger, work)
        stored = [fresh.take()]
        for part in work.parts:
            intakes[part.account].receive_all(part.arrivals)
            stored.append(fresh.take())
        for intake in intakes:
            intake.close()
        return [*stored, fresh.take()]


def check_equal(ledger: Ledger, raw: Raw, work: Work) -> None:
    """Both sides must hold the same rows under the same pragmas, every frame among them. Raises Unequal."""
    for pragma in PRAGMAS:
        if ledger.select(f"PRAGMA {pragma}") != raw.select(f"PRAGMA {pragma}"):
            raise Unequal(f"the sides differ in {pragma}")
    if contents(ledger.select) != contents(raw.select):
        raise Unequal("raw sqlite3 did not store the rows that the ledger stored")
    frames = sum(len(part.arrivals) for part in work.parts)
    if ledger.select("SELECT count(*) FROM evidence") != [(frames,)]:
        raise Unequal(f"not all of {frames} frames became events")


def check_stock(stock: Stock, work: Work) -> None:
    """eventsourcing must hold what the frames of every account say. Raises Unequal."""
    for number in range(work.accounts):
        stock.check(
            number,
            [payload for part in work.parts if part.account == number for payload, _ in part.arrivals],
        )


def _save(stock: Stock, parts: Iterable[Part]) -> None:
    for part in parts:
        stock.take(part.account, part.arrivals)


def _each(do: Callable[[T], object], items: Iterable[T]) -> None:
    for item in items:
        do(item)


def _slices(items: Sequence[T], each: int, do: Callable[[Sequence[T]], None]) -> Callable[[], None]:
    """Each call does the next `each` pieces of the work."""
    at = iter(range(0, len(items), each))

    def next_slice() -> None:
        first = next(at)
        do(items[first : first + each])

    return next_slice
