"""Whether a full statement of balances says what the statements before it had come to, asset by asset.

Knows balance statements and history rows, and what was known of an asset before them; repairs nothing. A difference is
kept as found, and closed by the event that explains it; what agrees is said to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from ledger import Recorded
from ledger.events import Amount, BalanceEventImported, is_answer, known_ns
from ledger.wire import EXACT, decimal
from projections.tables import Database, Table

INSTANTS_MAX: Final = 32
"""The latest instants of a history whose balance is remembered, to compare the account's balance with."""
ENDS_MAX: Final = 32
"""Ends of one instant's history rows that are remembered; more are only left where many rows are missing."""
ANNOUNCED_NS_MAX: Final = 10_000_000_000
"""How long after an answer the venue's own word of what the answer already contained may come."""

Parts: TypeAlias = tuple[Amount | None, Amount | None, Amount | None, Amount | None, Amount | None]
PARTS: Final = ("total", "available", "locked", "staked", "pending")
NOTHING: Final[Parts] = ("0", "0", "0", "0", "0")
"""What a statement says of an asset that it does not name, or removes."""


class BreakRow(Struct):
    """Two statements that should agree and do not. `version` is the event that found it, and `subject` what it is of.

    `part` is empty where there is none. A statement true between `since_ns` and `upto_ns` may explain it.
    """

    account: str
    kind: str
    subject: str
    version: int
    part: str
    expected: Amount
    stated: Amount
    expected_version: int | None
    stated_version: int | None
    time_ns: int
    since_ns: int
    upto_ns: int
    found_ns: int
    frame: str
    closed_by: int | None = None
    closed_ns: int | None = None
    closed_how: str | None = None


class SubjectRow(Struct):
    """Of one asset: the open breaks (a JSON list of their keys), and where its history last stood (a JSON list of
    `Instant`, oldest first; `oldest_ns` is the first one's time, 0 where every instant is remembered)."""

    account: str
    asset_id: str
    breaks: str = "[]"
    rows: int = 0
    oldest_ns: int = 0
    instants: str = "[]"


class End(Struct, array_like=True):
    """A balance that more history rows of one instant lead to (`net` above zero) or start from (below).

    In a chain of rows all others cancel out: what is left is where it begins and where it ends, in whatever order the
    rows arrived.
    """

    balance: Amount
    net: int
    pending: Amount | None = None


class Instant(Struct, array_like=True):
    """The balance of a history after the rows of one instant, and the row that says so."""

    time_ns: int
    balance: Amount
    version: int
    ends: list[End]


class Known(Struct, frozen=True):
    """What was known of an asset before a statement: as of when, by which event."""

    parts: Parts
    version: int
    time_ns: int


_keys: Final = msgspec.json.Decoder(list[tuple[str, int, str]])
_instants: Final = msgspec.json.Decoder(list[Instant])


class Agreement:
    """Compares, and keeps what does not agree."""

    def __init__(self, database: Database | None) -> None:
        self.breaks: Final = Table(database, "balance_breaks", BreakRow, key=5)
        self._subjects: Final = Table(database, "balance_subjects", SubjectRow, key=2)
        self.tables: Final = (self.breaks, self._subjects)

    def history(self, account: str, asset_id: str) -> tuple[int, Sequence[Instant]]:
        """How many rows the venue's own history of an asset has, and where it last stood."""
        subject = self._subjects.get(account, asset_id)
        return (0, ()) if subject is None else (subject.rows, _instants.decode(subject.instants))

    def stated(
        self,
        recorded: Recorded,
        asset_id: str,
        parts: Parts,
        time_ns: int,
        known: Known | None,
        *,
        full: bool,
    ) -> int | None:
        """The venue stated an asset: that may explain a difference found before. If it is a full statement, or the
        asset has a history, it is compared: the version of what it agrees with; None where there is nothing to compare,
        or it differs, which is kept as a break."""
        subject = self._subjects.get(recorded.account, asset_id)
        if subject is not None:
            if subject.breaks != "[]":
                self._told(recorded, subject, parts, time_ns, full)
            if subject.rows:
                return self._checked_by_history(recorded, subject, parts, time_ns)
        if known is None or not full:
            return None
        compared, differing = _compare(known.parts, parts)
        for part, expected, stated in differing:
            row = _break(recorded, "snapshot", asset_id, part, expected, stated)
            row.expected_version, row.since_ns = known.version, known.time_ns
            row.time_ns, row.upto_ns = time_ns, time_ns
            if is_answer(recorded.event):  # it holds from the question to the answer
                row.upto_ns = max(time_ns, row.found_ns) + ANNOUNCED_NS_MAX
            self._keep(recorded.account, asset_id, row)
        return known.version if compared and not differing else None

    def _told(self, recorded: Recorded, subject: SubjectRow, parts: Parts, time_ns: int, full: bool) -> None:
        for found in self._open(subject):
            if not found.since_ns <= time_ns <= found.upto_ns or (full and time_ns >= found.time_ns):
                continue  # a full statement that is not older explains nothing: it was told no more
            said = parts[PARTS.index(found.part)]
            if found.kind == "snapshot" and said is not None and decimal(said) == decimal(found.stated):
                how = "arrived late" if time_ns <= found.time_ns else "said by the venue just after"
                self._close(subject, found, recorded, f"{how}: version {recorded.version} says the same")

    def imported(self, recorded: Recorded, event: BalanceEventImported, time_ns: int) -> None:
        """One more row of the history of an asset."""
        account, asset_id = recorded.account, event.asset_id
        subject = self._subjects.get(account, asset_id) or SubjectRow(account, asset_id)
        subject.rows += 1
        self._subjects.put(subject)
        if time_ns < subject.oldest_ns:
            return
        instants = _instants.decode(subject.instants)
        at = next((each for each in instants if each.time_ns == time_ns), None)
        if at is None:
            at = Instant(time_ns, event.balance, recorded.version, [])
            instants.append(at)
            instants.sort(key=lambda each: each.time_ns)
        end = last_of_instant(at.ends, event)
        if end.balance == event.balance or end.balance != at.balance:
            at.version = recorded.version
        at.balance = end.balance
        del at.ends[:-ENDS_MAX]
        if len(instants) > INSTANTS_MAX:
            del instants[:-INSTANTS_MAX]
            subject.oldest_ns = instants[0].time_ns
        subject.instants = msgspec.json.encode(instants).decode()
        if subject.breaks != "[]":
            self._explain(recorded, subject, instants, time_ns)

    def _explain(
        self, recorded: Recorded, subject: SubjectRow, instants: list[Instant], time_ns: int
    ) -> None:
        """Whether the history, with a row of `time_ns` more, comes to what was stated."""
        for found in self._open(subject):
            if found.part == "total" and found.since_ns <= time_ns <= found.upto_ns:
                _, agreeing = stood(instants, found.time_ns, found.upto_ns, found.stated)
                if agreeing is not None:
                    how = f"arrived late: with the row of version {recorded.version} the history comes to it"
                    self._close(subject, found, recorded, how)

    def _checked_by_history(
        self, recorded: Recorded, subject: SubjectRow, parts: Parts, time_ns: int
    ) -> int | None:
        """The account's own balance against its history. The venue's time of it may be older than what it says, so a
        balance that the history had at some moment until the answer came agrees."""
        stated = parts[0]
        if stated is None:
            return None
        upto_ns = max(time_ns, recorded.event.source.received_ns)
        at, agreeing = stood(_instants.decode(subject.instants), time_ns, upto_ns, stated)
        if agreeing is not None:
            return agreeing.version
        if at is not None:
            row = _break(recorded, "account", subject.asset_id, "total", at.balance, stated)
            row.expected_version, row.since_ns = at.version, 0
            row.time_ns, row.upto_ns = time_ns, upto_ns
            self._keep(recorded.account, subject.asset_id, row)
        return None

    def _keep(self, account: str, asset_id: str, row: BreakRow) -> None:
        self.breaks.put(row)
        subject = self._subjects.get(account, asset_id) or SubjectRow(account, asset_id)
        keys = [*_keys.decode(subject.breaks), (row.kind, row.version, row.part)]
        subject.breaks = msgspec.json.encode(keys).decode()
        self._subjects.put(subject)

    def _open(self, subject: SubjectRow) -> list[BreakRow]:
        keys = [
            (subject.account, kind, subject.asset_id, version, part)
            for kind, version, part in _keys.decode(subject.breaks)
        ]
        return [row for key in keys if (row := self.breaks.get(*key)) is not None]

    def _close(self, subject: SubjectRow, row: BreakRow, recorded: Recorded, how: str) -> None:
        close(self.breaks, row, recorded, how)
        left = [key for key in _keys.decode(subject.breaks) if key != (row.kind, row.version, row.part)]
        subject.breaks = msgspec.json.encode(left).decode()
        self._subjects.put(subject)


def close(breaks: Table[BreakRow], row: BreakRow, recorded: Recorded, how: str) -> None:
    """The event that resolves a break; what one frame opens and closes was never open."""
    if row.frame == _frame(recorded):
        breaks.drop(row)
        return
    row.closed_by, row.closed_ns, row.closed_how = recorded.version, known_ns(recorded.event), how
    breaks.put(row)


def opened(
    recorded: Recorded, kind: str, subject: str, expected: Amount, stated: Amount, time_ns: int
) -> BreakRow:
    """A break that this event finds, of something that has no parts."""
    row = _break(recorded, kind, subject, "", expected, stated)
    row.time_ns = row.since_ns = row.upto_ns = time_ns
    return row


def _break(
    recorded: Recorded, kind: str, subject: str, part: str, expected: Amount, stated: Amount
) -> BreakRow:
    version, found_ns = recorded.version, known_ns(recorded.event)
    return BreakRow(
        recorded.account,
        kind,
        subject,
        version,
        part,
        expected,
        stated,
        None,
        version,
        0,
        0,
        0,
        found_ns,
        _frame(recorded),
    )


def _frame(recorded: Recorded) -> str:
    return f"{recorded.event.source.session}/{recorded.event.source.ordinal}"


def _compare(known: Parts, said: Parts) -> tuple[bool, list[tuple[str, Amount, Amount]]]:
    """Whether both state anything in common, and the parts in which they differ: the total alone where that does, for
    the others then differ because of it."""
    both = [
        (part, one, other)
        for part, one, other in zip(PARTS, known, said, strict=True)
        if one is not None and other is not None
    ]
    differing = [found for found in both if decimal(found[1]) != decimal(found[2])]
    return bool(both), differing[:1] if differing and differing[0][0] == "total" else differing


def stood(
    instants: Sequence[Instant], time_ns: int, upto_ns: int, balance: Amount
) -> tuple[Instant | None, Instant | None]:
    """Where a history stood at a time, and the moment from then until `upto_ns` at which it came to a balance, if there
    is one."""
    at = next((each for each in reversed(instants) if each.time_ns <= time_ns), None)
    for each in instants:
        if (each is at or time_ns < each.time_ns <= upto_ns) and decimal(each.balance) == decimal(balance):
            return at, each
    return at, None


def last_of_instant(ends: list[End], event: BalanceEventImported) -> End:
    """Take one more row of an instant in, and say at which balance the rows end; the latest where that is not sure."""
    latest = End(event.balance, 1, event.pending)
    amount = decimal(event.amount)
    if event.cause == "withdraw" and amount > 0:
        amount = amount.copy_negate()  # written without its sign (`ledger.chain.links`)
    _count(ends, End(format(EXACT.subtract(decimal(event.balance), amount), "f"), -1))
    _count(ends, latest)
    last = [end for end in ends if end.net > 0]
    return last[-1] if len(last) == 1 else latest


def _count(ends: list[End], step: End) -> None:
    for end in ends:
        if decimal(end.balance) == decimal(step.balance):
            end.net += step.net
            if step.net > 0:
                end.balance, end.pending = step.balance, step.pending
            if end.net == 0:
                ends.remove(end)
            return
    ends.append(step)
