"""Whether a full statement of balances says what the statements before it had come to, asset by asset.

Knows balance statements and history rows, and what was known of an asset before them; repairs nothing. A difference is
kept as found, and closed by the event that explains it; what agrees is said to agree.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from ledger import Recorded
from ledger.chain import in_course, links
from ledger.events import Amount, BalanceEventImported, is_answer, known_ns, time_of
from ledger.wire import decimal
from projections.newest import Tail, last_instants
from projections.tables import Database, Table

INSTANTS_MAX: Final = 32
"""The latest instants of a history whose balance is remembered, to compare the account's balance with."""
TAIL_INSTANTS: Final = INSTANTS_MAX + 1
"""The last instants of which all rows make a difference; one more, so that it is known that there were more."""
ROWS_MAX: Final = 256
"""Rows of one instant that are remembered, the last to arrive: where there were more, it is open where they end."""
FULLS_MAX: Final = 16
"""The latest full statements of an asset that are remembered, to compare them with what comes late."""
ANNOUNCED_NS_MAX: Final = 10_000_000_000
"""How long after an answer the venue's own word of what the answer already contained may come."""

Parts: TypeAlias = tuple[Amount | None, Amount | None, Amount | None, Amount | None, Amount | None]
PARTS: Final = ("total", "available", "locked", "staked", "pending")
NOTHING: Final[Parts] = ("0", "0", "0", "0", "0")
"""What a statement says of an asset that it does not name, or removes."""


class BreakRow(Struct):
    """Two statements that should agree and do not. `version` is of the later statement, and `subject` what it is of.

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
    since_subscription: str | None = None
    since_sequence: int | None = None
    """The place of what was expected in a sequence."""


class SubjectRow(Struct):
    """Of one asset: where its history last stood (a JSON list of `Instant`, oldest first; `oldest_ns` is the first
    one's time, 0 where every instant is remembered), how many full statements were kept, and until when a statement may
    explain a break of one."""

    account: str
    asset_id: str
    rows: int = 0
    oldest_ns: int = 0
    instants: str = "[]"
    fulls: int = 0
    upto_ns: int = 0


class FullRow(Struct):
    """One of the last full statements of an asset, and the newest statement before it (`known_*`; `known` is None where
    there is none). `stated` and `known` are JSON of `Parts`; `broken` is the kind of its open breaks, if it has any."""

    account: str
    asset_id: str
    slot: int
    stated: str
    version: int
    time_ns: int
    subscription: str | None
    sequence: int | None
    upto_ns: int
    known: str | None = None
    known_version: int = 0
    known_ns: int = 0
    known_subscription: str | None = None
    known_sequence: int | None = None
    broken: str = ""
    known_received_ns: int = 0
    known_ordinal: int = 0


class Told(Struct, array_like=True, frozen=True):
    """A row of a history, as much of it as tells in which order rows follow."""

    version: int
    position: int
    cause: str
    amount: Amount
    balance: Amount
    pending: Amount | None


class Instant(Struct, array_like=True):
    """The balance of a history after the rows of one instant, and the row that says so. `others`: at which else they
    may have ended, where neither the rows before nor those after tell."""

    time_ns: int
    balance: Amount
    version: int
    others: list[Amount] = []
    rows: list[Told] = []
    more: bool = False
    """There were more rows."""


class Known(Struct, frozen=True):
    """A statement of an asset: by which event, of when, and its place in a sequence; when its frame came, and its place
    in the conversation."""

    parts: Parts
    version: int
    time_ns: int
    subscription: str | None = None
    sequence: int | None = None
    received_ns: int = 0
    ordinal: int = 0


class Judged(Struct, frozen=True):
    """A full statement that was compared, and the version of what it agrees with; None where it differs."""

    version: int
    agreed: int | None


_instants: Final = msgspec.json.Decoder(list[Instant])
_parts: Final = msgspec.json.Decoder(Parts)


class Agreement:
    """Compares, and keeps what does not agree."""

    def __init__(self, database: Database | None) -> None:
        self.breaks: Final = Table(database, "balance_breaks", BreakRow, key=5)
        self._subjects: Final = Table(database, "balance_subjects", SubjectRow, key=2)
        self._fulls: Final = Table(database, "balance_fulls", FullRow, key=3)
        self.tables: Final[tuple[Table[Any], ...]] = (self.breaks, self._subjects, self._fulls)

    def history(self, account: str, asset_id: str) -> tuple[int, Sequence[Instant]]:
        """How many rows the venue's own history of an asset has, and where it last stood."""
        subject = self._subjects.get(account, asset_id)
        return (0, ()) if subject is None else (subject.rows, _instants.decode(subject.instants))

    def stands(
        self, account: str, asset_id: str, time_ns: int, since: int, stated: Amount | None
    ) -> tuple[Told, list[Amount]] | None:
        """The row with which the rows of an instant end, and at which other balances they may have ended, where that is
        open. What version `since` stated amid them (None: no amount) counts: it may be what all of them come to, else
        those that came before it are over. None where the instant is not remembered."""
        _, instants = self.history(account, asset_id)
        at = next((each for each in reversed(instants) if each.time_ns == time_ns), None)
        rows = [] if at is None else [row for row in at.rows if row.version > since]
        if at is None or not rows:
            return None
        end = next(row for row in at.rows if row.version == at.version)
        if len(rows) == len(at.rows):
            return end, at.others
        ((every, _),) = in_course([at.rows])
        follow = all(links(one, other) for one, other in pairwise(every))
        agrees = stated is None or decimal(stated) == decimal(end.balance)
        if follow and not at.others and (agrees or end.version > since):
            return end, []
        ((ordered, ends),) = in_course([rows])
        return _latest(rows, ordered[-1]), _others(
            ordered[-1].balance, at.rows if follow or at.more else ends
        )

    def said(self, recorded: Recorded, asset_id: str, said: Known, *, full: bool) -> int | None:
        """The venue stated an asset: that may explain a difference found before; where the asset has a history, it is
        compared with that: the version of what it agrees with."""
        subject = self._subjects.get(recorded.account, asset_id)
        if subject is None:
            return None
        if said.time_ns <= subject.upto_ns:
            self._told(recorded, subject, said, full)
        return self._checked_by_history(recorded, subject, said) if subject.rows else None

    def full(
        self, recorded: Recorded, asset_id: str, said: Known, known: Known | None, *, answer: bool
    ) -> int | None:
        """A full statement, and the newest statement before it: the version of what it agrees with; None where there is
        nothing to compare, or it differs, which is kept as a break."""
        subject = self._subject(recorded.account, asset_id)
        if subject.rows:
            return None
        row = self._keep(subject, said, _upto_ns(recorded, said, answer=answer))
        _expect(row, known)
        return self._judge(recorded, subject, row, said.parts, known)

    def late(self, recorded: Recorded, asset_id: str, said: Known, *, full: bool) -> Judged | None:
        """A statement came that is older than what is known. If it is the newest before a full statement, that one is
        compared with it."""
        subject = self._subjects.get(recorded.account, asset_id)
        if subject is None or subject.rows:
            return None
        after = [row for row in self._kept(subject) if row.broken != "account" and is_older(said, row)]
        if not after:
            return None
        first = min(after, key=lambda row: (row.time_ns, row.version))
        known = _known(first)
        if known is not None and is_stale(recorded, said, known):
            return None
        if full:
            row = self._keep(subject, said, _upto_ns(recorded, said, answer=is_answer(recorded.event)))
            _expect(row, known)
            self._judge(recorded, subject, row, said.parts, known)
        _expect(first, said)
        stated = _parts.decode(first.stated)
        return Judged(first.version, self._judge(recorded, subject, first, stated, said))

    def _judge(
        self, recorded: Recorded, subject: SubjectRow, full: FullRow, stated: Parts, known: Known | None
    ) -> int | None:
        """Compare a full statement with what was known before it: open, change or close its breaks."""
        if known is None:
            self._fulls.put(full)
            return None
        compared, differing = _compare(known.parts, stated)
        before = {row.part: row for row in self._open(full)}
        for part, expected, found in differing:
            row = before.pop(part, None)
            if row is None:
                row = _break(recorded, "snapshot", full.asset_id, part, full.version, found)
                row.time_ns, row.upto_ns = full.time_ns, full.upto_ns
            row.expected, row.expected_version, row.since_ns = expected, known.version, known.time_ns
            row.since_subscription, row.since_sequence = known.subscription, known.sequence
            self.breaks.put(row)
        for row in before.values():
            close(self.breaks, row, recorded, f"arrived late: version {recorded.version} says the same")
        full.broken = "snapshot" if differing else ""
        self._fulls.put(full)
        if differing and subject.upto_ns < full.upto_ns:
            subject.upto_ns = full.upto_ns
            self._subjects.put(subject)
        return known.version if compared and not differing else None

    def _told(self, recorded: Recorded, subject: SubjectRow, said: Known, full: bool) -> None:
        """What was stated otherwise than expected is said now, of the same time or of just after an answer."""
        for row in self._broken(subject):
            if not row.known_ns <= said.time_ns <= row.upto_ns or row.broken != "snapshot":
                continue
            if full and said.time_ns >= row.time_ns:
                continue  # a full statement that is not older explains nothing: it was told no more
            left = 0
            for found in self._open(row):
                part = said.parts[PARTS.index(found.part)]
                if part is not None and decimal(part) == decimal(found.stated):
                    how = "arrived late" if said.time_ns <= row.time_ns else "said by the venue just after"
                    close(self.breaks, found, recorded, f"{how}: version {recorded.version} says the same")
                else:
                    left += 1
            if not left:
                self._fulls.drop(row)

    def imported(self, recorded: Recorded, event: BalanceEventImported, time_ns: int) -> None:
        """One more row of the history of an asset."""
        subject = self._subject(recorded.account, event.asset_id)
        subject.rows += 1
        self._subjects.put(subject)
        if time_ns < subject.oldest_ns:
            return
        instants = _instants.decode(subject.instants)
        _take(subject, instants, recorded, event, time_ns)
        _follow(instants)
        subject.instants = msgspec.json.encode(instants).decode()
        if time_ns <= subject.upto_ns:
            self._explain(recorded, subject, instants, time_ns)

    def imported_all(self, account: str, asset_id: str, tail: Tail) -> None:
        """More rows of the history of an asset, none of which explains a difference."""
        subject = self._subject(account, asset_id)
        subject.rows += tail.count
        self._subjects.put(subject)
        instants = _instants.decode(subject.instants)
        for recorded in last_instants(tail.events, TAIL_INSTANTS):
            event, time_ns = recorded.event, time_of(recorded.event)
            if isinstance(event, BalanceEventImported) and time_ns >= subject.oldest_ns:
                _take(subject, instants, recorded, event, time_ns)
        _follow(instants)
        subject.instants = msgspec.json.encode(instants).decode()

    def reaches(self, account: str) -> tuple[int, bool]:
        """Until when a statement of an account may explain a difference, and whether it has a history."""
        upto_ns, has_history = 0, False
        for subject in self._subjects.of(account).values():
            if subject is not None:
                upto_ns = max(upto_ns, subject.upto_ns)
                has_history = has_history or subject.rows > 0
        return upto_ns, has_history

    def _explain(
        self, recorded: Recorded, subject: SubjectRow, instants: list[Instant], time_ns: int
    ) -> None:
        """Whether the history, with a row of `time_ns` more, comes to what was stated."""
        for row in self._broken(subject):
            if not row.known_ns <= time_ns <= row.upto_ns:
                continue
            for found in self._open(row):
                _, agreeing = stood(instants, found.time_ns, found.upto_ns, found.stated)
                if found.part == "total" and agreeing is not None:
                    how = f"arrived late: with the row of version {recorded.version} the history comes to it"
                    close(self.breaks, found, recorded, how)
                    self._fulls.drop(row)

    def _checked_by_history(self, recorded: Recorded, subject: SubjectRow, said: Known) -> int | None:
        """The account's own balance against its history. The venue's time of it may be older than what it says, so a
        balance that the history had at some moment until the answer came agrees."""
        stated = said.parts[0]
        if stated is None:
            return None
        upto_ns = max(said.time_ns, recorded.event.source.received_ns)
        at, agreeing = stood(_instants.decode(subject.instants), said.time_ns, upto_ns, stated)
        if agreeing is not None:
            return agreeing.version
        if at is not None:
            row = _break(recorded, "account", subject.asset_id, "total", said.version, stated)
            row.expected, row.expected_version = at.balance, at.version
            row.time_ns, row.upto_ns = said.time_ns, upto_ns
            self.breaks.put(row)
            full = self._keep(subject, said, upto_ns)
            full.broken = "account"
            self._fulls.put(full)
            subject.upto_ns = max(subject.upto_ns, upto_ns)
            self._subjects.put(subject)
        return None

    def _subject(self, account: str, asset_id: str) -> SubjectRow:
        return self._subjects.get(account, asset_id) or SubjectRow(account, asset_id)

    def _keep(self, subject: SubjectRow, said: Known, upto_ns: int) -> FullRow:
        """A full statement, in the place of the one that was kept first."""
        row = FullRow(
            subject.account,
            subject.asset_id,
            subject.fulls % FULLS_MAX,
            msgspec.json.encode(said.parts).decode(),
            said.version,
            said.time_ns,
            said.subscription,
            said.sequence,
            upto_ns,
        )
        subject.fulls += 1
        self._subjects.put(subject)
        return row

    def _kept(self, subject: SubjectRow) -> list[FullRow]:
        slots = range(min(subject.fulls, FULLS_MAX))
        rows = (self._fulls.get(subject.account, subject.asset_id, slot) for slot in slots)
        return [row for row in rows if row is not None]

    def _broken(self, subject: SubjectRow) -> list[FullRow]:
        return [row for row in self._kept(subject) if row.broken]

    def _open(self, full: FullRow) -> list[BreakRow]:
        """The open breaks of a full statement."""
        if not full.broken:
            return []
        keys = ((full.account, full.broken, full.asset_id, full.version, part) for part in PARTS)
        rows = (self.breaks.get(*key) for key in keys)
        return [row for row in rows if row is not None and row.closed_by is None]


def _upto_ns(recorded: Recorded, said: Known, *, answer: bool) -> int:
    """Until when a full statement holds: an answer, from the question until it came; one in pages, to its last page."""
    if answer:
        return max(said.time_ns, known_ns(recorded.event)) + ANNOUNCED_NS_MAX
    return max(said.time_ns, time_of(recorded.event))


def _expect(full: FullRow, known: Known | None) -> None:
    if known is not None:
        full.known = msgspec.json.encode(known.parts).decode()
        full.known_version, full.known_ns = known.version, known.time_ns
        full.known_subscription, full.known_sequence = known.subscription, known.sequence
        full.known_received_ns, full.known_ordinal = known.received_ns, known.ordinal


def _known(full: FullRow) -> Known | None:
    if full.known is None:
        return None
    return Known(
        _parts.decode(full.known),
        full.known_version,
        full.known_ns,
        full.known_subscription,
        full.known_sequence,
        full.known_received_ns,
        full.known_ordinal,
    )


class Placed(Protocol):
    """Something stated at a time, with its place in a sequence where it has one."""

    @property
    def time_ns(self) -> int: ...
    @property
    def subscription(self) -> str | None: ...
    @property
    def sequence(self) -> int | None: ...


def is_older(one: Placed, other: Placed) -> bool:
    """Whether one was stated before the other, not at the same instant: by the venue's sequence where both have one of
    the same subscription, else by time."""
    if one.sequence is not None and other.sequence is not None and one.subscription == other.subscription:
        return one.sequence < other.sequence
    return one.time_ns < other.time_ns


class Arrived(Protocol):
    """Something of a frame: when that came, at which place of the conversation."""

    @property
    def received_ns(self) -> int: ...
    @property
    def ordinal(self) -> int: ...


class Stated(Placed, Arrived, Protocol):
    """Both."""


def is_stale(recorded: Recorded, said: Placed, known: Stated) -> bool:
    """Whether what an event says is over by what is known: it is older; or of the same instant, but of a frame that had
    come before, and was read only now."""
    return is_older(said, known) or (came_before(recorded, known) and not is_older(known, said))


def came_before(recorded: Recorded, known: Arrived) -> bool:
    """Whether an event is of a frame that was read late, and had come before that of something known."""
    source = recorded.event.source
    return source.late_ns is not None and (source.received_ns, source.ordinal) < (
        known.received_ns,
        known.ordinal,
    )


def close(breaks: Table[BreakRow], row: BreakRow, recorded: Recorded, how: str) -> None:
    """The event that resolves a break; what one frame opens and closes was never open."""
    if row.frame == frame_text(recorded):
        breaks.drop(row)
        return
    row.closed_by, row.closed_ns, row.closed_how = recorded.version, known_ns(recorded.event), how
    breaks.put(row)


def opened(recorded: Recorded, kind: str, subject: str, time_ns: int) -> BreakRow:
    """A break that this event finds, of something that has no parts."""
    row = _break(recorded, kind, subject, "", recorded.version, "")
    row.time_ns = row.since_ns = row.upto_ns = time_ns
    return row


def _break(
    recorded: Recorded, kind: str, subject: str, part: str, stated_version: int, stated: Amount
) -> BreakRow:
    return BreakRow(
        recorded.account,
        kind,
        subject,
        stated_version,
        part,
        "",
        stated,
        None,
        stated_version,
        0,
        0,
        0,
        known_ns(recorded.event),
        frame_text(recorded),
    )


def frame_text(recorded: Recorded) -> str:
    return f"{recorded.event.source.session}/{recorded.event.source.ordinal}"


def _compare(known: Parts, said: Parts) -> tuple[bool, list[tuple[str, Amount, Amount]]]:
    """Whether both state anything in common, and the parts in which they differ: the total alone where that does, for
    the others then differ because of it."""
    both = [
        (part, one, other)
        for part, one, other in zip(PARTS, known, said, strict=True)
        if one is not None and other is not None
    ]
    differing = [found for found in both if found[1] != found[2] and decimal(found[1]) != decimal(found[2])]
    return bool(both), differing[:1] if differing and differing[0][0] == "total" else differing


def stood(
    instants: Sequence[Instant], time_ns: int, upto_ns: int, balance: Amount
) -> tuple[Instant | None, Instant | None]:
    """Where a history stood at a time, and the moment from then until `upto_ns` at which it came to a balance, if there
    is one."""
    at = next((each for each in reversed(instants) if each.time_ns <= time_ns), None)
    for each in instants:
        if (each is at or time_ns < each.time_ns <= upto_ns) and decimal(balance) in map(
            decimal, (each.balance, *each.others)
        ):
            return at, each
    return at, None


def _take(
    subject: SubjectRow,
    instants: list[Instant],
    recorded: Recorded,
    event: BalanceEventImported,
    time_ns: int,
) -> None:
    """One more row of the history."""
    at = next((each for each in reversed(instants) if each.time_ns == time_ns), None)
    if at is None:
        at = Instant(time_ns, event.balance, recorded.version)
        insort(instants, at, key=attrgetter("time_ns"))
    insort(at.rows, told_by(recorded, event), key=attrgetter("version"))
    if len(at.rows) > ROWS_MAX:
        del at.rows[0]
        at.more = True
    if len(instants) > INSTANTS_MAX:
        del instants[:-INSTANTS_MAX]
        subject.oldest_ns = instants[0].time_ns


def told_by(recorded: Recorded, event: BalanceEventImported) -> Told:
    return Told(recorded.version, recorded.position, event.cause, event.amount, event.balance, event.pending)


def _follow(instants: Sequence[Instant]) -> None:
    """Where the history stands after each instant: the order in which its rows follow tells, with all that is known
    before and after them."""
    if all(len(each.rows) == 1 for each in instants):
        return
    for at, (ordered, ends) in zip(instants, in_course([each.rows for each in instants]), strict=True):
        last = _latest(at.rows, ordered[-1])
        at.balance, at.version = last.balance, last.version
        at.others = _others(at.balance, at.rows if at.more else ends)


def _latest(rows: Sequence[Told], last: Told) -> Told:
    """Of the rows that say the same as the last one, the latest to arrive."""
    same = [
        row for row in rows if row.pending == last.pending and decimal(row.balance) == decimal(last.balance)
    ]
    return max(same, key=attrgetter("version"))


def _others(balance: Amount, rows: Sequence[Told]) -> list[Amount]:
    """The other balances of the rows, each once."""
    found = {decimal(row.balance): row.balance for row in rows}
    return [found[other] for other in found if other != decimal(balance)]
