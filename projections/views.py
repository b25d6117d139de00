"""The SQL views, kept: made where they are not, and brought up to date.

Knows projections and the rows views are of. What Python works out when asked (how complete a balance is, when nobody
listened, what explains a break) is kept in rows of its own, all of it as of one position: a view never shows a verdict
beside a balance it is not of.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, astuple

from ledger import Ledger, Recorded
from ledger.errors import MomentLost, Overtaken, ReadOnly, Unsealed
from ledger.events import Amount
from ledger.view import View
from projections import view_sql
from projections.balances import Balances
from projections.breaks import Break, Breaks
from projections.fills import Fills
from projections.gaps import Gap, Gaps
from projections.history import History
from projections.holdings import HeldRow, judged, known
from projections.orders import Orders
from projections.quarantine import Quarantine
from projections.sessions import Sessions
from projections.stated import Stated
from projections.subscription import Projection, Subscription, catch_up, flush
from projections.tables import Cell, Change, Database, Once, Table
from projections.view_check import otherwise

TELLINGS_MAX: Final = 100
RESTS_S: Final = 1.0
REST: Final = 4
"""How long who tells them again and again rests at least, and how many times as long as it took."""
OVERTAKEN_S: Final = 0.05
"""How often it is begun again because another process told the views meanwhile, and how long it waits before."""

SAME_VERSION_MAX: Final = 1 << 24
"""How many gaps or breaks of one version have numbers of their own."""

S = TypeVar("S", bound=Struct)

_making: Final = threading.Lock()
"""Views are made by one thread at a time; PostgreSQL takes care of other processes."""


class BalanceShown(Struct):
    """A row of `current_balances`."""

    account: str
    asset_id: str
    asset: str
    total: Amount | None
    available: Amount | None
    locked: Amount | None
    staked: Amount | None
    pending: Amount | None
    tradable: bool | None
    version: int
    time_ns: int
    completeness: str
    reason: str


class GapShown(Struct):
    """A row of `gaps`."""

    account: str
    number: int
    kind: str
    gap_from: str
    gap_to: str
    missing: str
    suspect: str
    session: str | None
    subscription: str | None
    asset_id: str | None
    version: int
    time_ns: int
    healed: bool
    state: str
    closed_by: int | None
    closed_ns: int | None
    closed_how: str | None


class BreakShown(Struct):
    """A row of `breaks`."""

    account: str
    number: int
    kind: str
    subject: str
    part: str | None
    expected: Amount
    stated: Amount
    difference: Amount
    expected_version: int | None
    stated_version: int | None
    time_ns: int
    age_s: int | None
    explained_by: str | None
    state: str
    closed_by: int | None
    closed_ns: int | None
    closed_how: str | None


N = TypeVar("N", GapShown, BreakShown)


class _Said(NamedTuple):
    """What the views are to say, by key."""

    balances: Mapping[tuple[Cell, ...], BalanceShown]
    gaps: Mapping[tuple[Cell, ...], GapShown]
    breaks: Mapping[tuple[Cell, ...], BreakShown]


class Shown:
    """The rows that views need of their own, and how far they go. It folds nothing: `Views.tell` puts them. They follow
    from the events up to there, and from nothing else: of another version where anything they rest on is."""

    name = "views"
    version = view_sql.VERSION + sum(each.version for each in (Balances, Gaps, History, Sessions))

    def __init__(self, ledger: Ledger, database: Database) -> None:
        self.balances: Final = Table(database, "shown_balances", BalanceShown, key=2)
        self.gaps: Final = Table(database, "shown_gaps", GapShown, key=2)
        self.breaks: Final = Table(database, "shown_breaks", BreakShown, key=2)
        self.tables: Final[tuple[Table[Any], ...]] = (self.balances, self.gaps, self.breaks)
        self.subscription: Final = Subscription(ledger, self, database)

    def apply(self, recorded: Recorded) -> None:
        """Nothing: see `Views.tell`."""

    def keep(self, said: _Said) -> None:
        """Have these rows, and no others."""
        _keep(self.balances, said.balances)
        _keep(self.gaps, said.gaps)
        _keep(self.breaks, said.breaks)


class _Moment:
    """One moment of the ledger's database, read only: what is written meanwhile is not seen."""

    def __init__(self, ledger: Ledger, view: View) -> None:
        self._ledger = ledger
        self._view = view

    @property
    def read_only(self) -> bool:
        """It always is."""
        return True

    @property
    def in_file(self) -> bool:
        """Whether the ledger is."""
        return self._ledger.in_file

    def select(self, sql: str, params: Sequence[Cell] = (), /) -> list[tuple[Cell, ...]]:
        """The rows of a query."""
        return self._view.select(sql, params)

    def columns(self, table: str, /) -> set[str]:
        """The names of a table's columns."""
        return self._ledger.columns(table)

    def write(self, statements: Iterable[Change], once: Sequence[Once] = (), /) -> None:
        """Refused."""
        raise ReadOnly(f"{self._view.name}: a moment of it is read only")


@contextmanager
def moment_of(ledger: Ledger) -> Generator[Database]:
    """One moment of all that is stored: who reads it beside others that write sees every row as of its place."""
    with ExitStack() as stack:
        try:
            view = stack.enter_context(ledger.view())
        except Unsealed:  # of before 0.3.0: whoever writes to it seals it first
            yield ledger
        else:
            yield _Moment(ledger, view)


class Views:
    """The SQL views of a ledger (`projections.view_sql`). Makes them, and the tables they are of, where they are not
    there or of another version; `bring_up` brings them up to date."""

    def __init__(self, ledger: Ledger) -> None:
        if ledger.read_only:
            raise ReadOnly(f"{ledger.name}: opened with read_only=True, and views are made and written")
        self._ledger: Final = ledger
        breaks = Breaks(ledger)
        self.projections: Final[tuple[Projection, ...]] = (
            *breaks.projections,
            Orders(ledger),
            Fills(ledger),
            Quarantine(ledger),
            Stated(ledger),
        )
        """Those whose rows the views show: they are caught up together."""
        self._shown: Final = Shown(ledger, ledger)
        self._rested_at = 0.0
        with _making:
            if not view_sql.is_made(ledger):
                ledger.write(view_sql.making(ledger))

    @property
    def position(self) -> int:
        """How far the views go that need rows of their own."""
        return self._shown.subscription.position

    def bring_up(self, progress: Callable[[int], None] | None = None) -> None:
        """Bring the projections up to date, and what the views say of them."""
        catch_up(self._ledger, self.projections, progress=progress)
        self.tell()

    def define(self) -> None:
        """Make the views anew where they are defined otherwise than they are made."""
        with _making:
            if otherwise(self._ledger):
                self._ledger.write(view_sql.making(self._ledger))

    def tell_at_times(self) -> None:
        """As `tell`, where something came since; but rest between two times, longer than it takes."""
        now = time.monotonic()
        if now >= self._rested_at and self.position < max(
            each.subscription.position for each in self.projections
        ):
            self.tell()
            took_s = time.monotonic() - now
            self._rested_at = now + took_s + max(RESTS_S, REST * took_s)

    def tell(self) -> None:
        """Say in the views what the projections say, as far as they have come."""
        for _ in range(TELLINGS_MAX - 1):
            try:
                return self._tell()
            except (Overtaken, MomentLost):  # by one who is not as far as we were; or the server went away
                time.sleep(random.uniform(0, OVERTAKEN_S))
        self._tell()

    def _tell(self) -> None:
        shown = self._shown
        shown.subscription.refresh()
        with moment_of(self._ledger) as moment:
            breaks = Breaks(self._ledger, moment)
            position = max(each.subscription.position for each in breaks.projections)
            catch_up(self._ledger, breaks.projections, upto=position)  # in memory, where one is behind others
            said = _said(breaks)
        shown.keep(said)
        shown.subscription.position = position
        flush([shown.subscription])


def told_again(
    ledger: Ledger, scratch: Database, upto: int, progress: Callable[[int], None] | None = None
) -> Shown:
    """What the views are to say as of a position: folded from zero, in a scratch database."""
    shown, breaks = Shown(ledger, scratch), Breaks(ledger, scratch)
    catch_up(ledger, breaks.projections, upto=upto, progress=progress)
    shown.keep(_said(breaks))
    return shown


def _said(breaks: Breaks) -> _Said:
    fold = breaks.balances.fold
    gaps, logins = breaks.balances.gaps.with_logins()
    held = judged(fold, known(fold, gaps, logins, None), None)
    return _Said(
        {(row.account, row.asset_id): _balance(row) for row in held},
        _numbered(map(_gap, gaps), lambda gap: gap.version),
        _numbered(
            map(_break, breaks.folded(gaps)),
            lambda found: max(found.expected_version or 0, found.stated_version or 0),
        ),
    )


def _keep(table: Table[S], wanted: Mapping[tuple[Cell, ...], S]) -> None:
    """Let a table have these rows, by key; what is as it was is not written."""
    left = dict(wanted)
    for row in [*table.rows()]:
        key = astuple(row)[:2]
        now = left.pop(key, None)
        if now is None:
            table.drop(row)
        elif now != row:
            table.put(now)
    for row in left.values():
        table.put(row)


def _numbered(rows: Iterable[N], version: Callable[[N], int]) -> dict[tuple[Cell, ...], N]:
    """Rows by account and number: the same of the same, whenever it is told, and higher of what a later version
    showed."""
    of: defaultdict[tuple[str, int], list[N]] = defaultdict(list)
    for row in rows:
        of[row.account, version(row)].append(row)
    for (_, at), same in of.items():
        for place, row in enumerate(sorted(same, key=repr)):
            row.number = at * SAME_VERSION_MAX + place
    return {(row.account, row.number): row for same in of.values() for row in same}


def _balance(row: HeldRow) -> BalanceShown:
    said = asdict(row)
    return BalanceShown(**{name: said[name] for name in BalanceShown.__struct_fields__})


def _gap(gap: Gap) -> GapShown:
    said = asdict(gap)
    start, end, asset_id = said.pop("start"), said.pop("end"), said.pop("asset")
    return GapShown(**said, number=0, gap_from=start, gap_to=end, asset_id=asset_id, healed=gap.healed)


def _break(found: Break) -> BreakShown:
    age_s = None if found.state == "open" else found.age_s  # of an open one it would never be right
    said = asdict(found)
    said |= {"number": 0, "age_s": age_s}
    return BreakShown(**{name: said[name] for name in BreakShown.__struct_fields__})
