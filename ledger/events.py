"""The facts: what a venue said, and where it said it.

Knows nothing of venues' wire forms, of storage or of time; it is the vocabulary every other room speaks.

The field order of every struct here is the storage format (positional msgpack): append optional fields at the end,
never reorder, rename freely. Any other change is a new topic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct

Amount: TypeAlias = str
"""A finite decimal as the text the venue sent (`ledger.wire.amount` is the guard); never a float, never rounded."""


class Asked(Struct, frozen=True, array_like=True, gc=False):
    """The request that a frame answers: what was asked (`GET /accounts/balance`; never a secret), and when (ns)."""

    request: str
    at_ns: int


class Source(Struct, frozen=True, array_like=True, gc=False):
    """Where a statement comes from; one per frame, shared by all events made from that frame.

    `session` and `ordinal` (1 = first frame of the conversation) name the frame and are the pointer to its raw bytes.
    Times are integer nanoseconds since the Unix epoch, UTC.
    """

    venue: str
    channel: str
    session: str
    ordinal: int
    received_ns: int
    evidence: bytes
    """SHA-256 of the frame's raw bytes; empty where no frame stands behind the event (session records)."""
    time_ns: int | None = None
    """The venue's own time of the statement; None where the venue gives none."""
    sequence: int | None = None
    """The venue's own sequence number, counted within `subscription`."""
    subscription: str | None = None
    message_id: str | None = None
    asked: Asked | None = None
    """The request this frame answers; None where the venue spoke unasked."""
    late_ns: int | None = None
    """When a frame that had been quarantined was decoded after all; None where it was decoded as it came."""


class Valuation(Struct, frozen=True, array_like=True, gc=False):
    """What the venue says a balance is worth in another asset. Never a balance."""

    asset: str
    total: Amount
    available: Amount | None = None


class Balance(Struct, frozen=True, array_like=True, gc=False):
    """What the venue says is held of one asset, after whatever happened. Parts it does not state are None.

    `asset_id` is the key, `asset` the venue's label. Nothing is derived here: a venue that states `available` and
    `locked` but no total has `total=None`.
    """

    asset_id: str
    asset: str
    total: Amount | None = None
    available: Amount | None = None
    locked: Amount | None = None
    staked: Amount | None = None
    pending: Amount | None = None
    tradable: bool | None = None
    valuation: Valuation | None = None


class BalanceSnapshot(Struct, frozen=True, array_like=True, gc=False):
    """The venue stated the whole account: assets not named are no longer held.

    `key` is the natural key (empty where the venue gives none: then only the place in the session identifies it).
    A venue may state the whole account in pages: the pages of one statement share `part`, all but the last have
    `more=True`, all but the first `begins=False`. Only when every page is there are absent assets no longer held.
    """

    source: Source
    key: str
    balances: tuple[Balance, ...]
    part: str | None = None
    more: bool = False
    begins: bool = True


class BalanceDelta(Struct, frozen=True, array_like=True, gc=False):
    """The venue stated only what moved: absolute amounts after the move, plus the asset ids it removed from view."""

    source: Source
    key: str
    balances: tuple[Balance, ...]
    removed: tuple[str, ...] = ()


class OrderUpdated(Struct, frozen=True, array_like=True, gc=False):
    """The venue stated an order's state. Quantities and fees are cumulative for the order; words are the venue's."""

    source: Source
    key: str
    order_id: str
    symbol: str
    side: str
    type: str
    status: str
    closed: bool
    """True where the venue's status word means that nothing more can happen to the order."""
    price: Amount | None = None
    quantity: Amount | None = None
    executed: Amount | None = None
    quote_quantity: Amount | None = None
    executed_quote: Amount | None = None
    average_price: Amount | None = None
    fee: Amount | None = None
    fee_asset: str | None = None
    created_ns: int | None = None
    updated_ns: int | None = None


class FillRecorded(Struct, frozen=True, array_like=True, gc=False):
    """One execution of one order. `quote_quantity` only where the venue states it: price x quantity is not booked.

    Where the execution had been told before, and otherwise, its key begins with `AGAIN`: it is no second one.
    """

    source: Source
    key: str
    fill_id: str
    order_id: str
    symbol: str
    side: str
    price: Amount
    quantity: Amount
    quote_quantity: Amount | None = None
    fee: Amount | None = None
    fee_asset: str | None = None
    role: str | None = None
    counter_order_id: str | None = None
    time_ns: int | None = None


class BalanceEventImported(Struct, frozen=True, array_like=True, gc=False):
    """One row of the venue's own history: cause, signed change, balance after.

    `memo` marks rows that are no spendable asset (loyalty points): they have a history but no balance.
    """

    source: Source
    key: str
    asset_id: str
    asset: str
    cause: str
    amount: Amount
    balance: Amount
    pending: Amount | None = None
    time_ns: int | None = None
    memo: bool = False
    reference: str | None = None


class FrameQuarantined(Struct, frozen=True, array_like=True, gc=False):
    """A frame no event could be made of, kept whole as evidence, with the reason."""

    source: Source
    key: str
    reason: str


class FrameReleased(Struct, frozen=True, array_like=True, gc=False):
    """A frame that had been quarantined was decoded after all (`Source.late_ns`), and says nothing that is new."""

    source: Source
    key: str


class SessionOpened(Struct, frozen=True, array_like=True, gc=False):
    """A conversation with the venue began: from here on we were listening."""

    source: Source
    key: str


class SessionClosed(Struct, frozen=True, array_like=True, gc=False):
    """A conversation ended, and why. `frames` = `recorded` + `duplicates` + `control` + `quarantined`."""

    source: Source
    key: str
    cause: str
    frames: int
    recorded: int
    duplicates: int
    control: int
    quarantined: int


Event: TypeAlias = (
    BalanceSnapshot
    | BalanceDelta
    | OrderUpdated
    | FillRecorded
    | BalanceEventImported
    | FrameQuarantined
    | SessionOpened
    | SessionClosed
    | FrameReleased
)

Statement: TypeAlias = tuple[str, Event]
"""An event and the account it is about: the account comes from what was said, not from who carried it."""

TOPICS: Final[dict[str, type[Event]]] = {
    "BalanceSnapshot": BalanceSnapshot,
    "BalanceDelta": BalanceDelta,
    "OrderUpdated": OrderUpdated,
    "FillRecorded": FillRecorded,
    "BalanceEventImported": BalanceEventImported,
    "FrameQuarantined": FrameQuarantined,
    "SessionOpened": SessionOpened,
    "SessionClosed": SessionClosed,
    "FrameReleased": FrameReleased,
}
"""The closed table of topics: the only names a store may hold, and what each decodes to."""

AMOUNTS: Final[Mapping[type[Struct], tuple[str, ...]]] = {
    kind: tuple(name for name, said in kind.__annotations__.items() if said.startswith("Amount"))
    for kind in (*TOPICS.values(), Balance, Valuation)
}
"""The fields of each that are amounts."""


LATE: Final = "late:"
"""How the key begins that an event gets whose frame was quarantined first, where it has none of its own: its place."""

AGAIN: Final = "again:"
"""How the key begins that a fill gets which was told before, and otherwise: its content (`ledger.retold`)."""


_TIMELESS: Final = frozenset({FillRecorded, SessionOpened, SessionClosed})


def keyed_ns(event: Event) -> int:
    """The instant a natural key belongs to: told again, the same statement has the same one. 0 where no instant is part
    of it (an execution is its id alone, however its time is written).

    Keys are kept and looked up by it, so that a statement newer than all before it needs no look-up.
    """
    kind = type(event)  # this is asked of every event, and isinstance costs more
    if kind is BalanceDelta or kind is BalanceSnapshot:
        at_ns = event.source.time_ns
    elif type(event) is OrderUpdated:
        at_ns = event.updated_ns
    elif type(event) is BalanceEventImported:
        at_ns = event.time_ns
    elif kind in _TIMELESS:
        return 0
    else:
        at_ns = event.source.time_ns
    return 0 if at_ns is None or event.key.startswith(LATE) else at_ns


_IDS: Final = (
    "key",
    "order_id",
    "fill_id",
    "counter_order_id",
    "symbol",
    "side",
    "type",
    "status",
    "role",
    "fee_asset",
    "asset_id",
    "asset",
    "part",
    "reference",
)


def ids(event: Event) -> Iterator[str]:
    """The texts of an event by which something may be looked up; amounts and reasons are none."""
    source = event.source
    yield from (source.venue, source.channel, source.session)
    yield from (source.subscription or "", source.message_id or "")
    for name in _IDS:
        if text := getattr(event, name, None):
            yield text
    if isinstance(event, BalanceEventImported):
        yield event.cause
    elif isinstance(event, BalanceSnapshot | BalanceDelta):
        yield from (text for each in event.balances for text in (each.asset_id, each.asset))
        yield from event.removed if isinstance(event, BalanceDelta) else ()


_NUMBERS: Final = (
    "created_ns",
    "updated_ns",
    "time_ns",
    "frames",
    "recorded",
    "duplicates",
    "control",
    "quarantined",
)


def numbers(event: Event) -> Iterator[int]:
    """The numbers of an event: times, and what is counted."""
    source = event.source
    yield from (source.ordinal, source.received_ns, source.time_ns or 0, source.sequence or 0)
    yield from (source.late_ns or 0, 0 if source.asked is None else source.asked.at_ns)
    for name in _NUMBERS:
        yield getattr(event, name, None) or 0


def opened_key(session: str) -> str:
    """The natural key of a session's opening: there is one."""
    return f"session:{session}:opened"


def time_of(event: Event) -> int:
    """When the statement was true: the venue's time where it gives one, else when we received it (ns)."""
    if type(event) is BalanceEventImported and event.time_ns is not None:
        return event.time_ns
    time_ns = event.source.time_ns
    return event.source.received_ns if time_ns is None else time_ns


def by_name(value: Any) -> Any:
    """An event, or a part of one, as plain fields by their names: what a struct that is stored by places says."""
    if isinstance(value, Struct):
        return {name: by_name(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [by_name(part) for part in value]
    return value.hex() if isinstance(value, bytes) else value


def known_ns(event: Event) -> int:
    """Since when we know the statement (ns): since the frame came, or since it could be read after all."""
    late_ns = event.source.late_ns
    return event.source.received_ns if late_ns is None else late_ns


def is_again(fill: FillRecorded) -> bool:
    """Whether the execution had been told before, and otherwise: it is no second one."""
    return fill.key.startswith(AGAIN)


def is_answer(event: Event) -> bool:
    """Whether the venue stated these balances because we asked: all there is to say of the assets it names."""
    return type(event) is BalanceDelta and event.source.asked is not None
