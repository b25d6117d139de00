"""WebSocket on asyncio: every case of tests/conformance.py, and asyncio's own cancellation."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import warnings
from asyncio import sslproto
from contextlib import suppress

import pytest
import trustme

from ledger.errors import Lost
from ledger.venue import Endpoint
from tests.blast import CLOSE, TEXT, Peer, Server, closing, numbered
from tests.conformance import (
    SLACK_S,
    Records,
    WebSocketCases,
    authority,
    client_tls,
    everything_logged,
    guard,
    hashes,
    payloads,
    receive_to_the_end,
    server_tls,
)
from transports import asyncio_websocket
from transports.connection import Connection

__all__ = ["authority", "everything_logged"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


UVLOOP = pytest.mark.skipif(
    sys.platform == "win32" or sys.implementation.name != "cpython", reason="there is no uvloop for it"
)
either_loop = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), pytest.param(("asyncio", {"use_uvloop": True}), marks=UVLOOP)],
    ids=["asyncio", "uvloop"],
)


class TestAsyncioWebSocket(WebSocketCases):
    connect = staticmethod(asyncio_websocket.connect)


@UVLOOP
class TestAsyncioWebSocketOnUvloop(WebSocketCases):
    """The event loop that uvicorn takes where it is installed."""

    connect = staticmethod(asyncio_websocket.connect)

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, bool]]:
        return "asyncio", {"use_uvloop": True}


# In these two nothing lets the loop turn between the failure and the look: what the loop would close later is open.


@either_loop
async def test_connecting_that_is_cancelled_leaves_no_socket_open() -> None:
    asked, ended = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        asked.set()
        peer.wait_for_end()
        ended.set()

    async def enter(url: str) -> None:
        try:
            async with asyncio_websocket.connect(Endpoint(url)):
                pytest.fail("there was no answer")
        finally:
            assert ended.wait(SLACK_S)

    with Server(script) as server:
        async with guard():
            task = asyncio.create_task(enter(server.url))
            while not asked.is_set():
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@either_loop
async def test_a_certificate_that_is_refused_leaves_no_socket_open(authority: trustme.CA) -> None:
    tls, server_s = client_tls(authority), server_tls(authority, "elsewhere.example")
    for _ in range(30):  # uvloop: about one of six
        with Server(lambda peer: None, tls=server_s) as server:
            with pytest.raises(Lost, match="TLS: certificate verify failed: "):
                async with guard(), asyncio_websocket.connect(Endpoint(server.url), tls=tls):
                    pass
            left = time.monotonic()
        assert time.monotonic() - left < SLACK_S


@either_loop
async def test_connecting_that_is_cancelled_at_any_moment_leaves_no_socket_open(
    authority: trustme.CA, recwarn: pytest.WarningsRecorder
) -> None:
    tls, server_s = client_tls(authority), server_tls(authority, "127.0.0.1")

    async def enter(url: str) -> None:
        async with asyncio_websocket.connect(Endpoint(url), tls=tls):
            pytest.fail("there was no answer")

    warnings.simplefilter("always", ResourceWarning)
    with Server(lambda peer: peer.wait_for_end(), tls=server_s) as server:
        for step in range(120):
            task = asyncio.create_task(enter(server.url))
            await asyncio.sleep(step * 0.0001)
            task.cancel()
            with suppress(asyncio.CancelledError, Lost):
                await task
    gc.collect()
    assert not [str(each.message) for each in recwarn if each.category is ResourceWarning]


def trickle(peer: Peer) -> None:
    peer.accept()
    for first in range(0, 3000, 20):
        peer.send(numbered(first, first + 20))
        time.sleep(0.0005)
    peer.send(closing(1000))


async def test_a_timeout_of_asyncio_loses_nothing() -> None:
    got: list[bytes] = []
    with Server(trickle) as server:
        async with guard(), asyncio_websocket.connect(Endpoint(server.url)) as connection:
            with suppress(Lost):
                while True:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.0003):
                            got += payloads(await connection.receive())
    assert got == hashes(0, 3000)


async def test_a_receiving_task_that_is_cancelled_loses_nothing() -> None:
    got: list[bytes] = []

    async def take(connection: Connection) -> None:
        got.extend(payloads(await connection.receive()))

    with Server(trickle) as server:
        async with guard(), asyncio_websocket.connect(Endpoint(server.url)) as connection:
            with suppress(Lost):
                while True:
                    task = asyncio.create_task(take(connection))
                    await asyncio.sleep(0.0002)
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
    assert got == hashes(0, 3000)


async def test_native_cancellation_passes_through_and_still_says_goodbye() -> None:
    goodbyes: list[bytes] = []
    entered = asyncio.Event()

    async def body(url: str) -> None:
        async with asyncio_websocket.connect(Endpoint(url)) as connection:
            entered.set()
            await connection.receive()

    with Server(lambda peer: goodbyes.append(peer.accept().read_until(CLOSE))) as server:
        async with guard():
            task = asyncio.create_task(body(server.url))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert goodbyes == [(1000).to_bytes(2, "big")]


async def test_being_cancelled_twice_leaves_no_task_behind() -> None:
    entered = asyncio.Event()
    before = asyncio.all_tasks()

    async def body(url: str) -> None:
        async with asyncio_websocket.connect(Endpoint(url)) as connection:
            entered.set()
            await connection.receive()

    with Server(lambda peer: peer.accept().wait_for_end()) as server:
        async with guard():
            task = asyncio.create_task(body(server.url))
            await entered.wait()
            task.cancel()
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert asyncio.all_tasks() == before


async def test_tls_is_not_closed_twice(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be cut after that; before Python 3.11.3 that raised, and what was still queued was lost."""
    closed: list[int] = []
    close = sslproto._SSLProtocolTransport.close

    def counted(transport: sslproto._SSLProtocolTransport) -> None:
        closed.append(id(transport))
        close(transport)

    monkeypatch.setattr(sslproto._SSLProtocolTransport, "close", counted)
    with Server(
        lambda peer: peer.accept().send(numbered(0, 3) + closing(1001)).wait_for_end(),
        tls=server_tls(authority, "127.0.0.1"),
    ) as server:
        endpoint = Endpoint(server.url)
        async with guard(), asyncio_websocket.connect(endpoint, tls=client_tls(authority)) as connection:
            got, _ = await receive_to_the_end(connection)
    assert got == hashes(0, 3)
    assert len(closed) == 1


async def test_a_debugging_event_loop_shows_no_secret(everything_logged: Records) -> None:
    def script(peer: Peer) -> None:
        peer.accept().send(numbered(0, 10))
        peer.read_until(TEXT)
        peer.send(closing(1000))

    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    try:
        with Server(script) as server:
            endpoint = Endpoint(server.url + "/?key=canary", (("X-Sign", "canary"),))
            async with guard(), asyncio_websocket.connect(endpoint) as connection:
                await connection.send(b"canary")
                await connection.receive()
    finally:
        loop.set_debug(False)
    assert everything_logged.texts
    assert [text for text in everything_logged.texts if "canary" in text] == []
