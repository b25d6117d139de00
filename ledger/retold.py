"""An execution that is told again: whether that says anything new, and under which key that is recorded.

Knows fills and their keys; knows no store. A fill's natural key is its id alone, so that it counts once however it is
told. What is told of it otherwise is recorded under a key of its content; which of the two is right is not decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from operator import attrgetter
from typing import Final, TypeVar

from msgspec import Struct, msgpack
from msgspec.structs import replace

from ledger.events import AGAIN, AMOUNTS, Amount, FillRecorded
from ledger.wire import canonical, decimal

_AMOUNTS: Final = AMOUNTS[FillRecorded]


class Told(Struct, frozen=True, array_like=True):
    """What is told of an execution; None where that is not stated."""

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


T = TypeVar("T", bound=Struct)
_NAMES: Final = Told.__struct_fields__
_told: Final = attrgetter(*_NAMES)
_encode: Final = msgpack.Encoder().encode


def told_of(fill: FillRecorded) -> Told:
    """What a fill tells of its execution."""
    return Told(*_told(fill))


def told_again(first: FillRecorded, fill: FillRecorded) -> FillRecorded | None:
    """A fill under the key of its content; None where it says nothing that was not told first."""
    if _told(first) == _told(fill) or all(other is None for _, _, other in _unequal(first, fill)):
        return None
    return by_content(fill)


def by_content(fill: FillRecorded) -> FillRecorded:
    """A fill under the key of its content."""
    said = [_value(name, getattr(fill, name)) for name in _NAMES]
    digest = blake2b(_encode((fill.key, *said)), digest_size=16).hexdigest()
    return replace(fill, key=f"{AGAIN}{digest}")


def differing(first: Struct, again: Struct) -> list[str]:
    """The names of what both state, and not the same."""
    return [name for name, one, other in _unequal(first, again) if one is not None and other is not None]


def completed(first: T, again: Struct) -> T:
    """What was told first, with what only `again` states."""
    return replace(first, **{name: other for name, one, other in _unequal(first, again) if one is None})


def _unequal(first: Struct, again: Struct) -> Iterator[tuple[str, str | int | None, str | int | None]]:
    """What is not the same in both, by name. Of anything that has the fields of `Told`."""
    for name in _NAMES:
        one, other = getattr(first, name), getattr(again, name)
        if one != other and _value(name, one) != _value(name, other):
            yield name, one, other


def _value(name: str, said: str | int | None) -> str | int | None:
    """One value for one amount, however many zeros it was written with."""
    if name not in _AMOUNTS or not isinstance(said, str):
        return said
    try:
        return canonical(said) if decimal(said) else "0"
    except ArithmeticError:  # it is none: a venue module of somebody else made it
        return said
