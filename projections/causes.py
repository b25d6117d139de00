"""What fills change of which asset, and whether that is what a balance changed by.

Knows fills, and the labels of an account's assets; knows no statement. What does not come out exactly is not explained.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Final, TypeAlias

from msgspec import Struct

from ledger import Recorded
from ledger.events import FillRecorded, is_again, time_of
from ledger.retold import completed
from ledger.wire import EXACT, decimal

UNEXPLAINED: Final = "unexplained"
SIDES: Final = {"buy": 1, "sell": -1}
Place: TypeAlias = tuple[int, int]
"""When something was said, and its version: the order in which statements follow one another."""


class Effect(Struct, frozen=True):
    """What a fill changes of one asset."""

    place: Place
    amount: Decimal
    fill_id: str


def effects(fills: Iterable[Recorded], labels: Mapping[str, str]) -> dict[str, list[Effect]]:
    """What the fills change, by asset id: base and quote of the symbol, and the fee; in the order in which they were
    told. Of a fill whose symbol is not made of two labels of the account (`labels` by id), nothing is known."""
    found: dict[str, list[Effect]] = {}
    pairs: dict[str, tuple[str, str] | None] = {}
    for place, fill in sorted(_executions(fills), key=itemgetter(0)):
        if fill.side.lower() not in SIDES:
            continue
        if fill.symbol not in pairs:
            pairs[fill.symbol] = pair(fill.symbol, labels)
        assets = pairs[fill.symbol]
        if assets is None:
            continue
        for asset_id, amount in _changes(fill, assets, labels):
            found.setdefault(asset_id, []).append(Effect(place, amount, fill.fill_id))
    return found


def _executions(fills: Iterable[Recorded]) -> list[tuple[Place, FillRecorded]]:
    """Each execution as and where it was told first, with what was added later."""
    found: list[tuple[Place, FillRecorded]] = []
    places: dict[str, int] = {}
    for recorded in fills:
        fill = recorded.event
        if not isinstance(fill, FillRecorded):
            continue
        at = places.get(fill.fill_id) if is_again(fill) else None
        if at is None:
            places[fill.fill_id] = len(found)
            found.append(((time_of(fill), recorded.version), fill))
        else:
            found[at] = (found[at][0], completed(found[at][1], fill))
    return found


def _changes(
    fill: FillRecorded, assets: tuple[str, str], labels: Mapping[str, str]
) -> list[tuple[str, Decimal]]:
    quantity, quote = decimal(fill.quantity), fill.quote_quantity
    paid = decimal(quote) if quote is not None else EXACT.multiply(decimal(fill.price), quantity)
    sign = Decimal(SIDES[fill.side.lower()])
    changes = [
        (assets[0], EXACT.multiply(sign, quantity)),
        (assets[1], EXACT.multiply(sign, paid).copy_negate()),
    ]
    if fill.fee is not None and fill.fee_asset is not None and decimal(fill.fee):
        changes += [(asset_id, decimal(fill.fee).copy_negate()) for asset_id in meant(labels, fill.fee_asset)]
    return changes


def pair(symbol: str, labels: Mapping[str, str]) -> tuple[str, str] | None:
    """The ids of the two assets whose labels a symbol is made of (`ADAUSDM`, `ADA/USDM`); None where there are none, or
    several."""
    text = symbol.casefold()
    ids: dict[str, list[str]] = {}
    for asset_id, label in labels.items():
        ids.setdefault(label.casefold(), []).append(asset_id)
    pairs = [
        (base_id, quote_id)
        for base, base_ids in ids.items()
        if base and text.startswith(base)
        for base_id in base_ids
        for quote_id in ids.get(text[len(base) :].lstrip("/-_"), [])
    ]
    return pairs[0] if len(pairs) == 1 else None


def meant(labels: Mapping[str, str], asset: str) -> set[str]:
    """The ids of the assets that a word means: an id, a label, or either in other letters."""
    wanted = asset.casefold()
    return (
        {asset_id for asset_id in labels if asset_id == asset}
        or {asset_id for asset_id, label in labels.items() if label == asset}
        or {
            asset_id
            for asset_id, label in labels.items()
            if wanted in (asset_id.casefold(), label.casefold())
        }
    )


def told(change: Decimal, after: Place, upto: Place, of: Sequence[Effect]) -> tuple[str, str | None]:
    """The cause of a change between two statements of an asset, and, where it is not known, why not: the fills told
    between them, if they change it by exactly so much."""
    start = bisect(of, after, key=lambda effect: effect.place)
    between = of[start : bisect(of, upto, key=lambda effect: effect.place)]
    total = Decimal(0)
    for effect in between:
        total = EXACT.add(total, effect.amount)
    if between and total == change:
        return f"fills {', '.join(dict.fromkeys(effect.fill_id for effect in between))}", None
    since = f"since the statement before (version {after[1]})"
    if between:
        return UNEXPLAINED, f"the fills {since} change it by {total:f}"
    return UNEXPLAINED, f"the venue names no cause, and no fill came {since}"
