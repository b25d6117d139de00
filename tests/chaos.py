"""A TCP proxy that breaks what goes through it, as its seed says: the same seed, the same breaks at the same bytes.

Knows no exchange and no client. A thread per connection owns both its sockets and never sits in `recv`, so that a reset
is a real one (RST). Nothing breaks before the client has spoken, but for "refuse". Offsets count downstream bytes:
those from the exchange to the client, the HTTP answer included.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "pass",  # forwards everything
    "reset",  # RST to both sides at the offset
    "half_close",  # FIN to the client at the offset; what the client says still gets through
    "stall",  # forwards nothing from the offset on, in neither direction; TCP stays open until `heal`
    "refuse",  # RST before a byte is forwarded
    "slices",  # forwards everything, in pieces of SLICE_BYTES with small pauses
    "garbage",  # bytes of nobody inserted at the offset
    "cut",  # FIN at the offset, in the middle of a frame
    "fin",  # FIN at the end of the first frame that reaches the offset; no close frame
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SLICE_BYTES: Final = 700
SLICE_PAUSE_S: Final = 0.0005
READ_BYTES: Final = 65536
PATIENCE_S: Final = 5.0
UPGRADED: Final = b"HTTP/1.1 101"


class Frames:
    """Counts the whole messages in what a WebSocket server sends, from the HTTP answer on. Of TLS it sees nothing."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._head = True
        self._opaque = False
        """Whether it is no WebSocket: TLS, or HTTP alone."""
        self.whole = 0
        """Data messages whose last byte went through; pings, pongs and closes do not count."""

    def feed(self, data: bytes) -> None:
        if self._opaque:
            return
        self._rest += data
        if self._head:
            self._opaque = bytes(self._rest[: len(UPGRADED)]) != UPGRADED[: len(self._rest)]
            end = self._rest.find(b"\r\n\r\n")
            if self._opaque or end < 0:
                return
            self._head = False
            del self._rest[: end + 4]
        while (size := self._size()) and len(self._rest) >= size:
            self.whole += bool(self._rest[0] & 0x80) and not self._rest[0] & 0x08
            del self._rest[:size]

    @property
    def between(self) -> bool:
        """Whether the stream stands between two frames; never in what is no WebSocket."""
        return not (self._opaque or self._head or self._rest)

    @property
    def opaque(self) -> bool:
        return self._opaque

    def to_boundary(self, data: bytes) -> int:
        """How many bytes of `data`, which come next, end at a frame's end: as few as possible, 0 where none does."""
        probe = Frames()
        probe._rest, probe._head, probe._opaque = bytearray(self._rest), self._head, self._opaque
        for end in range(1, len(data) + 1):
            probe.feed(data[end - 1 : end])
            if probe.between:
                return end
        return 0

    def _size(self) -> int:
        """Of the frame at the front, header and all; 0 where its header is not complete."""
        if len(self._rest) < 2:
            return 0
        short = self._rest[1] & 0x7F
        wide = {126: 2, 127: 8}.get(short, 0)
        if len(self._rest) < 2 + wide:
            return 0
        return 2 + wide + (int.from_bytes(self._rest[2 : 2 + wide], "big") if wide else short)


@dataclass
class Passage:
    """What became of one connection."""

    number: int
    kind: Kind
    after: int
    """The offset of the break, in downstream bytes."""
    down: int = 0
    """The exchange's bytes forwarded before the break; the client's side had received them by then."""
    up: int = 0
    injected: bytes = b""
    broken: bool = False
    """Whether the break happened; it does not where fewer bytes came, or `heal` was first."""
    over: bool = False
    frames: Frames = field(default_factory=Frames, repr=False)

    @property
    def whole(self) -> int:
        """WebSocket messages of the exchange that went through whole, before the break."""
        return self.frames.whole


def decide(seed: int, number: int, kinds: Sequence[Kind], after: tuple[int, int]) -> tuple[Kind, int, bytes]:
    """What befalls the connection of that number: the kind, the offset, the garbage. Always the same."""
    dice = random.Random(f"{seed}:{number}")
    garbage = bytes(dice.choices(range(0xF8, 0x100), k=dice.randint(1, 40)))  # no UTF-8, no frame, no HTTP
    return dice.choice(list(kinds)), dice.randint(*after), garbage


class Chaos:
    """A proxy on 127.0.0.1 for the length of a `with` block. `passages`: every connection, in the order they came.

    `kinds`: what may befall a connection, by the seed; or `plan`: what befalls the first, the second, ...; then "pass".
    """

    def __init__(
        self,
        seed: int,
        target_port: int,
        *,
        kinds: Sequence[Kind] = KINDS,
        plan: Sequence[Kind] | None = None,
        after: tuple[int, int] = (0, 4000),
    ) -> None:
        self._seed: Final = seed
        self._target: Final = target_port
        self._kinds: Final = kinds
        self._plan: Final = plan
        self._after: Final = after
        self._listener = socket.socket()
        self._threads: list[threading.Thread] = []
        self._acceptor: Final = threading.Thread(target=self._accept, daemon=True)
        self._healed = threading.Event()
        self._over = threading.Event()
        self._news: Final = threading.Condition()
        self.port = 0
        self.passages: list[Passage] = []

    def __enter__(self) -> Self:
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE_S)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a thread of the proxy did not end"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def healed(self) -> bool:
        return self._healed.is_set()

    def heal(self) -> None:
        """Let every later connection pass, end those that are stalled or half closed, break none of the others."""
        self._healed.set()

    def until(self, true: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until something about the passages is true. Raises AssertionError."""
        with self._news:
            assert self._news.wait_for(true, timeout_s), f"not so within {timeout_s} s: {self.passages}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            number = len(self.passages)
            kind, after, garbage = decide(self._seed, number, self._kinds, self._after)
            if self._plan is not None:
                kind = self._plan[number] if number < len(self._plan) else "pass"
            if self.healed:
                kind = "pass"
            passage = Passage(number, kind, after)
            through = Through(self, client, passage, garbage)
            thread = threading.Thread(target=through.run, args=(self._target,), daemon=True)
            self._threads.append(thread)
            with self._news:
                self.passages.append(passage)
                self._news.notify_all()
            thread.start()

    def ended(self) -> bool:
        return self._over.is_set()

    def changed(self) -> None:
        with self._news:
            self._news.notify_all()


class Through:
    """One connection through the proxy, in one thread."""

    def __init__(self, chaos: Chaos, client: socket.socket, passage: Passage, garbage: bytes) -> None:
        self._chaos: Final = chaos
        self._client: Final = client
        self._server = socket.socket()
        self._passage: Final = passage
        self._garbage: Final = garbage
        self._down = bytearray()
        """Came from the exchange, not yet forwarded."""
        self._up = bytearray()
        self._ended: set[socket.socket] = set()
        """The sides that said FIN."""
        self._shut: set[socket.socket] = set()
        """The sides that were told so."""
        self._over = False
        self._spoken = False
        """Whether the client said anything: until then nothing breaks, it may not know yet that it is connected."""

    def run(self, target_port: int) -> None:
        try:
            if self._passage.kind == "refuse":
                self._break(reset=True)
                return
            self._server.connect(("127.0.0.1", target_port))
            for each in (self._client, self._server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                each.setblocking(False)
            while not self._over and not self._chaos.ended():
                self._step()
        except OSError:
            self._reset(self._client)  # one side broke: the other shall know
            self._reset(self._server)
        finally:
            self._client.close()
            self._server.close()
            self._passage.over = True
            self._chaos.changed()

    # One step --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        kind, broken = self._passage.kind, self._passage.broken
        if broken and kind in ("stall", "half_close") and self._chaos.healed:
            self._over = True
            return
        stalled = broken and kind == "stall"
        self._wait(stalled)
        if stalled:
            return
        self._read(self._client, self._up)
        self._spoken |= bool(self._up)
        self._read(self._server, self._down)
        if broken and kind == "half_close":
            self._down.clear()
        self._forward_down()
        if not self._over:
            self._passage.up += self._write(self._server, self._up)
            self._tell_ends()
        self._chaos.changed()

    def _wait(self, stalled: bool) -> None:
        poll = select.poll()
        for sock, arrived, leaving in (
            (self._client, self._up, self._down),
            (self._server, self._down, self._up),
        ):
            mask = select.POLLOUT if leaving else 0
            if sock not in self._ended and len(arrived) < READ_BYTES:
                mask |= select.POLLIN
            if mask and not stalled:
                poll.register(sock, mask)
        poll.poll(20)

    def _read(self, sock: socket.socket, into: bytearray) -> None:
        if sock in self._ended or len(into) >= READ_BYTES:
            return
        with contextlib.suppress(BlockingIOError):
            data = sock.recv(READ_BYTES)
            into += data
            if not data:
                self._ended.add(sock)

    def _write(self, sock: socket.socket, data: bytearray, most: int = READ_BYTES) -> int:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            if data and most > 0:
                sent = sock.send(bytes(data[:most]))
                del data[:sent]
        return sent

    def _tell_ends(self) -> None:
        for ended, other, waiting in (
            (self._client, self._server, self._up),
            (self._server, self._client, self._down),
        ):
            if ended in self._ended and not waiting and other not in self._shut:
                self._shut.add(other)
                other.shutdown(socket.SHUT_WR)
        if self._ended == {self._client, self._server} and len(self._shut) == 2:
            self._over = True

    # Downstream ------------------------------------------------------------------------------------------------------

    def _forward_down(self) -> None:
        passage = self._passage
        pending = passage.kind not in ("pass", "slices") and not passage.broken and not self._chaos.healed
        most = SLICE_BYTES if passage.kind == "slices" else READ_BYTES
        if pending:
            most = min(most, self._until_break())
        data = bytes(self._down[:most])
        sent = self._write(self._client, self._down, most)
        if not passage.broken:
            passage.down += sent
            passage.frames.feed(data[:sent])
        if passage.kind == "slices" and sent:
            time.sleep(SLICE_PAUSE_S)
        if pending and self._due():
            if self._spoken:
                self._do_break()
            else:
                time.sleep(0.001)

    def _until_break(self) -> int:
        """How many of the waiting bytes may go before the break."""
        passage = self._passage
        left = passage.after - passage.down
        if left > 0:
            return left
        if passage.kind == "fin" and not (passage.frames.between or passage.frames.opaque):
            return passage.frames.to_boundary(bytes(self._down)) or len(self._down)
        if passage.kind == "cut" and (passage.frames.between or passage.down == 0):
            return 1
        return 0

    def _due(self) -> bool:
        passage = self._passage
        if passage.down < passage.after:
            return False
        if passage.kind == "fin":
            return passage.frames.between or passage.frames.opaque
        if passage.kind == "cut":
            return passage.down > 0 and not passage.frames.between
        return True

    def _do_break(self) -> None:
        kind = self._passage.kind
        if kind == "garbage":
            self._passage.injected = self._garbage
            self._client.setblocking(True)
            self._client.settimeout(PATIENCE_S)
            self._client.sendall(self._garbage)
            self._client.setblocking(False)
            self._passage.broken = True
        elif kind == "stall":
            self._passage.broken = True
        elif kind == "half_close":
            self._passage.broken = True
            self._shut.add(self._client)
            self._client.shutdown(socket.SHUT_WR)
        else:
            self._break(reset=kind == "reset")

    def _break(self, *, reset: bool) -> None:
        """End both sides: the client by RST or by FIN, the exchange by RST, as a load balancer would."""
        self._passage.broken = self._over = True
        self._settle()
        self._reset(self._server)
        if reset:
            self._reset(self._client)
            return
        self._client.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 1  # closing with something unread would be a reset
        while time.monotonic() < deadline and not self._chaos.ended():
            select.select([self._client], [], [], 0.02)
            with contextlib.suppress(BlockingIOError):
                if not self._client.recv(READ_BYTES):
                    return

    def _settle(self) -> None:
        """Wait until the client's side has received what was forwarded: a reset would take it back."""
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            left = struct.unpack("i", fcntl.ioctl(self._client, termios.TIOCOUTQ, b"\0" * 4))[0]
            if left == 0:
                return
            time.sleep(0.001)

    def _reset(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
