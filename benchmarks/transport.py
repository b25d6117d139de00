"""transport: from the wire to the disk, in time; and how much of it a host that blocks takes away.

Measured from outside: the venue, a process of its own, writes into each frame when it sent it; the ledger here is one
whose intakes look at the clock when `receive_all` returns, which is when the frames are durable. Beside it, in the same
run and folder, the least that durability costs: a bare SQLite commit of one frame.
"""

from __future__ import annotations

import http.client
import secrets
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias

import anyio
import uvicorn
from fastapi import FastAPI
from msgspec import structs
from rich.table import Table

from benchmarks.frames import bitopro_balance
from benchmarks.measure import NS, Effort, Result, Run, Spread, Unequal
from benchmarks.pusher import ENTRIES, Load, address, pusher, sent_ns
from ledger import Intake, Ledger, Tally, Venue
from ledger.ledger import Arrival
from ledger.venues import bitopro
from projections import Balances
from transports import Feed, background, live

TURNS: Final = 2
TURN_S: Final = 0.08
"""How long a feed runs in a turn, for each round of the effort."""
HOST_S: Final = 0.15
"""How long a host runs in a turn, for each round of the effort."""
HOST_RATE: Final = 500
BLOCKS_S: Final = 0.2
EVERY_S: Final = 0.5
ASKED: Final = 10.0
"""How many times lower the p99 in the background is to be than in the host's own loop."""
PATIENCE_S: Final = 60.0

LOADS: Final = {
    "500/s": (500, 1),
    "5,000/s": (5_000, 1),
    "bursts of 250, 1,000/s": (1_000, 250),
}
SIDES: Final = {
    "trio": f"trio-websocket {version('trio-websocket')} on trio",
    "asyncio": f"websockets {version('websockets')} on asyncio",
}
COMMIT: Final = "bare SQLite commit"
HOSTS: Final = {
    "sleeps 200 ms": lambda: time.sleep(BLOCKS_S),
    "computes 200 ms": lambda: _compute(BLOCKS_S),
}
"""What the host's blocking handler does: it lets other threads run, or it does not."""

Seen: TypeAlias = list[tuple[int, list[bytes]]]
"""When frames were durable (`time.monotonic_ns`), and the frames; commit by commit."""


class Delays(Run, frozen=True):
    """How long it took from the wire to the disk (ms), with one side."""

    frames: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    per_commit: float
    """Frames in a commit."""
    note: str = ""


class Clocked(Ledger):
    """A ledger that knows when its frames were durable."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seen: Seen = []

    def intake(
        self,
        venue: Venue,
        account: str,
        *,
        session: str | None = None,
        opened_ns: int | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> Intake:
        """An intake whose every `receive_all` is seen."""
        intake = _Clocked(self, venue, account, session or secrets.token_hex(12), opened_ns, now_ns)
        intake.seen = self.seen
        return intake


class _Clocked(Intake):
    seen: Seen

    def receive_all(self, arrivals: Iterable[Arrival]) -> Tally:
        batch = list(arrivals)
        tally = super().receive_all(batch)
        self.seen.append((time.monotonic_ns(), [arrival[0] for arrival in batch]))
        return tally


def transport(effort: Effort) -> Iterator[Result]:
    """Each transport under each load; then a FastAPI host whose handler blocks."""
    with pusher() as url, TemporaryDirectory() as folder:
        for case, (rate, burst) in LOADS.items():
            frames = max(burst, round(rate * TURN_S * effort.rounds) // burst * burst)
            yield _loaded(case, url, Load(rate, burst, frames), Path(folder))
        frames = round(HOST_RATE * HOST_S * effort.rounds)
        yield from _hosted(url, Load(HOST_RATE, 1, frames), Path(folder))


def table(results: Iterable[Result]) -> Table:
    """A row per side; cases apart by a line."""
    made = Table(
        title="transport: wire to durable", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    made.add_column("case", overflow="fold")
    made.add_column("side")
    for name in ("frames", "a commit", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        made.add_column(name, justify="right")
    made.add_column("")
    for result in results:
        for index, run in enumerate(result.runs):
            assert isinstance(run, Delays)
            made.add_row(
                result.case if index == 0 else "",
                run.side,
                f"{run.frames:,}",
                f"{run.per_commit:.1f}",
                *(f"{each:,.2f}" for each in (run.p50_ms, run.p99_ms, run.p999_ms, run.max_ms)),
                run.note,
                end_section=index == len(result.runs) - 1,
            )
    return made


# Loads ---------------------------------------------------------------------------------------------------------------


def _loaded(case: str, url: str, load: Load, folder: Path) -> Result:
    """The transports in turn, each into a ledger of its own, with bare commits in between."""
    warm = Load(load.rate, load.burst, max(load.burst, load.rate // 10))
    turns: dict[str, list[Seen]] = {name: [] for name in SIDES}
    commits: list[list[float]] = []
    for name in SIDES:
        _feed(name, address(url, warm), warm.frames, folder)
    with _Commits(folder) as commit:
        for turn in range(TURNS):
            for name in SIDES if turn % 2 == 0 else reversed(SIDES):
                commits.append(commit.times(max(25, min(load.frames, 250))))
                turns[name].append(_feed(name, address(url, load), load.frames, folder))
    bare = _delays(COMMIT, commits, [1000 * len(each) / sum(each) for each in commits], 1)
    runs = [_seen(SIDES[name], turns[name]) for name in SIDES]
    told = [_noted(run, f"p99 is {run.p99_ms / bare.p99_ms:.1f} times a bare commit's") for run in runs]
    return Result("transport", case, "frames", _bytes_each(), (*told, bare))


def _feed(backend: str, url: str, frames: int, folder: Path) -> Seen:
    """Run a feed on an event loop until all is durable."""

    async def body(ledger: Clocked) -> None:
        feed = _login(url)
        with anyio.fail_after(PATIENCE_S):
            async with live(ledger, feed):
                await _until_all_is_there(feed, frames)
        check_all(ledger.seen, frames, feed)

    with _clocked(folder) as ledger:
        anyio.run(body, ledger, backend=backend)
        return ledger.seen


async def _until_all_is_there(feed: Feed, frames: int) -> None:
    while True:
        if feed.health.frames >= frames:
            return
        await anyio.sleep(0.01)


def check_all(seen: Seen, frames: int, feed: Feed) -> None:
    """Every frame that was sent must have been recorded, once. Raises Unequal."""
    stamps = sum(len(payloads) for _, payloads in seen)
    if stamps != frames or feed.health.recorded != frames or feed.health.reconnects:
        raise Unequal(f"{feed.health} of {frames} frames sent")


@contextmanager
def _clocked(folder: Path) -> Generator[Clocked]:
    with TemporaryDirectory(dir=folder) as place, Clocked(Path(place) / "ledger.db") as ledger:
        yield ledger


def _login(url: str) -> Feed:
    return Feed(bitopro, identity="someone@example.org", key="benchmark", secret="benchmark", url=url)


class _Commits:
    """Commits of one frame each to a file of its own, WAL and FULL as a ledger's."""

    def __init__(self, folder: Path) -> None:
        self._folder = TemporaryDirectory(dir=folder)
        self._file = sqlite3.connect(Path(self._folder.name) / "bare.db", isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=FULL")
        self._file.execute("CREATE TABLE frames (payload BLOB NOT NULL)")

    def __enter__(self) -> _Commits:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._folder.cleanup()

    def times(self, commits: int) -> list[float]:
        """How long each took (ms)."""
        payload = bitopro_balance(1, ENTRIES)
        took: list[float] = []
        for _ in range(commits):
            start_ns = time.monotonic_ns()
            self._file.execute("INSERT INTO frames VALUES (?)", (payload,))
            took.append((time.monotonic_ns() - start_ns) / 1e6)
        return took


# A host that blocks --------------------------------------------------------------------------------------------------


def example(ledger: Ledger, feed: Feed, *, in_loop: bool, block: Callable[[], None]) -> FastAPI:
    """The FastAPI example, with a handler that blocks its event loop."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        if in_loop:
            async with live(ledger, feed):
                yield
        else:
            with background(ledger, feed):
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/balances/{account}")
    def balances(account: str) -> dict[str, str | None]:
        return {row.asset: row.total for row in Balances(ledger).rows(account)}

    @app.get("/blocks")
    async def blocks() -> str:
        block()
        return "done"

    del balances, blocks  # the app has them
    return app


def _hosted(url: str, load: Load, folder: Path) -> Iterator[Result]:
    """For each way to block: the feed in the background thread and in the host's loop, in turn."""
    for case, block in HOSTS.items():
        turns: dict[bool, list[Seen]] = {False: [], True: []}
        for turn in range(TURNS):
            for in_loop in (True, False) if turn % 2 == 0 else (False, True):
                turns[in_loop].append(_host(url, load, folder, in_loop, block))
        ours, theirs = _seen("in the background thread", turns[False]), _seen("in its own loop", turns[True])
        ours = _noted(ours, verdict(theirs.p99_ms / ours.p99_ms))
        case = f"FastAPI whose handler {case} every {EVERY_S:g} s, {load.rate}/s"
        yield Result("transport", case, "frames", _bytes_each(), (ours, theirs))


def _host(url: str, load: Load, folder: Path, in_loop: bool, block: Callable[[], None]) -> Seen:
    with _clocked(folder) as ledger:
        feed = _login(address(url, load))
        with _running(example(ledger, feed, in_loop=in_loop, block=block)) as port:
            _ask_until_all_is_there(port, feed, load.frames)
        check_all(ledger.seen, load.frames, feed)
        return ledger.seen


def verdict(ratio: float) -> str:
    """Whether the background is as far below the loop as was asked for."""
    passes = "passes" if ratio >= ASKED else "falls short of"
    return f"p99 is {ratio:.1f} times below the loop's: {passes} {ASKED:g}"


@contextmanager
def _running(app: FastAPI) -> Generator[int]:
    """The app served in a thread; its port."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="on", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not server.started and thread.is_alive() and time.monotonic() < until_s:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def _ask_until_all_is_there(port: int, feed: Feed, frames: int) -> None:
    """Ask the handler that blocks, then for the balances, every EVERY_S. Raises Unequal where not all comes."""
    until_s = time.monotonic() + PATIENCE_S
    due_s = time.monotonic()
    while feed.health.frames < frames:
        if time.monotonic() > until_s:
            raise Unequal(f"{feed.health} of {frames} frames sent")
        for path in ("/blocks", "/balances/bitopro:main"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            connection.request("GET", path)
            if connection.getresponse().status != 200:
                raise Unequal(f"the host did not answer {path}")
            connection.close()
        due_s += EVERY_S
        time.sleep(max(0.0, due_s - time.monotonic()))


def _compute(seconds: float) -> None:
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        sum(range(1_000))


# Numbers -------------------------------------------------------------------------------------------------------------


def _seen(side: str, turns: Sequence[Seen]) -> Delays:
    """How long each frame took, from when it was sent to when it was durable; and how many came a second, by turn."""
    waits = [
        [(done_ns - sent_ns(payload)) / 1e6 for done_ns, payloads in seen for payload in payloads]
        for seen in turns
    ]
    per_s = [
        len(each) * NS / (seen[-1][0] - sent_ns(seen[0][1][0]))
        for seen, each in zip(turns, waits, strict=True)
    ]
    commits = sum(map(len, turns))
    return _delays(side, waits, per_s, sum(map(len, waits)) / commits)


def _delays(side: str, turns: Sequence[list[float]], per_s: Sequence[float], per_commit: float) -> Delays:
    waits = [wait for turn in turns for wait in turn]
    # To the nanosecond: between two equal times a quantile comes out a rounding away from them.
    cuts = [round(cut, 6) for cut in quantiles(waits, n=1000, method="inclusive")]
    spread = Spread(median(per_s), min(per_s), max(per_s))
    return Delays(
        side, spread, None, None, len(waits), cuts[499], cuts[989], cuts[998], max(waits), per_commit
    )


def _noted(run: Delays, note: str) -> Delays:
    return structs.replace(run, note=note)


def _bytes_each() -> int:
    return len(bitopro_balance(1, ENTRIES))
