"""What a transport is: a function from an endpoint to a connection; and what all of them share: the inbox every
connection keeps, and the one place where addresses, TLS and the errors of sockets and libraries are understood.

Knows bytes, times, bounds and foreign errors; opens no socket, knows no venue. A transport is any function like this:

    def connect(endpoint: Endpoint) -> AbstractAsyncContextManager[Connection]

Entering raises Rejected where the other side refuses us, Lost for anything else, within CONNECT_S. Leaving takes at
most CLOSE_S and raises nothing of its own. No exception of a library and no exception group ever comes out.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit

import anyio

from ledger.errors import ConversationError, Lost, Rejected
from ledger.intake import BATCH_BYTES_MAX, BATCH_FRAMES_MAX, Arrival
from ledger.venue import Endpoint, retry_after_s
from ledger.wire import legible

CONNECT_S: Final = 10.0
SEND_S: Final = 5.0
CLOSE_S: Final = 1.0
MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one message. The ledger keeps frames above its own bound (8 MiB) in quarantine; above this one the connection is
closed, and the cause says so."""
INBOX_FRAMES_MAX: Final = 4096
INBOX_BYTES_MAX: Final = 16 * 1024 * 1024
HEAD_BYTES_MAX: Final = 16 * 1024
"""Of the head of an answer to an upgrade."""
REASON_CHARACTERS_MAX: Final = 200
SYSTEM_S: Final = 3600.0
"""How often it is read again whom the system trusts (s)."""
USER_AGENT: Final = ("User-Agent", "accountledger")

_PASSING: Final = frozenset({408, 409, 425, 429})
"""Refusals that pass by themselves: too slow, a clock that is off (BitoPro), too early, too many."""


class Connection(Protocol):
    """An open connection. Frames come out in the order they came in, each once, whatever is cancelled meanwhile."""

    async def receive(self) -> Sequence[Arrival]:
        """What has arrived: at least one frame, at most BATCH_FRAMES_MAX and BATCH_BYTES_MAX of them (one frame may be
        larger). Raises Lost once everything that came before the end has been received."""
        ...

    def leftovers(self) -> Sequence[Arrival]:
        """What arrived and was not received yet; for after the connection was left."""
        ...

    async def send(self, payload: bytes) -> None:
        """Send a message, whole or not at all: shielded from cancellation, for at most SEND_S; one that cannot be sent
        ends the connection. Raises Lost."""
        ...

    async def ping(self) -> None:
        """Make the other side answer something, so that a live connection is not silent. Does not wait for it."""
        ...

    def silent_s(self) -> float:
        """How long no byte has come (s); 0 while we ourselves do not read because the inbox is full."""
        ...


Connect: TypeAlias = Callable[[Endpoint], AbstractAsyncContextManager[Connection]]


class ConnectTls(Protocol):
    """A transport over TLS: takes a context that verifies, by default the system's."""

    def __call__(
        self, endpoint: Endpoint, *, tls: ssl.SSLContext | None = None
    ) -> AbstractAsyncContextManager[Connection]: ...


def websocket_for_running_loop() -> ConnectTls:
    """The WebSocket transport of the event loop this is called in: trio's under trio, else asyncio's."""
    trio = sys.modules.get("trio")
    name = "trio" if trio is not None and trio.lowlevel.in_trio_run() else "asyncio"
    connect: ConnectTls = importlib.import_module(f"transports.{name}_websocket").connect
    return connect


class Inbox:
    """What was received and not taken yet, bounded by frames and by bytes. For one putter and one taker.

    `take` removes nothing before its last await: what a cancelled taker did not get is still there, on any event loop.
    (anyio's memory object streams lose an item there under asyncio's own cancellation.)
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._frames: deque[Arrival] = deque()
        self._bytes = 0
        self._ended: ConversationError | None = None
        self._filled = anyio.Event()
        self._freed = anyio.Event()
        self.waiting = False
        """Whether the putter waits for space: its silence is then ours."""

    def put(self, payload: bytes) -> None:
        """Put a frame that has just come. Never refuses: who reads asks for `space` before the next."""
        self.put_arrival((payload, self._now_ns()))

    def put_arrival(self, arrival: Arrival) -> None:
        """Put a frame that knows when it came."""
        if not self._frames:  # else nobody waits for it
            self._filled.set()
        self._frames.append(arrival)
        self._bytes += len(arrival[0])

    def end(self, error: ConversationError) -> None:
        """No more will come, because of `error`; the first one counts."""
        if self._ended is None:
            self._ended = error
        self._filled.set()

    @property
    def ended(self) -> ConversationError | None:
        """Why no more will come; None while more may."""
        return self._ended

    @property
    def full(self) -> bool:
        """Whether there is no room for another frame."""
        return len(self._frames) >= INBOX_FRAMES_MAX or self._bytes >= INBOX_BYTES_MAX

    async def space(self) -> None:
        """Return when there is room for another frame."""
        while self.full:
            self.waiting = True
            self._freed = anyio.Event()
            try:
                await self._freed.wait()
            finally:
                self.waiting = False

    async def take(self) -> list[Arrival]:
        """What is there, as a batch. Raises what it was ended with once it is empty."""
        while not self._frames:
            if self._ended is not None:
                raise self._ended
            self._filled = anyio.Event()
            await self._filled.wait()
        return self._batch()

    def rest(self) -> list[Arrival]:
        """Everything that is there."""
        rest = list(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._freed.set()
        return rest

    def _batch(self) -> list[Arrival]:
        if len(self._frames) <= BATCH_FRAMES_MAX and self._bytes <= BATCH_BYTES_MAX:
            return self.rest()
        batch: list[Arrival] = []
        size = 0
        while self._frames and len(batch) < BATCH_FRAMES_MAX:
            size += len(self._frames[0][0])
            if batch and size > BATCH_BYTES_MAX:
                break
            arrival = self._frames.popleft()
            self._bytes -= len(arrival[0])
            batch.append(arrival)
        self._freed.set()
        return batch


def refusal(status: int, headers: Mapping[str, str], what: str) -> ConversationError:
    """The error an HTTP status means, where no connection came of it: Rejected where trying again without a change
    seldom helps, else Lost. `headers` by lower-case name; `what` was tried (`upgrade of wss://…`)."""
    wait_s = retry_after_s(headers, time.time())
    why = f"HTTP {status} to the {what}"
    if 400 <= status < 500 and status not in _PASSING:
        return Rejected(why, retry_after_s=wait_s)
    return Lost(why, retry_after_s=wait_s)


# What every transport asks of an address, of TLS and of the libraries below it ----------------------------------------


class Target(NamedTuple):
    """An endpoint taken apart and found fit to be sent."""

    secure: bool
    host: str
    port: int
    authority: str
    """As the Host header wants it: with the port where it is not the scheme's own."""
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    @property
    def resource(self) -> str:
        """What the request line asks for."""
        return f"{self.path}?{self.query}" if self.query else self.path


def target(endpoint: Endpoint, secure: str, plain: str) -> Target:
    """The endpoint of a url with one of these two schemes (`wss`, `ws`). Raises Rejected, before anything is sent, for
    an address or a header that could be understood in two ways; the message shows neither query nor value."""
    why = ""
    try:
        parts = urlsplit(endpoint.url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Rejected("an address that cannot be read") from None
    if parts.scheme not in (secure, plain) or not host:
        why = f"not an address of {secure}:// or {plain}://"
    elif parts.scheme == plain and not is_loopback(host):
        why = f"{plain}:// would show the login to others: only {secure}:// leaves this machine"
    elif "@" in parts.netloc:
        why = "an address with a user in it: credentials belong in headers"
    elif not _VISIBLE.fullmatch(parts.netloc + parts.path + parts.query):
        why = "an address with characters that are to be percent-encoded"
    for name, value in endpoint.headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _OURS:
            why = "a header that cannot be sent: " + (name if _TOKEN.fullmatch(name) else "its name")
    if why:
        raise Rejected(why)
    usual = 443 if parts.scheme == secure else 80
    name = f"[{host}]" if ":" in host else host
    authority = name if port in (None, usual) else f"{name}:{port}"
    headers = endpoint.headers
    if not any(name.lower() == "user-agent" for name, _ in headers):
        headers = (USER_AGENT, *headers)
    return Target(
        parts.scheme == secure, host, port or usual, authority, parts.path or "/", parts.query, headers
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_VISIBLE: Final = re.compile(r"[!-~]+")
_TOKEN: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_VALUE: Final = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_OURS: Final = frozenset(
    {
        "host",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
        "accept-encoding",
        "content-type",
    }
    | {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol"}
)


def verifying(authorities: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """A context that verifies certificate and host name over TLS 1.2 or newer, and trusts the system's authorities, or
    those of a PEM file instead. Raises OSError (ssl.SSLError is one) where that cannot be read."""
    context = ssl.create_default_context(cafile=authorities)
    # The Python of Debian and Ubuntu leaves the version to OpenSSL, and then it is told of none.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    return context


def trusted(tls: ssl.SSLContext | None) -> ssl.SSLContext:
    """A context that verifies certificate and host name over TLS 1.2 or newer: the system's where None is given. Raises
    ValueError for one that does not: there is no off switch."""
    context = _system(time.monotonic() // SYSTEM_S) if tls is None else tls
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("a TLS context that does not verify certificate and host name is not used")
    if context.minimum_version not in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        raise ValueError("a TLS context that allows less than TLS 1.2 is not used: set its minimum_version")
    return context


@lru_cache(1)
def _system(_: float) -> ssl.SSLContext:
    """Whom the system trusts. To read that takes 50 ms, in which no frame of any feed is read."""
    return verifying()


class _Warnings(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


_WARNINGS: Final = _Warnings()


def hush(*loggers: str) -> None:
    """Keep what these loggers say below a warning from being said, whatever level anybody sets: it names addresses and
    headers."""
    for name in loggers:
        logging.getLogger(name).addFilter(_WARNINGS)


class Answer:
    """The head of the answer to an upgrade, taken from the bytes as they come."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self.whole = False
        """Whether there is nothing more to wait for."""
        self.status = 0
        """The HTTP status; 0 where the answer is not HTTP."""
        self.headers: dict[str, str] = {}

    def feed(self, data: bytes) -> None:
        """More bytes; those after the head are left alone."""
        if self.whole:
            return
        self._raw += data
        end = self._raw.find(b"\r\n\r\n")
        begins = bytes(self._raw[:7])
        if end < 0 and b"HTTP/1."[: len(begins)] == begins and len(self._raw) <= HEAD_BYTES_MAX:
            return
        self.whole = True
        if end >= 0:
            first, *rest = self._raw[:end].decode("latin-1").split("\r\n")
            found = re.match(r"HTTP/1\.[01] ([1-9]\d\d)(?!\S)", first, re.ASCII)
            self.status = int(found[1]) if found else 0
            self.headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in rest)
            }
        self._raw.clear()

    @property
    def refused(self) -> bool:
        """Whether it is an answer, and not the one that was asked for."""
        return self.whole and self.status != 101

    def refusal(self, place: str) -> ConversationError:
        """The error it means; `place` was to be upgraded."""
        if not self.status:
            return Lost(f"{place}: the answer is not HTTP")
        return refusal(self.status, self.headers, f"upgrade of {place}")


def told(error: BaseException) -> str:
    """What happened, of an error of sockets or TLS however deep a library buried it; never in the library's words,
    which may hold what was sent."""
    for each in _causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            untrusted = " (nobody who is trusted here signed it)" if each.verify_code in _UNTRUSTED else ""
            return f"TLS: certificate verify failed: {legible(each.verify_message)}{untrusted}"
        if isinstance(each, ssl.SSLError):
            why = _TLS_MEANS.get(each.reason or "")
            reason = legible(each.reason or "the handshake failed")
            return f"TLS: {why} ({reason})" if why else f"TLS: {reason}"
        if isinstance(each, socket.gaierror):
            return "the host is not known"
        if isinstance(each, ConnectionRefusedError):
            return "connection refused"
        if isinstance(each, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
            return "connection reset"
        if isinstance(each, OSError) and each.strerror and each.errno and each.errno > 0:
            return legible(each.strerror)
    return "connection broken"


_UNTRUSTED: Final = frozenset({18, 19, 20, 21})
"""OpenSSL's codes for a certificate that leads to no authority that was given (X509_V_ERR_…)."""
_TLS_MEANS: Final = {
    "WRONG_VERSION_NUMBER": "what answers there speaks no TLS",
    "UNSUPPORTED_PROTOCOL": "no version of TLS that is spoken there is new enough",
    "TLSV1_ALERT_PROTOCOL_VERSION": "no version of TLS that is spoken there is new enough",
    "UNEXPECTED_EOF_WHILE_READING": "the connection ended without a closing word",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "a certificate of ours is asked for, and we have none",
}
"""OpenSSL's reasons that say little to who does not know it."""


def leaves(error: BaseException) -> list[BaseException]:
    """What is in a group of groups; of what is no group, itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def interrupt_in(error: BaseException) -> BaseException | None:
    """What is neither an error nor a cancellation: an interrupt from the keyboard, in whatever task it struck. It goes
    before all that came of it."""
    calm = (Exception, anyio.get_cancelled_exc_class())
    return next((each for each in leaves(error) if not isinstance(each, calm)), None)


def interrupt_before(cancelled: BaseException) -> BaseException | None:
    """The interrupt that was being raised when a cancellation took its place."""
    return next(filter(None, map(interrupt_in, _causes(cancelled))), None)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came of, nearest first."""
    found: list[BaseException] = []
    ahead: deque[Any] = deque([error])
    while ahead and len(found) < 32:
        each = ahead.popleft()
        if each is None or any(each is known for known in found):
            continue
        found.append(each)
        ahead.extend((each.__cause__, each.__context__))
        if isinstance(each, BaseExceptionGroup):
            ahead.extend(each.exceptions)
    return found


_CLOSINGS: Final = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    3000: "unauthorized",
    3003: "forbidden",
}


_REFUSING: Final = frozenset({3000, 3003, 4401, 4403})
"""Closing codes that stand for HTTP 401 and 403: the first two are in IANA's registry, the others are custom."""


def closed_by_venue(code: int | None, reason: str | None) -> ConversationError:
    """A closing frame came: its code (None or 1005 where it has none) and its reason (RFC 6455, section 7.4). Rejected
    where the code says that the login is not good enough."""
    if code is None or code == 1005:
        return Lost("closed by the venue, no code given")
    why = f"closed by the venue: {code} {legible(reason or _CLOSINGS.get(code, ''))}".rstrip()
    return Rejected(why) if code in _REFUSING else Lost(why)


def too_big() -> Lost:
    """A message came that is larger than any is let be."""
    return Lost(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
