"""A transport without a network: each connection is scripted by the test, on either event loop.

Knows the contract of a connection, and keeps it with the inbox every transport has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio

from ledger.errors import ConversationError, Lost
from ledger.intake import Arrival
from ledger.venue import Endpoint
from transports import Connect, Inbox


class Wire:
    """A connection whose other end is the test's: `inbox.put` is what the venue says, `sent` what it was told."""

    def __init__(self, now_ns: Callable[[], int] | None = None) -> None:
        self.inbox = Inbox() if now_ns is None else Inbox(now_ns)
        self.sent: list[bytes] = []
        self.pings = 0
        self.silent = 0.0
        self.answers: Callable[[bytes], Iterable[bytes]] = lambda _: ()

    async def receive(self) -> Sequence[Arrival]:
        return await self.inbox.take()

    def leftovers(self) -> Sequence[Arrival]:
        return self.inbox.rest()

    async def send(self, payload: bytes) -> None:
        self.sent.append(payload)
        for answer in self.answers(payload):
            self.inbox.put(answer)

    async def ping(self) -> None:
        self.pings += 1

    def silent_s(self) -> float:
        return self.silent


def wired(*wires: Wire | ConversationError, endpoints: list[Endpoint] | None = None) -> Connect:
    """Connects to these, one after the other; a refusal is raised. After the last one nobody answers any more."""
    left = list(wires)

    @asynccontextmanager
    async def connect(endpoint: Endpoint) -> AsyncGenerator[Wire]:
        if endpoints is not None:
            endpoints.append(endpoint)
        await anyio.lowlevel.checkpoint()
        if not left:
            raise Lost("connection refused")
        wire = left.pop(0)
        if isinstance(wire, ConversationError):
            raise wire
        yield wire

    return connect


def ended(*frames: bytes, cause: str = "closed by the venue: 1001 going away") -> Wire:
    """A connection on which these frames come, and then its end."""
    wire = Wire()
    for frame in frames:
        wire.inbox.put(frame)
    wire.inbox.end(Lost(cause))
    return wire


def quiet(*frames: bytes) -> Wire:
    """A connection on which these frames come, and then nothing."""
    wire = Wire()
    for frame in frames:
        wire.inbox.put(frame)
    return wire
