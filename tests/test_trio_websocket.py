"""WebSocket on trio: every case of tests/conformance.py, and what the raw library does where ours does not hang."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio_websocket as library
from trio.testing import wait_all_tasks_blocked

from ledger.errors import Lost
from ledger.venue import Endpoint
from tests.blast import PING, Peer, Server, closing, frame, numbered
from tests.conformance import WebSocketCases, authority, everything_logged, guard, receive_to_the_end
from transports import Inbox, trio_websocket
from transports import connection as bounds

__all__ = ["authority", "everything_logged"]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


class TestTrioWebSocket(WebSocketCases):
    connect = staticmethod(trio_websocket.connect)


async def test_a_message_that_cannot_even_be_begun_in_time_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "SEND_S", 0.05)
    with Server(lambda peer: peer.accept().wait_for_end()) as server:
        async with guard(), trio_websocket.connect(Endpoint(server.url)) as connection:

            async def write_for_ever() -> None:
                async with connection._tap._writing:  # type: ignore[attr-defined]
                    await trio.sleep_forever()

            async with trio.open_nursery() as another:
                another.start_soon(write_for_ever)
                await wait_all_tasks_blocked()
                with pytest.raises(Lost, match=r"^a message could not be sent within 0\.05 s"):
                    await connection.send(b"x")
                another.cancel_scope.cancel()
            _, error = await receive_to_the_end(connection)
    assert str(error) == "a message could not be sent within 0.05 s"


async def test_an_exception_in_a_group_of_the_body_keeps_its_group() -> None:
    with Server(lambda peer: peer.accept().wait_for_end()) as server, pytest.raises(ExceptionGroup) as caught:
        async with guard(), trio_websocket.connect(Endpoint(server.url)):
            raise ExceptionGroup("of the body", [KeyError("own")])
    assert caught.value.message == "of the body"


@pytest.mark.parametrize("own", [Lost("what came of it"), ValueError("the host's own")])
async def test_an_interrupt_that_strikes_the_reader_is_raised_whatever_the_body_raises(
    own: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        go.wait(5)
        peer.send(numbered(0, 1)).wait_for_end()

    def struck(*_: object) -> None:
        raise KeyboardInterrupt

    async def body(server: Server) -> None:
        async with guard(), trio_websocket.connect(Endpoint(server.url)) as connection:
            monkeypatch.setattr(Inbox, "put", struck)
            go.set()
            try:
                await connection.receive()
            except Lost:
                raise own from None

    with Server(lambda peer: script(peer.accept())) as server, pytest.raises(KeyboardInterrupt):
        await body(server)


async def test_a_pong_that_cannot_be_sent_does_not_cost_the_messages_behind_the_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer pings, sends on and resets; the pong fails while the messages are still to be read."""
    monkeypatch.setattr(bounds, "INBOX_FRAMES_MAX", 1)
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(numbered(0, 50) + frame(PING, b"?") + numbered(50, 100))
        go.wait(5)
        peer.reset()

    with Server(lambda peer: script(peer.accept())) as server:
        async with guard(), trio_websocket.connect(Endpoint(server.url)) as connection:
            while connection.silent_s() > 0:
                await trio.sleep(0.005)
            go.set()
            await trio.sleep(0.05)
            got, error = await receive_to_the_end(connection)
    assert str(error) == "connection reset"
    assert got == [b"#%d" % number for number in range(100)]


# Why the library is held as it is: each hangs until the guard, with the library alone --------------------------------


async def raw(server: Server, then: Callable[[library.WebSocketConnection], Awaitable[object]]) -> bool:
    """Whether the library alone, with a little patience, is stuck when left."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    with trio.move_on_after(0.3) as scope:
        async with trio.open_nursery() as nursery:
            websocket = await library.wrap_client_stream(nursery, stream, "127.0.0.1", "/")
            await then(websocket)
            await websocket.aclose()
    await trio.aclose_forcefully(stream)
    return scope.cancelled_caught


async def pause(websocket: library.WebSocketConnection) -> None:
    await trio.sleep(0.05)


async def test_raw_leaving_after_a_reset_on_a_full_queue_hangs() -> None:
    with Server(lambda peer: (peer.accept().send(numbered(0, 50)), peer.reset())) as server:
        assert await raw(server, pause)


async def test_raw_leaving_after_a_close_that_keeps_the_socket_open_hangs() -> None:
    async def receive(websocket: library.WebSocketConnection) -> None:
        with pytest.raises(library.ConnectionClosed):
            await websocket.get_message()

    with Server(lambda peer: (peer.accept().send(closing(4001)), peer.wait_for_end())) as server:
        assert await raw(server, receive)


async def test_raw_an_end_before_the_answer_hangs() -> None:
    with Server(lambda peer: (peer.read_head(), peer.close())) as server:
        assert await raw(server, pause)
