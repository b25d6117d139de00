"""Messages a second of each WebSocket transport, beside a reader of the same bytes off the raw socket.

The venue, a process of its own, sends as fast as it is read. Either nothing is done with a message, or all become
durable events of a ledger; a raw reader only counts bytes.
"""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import anyio

from benchmarks.frames import bitopro_balance
from benchmarks.measure import Effort, Result, Side, Unequal, race
from benchmarks.pusher import Load, address, blast
from ledger import Ledger
from ledger.venue import Endpoint
from ledger.venues import bitopro
from transports import Feed, live
from transports.connection import websocket_for_running_loop

PATIENCE_S: float = 60.0
READ_BYTES: Final = 64 * 1024
FRAMES: Final = 600
"""For each round of the effort, in a slice."""
ENTRIES: Final = {1: 1, 17: 4}
"""Currencies in a frame, and how many times fewer of such frames are sent."""

ALONE: Final = "the connection alone"
STORED: Final = "a feed into a ledger"
RAW: Final = "raw socket reader"


def cases(transports: dict[str, str]) -> int:
    """How many results there will be."""
    return len(ENTRIES) * len(transports)


def throughput(url: str, folder: Path, effort: Effort, transports: dict[str, str]) -> Iterator[Result]:
    """Each transport (its event loop, and what it is called) with frames of each size."""
    for entries, fewer in ENTRIES.items():
        load = Load(0, 1, max(10, FRAMES * effort.rounds // fewer), entries)
        for backend, name in transports.items():
            yield _case(backend, name, address(url, load), load, folder, max(2, effort.rounds // 3))


def alone(backend: str, url: str, load: Load) -> None:
    """Connect, and take what comes. Raises Unequal where it is not every message, whole."""

    async def body() -> tuple[int, int]:
        frames = size = 0
        async with websocket_for_running_loop()(Endpoint(url)) as connection:
            with anyio.move_on_after(PATIENCE_S):
                while frames < load.frames:
                    batch = await connection.receive()
                    frames += len(batch)
                    size += sum([len(arrival[0]) for arrival in batch])
        return frames, size

    found = anyio.run(body, backend=backend)
    if found != (load.frames, _payload_bytes(load)):
        raise Unequal(
            f"{found[0]} frames of {found[1]} bytes came of {load.frames} of {_payload_bytes(load)}"
        )


def stored(backend: str, url: str, load: Load, folder: Path) -> None:
    """Run a feed until all is durable. Raises Unequal where it is not every message."""

    async def body(ledger: Ledger) -> None:
        feed = Feed(bitopro, identity="someone@example.org", key="benchmark", secret="benchmark", url=url)
        async with live(ledger, feed):
            with anyio.move_on_after(PATIENCE_S):
                await _all_recorded(feed, load.frames)

    with TemporaryDirectory(dir=folder) as place, Ledger(Path(place) / "ledger.db") as ledger:
        anyio.run(body, ledger, backend=backend)
        kept = ledger.select("SELECT count(*), sum(length(payload)) FROM evidence")
    if kept != [(load.frames, _payload_bytes(load))]:
        raise Unequal(f"{kept} was stored of {load.frames} frames of {_payload_bytes(load)} bytes")


async def _all_recorded(feed: Feed, frames: int) -> None:
    while True:
        if feed.health.recorded >= frames:
            return
        await anyio.sleep(0.002)


def raw(url: str, load: Load) -> None:
    """The same bytes off the socket, counted. Raises Unequal where there are fewer."""
    wanted = len(blast(load.frames, load.entries))
    parts = urlsplit(url)
    assert parts.port is not None
    with socket.create_connection(("127.0.0.1", parts.port), PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"GET {parts.path}?{parts.query} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        )
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        said = b""
        while b"\r\n\r\n" not in said:
            said += connection.recv(READ_BYTES)
        came = len(said.partition(b"\r\n\r\n")[2])
        buffer = bytearray(READ_BYTES)
        try:
            while came < wanted and (size := connection.recv_into(buffer)):
                came += size
        except TimeoutError:
            pass
    if came != wanted:
        raise Unequal(f"{came} of {wanted} bytes came")


def _case(backend: str, name: str, url: str, load: Load, folder: Path, rounds: int) -> Result:
    sides = (
        Side(ALONE, lambda: alone(backend, url, load), load.frames),
        Side(STORED, lambda: stored(backend, url, load, folder), load.frames),
        Side(RAW, lambda: raw(url, load), load.frames),
    )
    size = _payload_bytes(load) // load.frames
    case = f"{name}, {load.frames:,} frames as fast as they come"
    return race("transport", case, "frames", size, sides, rounds)


@cache
def _payload_bytes(load: Load) -> int:
    return sum(len(bitopro_balance(n, load.entries)) + len(b'"sent":0,') for n in range(load.frames))
