"""HTTP: requests and polls over httpx2's transport, on asyncio and on trio.

Knows httpx2 below its client, so that there are no redirects, cookies and proxies to turn off. Knows no
venue.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpcore2
import httpx2

from ledger.errors import ConversationError, Lost
from ledger.events import Asked
from ledger.intake import Arrival
from ledger.venue import Endpoint, Reply, Request
from transports import connection as bounds
from transports.connection import Inbox

ASK_S: Final = 30.0
"""From asking to the last byte of the answer."""

bounds.hush("httpx2", *(f"httpcore2.{name}" for name in ("connection", "http11", "http2", "proxy", "socks")))


@asynccontextmanager
async def connect(endpoint: Endpoint, *, tls: SSLContext | None = None) -> AsyncGenerator[HttpConnection]:
    """Requests to `http://` and `https://` addresses; nothing is sent before the first. What is sent on it is polled:
    `send(b"/balance?limit=10")` gets that path below the endpoint, and the answer is received. `tls` is a context that
    verifies (ValueError for another), by default the system's."""
    context = bounds.trusted(tls)
    bounds.target(endpoint, "https", "http")
    pool = httpx2.AsyncHTTPTransport(verify=context, trust_env=False)
    pool._pool = httpcore2.AsyncConnectionPool(ssl_context=context, network_backend=_Network())
    opened = HttpConnection(endpoint, pool)
    try:
        yield opened
    finally:
        opened.leave()
        with anyio.move_on_after(bounds.CLOSE_S, shield=True), suppress(Exception):
            await pool.aclose()


class _Network(httpcore2.AsyncNetworkBackend):
    """httpcore2's own, but for what it forgets: to close a socket whose TLS handshake is cancelled."""

    def __init__(self) -> None:
        self._own: Any = httpcore2.AnyIOBackend()

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        return _Socket(await self._own.connect_tcp(*args, **kwargs))

    async def sleep(self, seconds: float) -> None:
        await self._own.sleep(seconds)


class _Socket(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - not ours
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(*args, **kwargs)
        except BaseException:
            with anyio.move_on_after(bounds.CLOSE_S, shield=True), suppress(Exception):
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class HttpConnection:
    """A `Connection` that can be asked, too."""

    def __init__(self, endpoint: Endpoint, pool: httpx2.AsyncHTTPTransport) -> None:
        self._endpoint = endpoint
        self._pool = pool
        self._inbox = Inbox()
        self._polling = anyio.Lock()

    async def receive(self) -> Sequence[Arrival]:
        return await self._inbox.take()

    def leftovers(self) -> Sequence[Arrival]:
        return self._inbox.rest()

    async def send(self, payload: bytes) -> None:
        """Poll: returns when the answer can be received, or has ended the connection."""
        request, line = self._poll(payload)
        async with self._polling:
            self._check()
            await self._inbox.space()
            asked = Asked(line, time.time_ns())
            try:
                reply = await self.ask(request)
            except Lost as error:
                self._inbox.end(error)
                raise
            if 200 <= reply.status < 300:
                self._inbox.put_arrival((reply.body, reply.received_ns, asked))
            else:
                self._inbox.end(
                    bounds.refusal(reply.status, reply.headers, f"request {line} of {self._endpoint.place}")
                )

    async def ping(self) -> None:
        """Nothing to keep alive between polls."""
        await anyio.lowlevel.checkpoint()

    def silent_s(self) -> float:
        """Nobody speaks unasked."""
        return 0.0

    async def ask(self, request: Request) -> Reply:
        """What comes of a request, whatever its status: no redirect is followed. Raises Lost where no whole answer
        comes within ASK_S, Rejected for a request that cannot be sent."""
        self._check()
        target = bounds.target(Endpoint(request.url, request.headers), "https", "http")
        place = Endpoint(request.url).place
        why: ConversationError | None = None
        with anyio.move_on_after(ASK_S) as deadline:
            try:
                return await self._exchange(request, target.headers)
            except Lost as error:
                why = Lost(f"{place}: {error}")
            except httpx2.ConnectTimeout:
                why = Lost(f"{place}: no connection within {bounds.CONNECT_S:g} s")
            except httpx2.RemoteProtocolError:
                why = Lost(f"{place}: the answer is not whole, or not HTTP")
            except Exception as error:
                why = Lost(f"{place}: {bounds.told(error)}")
        if deadline.cancelled_caught:
            why = Lost(f"{place}: no answer within {ASK_S:g} s")
        raise why or Lost(f"{place}: connection broken")

    async def _exchange(self, request: Request, headers: tuple[tuple[str, str], ...]) -> Reply:
        said = {name.lower() for name, _ in headers}
        added = [("Accept-Encoding", "gzip"), *((("Accept", "*/*"),) if "accept" not in said else ())]
        if request.body and "content-type" not in said:
            added.append(("Content-Type", "application/json"))
        sent = httpx2.Request(
            request.method,
            request.url,
            headers=[*headers, *added],
            content=request.body or None,
            extensions={
                "timeout": {"connect": bounds.CONNECT_S, "read": ASK_S, "write": ASK_S, "pool": ASK_S}
            },
        )
        answer = await self._pool.handle_async_request(sent)
        names = {name.lower(): value for name, value in answer.headers.items()}
        try:
            body = await _body(answer, names.get("content-encoding", ""))
            return Reply(answer.status_code, body, time.time_ns(), names)
        finally:
            with anyio.move_on_after(bounds.CLOSE_S, shield=True), suppress(Exception):
                await answer.aclose()

    def leave(self) -> None:
        """Nothing more is asked or received."""
        self._inbox.end(Lost("left"))

    def _check(self) -> None:
        if self._inbox.ended is not None:
            raise Lost(str(self._inbox.ended))

    def _poll(self, payload: bytes) -> tuple[Request, str]:
        """The request that a payload asks for, and how it may be shown: without the endpoint's own query."""
        text = payload.decode("ascii", "replace")
        if text[:1] not in ("", "/", "?") or not all("!" <= each <= "~" and each != "#" for each in text):
            raise ValueError("a poll is a path and a query")
        own = urlsplit(self._endpoint.url)
        path, _, query = text.partition("?")
        path = own.path.rstrip("/") + path if path else own.path
        whole = "&".join(filter(None, (own.query, query)))
        url = urlunsplit((own.scheme, own.netloc, path, whole, ""))
        return Request(url, headers=self._endpoint.headers), f"GET {path or '/'}{'?' if query else ''}{query}"


async def _body(answer: httpx2.Response, encoding: str) -> bytes:
    """The body, unpacked and bounded as it comes. Raises Lost.

    An answer that is not wanted to its end is closed and then read to it: httpx2's generators end in no other way.
    """
    body = _Body(encoding)
    try:
        async for part in answer.aiter_raw():
            if not body.wrong:
                body.add(part)
            if body.wrong:
                await answer.aclose()
    except Exception:
        if not body.wrong:
            raise
    return body.whole()


class _Body:
    """The body of an answer: as it is, or packed with gzip, which is what was offered: in one member or several
    (RFC 1952, section 2.2)."""

    def __init__(self, encoding: str) -> None:
        self._bytes = bytearray()
        self._came = False
        self._unpack = _member() if encoding.lower() == "gzip" else None
        self.wrong = "" if encoding.lower() in ("", "identity", "gzip") else _PACKED

    def add(self, part: bytes) -> None:
        try:
            while part and not self.wrong:
                self._came = True
                room = bounds.MESSAGE_BYTES_MAX - len(self._bytes) + 1
                if self._unpack is None:
                    self._bytes += part[:room]
                    part = b""
                else:
                    if self._unpack.eof:
                        self._unpack = _member()
                    self._bytes += self._unpack.decompress(part, room)
                    part = self._unpack.unused_data
                if len(self._bytes) > bounds.MESSAGE_BYTES_MAX:
                    self.wrong = str(bounds.too_big())
        except zlib.error:
            self.wrong = _PACKED

    def whole(self) -> bytes:
        """Raises Lost for one that is not."""
        if not self.wrong and self._unpack is not None and self._came and not self._unpack.eof:
            self.wrong = _PACKED
        if self.wrong:
            raise Lost(self.wrong)
        return bytes(self._bytes)


_member: Final = partial(zlib.decompressobj, zlib.MAX_WBITS | 16)
_PACKED: Final = "the answer is not packed as it says"
