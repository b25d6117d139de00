"""Plays a tape as the venue it was recorded from, over real WebSocket and HTTP, to clients with the right credentials.

Part of the command line; what a venue says is `ledger.counterparts`. Nothing that a client sends is logged: credentials
are in addresses and headers.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from collections.abc import (
    Callable,
    Generator,
    Mapping,
)
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import anyio
import msgspec
import uvicorn
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from wsproto.events import Ping

from ledger.counterparts import (
    COUNTERPARTS,
    DEMO_LOGINS,
    Answer,
    Answering,
    Asked,
    Channel,
    Counterpart,
    Message,
    Played,
    Receive,
    Send,
    Taped,
)
from ledger.errors import BadLogin, BadTape, LedgerError
from ledger.venue import Secret, path_of
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from transports.tape import open_recording

HOST: Final = "127.0.0.1"
BODY_BYTES_MAX: Final = 1024 * 1024
"""Of what a client asks or says at once."""
START_S: Final = 10.0
STOP_S: Final = 1.0
"""How long a client may take to leave when the server stops."""

_log: Final = logging.getLogger(__name__)

# The application -----------------------------------------------------------------------------------------------------


class Exchange:
    """An ASGI application that is one venue, with one tape. `venue` and `account` are the tape's."""

    def __init__(self, server: Counterpart, tape: Taped) -> None:
        self.venue: Final = tape.venue
        self.account: Final = tape.account
        self._server = server

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI 3. An error of ours is logged by its type alone: its text could hold what a client sent."""
        try:
            if scope["type"] == "http":
                await self._http(scope, receive, send)
            elif scope["type"] == "websocket":
                await self._websocket(scope, receive, send)
        except Exception as error:
            _log.error("%s while serving %s", type(error).__name__, self.venue)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more and len(body) <= BODY_BYTES_MAX:
            message = await receive()
            body += message.get("body", b"")
            more = bool(message.get("more_body", False))
        if len(body) > BODY_BYTES_MAX:
            answer = self._server.fault(413, "too much")
        else:
            answer = self._server.answer(_asked(scope, body))
        await _send_answer(answer, send, "http")

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()  # that somebody connects
        refused = self._server.upgrade(_asked(scope, b""))
        if refused is not None:
            await _send_answer(refused, send, "websocket.http")
            return
        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as tasks:
            await self._server.talk(Channel(receive, send), tasks)
            tasks.cancel_scope.cancel()


def _asked(scope: Message, body: bytes) -> Asked:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return Asked(scope.get("method", "GET"), scope["path"], tuple(query), headers, body)


async def _send_answer(answer: Answer, send: Send, kind: str) -> None:
    headers = [(b"content-type", answer.kind.encode()), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": f"{kind}.response.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": answer.body})


def exchange(
    tape: Path, login: Struct | None = None, *, speed: float = 0.0, close_at_end: bool = False
) -> Exchange:
    """The venue a tape was recorded from, playing it to every client with the right credentials: those of `login` (the
    venue's `Login`), else DEMO_LOGINS. The tape is read whole, now.

    `speed` 0 plays at once, 1 at the recorded pace, 10 ten times as fast. After the last frame the connection stays
    open, or is closed with 1000. Raises BadTape where it cannot be read or tells no venue, BadLogin where a credential
    is missing, LedgerError where Cascade is served without eth-account.
    """
    if not 0 <= speed < float("inf"):
        raise ValueError(f"a speed is 0 or more, not {speed}")
    played = _tape(tape)
    known = None if login is None else _known(login, DEMO_LOGINS[played.venue])
    return Exchange(COUNTERPARTS[played.venue](played, known, speed, close_at_end), played)


def _tape(path: Path) -> Taped:
    with open_recording(path) as recording:
        venue, account = recording.venue, recording.account
        if venue is None or account is None:
            raise BadTape(f"{path}, line 1: not a tape; only a tape says which venue it is of")
        if venue not in COUNTERPARTS:
            raise BadTape(f"{path}, line 1: a tape of {venue}; served are {', '.join(COUNTERPARTS)}")
        tape = Taped(venue, account, [], [])
        began_ns = recording.opened_ns
        for batch in recording.batches():
            for payload, received_ns, *asked in batch:
                began_ns = received_ns if began_ns is None else began_ns
                if asked and asked[0] is not None:
                    tape.answers.append(Answering(asked[0].request, payload))
                else:
                    tape.pushed.append(Played(payload, received_ns - began_ns, len(tape.answers)))
    return tape


def _known(login: Struct, needed: Mapping[str, str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for name in login.__struct_fields__:
        value = getattr(login, name)
        if isinstance(value, Secret):
            known[name] = value.reveal()
        elif isinstance(value, str):
            known[name] = value
    for name in needed:
        if name not in known:
            raise BadLogin(f"{name}: is missing")
    return known


# For who feeds from it -----------------------------------------------------------------------------------------------

_LOGINS: Final[Mapping[str, Any]] = {
    venue.NAME: venue for venue in (deltadefi, bitopro, kraken_prime, cascade, pacifica)
}
_SHOWN: Final = frozenset({"identity", "address"})
"""Fields of the demo logins that are no secrets."""


def feed_text(tape: Path, login: Struct | None, port: int) -> str:
    """A [[feed]] for FEEDS.toml that listens to `tape` served at `port`. Secrets are named (`env:BITOPRO_KEY`), never
    written; for the demo logins, comments in front say what to put there (`# export BITOPRO_KEY=demo-key`)."""
    played = _tape(tape)
    demo = DEMO_LOGINS[played.venue]
    lines = (
        []
        if login is not None
        else [f"# export {name}={text}" for name, text in demo_environ(played.venue).items()]
    )
    lines += ["[[feed]]", f"venue = {_toml(played.venue)}", f"account = {_toml(played.account)}"]
    for name in _credentials(login) if login is not None else demo:
        value = demo[name] if login is None else getattr(login, name)
        shown = isinstance(value, str) and (login is not None or name in _SHOWN)
        lines.append(f"{name} = {_toml(value if shown else 'env:' + _variable(played.venue, name))}")
    if subaccounts := _subaccounts(played):
        lines.append(f"subaccounts = {subaccounts}")
    for field in msgspec.structs.fields(_LOGINS[played.venue].Login):
        if field.name in ("url", "rest_url") and isinstance(field.default, str):
            scheme = "http" if field.default.startswith("http") else "ws"
            lines.append(f"{field.name} = {_toml(f'{scheme}://{HOST}:{port}{path_of(field.default)}')}")
    return "\n".join(lines) + "\n"


def _subaccounts(tape: Taped) -> list[int]:
    """The subaccounts whose balance was asked for on a tape: those of its login."""
    asked = (parse_qsl(urlsplit(each.request).query) for each in tape.answers)
    return sorted({int(text) for query in asked for name, text in query if name == "subaccountIndex"})


def demo_environ(venue: str) -> dict[str, str]:
    """The environment variables that `feed_text` names for a demo login, and what is in them."""
    return {_variable(venue, name): text for name, text in DEMO_LOGINS[venue].items() if name not in _SHOWN}


def _credentials(login: Struct) -> list[str]:
    given = ((name, getattr(login, name)) for name in login.__struct_fields__)
    return [
        name for name, value in given if name not in ("url", "rest_url") and isinstance(value, str | Secret)
    ]


def _variable(venue: str, name: str) -> str:
    return f"{venue}_{name}".upper()


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# The server ----------------------------------------------------------------------------------------------------------

_SILENT: Final = logging.Logger("silent", logging.CRITICAL + 1)


class _Http(H11Protocol):
    """Logs nothing, at any level: uvicorn's messages hold addresses, and addresses hold keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.access_logger = _SILENT


class _WebSocket(WSProtocol):
    """Logs nothing, at any level."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _SILENT

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:  # a library's, at what no client says: asyncio would log it whole
            self.transport.abort()

    def shutdown(self) -> None:
        """Who does not read what is left is not waited for."""
        super().shutdown()
        self.loop.call_later(STOP_S / 2, self.transport.abort)

    def handle_ping(self, event: Ping) -> None:
        """Pongs wait for nobody: to a client that does not read they would pile up (RFC 6455, 5.5.3, lets them go)."""
        if self.writable.is_set():
            super().handle_ping(event)


@contextmanager
def serving(app: Exchange, port: int = 0) -> Generator[int]:
    """Serve an application on this machine alone, in a thread, as long as the block lasts; yields the port (0 takes a
    free one). Raises LedgerError where the port cannot be had."""
    listener = _listener(port)
    config = uvicorn.Config(
        cast("Any", app),
        http=_Http,
        ws=_WebSocket,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        ws_ping_interval=None,
        ws_max_size=BODY_BYTES_MAX,
        ws_per_message_deflate=False,  # a small message may hold a large one
        timeout_graceful_shutdown=int(STOP_S),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="serve", daemon=True)
    thread.start()
    try:
        until = time.monotonic() + START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise LedgerError("the server did not start")
            time.sleep(0.005)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(2 * STOP_S)
        listener.close()


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or "not a port"
        raise LedgerError(f"port {port} of {HOST}: {why}") from None
    return listener


def serve_forever(app: Exchange, port: int = 0, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the port. Call it from the main thread."""
    stop = threading.Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving(app, port) as served:
            if ready is not None:
                ready(served)
            stop.wait()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
