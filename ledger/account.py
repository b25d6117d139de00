"""The aggregate: one account's gapless versions, and the rules for what may be recorded.

Knows events; knows no store, no venue, no time. Balances are not kept here: projections serve the readers, the
aggregate keeps only what the rules need.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from msgspec import Struct

from ledger.events import Event

KEYS_REMEMBERED_MAX: Final = 512
"""Natural keys an account remembers; older ones are the store's to know (`ledger.events.ADDING`)."""


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
    """One account as far as the rules need it. Advances by `evolve`, which is called after the commit only."""

    __slots__ = ("_keys", "id", "version")

    def __init__(self, account: str) -> None:
        self.id: Final = account
        self.version = 0
        self._keys: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def evolve(self, recorded: Recorded) -> None:
        """Fold one stored event. Gapless: the version must follow."""
        if recorded.version != self.version + 1:
            raise AssertionError(f"{self.id}: version {recorded.version} after {self.version}")
        self.version = recorded.version
        self.remember(recorded.event.key)

    def remember(self, key: str) -> None:
        """Remember a natural key; the oldest goes when there are too many."""
        if key:
            self._keys[key] = None
            if len(self._keys) > KEYS_REMEMBERED_MAX:
                del self._keys[next(iter(self._keys))]


class Draft:
    """What a batch would add to one account. The account itself is untouched until `settle`."""

    __slots__ = ("_account", "_fresh", "_known", "recorded")

    def __init__(self, account: Account, known: Container[str]) -> None:
        self._account = account
        self._known = known
        self._fresh: set[str] = set()
        self.recorded: list[Recorded] = []

    def record(self, event: Event) -> Recorded | None:
        """The event with its envelope, or None where its natural key says that it was recorded before."""
        key = event.key
        if key:
            if key in self._account or key in self._fresh or key in self._known:
                return None
            self._fresh.add(key)
        recorded = Recorded(self._account.id, self._account.version + len(self.recorded) + 1, event)
        self.recorded.append(recorded)
        return recorded

    def settle(self) -> None:
        """The batch is committed: advance the account."""
        for recorded in self.recorded:
            self._account.evolve(recorded)
