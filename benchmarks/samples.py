"""The kinds of frames that are measured: of every venue, in the sizes that occur."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct

from benchmarks import frames
from ledger import Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica


class Sample(Struct, frozen=True):
    """A kind of frame of a venue: `make(n)` is the `n`th. It states `entries` balances, or amounts of a history."""

    venue: Venue
    name: str
    make: Callable[[int], bytes]
    entries: int = 1

    @property
    def form(self) -> str:
        """What tells its wire form from others: the venue, save for orders."""
        return "order" if self.name.startswith("order") else self.venue.NAME


def _sized(venue: Venue, make: Callable[[int, int], bytes], entries: int, unit: str = "entries") -> Sample:
    name = f"1 {'row' if unit == 'rows' else 'entry'}" if entries == 1 else f"{entries:,} {unit}"
    return Sample(venue, name, partial(_made, make, entries), entries)


def _made(make: Callable[[int, int], bytes], entries: int, n: int) -> bytes:
    return make(n, entries)


ORDER: Final = Sample(deltadefi, "order with fill", frames.deltadefi_order)
SINGLE: Final = _sized(bitopro, frames.bitopro_balance, 1)
UPDATE: Final = _sized(bitopro, frames.bitopro_balance, 11)

SAMPLES: Final = (
    *(_sized(deltadefi, frames.deltadefi_balance, entries) for entries in (1, 11, 200, 1_000)),
    ORDER,
    SINGLE,
    UPDATE,
    *(_sized(bitopro, frames.bitopro_balance, entries) for entries in (200, 1_000)),
    *(_sized(kraken_prime, frames.kraken_prime_balance, entries) for entries in (1, 11, 200, 1_000)),
    Sample(cascade, "1 entry", frames.cascade_balance),
    *(_sized(pacifica, frames.pacifica_page, rows, "rows") for rows in (1, 100)),
)
