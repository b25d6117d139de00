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
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field, json
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


class _Entry(Struct, gc=False):
    """`stake` and `tradable` are newer than the others: recordings exist without them."""

    currency: Annotated[str, Meta(min_length=1, max_length=64)]
    amount: str
    available: str
    stake: str | UnsetType = UNSET
    tradable: bool | UnsetType = UNSET


class _Message(Struct, gc=False):
    """`{"event":"ACCOUNT_BALANCE","eventID":"…","timestamp":1639553303365,"data":{"ADA":{"currency":"ADA",…}}}`

    `datetime` repeats `timestamp` as text and is not read. Unknown fields are ignored on purpose.
    """

    event: Literal["ACCOUNT_BALANCE"]
    timestamp: Annotated[int, Meta(ge=0, lt=2**53)]
    data: dict[str, _Entry]
    event_id: Annotated[str, Meta(max_length=128)] | UnsetType = field(default=UNSET, name="eventID")
    """For debug use, says the document; absent in recordings older than November 2024."""


class _Other(Struct, gc=False):
    """What can be said of a message that is no balance message."""

    event: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


_MESSAGE: Final = Decoder(_Message)
_OTHER: Final = Decoder(_Other)
_encode: Final = Encoder().encode


def decode(frame: Frame) -> Sequence[Statement]:
    """The whole account from the first frame of a conversation, what moved from any later one."""
    try:
        said = wire.decode(_MESSAGE, frame.payload)
    except Malformed as why:
        return _refusal(frame, why)
    balances: list[Balance] = []
    texts: list[str] = []
    stakes = tradables = 0
    for key, entry in said.data.items():
        asset_id = entry.currency.upper()
        if key.upper() != asset_id:
            raise Malformed(f"currency {entry.currency!r} under the key {key[:64]!r}")
        texts += (entry.amount, entry.available)
        staked = tradable = None
        if entry.stake is not UNSET:
            staked = entry.stake
            texts.append(staked)
            stakes += 1
        if entry.tradable is not UNSET:
            tradable = entry.tradable
            tradables += 1
        balances.append(
            Balance(asset_id, entry.currency, entry.amount, entry.available, None, staked, None, tradable)
        )
    wire.amounts(texts)
    if len({balance.asset_id for balance in balances}) != len(balances):
        raise Malformed("one currency twice, in two spellings")
    _check_keys(frame.payload, said, stakes, tradables)
    source = frame.source(
        NAME, CHANNEL, time_ns=wire.epoch_ns(said.timestamp), message_id=said.event_id or None
    )
    # Messages share timestamps, and an id "for debug use" promises nothing: what is said belongs to the name.
    digest = sha256(_encode((said.timestamp, balances))).hexdigest()[:32]
    key = f"statement:{said.event_id or ''}:{digest}"
    if frame.ordinal == 1:
        return [(frame.account, BalanceSnapshot(source, key, tuple(balances)))]
    return [(frame.account, BalanceDelta(source, key, tuple(balances)))]


def _check_keys(payload: bytes, said: _Message, stakes: int, tradables: int) -> None:
    """No key twice in an entry, no currency twice; a second `event` or filled `data` shows by its content."""
    entries = len(said.data)
    wire.unique_keys(
        payload,
        {
            b'"currency"': entries,
            b'"amount"': entries,
            b'"available"': entries,
            b'"stake"': stakes,
            b'"tradable"': tradables,
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
