"""How complete a balance is, and why: what an auditor may rely on, in one word and one sentence.

Knows rows of balances, gaps and breaks as others found them; finds none itself.

* `gap`: something that touches it is missing, or two statements of it differ and nothing explains that.
* `proven`: the venue's own numbers are without a hole since it stated the whole account; or its own history runs to it.
* `consistent`: the last full statement said exactly what the statements before it had come to, and nothing was said of
  the asset since.
* `unprovable`: there is no evidence that nothing was missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from ledger.events import Amount
from ledger.wire import EXACT, decimal, parse_time, time_text
from projections.agreement import BreakRow, Instant, stood
from projections.gaps import ARRIVED, Gap

PROVEN: Final = "proven"
CONSISTENT: Final = "consistent"
UNPROVABLE: Final = "unprovable"
GAP: Final = "gap"


class Stated(Protocol):
    """What is asked of a balance."""

    @property
    def asset_id(self) -> str: ...
    @property
    def asset(self) -> str: ...
    @property
    def total(self) -> Amount | None: ...
    @property
    def version(self) -> int: ...
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
    def full(self) -> int: ...
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
    def numbered_version(self) -> int: ...
    @property
    def numbered_sequence(self) -> int: ...
    @property
    def unread_version(self) -> int: ...


class Later(Struct, frozen=True):
    """What is known since a moment: the gaps, and when something was heard first after it."""

    moment_ns: int
    gaps: Sequence[Gap]
    next_ns: int


class Evidence(Struct, frozen=True):
    """What there is to judge an account's balances by. `breaks`: those no event has closed, by asset. `later`: what
    else there is where they are judged as of a moment."""

    whole: Whole
    gaps: Sequence[Gap]
    breaks: Mapping[str, Sequence[BreakRow]]
    later: Later | None = None


def verdict(row: Stated, history: tuple[int, Sequence[Instant]], evidence: Evidence) -> tuple[str, str]:
    """Completeness and reason of a balance. `history`: how many rows the venue's own history of the asset has, and
    where it last stood."""
    missing = _missing(row, evidence)
    if missing is not None:
        return GAP, missing
    differing = _differing(row, evidence)
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
    if rows and (proof := _closes(row, rows, instants)):
        return PROVEN, proof
    whole = evidence.whole
    numbered = row.sequence is not None and row.subscription == whole.whole_subscription
    if numbered and whole.unread_version <= whole.numbered_version:
        return PROVEN, (
            f"the venue's sequence has no hole since it stated the whole account (version "
            f"{whole.whole_version})"
        )
    since = max(row.version, whole.numbered_version) if numbered else row.version
    if whole.unread_version > since:
        return UNPROVABLE, (
            f"a frame that could not be read came after it (version {whole.unread_version}): "
            "what it said is not known"
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
        return f"{over} of the venue's own history, to version {row.version}"
    agreed = row.agreed
    if agreed is None and row.total is not None:  # a row that came late may make them agree
        _, instant = stood(instants, row.time_ns, row.time_ns, row.total)
        agreed = None if instant is None else instant.version
    if agreed is None:
        return None
    return f"the balance of version {row.version} is what the venue's own history comes to by version {agreed}: {over}"


def explained(row: BreakRow, gaps: Iterable[Gap]) -> str | None:
    """The gaps between what was expected and what was stated, in which the difference was missed; None where there is
    none."""
    if row.kind != "snapshot":
        return None
    return ", ".join(_named(gap) for gap in gaps if _lies_between(row, gap)) or None


def _lies_between(row: BreakRow, gap: Gap) -> bool:
    """Whether something of the asset may have been missed in the gap: it was last stated before, and in full after."""
    stated = row.stated_version or 0
    if gap.version > stated or gap.kind not in ("blind", "sequence") or not _is_after(row, gap):
        return False
    if (gap.time_ns if gap.kind == "sequence" else parse_time(gap.start)) > row.upto_ns:
        return False  # of after what was stated, which came late
    if gap.kind == "blind" or gap.closed_by is None:
        return True  # an answer that does not name the asset closes a blind interval, and leaves this open
    if gap.closed_how == ARRIVED:
        return gap.closed_by > max(stated, row.expected_version or 0)
    return gap.closed_by >= stated


def _is_after(row: BreakRow, gap: Gap) -> bool:
    """Whether a gap is of after what was expected; also where that came late."""
    expected = row.expected_version or 0
    if (
        gap.kind == "sequence"
        and row.since_sequence is not None
        and row.since_subscription == gap.subscription
    ):
        return int(gap.end) > row.since_sequence
    if gap.version > expected:
        return True
    return gap.kind == "blind" and expected > (row.stated_version or 0) and row.since_ns < parse_time(gap.end)


def _named(gap: Gap) -> str:
    return f"blind interval {_interval(gap)}" if gap.kind == "blind" else f"sequence gap {gap.missing}"


def _interval(gap: Gap) -> str:
    return f"{gap.start}–{gap.end}"  # noqa: RUF001 - from, to


def _missing(row: Stated, evidence: Evidence) -> str | None:
    """The gap that touches a balance, in words."""
    if evidence.later is not None and (hidden := _at_that_moment(row, evidence, evidence.later)) is not None:
        return hidden
    for gap in evidence.gaps:
        still = gap.state == "open"
        if gap.kind == "sequence" and still:
            return (
                f"number {gap.missing} of the venue's sequence {gap.subscription} was never received (found at "
                f"version {gap.version}), and the whole account was not stated since"
            )
        if gap.kind == "chain" and still and _is_of(gap, row.asset):
            return f"{gap.missing} are missing from its history (found at version {gap.version})"
        if gap.kind != "blind":
            continue
        if still:
            return f"nobody listened in the {_named(gap)}, and no full statement came since"
        closed = gap.closed_by or 0
        if max(row.version, row.full, evidence.whole.restated_version) < closed:
            return (
                f"nobody listened in the {_named(gap)}, and the answer of version {closed} does not name it"
            )
    return None


def _at_that_moment(row: Stated, evidence: Evidence, later: Later) -> str | None:
    """The gap that was found after a moment and may be of before it, in words: when what is missing was said, nobody
    knows; only what was heard last before it and first after it."""
    at = later.moment_ns
    for gap in later.gaps:
        if gap.kind == "blind" and parse_time(gap.start) < at < parse_time(gap.end):
            return f"nobody was listening at that moment: {_named(gap)}"
        chained = gap.kind == "chain" and gap.state == "open" and _is_of(gap, row.asset)
        if chained and parse_time(gap.start) <= at < parse_time(gap.end):
            return f"{gap.missing} are missing from its history around that moment (found at version {gap.version})"
        if gap.kind == "sequence" and _is_next(gap, evidence.whole, later):
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


def _is_of(gap: Gap, asset: str) -> bool:
    return gap.missing.startswith(f"rows that change {asset} by ")


def _differing(row: Stated, evidence: Evidence) -> list[BreakRow]:
    """The breaks of a balance that nothing explains, the one of the latest statement last."""
    found = [each for each in evidence.breaks.get(row.asset_id, ()) if explained(each, evidence.gaps) is None]
    return sorted(found, key=lambda each: each.stated_version or 0)


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
    if row.sequence is not None and whole.whole_subscription is None:
        return f"numbered, but the whole account was never stated with numbers before version {row.version}"
    if row.sequence is not None:
        return f"version {row.version} is not of the sequence in which the whole account was last stated"
    if row.version <= whole.whole_version:
        return f"stated with the whole account (version {row.version}), and nothing before to compare it with"
    return f"the venue gives no evidence that nothing was missed before or after version {row.version}"
