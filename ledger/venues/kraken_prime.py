"""What Kraken Prime says on its `Balance` stream, and how it is subscribed to, paged, and subscribed to anew.

A baseline comes in one page or several, then the rows that changed or left the view, all amounts absolute ("Balance",
"Hello", "Ping", "Page", "Cancel" of the Prime WebSocket reference).

`decode` must not know the frames before: a sequence (`seqNum`, or `seq` as the Talos platform beneath sends it) is
passed on there. `converse` counts it, and asks for a new baseline where a number is missing: nothing is replayed. A
valuation (`Equivalent`) is kept aside: it is never a balance.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Generator, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field, json
from msgspec.json import Decoder

from ledger import wire
from ledger.errors import Lost, Malformed, Rejected
from ledger.events import Balance, BalanceDelta, BalanceSnapshot, FrameQuarantined, Statement, Valuation
from ledger.venue import (
    Action,
    Begun,
    Conversation,
    Endpoint,
    Frame,
    Heard,
    Open,
    Ready,
    Remember,
    Said,
    Secret,
    Send,
    Wait,
    address,
    host_of,
    listen,
    path_of,
)

NAME: Final = "kraken_prime"
CHANNEL: Final = "Balance"
PATH: Final = "/ws/v1"
URL: Final = f"wss://wss.prime.kraken.com{PATH}"
ERROR_CHARS_MAX: Final = 500
RESUBSCRIBE_NS: Final = 1_000_000_000
"""The least time between one resubscription and the next; twice the last one where the baseline had a hole already."""
RESUBSCRIBE_NS_MAX: Final = 60_000_000_000

_Currency: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
_Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]


_ABSENT: Final[Any] = None
"""Of a field that may be left out, but is never null."""


class _Equivalent(Struct, gc=False, rename="pascal"):
    currency: _Currency
    amount: wire.Digits
    available_amount: wire.Digits = _ABSENT


class _Row(Struct, gc=False, rename="pascal"):
    """`{"Currency":"BTC","Amount":"40.15480673","AvailableAmount":"40.15480673","Equivalent":{…}}`

    Amounts are absolute and may be negative (credit). A removed row need not carry any.
    """

    currency: _Currency
    amount: wire.Digits = _ABSENT
    available_amount: wire.Digits = _ABSENT
    equivalent: _Equivalent = _ABSENT


class _Balances(Struct, gc=False, tag_field="type", tag="Balance"):
    """`{"reqid":11,"type":"Balance","ts":"2021-09-16T16:17:06.892914Z","initial":true,"seqNum":1,"data":[…]}`

    Unknown fields are ignored on purpose, here and in the rows.
    """

    reqid: _Count
    ts: str
    data: list[_Row]
    seq_num: _Count | UnsetType = field(default=UNSET, name="seqNum")
    seq: _Count | UnsetType = UNSET
    initial: bool | UnsetType | None = UNSET
    action: str | UnsetType | None = UNSET
    next: str | UnsetType | None = UNSET
    """Where the next page begins; empty or absent on the last."""


class _Fault(Struct, gc=False):
    code: str | Annotated[int, Meta(gt=-(2**53), lt=2**53)] = ""
    msg: str = ""


class _Error(Struct, gc=False, tag_field="type", tag="error"):
    """`{"type":"error","reqid":2,"seq":1,"error":{"code":…,"msg":"…"}}`: uses up a number of its sequence."""

    error: _Fault
    reqid: _Count | UnsetType = UNSET
    ts: str | UnsetType = UNSET
    seq_num: _Count | UnsetType = field(default=UNSET, name="seqNum")
    seq: _Count | UnsetType = UNSET


class _Hello(Struct, gc=False, tag_field="type", tag="hello"):
    """The server speaks first."""

    session_id: Annotated[str, Meta(min_length=1, max_length=128)]


class _Pong(Struct, gc=False, tag_field="type", tag="Pong"):
    pass


class _PongLower(Struct, gc=False, tag_field="type", tag="pong"):
    """As clients of the platform beneath have it."""


class _Head(Struct, gc=False):
    type: str


_Said: TypeAlias = _Balances | _Error | _Hello | _Pong | _PongLower
_SAID: Final[Decoder[_Said]] = Decoder(_Said)
_HEAD: Final = Decoder(_Head)
_KNOWN: Final = frozenset(("Balance", "error", "hello", "Pong", "pong"))


def decode(frame: Frame) -> Sequence[Statement]:
    """A page of the baseline, an update or a removal; an error as quarantine; nothing from hello and pong."""
    try:
        said = wire.decode(_SAID, frame.payload)
    except Malformed:
        kind = wire.decode(_HEAD, frame.payload).type
        if kind not in _KNOWN:
            raise Malformed(f"unknown type {kind[:64]!r}") from None
        raise
    if isinstance(said, _Balances):
        return _balances(frame, said)
    if isinstance(said, _Error):
        return _error(frame, said)
    return ()


def conversation(payload: bytes) -> str | None:
    """The `session_id` of a hello: request ids and sequences count within it."""
    if b'"hello"' not in payload:
        return None
    try:
        said = wire.decode(_SAID, payload)
    except Malformed:
        return None
    return said.session_id if isinstance(said, _Hello) else None


def _subscription(frame: Frame, reqid: int) -> str:
    return f"{frame.conversation or frame.session}/{reqid}"


def _balances(frame: Frame, said: _Balances) -> Sequence[Statement]:
    balances, partial = _rows(frame.payload, said)
    subscription = _subscription(frame, said.reqid)
    sequence = _sequence(said)
    source = frame.source(NAME, CHANNEL, wire.iso_ns(said.ts), sequence, subscription)
    # Another connection counts reqid and sequence anew, and a frame may lack one: only the whole is a key.
    key = f"statement:{source.evidence.hex()}"
    # A later page need not repeat the initial flag; one that denies it is an update.
    baseline = said.initial if isinstance(said.initial, bool) else bool(said.next)
    if said.action == "Update" or not isinstance(said.action, str):
        if partial:
            raise Malformed(f"{partial!r} without Amount or AvailableAmount")
        if baseline:
            begins = said.initial is True and (sequence or 0) <= 1
            page = BalanceSnapshot(source, key, balances, subscription, bool(said.next), begins)
            return [(frame.account, page)]
        return [(frame.account, BalanceDelta(source, key, balances))]
    if said.action != "Remove":
        raise Malformed(f"unknown action {said.action[:64]!r}")
    if baseline:
        raise Malformed("rows removed in a baseline")
    return [(frame.account, BalanceDelta(source, key, (), tuple(row.currency for row in said.data)))]


def _rows(payload: bytes, said: _Balances) -> tuple[tuple[Balance, ...], str]:
    """The balances of the rows, and which of them is the first without its amounts, if one is.

    Every amount is one, whatever the action; no currency and no key stands twice.
    """
    strings = _strings_around(said) + len(said.data) * _STRINGS_OF_A_ROW
    texts: list[str] = []
    balances: list[Balance] = []
    currencies: set[str] = set()
    partial = ""
    for row in said.data:
        currency, amount, available, worth = row.currency, row.amount, row.available_amount, row.equivalent
        currencies.add(currency)
        if amount is _ABSENT or available is _ABSENT:
            partial = partial or currency
            told = [text for text in (amount, available) if text is not _ABSENT]
            texts += told
            strings += 2 * len(told) - 4
        else:
            texts.append(amount)
            texts.append(available)
        if worth is _ABSENT:
            balances.append(Balance(currency, currency, amount, available))
            continue
        valuation = Valuation(worth.currency, worth.amount, worth.available_amount)
        texts.append(worth.amount)
        strings += 5
        if worth.available_amount is not _ABSENT:
            texts.append(worth.available_amount)
            strings += 2
        balances.append(Balance(currency, currency, amount, available, None, None, None, None, valuation))
    wire.amounts(texts, bounded=True)
    if not wire.holds_only(payload, strings):
        _check_keys(payload, said)
    if len(currencies) != len(balances):
        raise Malformed("one currency twice")
    return tuple(balances), partial


_STRINGS: Final = 6
"""Keys and texts around the rows: reqid, type, ts, data."""
_STRINGS_OF_A_ROW: Final = 6


def _strings_around(said: _Balances) -> int:
    """How many keys and texts there are around the rows."""
    strings = _STRINGS
    if said.seq_num is not UNSET:
        strings += 1
    if said.seq is not UNSET:
        strings += 1
    if said.initial is not UNSET:
        strings += 1
    if said.action is not UNSET:
        strings += 1 if said.action is None else 2
    if said.next is not UNSET:
        strings += 1 if said.next is None else 2
    return strings


def _check_keys(payload: bytes, said: _Balances) -> None:
    """No key twice. A second `data` or `Equivalent` shows by the keys within; a second `type` must agree, or the parser
    refuses it."""
    rows = said.data
    worths = [row.equivalent for row in rows if row.equivalent is not _ABSENT]
    amounts = sum(row.amount is not _ABSENT for row in rows)
    availables = sum(row.available_amount is not _ABSENT for row in rows)
    availables += sum(worth.available_amount is not _ABSENT for worth in worths)
    wire.unique_keys(
        payload,
        {
            b'"Currency"': len(rows) + len(worths),
            b'"Amount"': amounts + len(worths),
            b'"AvailableAmount"': availables,
            b'"reqid"': 1,
            b'"ts"': 1,
            b'"seqNum"': said.seq_num is not UNSET,
            b'"seq"': said.seq is not UNSET,
            b'"initial"': said.initial is not UNSET,
            b'"action"': said.action is not UNSET,
            b'"next"': said.next is not UNSET,
        },
    )


def _sequence(said: _Balances | _Error) -> int | None:
    if said.seq_num is not UNSET:
        return said.seq_num
    return None if said.seq is UNSET else said.seq


def _error(frame: Frame, said: _Error) -> Sequence[Statement]:
    source = frame.source(
        NAME,
        CHANNEL,
        time_ns=None if said.ts is UNSET else wire.iso_ns(said.ts),
        sequence=_sequence(said),
        subscription=None if said.reqid is UNSET else _subscription(frame, said.reqid),
    )
    reason = f"venue error {said.error.code}: {said.error.msg}"[:ERROR_CHARS_MAX]
    return [(frame.account, FrameQuarantined(source, "", reason))]


# How Kraken Prime is spoken to ---------------------------------------------------------------------------------------

_YEAR_2020_S: Final = 1_577_836_800
_REQID_MAX: Final = 2**52


class Login(Struct, frozen=True, kw_only=True):
    """An API key of Kraken Prime; the role "Viewer" is enough."""

    key: Secret
    secret: Secret
    url: str = URL


class _Envelope(Struct, gc=False):
    """What every message of a subscription has, whatever its rows are."""

    type: str
    reqid: _Count | UnsetType = UNSET
    seq_num: _Count | UnsetType = field(default=UNSET, name="seqNum")
    seq: _Count | UnsetType = UNSET
    initial: bool | UnsetType | None = UNSET
    action: str | UnsetType | None = UNSET
    next: str | UnsetType | None = UNSET
    error: Raw = Raw()


_ENVELOPE: Final = Decoder(_Envelope)
_FAULT: Final = Decoder(_Fault)


def converse(login: Login, begun: Begun) -> Conversation:
    """Subscribe to every balance when the server has said hello; page; where a number is missing, subscribe anew."""
    url = login.url if path_of(login.url) else address(login.url, PATH)
    at = wire.time_text(begun.now_ns // 1_000_000_000 * 1_000_000_000).replace("Z", ".000000Z")
    headers = (
        ("ApiKey", login.key.reveal()),
        ("ApiSign", signed(at, url, login.secret)),
        ("ApiTimestamp", at),
    )
    yield Open(Endpoint(url, headers))
    while (said := _envelope((yield from listen()).payload)) is None or said.type != "hello":
        pass
    stream = _Stream(_last_reqid(begun))
    yield from stream.subscribe()
    while True:
        heard = yield from listen()
        yield from stream.hear(_envelope(heard.payload), heard)


def signed(at: str, url: str, secret: Secret) -> str:
    """The signature of an upgrade at a time (`2026-11-22T05:00:00.000000Z`): HMAC-SHA256 with the secret as the text it
    is, in base64 with the letters of URLs, as the venue's own sample has it."""
    text = f"GET\n{at}\n{host_of(url)}\n{path_of(url) or '/'}"
    return urlsafe_b64encode(hmac.digest(secret.reveal().encode(), text.encode(), sha256)).decode()


class _Stream:
    """The one subscription that counts, and the one it replaces until its own baseline is whole."""

    def __init__(self, last_reqid: int) -> None:
        self._reqid = last_reqid
        self._number: int | None = None
        """Of its last message; None before the first."""
        self._old: int | None = None
        """The subscription before, which goes on being recorded until this one's baseline is whole."""
        self._unread = False
        """Whether it said what could not be read."""
        self._whole = False
        """Whether all of its baseline could be read."""
        self._torn = False
        """Whether something is missing since it began: a number, or what could not be read."""
        self._sound = False
        """Whether its baseline was whole, and nothing missing by then."""
        self._cursors: set[str] = set()
        """Where the pages of the baseline began that were asked for."""
        self._ready = False
        self._resubscribed_ns: int | None = None
        self._pause_ns = RESUBSCRIBE_NS

    def subscribe(self) -> Generator[Action, Said, None]:
        """Subscribe under a number never used before: it is remembered before it is used."""
        self._reqid += 1
        self._number = None
        self._torn = self._whole = self._sound = self._unread = False
        self._cursors.clear()
        yield Remember(b"%d" % self._reqid)
        yield _send({"reqid": self._reqid, "type": "subscribe", "streams": [{"name": CHANNEL}]})

    def hear(self, said: _Envelope | None, heard: Heard) -> Generator[Action, Said, None]:
        """Answer a message, if it wants an answer; None is one that cannot be read. Raises Lost."""
        if said is not None and said.reqid == self._reqid and said.type in (CHANNEL, "error"):
            fresh = self._count(said)
            if said.type == "error":
                if not self._ready:
                    raise Rejected(f"the venue refused the subscription: {_refusal(said)}")
                if not self._whole:
                    raise Lost(f"the venue refused the subscription: {_refusal(said)}")
            elif fresh:
                if not _is_read(heard.payload):
                    self._unread = True
                    self._torn = (
                        self._torn or self._whole
                    )  # a baseline that cannot be read, another will not be
                yield from self._page(said)
        if self._torn:
            received_ns = heard.received_ns
            left_ns = self._pause_ns - (received_ns - (self._resubscribed_ns or 0))
            if 0 < left_ns <= self._pause_ns:  # a clock set back is no reason to wait
                yield Wait(left_ns / 1_000_000_000)
                received_ns += left_ns
            yield from self._resubscribe(received_ns)

    def _count(self, said: _Envelope) -> bool:
        """Whether the message was not heard before, as far as its number tells."""
        number = said.seq if said.seq_num is UNSET else said.seq_num
        if number is UNSET:
            return True
        last, self._number = self._number, number if self._number is None else max(self._number, number)
        self._torn = self._torn or number > (last or 0) + 1
        return last is None or number > last

    def _page(self, said: _Envelope) -> Generator[Action, Said, None]:
        if not self._ready:
            self._ready = True
            yield Ready()
        if said.next:
            if said.next in self._cursors:
                raise Lost("the cursor repeats")
            self._cursors.add(said.next)
            yield _send(
                {"reqid": self._reqid, "type": "page", "data": [{"name": CHANNEL, "after": said.next}]}
            )
            return
        baseline = said.initial if isinstance(said.initial, bool) else said.action in (UNSET, None)
        self._whole = self._whole or (baseline and not self._unread)
        if self._whole:
            self._cursors.clear()
        if self._whole and not self._torn:
            self._sound = True
            if self._old is not None:
                yield _send({"reqid": self._old, "type": "cancel"})
                self._old = None

    def _resubscribe(self, received_ns: int) -> Generator[Action, Said, None]:
        torn = self._reqid
        self._resubscribed_ns = received_ns
        self._pause_ns = RESUBSCRIBE_NS if self._sound else min(2 * self._pause_ns, RESUBSCRIBE_NS_MAX)
        yield from self.subscribe()
        if self._old is None:
            self._old = torn
        else:  # torn before its baseline was whole: the one before it still speaks
            yield _send({"reqid": torn, "type": "cancel"})


def _send(request: dict[str, object]) -> Send:
    return Send(json.encode(request))


def _envelope(payload: bytes) -> _Envelope | None:
    """None where the message cannot be read: `decode` says why, in quarantine."""
    try:
        return wire.decode(_ENVELOPE, payload)
    except Malformed:
        return None


def _is_read(payload: bytes) -> bool:
    """Whether the ledger could read the message: what it keeps in quarantine is missing like what never came."""
    try:
        decode(Frame("", "", 1, 0, payload))
    except Malformed:
        return False
    return True


def _last_reqid(begun: Begun) -> int:
    """The number used last; one that cannot have been used where that cannot be told."""
    if not begun.memory:
        return 0
    if begun.memory.isdigit() and len(begun.memory) <= 16 and int(begun.memory) < _REQID_MAX:
        return int(begun.memory)
    return max(0, begun.now_ns // 1_000_000_000 - _YEAR_2020_S)


def _refusal(said: _Envelope) -> str:
    try:
        fault = wire.decode(_FAULT, bytes(said.error))
    except Malformed:
        return "no reason was given"
    return wire.legible(f"{fault.code}: {fault.msg}")
