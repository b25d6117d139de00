"""WebSocket on asyncio: the `websockets` library, without its reconnecting, redirecting, proxying and logging.

Knows websockets and asyncio, and how it waits: for the peer to close the socket after a closing frame, with no bound.
A message that is whole goes into the inbox as it is read; what is in pieces, not UTF-8 or too much for the inbox goes
through the library's queue, which is short, and our own task moves it from there. Knows no venue.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import Any, Final

import anyio
from aiohappyeyeballs import start_connection
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, TooManyFragments
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State
from websockets.uri import WebSocketURI

from ledger.errors import ConversationError, Lost
from ledger.intake import Arrival
from ledger.venue import Endpoint
from ledger.wire import legible
from transports import connection as bounds
from transports.connection import Answer, Connection, Inbox, Target

QUEUE_MESSAGES: Final = 16
NEXT_ADDRESS_S: Final = 0.25
"""How long one address may take before the next is tried beside it (RFC 8305, Connection Attempt Delay)."""

_MESSAGES: Final = (Opcode.TEXT, Opcode.BINARY)

bounds.hush("websockets", "websockets.client", "websockets.protocol")

_SILENT: Final = logging.Logger("transports.asyncio_websocket")
"""Registered nowhere, so that nobody finds it to turn it on: websockets logs what it sends, headers and all."""
_SILENT.disabled = True


@asynccontextmanager
async def connect(endpoint: Endpoint, *, tls: SSLContext | None = None) -> AsyncGenerator[Connection]:
    """A connection to a `ws://` or `wss://` endpoint (`transports.connection` says what that is). `tls` is a context
    that verifies (ValueError for another), by default the system's."""
    context = bounds.trusted(tls)
    target = bounds.target(endpoint, "wss", "ws")
    opened = _WebSocket(await _open(endpoint.place, target, context))
    try:
        yield opened
    finally:
        await opened.leave()


async def _open(place: str, target: Target, tls: SSLContext) -> _Wire:
    wire = _Wire(
        ClientProtocol(
            WebSocketURI(target.secure, target.host, target.port, target.path, target.query),
            max_size=bounds.MESSAGE_BYTES_MAX,
            logger=_SILENT,
        ),
        ping_interval=None,
        close_timeout=bounds.CLOSE_S,
        max_queue=QUEUE_MESSAGES,
    )
    why: ConversationError
    opened = False
    try:
        async with asyncio.timeout(bounds.CONNECT_S):
            loop = asyncio.get_running_loop()
            where: dict[str, Any] = {"host": target.host, "port": target.port}
            if isinstance(loop, asyncio.BaseEventLoop):  # uvloop tries one address after the other
                # asyncio's own racing leaves a connected socket open where it is cancelled at that moment.
                found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
                where = {"sock": await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_S)}
            await loop.create_connection(
                lambda: wire,
                **where,
                ssl=tls if target.secure else None,
                server_hostname=target.host if target.secure else None,
            )
            await wire.handshake(target.headers, None)
            opened = True
            return wire
    except TimeoutError:
        why = Lost(f"{place}: no answer within {bounds.CONNECT_S:g} s")
    except OSError as error:
        why = Lost(f"{place}: {bounds.told(error)}")
    except (InvalidHandshake, InvalidMessage, EOFError):
        if wire.answer.whole:
            why = Lost(f"{place}: the answer is no upgrade to WebSocket")
        else:
            why = Lost(f"{place}: {wire.failure or 'connection ended before an answer'}")
    except Exception as error:
        why = Lost(f"{place}: {bounds.told(error)}")
    finally:
        if not opened:
            wire.cut()
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)  # the loop closes what is cut, or what TLS refused, in its next turn
    raise wire.answer.refusal(place) if wire.answer.refused else why


class _Wire(ClientConnection):
    """websockets' connection: knows when the last byte came and what the upgrade was answered, and does not wait for a
    peer that has said its last."""

    def __init__(
        self, protocol: ClientProtocol, *, ping_interval: None, close_timeout: float, max_queue: int
    ) -> None:
        super().__init__(
            protocol, ping_interval=ping_interval, close_timeout=close_timeout, max_queue=max_queue
        )
        self.answer = Answer()
        self.last_byte = self.loop.time()
        self.failure = ""
        self.leaving = False
        self.inbox = Inbox()
        self.queued = 0
        """How many messages the library's queue holds, whole or in part, that are not in the inbox yet."""
        self._made: asyncio.Transport | None = None
        self._cutting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._made = self.transport
        self.recv_messages.resume = self._read_on

    def data_received(self, data: bytes) -> None:
        self.last_byte = self.loop.time()
        self.answer.feed(data)
        if self.answer.refused:
            self.cut()
            return
        super().data_received(data)
        if self.protocol.close_expected() and (not self.leaving or self.protocol.close_rcvd is not None):
            self._finish()

    def process_event(self, event: Event) -> None:
        # A task that waits for the queue costs more than the message: it is woken only where there is a reason.
        if isinstance(event, Frame) and event.opcode in _MESSAGES:
            if event.fin and not self.queued and not self.inbox.full:
                payload = bytes(event.data)
                if event.opcode is Opcode.BINARY or _is_text(payload):
                    self.inbox.put(payload)
                    return
            self.queued += 1
        super().process_event(event)

    def send_data(self) -> None:
        if not self.transport.is_closing():  # where nothing is written any more; it might close once more
            super().send_data()

    def eof_received(self) -> None:
        super().eof_received()
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.failure:
            self.failure = bounds.told(exc)
        if self._cutting is not None:
            self._cutting.cancel()
        super().connection_lost(exc)

    def _read_on(self) -> None:
        """Read again, as there is room; where nothing more is read, asyncio's TLS would raise, and websockets lose the
        message that it has in hand."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _finish(self) -> None:
        """Close, at the latest in CLOSE_S: websockets waits for the peer to do so."""
        if self._cutting is None:
            self._cutting = self.loop.call_later(bounds.CLOSE_S, self.cut)
            if not self.transport.is_closing():  # asyncio's TLS that is closed twice can no longer be cut
                self.transport.close()

    def cut(self, why: str = "") -> None:
        """Close the socket now; nothing more is read or written."""
        self.failure = self.failure or why
        if self._made is not None:  # uvloop's are no subclasses of asyncio's: do not ask for one
            self._made.abort()


class _WebSocket:
    """A `Connection` over websockets."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._inbox = wire.inbox
        self._leaving = False
        self._mover = asyncio.get_running_loop().create_task(self._move())

    async def receive(self) -> Sequence[Arrival]:
        return await self._inbox.take()

    def leftovers(self) -> Sequence[Arrival]:
        return self._inbox.rest()

    async def send(self, payload: bytes) -> None:
        self._check()
        await _whole(asyncio.get_running_loop().create_task(self._send(payload)))

    async def _send(self, payload: bytes) -> None:
        try:
            async with asyncio.timeout(bounds.SEND_S):
                await self._wire.send(payload, text=_is_text(payload))
            return
        except TimeoutError:
            self._wire.cut(f"a message could not be sent within {bounds.SEND_S:g} s")
        except Exception:
            self._wire.cut()
        raise self._cause()

    async def ping(self) -> None:
        self._check()
        self._wire.protocol.send_ping(b"")
        self._wire.send_data()
        await asyncio.sleep(0)

    def silent_s(self) -> float:
        return 0.0 if self._inbox.waiting else self._wire.loop.time() - self._wire.last_byte

    def _check(self) -> None:
        if self._inbox.ended is not None:
            raise Lost(str(self._inbox.ended))
        if self._leaving or self._wire.state is not State.OPEN or self._wire.failure:
            raise self._cause()

    async def _move(self) -> None:
        """Move what did not go straight into the inbox, as long as there is room and more comes."""
        try:
            while not (self._leaving and self._inbox.full):
                message = await self._wire.recv()
                try:
                    if self._inbox.full:
                        await self._inbox.space()
                        self._wire.last_byte = self._wire.loop.time()
                finally:  # whatever cancels us, it is not lost
                    self._put(message)
        except ConnectionClosed:
            pass
        except Exception as error:  # nobody knows of any, but a receiver must not wait for ever
            self._wire.cut(bounds.told(error))
        finally:
            self._inbox.end(self._cause())

    def _put(self, message: str | bytes) -> None:
        self._inbox.put(message.encode() if isinstance(message, str) else message)
        self._wire.queued -= 1

    def _cause(self) -> ConversationError:
        protocol = self._wire.protocol
        received, sent = protocol.close_rcvd, protocol.close_sent
        if isinstance(self._wire.connection_exc, UnicodeDecodeError):
            return Lost("protocol error: 1007 text that is not UTF-8")
        if received is not None and (sent is None or protocol.close_rcvd_then_sent):
            return bounds.closed_by_venue(received.code, received.reason)
        if sent is not None and not self._leaving:
            if sent.code == 1009 and not isinstance(self._wire.connection_exc, TooManyFragments):
                return bounds.too_big()
            return Lost(f"protocol error: {int(sent.code)} {legible(sent.reason)}".rstrip())
        if self._wire.failure:
            return Lost(self._wire.failure)
        return Lost("left" if self._leaving else "connection ended without a closing frame")

    async def leave(self) -> None:
        """Say that we go, wait a little for the answer, cut, and put what websockets still holds into the inbox."""
        self._leaving = self._wire.leaving = True
        try:
            with anyio.move_on_after(bounds.CLOSE_S, shield=True), suppress(Exception):
                await self._wire.close()
        finally:
            self._wire.cut()
            self._mover.cancel()
            await _whole(asyncio.get_running_loop().create_task(self._clear()))

    async def _clear(self) -> None:
        await asyncio.wait([self._mover])
        try:
            while True:
                self._put(await self._wire.recv())
        except ConnectionClosed:
            pass


async def _whole(task: asyncio.Task[None]) -> None:
    """Wait for a task of bounded length whatever cancels us, then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
