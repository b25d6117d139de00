"""An alternative to our replay: stock eventsourcing, an aggregate per account that is got back from its events.

Knows eventsourcing as its manual shows it: `@event`, the JSON transcoder, the SQLite recorder. The facts are those of
our events, in lists wherever they can be: the JSON transcoder pays for every object in them. Amounts are Decimals or,
lean, text as in our events. Nothing is guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from msgspec import structs

from ledger import Recorded
from ledger.events import BalanceDelta, BalanceEventImported, BalanceSnapshot, Event, Source

SAVED_EVENTS: Final = 500
"""At once, while the history is made."""

Amount: TypeAlias = Decimal | str | None
Held: TypeAlias = dict[tuple[str, str], tuple[str | None, ...]]
"""Total, available, locked, staked and pending, by account and asset id."""


class StockAccount(Aggregate):
    """What an account holds, by asset id: total, available, locked, staked, pending."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.balances: dict[str, list[Any]] = {}
        self.events = 0

    @staticmethod
    def create_id(name: str) -> UUID:
        """Of an account's name."""
        return uuid5(NAMESPACE_URL, name)

    @event("BalancesStated")
    def state_balances(
        self, source: list[Any], key: str, balances: dict[str, list[Any]], removed: list[str], whole: bool
    ) -> None:
        """The balances of some assets, or of all."""
        self.events += 1
        if whole:
            self.balances = {}
        self.balances.update(balances)
        for asset_id in removed:
            self.balances.pop(asset_id, None)

    @event("BalanceImported")
    def import_row(self, source: list[Any], key: str, asset_id: str, row: list[Any], held: list[Any]) -> None:
        """One row of the venue's own history."""
        self.events += 1
        self.balances[asset_id] = held

    @event("Noted")
    def note(self, source: list[Any], kind: str, fact: list[Any]) -> None:
        """An order, an execution, a session: it changes no balance."""
        self.events += 1


class Stock:
    """An application with a file of its own."""

    def __init__(self, path: Path, *, lean: bool) -> None:
        env = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        self._app: Final = Application[UUID](env=env)
        self._amount: Final[Callable[[str], Decimal | str]] = str if lean else Decimal
        self._names: list[str] = []

    def fill(self, events: Iterable[Recorded]) -> None:
        """Keep the same facts."""
        accounts: dict[str, StockAccount] = {}
        for recorded in events:
            account = accounts.get(recorded.account)
            if account is None:
                account = accounts[recorded.account] = StockAccount(recorded.account)
            self._tell(account, recorded.event)
            if len(account.pending_events) >= SAVED_EVENTS:
                self._app.save(account)
        self._app.save(*accounts.values())
        self._names = sorted(accounts)

    def get(self) -> list[StockAccount]:
        """Every account, folded from its first event."""
        repository = self._app.repository
        return [repository.get(StockAccount.create_id(name)) for name in self._names]

    def close(self) -> None:
        """Close the file."""
        self._app.close()

    def _tell(self, account: StockAccount, said: Event) -> None:
        source = _plain(said.source)
        if isinstance(said, BalanceSnapshot | BalanceDelta):
            balances = {
                each.asset_id: self._amounts(
                    each.total, each.available, each.locked, each.staked, each.pending
                )
                for each in said.balances
            }
            removed = [] if isinstance(said, BalanceSnapshot) else [*said.removed]
            account.state_balances(source, said.key, balances, removed, isinstance(said, BalanceSnapshot))
        elif isinstance(said, BalanceEventImported):
            row = [said.asset, said.cause, *self._amounts(said.amount), said.time_ns, said.reference]
            held = self._amounts(said.balance, None, None, None, said.pending)
            account.import_row(source, said.key, said.asset_id, row, held)
        else:
            account.note(source, type(said).__name__, list(structs.astuple(said)[1:]))

    def _amounts(self, *texts: str | None) -> list[Amount]:
        return [None if text is None else self._amount(text) for text in texts]


def held(accounts: Iterable[StockAccount]) -> Held:
    """What the accounts hold."""
    return {
        (account.name, asset_id): tuple(None if each is None else str(each) for each in parts)
        for account in accounts
        for asset_id, parts in account.balances.items()
    }


def _plain(source: Source) -> list[Any]:
    return [part.hex() if isinstance(part, bytes) else part for part in structs.astuple(source)]
