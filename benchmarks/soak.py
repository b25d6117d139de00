"""One account written to for a long time, in a process of its own, whose memory is nobody else's.

Knows a ledger and its balances, used as a backend uses them: frames in batches, a projection that follows on the same
thread, a reader of the file beside it. At three points the append rate is raced against that of a young ledger; at last
that of fills, whose ids come in no order. What is seen goes to standard output, a JSON object a line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self, TypeAlias

import msgspec
from msgspec import Struct

from benchmarks.frames import START_MS, amounts, bitopro_balance, deltadefi_order
from benchmarks.measure import Result, Side, Unequal, race
from ledger import Intake, Ledger, Venue
from ledger.venues import bitopro, deltadefi
from projections import Balances

ACCOUNT: Final = "bitopro:main"
ENTRIES: Final = 3
"""Currencies in each frame; every frame becomes one event."""
BATCH_FRAMES: Final = 256
SESSION_FRAMES: Final = 10_240
"""After so many a conversation ends and another begins."""
FOLLOW_BATCHES: Final = 20
"""After so many the projection is read."""
READ_EVERY_S: Final = 0.1
SAMPLES: Final = 60
YOUNG: Final = 1_000
"""The version at which an account is young."""
FILLS_EVENTS_MAX: Final = 1_000_000
"""Of a ledger of fills: it takes a disk and a while of its own."""
RACES: Final = ((256, 1, 8), (1, 8, 12))
"""Frames of a commit, commits of a slice, and how many times as many rounds: many short slices, in turn, tell a tenth
where one wait for the disk is several times another."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Sample(Struct, frozen=True, tag=True):
    """How the process is, at so many events."""

    events: int
    resident_bytes: int
    files: int
    """Open."""
    wal_bytes: int
    seconds: float
    """Of soaking, the races left out."""
    cpu_seconds: float
    """Of all threads, the reader's among them; the races left out, too."""
    stage: int
    """How many races were before it."""
    reads: int
    """Of the reader beside the writer."""


class Raced(Struct, frozen=True, tag=True):
    """The append rate at a version, beside a young ledger's."""

    version: int
    result: Result
    claimed: bool = True
    """Whether what is claimed of appends speaks of it."""


class Wrong(Struct, frozen=True, tag=True):
    """The work was not what it was to be."""

    reason: str


Seen: TypeAlias = Sample | Raced | Wrong
Arrivals: TypeAlias = list[tuple[bytes, int]]


class Writer:
    """One account of one ledger, and what it is told: every frame another. Here balances, whose keys rise with time."""

    venue: Venue = bitopro
    what = "balances"

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.ledger: Final = Ledger(path)
        self._made = 0
        self._said = 0
        self._talks = 0
        self._intake = self._talk()

    def make(self, frames: int) -> Arrivals:
        """The next frames."""
        first, self._made = self._made, self._made + frames
        return [(self.frame(n), (START_MS + n) * 1_000_000) for n in range(first, self._made)]

    def frame(self, n: int) -> bytes:
        """The `n`th."""
        return bitopro_balance(n, ENTRIES)

    def write(self, arrivals: Arrivals) -> None:
        """One commit; from time to time the conversation ends before it, and another begins."""
        if self._said >= SESSION_FRAMES:
            self._end()
            self._intake = self._talk()
            self._said = 0
        self._said += len(arrivals)
        self._intake.receive_all(arrivals)

    def grow(self, version: int) -> None:
        """Until the account has that many events."""
        while (missing := version - self.version) > 0:
            self.write(self.make(min(BATCH_FRAMES, missing)))

    @property
    def version(self) -> int:
        """Of the account's last event."""
        return self.ledger.position()

    def check(self) -> None:
        """All that was made must be recorded. Raises Unequal."""
        (stored,) = self.ledger.select("SELECT count(*) FROM evidence")[0]
        if stored != self._made:
            raise Unequal(f"{stored!r} of {self._made} frames became events")
        self._check_state()

    def _check_state(self) -> None:
        """The balances must be those of the last frame."""
        held = Balances(self.ledger)[ACCOUNT].values()
        parts = " ".join(f"{each.total} {each.available} {each.staked}" for each in held)
        if amounts(parts.encode()) != amounts(bitopro_balance(self._made - 1, ENTRIES)):
            raise Unequal("the balances are not those of the last frame")

    def close(self) -> None:
        """End the conversation, close the ledger."""
        self._end()
        self.ledger.close()

    def _talk(self) -> Intake:
        at_ns = (START_MS + self._made) * 1_000_000
        self._talks += 1
        return self.ledger.intake(self.venue, "main", session=f"soak-{self._talks}", opened_ns=at_ns)

    def _end(self) -> None:
        self._intake.close("end", (START_MS + self._made) * 1_000_000)


class Trader(Writer):
    """Orders with fills, whose ids are random: their keys come in no order, and each is looked for among all before."""

    venue: Venue = deltadefi
    what = "orders with fills of random ids"

    def frame(self, n: int) -> bytes:
        return deltadefi_order(n, agrees=True, scattered=True)

    def _check_state(self) -> None:
        """Each fill must have a key of its own."""
        (keys,) = self.ledger.select("SELECT count(*) FROM natural_keys WHERE key LIKE 'fill:%'")[0]
        if keys != self._made:
            raise Unequal(f"{keys!r} fills of {self._made} orders with one")


def soak(folder: Path, events: int, rounds: int, tell: Callable[[Seen], object]) -> None:
    """Write until the account has that many events, and tell how it goes. Raises Unequal.

    The append rate is raced at YOUNG events, where both sides are young (that is how far two equal ones differ), at a
    third of them and at the end; then that of fills.
    """
    writer = Writer(folder / "soak.db")
    writer.grow(YOUNG)
    with _Reader(writer.path) as reader:
        soaked = _Soaked(writer, reader, max(1, events // SAMPLES), tell)
        for stage in (YOUNG, max(YOUNG, events // 3), events):
            reader.turn.set()
            soaked.until(stage)
            reader.turn.clear()
            for result in _races(writer, folder, rounds):
                tell(Raced(stage, result))
    writer.check()
    writer.close()
    trader = Trader(folder / "fills.db")
    trader.grow(min(events, FILLS_EVENTS_MAX))
    for result in _races(trader, folder, rounds):
        tell(Raced(trader.version, result, claimed=False))
    trader.check()
    trader.close()


class _Soaked:
    """The writer and the projection that follows it; a sample every so many events."""

    def __init__(self, writer: Writer, reader: _Reader, step: int, tell: Callable[[Seen], object]) -> None:
        self._writer = writer
        self._reader = reader
        self._balances = Balances(writer.ledger)
        self._step = step
        self._tell = tell
        self._due = 0
        self._seconds = 0.0
        self._cpu_seconds = 0.0
        self._stage = 0
        self._batches = 0

    def until(self, version: int) -> None:
        """Write until the account has that many events."""
        writer, start_s, cpu_s = self._writer, time.perf_counter(), time.process_time()
        while (reached := writer.version) < version:
            writer.write(writer.make(BATCH_FRAMES))
            self._batches += 1
            if self._batches % FOLLOW_BATCHES == 0 and len(self._balances[ACCOUNT]) != ENTRIES:
                raise Unequal(f"not {ENTRIES} assets are held")
            if reached >= self._due:
                self._due = reached + self._step
                seconds = self._seconds + time.perf_counter() - start_s
                self._sample(reached, seconds, self._cpu_seconds + time.process_time() - cpu_s)
        self._seconds += time.perf_counter() - start_s
        self._cpu_seconds += time.process_time() - cpu_s
        self._stage += 1

    def _sample(self, events: int, seconds: float, cpu_seconds: float) -> None:
        self._reader.check()
        wal = Path(f"{self._writer.path}-wal")
        resident_bytes = int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
        files = len(os.listdir("/proc/self/fd"))
        wal_bytes, reads = wal.stat().st_size, self._reader.reads
        self._tell(Sample(events, resident_bytes, files, wal_bytes, seconds, cpu_seconds, self._stage, reads))


class _Reader:
    """A reader of the file in a thread of its own, as long as it is its turn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = False
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self.turn: Final = threading.Event()
        self.reads = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.turn.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what ended it."""
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            with Ledger(self._path, read_only=True) as ledger:
                balances = Balances(ledger)
                while self.turn.wait() and not self._over:
                    if len(balances[ACCOUNT]) != ENTRIES:
                        raise Unequal(f"the reader does not see {ENTRIES} assets")
                    self.reads += 1
                    time.sleep(READ_EVERY_S)
        except BaseException as error:
            self._errors.append(error)


def _races(writer: Writer, folder: Path, rounds: int) -> list[Result]:
    """Appends to this ledger and to a young one, in turn, at each size of a commit."""
    results: list[Result] = []
    for frames, commits, times in RACES:
        with TemporaryDirectory(dir=folder) as place:
            young = type(writer)(Path(place) / "young.db")
            young.grow(YOUNG)
            case = f"append, {writer.what}, batch {frames}, at version {writer.version:,}"
            sides = [
                _side(
                    writer,
                    f"an old ledger, from version {writer.version:,}",
                    frames,
                    commits,
                    times * rounds + 1,
                ),
                _side(
                    young,
                    f"a young ledger, from version {young.version:,}",
                    frames,
                    commits,
                    times * rounds + 1,
                ),
            ]
            size = len(writer.frame(0))
            results.append(race("growth", case, "frames", size, sides, times * rounds))
            young.check()
            young.close()
    return results


def _side(writer: Writer, name: str, frames: int, commits: int, slices: int) -> Side:
    """What it is told is made beforehand."""
    rest = iter([writer.make(frames) for _ in range(commits * slices)])

    def commit() -> None:
        for _ in range(commits):
            writer.write(next(rest))

    return Side(name, commit, frames * commits)


def main() -> None:
    """`python -m benchmarks.soak FOLDER EVENTS ROUNDS`"""
    encode = msgspec.json.Encoder().encode

    def tell(seen: Seen) -> None:
        print(encode(seen).decode(), flush=True)

    folder, events, rounds = sys.argv[1:]
    try:
        soak(Path(folder), int(events), int(rounds), tell)
    except Unequal as error:
        tell(Wrong(str(error)))


if __name__ == "__main__":
    main()
