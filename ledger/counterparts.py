"""The venues' side of a conversation, as far as a tape can play it: credentials, acknowledgements, what was asked for.

Part of the command line. Written from what the venues say of their protocols, not from our conversations with them:
this is the other side. Knows no socket; `ledger.serve` has those.

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
import re
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from importlib import import_module
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from ledger.errors import BadLogin, LedgerError

LOGIN_S: Final = 300
TOKEN_S: Final = 86_400
ASKING_S: Final = 2.0
"""How long a client may take to ask for what comes before the rest of the tape (s)."""

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


class Played(NamedTuple):
    """A frame that is sent unasked: when (ns after the conversation on the tape began), and after how many answers."""

    payload: bytes
    after_ns: int
    answers: int = 0


class Answering(NamedTuple):
    """A frame that answers a request: `GET /account/balance?subaccountIndex=0`."""

    request: str
    payload: bytes


class Taped(NamedTuple):
    venue: str
    account: str
    pushed: list[Played]
    answers: list[Answering]


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
        except (OSError, RuntimeError):  # uvicorn: the client has left, or was sent away for what it said
            self.gone = True


class _Answers:
    """The answers to each question, in order; asked more often, the last again."""

    def __init__(self, answers: Iterable[tuple[object, bytes]]) -> None:
        self._answers: defaultdict[object, list[bytes]] = defaultdict(list)
        for key, payload in answers:
            self._answers[key].append(payload)
        self._given: defaultdict[object, int] = defaultdict(int)

    @property
    def given(self) -> int:
        """How many were given, each counted once."""
        return sum(min(count, len(self._answers[key])) for key, count in self._given.items())

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


class Counterpart:
    """A venue that pushes its tape to whoever has connected, and answers what was asked on it."""

    STREAM: ClassVar[str | None] = None
    """How the path of the stream ends."""
    RESOURCE: ClassVar[str] = ""
    """How the path of what may be asked ends."""

    def __init__(
        self, tape: Taped, known: Mapping[str, str] | None, speed: float, close_at_end: bool
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

    async def play(self, channel: Channel, frames: Sequence[Played]) -> None:
        """Send frames, each when it is due: what came after an answer on the tape, after that answer; unless the client
        does not ask within ASKING_S."""
        patience_s = anyio.current_time() + ASKING_S
        for frame in frames:
            await self.due(channel, frame)
            while frame.answers > self._answers.given and anyio.current_time() < patience_s:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            if channel.gone:
                return
            await channel.say(frame.payload)
        if self._close_at_end:
            await channel.close()

    async def due(self, channel: Channel, frame: Played) -> None:
        """Return when it is time for a frame."""
        if self._speed:
            await anyio.sleep_until(channel.began_s + frame.after_ns / 1e9 / self._speed)
        else:
            await anyio.lowlevel.checkpoint()

    def _answers_of(self, tape: Taped) -> _Answers:
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


class _DeltaDefi(Counterpart):
    STREAM = "/accounts/stream"
    RESOURCE = "/accounts/balance"

    def refusal(self, asked: Asked) -> Answer | None:
        return None if self._is("key", asked.parameter("api_key")) else Answer(403, b"", "text/plain")

    def refusal_of_request(self, asked: Asked) -> Answer | None:
        right = self._is("key", asked.headers.get("x-api-key", ""))
        return None if right else _json(401, {"error": "unauthorized", "code": 4010})

    def fault(self, status: int, why: str) -> Answer:
        return _json(status, {"error": why, "code": 4200})


class _BitoPro(Counterpart):
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


class _KrakenPrime(Counterpart):
    STREAM = ""

    def __init__(
        self, tape: Taped, known: Mapping[str, str] | None, speed: float, close_at_end: bool
    ) -> None:
        super().__init__(tape, known, speed, close_at_end)
        self._hello: bytes | None = None
        self.frames: list[tuple[Played, int | None]] = []
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
        host = _host(asked.headers.get("host", ""))
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


def _host(header: str) -> str:
    """A Host header without its port; empty where it is none."""
    try:
        return urlsplit("//" + header).hostname or ""
    except ValueError:
        return ""


def _renumbered(payload: bytes, reqid: int) -> bytes:
    return _REQID.sub(rb"\g<1>%d" % reqid, payload, count=1)


def _now_text() -> str:
    seconds, rest = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:06d}Z"


_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


class _Cascade(Counterpart):
    STREAM = ""
    RESOURCE = "/account/balance"

    def __init__(
        self, tape: Taped, known: Mapping[str, str] | None, speed: float, close_at_end: bool
    ) -> None:
        super().__init__(tape, known, speed, close_at_end)
        self._sealing = secrets.token_bytes(32)
        self._pushed = [frame for frame in tape.pushed if not _is_reply(frame.payload)]
        recursion = sys.getrecursionlimit()
        try:
            self._accounts: Any = import_module("eth_account").Account
            self._signable: Any = import_module("eth_account.messages").encode_defunct
        except ImportError:
            raise LedgerError(
                "to serve a tape of cascade eth-account is needed: pip install 'accountledger[cascade]'"
            ) from None
        finally:  # a library below it lifts the limit that keeps deeply nested JSON from exhausting the stack
            sys.setrecursionlimit(recursion)
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


class _Pacifica(Counterpart):
    RESOURCE = "/account/balance/history"

    def refusal(self, asked: Asked) -> Answer | None:
        if "key" in self._known and not self._is("key", asked.headers.get("pf-api-key", "")):
            return self.fault(401, "Unauthorized")
        return None

    def fault(self, status: int, why: str) -> Answer:
        return _json(status, {"success": False, "data": None, "error": why, "code": status})

    def _answers_of(self, tape: Taped) -> _Answers:
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


COUNTERPARTS: Final[Mapping[str, type[Counterpart]]] = {
    "deltadefi": _DeltaDefi,
    "bitopro": _BitoPro,
    "kraken_prime": _KrakenPrime,
    "cascade": _Cascade,
    "pacifica": _Pacifica,
}
