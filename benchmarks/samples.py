"""The kinds of frames that are measured: of every venue, in the sizes that occur."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from benchmarks import frames
from ledger import Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica


class Sample(Struct, frozen=True):
    """A kind of frame of a venue: `make(n)` is the `n`th."""

    venue: Venue
    name: str
    make: Callable[[int], bytes]

    @property
    def form(self) -> str:
        """What tells its wire form from others: the venue, save for orders."""
        return "order" if self.name.startswith("order") else self.venue.NAME


ORDER: Final = Sample(deltadefi, "order with fill", frames.deltadefi_order)
UPDATE: Final = Sample(bitopro, "11 entries", lambda n: frames.bitopro_balance(n, 11))

SAMPLES: Final = (
    Sample(deltadefi, "1 entry", lambda n: frames.deltadefi_balance(n, 1)),
    Sample(deltadefi, "11 entries", lambda n: frames.deltadefi_balance(n, 11)),
    Sample(deltadefi, "200 entries", lambda n: frames.deltadefi_balance(n, 200)),
    ORDER,
    Sample(bitopro, "1 entry", lambda n: frames.bitopro_balance(n, 1)),
    UPDATE,
    Sample(bitopro, "200 entries", lambda n: frames.bitopro_balance(n, 200)),
    Sample(kraken_prime, "1 entry", lambda n: frames.kraken_prime_balance(n, 1)),
    Sample(kraken_prime, "11 entries", lambda n: frames.kraken_prime_balance(n, 11)),
    Sample(kraken_prime, "200 entries", lambda n: frames.kraken_prime_balance(n, 200)),
    Sample(cascade, "1 entry", frames.cascade_balance),
    Sample(pacifica, "1 row", lambda n: frames.pacifica_page(n, 1)),
    Sample(pacifica, "100 rows", lambda n: frames.pacifica_page(n, 100)),
)
