"""How complete a balance is, and why: what an auditor may rely on, in one word and one sentence.

Knows rows of balances, gaps and breaks as others found them; finds none itself.

* `gap`: something that touches it is missing, or two statements of it differ and nothing explains that.
* `proven`: the venue's own numbers are without a hole since it stated the whole account; or its own history runs to it.
* `consistent`: the last full statement said exactly what the statements before it had come to, and nothing was said of
  the asset since.
* `unprovable`: there is no evidence that nothing was missed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from ledger.events import Amount
from ledger.wire import EXACT, decimal, parse_time, time_text
from projections.agreement import BreakRow, Instant, stood
from projections.balances_fold import BEGAN_AGAIN
from projections.gaps import ARRIVED, Gap
from projections.unread import NewestRow

PROVEN: Final = "proven"
CONSISTENT: Final = "consistent"
UNPROVABLE: Final = "unprovable"
GAP: Final = "gap"


_others: Final = msgspec.json.Decoder(list[Amount])


class Stated(Protocol):
    """What is asked of a balance."""

    @property
    def account(self) -> str: ...
    @property
    def asset_id(self) -> str: ...
    @property
    def asset(self) -> str: ...
    @property
    def total(self) -> Amount | None: ...
    @property
    def version(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def ends(self) -> str | None: ...
    @property
    def subscription(self) -> str | None: ...
    @property
    def sequence(self) -> int | None: ...
    @property
    def agreed(self) -> int | None: ...
    @property
    def last_full(self) -> int: ...
    @property
    def settled(self) -> int: ...


class Whole(Protocol):
    """What is known of an account's full statements."""

    @property
    def whole_version(self) -> int: ...
    @property
    def whole_subscription(self) -> str | None: ...
    @property
    def restated_version(self) -> int: ...
    @property
    def numbered_sequence(self) -> int: ...
    @property
    def numbered_position(self) -> int: ...


class Later(Struct, frozen=True):
    """What is known since a moment: the gaps, and when something was heard first after it."""

    moment_ns: int
    gaps: Sequence[Gap]
    next_ns: int


class Doubts:
    """What is known to be missing of an account, and what contradicts itself; worked out once for many balances.
    `breaks`: those no event has closed and no gap explains, by asset, the one of the latest statement last."""

    def __init__(self, gaps: Sequence[Gap], breaks: Iterable[BreakRow]) -> None:
        self._gaps: Final = gaps
        self._touching: tuple[int, Sequence[Gap]] | None = None
        self.breaks: Final[dict[str, list[BreakRow]]] = {}
        rows = sorted(breaks, key=lambda each: each.stated_version or 0)
        missed = Missed(gaps if rows else ())
        for row in rows:
            if missed.explaining(row) is None:
                self.breaks.setdefault(row.subject, []).append(row)

    def touching(self, whole: Whole) -> Sequence[Gap]:
        """The gaps that may touch a balance."""
        if self._touching is None or self._touching[0] != whole.restated_version:
            found = [gap for gap in self._gaps if _may_touch(gap, whole)]
            self._touching = (whole.restated_version, found)
        return self._touching[1]


class Evidence:
    """What there is to judge an account's balances by. `unread`: the newest frame of the logins it was heard through
    that could not be read. `later`: what else there is where they are judged as of a moment."""

    def __init__(
        self, whole: Whole, doubts: Doubts, unread: NewestRow | None = None, later: Later | None = None
    ) -> None:
        self.whole: Final = whole
        self.gaps: Final = doubts.touching(whole)
        self.unread: Final = unread
        self.later: Final = None if later is None else _near(later, whole)
        self.breaks: Final = doubts.breaks


def _may_touch(gap: Gap, whole: Whole) -> bool:
    """Whether a gap may touch a balance: an open one, or a blind interval after which one asset alone was stated."""
    return gap.state == "open" or (gap.kind == "blind" and whole.restated_version < (gap.closed_by or 0))


def _near(later: Later, whole: Whole) -> Later:
    """Of the gaps known since a moment, those that may be of before it."""
    at = later.moment_ns
    near = [
        gap
        for gap in later.gaps
        if (gap.kind == "blind" and parse_time(gap.start) < at < parse_time(gap.end))
        or (gap.kind == "chain" and gap.state == "open" and parse_time(gap.start) <= at < parse_time(gap.end))
        or (gap.kind == "sequence" and _is_next(gap, whole, later))
    ]
    return Later(at, near, later.next_ns)


def verdict(row: Stated, history: tuple[int, Sequence[Instant]], evidence: Evidence) -> tuple[str, str]:
    """Completeness and reason of a balance. `history`: how many rows the venue's own history of the asset has, and
    where it last stood."""
    missing = _missing(row, evidence)
    if missing is not None:
        return GAP, missing
    differing = evidence.breaks.get(row.asset_id, ())
    if differing and (differing[-1].stated_version or 0) >= row.settled:
        return GAP, _differs(differing[-1])
    word, reason = _evidence(row, history, evidence)
    if differing:
        before = "" if len(differing) == 1 else f" ({len(differing)} such)"
        reason += f"; before version {row.settled} agreed, {_differs(differing[-1])}{before}"
    return word, reason


def _evidence(row: Stated, history: tuple[int, Sequence[Instant]], evidence: Evidence) -> tuple[str, str]:
    """What there is to say of a balance that nothing is known to be missing of."""
    rows, instants = history
    whole, unread = evidence.whole, evidence.unread
    heard = (
        unread is None or unread.position <= row.position
    )  # else newer rows may stand in what nobody could read
    if rows and heard and (proof := _closes(row, rows, instants)):
        return PROVEN, proof
    numbered = row.sequence is not None and row.subscription == whole.whole_subscription
    if numbered and (unread is None or unread.position <= whole.numbered_position):
        return PROVEN, (
            f"the venue's sequence has no hole since it stated the whole account (version "
            f"{whole.whole_version})"
        )
    since = max(row.position, whole.numbered_position) if numbered else row.position
    if unread is not None and unread.position > since:
        of = "" if unread.account == row.account else f" of {unread.account}"
        return UNPROVABLE, (
            f"a frame that could not be read came after it (version {unread.version}{of}): what it said is not known"
        )
    others: list[Amount] = [] if row.ends is None else _others.decode(row.ends)
    if others:
        return UNPROVABLE, (
            f"the last rows of its history are of one moment and could follow one another in several orders: it may "
            f"be {' or '.join(others)} as well"
        )
    if row.agreed is not None:
        return CONSISTENT, (
            f"the full statement of version {row.version} says exactly what had been stated by version "
            f"{row.agreed}, and nothing was said of it since"
        )
    return UNPROVABLE, _unproven(row, whole)


def _closes(row: Stated, rows: int, instants: Sequence[Instant]) -> str | None:
    """That the venue's own history, in which nothing is missing, runs to a balance; in words."""
    over = f"the running balance closes over all {'1 row' if rows == 1 else f'{rows} rows'}"
    if row.ends is not None:
        others = _others.decode(row.ends)
        return None if others else f"{over} of the venue's own history, to version {row.version}"
    agreed = row.agreed
    if agreed is None and row.total is not None:  # a row that came late may make them agree
        _, instant = stood(instants, row.time_ns, row.time_ns, row.total)
        agreed = None if instant is None else instant.version
    if agreed is None:
        return None
    return f"the balance of version {row.version} is what the venue's own history comes to by version {agreed}: {over}"


class Missed:
    """The gaps of an account in which something may have been missed, in order, so that those between what was expected
    and what was stated are found without looking at all of them."""

    def __init__(self, gaps: Iterable[Gap]) -> None:
        self._gaps: Final = [gap for gap in gaps if gap.kind in ("blind", "sequence")]
        self._spans: Final = [_span(gap) for gap in self._gaps]
        places = range(len(self._gaps))
        self._found: Final = sorted(places, key=lambda place: self._gaps[place].version)
        self._of: Final[dict[str | None, list[int]]] = {None: []}
        """The places of blind intervals by time (None), and of holes by subscription and number."""
        for place in sorted(places, key=lambda place: self._spans[place]):
            self._of.setdefault(self._gaps[place].subscription, []).append(place)

    def explaining(self, row: BreakRow) -> str | None:
        """The gaps in which the difference was missed; None where there is none."""
        if row.kind != "snapshot" or not self._gaps:
            return None
        near = sorted({place for place in self._near(row) if self._lies_between(row, place)})
        return ", ".join(_named(self._gaps[place]) for place in near) or None

    def _near(self, row: BreakRow) -> Iterator[int]:
        """The places of gaps of after what was expected, found by what was stated; also where that came late."""
        expected, stated = row.expected_version or 0, row.stated_version or 0
        counted = row.since_sequence is not None
        for place in self._between(self._found, expected, stated):
            if not counted or self._gaps[place].subscription != row.since_subscription:
                yield place
        if row.since_sequence is not None and row.since_subscription is not None:
            of = self._of.get(row.since_subscription, [])
            first = bisect_right(of, row.since_sequence, key=lambda place: self._spans[place][1])
            yield from self._upto(of, first, stated)
        if expected > stated:
            of = self._of[None]
            first = bisect_right(of, row.since_ns, key=lambda place: self._spans[place][1])
            last = bisect_right(of, row.upto_ns, key=lambda place: self._spans[place][0])
            yield from of[first:last]

    def _between(self, of: Sequence[int], after: int, upto: int) -> Iterator[int]:
        return self._upto(of, bisect_right(of, after, key=lambda place: self._gaps[place].version), upto)

    def _upto(self, of: Sequence[int], first: int, version: int) -> Iterator[int]:
        """From a place on, those found by a version: what is missing later in a sequence was found later."""
        for at in range(first, len(of)):
            if self._gaps[of[at]].version > version:
                return
            yield of[at]

    def _lies_between(self, row: BreakRow, place: int) -> bool:
        """Whether something of the asset may have been missed in a gap of after what was expected: it was stated in
        full after it."""
        gap, stated = self._gaps[place], row.stated_version or 0
        if gap.version > stated:
            return False
        if gap.kind == "sequence" and gap.time_ns > row.upto_ns:
            return False  # of after what was stated, which came late
        if gap.kind == "blind" and self._spans[place][0] > min(row.upto_ns, max(row.time_ns, row.found_ns)):
            return False  # of after that, too, or of after the answer had come
        if gap.kind == "blind" or gap.closed_by is None:
            return True  # an answer that does not name the asset closes a blind interval, not this
        if gap.closed_how == ARRIVED:
            return gap.closed_by > max(stated, row.expected_version or 0)
        return gap.closed_by >= stated


def _span(gap: Gap) -> tuple[int, int]:
    """The times of a blind interval, the numbers of a hole."""
    if gap.kind == "blind":
        return parse_time(gap.start), parse_time(gap.end)
    return int(gap.start), int(gap.end)


def _named(gap: Gap) -> str:
    return f"blind interval {_interval(gap)}" if gap.kind == "blind" else f"sequence gap {gap.missing}"


def _interval(gap: Gap) -> str:
    return f"{gap.start}–{gap.end}"  # noqa: RUF001 - from, to


def _missing(row: Stated, evidence: Evidence) -> str | None:
    """The gap that touches a balance, in words."""
    if evidence.later is not None and (hidden := _at_that_moment(row, evidence.later)) is not None:
        return hidden
    for gap in evidence.gaps:
        still = gap.state == "open"
        if gap.kind == "sequence":
            return (
                f"number {gap.missing} of the venue's sequence {gap.subscription} was never received (found at "
                f"version {gap.version}), and the whole account was not stated since"
            )
        if gap.kind == "chain" and gap.asset == row.asset_id:
            return f"{gap.missing} are missing from its history (found at version {gap.version})"
        if gap.kind != "blind":
            continue
        if still:
            return f"nobody listened in the {_named(gap)}, and no full statement came since"
        closed = gap.closed_by or 0
        if max(row.version, row.last_full, evidence.whole.restated_version) < closed:
            return (
                f"nobody listened in the {_named(gap)}, and the answer of version {closed} does not name it"
            )
    return None


def _at_that_moment(row: Stated, later: Later) -> str | None:
    """The gap that was found after a moment and may be of before it, in words: when what is missing was said, nobody
    knows; only what was heard last before it and first after it."""
    for gap in later.gaps:
        if gap.kind == "blind":
            return f"nobody was listening at that moment: {_named(gap)}"
        if gap.kind == "chain" and gap.asset == row.asset_id:
            return f"{gap.missing} are missing from its history around that moment (found at version {gap.version})"
        if gap.kind == "sequence":
            return (
                f"number {gap.missing} of the venue's sequence {gap.subscription} was never received (found at version "
                f"{gap.version}), and may be of before that moment"
            )
    return None


def _is_next(gap: Gap, whole: Whole, later: Later) -> bool:
    """Whether a hole follows what was heard last by a moment: the last number of the subscription that counts; or, of
    one that begins with it, anything."""
    if gap.time_ns <= later.moment_ns or gap.closed_how == ARRIVED:
        return False
    first, last = int(gap.start), int(gap.end)
    if gap.subscription == whole.whole_subscription:
        return first <= whole.numbered_sequence + 1 <= last
    return first == 1 and gap.time_ns <= later.next_ns


def _differs(found: BreakRow) -> str:
    """A break, in words."""
    difference = EXACT.subtract(decimal(found.stated), decimal(found.expected))
    before = "its history" if found.kind == "account" else "the statements before it"
    return (
        f"version {found.stated_version} (of {time_text(found.time_ns)}) states {found.part} {found.stated} "
        f"where {before} came to {found.expected} (version {found.expected_version}): "
        f"the difference of {difference:f} is not explained"
    )


def _unproven(row: Stated, whole: Whole) -> str:
    if row.sequence is not None and whole.whole_subscription == BEGAN_AGAIN:
        return (
            f"the numbers of {row.subscription} began again (version {whole.whole_version}): they prove nothing, and "
            "the balance may be of before that"
        )
    if row.sequence is not None and whole.whole_subscription is None:
        return f"numbered, but the whole account was never stated with numbers before version {row.version}"
    if row.sequence is not None:
        return f"version {row.version} is not of the sequence in which the whole account was last stated"
    if row.version <= whole.whole_version and row.last_full == row.version:
        return f"stated with the whole account (version {row.version}), and nothing before to compare it with"
    return f"the venue gives no evidence that nothing was missed before or after version {row.version}"
