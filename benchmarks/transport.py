"""transport: from the wire to the disk, in time; and how much of it a host that blocks takes away.

Measured from outside: the venue, a process of its own, writes into each frame when it sent it; the ledger here is one
whose intakes look at the clock when `receive_all` returns, which is when the frames are durable. Beside it, in the same
run and folder, the least that durability costs: a bare SQLite commit of one frame.
"""

from __future__ import annotations

import http.client
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import uvicorn
from msgspec import structs
from rich.console import Group

from benchmarks import delays, report, throughput
from benchmarks.commits import COMMITS_MAX, FRAME, PACED, ROWS, commits
from benchmarks.delays import Delays
from benchmarks.extras import NOT_INSTALLED
from benchmarks.frames import bitopro_balance
from benchmarks.measure import NS, Claim, Effort, Result, Run, Unequal
from benchmarks.pusher import ENTRIES, Load, address, pusher, sent_ns
from ledger import Intake, Ledger, Tally, Venue
from ledger.intake import Arrival
from ledger.venues import bitopro
from projections import Balances
from transports import Feed, background, live

if TYPE_CHECKING:
    from fastapi import FastAPI

TURNS: Final = 2
"""Of a host, in each way."""
LOAD_TURNS: Final = 6
"""Of a transport under a load: short ones, with bare commits in between, so that the disk's weather is shared."""
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
CLAIMED: Final = "500/s"
COMMIT_BOUND: Final = 3.0
HOSTS: Final = {
    "sleeps 200 ms": lambda: time.sleep(BLOCKS_S),
    "computes 200 ms": lambda: _compute(BLOCKS_S),
}
"""What the host's blocking handler does: it lets other threads run, or it does not."""
BACKGROUND: Final = "in the background thread"
IN_LOOP: Final = "in its own loop"

Seen: TypeAlias = list[tuple[int, list[bytes]]]
"""When frames were durable (`time.monotonic_ns`), and the frames; commit by commit."""


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
        session = session or secrets.token_hex(12)
        intake = _Clocked(self._appender, venue, account, session, opened_ns, now_ns, lease=None)
        intake.seen = self.seen
        return intake


class _Clocked(Intake):
    seen: Seen

    def receive_all(self, arrivals: Iterable[Arrival]) -> Tally:
        batch = list(arrivals)
        tally = super().receive_all(batch)
        self.seen.append((time.monotonic_ns(), [arrival[0] for arrival in batch]))
        return tally


def cases(effort: Effort) -> int:
    """How many results there will be."""
    return len(LOADS) + len(HOSTS) + throughput.cases(SIDES)


def has_hosts() -> bool:
    """Whether there is a web framework to host a feed."""
    return find_spec("fastapi") is not None


def transport(effort: Effort) -> Iterator[Result]:
    """Each transport under each load; a FastAPI host whose handler blocks; and as fast as they go."""
    with pusher() as url, TemporaryDirectory() as folder:
        for case, (rate, burst) in LOADS.items():
            frames = max(burst, round(rate * TURN_S * effort.rounds) // burst * burst)
            yield _loaded(case, url, Load(rate, burst, frames), Path(folder), effort)
        frames = round(HOST_RATE * HOST_S * effort.rounds)
        yield from _hosted(url, Load(HOST_RATE, 1, frames), Path(folder))
        yield from throughput.throughput(url, Path(folder), effort, SIDES)


def table(results: list[Result]) -> Group:
    """How long from the wire to the disk, then how many a second."""
    waits = [each for each in results if delays.is_of(each)]
    rates = [each for each in results if not delays.is_of(each)]
    return Group(delays.table(waits, "transport: wire to durable"), "", report.table(rates))


# Loads ---------------------------------------------------------------------------------------------------------------


def _loaded(case: str, url: str, load: Load, folder: Path, effort: Effort) -> Result:
    """The transports in turn, each into a ledger of its own, with bare commits in between."""
    warm = Load(load.rate, load.burst, max(load.burst, load.rate // 10))
    turns: dict[str, list[Seen]] = {name: [] for name in SIDES}
    bare: dict[str, list[list[float]]] = {name: [] for name in (FRAME, ROWS, PACED)}
    for name in SIDES:
        _feed(name, address(url, warm), warm.frames, folder)
    pause_s = 0.0 if load.burst > 1 else 1 / load.rate
    number = min(25 * effort.rounds, COMMITS_MAX)
    for turn in range(max(1, min(effort.rounds // 2, LOAD_TURNS))):
        for name in SIDES if turn % 2 == 0 else reversed(SIDES):
            for each, kept in bare.items():
                kept.append(commits(each, number, pause_s, folder))
            turns[name].append(_feed(name, address(url, load), load.frames, folder))
    commit, *others = (delays.delays(name, kept, per_commit=1) for name, kept in bare.items())
    runs: list[Delays] = []
    claims: list[Claim] = []
    for name in SIDES:
        run = _seen(SIDES[name], turns[name])
        ratio = f"p99 is {run.p99_ms / commit.p99_ms:.1f} times a bare commit's"
        if case == CLAIMED:
            text = f"wire to durable at {case}: p99 / a bare commit's p99"
            claims.append(delays.within(text, run.p99_ms, commit.p99_ms, COMMIT_BOUND))
            ratio = f"{ratio}, at most {COMMIT_BOUND:g}: {claims[-1].verdict}"
        runs.append(_noted(run, ratio))
    return Result("transport", case, "frames", _bytes_each(), (*runs, commit, *others), claims=tuple(claims))


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

    from fastapi import FastAPI as App  # of the extra `bench`

    app = App(lifespan=lifespan)

    @app.get("/balances/{account}")
    def balances(account: str) -> dict[str, str | None]:
        return {row.asset_id: row.total for row in Balances(ledger).rows(account)}

    @app.get("/blocks")
    async def blocks() -> str:
        block()
        return "done"

    del balances, blocks  # the app has them
    return app


def _hosted(url: str, load: Load, folder: Path) -> Iterator[Result]:
    """For each way to block: the feed in the background thread and in the host's loop, in turn."""
    for what, block in HOSTS.items():
        case = f"FastAPI whose handler {what} every {EVERY_S:g} s, {load.rate}/s"
        if not has_hosts():
            absent = [Run(side, None, None, None, note=NOT_INSTALLED) for side in (BACKGROUND, IN_LOOP)]
            yield Result("transport", case, "frames", _bytes_each(), tuple(absent))
            continue
        turns: dict[bool, list[Seen]] = {False: [], True: []}
        for turn in range(TURNS):
            for in_loop in (True, False) if turn % 2 == 0 else (False, True):
                turns[in_loop].append(_host(url, load, folder, in_loop, block))
        ours, theirs = _seen(BACKGROUND, turns[False]), _seen(IN_LOOP, turns[True])
        ours = _noted(ours, verdict(theirs.p99_ms / ours.p99_ms))
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
    config = uvicorn.Config(app, port=0, loop="asyncio", log_level="error", lifespan="on", ws="none")
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
    return delays.delays(side, waits, per_s, sum(map(len, waits)) / sum(map(len, turns)))


def _noted(run: Delays, note: str) -> Delays:
    return structs.replace(run, note=note)


def _bytes_each() -> int:
    return len(bitopro_balance(1, ENTRIES))
