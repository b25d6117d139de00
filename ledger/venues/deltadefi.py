"""What DeltaDeFi's account stream says, in the three generations of it, and its REST balance; and how both are had.

`decode` must not know how a frame came: no socket, no clock, no API key (the venue carries its key in the URL).

The rules come from `venues/deltadefi.md`. The venue numbers no message and times none: a balance has no identity
but its place in the session. Whether a list is complete is not documented, so nothing is ever zeroed by its
absence, and `total_count` is no check. The generations share their names: the shape tells them apart.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ledger import wire
from ledger.errors import Lost, Malformed
from ledger.events import (
    Amount,
    Asked,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    Event,
    FillRecorded,
    FrameQuarantined,
    OrderUpdated,
    Source,
    Statement,
)
from ledger.retold import told_again
from ledger.venue import (
    Action,
    Begun,
    Conversation,
    Endpoint,
    Frame,
    Open,
    Ready,
    Reply,
    Request,
    Said,
    Secret,
    Wait,
    address,
    ask,
    listen,
    path_of,
)

NAME: Final = "deltadefi"
PATH: Final = "/accounts/stream"
URL: Final = f"wss://stream.deltadefi.io{PATH}"
BALANCE_PATH: Final = "/accounts/balance"
REST_URL: Final = "https://api.deltadefi.io"
RETRY_S_MAX: Final = 30.0
REFUSALS_MAX: Final = 3
UNAUTHORIZED: Final = 4010
"""The code of an error; the status of its answer says little, a 400 has been seen with codes of every kind."""

_REST: Final = "accounts/balance"
_ADA: Final = "lovelace"
_CLOSED: Final = frozenset({"fully_filled", "cancelled", "partially_cancelled", "closed", "failed"})
_KEEPALIVE: Final = frozenset({b"ping", b"pong"})  # the only frames that are not JSON
_LISTS: Final = frozenset({"open_orders", "trading_history", "orders_history"})
_KEYS: Final = {"balance": "balance", "order_info": "order", "dlta_points": "dlta_points"}
_ERROR_CHARS_MAX: Final = 200
_UNITS_KEPT: Final = 4_096
_TIMES_KEPT: Final = 1_024
# "balance" stands twice: the word and the key
_ENVELOPE: Final = {b'"balance"': 2, b'"type"': 1, b'"sub_type"': 1}
_UNREAD: Final = frozenset({
    "total_count", "total_page", "slippage", "account_id", "locked_base_qty", "locked_quote_qty",
    "ob_open_order_base_qty", "commission_rate_bp", "slippage_bp", "active_order_utxo_id", "market_order_limit_price",
})  # fmt: skip
"""Of these no event is made: they are known only so that nothing unknown is left in a frame."""

_Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]  # policy + asset name: 120 hex digits
_Text: TypeAlias = Annotated[str, Meta(max_length=128)]
_Digits: TypeAlias = Raw  # a JSON number or a string of digits: the same field has been both
_O = TypeVar("_O")


class _Row(Struct, frozen=True, gc=False):
    asset: _Word
    asset_unit: _Text
    free: _Digits
    locked: _Digits


class _Message(Struct, Generic[_O], frozen=True, gc=False):
    """The envelope; what depends on the generation is parsed when the shape is known, or (`_USUAL`) with it."""

    type: str | UnsetType = UNSET
    sub_type: str | UnsetType = UNSET
    balance: list[_Row] | UnsetType | None = UNSET
    data: Raw | UnsetType = UNSET
    order: _O | UnsetType = UNSET
    dlta_points: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    total_count: Raw | UnsetType = UNSET
    total_page: Raw | UnsetType = UNSET


class _Error(Struct, frozen=True, gc=False):
    error: str
    code: int


class _Fill(Struct, frozen=True, gc=False):
    id: _Word
    order_id: _Word
    execution_price: _Digits
    filled_amount: _Digits
    fee_unit: _Text | UnsetType = UNSET
    fee_amount: _Digits | UnsetType = UNSET
    role: _Text | UnsetType = UNSET
    counter_party_order_id: _Text | UnsetType = UNSET
    create_time: int | UnsetType = UNSET


class _Order(Struct, frozen=True, gc=False):
    """Generations 0 and 1: Unix seconds; quantities were numbers, then strings."""

    order_id: _Word
    status: _Word
    symbol: _Word
    side: _Word
    type: _Word
    orig_qty: _Digits
    executed_qty: _Digits
    price: _Digits | UnsetType = UNSET
    executed_price: _Digits | UnsetType = UNSET
    fee_charged: _Digits | UnsetType = UNSET
    fee_unit: _Text | UnsetType = UNSET
    create_time: int | UnsetType = UNSET
    update_time: int | UnsetType = UNSET
    fills: list[_Fill] | UnsetType | None = UNSET
    slippage: Raw | UnsetType = UNSET


class _Filling(Struct, frozen=True, gc=False):
    """One of `order_filling_records`: a fill told apart from its order."""

    execution_id: _Word
    order_id: _Word
    symbol: _Word
    side: _Word
    executed_qty: _Digits
    executed_price: _Digits
    fee_charged: _Digits | UnsetType = UNSET
    fee_unit: _Text | UnsetType = UNSET
    created_time: int | UnsetType = UNSET
    create_time: int | UnsetType = UNSET


class _Page(Struct, frozen=True, gc=False):
    """An entry of `data`: a page of lists; or, with no page around it, one order or one filling."""

    orders: list[_Order] | UnsetType | None = UNSET
    order_filling_records: list[_Filling] | UnsetType | None = UNSET
    execution_id: Raw | UnsetType = UNSET


class _Execution(Struct, frozen=True, gc=False):
    id: _Word
    order_id: _Word
    execution_price: wire.Digits
    filled_base_qty: wire.Digits
    filled_quote_qty: wire.Digits | UnsetType = UNSET
    commission: wire.Digits | UnsetType = UNSET
    commission_unit: _Text | UnsetType = UNSET
    role: _Text | UnsetType = UNSET
    counter_party_order_id: _Text | UnsetType | None = UNSET
    created_at: str | UnsetType = UNSET
    account_id: Raw | UnsetType = UNSET


class _OrderInfo(Struct, frozen=True, gc=False):
    """Generation 2: every amount a string, ISO-8601 times. What is Raw is not read, only known to be there."""

    id: _Word
    status: _Word
    symbol: _Word
    side: _Word
    type: _Word
    base_qty: wire.Digits
    executed_base_qty: wire.Digits
    quote_qty: wire.Digits | UnsetType = UNSET
    executed_quote_qty: wire.Digits | UnsetType = UNSET
    price: wire.Digits | UnsetType = UNSET
    executed_price: wire.Digits | UnsetType = UNSET
    commission: wire.Digits | UnsetType = UNSET
    commission_unit: _Text | UnsetType = UNSET
    created_at: str | UnsetType = UNSET
    updated_at: str | UnsetType = UNSET
    order_execution_records: list[_Execution] | UnsetType | None = UNSET
    order_id: Raw | UnsetType = UNSET
    account_id: Raw | UnsetType = UNSET
    locked_base_qty: Raw | UnsetType = UNSET
    locked_quote_qty: Raw | UnsetType = UNSET
    ob_open_order_base_qty: Raw | UnsetType = UNSET
    commission_rate_bp: Raw | UnsetType = UNSET
    slippage_bp: Raw | UnsetType = UNSET
    active_order_utxo_id: Raw | UnsetType = UNSET
    market_order_limit_price: Raw | UnsetType = UNSET


class _Shape(Struct, frozen=True, gc=False):
    """What tells the order objects apart: generation 2 calls its id `id`."""

    order_id: Raw | UnsetType = UNSET


class _Points(Struct, frozen=True, gc=False):
    delta: str
    new_total: str
    source_type: _Word
    season_points: _Text | UnsetType = UNSET
    source_ref: _Text | UnsetType | None = UNSET
    league: _Text | UnsetType = UNSET


_Told: TypeAlias = _Message[Any] | list[_Row]
_USUAL: Final[msgspec.json.Decoder[_Told]] = msgspec.json.Decoder(_Message[_OrderInfo] | list[_Row])
"""In one pass, where an order is of generation 2."""
_EXACT: Final[msgspec.json.Decoder[_Told]] = msgspec.json.Decoder(_Message[Raw] | list[_Row])
_ENCODE: Final = msgspec.json.Encoder().encode
_ERROR: Final = msgspec.json.Decoder(_Error)
_PAGES: Final = msgspec.json.Decoder(list[_Page])
_ORDERS: Final = msgspec.json.Decoder(list[_Order])
_FILLINGS: Final = msgspec.json.Decoder(list[_Filling])
_SHAPE: Final = msgspec.json.Decoder(_Shape)
_ORDER: Final = msgspec.json.Decoder(_Order)
_ORDER_INFO: Final = msgspec.json.Decoder(_OrderInfo)
_POINTS: Final = msgspec.json.Decoder(_Points)


def decode(frame: Frame) -> Sequence[Statement]:
    """The statements of a frame."""
    payload = frame.payload
    if len(payload) == 4 and payload in _KEEPALIVE:  # to look up a long payload is to hash it
        return ()
    try:
        return _statements(frame, wire.decode(_USUAL, payload))
    except Malformed:
        pass  # unusual, or wrong: the exact reading decides, and says why
    return _statements(frame, wire.decode(_EXACT, payload))


def _statements(frame: Frame, said: _Told) -> Sequence[Statement]:
    if isinstance(said, list):
        return [_balance(frame, _REST, said)]
    if said.type is UNSET:
        if said.error is UNSET:
            raise Malformed("unknown message: neither type nor error")
        return [_venue_error(frame)]
    if said.type.lower() != "account" or said.sub_type is UNSET:
        raise Malformed(f"unknown message: type {said.type[:40]!r}, sub_type {str(said.sub_type)[:40]!r}")
    sub_type = said.sub_type
    if sub_type == "balance" and isinstance(said.balance, list):
        return [_balance(frame, sub_type, said.balance)]
    if sub_type == "order_info" and said.order is not UNSET:
        events = _order_info(frame, said, sub_type)
    elif sub_type in _LISTS and said.data is not UNSET:
        events = _lists(frame, said, sub_type, bytes(said.data))
    elif sub_type == "dlta_points" and said.dlta_points is not UNSET:
        events = [_points(frame, said, sub_type, bytes(said.dlta_points))]
    elif sub_type in _KEYS:
        raise Malformed(f"{sub_type} without its {_KEYS[sub_type]!r}")
    elif sub_type in _LISTS:
        raise Malformed(f"{sub_type} without its 'data'")
    else:
        raise Malformed(f"unknown message: sub_type {sub_type[:40]!r}")
    return [(frame.account, event) for event in events]


def _venue_error(frame: Frame) -> Statement:
    said = wire.decode(_ERROR, frame.payload)
    reason = f"venue error {said.code}: {said.error[:_ERROR_CHARS_MAX]}"
    return frame.account, FrameQuarantined(frame.source(NAME, "error"), "", reason)


def _balance(frame: Frame, channel: str, rows: list[_Row]) -> Statement:
    """Absolute amounts of the assets named, and of no other.

    An answer to a request is as old as the request, at the most: what was pushed meanwhile is newer. No time is told.
    A bare list can only be an answer: where it is not known when it was asked for, that was just before it came.
    """
    named = len(rows)
    texts = _free_and_locked(frame.payload, channel, rows)
    balances = tuple(
        [
            Balance(_asset_id(row.asset_unit), row.asset, None, free, locked)
            for row, free, locked in zip(rows, texts[:named], texts[named:], strict=True)
        ]
    )
    if named > 1 and named != len({balance.asset_id for balance in balances}):
        raise Malformed("an asset is named twice in one balance")
    time_ns = None
    if channel == _REST:
        asked = frame.asked or Asked(f"GET {BALANCE_PATH}", frame.received_ns)
        frame, time_ns = msgspec.structs.replace(frame, asked=asked), asked.at_ns
    return frame.account, BalanceDelta(frame.source(NAME, channel, time_ns), "", balances)


def _free_and_locked(payload: bytes, channel: str, rows: list[_Row]) -> list[Amount]:
    """What is free of each row, then what is locked of each; no key is doubled."""
    named = len(rows)
    told = [row.free for row in rows] + [row.locked for row in rows]
    # The keys and the two words of the envelope; four keys and two texts of a row; and amounts, where they are text.
    strings = (0 if channel == _REST else 5) + 6 * named
    if not (
        wire.holds_only(payload, strings)
        or wire.holds_only(payload, strings + b"".join(told).count(b'"') // 2)
    ):
        counts: dict[bytes, int] = dict.fromkeys((b'"asset"', b'"asset_unit"', b'"free"', b'"locked"'), named)
        wire.unique_keys(payload, counts if channel == _REST else counts | _ENVELOPE)
    return wire.digits(told)


def _lists(frame: Frame, said: _Message[Any], sub_type: str, data: bytes) -> Iterable[Event]:
    """Generation 1 sends lists, not what happened: the same order and fill come again in other lists."""
    pages, orders, fillings = _unpaged(data)
    fills = [fill for order in orders for fill in order.fills or ()]
    objects = 1 + len(pages) + len(orders) + len(fills)
    if not (_is_whole(frame.payload, said, objects) and len(_ENCODE(pages)) == len(data)):
        _refuse_doubled_keys(frame.payload, sub_type, (said, *pages, *orders, *fills, *fillings))
    source = frame.source(NAME, sub_type)
    events: dict[str, Event] = {}
    for order in orders:
        _add_order(events, source, order)
    told = {fill.order_id for fill in fills}
    for filling in fillings:
        nested = events.get(f"fill:{filling.execution_id}")
        if filling.order_id not in told:
            _add_fill(events, _fill_of_filling(source, filling))
        elif not isinstance(nested, FillRecorded):
            # In no known example: perhaps the same fill under another id; neither to be booked nor to be lost.
            reason = f"not booked: {filling.execution_id} is not among the fills its order has in this frame"
            events[f"aside:{filling.execution_id}"] = FrameQuarantined(source, "", reason)
        elif (again := told_again(nested, _fill_of_filling(source, filling))) is not None:
            reason = (
                f"not booked: {nested.fill_id} is told otherwise among the fills of its order in this frame"
            )
            events[again.key] = FrameQuarantined(source, f"aside:{again.key}", reason)
    return events.values()


def _unpaged(data: bytes) -> tuple[list[_Page], list[_Order], list[_Filling]]:
    """The orders and the fillings in `data`, with or without pages around them."""
    pages = wire.decode(_PAGES, data)
    if not any(page.orders is not UNSET or page.order_filling_records is not UNSET for page in pages):
        if pages and pages[0].execution_id is not UNSET:
            return [], [], wire.decode(_FILLINGS, data)
        return [], wire.decode(_ORDERS, data), []
    orders: list[_Order] = []
    fillings: list[_Filling] = []
    for at, page in enumerate(pages):
        if page.orders is UNSET and page.order_filling_records is UNSET:
            raise Malformed(f"neither orders nor order_filling_records - at `$.data[{at}]`")
        if isinstance(page.orders, list):
            orders += page.orders
        if isinstance(page.order_filling_records, list):
            fillings += page.order_filling_records
    return pages, orders, fillings


def _order_info(frame: Frame, said: _Message[Any], sub_type: str) -> Iterable[Event]:
    payload, info = frame.payload, said.order
    whole = False
    if isinstance(info, _OrderInfo):
        if info.order_id is not UNSET:
            raise Malformed("an order of generation 1, or of none")
        whole = _is_whole(payload, said, 2 + len(info.order_execution_records or ()))
    else:
        order = bytes(info or b"")
        if wire.decode(_SHAPE, order).order_id is not UNSET:
            events: dict[str, Event] = {}
            old = wire.decode(_ORDER, order)
            _refuse_doubled_keys(payload, sub_type, (said, old, *(old.fills or ())))
            _add_order(events, frame.source(NAME, sub_type), old)
            return events.values()
        info = wire.decode(_ORDER_INFO, order)
    if not whole:
        _refuse_doubled_keys(payload, sub_type, (said, info, *(info.order_execution_records or ())))
    return _told_of_info(frame.source(NAME, sub_type), info)


def _points(frame: Frame, said: _Message[Any], sub_type: str, points: bytes) -> Event:
    """Loyalty points: a history, never a balance."""
    row = wire.decode(_POINTS, points)
    _refuse_doubled_keys(frame.payload, sub_type, (said, row))
    amount, total = wire.amount(row.delta), wire.amount(row.new_total)
    if row.season_points is not UNSET:
        wire.amount(row.season_points)
    told = (wire.canonical(amount), wire.canonical(total), row.source_type)
    rest = (_none(row.season_points), _none(row.source_ref), _none(row.league))
    return BalanceEventImported(
        frame.source(NAME, sub_type),
        f"points:{_digest(*told, *rest)}",
        asset_id="dlta_points",
        asset="DLTA_POINTS",
        cause=row.source_type,
        amount=amount,
        balance=total,
        memo=True,
        reference=_none(row.source_ref),
    )


def _add_order(events: dict[str, Event], source: Source, order: _Order) -> None:
    updated = _order(
        source,
        order.order_id,
        order.symbol,
        order.side,
        order.type,
        order.status,
        _amount(order.price),
        wire.amount(order.orig_qty),
        wire.amount(order.executed_qty),
        None,
        None,
        _amount(order.executed_price),
        _amount(order.fee_charged),
        _asset(order.fee_unit),
        _seconds(order.create_time),
        _seconds(order.update_time),
    )
    events.setdefault(updated.key, updated)
    for fill in order.fills or ():
        if fill.order_id != order.order_id:
            raise Malformed(f"fill {fill.id} names another order than the one it stands in")
        recorded = FillRecorded(
            source,
            f"fill:{fill.id}",
            fill.id,
            fill.order_id,
            order.symbol,
            order.side,
            wire.amount(fill.execution_price),
            wire.amount(fill.filled_amount),
            fee=_amount(fill.fee_amount),
            fee_asset=_asset(fill.fee_unit),
            role=_none(fill.role),
            counter_order_id=_none(fill.counter_party_order_id),
            time_ns=_seconds(fill.create_time),
        )
        _add_fill(events, recorded)


def _fill_of_filling(source: Source, filling: _Filling) -> FillRecorded:
    return FillRecorded(
        source,
        f"fill:{filling.execution_id}",
        filling.execution_id,
        filling.order_id,
        filling.symbol,
        filling.side,
        wire.amount(filling.executed_price),
        wire.amount(filling.executed_qty),
        fee=_amount(filling.fee_charged),
        fee_asset=_asset(filling.fee_unit),
        time_ns=_seconds(filling.create_time if filling.created_time is UNSET else filling.created_time),
    )


def _told_of_info(source: Source, info: _OrderInfo) -> Iterable[Event]:
    executions = info.order_execution_records or ()
    told = [
        *(info.price, info.base_qty, info.executed_base_qty, info.quote_qty, info.executed_quote_qty),
        *(info.executed_price, info.commission),
    ]
    for each in executions:
        told += (each.execution_price, each.filled_base_qty, each.filled_quote_qty, each.commission)
    wire.amounts([text for text in told if text is not UNSET], bounded=True)
    updated = _order(
        source,
        info.id,
        info.symbol,
        info.side,
        info.type,
        info.status,
        info.price or None,
        info.base_qty,
        info.executed_base_qty,
        info.quote_qty or None,
        info.executed_quote_qty or None,
        info.executed_price or None,
        info.commission or None,
        _asset(info.commission_unit),
        _iso(info.created_at),
        _iso(info.updated_at),
    )
    events: dict[str, Event] = {updated.key: updated}
    for each in executions:  # whatever the status: a partly filled order stays "open"
        if each.order_id != info.id:
            raise Malformed(f"fill {each.id} names another order than the one it stands in")
        fill = FillRecorded(
            source,
            f"fill:{each.id}",
            each.id,
            each.order_id,
            info.symbol,
            info.side,
            each.execution_price,
            each.filled_base_qty,
            each.filled_quote_qty or None,
            each.commission or None,
            _asset(each.commission_unit),
            each.role or None,
            each.counter_party_order_id or None,
            _iso(each.created_at),
        )
        _add_fill(events, fill)
    return events.values()


def _add_fill(events: dict[str, Event], fill: FillRecorded) -> None:
    if events.setdefault(fill.key, fill) != fill:
        raise Malformed(f"fill {fill.fill_id} is told twice, and differently")


def _order(
    source: Source,
    order_id: str,
    symbol: str,
    side: str,
    kind: str,
    status: str,
    price: Amount | None,
    quantity: Amount,
    executed: Amount,
    quote_quantity: Amount | None,
    executed_quote: Amount | None,
    average_price: Amount | None,
    fee: Amount | None,
    fee_asset: str | None,
    created_ns: int | None,
    updated_ns: int | None,
) -> OrderUpdated:
    """The order under the key of its state: the same in whichever list or delivery it comes."""
    words = (order_id, symbol, side, kind, status, fee_asset, created_ns, updated_ns)
    texts = (quantity, executed, quote_quantity, executed_quote, price, average_price, fee)
    numbers = [text and wire.canonical(text) for text in texts]
    return OrderUpdated(
        source,
        f"order:{_digest(*words, *numbers)}",
        order_id,
        symbol,
        side,
        kind,
        status,
        status.lower() in _CLOSED,
        price,
        quantity,
        executed,
        quote_quantity,
        executed_quote,
        average_price,
        fee,
        fee_asset,
        created_ns,
        updated_ns,
    )


def _digest(*parts: str | int | None) -> str:
    return blake2b(_ENCODE(parts), digest_size=16).hexdigest()


@lru_cache(_UNITS_KEPT)
def _asset_id(unit: str) -> str:
    """What the venue's spellings of a unit share: no dot after the policy id, lower case, one name for ADA."""
    if not unit:
        return _ADA
    asset_id = unit.replace(".", "").lower()
    if not asset_id:
        raise Malformed(f"not an asset unit: {unit!r}")
    return asset_id


def _asset(unit: str | UnsetType) -> str | None:
    return None if unit is UNSET else _asset_id(unit)


def _amount(text: str | Raw | UnsetType) -> Amount | None:
    return None if text is UNSET else wire.amount(text)


def _seconds(time: int | UnsetType) -> int | None:
    return None if time is UNSET else wire.epoch_ns(time)


def _iso(time: str | UnsetType) -> int | None:
    return None if time is UNSET else _iso_ns(time)


_iso_ns: Final = lru_cache(_TIMES_KEPT)(wire.iso_ns)
"""An order tells when it was made as often as it is told."""


def _none(text: str | UnsetType | None) -> str | None:
    return None if text is UNSET else text or None


def _is_whole(payload: bytes, said: Struct, objects: int) -> bool:
    """Whether nothing is there that was not read, so that no key is doubled: written again, in the shortest way, it is
    as long as it was; and there are no more objects than so many (one within a `Raw` is only copied)."""
    return len(_ENCODE(said)) == len(payload) and payload.count(b"{") == objects


def _refuse_doubled_keys(payload: bytes, sub_type: str, told: Iterable[Struct]) -> None:
    """What was read stands in the payload as often as it was read, and the sub_type's word once more."""
    counts = {b'"%s"' % sub_type.encode(): 1}
    for struct in told:
        for name in struct.__struct_fields__:
            if name not in _UNREAD and getattr(struct, name) is not UNSET:
                key = b'"%s"' % name.encode()
                counts[key] = counts.get(key, 0) + 1
    wire.unique_keys(payload, counts)


# How DeltaDeFi is spoken to ------------------------------------------------------------------------------------------


class Login(Struct, frozen=True, kw_only=True):
    """An API key of DeltaDeFi."""

    key: Secret
    url: str = URL
    rest_url: str = REST_URL


def converse(login: Login, begun: Begun) -> Conversation:
    """Connecting is subscribing. Nothing promises a first push, so the balance is asked for when connected."""
    key = login.key.reveal()
    url = login.url if path_of(login.url) else address(login.url, PATH)
    yield Open(Endpoint(address(url, api_key=key)))
    yield Ready()
    rest = login.rest_url
    if not path_of(rest).endswith(BALANCE_PATH):
        rest = address(rest, BALANCE_PATH)
    yield from _baseline(Request(rest, headers=(("X-API-KEY", key),)))
    while True:
        yield from listen()


def _is_baseline(body: bytes) -> bool:
    """Whether an answer is what was asked for, not a page of something in between."""
    try:
        return isinstance(wire.decode(_EXACT, body), list)
    except Malformed:
        return False


def _error_of(reply: Reply) -> _Error | None:
    """What the venue says is wrong; None where it says nothing that can be read."""
    try:
        return wire.decode(_ERROR, reply.body)
    except Malformed:
        return None


def _is_refused(reply: Reply) -> bool:
    error = _error_of(reply)
    return reply.status in (401, 403) or (error is not None and error.code == UNAUTHORIZED)


def _outcome(reply: Reply) -> str:
    error = _error_of(reply)
    if error is not None:
        return f"HTTP {reply.status}, venue error {error.code}: {wire.legible(error.error)}"
    return f"HTTP {reply.status}, {len(reply.body)} bytes" if reply.status else "no answer"


def _baseline(request: Request) -> Generator[Action, Said, None]:
    """Ask until there is an answer. The venue refuses everybody while it restarts: only refused again and again, the
    conversation is over. Raises Lost."""
    refused, wait_s = 0, 1.0
    while True:
        reply = yield from ask(request)
        if 200 <= reply.status < 300 and _is_baseline(reply.body):
            return
        refused = refused + 1 if _is_refused(reply) else 0
        if refused == REFUSALS_MAX:
            raise Lost(f"baseline refused: HTTP {reply.status}")
        yield Wait(max(wait_s, reply.retry_after_s), f"no balance asked for yet: {_outcome(reply)}")
        wait_s = min(2 * wait_s, RETRY_S_MAX)
