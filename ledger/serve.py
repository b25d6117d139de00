"""Plays a tape as the venue it was recorded from, over real WebSocket and HTTP, to clients with the right credentials.

Part of the command line. Written from what the venues say of their protocols, not from our conversations with them:
this is the other side. Nothing that a client sends is logged: credentials are in addresses and headers.

Frames are sent byte for byte, in the tape's order, with two exceptions: a Kraken Prime subscription gets its client's
`reqid`; and what answers a client (an acknowledgement, a pong) is made here, not taken from the tape. A frame that
answers a request on the tape answers it here, with status 200.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import secrets
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import uvicorn
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from ledger.errors import BadLogin, BadTape, LedgerError
from ledger.venue import Secret, path_of
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from transports.tape import open_recording

HOST: Final = "127.0.0.1"
BODY_BYTES_MAX: Final = 1024 * 1024
START_S: Final = 10.0
STOP_S: Final = 1.0
"""How long a client may take to leave when the server stops."""
LOGIN_S: Final = 300
TOKEN_S: Final = 86_400

DEMO_LOGINS: Final[Mapping[str, Mapping[str, str]]] = {
    "deltadefi": {"key": "demo-key"},
    "bitopro": {"identity": "demo@example.com", "key": "demo-key", "secret": "demo-secret"},
    "kraken_prime": {"key": "demo-key", "secret": "demo-secret"},
    # The example key of EIP-155, known to everybody. Without a login of one's own any signature that is right will do.
    "cascade": {"address": "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f", "private_key": "0x" + "46" * 32},
    "pacifica": {},
}
"""What a served tape asks of its clients where no login of one's own is given, by venue and field of its `Login`."""

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_log: Final = logging.getLogger(__name__)


class _Played(NamedTuple):
    """A frame that is sent unasked, and when (ns after the conversation on the tape began)."""

    payload: bytes
    after_ns: int


class _Answering(NamedTuple):
    """A frame that answers a request: `GET /account/balance?subaccountIndex=0`."""

    request: str
    payload: bytes


class _Tape(NamedTuple):
    venue: str
    account: str
    pushed: list[_Played]
    answers: list[_Answering]


class Asked(NamedTuple):
    """What a client asks: a request, or the one it upgrades with. `headers` by lower-case name."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes

    def parameter(self, name: str) -> str:
        """The first of that name in the query; empty where there is none."""
        return next((value for each, value in self.query if each == name), "")


class Answer(NamedTuple):
    """What it is answered."""

    status: int
    body: bytes
    kind: str = "application/json"


class Channel:
    """An open WebSocket of a client."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.began_s: Final = anyio.current_time()
        self.gone = False

    async def messages(self) -> AsyncGenerator[bytes]:
        """What the client says, until it leaves."""
        while (message := await self._receive())["type"] == "websocket.receive":
            text = message.get("text")
            yield text.encode("utf-8", "replace") if text is not None else message.get("bytes") or b""
        self.gone = True

    async def say(self, payload: bytes) -> None:
        """Send a message: as text, unless it is none. To a client that has left nothing is sent."""
        try:
            message: Message = {"type": "websocket.send", "text": payload.decode()}
        except UnicodeDecodeError:
            message = {"type": "websocket.send", "bytes": payload}
        await self._put(message)

    async def close(self) -> None:
        """Close it: all is well, all was said."""
        await self._put({"type": "websocket.close", "code": 1000})
        self.gone = True

    async def _put(self, message: Message) -> None:
        if self.gone:
            return
        try:
            await self._send(message)
        except OSError:  # uvicorn: the client has left
            self.gone = True


class _Answers:
    """The answers to each question, in order; asked more often, the last again."""

    def __init__(self, answers: Iterable[tuple[object, bytes]]) -> None:
        self._answers: defaultdict[object, list[bytes]] = defaultdict(list)
        for key, payload in answers:
            self._answers[key].append(payload)
        self._given: defaultdict[object, int] = defaultdict(int)

    def next(self, key: object) -> bytes | None:
        if key not in self._answers:
            return None
        answers = self._answers[key]
        place = min(self._given[key], len(answers) - 1)
        self._given[key] += 1
        return answers[place]

    def begin_again(self) -> None:
        self._given.clear()


# What every venue's server does --------------------------------------------------------------------------------------


class _Server:
    """A venue that pushes its tape to whoever has connected, and answers what was asked on it."""

    STREAM: ClassVar[str | None] = None
    """How the path of the stream ends."""
    RESOURCE: ClassVar[str] = ""
    """How the path of what may be asked ends."""

    def __init__(
        self, tape: _Tape, known: Mapping[str, str] | None, speed: float, close_at_end: bool
    ) -> None:
        self._tape = tape
        self._own = known is not None
        self._known: Final = DEMO_LOGINS[tape.venue] if known is None else known
        self._speed = speed
        self._close_at_end = close_at_end
        self._answers = self._answers_of(tape)

    def upgrade(self, asked: Asked) -> Answer | None:
        """What an upgrade is refused with, if it is. A new conversation is answered from the beginning of the tape."""
        if self.STREAM is None or not asked.path.endswith(self.STREAM):
            return self.fault(404, "there is no stream here")
        refused = self.refusal(asked)
        if refused is None:
            self._answers.begin_again()
        return refused

    def refusal(self, asked: Asked) -> Answer | None:
        """What is answered where the credentials are not right."""
        raise NotImplementedError

    def fault(self, status: int, why: str) -> Answer:
        """An error as this venue says it."""
        return _json(status, {"error": why})

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request."""
        refused = self.refusal_of_request(asked)
        if refused is not None:
            return refused
        found = self._answers.next(self._key(asked.method, asked.path, asked.query))
        return self.fault(404, "the tape has no answer to this") if found is None else Answer(200, found)

    def refusal_of_request(self, asked: Asked) -> Answer | None:
        return self.refusal(asked)

    async def talk(self, channel: Channel, tasks: anyio.abc.TaskGroup) -> None:
        """One client's conversation; over when it leaves."""
        tasks.start_soon(self.play, channel, self._tape.pushed)
        async for _ in channel.messages():
            pass

    async def play(self, channel: Channel, frames: Sequence[_Played]) -> None:
        """Send frames, each when it is due."""
        for frame in frames:
            await self.due(channel, frame)
            if channel.gone:
                return
            await channel.say(frame.payload)
        if self._close_at_end:
            await channel.close()

    async def due(self, channel: Channel, frame: _Played) -> None:
        """Return when it is time for a frame."""
        if self._speed:
            await anyio.sleep_until(channel.began_s + frame.after_ns / 1e9 / self._speed)
        else:
            await anyio.lowlevel.checkpoint()

    def _answers_of(self, tape: _Tape) -> _Answers:
        return _Answers((self._key(*_taken_apart(each.request)), each.payload) for each in tape.answers)

    def _key(self, method: str, path: str, query: Iterable[tuple[str, str]]) -> object:
        """What tells one question from another: not the host, not the path before the resource, not the account."""
        resource = self.RESOURCE if self.RESOURCE and path.endswith(self.RESOURCE) else path
        return method, resource, tuple(sorted(pair for pair in query if pair[0] != "account"))

    def _is(self, name: str, said: str) -> bool:
        return _same(said, self._known[name])


def _json(status: int, body: object) -> Answer:
    return Answer(status, json.dumps(body).encode())


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _taken_apart(request: str) -> tuple[str, str, list[tuple[str, str]]]:
    method, _, target = request.partition(" ")
    parts = urlsplit(target)
    return method, parts.path, parse_qsl(parts.query, keep_blank_values=True)


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty one where it is none."""
    try:
        said = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


# The venues ----------------------------------------------------------------------------------------------------------


class _DeltaDefi(_Server):
    STREAM = "/accounts/stream"
    RESOURCE = "/accounts/balance"

    def refusal(self, asked: Asked) -> Answer | None:
        return None if self._is("key", asked.parameter("api_key")) else Answer(403, b"", "text/plain")

    def refusal_of_request(self, asked: Asked) -> Answer | None:
        right = self._is("key", asked.headers.get("x-api-key", ""))
        return None if right else _json(401, {"error": "unauthorized", "code": 4010})

    def fault(self, status: int, why: str) -> Answer:
        return _json(status, {"error": why, "code": 4200})


class _BitoPro(_Server):
    STREAM = "/account-balance"
    RESOURCE = "/accounts/balance"
    _nonce = -1

    def refusal(self, asked: Asked) -> Answer | None:
        payload = asked.headers.get("x-bitopro-payload", "")
        digest = hmac.new(self._known["secret"].encode(), payload.encode(), hashlib.sha384).hexdigest()
        said = self._said(payload)
        if not (
            self._is("key", asked.headers.get("x-bitopro-apikey", ""))
            and _same(asked.headers.get("x-bitopro-signature", ""), digest)
            and self._is("identity", str(said.get("identity", "")))
            and type(said.get("nonce")) is int
        ):
            return self.fault(401, "Invalid Signature")
        if said["nonce"] <= self._nonce:
            return self.fault(409, "Local Machine Time Mismatch")
        self._nonce = said["nonce"]
        return None

    def _said(self, payload: str) -> dict[str, Any]:
        try:
            return _object(base64.b64decode(payload, validate=True))
        except (binascii.Error, ValueError):
            return {}


_REQID: Final = re.compile(rb'("reqid"\s*:\s*)(\d+)')
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


class _KrakenPrime(_Server):
    STREAM = ""

    def __init__(
        self, tape: _Tape, known: Mapping[str, str] | None, speed: float, close_at_end: bool
    ) -> None:
        super().__init__(tape, known, speed, close_at_end)
        self._hello: bytes | None = None
        self.frames: list[tuple[_Played, int | None]] = []
        """What is played, and of which subscription it is: 0 for the first on the tape."""
        places: dict[bytes, int] = {}
        for frame in tape.pushed:
            kind = str(_object(frame.payload).get("type")).lower()
            if kind == "hello":
                self._hello = self._hello or frame.payload
            elif kind != "pong":  # answers a ping of whoever recorded it
                number = _REQID.search(frame.payload)
                place = None if number is None else places.setdefault(number[2], len(places))
                self.frames.append((frame, place))

    def refusal(self, asked: Asked) -> Answer | None:
        at = asked.headers.get("apitimestamp", "")
        host = urlsplit("//" + asked.headers.get("host", "")).hostname or ""
        text = f"GET\n{at}\n{host}\n{asked.path}".encode()
        digest = hmac.new(self._known["secret"].encode(), text, hashlib.sha256).digest()
        right = (
            self._is("key", asked.headers.get("apikey", ""))
            and _same(asked.headers.get("apisign", ""), base64.urlsafe_b64encode(digest).decode())
            and _STAMP.fullmatch(at) is not None
        )
        return None if right else self.fault(401, "unauthorized")

    def refusal_of_request(self, asked: Asked) -> Answer | None:
        return self.fault(404, "there is only a stream here")

    async def talk(self, channel: Channel, tasks: anyio.abc.TaskGroup) -> None:
        hello = {"type": "hello", "ts": _now_text(), "session_id": secrets.token_hex(8).upper()}
        await channel.say(self._hello or json.dumps(hello).encode())
        await _KrakenTalk(self, channel, tasks, self._close_at_end).hear()


class _KrakenTalk:
    """One client's subscriptions: its first gets the frames of the tape's first, its second those of the second."""

    def __init__(
        self, server: _KrakenPrime, channel: Channel, tasks: anyio.abc.TaskGroup, close_at_end: bool
    ) -> None:
        self._server = server
        self._channel = channel
        self._tasks = tasks
        self._close_at_end = close_at_end
        self._reqids: list[int] = []
        self._cancelled: set[int] = set()
        self._held: defaultdict[int, list[bytes]] = defaultdict(list)
        """Frames of subscriptions the client has not made yet."""
        self._over = False
        self._saying = anyio.Lock()

    async def hear(self) -> None:
        async for message in self._channel.messages():
            said = _object(message)
            kind, reqid = str(said.get("type", "")).lower(), said.get("reqid")
            if type(reqid) is not int or reqid <= 0:
                await self._refuse(reqid, "reqid is a number above 0")
            elif kind == "subscribe":
                await self._subscribe(reqid, said.get("streams"))
            elif kind == "cancel":
                self._cancelled.add(reqid)
            elif kind == "ping":
                await self._pong(reqid, said.get("data"))
            elif kind != "page":  # the pages of the tape come anyway
                await self._refuse(reqid, "unknown type")

    async def _subscribe(self, reqid: int, streams: Any) -> None:
        if reqid in self._reqids:
            await self._refuse(reqid, "reqid is used already")
        elif not isinstance(streams, list) or not streams:
            await self._refuse(reqid, "missing streams")
        else:
            async with self._saying:
                self._reqids.append(reqid)
                place = len(self._reqids) - 1
                if place == 0:
                    self._tasks.start_soon(self._play)
                for payload in self._held.pop(place, []):
                    await self._channel.say(_renumbered(payload, reqid))
            await self._end()

    async def _play(self) -> None:
        for frame, place in self._server.frames:
            await self._server.due(self._channel, frame)
            if self._channel.gone:
                return
            async with self._saying:
                if place is None:
                    await self._channel.say(frame.payload)
                elif place >= len(self._reqids):
                    self._held[place].append(frame.payload)
                elif (reqid := self._reqids[place]) not in self._cancelled:
                    await self._channel.say(_renumbered(frame.payload, reqid))
        self._over = True
        await self._end()

    async def _end(self) -> None:
        if self._close_at_end and self._over and not self._held:
            await self._channel.close()

    async def _pong(self, reqid: int, data: Any) -> None:
        if data:
            await self._say({"reqid": reqid, "type": "Pong", "ts": _now_text(), "data": data})
        else:
            await self._refuse(reqid, "missing Ping data")

    async def _refuse(self, reqid: Any, why: str) -> None:
        fault: dict[str, object] = {"type": "error", "ts": _now_text(), "error": {"code": 400, "msg": why}}
        await self._say({"reqid": reqid, "seq": 1, **fault} if type(reqid) is int else fault)

    async def _say(self, said: object) -> None:
        async with self._saying:
            await self._channel.say(json.dumps(said).encode())


def _renumbered(payload: bytes, reqid: int) -> bytes:
    return _REQID.sub(rb"\g<1>%d" % reqid, payload, count=1)


def _now_text() -> str:
    seconds, rest = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:06d}Z"


_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


class _Cascade(_Server):
    STREAM = ""
    RESOURCE = "/account/balance"

    def __init__(
        self, tape: _Tape, known: Mapping[str, str] | None, speed: float, close_at_end: bool
    ) -> None:
        super().__init__(tape, known, speed, close_at_end)
        self._sealing = secrets.token_bytes(32)
        self._pushed = [frame for frame in tape.pushed if not _is_reply(frame.payload)]
        try:
            self._accounts: Any = import_module("eth_account").Account
            self._signable: Any = import_module("eth_account.messages").encode_defunct
        except ImportError:
            raise LedgerError(
                "to serve a tape of cascade eth-account is needed: pip install 'accountledger[cascade]'"
            ) from None
        self._signers: set[str] = set()
        if self._own:
            try:
                signer = self._accounts.from_key(self._known["private_key"]).address
            except Exception:  # what it raises is many things, and may repeat the key
                raise BadLogin("private_key: not a private key") from None
            self._signers = {self._known["address"].lower(), signer.lower()}

    def refusal(self, asked: Asked) -> Answer | None:
        return None  # the stream is open to everybody; its methods are not

    def refusal_of_request(self, asked: Asked) -> Answer | None:
        kind, _, token = asked.headers.get("authorization", "").partition(" ")
        if kind != "Bearer":
            return self.fault(401, "Please add the JWT token to the header")
        return None if self._holder(token) else self.fault(401, "Invalid token")

    def fault(self, status: int, why: str) -> Answer:
        return Answer(status, json.dumps(why).encode(), "text/plain")

    def answer(self, asked: Asked) -> Answer:
        if asked.path.endswith("/auth") and asked.method == "GET":
            return self._challenge(asked.parameter("account"))
        if asked.path.endswith("/auth") and asked.method == "POST":
            return self._login(_object(asked.body))
        return super().answer(asked)

    def _challenge(self, account: str) -> Answer:
        if _ADDRESS.fullmatch(account) is None:
            return self.fault(400, "Invalid account")
        message = f"account {account} nonce {secrets.token_hex(16)} at {int(time.time())}"
        said = {"message": message, "signing_payload": _to_sign(message)}
        return _json(200, {**said, "server_signature": self._sealed(message)})

    def _login(self, said: Mapping[str, Any]) -> Answer:
        message, seal = str(said.get("message")), str(said.get("server_signature"))
        parts = message.split(" ")
        if not _same(seal, self._sealed(message)) or int(parts[-1]) + LOGIN_S < time.time():
            return self.fault(401, "Invalid server signature")
        account = parts[1].lower()
        try:
            signed = self._signable(text=_to_sign(message))
            signer = self._accounts.recover_message(signed, signature=str(said.get("signature"))).lower()
        except Exception:  # whatever a wrong signature makes of the library
            return self.fault(401, "Invalid signature")
        right = signer in self._signers and _same(account, self._known["address"].lower())
        if not (right if self._own else signer == account):
            return self.fault(401, "Invalid signature")
        claims = {"sub": account, "exp": int(time.time()) + TOKEN_S}
        head = ".".join(
            _url64(json.dumps(each).encode()) for each in ({"alg": "HS512", "typ": "JWT"}, claims)
        )
        return _json(200, {"token": f"{head}.{self._sealed(head)}", "claims": claims})

    def _sealed(self, text: str) -> str:
        return _url64(hmac.new(self._sealing, text.encode("utf-8", "replace"), hashlib.sha512).digest())

    def _holder(self, token: str) -> str:
        """Whose token it is; empty where it is not ours or too old."""
        head, _, seal = token.rpartition(".")
        if not _same(seal, self._sealed(head)):
            return ""
        claims = json.loads(base64.urlsafe_b64decode(head.partition(".")[2] + "=="))
        return str(claims["sub"]) if claims["exp"] > time.time() else ""

    async def talk(self, channel: Channel, tasks: anyio.abc.TaskGroup) -> None:
        holder = ""
        subscribed: set[tuple[int, ...]] = set()
        async for message in channel.messages():
            said = _object(message)
            method, params = said.get("method"), said.get("params")
            if not isinstance(params, dict):
                params = {}
            indices = _indices(params, holder)
            fault, done = (-32601, "Method not found"), ""
            if method == "auth":
                holder = self._holder(str(params.get("bearer")))
                fault, done = (-32000, "Invalid token"), "Authenticated successfully" if holder else ""
            elif method in ("subscribe", "unsubscribe") and not holder:
                fault = (-32000, "Unauthorized")
            elif method in ("subscribe", "unsubscribe") and indices is None:
                fault = (-32602, "Invalid subscription params")
            elif method == "subscribe" and indices in subscribed:
                fault = (-32000, "already subscribed")
            elif method == "subscribe" and indices is not None:
                subscribed.add(indices)
                done = "Subscribed to balance"
            elif method == "unsubscribe" and indices in subscribed:
                done = "Unsubscribed from channel"  # of what is already on its way nothing is taken back
            elif method == "unsubscribe":
                fault = (-32000, "not subscribed")
            await channel.say(_rpc(said.get("id"), done, *fault))
            if done == "Subscribed to balance" and len(subscribed) == 1:
                tasks.start_soon(self.play, channel, self._pushed)


def _indices(params: Mapping[str, Any], holder: str) -> tuple[int, ...] | None:
    """The subaccounts of a subscription, in order; None where it is not one of the holder's balances."""
    indices, account = params.get("subaccountIndices"), params.get("account")
    if params.get("source") != "balance" or str(account).lower() != holder or not isinstance(indices, list):
        return None
    if any(type(each) is not int or each < 0 for each in indices):
        return None
    return tuple(sorted(indices))


def _rpc(number: Any, done: str, code: int, why: str) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    what: dict[str, Any] = (
        {"result": {"message": done}} if done else {"error": {"code": code, "message": why}}
    )
    times = {"usIn": now_ms, "usOut": now_ms, "usDiff": 0}
    return json.dumps({"jsonrpc": "2.0", **what, **times, "id": number}, separators=(",", ":")).encode()


def _is_reply(payload: bytes) -> bool:
    said = _object(payload)
    return "jsonrpc" in said and not ("type" in said and "data" in said)


def _to_sign(message: str) -> str:
    return f"Sign in to Cascade.\n{message}"


def _url64(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


class _Pacifica(_Server):
    RESOURCE = "/account/balance/history"

    def refusal(self, asked: Asked) -> Answer | None:
        if "key" in self._known and not self._is("key", asked.headers.get("pf-api-key", "")):
            return self.fault(401, "Unauthorized")
        return None

    def fault(self, status: int, why: str) -> Answer:
        return _json(status, {"success": False, "data": None, "error": why, "code": status})

    def _answers_of(self, tape: _Tape) -> _Answers:
        if tape.answers:
            return super()._answers_of(tape)
        pages: list[tuple[object, bytes]] = []
        cursor = ""
        for page in tape.pushed:
            pages.append((self._key("GET", self.RESOURCE, [("cursor", cursor)]), page.payload))
            said = _object(page.payload)
            cursor = str(said.get("next_cursor") or "") if said.get("has_more") is not False else ""
        return _Answers(pages)

    def _key(self, method: str, path: str, query: Iterable[tuple[str, str]]) -> object:
        """A page is told by its cursor; how long it is wanted matters to nobody."""
        cursor = next((value for name, value in query if name == "cursor"), "")
        return method, path.endswith(self.RESOURCE), cursor


_SERVERS: Final[Mapping[str, type[_Server]]] = {
    "deltadefi": _DeltaDefi,
    "bitopro": _BitoPro,
    "kraken_prime": _KrakenPrime,
    "cascade": _Cascade,
    "pacifica": _Pacifica,
}


# The application -----------------------------------------------------------------------------------------------------


class Exchange:
    """An ASGI application that is one venue, with one tape. `venue` and `account` are the tape's."""

    def __init__(self, server: _Server, tape: _Tape) -> None:
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
    return Exchange(_SERVERS[played.venue](played, known, speed, close_at_end), played)


def _tape(path: Path) -> _Tape:
    with open_recording(path) as recording:
        venue, account = recording.venue, recording.account
        if venue is None or account is None:
            raise BadTape(f"{path}, line 1: not a tape; only a tape says which venue it is of")
        if venue not in _SERVERS:
            raise BadTape(f"{path}, line 1: a tape of {venue}; served are {', '.join(_SERVERS)}")
        tape = _Tape(venue, account, [], [])
        began_ns = recording.opened_ns
        for batch in recording.batches():
            for payload, received_ns, *asked in batch:
                began_ns = received_ns if began_ns is None else began_ns
                if asked and asked[0] is not None:
                    tape.answers.append(_Answering(asked[0].request, payload))
                else:
                    tape.pushed.append(_Played(payload, received_ns - began_ns))
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
    for field in msgspec.structs.fields(_LOGINS[played.venue].Login):
        if field.name in ("url", "rest_url") and isinstance(field.default, str):
            scheme = "http" if field.default.startswith("http") else "ws"
            lines.append(f"{field.name} = {_toml(f'{scheme}://{HOST}:{port}{path_of(field.default)}')}")
    return "\n".join(lines) + "\n"


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
