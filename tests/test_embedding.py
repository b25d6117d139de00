"""accountledger inside other programs: trio, asyncio, FastAPI, plain code. Real sockets, real threads, real HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import pytest
import trio
import uvicorn
from fastapi import FastAPI

import ledger
from ledger import Ledger
from ledger.events import SessionClosed
from ledger.venues import bitopro
from projections import Balances
from tests.exchanges import BitoPro
from transports import Background, Feed, Live, background, live

PATIENCE_S: Final = 10.0
EXACT: Final = "999999999999.999999990000000000"


@pytest.fixture
def exchange() -> Generator[BitoPro]:
    with BitoPro() as exchange:
        exchange.set("ADA", EXACT)
        yield exchange


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def feed_of(exchange: BitoPro, account: str = "main", secret: str | None = None) -> Feed:
    return Feed(
        bitopro,
        account,
        identity=exchange.identity,
        key=exchange.key,
        secret=secret or exchange.secret,
        url=exchange.ws,
    )


@pytest.mark.sqlite
def test_what_is_public_is_there_when_it_is_asked_for_and_nothing_else_is() -> None:
    loaded = "import sys, ledger; print('ledger.ledger' in sys.modules, ledger.errors.Lost is ledger.Lost)"
    ran = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert ran.stdout == "False True\n"
    for name in ledger.__all__:
        assert getattr(ledger, name).__name__ == name
        assert getattr(ledger, name) is vars(import_module(getattr(ledger, name).__module__))[name]
    assert {*ledger.__all__} <= {*dir(ledger)}
    assert not hasattr(ledger, "Leger")


def until(true: Callable[[], bool]) -> None:
    """Wait in a thread until something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.005)


async def until_live(running: Live, frames: int = 1) -> None:
    """Wait on an event loop until every feed is live and has stored so many frames."""
    with anyio.fail_after(PATIENCE_S):
        for each in range(len(running.health())):
            while running.health()[each].frames < frames or running.health()[each].state != "live":
                await anyio.sleep(0.005)


def sent(exchange: BitoPro, at: int = 0) -> list[bytes]:
    """What the exchange sent on a connection."""
    return [each if isinstance(each, bytes) else each.encode() for each in exchange.connections[at].sent]


def stored(path: Path, account: str = "bitopro:main") -> tuple[list[bytes], list[SessionClosed]]:
    """The frames of an account as they are in the file, in order, and how its sessions ended."""
    with Ledger(path, read_only=True) as ledger:
        entries = list(ledger.replay(account))
        frames = [frame for each in entries if (frame := ledger.evidence(each)) is not None]
        return frames, [each.event for each in entries if isinstance(each.event, SessionClosed)]


# In a FastAPI program ------------------------------------------------------------------------------------------------


class Host:
    """The example of the README served by uvicorn in a thread, with a handler that blocks its loop until told."""

    def __init__(self, path: Path, feed: Feed, *, in_loop: bool) -> None:
        self.feed = feed
        self.entered = threading.Event()
        self.release = threading.Event()
        self._in_loop = in_loop
        self._ledger = Ledger(path)
        self._running: Live | Background | None = None
        config = uvicorn.Config(self._app(), port=0, log_level="error", lifespan="on", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Host:
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive())
        self._port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            return json.loads(body)
        finally:
            connection.close()

    def _app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
            with self._ledger as ledger:
                if self._in_loop:
                    async with live(ledger, self.feed) as self._running:
                        yield
                else:
                    with background(ledger, self.feed) as self._running:
                        yield

        app = FastAPI(lifespan=lifespan)
        app.get("/balances/{account}")(self.balances)
        app.get("/health")(self.health)
        app.get("/blocks")(self.blocks)
        return app

    def balances(self, account: str) -> dict[str, str | None]:
        return {row.asset: row.total for row in Balances(self._ledger).rows(account)}

    def health(self) -> Any:
        assert self._running is not None
        return msgspec.to_builtins(self._running.health())

    async def blocks(self) -> bool:
        self.entered.set()
        return self.release.wait(PATIENCE_S)


@pytest.mark.parametrize("in_loop", [True, False], ids=["in its loop", "in the background"])
def test_a_fastapi_program_answers_exact_balances_while_feeds_run_and_stores_all_when_it_ends(
    exchange: BitoPro, path: Path, in_loop: bool
) -> None:
    with Host(path, feed_of(exchange), in_loop=in_loop) as host:
        until(lambda: host.get("/balances/bitopro:main") == {"ADA": EXACT})
        exchange.set("BTC", "0.000000010000000000")
        until(lambda: host.get("/balances/bitopro:main") == {"ADA": EXACT, "BTC": "0.000000010000000000"})
        (health,) = host.get("/health")
        assert ("bitopro:main", "live", 2) == (health["account"], health["state"], health["frames"])
    assert "stopped" == host.feed.health.state
    frames, (closed,) = stored(path)
    assert sent(exchange) == frames
    assert ("stopped", 2) == (closed.cause, closed.frames)
    assert not exchange.live


@pytest.mark.parametrize("in_loop", [True, False], ids=["in its loop", "in the background"])
def test_many_may_ask_for_balances_at_once_while_they_change(
    exchange: BitoPro, path: Path, in_loop: bool
) -> None:
    with Host(path, feed_of(exchange), in_loop=in_loop) as host, ThreadPoolExecutor(6) as pool:
        until(lambda: host.feed.health.frames == 1)
        asked = [pool.submit(host.get, "/balances/bitopro:main") for _ in range(30)]
        for number in range(30):
            exchange.set("ADA", f"{number}.50")
        told = {each.result()["ADA"] for each in asked}
        assert told <= {EXACT, *(f"{number}.50" for number in range(30))}
        until(lambda: host.get("/balances/bitopro:main") == {"ADA": "29.50"})
    assert sent(exchange) == stored(path)[0]


def test_a_handler_that_blocks_the_host_delays_no_frame_in_the_background(
    exchange: BitoPro, path: Path
) -> None:
    with Host(path, feed_of(exchange), in_loop=False) as host, ThreadPoolExecutor(1) as pool:
        until(lambda: host.feed.health.frames == 1)
        blocked = pool.submit(host.get, "/blocks")
        assert host.entered.wait(PATIENCE_S)
        for number in range(20):
            exchange.set("ADA", f"{number}")
        until(lambda: host.feed.health.recorded == 21)
        assert not blocked.done()
        host.release.set()
        assert blocked.result() is True


@pytest.mark.parametrize("in_loop", [True, False], ids=["in its loop", "in the background"])
def test_a_host_that_ends_while_frames_come_stores_what_it_received(
    exchange: BitoPro, path: Path, in_loop: bool
) -> None:
    over = threading.Event()

    def push() -> None:
        number = 0
        while not over.is_set():
            number += 1
            exchange.set("ADA", f"{number}")
            time.sleep(0.0005)

    with ThreadPoolExecutor(1) as pool:
        with Host(path, feed_of(exchange), in_loop=in_loop) as host:
            pushing = pool.submit(push)
            until(lambda: host.feed.health.frames > 20)
        over.set()
        pushing.result()
    frames, (closed,) = stored(path)
    assert sent(exchange)[: len(frames)] == frames
    assert "stopped" == closed.cause
    assert len(frames) == closed.frames == host.feed.health.frames > 20
    assert 0 == host.feed.health.unstored


# In a trio program, in an asyncio program ----------------------------------------------------------------------------


@pytest.mark.parametrize("run", [trio.run, lambda main: asyncio.run(main())], ids=["trio", "asyncio"])
class TestLive:
    """The same program, on either loop."""

    def test_a_program_goes_on_beside_its_feeds(
        self, exchange: BitoPro, path: Path, run: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> None:
        async def main() -> None:
            with Ledger(path) as ledger:
                async with live(ledger, feed_of(exchange)) as running:
                    await until_live(running)
                assert EXACT == str(Balances(ledger)["bitopro:main"]["ADA"].total)

        run(main)
        assert ["stopped"] == [each.cause for each in stored(path)[1]]

    def test_an_exception_of_the_body_comes_out_as_it_is(
        self, exchange: BitoPro, path: Path, run: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> None:
        async def main() -> None:
            with Ledger(path) as ledger:
                async with live(ledger, feed_of(exchange)) as running:
                    await until_live(running)
                    raise KeyError("of the host")

        with pytest.raises(KeyError, match="of the host"):
            run(main)
        frames, (closed,) = stored(path)
        assert sent(exchange) == frames
        assert "stopped" == closed.cause

    def test_a_group_of_exceptions_of_the_body_comes_out_as_it_is(
        self, exchange: BitoPro, path: Path, run: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> None:
        group = ExceptionGroup("of the host", [ValueError("one")])

        async def main() -> None:
            with Ledger(path) as ledger:
                async with live(ledger, feed_of(exchange)):
                    raise group

        with pytest.raises(ExceptionGroup, match="of the host") as raised:
            run(main)
        assert group is raised.value

    def test_a_feed_that_is_refused_ends_alone(
        self, exchange: BitoPro, path: Path, run: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> None:
        good, bad = feed_of(exchange), feed_of(exchange, "other", "test-wrong-secret")

        async def main() -> None:
            with Ledger(path) as ledger:
                async with live(ledger, bad, good) as running:
                    with anyio.fail_after(PATIENCE_S):
                        while bad.health.state != "refused" or good.health.frames < 1:
                            await anyio.sleep(0.005)
                    assert "HTTP 401" in bad.health.reason
                    exchange.set("ADA", "1")
                    with anyio.fail_after(PATIENCE_S):
                        while good.health.frames < 2:
                            await anyio.sleep(0.005)
                    assert ["refused", "live"] == [each.state for each in running.health()]
                    assert 3 == exchange.logins_refused

        run(main)
        assert ["refused", "stopped"] == [bad.health.state, good.health.state]
        assert 2 == len(stored(path)[0])

    def test_feeds_can_be_stopped_and_waited_for(
        self, exchange: BitoPro, path: Path, run: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> None:
        async def main() -> None:
            with Ledger(path) as ledger:
                feeds = [feed_of(exchange, account) for account in ("one", "two")]
                async with live(ledger, *feeds) as running:
                    await until_live(running)
                    running.stop("stopped: at night")
                    running.stop("stopped: again")
                    with anyio.fail_after(PATIENCE_S):
                        await running.ended()

        run(main)
        for account in ("bitopro:one", "bitopro:two"):
            assert ["stopped: at night"] == [each.cause for each in stored(path, account)[1]]


def test_a_trio_program_cancels_its_feeds_by_the_scope_around_them(exchange: BitoPro, path: Path) -> None:
    async def main() -> None:
        with Ledger(path) as ledger, trio.CancelScope() as scope:
            async with live(ledger, feed_of(exchange)) as running:
                await until_live(running)
                scope.cancel()
                await trio.sleep(PATIENCE_S)
        assert scope.cancelled_caught

    trio.run(main)
    assert sent(exchange) == stored(path)[0]


# Cancelled by asyncio's own means ------------------------------------------------------------------------------------


@contextmanager
def busy(ledger: Ledger, exchange: BitoPro, frames: int) -> Generator[None]:
    """While the body runs the store is busy and these frames wait in the memory of the feed."""
    with ledger._appender._writing():
        for number in range(frames):
            exchange.set("ADA", f"{number}.50")
        exchange.ping()  # answered after what was sent before it was read
        yield


def test_a_host_task_cancelled_by_asyncio_itself_stores_all_it_received(
    exchange: BitoPro, path: Path
) -> None:
    async def host(ledger: Ledger, ready: asyncio.Event) -> None:
        async with live(ledger, feed_of(exchange)) as running:
            await until_live(running)
            ready.set()
            await asyncio.sleep(PATIENCE_S)

    def fill(ledger: Ledger, filled: threading.Event, cancelled: threading.Event) -> None:
        with busy(ledger, exchange, 10):
            filled.set()
            cancelled.wait(PATIENCE_S)

    async def main() -> None:
        ready, filled, cancelled = asyncio.Event(), threading.Event(), threading.Event()
        with Ledger(path) as ledger:
            task = asyncio.create_task(host(ledger, ready))
            await asyncio.wait_for(ready.wait(), PATIENCE_S)
            filling = asyncio.create_task(asyncio.to_thread(fill, ledger, filled, cancelled))
            await asyncio.to_thread(filled.wait, PATIENCE_S)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()  # a host in a hurry
            await asyncio.sleep(0.01)
            cancelled.set()
            await filling
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(main())
    frames, (closed,) = stored(path)
    assert 11 == len(frames) == closed.frames
    assert sent(exchange) == frames
    assert "stopped" == closed.cause


def test_a_host_under_asyncio_timeout_gets_its_timeout_error_and_has_all_it_received(
    exchange: BitoPro, path: Path
) -> None:
    feed = feed_of(exchange)

    async def main() -> None:
        with Ledger(path) as ledger:
            async with asyncio.timeout(PATIENCE_S) as timeout, live(ledger, feed) as running:
                await until_live(running)
                for number in range(100):
                    exchange.set("ADA", f"{number}.50")
                timeout.reschedule(asyncio.get_running_loop().time() + 0.02)
                await asyncio.sleep(PATIENCE_S)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert 0 == feed.health.unstored
    frames, (closed,) = stored(path)
    assert sent(exchange)[: len(frames)] == frames
    assert closed.frames == len(frames) >= 1


def test_a_host_in_an_asyncio_task_group_does_not_see_a_feed_as_one_of_its_failures(
    exchange: BitoPro, path: Path
) -> None:
    async def main() -> None:
        with Ledger(path) as ledger:
            async with asyncio.TaskGroup() as tasks, live(ledger, feed_of(exchange)) as running:
                await until_live(running)
                exchange.reset_all()
                await tasks.create_task(asyncio.sleep(0.01))
                with anyio.fail_after(PATIENCE_S):
                    await until_live(running, 2)

    asyncio.run(main())
    assert 2 == len(stored(path)[1])


# In plain code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_plain_code_runs_feeds_in_the_background(exchange: BitoPro, path: Path, loop: str) -> None:
    with Ledger(path) as ledger:
        with background(ledger, feed_of(exchange), loop=loop) as running:
            until(lambda: running.health()[0].frames == 1)
            assert EXACT == str(Balances(ledger)["bitopro:main"]["ADA"].total)
        assert "stopped" == running.health()[0].state
    assert sent(exchange) == stored(path)[0]


def test_an_exception_of_plain_code_comes_out_as_it_is(exchange: BitoPro, path: Path) -> None:
    error = KeyError("of the host")

    def program() -> None:
        with Ledger(path) as ledger, background(ledger, feed_of(exchange)) as running:
            until(lambda: running.health()[0].frames == 1)
            raise error

    with pytest.raises(KeyError) as raised:
        program()
    assert error is raised.value
    assert ["stopped"] == [each.cause for each in stored(path)[1]]


def test_feeds_in_the_background_may_be_stopped_twice_and_by_any_thread(
    exchange: BitoPro, path: Path
) -> None:
    with (
        Ledger(path) as ledger,
        background(ledger, feed_of(exchange)) as running,
        ThreadPoolExecutor(4) as pool,
    ):
        until(lambda: running.health()[0].frames == 1)
        assert {"live"} == {
            each.result()[0].state for each in [pool.submit(running.health) for _ in range(8)]
        }
        for each in [pool.submit(running.stop, "stopped: by hand") for _ in range(4)]:
            each.result(PATIENCE_S)
        assert "stopped" == running.health()[0].state
        running.stop("stopped: again")
    assert ["stopped: by hand"] == [each.cause for each in stored(path)[1]]


# On the way out ------------------------------------------------------------------------------------------------------

Run = Callable[[Callable[[], Awaitable[None]]], None]
BOTH = pytest.mark.parametrize("run", [trio.run, lambda main: asyncio.run(main())], ids=["trio", "asyncio"])


@BOTH
def test_a_feed_is_stopped_also_when_the_body_raised(exchange: BitoPro, path: Path, run: Run) -> None:
    feed = feed_of(exchange)

    async def main() -> None:
        with Ledger(path) as ledger:
            async with live(ledger, feed) as running:
                await until_live(running)
                raise KeyError("of the host")

    with pytest.raises(KeyError):
        run(main)
    assert "stopped" == feed.health.state


def test_a_feed_is_stopped_also_when_its_host_was_cancelled(exchange: BitoPro, path: Path) -> None:
    feed = feed_of(exchange)

    async def main() -> None:
        with Ledger(path) as ledger, trio.CancelScope() as scope:
            async with live(ledger, feed) as running:
                await until_live(running)
                scope.cancel()
                await trio.sleep(5)

    trio.run(main)
    assert "stopped" == feed.health.state


@BOTH
def test_the_cause_of_an_exception_of_the_body_is_kept(exchange: BitoPro, path: Path, run: Run) -> None:
    cause = ValueError("why")

    async def main() -> None:
        with Ledger(path) as ledger:
            async with live(ledger, feed_of(exchange)):
                raise KeyError("of the host") from cause

    with pytest.raises(KeyError) as raised:
        run(main)
    assert cause is raised.value.__cause__


@BOTH
def test_a_ledger_that_is_closed_fails_the_feed_and_nothing_else(
    exchange: BitoPro, path: Path, run: Run
) -> None:
    feed = feed_of(exchange)

    async def main() -> None:
        with Ledger(path) as ledger:
            ledger.close()
            async with live(ledger, feed) as running:
                await running.ended()

    run(main)
    assert ("failed", True) == (feed.health.state, "closed" in feed.health.reason)


def test_feeds_in_the_background_may_be_stopped_after_they_have_ended(exchange: BitoPro, path: Path) -> None:
    with Ledger(path) as ledger:
        with background(ledger, feed_of(exchange)) as running:
            until(lambda: running.health()[0].frames == 1)
        running.stop()
