"""The aggregate: one account's gapless versions, and the rules for what may be recorded.

Knows events; knows no store, no venue, no clock. Balances are not kept here: projections serve the readers, the
aggregate keeps only what the rules need, and that does not grow.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from ledger.events import Event, FillRecorded, keyed_ns
from ledger.retold import told_again
from ledger.seal import genesis

Keyed: TypeAlias = tuple[int, str]
"""The instant of a natural key, and the key (`ledger.events.keyed_ns`)."""


_NONE: Final[Mapping[str, FillRecorded]] = {}


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
    """One account as far as the rules need it. Advances by `Draft.settle`, which is called after the commit only.

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


class Draft:
    """What a batch would add to one account; `known` are the natural keys of the batch, each with its instant, that are
    recorded already, and `firsts` the fills under them. The account itself is untouched until `settle`."""

    __slots__ = ("_account", "_firsts", "_fresh", "_known", "_newest_ns", "_version", "recorded")

    def __init__(
        self, account: Account, known: Container[Keyed], firsts: Mapping[str, FillRecorded] = _NONE
    ) -> None:
        self._account = account
        self._known = known
        self._firsts = firsts
        self._fresh: dict[Keyed, Event] = {}
        self._version = account.version
        self._newest_ns = account.newest_ns
        self.recorded: list[Recorded] = []

    def record(self, event: Event) -> Recorded | None:
        """The event with its envelope, or None where its natural key says that it was recorded before. A fill that was,
        and is told otherwise now, is recorded under another key."""
        if event.key:
            at_ns = keyed_ns(event)
            keyed = (at_ns, event.key)
            if keyed in self._fresh or keyed in self._known:
                first = self._fresh.get(keyed) or self._firsts.get(event.key)
                if not (isinstance(event, FillRecorded) and isinstance(first, FillRecorded)):
                    return None
                again = told_again(first, event)
                return None if again is None else self.record(again)
            self._fresh[keyed] = event
            if at_ns > self._newest_ns:
                self._newest_ns = at_ns
        self._version += 1
        recorded = Recorded(self._account.id, self._version, event)
        self.recorded.append(recorded)
        return recorded

    @property
    def before(self) -> bytes:
        """The seal that the batch goes on from."""
        return self._account.seal

    def settle(self, seal: bytes) -> None:
        """The batch is committed, its last event with this seal: advance the account. The batch must follow it."""
        account, first = self._account, self._version - len(self.recorded) + 1
        if self.recorded and first != account.version + 1:
            raise AssertionError(f"{account.id}: version {first} after {account.version}")
        account.version, account.newest_ns, account.seal = self._version, self._newest_ns, seal
