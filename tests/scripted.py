"""A venue that says what a test scripts: a frame's payload is the events themselves, encoded.

Knows events; the amounts, times and sequences are the test's, the place in the conversation is the frame's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ledger import Frame, Ledger, Malformed, Tally
from ledger.events import (
    TOPICS,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    Event,
    FillRecorded,
    FrameQuarantined,
    OrderUpdated,
    Source,
    Statement,
)

NAME: Final = "scripted"
MAIN: Final = "scripted:main"
RECEIVED_NS: Final = 1_790_000_000_000_000_000


def decode(frame: Frame) -> Sequence[Statement]:
    """The scripted events, their source completed by the frame."""
    try:
        said = msgspec.msgpack.decode(frame.payload, type=list[tuple[str, str, msgspec.Raw]])
        return [(account, _placed(topic, event, frame)) for account, topic, event in said]
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from None


def _placed(topic: str, encoded: msgspec.Raw, frame: Frame) -> Event:
    event: Event = msgspec.msgpack.decode(encoded, type=TOPICS[topic])
    said = event.source
    source = frame.source(
        NAME, said.channel, time_ns=said.time_ns, sequence=said.sequence, subscription=said.subscription
    )
    return msgspec.structs.replace(event, source=source)


def says(*events: Event, account: str = MAIN) -> bytes:
    """A frame that says these events of one account."""
    return said(*((account, event) for event in events))


def said(*statements: Statement) -> bytes:
    """A frame that says these events, each of the account it names."""
    return msgspec.msgpack.encode([(account, type(event).__name__, event) for account, event in statements])


def feed(ledger: Ledger, *frames: bytes, session: str = "s1", received_ns: int = RECEIVED_NS) -> Tally:
    """One conversation of these frames, opened and closed; what came of it."""
    with ledger.intake(
        VENUE, "main", session=session, opened_ns=received_ns, now_ns=lambda: received_ns
    ) as intake:
        return intake.receive_all([(frame, received_ns) for frame in frames])


class _Scripted:
    """This module as a venue."""

    NAME = NAME

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        return decode(frame)


VENUE: Final = _Scripted()


# Events, by what a test wants to say of them. Without a key nothing is refused as said before.


def source(
    time_ns: int | None = None, *, sequence: int | None = None, subscription: str | None = None
) -> Source:
    return Source(NAME, "script", "", 0, 0, b"", time_ns, sequence, subscription)


def totals(held: Mapping[str, str]) -> tuple[Balance, ...]:
    return tuple(Balance(asset, asset, total) for asset, total in held.items())


def snapshot(
    time_ns: int | None,
    held: Mapping[str, str],
    *,
    part: str | None = None,
    more: bool = False,
    begins: bool = True,
    sequence: int | None = None,
    key: str = "",
) -> BalanceSnapshot:
    """The whole account, or a page of it; numbered within a subscription named like the part."""
    subscription = None if sequence is None else part
    return BalanceSnapshot(
        source(time_ns, sequence=sequence, subscription=subscription), key, totals(held), part, more, begins
    )


def delta(
    time_ns: int | None,
    held: Mapping[str, str],
    removed: Sequence[str] = (),
    *,
    sequence: int | None = None,
    subscription: str | None = None,
) -> BalanceDelta:
    return BalanceDelta(
        source(time_ns, sequence=sequence, subscription=subscription), "", totals(held), tuple(removed)
    )


def imported(
    time_ns: int,
    amount: str,
    balance: str,
    *,
    cause: str = "trade",
    pending: str | None = None,
    asset: str = "USDC",
    memo: bool = False,
    key: str = "",
) -> BalanceEventImported:
    return BalanceEventImported(source(), key, asset, asset, cause, amount, balance, pending, time_ns, memo)


def order(
    order_id: str, updated_ns: int | None, executed: str = "0", *, status: str = "open", closed: bool = False
) -> OrderUpdated:
    return OrderUpdated(
        source(),
        "",
        order_id,
        "ADAUSD",
        "buy",
        "limit",
        status,
        closed,
        executed=executed,
        updated_ns=updated_ns,
    )


def fill(fill_id: str, time_ns: int | None, *, key: str = "", quantity: str = "1") -> FillRecorded:
    return FillRecorded(source(), key, fill_id, "o1", "ADAUSD", "buy", "0.5", quantity, time_ns=time_ns)


def fault(sequence: int, subscription: str, reason: str = "venue error") -> FrameQuarantined:
    return FrameQuarantined(source(sequence=sequence, subscription=subscription), "", reason)
