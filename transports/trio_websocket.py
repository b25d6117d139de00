"""WebSocket on trio: trio-websocket, held so that it can neither hang nor lose a message.

Knows trio-websocket and what it does when left alone: it waits for ever where the peer is gone, and a cancelled send
leaves half a frame on the wire. So it gets a stream of ours, its tasks run where we can end them, and the way out is to
end them. Its reader puts a message straight into the inbox: the channel between would cost more than the message. Knows
no venue.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from types import SimpleNamespace
from typing import Any, Final, cast

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.frame_protocol import FrameProtocol

from ledger.errors import ConversationError, Lost
from ledger.intake import Arrival
from ledger.venue import Endpoint
from ledger.wire import legible
from transports import connection as bounds
from transports.connection import Answer, Connection, Inbox, Target

READ_BYTES: Final = 64 * 1024
"""Of one read. trio-websocket's own default, 4 KiB, costs four times the time on large messages."""
QUEUE_MESSAGES: Final = 16
"""Of trio-websocket's own channel, which is in use until the upgrade is done."""
TURN_MESSAGES: Final = 64
"""So many are put into the inbox before the other tasks have their turn."""
LATE: Final = "a message could not be sent within {:g} s"

bounds.hush("trio-websocket")


@asynccontextmanager
async def connect(endpoint: Endpoint, *, tls: SSLContext | None = None) -> AsyncGenerator[Connection]:
    """A connection to a `ws://` or `wss://` endpoint (`transports.connection` says what that is). `tls` is a context
    that verifies (ValueError for another), by default the system's."""
    context = bounds.trusted(tls)
    target = bounds.target(endpoint, "wss", "ws")
    left: BaseException | None = None
    opened: _WebSocket | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                opened = await _open(nursery, endpoint.place, target, context)
                yield opened
            except BaseException as error:
                left = error
            if opened is not None:
                await opened.leave()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # our tasks raise nothing else
        left = bounds.interrupt_in(group) or left
    except trio.Cancelled:  # from outside: it is met again below
        pass
    if opened is not None:
        await opened.empty()
    try:
        if left is not None:
            raise left
        await trio.lowlevel.checkpoint_if_cancelled()
    finally:
        del left  # its traceback holds this frame


async def _open(nursery: trio.Nursery, place: str, target: Target, tls: SSLContext) -> _WebSocket:
    why: ConversationError | None = None
    opened: _WebSocket | None = None
    tap: _Tap | None = None
    with trio.move_on_after(bounds.CONNECT_S) as deadline:
        try:
            tap = await _Tap.to(target, tls)
            opened = await _upgrade(nursery, tap, target)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            why = Lost(f"{place}: {bounds.told(error)}")
        finally:
            if opened is None and tap is not None:
                tap.cut("")
    if opened is not None:
        return opened
    if tap is not None and tap.answer.refused:
        why = tap.answer.refusal(place)
    elif deadline.cancelled_caught:
        why = Lost(f"{place}: no answer within {bounds.CONNECT_S:g} s")
    elif tap is not None and tap.answer.whole:
        why = Lost(f"{place}: the answer is no upgrade to WebSocket")
    elif tap is not None:
        why = Lost(f"{place}: {tap.failure or 'connection ended before an answer'}")
    raise why or Lost(f"{place}: connection broken")


async def _upgrade(nursery: trio.Nursery, tap: _Tap, target: Target) -> _WebSocket | None:
    """None where trio-websocket's reader ended first: it then never says so."""
    tasks = _Tasks(nursery)
    with trio.CancelScope() as waiting:
        tasks.when_over = waiting.cancel
        websocket = await wrap_client_stream(
            cast("trio.Nursery", tasks),
            cast("trio.SocketStream", tap),
            target.authority,
            target.resource,
            extra_headers=[(name.encode(), value.encode()) for name, value in target.headers],
            message_queue_size=QUEUE_MESSAGES,
            max_message_size=bounds.MESSAGE_BYTES_MAX,
            receive_buffer_size=READ_BYTES,
        )
        tasks.when_over = _nothing
        return _WebSocket(websocket, tap, tasks)
    return None


def _nothing() -> None:
    pass


class _Tasks:
    """Stands in for the nursery that trio-websocket starts its reader in. What the reader raises ends the reader and
    nothing else, and only `end` cancels it: not the scopes around whoever opened the connection."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self.when_over: Callable[[], None] = _nothing

    def start_soon(self, task: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self._nursery.start_soon(self._run, task, arguments)

    async def _run(self, task: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]) -> None:
        with trio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                await task(*arguments)
            except Exception:
                pass  # wsproto's LocalProtocolError among others, where a ping comes while we close
            except trio.Cancelled as cancelled:  # by `end`, where an interrupt was on its way out already
                interrupt = bounds.interrupt_before(cancelled)
                if interrupt is not None:
                    raise interrupt from None
                raise
            finally:
                self._scopes.discard(scope)
                self.when_over()

    def end(self) -> None:
        for scope in self._scopes:
            scope.cancel()


class _Tap(trio.abc.Stream):
    """Between trio-websocket and the socket: knows when the last byte came, what the upgrade was answered and how it
    ended; bounds every write; can be cut at once.

    A write that fails does not end the reading: what came before a reset is still there to be read.
    """

    def __init__(self, socket: trio.SocketStream, stream: trio.abc.Stream) -> None:
        self._socket = socket
        self._stream = stream
        self._writing = trio.Lock()
        self.mute = False
        """Whether nothing more can be written: a write failed, or the last was written."""
        self.answer = Answer()
        self.last_byte = trio.current_time()
        self.closing = False
        """Whether a closing frame was written or tried."""
        self.failure = ""

    @classmethod
    async def to(cls, target: Target, tls: SSLContext) -> _Tap:
        """Connect. Raises OSError and trio's errors of resources."""
        socket = await trio.open_tcp_stream(target.host, target.port)
        if not target.secure:
            return cls(socket, socket)
        stream = trio.SSLStream(socket, tls, server_hostname=target.host, https_compatible=True)
        done = False
        try:
            await stream.do_handshake()
            done = True
        finally:
            if not done:
                socket.socket.close()
        return cls(socket, stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.failure = self.failure or bounds.told(error)
            raise
        if data:  # an end is no byte
            self.last_byte = trio.current_time()
        self.answer.feed(data)
        return b"" if self.answer.refused else data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if bytes(data[:1]) == b"\x88":
            self.closing = True
        await self._write(data)

    async def say_goodbye(self, frame: bytes) -> None:
        """The last that is written."""
        await self._write(frame)
        self.mute = True

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(bounds.SEND_S) as deadline:
            async with self._writing:
                if self.mute:
                    return
                written = False
                try:
                    await self._stream.send_all(data)
                    written = True
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    written = True
                    self.mute = True
                    self.failure = self.failure or bounds.told(error)
                finally:
                    if not written:  # half a frame is out: nothing can follow it
                        self.cut(LATE.format(bounds.SEND_S))
        if deadline.cancelled_caught:
            self.cut(LATE.format(bounds.SEND_S))

    def cut(self, why: str) -> None:
        """Close the socket now, and with it every read and write."""
        self.failure = self.failure or why
        self.mute = True
        self._socket.socket.close()

    def heard(self) -> None:
        """Silence counts from now on."""
        self.last_byte = trio.current_time()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.cut("")
        await trio.lowlevel.checkpoint()


class _WebSocket:
    """A `Connection` over trio-websocket."""

    def __init__(self, websocket: WebSocketConnection, tap: _Tap, tasks: _Tasks) -> None:
        self._websocket = websocket
        self._tap = tap
        self._tasks = tasks
        self._inbox = Inbox()
        self._leaving = False
        self._over = trio.Event()
        self._pinging = False
        self._too_big = False
        self._turn = TURN_MESSAGES
        self._shorten()
        tasks.start_soon(self._move)

    async def receive(self) -> Sequence[Arrival]:
        return await self._inbox.take()

    def leftovers(self) -> Sequence[Arrival]:
        return self._inbox.rest()

    async def send(self, payload: bytes) -> None:
        with trio.move_on_after(bounds.SEND_S, shield=True) as deadline:
            self._check()
            try:
                await self._websocket.send_message(_message(payload))
            except Exception:  # ConnectionClosed, or LocalProtocolError where we close at the same time
                raise self._cause() from None
        if deadline.cancelled_caught:
            self._tap.cut(LATE.format(bounds.SEND_S))
        if self._tap.mute:
            raise self._cause()

    async def ping(self) -> None:
        self._check()
        if not self._pinging:
            self._pinging = True
            self._tasks.start_soon(self._ping)
        await trio.lowlevel.checkpoint()

    def silent_s(self) -> float:
        return 0.0 if self._inbox.waiting else trio.current_time() - self._tap.last_byte

    def _check(self) -> None:
        if self._inbox.ended is not None:
            raise Lost(str(self._inbox.ended))
        if self._leaving or self._tap.failure or self._websocket.closed is not None:
            raise self._cause()

    async def _ping(self) -> None:
        try:
            await self._websocket.ping()
        finally:
            self._pinging = False

    def _shorten(self) -> None:
        """Let trio-websocket's reader put messages straight into the inbox, after those it put into its channel until
        now. Where a release of it has another channel, `_move` moves them, as it hears of the end with every release.
        """
        websocket: Any = self._websocket
        channel = getattr(websocket, "_send_channel", None)
        if isinstance(channel, trio.MemorySendChannel):
            with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                while True:
                    self._put(websocket._recv_channel.receive_nowait())
            websocket._send_channel = SimpleNamespace(send=self._take, aclose=channel.aclose)

    async def _take(self, message: str | bytes) -> None:
        """Put a message into the inbox and, where it is full, read no further until it is not."""
        self._put(message)
        self._turn -= 1
        if self._too_big:
            self._inbox.end(self._cause())
            self._tasks.end()
        elif self._inbox.full:
            if self._leaving:
                self._over.set()
            await self._inbox.space()
            self._tap.heard()
        if self._turn < 0 or self._too_big:
            self._turn = TURN_MESSAGES
            await trio.lowlevel.checkpoint()

    async def _move(self) -> None:
        """Wait for the end, and move into the inbox what comes another way than straight."""
        try:
            while not self._too_big:
                await self._take(await self._websocket.get_message())
        except ConnectionClosed:
            pass
        finally:
            self._inbox.end(self._cause())
            self._over.set()
            if not self._leaving:
                self._tasks.end()

    def _put(self, message: str | bytes) -> None:
        payload = message.encode() if isinstance(message, str) else bytes(message)
        if len(payload) > bounds.MESSAGE_BYTES_MAX:  # trio-websocket counts characters
            self._too_big = True
        else:
            self._inbox.put(payload)

    def _cause(self) -> ConversationError:
        closed = self._websocket.closed
        code, reason = (0, "") if closed is None else (closed.code, closed.reason or "")
        if self._too_big or (code == 1009 and self._tap.closing and reason.startswith("Exceeded maximum")):
            return bounds.too_big()
        if code not in (0, 1006):
            if self._tap.closing or code not in (1002, 1007):  # its answer may not be written yet
                return bounds.closed_by_venue(code, reason)
            return Lost(f"protocol error: {code} {legible(reason)}".rstrip())
        if self._tap.failure:
            return Lost(self._tap.failure)
        return Lost("left" if self._leaving else "connection ended without a closing frame")

    async def leave(self) -> None:
        """Say that we go, wait a little for the answer, and cut."""
        self._leaving = True
        with trio.move_on_after(bounds.CLOSE_S, shield=True):
            if not self._tap.closing:
                await self._tap.say_goodbye(bytes(FrameProtocol(client=True, extensions=[]).close(1000)))
                if not self._inbox.waiting:
                    await self._over.wait()
        self._tap.cut("")
        self._tasks.end()

    async def empty(self) -> None:
        """Put what trio-websocket still holds into the inbox; for after its tasks have ended."""
        with trio.CancelScope(shield=True):
            try:
                while True:
                    self._put(await self._websocket.get_message())
            except ConnectionClosed:
                pass


def _message(payload: bytes) -> str | bytes:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload
