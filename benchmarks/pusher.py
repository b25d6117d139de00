"""A venue that pushes balances at a pace, in a process of its own: what it costs to send is not paid by who receives.

Knows bytes, sockets and a clock; knows no ledger. Each frame carries the moment it was given to the socket, by the
clock that all processes of a machine share. What is pushed is in the address: `/push?rate=500&burst=1&frames=1000`. At
a rate of 0 it blasts: frames made beforehand, as fast as the socket takes them, and none knows when it was sent.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha1
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Struct

from benchmarks.frames import bitopro_balance

ENTRIES: Final = 3
"""Currencies in each frame."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_GOODBYE: Final = b"\x88\x02\x03\xe8"


class Load(Struct, frozen=True):
    """So many frames, in bursts of so many, so many a second on average; so many currencies in each."""

    rate: int
    burst: int
    frames: int
    entries: int = ENTRIES


class _Stamped(Struct):
    sent: int


_stamp: Final = msgspec.json.Decoder(_Stamped)


def sent_ns(payload: bytes) -> int:
    """When a frame was given to the socket (`time.monotonic_ns`)."""
    return _stamp.decode(payload).sent


@contextmanager
def pusher() -> Generator[str]:
    """The venue, running; its address."""
    command = [sys.executable, "-m", "benchmarks.pusher"]
    root = Path(__file__).parent.parent
    # In a session of its own it hears no Ctrl-C: that is for us, who end it.
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{int(process.stdout.readline())}/push"
        finally:
            process.kill()


def address(url: str, load: Load) -> str:
    """Where this much is pushed to whoever connects."""
    return f"{url}?{urlencode(msgspec.structs.asdict(load))}"


@lru_cache(maxsize=2)
def blast(frames: int, entries: int) -> bytes:
    """What goes over the wire of a load that has no rate: so many WebSocket messages, one after the other."""
    return b"".join(_text(b'{"sent":0,' + bitopro_balance(n, entries)[1:]) for n in range(frames))


def serve() -> None:
    """Push to everybody who connects, until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_push, args=(connection,), daemon=True).start()


def _push(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            load = _upgrade(connection)
            if load.rate:
                _send(connection, load, [bitopro_balance(n, load.entries)[1:] for n in range(load.frames)])
            else:
                connection.sendall(blast(load.frames, load.entries))
            while (said := connection.recv(4096)) and b"\x88" not in said:
                pass  # a ping or so: nothing is silent long enough to need its answer
            connection.sendall(_GOODBYE)
        except OSError:
            pass  # they left


def _upgrade(connection: socket.socket) -> Load:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    accept = b64encode(sha1(headers["sec-websocket-key"].encode() + _GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    query = parse_qsl(urlsplit(first.split()[1]).query)
    return Load(**{name: int(value) for name, value in query})


def _send(connection: socket.socket, load: Load, rests: list[bytes]) -> None:
    """A burst is one write: all of its frames are sent at one moment. One that is late does not make the next hurry."""
    due_s = time.monotonic()
    for at in range(0, load.frames, load.burst):
        due_s = max(due_s + load.burst / load.rate, time.monotonic() - 0.005)
        time.sleep(max(0.0, due_s - time.monotonic()))
        stamp = b'{"sent":%d,' % time.monotonic_ns()
        connection.sendall(b"".join(_text(stamp + rest) for rest in rests[at : at + load.burst]))


def _text(payload: bytes) -> bytes:
    """A text message, whole in one WebSocket frame (RFC 6455, section 5.2)."""
    size = len(payload)
    short = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return b"\x81" + short + payload


if __name__ == "__main__":
    serve()
