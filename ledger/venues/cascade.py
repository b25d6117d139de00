"""What Cascade says on its `balance` channel and in answer to a question, and how a wallet logs in to hear it.

Must not know what a balance is made of: the venue names no cause and no currency (its collateral is USDC).
There is no sequence and no promised snapshot, so nothing here can tell a gap; `converse` asks for every balance once,
when the subscription stands. The rules are from the document "Subscribe Balance" and its older revision, whose
spellings (`subaccount_index`, an index as text) are still read. What the answer to a question looks like is documented
nowhere: it is read as the same fields, and what it does not name is what was asked for.
"""

from __future__ import annotations

import re
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, json
from msgspec.json import Decoder

from ledger import wire
from ledger.errors import BadLogin, Lost, Malformed, Rejected
from ledger.events import Asked, Balance, BalanceDelta, FrameQuarantined, Source, Statement
from ledger.venue import (
    Action,
    Begun,
    Conversation,
    Endpoint,
    Frame,
    Heard,
    Hide,
    Listen,
    Open,
    Ready,
    Reply,
    Request,
    Said,
    Secret,
    Send,
    Wait,
    address,
    ask,
    path_of,
)

NAME: Final = "cascade"
PATH: Final = "/ws"
URL: Final = f"wss://engine.cascade.xyz{PATH}"
REST_URL: Final = "https://engine.cascade.xyz"
RETRY_S_MAX: Final = 30.0
REFUSALS_MAX: Final = 3
SUBACCOUNTS_MAX: Final = 1000
"""Of those no one named before, how many are asked for in one conversation."""
EXPIRY_NS: Final = 60_000_000_000
"""How long before its end a token is renewed."""

ASSET: Final = "USDC"
ERROR_CHARS_MAX: Final = 500
INDEX_BOUND: Final = 2**31

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")

_Address = Annotated[str, Meta(pattern=r"\A[!-.0-~]{1,100}\Z")]
"""Printable ASCII without blank or "/": it becomes part of the account id, where "/" ends it."""

_RequestId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Meta(max_length=100)] | None


class _Error(Struct, gc=False):
    code: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    message: str


class _Message(Struct, gc=False):
    """A push has `type` and `data`, a reply has `jsonrpc`; the text of a reply says nothing reliable."""

    type: str | UnsetType = UNSET
    data: Raw = Raw()
    jsonrpc: str | UnsetType = UNSET
    result: Raw = Raw()
    error: _Error | None = None
    id: _RequestId = None


class _BalanceUpdate(Struct, gc=False):
    account: _Address
    balance: str
    updatedAt: int  # noqa: N815 - the venue's spelling
    subaccountIndex: int | str | UnsetType = UNSET  # noqa: N815
    subaccount_index: int | str | UnsetType = UNSET


class _Pushed(Struct, gc=False):
    """What is pushed, as the document has it: the index a number, the account letters and digits."""

    account: Annotated[str, Meta(max_length=100)]
    balance: wire.Digits
    updatedAt: int  # noqa: N815 - the venue's spelling
    subaccountIndex: Annotated[int, Meta(ge=0, lt=INDEX_BOUND)]  # noqa: N815


class _Push(Struct, gc=False):
    type: Literal["Balance Update"]
    data: _Pushed


class _Answer(Struct, gc=False):
    """What a question about balances is answered with; a list of these where several are meant."""

    balance: Raw
    account: _Address | UnsetType = UNSET
    subaccountIndex: int | str | UnsetType = UNSET  # noqa: N815
    subaccount_index: int | str | UnsetType = UNSET
    updatedAt: int | UnsetType = UNSET  # noqa: N815


_PUSH: Final = Decoder(_Push)
_STRINGS_OF_A_PUSH: Final = 9
"""Its keys and texts: type, data, account, balance, updatedAt, subaccountIndex."""
_MESSAGE: Final = Decoder(_Message | str)
_ANSWERS: Final = Decoder(_Answer | list[_Answer] | str)
_BALANCE_UPDATE: Final = Decoder(_BalanceUpdate)


def decode(frame: Frame) -> Sequence[Statement]:
    """The statements of a frame: one balance, one refusal, or none for the acknowledgement of a request; and what
    balances there are in the answer to a question."""
    if frame.asked is not None:
        return _answers(frame, frame.asked)
    try:
        return _usual(frame, wire.decode(_PUSH, frame.payload).data)
    except Malformed:
        pass
    return _unusual(frame)


def _usual(frame: Frame, said: _Pushed) -> Sequence[Statement]:
    """A push that holds what the document names, and nothing else. Raises Malformed where it is not plainly so."""
    account = said.account
    if not (wire.holds_only(frame.payload, _STRINGS_OF_A_PUSH) and account.isascii() and account.isalnum()):
        raise Malformed("not a usual push")
    source = frame.source(NAME, "balance", wire.epoch_ns(said.updatedAt))
    return [_stated(source, account, said.subaccountIndex, wire.amount(said.balance), said.updatedAt)]


def _unusual(frame: Frame) -> Sequence[Statement]:
    """What is written otherwise, a reply, a refusal, or the reason why it is none of them."""
    message = wire.decode(_MESSAGE, frame.payload)
    if isinstance(message, str):  # REST answers an error with a bare JSON string
        return _refusal(frame, frame.source(NAME, "rest"), f"venue error: {message}")
    named, filled = message.type is not UNSET, bool(bytes(message.data))
    if named and filled and message.jsonrpc is UNSET:
        if message.type != "Balance Update":
            raise Malformed(f"unknown type {str(message.type)[:80]!r}")
        return _balance(frame, message.data)
    if message.jsonrpc is UNSET or named or filled:
        raise Malformed("neither a push (type, data) nor a reply (jsonrpc)")
    wire.unique_keys(frame.payload)  # a second error, or result, may take the first away
    if message.error is not None:
        said = None if message.id is None else str(message.id)
        source = frame.source(NAME, "jsonrpc", message_id=said)
        return _refusal(frame, source, f"venue error {message.error.code}: {message.error.message}")
    if not bytes(message.result):
        raise Malformed("a reply with neither result nor error")
    return ()


def _balance(frame: Frame, data: Raw) -> Sequence[Statement]:
    update = wire.decode(_BALANCE_UPDATE, bytes(data))
    current, older = update.subaccountIndex, update.subaccount_index
    wire.unique_keys(
        frame.payload,
        {
            b'"type"': 1,
            b'"data"': 1,
            b'"account"': 1,
            b'"balance"': 1,
            b'"updatedAt"': 1,
            b'"subaccountIndex"': 0 if current is UNSET else 1,
            b'"subaccount_index"': 0 if older is UNSET else 1,
        },
    )
    index = _index(_either(current, older))
    source = frame.source(NAME, "balance", time_ns=wire.epoch_ns(update.updatedAt))
    return [_stated(source, update.account, index, wire.amount(update.balance), update.updatedAt)]


def _answers(frame: Frame, asked: Asked) -> Sequence[Statement]:
    """The balances an answer states. The account, the index and the time it does not name are those of the question."""
    said = wire.decode(_ANSWERS, frame.payload)
    if isinstance(said, str):
        return _refusal(frame, frame.source(NAME, "rest"), f"venue error: {said}")
    answers = said if isinstance(said, list) else [said]
    fields = ("balance", "account", "subaccountIndex", "subaccount_index", "updatedAt")
    told = [field for answer in answers for field in fields if getattr(answer, field) is not UNSET]
    wire.unique_keys(frame.payload, {b'"%s"' % field.encode(): told.count(field) for field in fields})
    statements: list[Statement] = []
    for answer in answers:
        account = _queried(asked, "account") if answer.account is UNSET else answer.account
        index = _either(answer.subaccountIndex, answer.subaccount_index)
        index = _index(_queried(asked, "subaccountIndex") if index is UNSET else index)
        time = answer.updatedAt
        time_ns = asked.at_ns if time is UNSET else wire.epoch_ns(time)
        source = frame.source(NAME, "rest", time_ns=time_ns)
        statements.append(_stated(source, account, index, wire.amount(answer.balance), time))
    if len({account for account, _ in statements}) != len(statements):
        raise Malformed("one subaccount twice")
    return statements


def _queried(asked: Asked, name: str) -> str:
    """A word of the question's query: `account` of `GET /account/balance?account=0x…&subaccountIndex=0`."""
    for pair in asked.request.partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if key == name and value and "%" not in value and "+" not in value and "/" not in value:
            return value
    raise Malformed(f"no {name} in the answer, nor in the question")


def _stated(source: Source, account: str, index: int, balance: str, updated_at: int | UnsetType) -> Statement:
    """Requests may be checksummed (mixed case), pushes are lower case: the account is the same. A push that names its
    time is the same, however often it comes; an answer is news each time it is asked for: that it is so still."""
    place = f"{account.lower()}/{index}"
    key = "" if updated_at is UNSET else f"statement:{place}:{updated_at}:{balance}"
    if source.asked is not None:
        key = f"answer:{place}:{source.asked.at_ns}:{balance}"
    return f"{NAME}:{place}", BalanceDelta(source, key, (Balance(ASSET, ASSET, balance),))


def _either(current: int | str | UnsetType, older: int | str | UnsetType) -> int | str | UnsetType:
    if current is not UNSET and older is not UNSET:
        raise Malformed("both subaccountIndex and subaccount_index")
    return older if current is UNSET else current


def _index(said: int | str | UnsetType) -> int:
    if isinstance(said, UnsetType):
        raise Malformed("no subaccountIndex")
    if isinstance(said, str):
        if _INDEX.fullmatch(said) is None:
            raise Malformed(f"not a subaccount index: {said[:20]!r}")
        said = int(said)
    if not 0 <= said < INDEX_BOUND:
        raise Malformed("subaccount index out of range")
    return said


def _refusal(frame: Frame, source: Source, reason: str) -> Sequence[Statement]:
    return [(frame.account, FrameQuarantined(source, "", reason[:ERROR_CHARS_MAX]))]


# How Cascade is spoken to --------------------------------------------------------------------------------------------

_AUTH: Final = 1
_SUBSCRIBE: Final = 2
_OURS: Final = (_AUTH, _SUBSCRIBE, str(_AUTH), str(_SUBSCRIBE))
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,8192}")
_ABOUT_AUTH: Final = re.compile(r"auth|token|expired", re.IGNORECASE)


class Login(Struct, frozen=True, kw_only=True):
    """The owner's account, and the key of a wallet that may sign for it: the owner's, or a delegate's.

    No `subaccounts` means all of them, for the owner only.
    """

    address: str
    private_key: Secret
    subaccounts: tuple[int, ...] = ()
    url: str = URL
    rest_url: str = REST_URL


class _Challenge(Struct, gc=False):
    """What is to be signed, and what is sent back with the signature as it came."""

    message: Raw
    signing_payload: str
    server_signature: Raw


class _Token(Struct, gc=False):
    token: str


class _Claims(Struct, gc=False):
    exp: int | float | None = None


class _Rpc(Struct, gc=False):
    """A reply to a request of ours, or what else has an id or an error."""

    jsonrpc: str
    id: _RequestId = None
    error: Raw = Raw()


class _Named(Struct, gc=False):
    """The subaccount a push is about."""

    account: str
    subaccountIndex: int | str | UnsetType = UNSET  # noqa: N815
    subaccount_index: int | str | UnsetType = UNSET


class _About(Struct, gc=False):
    type: str
    data: _Named


_CHALLENGE: Final = Decoder(_Challenge)
_TOKEN_GIVEN: Final = Decoder(_Token)
_CLAIMS: Final = Decoder(_Claims)
_RPC: Final = Decoder(_Rpc)
_FAULT: Final = Decoder(_Error)
_WORDS: Final = Decoder(str)
_ABOUT: Final = Decoder(_About)


def converse(login: Login, begun: Begun) -> Conversation:
    """Sign what the venue wants signed, log in with the token it gives, subscribe, and ask for every balance once."""
    sign = _signer(login.private_key)
    token = yield from _token(login, sign)
    yield Open(Endpoint(login.url if path_of(login.url) else address(login.url, PATH)))
    stream = _Stream(login, token, begun.now_ns)
    yield from stream.log_in()
    yield from stream.subscribe()
    yield Ready()
    while True:
        yield from stream.ask_balances()
        yield from stream.hear()


def _signer(private_key: Secret) -> Callable[[str], str]:
    """What signs a text by EIP-191 (personal_sign), in hex. Raises BadLogin, without the key in any context."""
    recursion = sys.getrecursionlimit()
    try:
        from eth_account import Account
        from eth_account.messages import encode_defunct
    except ImportError:
        raise BadLogin('cascade needs: pip install "accountledger[cascade]"') from None
    finally:  # a library below it lifts the limit that keeps deeply nested JSON from exhausting the stack
        sys.setrecursionlimit(recursion)
    wallet: Any = None
    with suppress(Exception):  # whatever is wrong with it: what is raised may show it
        wallet = Account.from_key(private_key.reveal())
    if wallet is None:
        raise BadLogin("private_key is not one")

    def sign(text: str) -> str:
        return "0x" + bytes(wallet.sign_message(encode_defunct(text=text)).signature).hex()

    return sign


def _token(login: Login, sign: Callable[[str], str]) -> Generator[Action, Said, str]:
    """The bearer token of a login by signature. Raises Rejected and Lost."""
    question = Request(address(login.rest_url, "/auth", account=login.address), kept=False)
    reply = yield from ask(question)
    _check_login(reply, "GET /auth")
    try:
        challenge = wire.decode(_CHALLENGE, reply.body)
    except Malformed:
        raise Lost("what is to be signed cannot be read") from None
    signature = sign(challenge.signing_payload)
    yield Hide(signature)
    body = json.encode(
        {
            "message": challenge.message,
            "signature": signature,
            "server_signature": challenge.server_signature,
        }
    )
    reply = yield from ask(Request(address(login.rest_url, "/auth"), "POST", body=body, kept=False))
    _check_login(reply, "POST /auth")
    token = ""
    with suppress(Malformed):
        token = wire.decode(_TOKEN_GIVEN, reply.body).token
    if _TOKEN.fullmatch(token) is None:
        raise Lost("the token of the login cannot be read")
    yield Hide(token)
    return token


def _check_login(reply: Reply, what: str) -> None:
    if 200 <= reply.status < 300:
        return
    if not reply.status:
        raise Lost(f"no answer to {what}: {wire.legible(reply.body[:800].decode(errors='replace'))}")
    passing = reply.status in (408, 429) or not 400 <= reply.status < 500
    error = Lost if passing else Rejected
    why = f"the venue refused the login: HTTP {reply.status} to {what}"
    raise error(why, retry_after_s=reply.retry_after_s)


def _expiry_ns(token: str) -> int | None:
    """When a JWT ends; None where it does not say, or is none."""
    part = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        exp = wire.decode(_CLAIMS, urlsafe_b64decode(part + "=" * (-len(part) % 4))).exp
        return None if exp is None else wire.epoch_ns(int(exp))
    except (Malformed, ValueError, OverflowError):
        return None


class _Stream:
    """The subscription of one login, and whose balances were asked for."""

    def __init__(self, login: Login, token: str, now_ns: int) -> None:
        self._login: Final = login
        self._token: Final = token
        expiry_ns = _expiry_ns(token)
        life_ns = (
            0 if expiry_ns is None else expiry_ns - now_ns
        )  # not more than 0: our clock, or the venue's, is off
        self._now_ns = now_ns
        """When the venue was last heard."""
        self._renewal_ns: Final = now_ns + max(life_ns // 2, life_ns - EXPIRY_NS) if life_ns > 0 else None
        self._wanted: Final = list(dict.fromkeys(login.subaccounts or (0,)))
        self._named: Final = set(self._wanted)

    def log_in(self) -> Generator[Action, Said, None]:
        """Raises Rejected where the token is refused."""
        yield _rpc("auth", {"bearer": self._token}, _AUTH)
        error = yield from self._reply(_AUTH)
        if error is not None:
            raise Rejected(f"the venue refused the token: {error}")

    def subscribe(self) -> Generator[Action, Said, None]:
        """Raises Rejected where the subscription is refused."""
        params: dict[str, object] = {
            "source": "balance",
            "account": self._login.address,
            "subaccountIndices": list(self._login.subaccounts),
        }
        yield _rpc("subscribe", params, _SUBSCRIBE)
        error = yield from self._reply(_SUBSCRIBE)
        if error is not None and "already subscribed" not in error.lower():
            raise Rejected(f"the venue refused the subscription: {error}")

    def ask_balances(self) -> Generator[Action, Said, None]:
        """Ask for the balances nobody asked for yet, until each is answered. Raises Lost."""
        refused, wait_s, missing = 0, 1.0, ""
        while self._wanted:
            left_s = 0.0
            for index in tuple(self._wanted):
                reply = yield from ask(self._question(index))
                self._now_ns = reply.received_ns
                if 200 <= reply.status < 300 and _is_answer(reply.body):
                    self._wanted.remove(index)
                else:
                    missing = f"no balance asked for yet of subaccount {index}: {_outcome(reply)}"
                refused = refused + 1 if reply.status in (401, 403) else 0
                if refused == REFUSALS_MAX:
                    raise Lost(f"baseline refused: HTTP {reply.status}")
                if left_s := reply.retry_after_s:
                    break  # it wants to be left alone by all of them
            if self._wanted:
                yield Wait(max(wait_s, left_s), missing)
                wait_s = min(2 * wait_s, RETRY_S_MAX)

    def hear(self) -> Generator[Action, Said, tuple[int | str | None, str | None]]:
        """The id of a reply and its error, each None where there is none. Raises Lost where the token is at its end,
        which a venue that is quiet does not tell."""
        end_ns = self._renewal_ns
        heard = yield Listen(None if end_ns is None else max(0, end_ns - self._now_ns) / 1_000_000_000)
        if not isinstance(heard, Heard) or (end_ns is not None and heard.received_ns > end_ns):
            raise Lost("the token expires")
        self._now_ns = heard.received_ns
        with suppress(Malformed):
            said = wire.decode(_RPC, heard.payload)
            error = _fault(said.error)
            if error is not None and said.id not in _OURS and _ABOUT_AUTH.search(error):
                raise Lost(f"the venue ended the login: {error}")
            return said.id, error
        with suppress(Malformed):
            self._note(wire.decode(_ABOUT, heard.payload).data)
        return None, None

    def _reply(self, number: int) -> Generator[Action, Said, str | None]:
        """The error of the reply to a request; None where it is granted."""
        while True:
            said, error = yield from self.hear()
            if said is not None and str(said) == str(number):
                return error

    def _note(self, push: _Named) -> None:
        """The first time it hears of a subaccount, where all are wanted, it wants its balance."""
        index = _index(_either(push.subaccountIndex, push.subaccount_index))
        ours = push.account.lower() == self._login.address.lower() and not self._login.subaccounts
        if ours and index not in self._named and len(self._named) < SUBACCOUNTS_MAX:
            self._named.add(index)
            self._wanted.append(index)

    def _question(self, index: int) -> Request:
        url = address(
            self._login.rest_url, "/account/balance", account=self._login.address, subaccountIndex=index
        )
        return Request(url, headers=(("Authorization", f"Bearer {self._token}"),))


def _outcome(reply: Reply) -> str:
    with suppress(Malformed):  # an error is a bare JSON string
        return f"HTTP {reply.status}, venue error: {wire.legible(wire.decode(_WORDS, reply.body))}"
    return f"HTTP {reply.status}, {len(reply.body)} bytes" if reply.status else "no answer"


def _is_answer(body: bytes) -> bool:
    """Whether an answer is a balance, not an error or a page of something in between."""
    try:
        return not isinstance(wire.decode(_ANSWERS, body), str)
    except Malformed:
        return False


def _rpc(method: str, params: dict[str, object], number: int) -> Send:
    return Send(json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": number}))


def _fault(said: Raw) -> str | None:
    """`-32602: Invalid subscription params`; None where there is no error."""
    body = bytes(said)
    if body in (b"", b"null"):
        return None
    try:
        fault = wire.decode(_FAULT, body)
    except Malformed:
        return "no reason was given"
    return wire.legible(f"{fault.code}: {fault.message}")
