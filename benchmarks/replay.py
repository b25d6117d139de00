"""replay: stored events into balances, from zero, beside a bare SELECT of the same rows and stock eventsourcing.

One history serves all: balances, all projections, verify, balances as of a moment, starts. Sides that only read or only
verify tell what the fold costs beside that.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import structs
from rich.console import Group

from benchmarks import delays, moments, report
from benchmarks.claims import faster
from benchmarks.decode import OURS
from benchmarks.measure import Claim, Effort, Result, Side, Unequal, race
from benchmarks.stock_replay import Stock, held
from benchmarks.stream import fill, progress
from ledger import Ledger, Venue
from ledger.cli.options import PROJECTIONS, VENUES
from ledger.verify import STEP_EVENTS
from projections import Balances, catch_up
from projections.tables import Scratch

ASKED_EVENTS: Final = 1_000_000
"""What the claims speak of."""
STOCK_EVENTS_MAX: Final = 50_000
"""Stock eventsourcing is given the first so many events: it reads a stream whole, and its time grows with it."""
PAGE_ROWS: Final = 1_000

SELECT: Final = (
    "SELECT originator_id, originator_version, topic, state, rowid FROM stored_events ORDER BY rowid"
)
BARE: Final = "bare SELECT"
ALONE: Final = f"{OURS}: Balances"
JUDGED: Final = f"{ALONE}, judged"
VERIFY: Final = "Ledger.verify"
DECODED: Final = "Ledger.verify with the venues"
LEAN: Final = "stock repository.get, amounts as text"
STOCK: Final = "stock repository.get, Decimals"


def cases(effort: Effort) -> int:
    """How many results there will be."""
    return 2 + moments.CASES


def replay(effort: Effort) -> Iterator[Result]:
    """A history of small statements of all five venues: into balances, into all projections; then moments of it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with Ledger(path) as ledger:
            fill(ledger, effort.replay_events, progress("history", effort.replay_events))
            yield _balances(ledger, path, Path(folder), effort)
            yield _all(ledger, path, effort)
            yield moments.as_of(ledger, effort)
        yield moments.start(path, Path(folder), effort)


def table(results: list[Result]) -> Group:
    """Rates first, then how long a read takes."""
    waits = [each for each in results if delays.is_of(each)]
    rates = [each for each in results if not delays.is_of(each)]
    return Group(report.table(rates), "", delays.table(waits, "replay: moments, and starts"))


def fold(ledger: Ledger, *, judged: bool = False) -> None:
    """All balances, from zero, into a database of their own; `judged`: with what their verdicts rest on. Raises Unequal
    where they do not get to the end."""
    with Scratch() as scratch:
        balances = Balances(ledger, scratch)
        folded = balances.projections if judged else (balances,)
        catch_up(ledger, folded)
        for each in folded:
            if each.subscription.position != ledger.position():
                raise Unequal(f"{each.name} reach {each.subscription.position}, not the end of the ledger")


def fold_all(ledger: Ledger) -> None:
    """All projections that `accountledger replay` rebuilds, from zero, in one pass. Raises Unequal."""
    with Scratch() as scratch:
        projections = [projection(ledger, scratch) for projection in PROJECTIONS]
        catch_up(ledger, projections)
    if {each.subscription.position for each in projections} != {ledger.position()}:
        raise Unequal("not every projection reached the end of the ledger")


def verify(ledger: Ledger, venues: Iterable[Venue] = ()) -> None:
    """Everything hashed again, and with venues decoded again. Raises Unequal where not every event was, or something is
    wrong with one."""
    checked: list[int] = []
    for finding in ledger.verify(venues=venues, advance=checked.append):
        raise Unequal(finding.sentence())
    if ledger.position() - sum(checked) >= STEP_EVENTS:  # what is left of a step is not told
        raise Unequal(f"verify checked {sum(checked)} of {ledger.position()} events")


def bare_select(path: Path, events: int) -> None:
    """The rows a replay reads, by sqlite3 alone, page by page. Raises Unequal where there are more or fewer."""
    rows = 0
    connection = sqlite3.connect(path)
    try:
        cursor = connection.execute(SELECT)
        while page := cursor.fetchmany(PAGE_ROWS):
            rows += len(page)
    finally:
        connection.close()
    if rows != events:
        raise Unequal(f"a bare SELECT found {rows} of {events} events")


def check_equal(ledger: Ledger, path: Path) -> None:
    """Both must read every event, in order. Raises Unequal."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(SELECT)
        for each in ledger.replay():
            row = rows.fetchone()
            if row is None or (each.account, each.version, each.position) != (row[0], row[1], row[4]):
                raise Unequal("the ledger and a bare SELECT read different events")
        if rows.fetchone() is not None:
            raise Unequal("a bare SELECT reads more events than the ledger")
    finally:
        connection.close()


def check_stock(ledger: Ledger, stock: Stock, events: int) -> None:
    """Stock aggregates must have folded as many events, to the balances that ours come to. Raises Unequal."""
    accounts = stock.get()
    theirs = held(accounts)
    with Scratch() as scratch:
        balances = Balances(ledger, scratch)
        catch_up(ledger, [balances], upto=events)
        ours = {
            (row.account, row.asset_id): (row.total, row.available, row.locked, row.staked, row.pending)
            for row in balances.fold.held(None)
        }
    for place, parts in theirs.items():
        if parts[0] is None and place in ours:  # a total that no venue stated is ours alone
            ours[place] = (None, *ours[place][1:])
    if sum(account.events for account in accounts) != events or ours != theirs:
        raise Unequal("stock aggregates do not come to the balances of the ledger")


def _balances(ledger: Ledger, path: Path, folder: Path, effort: Effort) -> Result:
    """Balances alone, beside everything that bounds them."""
    events = ledger.position()
    check_equal(ledger, path)
    stocked = min(events, STOCK_EVENTS_MAX)
    lean, stock = Stock(folder / "lean.db", lean=True), Stock(folder / "stock.db", lean=False)
    try:
        for each in (lean, stock):
            each.fill(islice(ledger.replay(), stocked))
            check_stock(ledger, each, stocked)
        told = f"{stocked:,} events"
        sides = (
            Side(ALONE, lambda: fold(ledger), events),
            Side(
                JUDGED, lambda: fold(ledger, judged=True), events, "with what verdicts rest on; not claimed"
            ),
            Side("Ledger.replay alone", lambda: deque(ledger.replay(), maxlen=0), events),
            Side(VERIFY, lambda: verify(ledger), events, "decodes no frame and folds nothing again"),
            Side(DECODED, lambda: verify(ledger, VENUES.values()), events, "not claimed"),
            Side(BARE, lambda: bare_select(path, events), events),
            Side(LEAN, lean.get, stocked, told),
            Side(STOCK, stock.get, stocked, told),
        )
        case = f"balances of five venues, {events:,} events"
        result = race("replay", case, "events", None, sides, effort.replay_rounds)
    finally:
        lean.close()
        stock.close()
    return _claimed(result, events)


def _claimed(result: Result, events: int) -> Result:
    what = f"replay of {events:,} events into all balances, not what their verdicts rest on"
    if events < ASKED_EVENTS:
        what += f" (asked of {ASKED_EVENTS:,})"
    result = faster(result, BARE, f"{what}: our speed / that of a bare SELECT of the same rows", 0.35)
    result = faster(result, LEAN, f"{what}: our speed / that of stock repository.get", 12)
    beside = result.run(VERIFY).ours
    figure = None if beside is None else beside.median
    text = f"{what}: time of verify, which decodes no frame and folds nothing again / ours"
    claim = Claim(text, figure, 2.5, at_least=False)
    return structs.replace(result, claims=(*result.claims, claim))


def _all(ledger: Ledger, path: Path, effort: Effort) -> Result:
    """Every projection."""
    events = ledger.position()
    sides = (
        Side(f"{OURS}: all projections", lambda: fold_all(ledger), events),
        Side(BARE, lambda: bare_select(path, events), events),
    )
    case = f"{len(PROJECTIONS)} projections of five venues, {events:,} events"
    return race("replay", case, "events", None, sides, max(1, effort.replay_rounds // 3))
