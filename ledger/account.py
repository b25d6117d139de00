"""The aggregate: one account's gapless versions, and the rules for what may be recorded.

Knows events; knows no store, no venue, no clock. Balances are not kept here: projections serve the readers, the
aggregate keeps only what the rules need, and that does not grow.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, TypeAlias

from msgspec import Struct

from ledger.events import Event, keyed_ns
from ledger.seal import genesis

Keyed: TypeAlias = tuple[int, str]
"""The instant of a natural key, and the key (`ledger.events.keyed_ns`)."""


class Recorded(Struct, frozen=True, gc=False):
    """An event with its envelope: whose it is, its place in the account (`version`, gapless from 1) and in the ledger
    (`position`, rising, may have holes; 0 until it is stored)."""

    account: str
    version: int
    event: Event
    position: int = 0

    @property
    def originator_id(self) -> str:
        """The account, as eventsourcing calls it."""
        return self.account

    @property
    def originator_version(self) -> int:
        """The version, as eventsourcing calls it."""
        return self.version


class Account:
    """One account as far as the rules need it. Advances by `evolve`, which is called after the commit only.

    `newest_ns` is the latest instant a natural key was recorded for: a statement of a later one cannot be known.
    `seal` is that of its last version (`ledger.seal`).
    """

    __slots__ = ("id", "newest_ns", "seal", "version")

    def __init__(self, account: str, version: int = 0, newest_ns: int = 0, seal: bytes | None = None) -> None:
        self.id: Final = account
        self.version = version
        self.newest_ns = newest_ns
        self.seal = genesis(account) if seal is None else seal

    def may_know(self, event: Event) -> bool:
        """Whether the event could have been recorded before, so that the store must be asked."""
        return bool(event.key) and keyed_ns(event) <= self.newest_ns

    def evolve(self, recorded: Recorded) -> None:
        """Fold one stored event. Gapless: the version must follow."""
        if recorded.version != self.version + 1:
            raise AssertionError(f"{self.id}: version {recorded.version} after {self.version}")
        self.version = recorded.version
        if recorded.event.key:
            self.newest_ns = max(self.newest_ns, keyed_ns(recorded.event))


class Draft:
    """What a batch would add to one account; `known` are the natural keys of the batch, each with its instant, that are
    recorded already. The account itself is untouched until `settle`."""

    __slots__ = ("_account", "_fresh", "_known", "recorded")

    def __init__(self, account: Account, known: Container[Keyed]) -> None:
        self._account = account
        self._known = known
        self._fresh: set[Keyed] = set()
        self.recorded: list[Recorded] = []

    def record(self, event: Event) -> Recorded | None:
        """The event with its envelope, or None where its natural key says that it was recorded before."""
        if event.key:
            keyed = (keyed_ns(event), event.key)
            if keyed in self._fresh or keyed in self._known:
                return None
            self._fresh.add(keyed)
        recorded = Recorded(self._account.id, self._account.version + len(self.recorded) + 1, event)
        self.recorded.append(recorded)
        return recorded

    @property
    def before(self) -> bytes:
        """The seal that the batch goes on from."""
        return self._account.seal

    def settle(self, seal: bytes) -> None:
        """The batch is committed, its last event with this seal: advance the account."""
        for recorded in self.recorded:
            self._account.evolve(recorded)
        self._account.seal = seal
