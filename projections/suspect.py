"""What is wrong with a movement: the gaps and the breaks that touch it, in words; and with a period.

Knows gaps and breaks as others found them, now or as they were known at a time; finds none itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from ledger import Ledger
from ledger.events import known_ns
from ledger.wire import parse_time
from projections.balances import Balances
from projections.balances_fold import BalancesFold
from projections.breaks import FILLS, Break, Breaks, told
from projections.causes import UNEXPLAINED
from projections.gaps import ARRIVED, Gap, Gaps, GapsFold
from projections.tables import Scratch


class Moved(Struct, frozen=True):
    """What is asked of a movement: the event that told it, and what of."""

    asset_id: str
    version: int
    received_ns: int
    imported: bool
    """A row of the venue's own history told it: what was missed is in its running balance."""
    cause: str


class Trouble:
    """The gaps and breaks of an account, open and closed."""

    def __init__(self, gaps: Sequence[Gap], breaks: Sequence[Break]) -> None:
        self.gaps: Final = gaps
        self.breaks: Final = breaks
        self._spans: Final = [(gap, _known_after(gap)) for gap in gaps if gap.kind in ("sequence", "blind")]
        self._at: Final[dict[int, list[Gap | Break]]] = {}
        for gap in gaps:
            if gap.kind == "chain" and gap.state == "open":
                self._at.setdefault(gap.version, []).append(gap)
        for each in breaks:
            if each.stated_version is not None:
                self._at.setdefault(each.stated_version, []).append(each)
        self._fills: Final[dict[str, list[Break]]] = {}
        for each in breaks:
            if each.kind in FILLS:
                self._fills.setdefault(each.subject, []).append(each)

    def of(self, moved: Moved) -> tuple[str, ...]:
        """What touches a movement."""
        found: list[Gap | Break] = [gap for gap, after in self._spans if _hides(gap, after, moved)]
        found += [each for each in self._at.get(moved.version, ()) if _is_about(each, moved)]
        if self._fills:
            for fill_id in moved.cause.removeprefix("fills ").split(", "):
                found += self._fills.get(fill_id, ())
        return tuple(_gap(each) if isinstance(each, Gap) else _break(each) for each in found)

    def open_in(self, start_ns: int, end_ns: int, ids: Sequence[str] | None) -> list[str]:
        """What is open and touches a period; of some assets only, where their ids are named."""
        gaps = (gap for gap in self.gaps if gap.state == "open" and _is_in(gap, start_ns, end_ns))
        breaks = (each for each in self.breaks if each.state == "open" and start_ns < each.time_ns <= end_ns)
        if ids is None:
            return [*map(_gap, gaps), *map(_break, breaks)]
        return [
            *(_gap(gap) for gap in gaps if gap.kind != "chain" or gap.asset in ids),
            *(_break(each) for each in breaks if each.kind in ("fills", *FILLS) or each.subject in ids),
        ]


def trouble(ledger: Ledger, account: str, known_at_ns: int | None) -> Trouble:
    """The gaps and breaks of an account, as known now, or as they were known then."""
    if known_at_ns is None:
        return Trouble(Gaps(ledger).rows(account), Breaks(ledger).rows(account))
    with Scratch() as scratch:
        gaps, balances = GapsFold(scratch), BalancesFold(None)
        for recorded in Balances(ledger).events(account):
            if known_ns(recorded.event) <= known_at_ns:
                gaps.apply(recorded)
                if recorded.account == account:
                    balances.apply(recorded)
        found = gaps.rows(account)
        rows = [*balances.agreement.breaks.rows(account), *gaps.breaks(account)]
    return Trouble(found, told(rows, found, known_at_ns))


def _known_after(gap: Gap) -> tuple[int, int]:
    """The version and the time (ns) from which on events may tell what the gap hides."""
    return (0, parse_time(gap.end)) if gap.kind == "blind" else (gap.version, 0)


def _hides(gap: Gap, after: tuple[int, int], moved: Moved) -> bool:
    """Whether a movement may contain what a gap hides, until a full statement closes it. What arrived late is missing
    no more; a history has its own evidence of what nobody listened to."""
    if gap.closed_by is not None and (moved.version > gap.closed_by or gap.closed_how == ARRIVED):
        return False
    if gap.kind == "blind" and moved.imported:
        return False
    return moved.version >= after[0] and moved.received_ns >= after[1]


def _is_in(gap: Gap, start_ns: int, end_ns: int) -> bool:
    """Whether an open gap touches a period: between the rows around it, where it is one of a history; else from where
    it was found on."""
    if gap.kind == "chain":
        return parse_time(gap.start) < end_ns and parse_time(gap.end) > start_ns
    if gap.kind == "blind":
        return parse_time(gap.start) < end_ns
    if gap.kind == "fills":
        return start_ns < gap.time_ns <= end_ns
    return gap.time_ns <= end_ns


def _is_about(each: Gap | Break, moved: Moved) -> bool:
    if isinstance(each, Gap):
        return moved.cause == UNEXPLAINED and each.asset == moved.asset_id
    return each.subject == moved.asset_id


def _gap(gap: Gap) -> str:
    ends = "open" if gap.state == "open" else f"closed by version {gap.closed_by}: {gap.closed_how}"
    if gap.kind == "blind":
        return f"blind interval {gap.start} to {gap.end} ({ends})"
    if gap.kind == "sequence":
        return f"sequence gap: number {gap.missing} of {gap.subscription} ({ends})"
    if gap.kind == "chain":
        return f"chain gap: {gap.missing} between {gap.start} and {gap.end} ({ends})"
    return f"fills gap: {gap.missing} of order {gap.start} ({ends})"


def _break(each: Break) -> str:
    ends = "open" if each.state == "open" else f"closed by version {each.closed_by}: {each.closed_how}"
    part = "" if each.part is None else f" {each.part}"
    return (
        f"{each.kind} break of {each.subject}: version {each.stated_version} states{part} {each.stated}, "
        f"{each.expected} expected, difference {each.difference} ({ends})"
    )


def explains(found: Iterable[str]) -> str | None:
    """The reason a movement has from what touches it."""
    said = [each.partition(" (")[0] for each in found if each.startswith(("blind", "sequence", "chain"))]
    return f"found after the {'; the '.join(said)}" if said else None
