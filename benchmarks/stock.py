"""An alternative to our store: eventsourcing as it comes, for the same frames.

Knows the wire forms of the two kinds of frames that are ingested, and eventsourcing's public ways: an aggregate with
`@event`, the JSON transcoder, the SQLite recorder, `Application.save`. It keeps what a frame says, amounts as Decimals,
and in the first event of a frame the frame itself. Lean, it keeps amounts as they were sent: nobody knows then whether
they are numbers. Either way it has no seals, no natural keys, no guards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.frames import amounts
from benchmarks.measure import Unequal
from benchmarks.plain import AMOUNT_FIELDS

DURABLE: Final = {"journal_mode": "wal", "synchronous": 2}
"""As a ledger has it; 2 is FULL."""


class Account(Aggregate):
    """What a venue says about one account. `frame` is the evidence: the text of the frame."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.balances: dict[str, list[Any]] = {}
        self.orders: dict[str, dict[str, Any]] = {}
        self.fills: list[str] = []

    @event("BalancesStated")
    def state_balances(
        self, received_ns: int, at_ms: int, key: str, balances: dict[str, list[Any]], frame: str
    ) -> None:
        """The balances of some currencies: total, available, staked."""
        self.balances.update(balances)

    @event("OrderUpdated")
    def update_order(self, received_ns: int, order: dict[str, Any], frame: str) -> None:
        """The order, as it is now."""
        self.orders[order["id"]] = order

    @event("FillRecorded")
    def record_fill(self, received_ns: int, fill: dict[str, Any]) -> None:
        """One execution of an order."""
        self.fills.append(fill["id"])


class Stock:
    """An application with so many accounts."""

    def __init__(self, place: Path | Mapping[str, str], accounts: int, *, lean: bool = False) -> None:
        """In a file, or where the settings of eventsourcing say."""
        env = (
            {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(place)}
            if isinstance(place, Path)
            else place
        )
        self._lean = lean
        self._app = Application[UUID](env=env)
        self._accounts = [Account(f"main-{number}") for number in range(accounts)]
        self._app.save(*self._accounts)

    def take(self, account: int, arrivals: Sequence[tuple[bytes, int]]) -> None:
        """The frames of one commit."""
        aggregate = self._accounts[account]
        amount: type[Decimal | str] = str if self._lean else Decimal
        for payload, received_ns in arrivals:
            message = json.loads(payload)
            state = _order if "order" in message else _balances
            state(aggregate, received_ns, message, amount, payload.decode())
        self._app.save(aggregate)

    def check(self, account: int, payloads: Sequence[bytes]) -> None:
        """The account must hold what its frames said, every amount, and no event more; durably. Raises Unequal."""
        self._check_durable()
        stored = self._app.recorder.select_events(self._accounts[account].id)
        events = [json.loads(each.state) for each in stored[1:]]  # the first is the account's creation
        each = len(events) // max(len(payloads), 1)
        if len(events) != each * len(payloads):
            raise Unequal(f"eventsourcing holds {len(events)} events of {len(payloads)} frames")
        for at, payload in enumerate(payloads):
            _check(events[at * each : (at + 1) * each], payload)

    def close(self) -> None:
        """Close the file."""
        self._app.close()

    def _check_durable(self) -> None:
        recorder: Any = self._app.recorder
        with recorder.datastore.transaction(commit=False) as cursor:
            for name, wanted in DURABLE.items():
                cursor.execute(f"PRAGMA {name}")
                if [tuple(row) for row in cursor.fetchall()] != [(wanted,)]:
                    raise Unequal(f"eventsourcing's {name} is not the ledger's")


def _check(events: Sequence[dict[str, Any]], payload: bytes) -> None:
    if [each.pop("frame") for each in events if "frame" in each] != [payload.decode()]:
        raise Unequal("eventsourcing did not keep the frame")
    if not events or amounts(json.dumps(events).encode()) != amounts(payload):
        raise Unequal(f"eventsourcing did not store what a frame says: {payload[:80]!r}")


def _balances(
    account: Account,
    received_ns: int,
    message: dict[str, Any],
    amount: Callable[[str], Decimal | str],
    frame: str,
) -> None:
    balances = {
        name: [amount(entry["amount"]), amount(entry["available"]), amount(entry["stake"])]
        for name, entry in message["data"].items()
    }
    account.state_balances(received_ns, message["timestamp"], message["eventID"], balances, frame)


def _order(
    account: Account,
    received_ns: int,
    message: dict[str, Any],
    amount: Callable[[str], Decimal | str],
    frame: str,
) -> None:
    order = message["order"]
    fills = order.pop("order_execution_records")
    for stated in (order, *fills):
        for name in AMOUNT_FIELDS["order"]:
            if name in stated:
                stated[name] = amount(stated[name])
    account.update_order(received_ns, order, frame)
    for fill in fills:
        account.record_fill(received_ns, fill)
