"""What every WebSocket transport owes, as cases to be inherited: tests/test_trio_websocket.py and
tests/test_asyncio_websocket.py run each of them over theirs, against tests/blast.py on the loopback.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

import anyio
import pytest
import trustme

from ledger.errors import ConversationError, Lost, Rejected
from ledger.intake import Arrival
from ledger.venue import Endpoint
from tests.blast import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    Script,
    Server,
    closing,
    frame,
    numbered,
    text,
)
from transports import connection as bounds
from transports.connection import Connection, ConnectTls, websocket_for_running_loop

GUARD_S = 8.0
"""Nothing here takes longer: what does, hangs."""
SLACK_S = 0.7
"""On a busy machine."""


@asynccontextmanager
async def guard() -> AsyncGenerator[None]:
    with anyio.fail_after(GUARD_S):
        yield


async def receive_to_the_end(connection: Connection) -> tuple[list[bytes], ConversationError]:
    """All payloads until the end, and what ended it."""
    payloads: list[bytes] = []
    while True:
        try:
            payloads += [arrival[0] for arrival in await connection.receive()]
        except ConversationError as error:
            return payloads, error


def payloads(arrivals: Sequence[Arrival]) -> list[bytes]:
    return [arrival[0] for arrival in arrivals]


def hashes(first: int, last: int) -> list[bytes]:
    return [b"#%d" % number for number in range(first, last)]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = bounds.verifying()
    authority.configure_trust(context)
    return context


class Records(logging.Handler):
    """Every log record, as text with everything that hangs on it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record) + repr(record.__dict__))


@pytest.fixture
def everything_logged() -> Iterator[Records]:
    """DEBUG on every logger there is, and a handler at the root."""
    records = Records()
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(records)
    yield records
    logging.getLogger().removeHandler(records)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


class WebSocketCases:
    """One case a method. `connect` is the transport."""

    connect: ClassVar[ConnectTls]

    @pytest.fixture(autouse=True)
    def little_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Most servers here do not answer a closing frame."""
        monkeypatch.setattr(bounds, "CLOSE_S", 0.3)

    async def ended_by(self, script: Script) -> tuple[list[bytes], ConversationError]:
        """What is received from a server that accepts and then does this."""
        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                return await receive_to_the_end(connection)

    async def refused_by(self, script: Script) -> ConversationError:
        """What entering raises where the server does this with the request."""
        with Server(script) as server:
            with pytest.raises(ConversationError) as caught:
                async with guard(), self.connect(Endpoint(server.url)):
                    pass
            return caught.value

    # Receiving ---------------------------------------------------------------------------------------------------

    async def test_the_running_loop_chooses_this_transport(self) -> None:
        assert websocket_for_running_loop() is self.connect

    async def test_a_burst_arrives_complete_and_in_order(self) -> None:
        got, error = await self.ended_by(lambda peer: peer.send(numbered(0, 3000) + closing(1001)))
        assert got == hashes(0, 3000)
        assert isinstance(error, Lost)
        assert str(error) == "closed by the venue: 1001 going away"

    async def test_receiving_under_ceaseless_cancellation_loses_nothing(self) -> None:
        def script(peer: Peer) -> None:
            for first in range(0, 3000, 20):
                peer.send(numbered(first, first + 20))
                time.sleep(0.0005)
            peer.send(closing(1000))

        got: list[bytes] = []
        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                with suppress(Lost):
                    while True:
                        with anyio.move_on_after(0.0003):
                            got += payloads(await connection.receive())
        assert got == hashes(0, 3000)

    async def test_what_came_before_a_reset_is_delivered_first(self) -> None:
        """The reset waits until everything has crossed the wire: what the kernel itself discards nobody can have."""

        def script(peer: Peer) -> None:
            peer.send(numbered(0, 999))
            peer.read_until(TEXT)
            peer.reset()

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                first = payloads(await connection.receive())
                await connection.send(b"reset, please")
                rest, error = await receive_to_the_end(connection)
        assert first + rest == hashes(0, 999)
        assert isinstance(error, Lost)
        assert str(error) == "connection reset"

    async def test_a_message_may_come_in_fragments_with_a_ping_between(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(frame(TEXT, b'{"a":', fin=False) + frame(PING, b"?") + frame(0, b'"\xc3', fin=False))
            time.sleep(0.02)
            peer.send(frame(0, b'\xa9"}') + frame(BINARY, b"\x00\xff") + closing(1000))

        got, _ = await self.ended_by(script)
        assert got == ['{"a":"é"}'.encode(), b"\x00\xff"]

    async def test_what_comes_with_the_answer_comes_first(self) -> None:
        with Server(
            lambda peer: peer.accept(numbered(0, 500)).send(numbered(500, 600) + closing(1000))
        ) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                got, _ = await receive_to_the_end(connection)
        assert hashes(0, 600) == got

    @pytest.mark.parametrize("room", [1, 3, 4096])
    async def test_whole_messages_and_those_in_pieces_keep_their_order(
        self, room: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where each waits for room, and the consumer comes and goes."""
        monkeypatch.setattr(bounds, "INBOX_FRAMES_MAX", room)
        said = b""
        for number in range(200):
            pieces = number % 7 % 3  # none, one or two of them before the last
            said += frame(TEXT, b"#", fin=False) * (pieces > 0) + frame(0, b"", fin=False) * (pieces > 1)
            said += frame(0, b"%d" % number) if pieces else text(b"#%d" % number)
        got: list[bytes] = []
        with Server(lambda peer: peer.accept().send(said + closing(1000))) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                with suppress(Lost):
                    while True:
                        with anyio.move_on_after(0.0003):
                            got += payloads(await connection.receive())
                        await anyio.sleep(0.001 if len(got) % 5 == 0 else 0)
        assert hashes(0, 200) == got

    async def test_an_arrival_says_when_it_came(self) -> None:
        before = time.time_ns()
        with Server(lambda peer: (peer.accept().send(text(b"now")), peer.wait_for_end())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                ((_, received_ns, *_),) = await connection.receive()
        assert before <= received_ns <= time.time_ns()

    async def test_a_slow_consumer_bounds_memory_and_not_the_pongs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """60 KB messages: pings are answered while there is room; then the socket fills, not the memory."""
        monkeypatch.setattr(bounds, "INBOX_BYTES_MAX", 2_000_000)
        message = text(b"x" * 60_000)
        answered, blocked = threading.Event(), threading.Event()

        def script(peer: Peer) -> None:
            peer.send(message * 20 + frame(PING, b"still there?"))
            if peer.read_until(PONG) == b"still there?":
                answered.set()
            for _ in range(1000):
                peer.send(message)
            blocked.set()

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                while not answered.is_set():
                    await anyio.sleep(0.005)
                while connection.silent_s() > 0:
                    await anyio.sleep(0.005)
                await anyio.sleep(0.1)
                assert connection.silent_s() == 0
                assert not blocked.is_set()
                held = sum(map(len, payloads(connection.leftovers())))
        assert 2_000_000 <= held <= 2_060_000

    # The end -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("said", "cause"),
        [
            (closing(1001), "closed by the venue: 1001 going away"),
            (closing(4001, "log in again"), "closed by the venue: 4001 log in again"),
            (
                closing(1008, "one\x1b[31m\nline" + "e" * 99),
                "closed by the venue: 1008 one�[31m�line" + "e" * 99,
            ),
            (frame(CLOSE, b""), "closed by the venue, no code given"),
            (b"", "connection ended without a closing frame"),
            (frame(3, b"what?"), "protocol error: 1002"),
            (b"\xc1\x01x", "protocol error: 1002"),
            (frame(TEXT, b"\xc3\x28"), "protocol error: 1007"),
        ],
    )
    async def test_the_end_says_why_after_what_came_before_it(self, said: bytes, cause: str) -> None:
        got, error = await self.ended_by(lambda peer: (peer.send(numbered(0, 3) + said), peer.close()))
        assert got == hashes(0, 3)
        assert isinstance(error, Lost)
        assert str(error).startswith(cause)

    async def test_a_message_that_is_too_large_ends_the_connection(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "MESSAGE_BYTES_MAX", 1000)
        got, error = await self.ended_by(
            lambda peer: (peer.send(text(b"x" * 1000) + text(b"x" * 1001)), peer.wait_for_end())
        )
        assert got == [b"x" * 1000]
        assert str(error) == "a message of more than 1000 bytes"

    async def test_the_bound_of_a_message_counts_bytes_and_fragments(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "MESSAGE_BYTES_MAX", 1000)
        said = frame(TEXT, "é".encode() * 300, fin=False) + frame(0, "é".encode() * 300)
        got, error = await self.ended_by(lambda peer: (peer.send(said), peer.wait_for_end()))
        assert got == []
        assert str(error) == "a message of more than 1000 bytes"

    async def test_a_closing_frame_ends_it_though_the_socket_stays_open(self) -> None:
        """Row 2 of what hangs trio-websocket for ever; websockets waits for the socket just as long."""
        left = threading.Event()

        def script(peer: Peer) -> None:
            peer.send(numbered(0, 3) + closing(4001, "bye"))
            left.wait(5)

        with Server(lambda peer: script(peer.accept())) as server:
            started = time.monotonic()
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                got, error = await receive_to_the_end(connection)
            took = time.monotonic() - started
            left.set()
        assert got == hashes(0, 3)
        assert str(error) == "closed by the venue: 4001 bye"
        assert took < bounds.CLOSE_S + SLACK_S

    # Leaving -----------------------------------------------------------------------------------------------------

    async def test_what_was_not_received_is_left_over(self) -> None:
        with Server(lambda peer: (peer.accept().send(numbered(0, 2000)), peer.wait_for_end())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                first = payloads(await connection.receive())
                await anyio.sleep(0.3)
            rest = payloads(connection.leftovers())
        assert first + rest == hashes(0, 2000)
        assert connection.leftovers() == []

    async def test_nothing_is_lost_of_a_full_inbox(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the library below still holds when we leave comes after what the inbox holds, without a gap."""
        monkeypatch.setattr(bounds, "INBOX_FRAMES_MAX", 50)
        with Server(lambda peer: (peer.accept().send(numbered(0, 2000)), peer.wait_for_end())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                while connection.silent_s() > 0:
                    await anyio.sleep(0.005)
            rest = payloads(connection.leftovers())
        assert len(rest) >= 50
        assert rest == hashes(0, len(rest))

    async def test_leaving_says_goodbye(self) -> None:
        goodbyes: list[bytes] = []

        def script(peer: Peer) -> None:
            goodbyes.append(peer.read_until(CLOSE))
            peer.send(closing(1000))

        with Server(lambda peer: script(peer.accept())) as server:
            started = time.monotonic()
            async with guard(), self.connect(Endpoint(server.url)):
                pass
            took = time.monotonic() - started
        assert goodbyes == [(1000).to_bytes(2, "big")]
        assert took < bounds.CLOSE_S / 2 + SLACK_S

    async def test_leaving_a_server_that_goes_on_sending_is_quick_and_quiet(self) -> None:
        def script(peer: Peer) -> None:
            while True:
                peer.send(numbered(0, 1000))

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await connection.receive()
                started = time.monotonic()
            took = time.monotonic() - started
        assert took < bounds.CLOSE_S + SLACK_S

    async def test_leaving_after_a_reset_with_the_consumer_behind_is_quick(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Row 1 of what hangs trio-websocket for ever: the reader waits on a full queue, and the peer resets."""
        monkeypatch.setattr(bounds, "INBOX_FRAMES_MAX", 10)
        go = threading.Event()

        def script(peer: Peer) -> None:
            peer.send(numbered(0, 2000))
            go.wait(5)
            peer.reset()

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                while connection.silent_s() > 0:
                    await anyio.sleep(0.005)
                go.set()
                await anyio.sleep(0.05)
                started = time.monotonic()
            took = time.monotonic() - started
            rest = payloads(connection.leftovers())
        assert took < bounds.CLOSE_S + SLACK_S
        assert rest == hashes(0, len(rest))

    async def test_leaving_a_server_that_pings_while_we_close_is_quiet(self) -> None:
        """Row 4: trio-websocket raises LocalProtocolError for it (its issue 184)."""

        def script(peer: Peer) -> None:
            peer.read_until(CLOSE)
            peer.send(frame(PING, b"?") * 3)
            time.sleep(0.02)
            peer.send(frame(PING, b"?") + closing(1000))

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)):
                pass

    async def test_leaving_a_server_that_does_not_answer_takes_the_bound(self) -> None:
        with Server(lambda peer: peer.accept().wait_for_end()) as server:
            async with guard(), self.connect(Endpoint(server.url)):
                started = time.monotonic()
            took = time.monotonic() - started
        assert took < bounds.CLOSE_S + SLACK_S

    async def test_an_exception_in_the_body_leaves_as_itself(self) -> None:
        own = ZeroDivisionError("of the body")
        connections: list[Connection] = []

        async def leave_by_it(url: str) -> None:
            async with guard(), self.connect(Endpoint(url)) as connection:
                connections.append(connection)
                await connection.receive()
                raise own

        with (
            Server(lambda peer: peer.accept().send(numbered(0, 5000))) as server,
            pytest.raises(ZeroDivisionError) as caught,
        ):
            await leave_by_it(server.url)
        assert caught.value is own
        assert connections[0].leftovers() != []

    async def test_the_end_raised_in_the_body_leaves_as_itself(self) -> None:
        with (
            Server(lambda peer: peer.accept().send(closing(1012))) as server,
            pytest.raises(Lost, match="1012 service restart"),
        ):
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await connection.receive()

    async def test_cancellation_passes_through_and_still_says_goodbye(self) -> None:
        goodbyes: list[bytes] = []

        def script(peer: Peer) -> None:
            goodbyes.append(peer.read_until(CLOSE))

        after = False
        with Server(lambda peer: script(peer.accept())) as server:
            async with guard():
                with anyio.CancelScope() as scope:
                    async with self.connect(Endpoint(server.url)) as connection:
                        scope.cancel()
                        await connection.receive()
                    after = True
        assert scope.cancelled_caught
        assert not after
        assert goodbyes == [(1000).to_bytes(2, "big")]

    async def test_cancellation_while_connecting_passes_through(self) -> None:
        with Server(lambda peer: peer.wait_for_end()) as server:
            async with guard():
                with anyio.move_on_after(0.05) as scope:
                    async with self.connect(Endpoint(server.url)):
                        pytest.fail("there was no answer")
        assert scope.cancelled_caught

    async def test_nothing_can_be_sent_after_leaving(self) -> None:
        with Server(lambda peer: (peer.accept().read_until(CLOSE), peer.send(closing(1000)))) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                pass
            with pytest.raises(Lost):
                await connection.send(b"too late")
            with pytest.raises(Lost):
                await connection.ping()

    # Connecting --------------------------------------------------------------------------------------------------

    async def test_a_refused_port_is_lost(self) -> None:
        with Server(lambda peer: None) as server:
            pass
        with pytest.raises(Lost, match=r"^ws://127\.0\.0\.1:\d+/path: connection refused$"):
            async with guard(), self.connect(Endpoint(server.url + "/path?api_key=x")):
                pass

    @pytest.mark.parametrize("how", ["reset", "close"])
    async def test_an_end_before_the_answer_is_lost_at_once(self, how: str) -> None:
        """Row 3: trio-websocket waits its whole timeout."""
        started = time.monotonic()
        error = await self.refused_by(lambda peer: (peer.read_head(), getattr(peer, how)()))
        assert time.monotonic() - started < SLACK_S
        assert isinstance(error, Lost)
        assert str(error).endswith(("connection reset", "connection ended before an answer"))

    @pytest.mark.parametrize("body", [b"", b"x" * 2_000_000], ids=["head", "endless body"])
    async def test_an_answer_cut_short_ends_the_wait(self, body: bytes) -> None:
        said = b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n"
        if body:
            said += b"\r\nffffffff\r\n" + body
        error = await self.refused_by(lambda peer: (peer.read_head(), peer.send(said)))
        assert type(error) is (Rejected if body else Lost)

    async def test_silence_is_lost_at_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "CONNECT_S", 0.1)
        error = await self.refused_by(lambda peer: peer.wait_for_end())
        assert isinstance(error, Lost)
        assert str(error).endswith("no answer within 0.1 s")

    @pytest.mark.parametrize(
        ("raw", "cause"),
        [
            (b"SSH-2.0-OpenSSH_9.9\r\n", "the answer is not HTTP"),
            (b"\x00" * 100, "the answer is not HTTP"),
            (b"HTTP/1.1 abc\r\n\r\n", "the answer is not HTTP"),
            (b"HTTP/1.1 101 Fine\r\n\r\n", "the answer is no upgrade to WebSocket"),
            (
                b"HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n\r\n",
                "the answer is no upgrade to WebSocket",
            ),
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "the answer is not HTTP"),
        ],
    )
    async def test_garbage_is_lost_at_once(self, raw: bytes, cause: str) -> None:
        error = await self.refused_by(lambda peer: (peer.read_head(), peer.send(raw), peer.wait_for_end()))
        assert isinstance(error, Lost)
        assert str(error).endswith(cause)

    @pytest.mark.parametrize(
        ("status", "headers", "kind", "retry_after_s"),
        [
            ("401 Unauthorized", (), Rejected, 0),
            ("403 Forbidden", (), Rejected, 0),
            ("429 Too Many Requests", ("Retry-After: 7",), Lost, 7),
            ("503 Service Unavailable", ("retry-after:  30 ",), Lost, 30),
            ("302 Found", ("Location: ws://127.0.0.1:1/elsewhere",), Lost, 0),
            ("200 OK", (), Lost, 0),
        ],
    )
    @pytest.mark.parametrize("length", [True, False])
    async def test_a_status_is_told_at_once_and_followed_nowhere(
        self, status: str, headers: tuple[str, ...], kind: type, retry_after_s: float, length: bool
    ) -> None:
        """Also where the body never ends."""

        def script(peer: Peer) -> None:
            peer.read_head()
            peer.answer(status, *headers, body=b"no", length=length)
            peer.wait_for_end()

        started = time.monotonic()
        error = await self.refused_by(script)
        assert time.monotonic() - started < SLACK_S
        assert type(error) is kind
        assert f"HTTP {status[:3]} to the upgrade of ws://127.0.0.1:" in str(error)
        assert error.retry_after_s == retry_after_s

    @pytest.mark.parametrize(
        "endpoint",
        [
            Endpoint("http://127.0.0.1:1/"),
            Endpoint("ws:///nowhere"),
            Endpoint("ws://[::1/"),
            Endpoint("ws://127.0.0.1:99999/"),
            Endpoint("ws://user:canary@127.0.0.1:1/"),
            Endpoint("ws://127.0.0.1:1/a canary"),
            Endpoint("ws://127.0.0.1:1/?q=canary\u00e9"),
            Endpoint("ws://127.0.0.1:1/", (("X-Key", "canary\r\nX-Injected: 1"),)),
            Endpoint("ws://127.0.0.1:1/", (("X Key", "canary"),)),
            Endpoint("ws://127.0.0.1:1/", (("Host", "canary"),)),
        ],
    )
    async def test_what_cannot_be_sent_is_rejected_before_anything_is(self, endpoint: Endpoint) -> None:
        with pytest.raises(Rejected) as caught:
            async with guard(), self.connect(endpoint):
                pass
        assert "canary" not in str(caught.value)

    async def test_path_query_and_headers_arrive_as_they_are(self) -> None:
        heads: list[bytes] = []

        def script(peer: Peer) -> None:
            heads.append(peer.accept().head)
            peer.send(closing(1000))

        with Server(script) as server:
            endpoint = Endpoint(
                server.url + "/v1/ws?api_key=a%2Fb&c=", (("X-Api-Key", "k"), ("X-Sign", "s="))
            )
            async with guard(), self.connect(endpoint):
                pass
        lines = heads[0].decode().lower().split("\r\n")
        assert lines[0] == "get /v1/ws?api_key=a%2fb&c= http/1.1"
        assert f"host: 127.0.0.1:{server.port}" in lines
        assert {"x-api-key: k", "x-sign: s=", "user-agent: accountledger"} <= set(lines)
        assert len(lines) == 9, "the same from every transport"
        assert not any(line.startswith("sec-websocket-extensions") for line in lines)

    # Sending and silence -----------------------------------------------------------------------------------------

    async def test_text_is_sent_as_text_and_other_bytes_as_bytes(self) -> None:
        got: list[tuple[int, bytes]] = []

        def script(peer: Peer) -> None:
            got.extend(peer.read() for _ in range(2))
            peer.send(closing(1000))

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await connection.send('{"é":1}'.encode())
                await connection.send(b"\xff\x00")
                await receive_to_the_end(connection)
        assert got == [(TEXT, '{"é":1}'.encode()), (BINARY, b"\xff\x00")]

    async def test_sending_on_a_closed_connection_is_lost_with_the_cause(self) -> None:
        with Server(lambda peer: peer.accept().send(closing(1013))) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await receive_to_the_end(connection)
                with pytest.raises(Lost, match="1013 try again later"):
                    await connection.send(b"hello")

    async def test_a_send_that_cannot_be_finished_ends_the_connection(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Row 7: half a frame is out, so nothing can follow it."""
        monkeypatch.setattr(bounds, "SEND_S", 0.2)
        done = threading.Event()
        with Server(lambda peer: (peer.accept(), done.wait(30))) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                with pytest.raises(Lost, match=r"a message could not be sent within 0\.2 s"):
                    await connection.send(b"x" * 20_000_000)
                with pytest.raises(Lost):
                    await connection.send(b"small")
                _, error = await receive_to_the_end(connection)
            done.set()
        assert str(error) == "a message could not be sent within 0.2 s"

    async def test_a_cancelled_send_is_sent_whole(self) -> None:
        """Row 7 again: cancelled in the middle, both messages arrive or the connection is dead; never half of one."""
        got: list[bytes] = []
        large = b"x" * 20_000_000

        def script(peer: Peer) -> None:
            time.sleep(0.1)
            got.extend((peer.read_until(TEXT), peer.read_until(TEXT)))
            peer.send(closing(1000))

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                with anyio.move_on_after(0.02):
                    await connection.send(large)
                await connection.send(b"small")
                await receive_to_the_end(connection)
        assert got == [large, b"small"]

    async def test_a_ping_is_answered_and_breaks_the_silence(self) -> None:
        pings: list[bytes] = []

        def script(peer: Peer) -> None:
            pings.append(peer.read_until(PING))
            peer.send(frame(PONG, pings[0]))
            peer.wait_for_end()

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await anyio.sleep(0.1)
                silent_s = connection.silent_s()
                assert silent_s >= 0.09
                await connection.ping()
                while connection.silent_s() >= silent_s:
                    await anyio.sleep(0.002)
        assert len(pings) == 1

    async def test_any_byte_breaks_the_silence(self) -> None:
        go = threading.Event()

        def script(peer: Peer) -> None:
            go.wait(5)
            peer.send(frame(TEXT, b"half a message", fin=False))
            peer.wait_for_end()

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await anyio.sleep(0.1)
                silent_s = connection.silent_s()
                go.set()
                while connection.silent_s() >= silent_s:
                    await anyio.sleep(0.002)
        assert silent_s >= 0.09

    async def test_the_venues_pings_are_answered(self) -> None:
        pongs: list[bytes] = []

        def script(peer: Peer) -> None:
            peer.send(frame(PING, b"one"))
            pongs.append(peer.read_until(PONG))
            peer.send(closing(1000))

        with Server(lambda peer: script(peer.accept())) as server:
            async with guard(), self.connect(Endpoint(server.url)) as connection:
                await receive_to_the_end(connection)
        assert pongs == [b"one"]

    # TLS and secrecy ---------------------------------------------------------------------------------------------

    async def test_a_trusted_certificate_is_accepted(self, authority: trustme.CA) -> None:
        with Server(
            lambda peer: peer.accept().send(numbered(0, 500) + closing(1000)),
            tls=server_tls(authority, "127.0.0.1"),
        ) as server:
            async with guard(), self.connect(Endpoint(server.url), tls=client_tls(authority)) as connection:
                got, error = await receive_to_the_end(connection)
        assert got == hashes(0, 500)
        assert str(error) == "closed by the venue: 1000 normal closure"

    async def test_what_came_in_pieces_before_a_close_over_tls_is_delivered_first(
        self, authority: trustme.CA
    ) -> None:
        pieces = b"".join(
            frame(TEXT, b"#%d" % number, fin=False) + frame(0, b"") for number in range(100)
        )  # more than any library queues
        with Server(
            lambda peer: peer.accept().send(pieces + closing(1001)).wait_for_end(),
            tls=server_tls(authority, "127.0.0.1"),
        ) as server:
            async with guard(), self.connect(Endpoint(server.url), tls=client_tls(authority)) as connection:
                got, error = await receive_to_the_end(connection)
        assert got == hashes(0, 100)
        assert str(error) == "closed by the venue: 1001 going away"

    @pytest.mark.parametrize(("trusted", "named"), [(False, "127.0.0.1"), (True, "elsewhere.example")])
    async def test_a_certificate_of_another_is_not(
        self, authority: trustme.CA, trusted: bool, named: str
    ) -> None:
        requests: list[bytes] = []
        with Server(
            lambda peer: requests.append(peer.read_head()), tls=server_tls(authority, named)
        ) as server:
            tls = client_tls(authority) if trusted else None
            with pytest.raises(Lost, match="TLS: certificate verify failed: "):
                async with guard(), self.connect(Endpoint(server.url), tls=tls):
                    pass
        assert requests == []

    async def test_verification_cannot_be_turned_off(self) -> None:
        careless = ssl.create_default_context()
        careless.check_hostname = False
        with Server(lambda peer: None) as server:
            with pytest.raises(ValueError, match="does not verify"):
                async with guard(), self.connect(Endpoint(server.url), tls=careless):
                    pass
            assert server.connections == 0

    @pytest.mark.parametrize(
        "how", ["well", "refused", "rejected", "garbage", "reset", "unusable", "silent", "oversize"]
    )
    async def test_secrets_appear_nowhere(
        self, how: str, everything_logged: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "CONNECT_S", 0.3)
        monkeypatch.setattr(bounds, "MESSAGE_BYTES_MAX", 1000)

        def script(peer: Peer) -> None:
            if how == "well":
                peer.accept().send(numbered(0, 3) + frame(PING, b"?") + closing(1000))
            elif how == "oversize":
                peer.accept().send(text(b"x" * 2000))
            elif how == "rejected":
                peer.read_head()
                peer.answer("401 Unauthorized", body=b"no")
            elif how == "garbage":
                peer.read_head()
                peer.send(b"garbage\r\n\r\n")
            elif how == "reset":
                peer.read_head()
                peer.reset()
            peer.wait_for_end()

        said = ""
        message = b'{"token":"canary-in-a-message"}'  # not below: a traceback shows the line itself
        with Server(script) as server:
            url = server.url.replace(str(server.port), "1") if how == "refused" else server.url
            endpoint = Endpoint(
                f"{url}/ws?api_key=canary-in-the-query",
                (("X-Sign", "canary-in-a-header" + ("\n" if how == "unusable" else "")),),
            )
            raised: ConversationError | None = None
            try:
                async with guard(), self.connect(endpoint) as connection:
                    await connection.send(message)
                    said += repr(connection) + str(vars(connection))
                    await connection.ping()
                    while True:
                        await connection.receive()
            except ConversationError as error:
                raised = error
        assert raised is not None
        assert raised.__suppress_context__ or raised.__context__ is None
        said += "".join(traceback.format_exception(raised)) + repr(raised) + repr(vars(raised))
        assert "canary" not in said
        assert [text for text in everything_logged.texts if "canary" in text] == []
