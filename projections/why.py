"""Why a balance is what it is: the statements it was made from, down to the bytes, and what may be wrong with it.

Knows balance events, the fold of balances, and where in a frame an amount stands; knows of a venue only
that it decodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Final

from msgspec import Struct

from ledger import Ledger, Recorded, Venue
from ledger.errors import LedgerError
from ledger.events import (
    Amount,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    is_answer,
    time_of,
)
from ledger.findings import damage_of
from ledger.spans import Place, Span, spans_of
from ledger.wire import moment_ns
from projections.balances import Balances
from projections.balances_fold import BalanceRow, BalancesFold
from projections.breaks import Break, Breaks
from projections.gaps import Gap
from projections.holdings import HeldRow

EVENTS_MAX: Final = 20
"""How many of the changes, and how many of the late statements, are told: the last ones."""
FINDINGS_MAX: Final = 50
PARTS: Final = ("total", "available", "locked", "staked", "pending")


class Read(Struct, frozen=True):
    """Bytes `start` to `end` (not included) of the frame, which write a part of the balance: `text`."""

    part: str
    start: int
    end: int
    text: str


class Reason(Struct, frozen=True):
    """One event that a balance was made from, or that changed nothing (`late`).

    `role`: `rests on` (the last full statement before), `change`, `removed`, `states` (the event whose amounts are the
    balance) or `late`. `amounts` are those it states of the asset; `spans` where its frame writes them; `derived` are
    the parts that are the sum of others. `full`: it is a full statement, or a page of one.
    """

    version: int
    position: int
    topic: str
    role: str
    full: bool
    time_ns: int
    received_ns: int
    late_ns: int | None
    channel: str
    session: str
    ordinal: int
    sequence: int | None
    cause: str | None
    amounts: dict[str, Amount]
    derived: dict[str, list[str]]
    spans: list[Read]
    evidence_sha256: str | None
    frame: bytes | None
    damage: str | None
    """What happened to the frame since: it is gone, or its bytes are not those the event was made of."""


class Why(Struct, frozen=True):
    """A balance and where it comes from. `held` None: the venue no longer names the asset; then `stated_by` is the
    event that says so. `rests_on` is None where no full statement names it."""

    account: str
    asset_id: str
    asset: str
    row: BalanceRow
    held: HeldRow | None
    rests_on: int | None
    stated_by: int
    events: list[Reason]
    changes_before: int
    """How many changes since the full statement there are before those told."""
    late_before: int
    gaps: list[Gap]
    breaks: list[Break]
    findings_before: int


class Unknown(LedgerError):  # noqa: N818
    """The account has no such asset. The message names those it has."""


def why(
    ledger: Ledger,
    venues: Mapping[str, Venue],
    account: str,
    asset: str,
    moment: int | str | datetime | None = None,
) -> Why:
    """Where the balance of an asset (its id, or its label where that is unambiguous) comes from: now, or as of a
    version (int) or a time (ISO-8601 text or datetime, UTC). Raises Unknown, and Malformed where the text is no
    time."""
    balances = Balances(ledger)
    rows = balances.rows(account) if moment is None else balances.at(moment, account).rows(account)
    course = _Course(ledger, account, moment)
    held = [row for row in rows if asset == row.asset_id] or [row for row in rows if asset == row.asset]
    asset_id = held[0].asset_id if len(held) == 1 else course.find(asset)
    story = _Story(account, asset_id)
    for recorded in course.events():
        story.hear(recorded)
    if story.row is None:
        raise Unknown(f"{account} has no {asset} that was told of in time")
    gaps, breaks, more = _findings(ledger, balances, story, course)
    stated_by, told = story.told()
    return Why(
        account,
        asset_id,
        story.row.asset,
        story.row,
        next((row for row in rows if row.asset_id == asset_id), None),
        None if story.base is None else story.base.version,
        stated_by,
        [_reason(ledger, venues, asset_id, recorded, role, full) for recorded, role, full in told],
        max(0, story.changes - len(story.changed)),
        max(0, story.lates - len(story.late)),
        gaps,
        breaks,
        more,
    )


class _Course:
    """The events of an account up to a moment."""

    def __init__(self, ledger: Ledger, account: str, moment: int | str | datetime | None) -> None:
        self._ledger = ledger
        self._account = account
        self.version: Final = moment if isinstance(moment, int) else None
        self.until_ns: Final = None if moment is None or isinstance(moment, int) else moment_ns(moment)
        self.names: Final[dict[str, str]] = {}
        """The label of each asset, by its id."""

    def events(self) -> Iterator[Recorded]:
        for recorded in self._ledger.replay(self._account, upto=self.version):
            if self.until_ns is None or time_of(recorded.event) <= self.until_ns:
                yield recorded

    def find(self, asset: str) -> str:
        """The id of an asset. Raises Unknown."""
        for recorded in self.events():
            event = recorded.event
            if isinstance(event, BalanceSnapshot | BalanceDelta):
                self.names.update((balance.asset_id, balance.asset) for balance in event.balances)
                for asset_id in event.removed if isinstance(event, BalanceDelta) else ():
                    self.names.setdefault(asset_id, asset_id)
            elif isinstance(event, BalanceEventImported) and not event.memo:
                self.names[event.asset_id] = event.asset
        if asset in self.names:
            return asset
        labelled = [asset_id for asset_id, name in self.names.items() if name == asset]
        labelled = labelled or [
            asset_id
            for asset_id, name in self.names.items()
            if asset.casefold() in (name.casefold(), asset_id.casefold())
        ]
        if len(labelled) == 1:
            return labelled[0]
        if labelled:
            raise Unknown(f"{self._account} has several assets {asset}: {', '.join(sorted(labelled))}")
        there = sorted({name or asset_id for asset_id, name in self.names.items()})
        raise Unknown(f"{self._account} has no {asset}; it has: {', '.join(there) or 'nothing yet'}")


class _Story:
    """What became of one asset, event by event. Memory does not grow with the number of events."""

    def __init__(self, account: str, asset_id: str) -> None:
        self.account: Final = account
        self.asset_id: Final = asset_id
        self._fold = BalancesFold(None)
        self._page: Recorded | None = None
        """The page that names the asset, of a full statement that is still arriving."""
        self.row: BalanceRow | None = None
        self.base: Recorded | None = None
        """The last full statement that names the asset and was not late."""
        self.changed: Final[deque[Recorded]] = deque(maxlen=EVENTS_MAX)
        self.changes = 0
        self.late: Final[deque[Recorded]] = deque(maxlen=EVENTS_MAX)
        self.lates = 0

    def hear(self, recorded: Recorded) -> None:
        """Fold one event, and note what it did."""
        event = recorded.event
        if not isinstance(event, BalanceSnapshot | BalanceDelta | BalanceEventImported):
            return
        self._fold.apply(recorded)
        self.row = self._fold.row(self.account, self.asset_id)
        named = _names(event, self.asset_id)
        counts = self.row is not None and self.row.version == recorded.version
        if isinstance(event, BalanceEventImported) and self.row is not None:
            counts = counts or (
                named and time_of(event) == self.row.time_ns
            )  # of one instant, all rows count
        if counts:
            self.changed.append(recorded)
            self.changes += 1
        elif named:
            self.late.append(recorded)
            self.lates += 1
        if isinstance(event, BalanceSnapshot):
            if event.begins and not named:
                self._page = None
            elif counts and named:
                self._page = recorded
            if not event.more and self._page is not None:
                self._rest_on(self._page)
        elif counts and is_answer(event):
            self._rest_on(recorded)

    def _rest_on(self, full: Recorded) -> None:
        self.base, self._page = full, None
        kept = [each for each in self.changed if each.version > full.version]
        self.changed.clear()
        self.changed.extend(kept)
        self.changes = len(kept)
        self.late.clear()
        self.lates = 0

    def told(self) -> tuple[int, list[tuple[Recorded, str, bool]]]:
        """The version that states the balance, and the events by version, each with its role and whether it is full."""
        assert self.row is not None
        found = {each.version: (each, "late") for each in self.late}
        for each in self.changed:
            found[each.version] = (each, "change" if _states(each, self.asset_id) else "removed")
        if self.base is not None:
            found[self.base.version] = (self.base, "rests on")
        version = self._stated_by(self.row)
        stated = found.get(version)
        if stated is not None and stated[1] != "removed":
            found[version] = (stated[0], "states")
        ordered = [found[version] for version in sorted(found)]
        return version, [(each, role, _is_full(each)) for each, role in ordered]

    def _stated_by(self, row: BalanceRow) -> int:
        """Of history rows of one instant, the balance may be that of an earlier one than the last that came."""
        for each in reversed(self.changed):
            event = each.event
            if not isinstance(event, BalanceEventImported) or time_of(event) != row.time_ns:
                break
            if (event.balance, event.pending) == (row.total, row.pending):
                return each.version
        return row.version


def _names(event: BalanceSnapshot | BalanceDelta | BalanceEventImported, asset_id: str) -> bool:
    if isinstance(event, BalanceEventImported):
        return event.asset_id == asset_id and not event.memo
    removed = event.removed if isinstance(event, BalanceDelta) else ()
    return asset_id in removed or any(balance.asset_id == asset_id for balance in event.balances)


def _states(recorded: Recorded, asset_id: str) -> bool:
    """Whether the event states amounts of the asset: else it says that it is not held."""
    event = recorded.event
    if isinstance(event, BalanceSnapshot | BalanceDelta):
        return any(balance.asset_id == asset_id for balance in event.balances)
    return True


def _is_full(recorded: Recorded) -> bool:
    return isinstance(recorded.event, BalanceSnapshot) or is_answer(recorded.event)


def _said(recorded: Recorded, asset_id: str) -> tuple[dict[str, Amount], dict[str, Place]]:
    """The amounts an event states of an asset by part, and where each stands in the event."""
    event = recorded.event
    if isinstance(event, BalanceEventImported):
        parts = {"amount": event.amount, "total": event.balance, "pending": event.pending}
        places = {name: (0, "balance" if name == "total" else name) for name in parts}
        return {name: text for name, text in parts.items() if text is not None}, places
    if isinstance(event, BalanceSnapshot | BalanceDelta):
        for index, balance in enumerate(event.balances):
            if balance.asset_id == asset_id:
                return _parts(balance), {name: (index, name) for name in PARTS}
    return {}, {}


def _parts(balance: Balance) -> dict[str, Amount]:
    return {name: text for name in PARTS if (text := getattr(balance, name)) is not None}


def _reason(
    ledger: Ledger,
    venues: Mapping[str, Venue],
    asset_id: str,
    recorded: Recorded,
    role: str,
    full: bool,
) -> Reason:
    event, source = recorded.event, recorded.event.source
    amounts, places = _said(recorded, asset_id)
    frame = ledger.evidence(recorded)
    venue = venues.get(source.venue)
    spans: dict[Place, Span] = {}
    if venue is not None and amounts:
        spans = spans_of(ledger, venue.decode, recorded, set(amounts.values()))
    read = [
        Read(name, span.start, span.end, span.text)
        for name in amounts
        if (span := spans.get(places[name])) is not None
    ]
    summed = "total" not in amounts and "available" in amounts and "locked" in amounts
    return Reason(
        recorded.version,
        recorded.position,
        type(event).__name__,
        role,
        full,
        time_of(event),
        source.received_ns,
        source.late_ns,
        source.channel,
        source.session,
        source.ordinal,
        source.sequence,
        event.cause if isinstance(event, BalanceEventImported) else None,
        amounts,
        {"total": ["available", "locked"]} if summed else {},
        read,
        None if frame is None else sha256(frame).hexdigest(),
        frame,
        damage_of(source.evidence, frame),
    )


def _findings(
    ledger: Ledger, balances: Balances, story: _Story, course: _Course
) -> tuple[list[Gap], list[Break], int]:
    """The gaps and breaks that touch the asset: those open, and those found or closed since what it rests on."""
    account, asset_id = story.account, story.asset_id
    base = 0 if story.base is None else story.base.version
    last = 0 if story.row is None else story.row.version

    def of_asset(version: int) -> bool:
        found = next(ledger.replay(account, after=version - 1, upto=version), None)
        event = None if found is None else found.event
        return not isinstance(event, BalanceEventImported) or event.asset_id == asset_id

    def touches(version: int, time_ns: int, closed_by: int | None) -> bool:
        if course.version is not None and version > course.version:
            return False
        if course.until_ns is not None and time_ns > course.until_ns:
            return False
        return closed_by is None or closed_by >= base or last <= version

    gaps = [
        gap
        for gap in balances.gaps.rows(account)
        if gap.kind != "fills" and touches(gap.version, gap.time_ns, gap.closed_by)
    ]
    gaps = [gap for gap in gaps if gap.kind != "chain" or of_asset(gap.version)]
    breaks = [
        each
        for each in Breaks(ledger).rows(account)
        if each.kind in ("snapshot", "account")
        and each.subject == asset_id
        and touches(each.stated_version or 0, each.time_ns, each.closed_by)
    ]
    more = max(0, len(gaps) - FINDINGS_MAX) + max(0, len(breaks) - FINDINGS_MAX)
    return gaps[:FINDINGS_MAX], breaks[:FINDINGS_MAX], more
