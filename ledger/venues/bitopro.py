"""What BitoPro says on its `account-balance` stream, and how it is asked to: by a signed upgrade, nothing else.

The first message of a connection states every currency, later ones those that changed, all amounts absolute
("Account Balance Stream").

Must not know what was said before: the messages carry no sequence and no flag, so only a frame's place in the
conversation tells the whole account from an update, and nothing here can tell a gap.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256, sha384
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field, json
from msgspec.json import Decoder
from msgspec.msgpack import Encoder

from ledger import wire
from ledger.errors import Malformed, Rejected
from ledger.events import Balance, BalanceDelta, BalanceSnapshot, FrameQuarantined, Statement
from ledger.venue import (
    Begun,
    Conversation,
    Endpoint,
    Frame,
    Open,
    Ready,
    Secret,
    address,
    listen,
    path_of,
)

NAME: Final = "bitopro"
CHANNEL: Final = "account-balance"
PATH: Final = "/ws/v1/pub/auth/account-balance"
URL: Final = f"wss://stream.bitopro.com:443{PATH}"
ERROR_CHARS_MAX: Final = 500

_EVENT: Final = "ACCOUNT_BALANCE"


_ABSENT: Final[Any] = None
"""Of a field that may be left out, but is never null."""


class _Entry(Struct, gc=False):
    """`stake` and `tradable` are newer than the others: recordings exist without them."""

    currency: Annotated[str, Meta(min_length=1, max_length=64)]
    amount: wire.Digits
    available: wire.Digits
    stake: wire.Digits = _ABSENT
    tradable: bool = _ABSENT


class _Message(Struct, gc=False):
    """`{"event":"ACCOUNT_BALANCE","eventID":"…","timestamp":1639553303365,"data":{"ADA":{"currency":"ADA",…}}}`

    `datetime` repeats `timestamp` as text, and is only counted. Unknown fields are ignored on purpose.
    """

    event: Literal["ACCOUNT_BALANCE"]
    timestamp: Annotated[int, Meta(ge=0, lt=2**53)]
    data: dict[str, _Entry]
    event_id: Annotated[str, Meta(max_length=128)] | UnsetType = field(default=UNSET, name="eventID")
    """For debug use, says the document; absent in recordings older than November 2024."""
    datetime: Raw = Raw()


class _Other(Struct, gc=False):
    """What can be said of a message that is no balance message."""

    event: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


_MESSAGE: Final = Decoder(_Message)
_OTHER: Final = Decoder(_Other)
_STRINGS: Final = 6
"""Keys and texts around the entries: event, eventID, timestamp, data."""
_STRINGS_OF_AN_ENTRY: Final = 10
_encode: Final = Encoder().encode


def decode(frame: Frame) -> Sequence[Statement]:
    """The whole account from the first frame of a conversation, what moved from any later one."""
    try:
        said = wire.decode(_MESSAGE, frame.payload)
    except Malformed as why:
        return _refusal(frame, why)
    data = said.data
    names = "".join(data)
    upper = names == names.upper()
    strings = _STRINGS + len(data) * _STRINGS_OF_AN_ENTRY
    texts: list[str] = []
    balances: list[Balance] = []
    for key, entry in data.items():
        currency, stake, tradable = entry.currency, entry.stake, entry.tradable
        amount, available = entry.amount, entry.available
        asset_id = key if upper else key.upper()
        if currency != key and currency.upper() != asset_id:
            raise Malformed(f"currency {currency!r} under the key {key[:64]!r}")
        texts.append(amount)
        texts.append(available)
        if stake is _ABSENT:
            strings -= 2
        else:
            texts.append(stake)
        if tradable is _ABSENT:
            strings -= 1
        balances.append(Balance(asset_id, currency, amount, available, None, stake, None, tradable))
    wire.amounts(texts, bounded=True)
    if not upper and len({balance.asset_id for balance in balances}) != len(balances):
        raise Malformed("one currency twice, in two spellings")
    if said.event_id is UNSET:
        strings -= 2
    if datetime := bytes(said.datetime):
        strings += 2 if datetime[:1] == b'"' else 1
    if not wire.holds_only(frame.payload, strings):
        _check_keys(frame.payload, said)
    event_id = said.event_id or ""
    source = frame.source(NAME, CHANNEL, wire.epoch_ns(said.timestamp), None, None, event_id or None)
    # Messages share timestamps, and an id "for debug use" promises nothing: what is said belongs to the name.
    digest = sha256(_encode((said.timestamp, balances))).hexdigest()[:32]
    made = BalanceSnapshot if frame.ordinal == 1 else BalanceDelta
    return [(frame.account, made(source, f"statement:{event_id}:{digest}", tuple(balances)))]


def _check_keys(payload: bytes, said: _Message) -> None:
    """No key twice in an entry, no currency twice; a second `event` or filled `data` shows by its content."""
    entries = said.data.values()
    wire.unique_keys(
        payload,
        {
            b'"currency"': len(entries),
            b'"amount"': len(entries),
            b'"available"': len(entries),
            b'"stake"': sum(entry.stake is not _ABSENT for entry in entries),
            b'"tradable"': sum(entry.tradable is not _ABSENT for entry in entries),
            b'"eventID"': said.event_id is not UNSET,
            b'"timestamp"': 1,
        },
    )


def _refusal(frame: Frame, why: Malformed) -> Sequence[Statement]:
    """The venue's own error body, or else the reason why the frame is no balance message."""
    other = wire.decode(_OTHER, frame.payload)
    if other.event is UNSET and other.error is not UNSET:
        source = frame.source(NAME, CHANNEL)
        reason = f"venue error: {other.error[:ERROR_CHARS_MAX]}"
        return [(frame.account, FrameQuarantined(source, "", reason))]
    if other.event is not UNSET and other.event != _EVENT:
        raise Malformed(f"unknown event {other.event[:64]!r}")
    raise why


# How BitoPro is spoken to --------------------------------------------------------------------------------------------


class Login(Struct, frozen=True, kw_only=True):
    """An API key of BitoPro, and the e-mail address of the account it belongs to (`identity`)."""

    identity: Secret
    key: Secret
    secret: Secret
    url: str = URL


def converse(login: Login, begun: Begun) -> Conversation:
    """Connecting is all: the upgrade is signed, and the venue speaks unasked. Refused, there is no
    connection, or an error where the first statement should be."""
    said = {"identity": login.identity.reveal(), "nonce": begun.now_ns // 1_000_000}
    payload = b64encode(json.encode(said)).decode()
    headers = (
        ("X-BITOPRO-APIKEY", login.key.reveal()),
        ("X-BITOPRO-PAYLOAD", payload),
        ("X-BITOPRO-SIGNATURE", signed(payload, login.secret)),
    )
    yield Open(Endpoint(login.url if path_of(login.url) else address(login.url, PATH), headers))
    yield Ready()
    first = yield from listen()
    if (refused := _error_of(first.payload)) is not None:
        raise Rejected(f"the venue refused the login: {wire.legible(refused)}")
    while True:
        yield from listen()


def _error_of(payload: bytes) -> str | None:
    """The text of an error body; None where it is none."""
    try:
        said = wire.decode(_OTHER, payload)
    except Malformed:
        return None
    return said.error if said.event is UNSET and said.error is not UNSET else None


def signed(payload: str, secret: Secret) -> str:
    """The signature of a payload header: HMAC-SHA384 of the text as it is sent, in lower-case hex."""
    return hmac.new(secret.reveal().encode(), payload.encode(), sha384).hexdigest()
