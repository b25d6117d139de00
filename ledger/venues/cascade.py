"""Knows Cascade's `balance` channel: pushes of one subaccount's absolute balance, and JSON-RPC replies.

Must not know what a balance is made of: the venue names no cause and no currency (its collateral is USDC).
There is no sequence and no promised snapshot, so nothing here can tell a gap. The rules are from the document
"Subscribe Balance" and its older revision, whose spellings (`subaccount_index`, an index as text) are still
read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder

from ledger import wire
from ledger.errors import Malformed
from ledger.events import Balance, BalanceDelta, FrameQuarantined, Source, Statement
from ledger.venue import Frame

NAME: Final = "cascade"

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


_MESSAGE: Final = Decoder(_Message | str)
_BALANCE_UPDATE: Final = Decoder(_BalanceUpdate)


def decode(frame: Frame) -> Sequence[Statement]:
    """The statements of a frame: one balance, one refusal, or none for the acknowledgement of a request."""
    message = wire.decode(_MESSAGE, frame.payload)
    if isinstance(message, str):  # REST answers an error with a bare JSON string
        return _refusal(frame, frame.source(NAME, "rest"), f"venue error: {message}")
    pushed = message.type is not UNSET and bool(bytes(message.data))
    if pushed and message.jsonrpc is UNSET:
        if message.type != "Balance Update":
            raise Malformed(f"unknown type {str(message.type)[:80]!r}")
        return _balance(frame, message.data)
    if message.jsonrpc is UNSET or pushed:
        raise Malformed("neither a push (type, data) nor a reply (jsonrpc)")
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
    if isinstance(current, UnsetType):
        index = _index(older)
    elif isinstance(older, UnsetType):
        index = _index(current)
    else:
        raise Malformed("both subaccountIndex and subaccount_index")
    balance = wire.amount(update.balance)
    # Requests may be checksummed (mixed case), pushes are lower case: the account is the same.
    place = f"{update.account.lower()}/{index}"
    source = frame.source(NAME, "balance", time_ns=wire.epoch_ns(update.updatedAt))
    key = f"statement:{place}:{update.updatedAt}:{balance}"
    return [(f"{NAME}:{place}", BalanceDelta(source, key, (Balance(ASSET, ASSET, balance),)))]


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
