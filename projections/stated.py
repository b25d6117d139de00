"""Every balance as it was stated, statement by statement. Knows balance statements only.

Kept for who asks the database (`projections.views`): what follows from the statements is told by others. A statement
is one row, its balances a JSON array as the event has them: the database takes them apart when it is asked.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.json import Decoder, encode

from ledger import Ledger, Recorded
from ledger.events import Amount, Balance, BalanceDelta, BalanceSnapshot, time_of
from ledger.nul import heard, told
from projections.subscription import Subscription
from projections.tables import Database, Table
from projections.view_columns import PARTS

SNAPSHOT: Final = "snapshot"
DELTA: Final = "delta"
REMOVED: Final = "removed"
_CONTROLS: Final = b"\\u000"
"""How JSON says the characters NUL and the one after it, and some others."""
_parts: Final = Decoder(list[list[Any]]).decode


class StatementRow(Struct):
    """One statement. `kind`: the whole account was stated (`snapshot`), or what moved (`delta`). `balances`: a JSON
    array of each `Balance` by places; of an asset that is no more, its id alone."""

    account: str
    version: int
    kind: str
    time_ns: int
    balances: str


class StatedRow(Struct):
    """One asset in one statement, amounts as the venue's text. `kind`: the whole account was stated (`snapshot`), what
    moved (`delta`), or that the asset is no more (`removed`)."""

    account: str
    asset_id: str
    version: int
    kind: str
    asset: str
    total: Amount | None
    available: Amount | None
    locked: Amount | None
    staked: Amount | None
    pending: Amount | None
    time_ns: int


class Stated:
    """The statements of all accounts. Catches up when read."""

    name = "stated"
    version = 2

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        database = ledger if database is None else database
        self._rows: Final = Table(database, "stated_balances", StatementRow, key=2)
        self.tables: Final = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def rows(self, account: str | None = None) -> list[StatedRow]:
        """What was stated, by account, asset id and version."""
        self.subscription.catch_up()
        found = [each for row in self._rows.rows(account) for each in _apart(row)]
        return sorted(found, key=lambda row: (row.account.encode(), row.asset_id.encode(), row.version))

    def apply(self, recorded: Recorded) -> None:
        """Fold one event."""
        event = recorded.event
        if type(event) is not BalanceSnapshot and type(event) is not BalanceDelta:
            return
        said: dict[str, Balance | tuple[str]] = {}
        if type(event) is BalanceDelta:
            said |= {asset_id: (asset_id,) for asset_id in event.removed}
        said |= {each.asset_id: each for each in event.balances}
        kind = SNAPSHOT if type(event) is BalanceSnapshot else DELTA
        balances = encode([*said.values()])
        if _CONTROLS in balances:
            balances = encode([[told(part) for part in each[:PARTS]] for each in _parts(balances)])
        self._rows.put(
            StatementRow(recorded.account, recorded.version, kind, time_of(event), balances.decode())
        )


def _apart(row: StatementRow) -> list[StatedRow]:
    """What a statement says, asset by asset."""
    found: list[StatedRow] = []
    for each in _parts(row.balances):
        parts: list[Any] = [*heard(tuple(each[:PARTS]))]
        kind = row.kind
        if len(parts) < PARTS:
            kind, parts = REMOVED, [parts[0], parts[0], *[None] * (PARTS - 2)]
        asset_id, asset, total, available, locked, staked, pending = parts
        amounts = (total, available, locked, staked, pending)
        found.append(StatedRow(row.account, asset_id, row.version, kind, asset, *amounts, row.time_ns))
    return found
