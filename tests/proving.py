"""Bundles for tests: small ledgers made by real intakes, a key, and checkpoints signed with it.

Knows the ledger, its notes and its bundles.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final

from ledger import Ledger, Venue
from ledger.bundle import Claim, write_bundle
from ledger.notes import Checkpoint, Head, PrivateKey, new_key
from ledger.seal import Tree
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from tests import scripted

KEY: Final = new_key("test-log")
VENUES: Final[Mapping[str, Venue]] = {
    "scripted": scripted.VENUE,
    "bitopro": bitopro,
    "cascade": cascade,
    "deltadefi": deltadefi,
    "kraken_prime": kraken_prime,
    "pacifica": pacifica,
}
T: Final = 1_790_000_000_000_000_000
"""When the frames were received (ns)."""

WHOLE: Final = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"1","timestamp":1789999999000,"data":{'
    b'"ADA":{"currency":"ADA","amount":"5","available":"3.50","stake":"0","tradable":true},'
    b'"BTC":{"currency":"BTC","amount":"0.84210000","available":"5","stake":"0","tradable":true}}}'
)
LATER: Final = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"2","timestamp":1789999999500,"data":{'
    b'"ADA":{"currency":"ADA","amount":"7.25","available":"7.25","stake":"0","tradable":true}}}'
)
OTHER: Final = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"3","timestamp":1789999999900,"data":{'
    b'"BTC":{"currency":"BTC","amount":"1","available":"1","stake":"0","tradable":true}}}'
)


def take_in(ledger: Ledger, venue: Venue, account: str, frames: Sequence[bytes], session: str = "s1") -> None:
    """One conversation of these frames, a second between them."""
    with ledger.intake(venue, account, session=session, opened_ns=T, now_ns=lambda: T) as intake:
        intake.receive_all([(frame, T + index * 1_000_000_000) for index, frame in enumerate(frames)])


def note_of(ledger: Ledger, key: PrivateKey = KEY, upto: int | None = None) -> bytes:
    """A signed checkpoint of the ledger: of all of it, or of its first `upto` events."""
    rows = ledger.select(
        "SELECT e.originator_id, e.originator_version, s.seal FROM stored_events AS e "
        "JOIN seals AS s ON s.position=e.rowid ORDER BY e.rowid LIMIT ?",
        (-1 if upto is None else upto,),
    )
    tree = Tree()
    heads: dict[str, Head] = {}
    for account, version, seal in rows:
        assert isinstance(account, str)
        assert isinstance(version, int)
        assert isinstance(seal, bytes)
        tree.append(seal)
        heads[account] = Head(version, seal)
    return key.sign(Checkpoint(key.name, tree.size, tree.root(), heads)).encode()


def bundle_of(
    ledger: Ledger,
    account: str,
    asset_id: str,
    *,
    note: bytes | None = None,
    version: int | None = None,
    time_ns: int | None = None,
) -> tuple[bytes, Claim]:
    """The bundle of a balance, and what it claims."""
    file = io.BytesIO()
    note = note_of(ledger) if note is None else note
    claim = write_bundle(ledger, VENUES, file, note, account, asset_id, version=version, time_ns=time_ns)
    return file.getvalue(), claim
