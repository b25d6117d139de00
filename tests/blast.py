"""A WebSocket and HTTP server on plain sockets and threads, its frames made by hand: it shares no code with any client
under test, and can do what no library's server would.

Each connection runs a script, a function of a `Peer`, in a thread of its own. What a script raises is raised when the
server is left; OSError is the client's going and no error.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeAlias

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

PATIENCE_S: Final = 5.0
"""How long a script waits for the client."""


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame as a server sends it, unmasked (RFC 6455, section 5.2)."""
    size = len(payload)
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def text(payload: bytes) -> bytes:
    """A text message in one frame."""
    return frame(TEXT, payload)


def closing(code: int, reason: str = "") -> bytes:
    """A closing frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


def numbered(first: int, last: int) -> bytes:
    """Messages `#first` to `#last - 1`."""
    return b"".join(text(b"#%d" % number) for number in range(first, last))


def secured(sock: socket.socket, tls: ssl.SSLContext, *, shake: bool = True) -> ssl.SSLSocket:
    """A server's socket with TLS. Where the client has reset it already, ssl raises and leaves open what it made
    (`SSLSocket._create` of Python 3.11): here it is closed."""
    try:
        return tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=shake)
    except OSError as error:
        for level, _ in traceback.walk_tb(error.__traceback__):
            made = level.f_locals.get("self")
            if isinstance(made, ssl.SSLSocket):
                made.close()
        raise


class Peer:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = b""
        self.head = b""
        """The request as it came, up to the empty line."""

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self._unread:
            self._unread += self._more()
        self.head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return self.head

    def read_body(self, size: int) -> bytes:
        """That much of what follows the head."""
        return self._take(size)

    def accept(self, then: bytes = b"") -> Self:
        """Answer 101, and send this in the same breath."""
        head = self.read_head()
        key = next(
            line.partition(b":")[2].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n" + then
        )
        return self

    def answer(self, status: str, *headers: str, body: bytes = b"", length: bool = True) -> None:
        """Answer over HTTP: `answer("401 Unauthorized")`."""
        lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def send(self, raw: bytes) -> Self:
        self._sock.sendall(raw)
        return self

    def read(self) -> tuple[int, bytes]:
        """The next frame of the client: opcode and payload."""
        first, size = self._take(2)
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        mask = self._take(4)
        masked = self._take(size)
        mask = (mask * (size // 4 + 1))[:size]
        whole = int.from_bytes(masked, "big") ^ int.from_bytes(mask, "big")
        return first & 0x0F, whole.to_bytes(size, "big")

    def read_until(self, opcode: int) -> bytes:
        """The payload of the next frame of that kind."""
        while True:
            kind, payload = self.read()
            if kind == opcode:
                return payload

    def wait_for_end(self) -> bytes:
        """Whatever the client still sends, until it closes or resets."""
        rest = self._unread
        try:
            while more := self._sock.recv(65536):
                rest += more
        except ConnectionError:
            pass
        return rest

    def reset(self) -> Self:
        """RST. Only this thread reads and writes the socket: otherwise the kernel would keep it open."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        return self

    def close(self) -> Self:
        """FIN."""
        self._sock.close()
        return self

    def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._unread += self._more()
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    def _more(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the client has gone")
        return data


Script: TypeAlias = Callable[[Peer], object]


class Server:
    """`with Server(script) as server: connect(server.url)`"""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._ended = False
        self.connections = 0
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for sock in (self._listener, *self._open):
            sock.close()
        if error is None and self._errors:
            raise self._errors[0]

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = secured(sock, self._tls)
            self._open.append(sock)
            self._script(Peer(sock))
        except OSError:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            sock.close()
