"""One TCP connection as a test exchange serves it: HTTP/1.1 (h11), then perhaps WebSocket (wsproto), in one thread.

Knows no venue. The thread alone touches the socket, which is never blocked in `recv`: a reset is then a real one (RST),
and TLS is never used by two threads. Everybody else posts what is to be done.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import h11
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tests.blast import secured

WRITE_BYTES: Final = 65536
PATIENCE_S: Final = 5.0
GOODBYE_S: Final = 1.0

Message: TypeAlias = str | bytes


@dataclass
class Asked:
    """An HTTP request as it came; a WebSocket upgrade is one too."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""
    upgrade: bool = False
    status: int = 0
    """What it was answered with; 0 until then."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; to an upgrade, a refusal."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])


class Served:
    """A connection and what it said. `messages` are those received, `sent` those given to the socket, in order."""

    def __init__(self, exchange: Serving, raw: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._exchange: Final = exchange
        self._sock = raw
        self._tls: Final = tls
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._posted: deque[Callable[[], None]] = deque()
        self._out = bytearray()
        self._http = h11.Connection(h11.SERVER)
        self._ws: WSConnection | None = None
        self._request: Asked | None = None
        self._message: list[Message] = []
        self._reading = True
        self._silent = False
        self._over = False
        self._leave_at = float("inf")
        self._keep_tcp = False
        self._ping_at = float("inf")
        self._pings: dict[bytes, float] = {}
        self._ponged: dict[bytes, float] = {}
        self._thread: Final = threading.Thread(target=self._serve, daemon=True)

        self.asked: Asked | None = None
        """The upgrade it began with; None as long as it is plain HTTP."""
        self.messages: list[Message] = []
        self.sent: list[Message] = []
        self.pings_received = 0
        self.closed: tuple[int, str] | None = None
        """Code and reason of the close frame that the client sent, also as an answer to ours."""
        self.open = True

    # For everybody ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def send(self, message: Message, pieces: int = 1) -> None:
        """Send a message, in so many fragments."""
        self.post(lambda: self._send(message, pieces))

    def send_raw(self, garbage: bytes) -> None:
        """Send bytes that are no frame, or half of one."""
        self.post(lambda: self._write(garbage))

    def close(self, code: int = 1000, reason: str = "", keep_tcp: bool = False) -> None:
        """Send a close frame; TCP ends when it is answered, after GOODBYE_S at the latest; with `keep_tcp` never."""
        self._done(lambda: self._close(code, reason, keep_tcp))

    def reset(self) -> None:
        """End TCP by a reset. Returns when it is done."""
        self._done(self._reset)

    def fin(self) -> None:
        """End TCP in good order, but without a close frame."""
        self._done(self._end)

    def stop_reading(self) -> None:
        """Read nothing any more: the client's sends pile up, its pings are not answered."""
        self._done(lambda: setattr(self, "_reading", False))

    def go_silent(self) -> None:
        """Send nothing any more, not even pongs; TCP stays open, what comes is read."""
        self._done(lambda: setattr(self, "_silent", True))

    def resume(self) -> None:
        """Read and speak again. What was to be sent meanwhile is lost."""
        self.post(self._resume)

    def ping(self, timeout_s: float = PATIENCE_S) -> float:
        """How long the pong took (s). Raises TimeoutError."""
        mark = os.urandom(8)
        self.post(lambda: self._ping(mark))
        if not self._exchange.wait_for(lambda: mark in self._ponged, timeout_s):
            raise TimeoutError("no pong")
        return self._ponged[mark]

    @property
    def pongs(self) -> list[float]:
        """How long each pong took (s), those to the pings of `ping_every_s` too."""
        return list(self._ponged.values())

    def post(self, act: Callable[[], None]) -> None:
        """Have something done in the thread of the connection, after what was posted before."""
        self._posted.append(act)
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def leave(self) -> None:
        """End it, whatever it is doing, and wait for its thread."""
        self.post(self._end)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the thread of a connection did not end"

    def _done(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def then() -> None:
            act()
            done.set()

        self.post(then)
        if threading.current_thread() is not self._thread:
            deadline = time.monotonic() + PATIENCE_S
            while not done.wait(0.005) and self._thread.is_alive() and time.monotonic() < deadline:
                pass

    # In the thread ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            if self._tls is not None:
                self._sock = self._shaken(self._tls)
            self._sock.setblocking(False)
            while not self._over:
                self._do_posted()
                self._keep_time()
                if not self._over:
                    self._move()
        except OSError:
            pass  # the client broke off, or does not trust us
        finally:
            self._end()
            self._woken.close()
            self._waker.close()
            self._exchange.changed()

    def _shaken(self, tls: ssl.SSLContext) -> socket.socket:
        """The socket after the TLS handshake, which may be given up at any time."""
        self._sock.setblocking(False)
        sock = secured(self._sock, tls, shake=False)
        self._sock = sock
        while not self._over:
            try:
                sock.do_handshake()
                break
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([sock, self._woken], [], [], 0.05)
            self._do_posted()
        return sock

    def _do_posted(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._posted and not self._over:
            self._posted.popleft()()

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._leave_at and not self._out:
            self._end()
        if self._ws is None or self._over:
            return
        within = self._exchange.pong_within_s
        if within is not None and self._reading and self._pings and now - min(self._pings.values()) > within:
            self._end()
        elif now >= self._ping_at:
            self._ping(os.urandom(8))
            self._ping_at = now + (self._exchange.ping_every_s or 0)

    def _move(self) -> None:
        """Wait until something can be done, at most 50 ms where a clock runs, and do it."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        events = (select.POLLIN if self._reading else 0) | (select.POLLOUT if self._out else 0)
        if events:
            poll.register(self._sock, events)
        timed = self._leave_at < float("inf") or self._ping_at < float("inf") or self._pings
        ready = dict(poll.poll(50 if timed else None))
        state = ready.get(self._sock.fileno(), 0)
        if self._out and state & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._flush()
        if not self._over and self._reading and state & (select.POLLIN | select.POLLERR | select.POLLHUP):
            self._read()

    def _flush(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            while self._out:
                del self._out[: self._sock.send(bytes(self._out[:WRITE_BYTES]))]

    def _read(self) -> None:
        while not self._over:
            try:
                data = self._sock.recv(WRITE_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return
            if not data and self._ws is None and not self._out:
                self._end()
                return
            self._hear(data)
            if not data:
                self._leave_at = min(self._leave_at, time.monotonic())
                self._reading = False
                return

    def _hear(self, data: bytes) -> None:
        try:
            if self._ws is None:
                self._http.receive_data(data)
                self._hear_http()
            elif data:
                self._ws.receive_data(data)
                self._hear_frames(self._ws)
        except (h11.RemoteProtocolError, h11.LocalProtocolError, RemoteProtocolError, LocalProtocolError):
            self._end()

    # HTTP ------------------------------------------------------------------------------------------------------------

    def _hear_http(self) -> None:
        while not self._over and self._ws is None:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
                upgrade = headers.get("upgrade", "").lower() == "websocket"
                self._request = Asked(
                    event.method.decode(), event.target.decode(), headers, b"", upgrade=upgrade
                )
            elif isinstance(event, h11.Data) and self._request:
                self._request.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and self._request:
                self._answer(self._request)
            elif isinstance(event, h11.ConnectionClosed):
                self._leave_at = time.monotonic()
                return
            else:
                return

    def _answer(self, asked: Asked) -> None:
        hold = self._exchange.heard_request(asked)
        answer = None if hold is not None and not hold.stale else self._exchange.answered(self, asked)
        if hold is not None:
            hold.asked.set()
            self._await(hold.released)
            if self._over:
                return
            if not hold.stale:
                answer = self._exchange.answered(self, asked)
        if asked.upgrade:
            self._upgrade(asked, answer)
        else:
            self._answer_http(asked, answer or Answer(404))

    def _await(self, event: threading.Event) -> None:
        while not self._over and not event.wait(0.005):
            self._do_posted()

    def _answer_http(self, asked: Asked, answer: Answer) -> None:
        asked.status = answer.status
        headers = {"Content-Type": "application/json", **answer.headers}
        headers["Content-Length"] = str(len(answer.body))
        body = b"" if asked.method == "HEAD" else answer.body
        for event in (
            h11.Response(status_code=answer.status, headers=list(headers.items())),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self._write(self._http.send(event) or b"")
        self._exchange.changed()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._leave_at = time.monotonic()

    def _upgrade(self, asked: Asked, refused: Answer | None) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        head = [(name.encode(), value.encode("latin-1")) for name, value in asked.headers.items()]
        ws.initiate_upgrade_connection(head, asked.target)
        if refused is not None:
            asked.status = refused.status
            headers = {"Content-Length": str(len(refused.body)), "Connection": "close", **refused.headers}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            self._write(ws.send(RejectConnection(status_code=refused.status, headers=raw, has_body=True)))
            self._write(ws.send(RejectData(data=refused.body)))
            self._leave_at = time.monotonic()
            self._exchange.changed()
            return
        asked.status = 101
        accepted = ws.send(
            AcceptConnection(extensions=[PerMessageDeflate()] if self._exchange.deflate else [])
        )
        self._ws = ws
        self.asked = asked
        if self._exchange.ping_every_s is not None:
            self._ping_at = time.monotonic() + self._exchange.ping_every_s
        self._exchange.joined(self)  # before the client knows: what is set from then on is pushed to it
        self._write(accepted)
        after = bytes(self._http.trailing_data[0])
        if after:
            self._hear(after)

    # WebSocket -------------------------------------------------------------------------------------------------------

    def _hear_frames(self, ws: WSConnection) -> None:
        for event in ws.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._message.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    self._hear_message()
            elif isinstance(event, Ping):
                self.pings_received += 1
                self._transmit(event.response())
            elif isinstance(event, Pong):
                begun = self._pings.pop(bytes(event.payload), None)
                if begun is not None:
                    self._ponged[bytes(event.payload)] = time.monotonic() - begun
            elif isinstance(event, CloseConnection):
                self.closed = (event.code, event.reason or "")
                if ws.state is ConnectionState.REMOTE_CLOSING:
                    self._transmit(event.response())
                if not self._keep_tcp:
                    self._leave_at = time.monotonic()
        self._exchange.changed()

    def _hear_message(self) -> None:
        parts, self._message = self._message, []
        message: Message = "".join(each for each in parts if isinstance(each, str))
        if parts and isinstance(parts[0], bytes):
            message = b"".join(each for each in parts if isinstance(each, bytes))
        self.messages.append(message)
        self._exchange.heard_message(self, message)

    @property
    def _speaks(self) -> bool:
        """Whether what is sent now goes out."""
        able = (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING)
        return self._ws is not None and self._ws.state in able and not self._silent

    def _transmit(self, event: Event) -> bool:
        if self._ws is None or not self._speaks:
            return False
        self._write(self._ws.send(event))
        return True

    def _send(self, message: Message, pieces: int) -> None:
        if not self._speaks:
            return
        self.sent.append(message)  # before the client can have it
        size = -(-len(message) // pieces) or 1
        parts = [message[start : start + size] for start in range(0, len(message) or 1, size)]
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            if isinstance(part, str):
                self._transmit(TextMessage(data=part, message_finished=last))
            else:
                self._transmit(BytesMessage(data=part, message_finished=last))

    def _ping(self, mark: bytes) -> None:
        if self._transmit(Ping(payload=mark)):
            self._pings[mark] = time.monotonic()

    def _close(self, code: int, reason: str, keep_tcp: bool) -> None:
        self._keep_tcp = keep_tcp
        self._transmit(CloseConnection(code=code, reason=reason or None))
        if not keep_tcp:
            self._leave_at = time.monotonic() + GOODBYE_S

    def _resume(self) -> None:
        self._reading, self._silent = True, False
        self._read()

    # The socket ------------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if not self._silent and not self._over:
            self._out += data
            self._flush()

    def _reset(self) -> None:
        if not self._over:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._end()

    def _end(self) -> None:
        self._over = True
        self.open = False
        self._sock.close()
        self._exchange.changed()


class HoldLike(Protocol):
    """What holds an answer back."""

    stale: bool
    asked: threading.Event
    released: threading.Event


class Serving(Protocol):
    """What a connection needs of its exchange. All of it takes the exchange's lock."""

    ping_every_s: float | None
    pong_within_s: float | None
    deflate: bool

    def heard_request(self, asked: Asked) -> HoldLike | None: ...
    def answered(self, served: Served, asked: Asked) -> Answer | None: ...
    def joined(self, served: Served) -> None: ...
    def heard_message(self, served: Served, message: Message) -> None: ...
    def changed(self) -> None: ...
    def wait_for(self, true: Callable[[], bool], timeout_s: float) -> bool: ...
