"""What may be known of a planted run, and whether the projections say it: an oracle of its own.

Knows what was planted and delivered (`tests.planting`) and the public rows of the projections; reads no event, no
stored byte and nothing of how the projections come to their rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from itertools import pairwise
from random import Random
from typing import Any, Final

from ledger import Ledger
from ledger.wire import parse_time, time_text
from projections import Balances, Breaks, Gaps
from tests.planting import (
    LATENCY_NS,
    MS,
    Arrival,
    Asset,
    Baseline,
    Message,
    Parts,
    Recording,
    Row,
    Run,
    Said,
)

NONE: Final = Decimal(0)


@dataclass(frozen=True)
class Stated:
    """A statement of one asset: when it was true, when it came, what (None: not held)."""

    time_ns: int
    step: int
    parts: Parts | None
    message: Message


@dataclass(frozen=True)
class Whole:
    """A statement of a whole account: of when, which assets it names, the messages it is made of."""

    time_ns: int
    step: int
    named: frozenset[str]
    messages: Any


@dataclass
class Numbers:
    """A numbered conversation: what came, and what became of each number that did not."""

    last: int = 0
    missing: dict[int, str] = field(default_factory=dict)
    """`open`, `closed`, or `either` where a careful reader may hold both."""
    found: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """What a full statement of an asset says otherwise than the statements before it."""

    asset: Asset
    parts: Parts
    """By part: stated less expected."""
    strict: bool
    """Whether these parts are all there is to report; False where one of the two sides does not hold the asset."""
    explained: bool | None
    """Whether a gap explains it; None where a careful reader may hold both."""


@dataclass(frozen=True, eq=False)
class Compared:
    """A full statement of an asset (None: not held), made between two times by the messages `but`."""

    asset: Asset
    parts: Parts | None
    begun_ns: int
    ended_ns: int
    but: Any
    late: bool


@dataclass
class Known:
    """What follows from the frames that came, and from the truth, at the end of a run."""

    numbers: dict[tuple[str, str], Numbers] = field(default_factory=lambda: defaultdict(Numbers))
    heard_by: dict[Asset, set[str]] = field(default_factory=lambda: defaultdict(set))
    statements: dict[Asset, list[Stated]] = field(default_factory=lambda: defaultdict(list))
    wholes: dict[str, list[Whole]] = field(default_factory=lambda: defaultdict(list))
    fulls: dict[Asset, list[Stated]] = field(default_factory=lambda: defaultdict(list))
    """By asset: the full statements that name it, and pages of such."""
    answered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By account: when a full statement came (of a baseline: its first page)."""
    differences: list[Difference] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    early: list[Compared] = field(default_factory=list)
    """Pages of statements the rest of which may never come, and fulls that came late: one may compare these too."""
    vague: set[Asset] = field(default_factory=set)
    """Assets of which frames came late: a difference may have been told before, or may be smaller now."""
    possible: dict[Asset, list[Difference]] = field(default_factory=lambda: defaultdict(list))
    loose: set[Asset] = field(default_factory=set)
    """Assets that moved while a question about them was on its way."""
    executed: dict[str, tuple[int, Decimal]] = field(default_factory=dict)
    fills: dict[str, dict[str, Decimal]] = field(default_factory=lambda: defaultdict(dict))
    deficits: dict[str, list[Decimal]] = field(default_factory=lambda: defaultdict(list))
    rows: set[int] = field(default_factory=set)
    points: set[int] = field(default_factory=set)
    torn: bool = False
    """Whether a history had a hole at the end of some frame."""
    spans: list[tuple[int, int, bool]] = field(default_factory=list)
    late_wholes: list[int] = field(default_factory=list)
    """When the first page came of a baseline that a late page made whole: one need not see that it is."""
    heard_ns: dict[str, int] = field(default_factory=dict)
    """By account: when the first of its frames came."""
    last_ns: int = 0
    """When the last of the frames that were read was sent."""


def chain(rows: list[Row], known: set[int]) -> list[Decimal]:
    """What is missing between rows that are known, wherever it changes the balance."""
    changes = [rows[right - 1].balance - rows[left].balance for left, right in pairwise(sorted(known))]
    return [change for change in changes if change]


def _first(differs: Parts) -> Parts:
    """The one difference that is told of an asset: of the total, stated or made of its parts, else of each part."""
    total = differs.get("total", sum(differs.values(), NONE))
    if total:
        return {"total": total}
    return {part: amount for part, amount in differs.items() if amount}


class Oracle:
    """Goes through a run frame by frame, with the truth at hand."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.known = Known()
        self._step = 0
        self._late = False
        self.random = Random(run.seed)
        self._seen: set[bytes] = set()
        self._answers: set[Message] = set()
        self._pages: dict[tuple[Baseline, str], dict[Message, tuple[int, int]]] = defaultdict(dict)
        self._blind: dict[str, int] = {}
        for recording in run.recordings:
            self._hear(recording)

    def _hear(self, recording: Recording) -> None:
        end_ns = max((end for _, end, _ in self.known.spans), default=recording.opened_ns)
        if recording.opened_ns > end_ns:
            self._blind |= dict.fromkeys(self.known.heard_ns, self._step + 1)
        conversation = recording.session
        last_event_ns = recording.opened_ns
        first = True
        for place, arrival in enumerate(recording.arrivals):
            message = arrival.message
            repeated = bool(recording.late) and place not in recording.late
            if arrival.read and message.names is not None:
                conversation = message.names
            if not (arrival.read and message.kind == "control"):
                fresh = not arrival.read or message.payload not in self._seen or self._counts_again(message)
                last_event_ns = max(last_event_ns, arrival.received_ns) if fresh else last_event_ns
            if arrival.read and not repeated:
                self._read(arrival, f"{conversation}/", late=place in recording.late, first=first)
            first = False
        span = recording.opened_ns, recording.closed_ns or last_event_ns, last_event_ns > recording.opened_ns
        self.known.spans.append(span)

    def _read(self, arrival: Arrival, conversation: str, *, late: bool, first: bool) -> None:
        message, known = arrival.message, self.known
        self._step += 1
        self._late = late
        again = message.payload in self._seen
        self._seen.add(message.payload)
        if message.kind != "control":
            known.last_ns = max(known.last_ns, message.sent_ns)
            for account in {said.account for said in message.said} or {self.run.exchange.account}:
                heard_ns = arrival.received_ns
                known.heard_ns[account] = min(heard_ns, known.heard_ns.get(account, heard_ns))
        if message.number is not None:
            reqid, number = message.number
            conversation += str(reqid)
            # What was lost before a frame that is older than a statement of the whole account is in that.
            lost = "closed" if self._is_outdated(message) else "open"
            self._count(known.numbers[self.run.exchange.account, conversation], number, lost)
        repeated = message.asked is not None and message in self._answers
        counts = (not again or self._counts_again(message)) and not repeated
        self._answers.add(message)
        if counts:
            whole = first and self.run.venue == "bitopro"
            outdated = not whole and self._is_outdated(message)
            for said in message.said:
                self._state(arrival, said, conversation, whole=whole, late=late or outdated)
            late = late or outdated
        if message.baseline is not None and self.run.venue == "kraken_prime" and not again:
            self._page(arrival, message.baseline, conversation, late=late)
        if message.order is not None:
            said_of = message.order
            if said_of.updated_ns >= known.executed.get(said_of.order, (0, NONE))[0]:
                known.executed[said_of.order] = (said_of.updated_ns, said_of.executed)
            known.fills[said_of.order].update(said_of.fills)
            known.deficits[said_of.order].append(self.deficit(said_of.order))
        if late:
            self._again()
        known.rows |= set(message.rows)
        known.points |= set() if message.points is None else {message.points}
        known.torn = known.torn or bool(
            chain(self.run.exchange.rows, known.rows) or chain(self.run.exchange.points, known.points)
        )

    def _is_outdated(self, message: Message) -> bool:
        """Whether a frame is older than a statement of the whole account that is known."""
        return any(
            message.sent_ns < whole.time_ns
            for said in message.said
            for whole in self.known.wholes[said.account]
        )

    def _counts_again(self, message: Message) -> bool:
        """Whether the same bytes are said anew: another answer is, and a push without time, id or number."""
        if self.run.venue == "deltadefi" and message.said:
            return True
        return message.asked is not None and message not in self._answers

    def deficit(self, order: str) -> Decimal:
        """How much of an order's executed quantity no execution accounts for."""
        return self.known.executed[order][1] - sum(self.known.fills[order].values(), NONE)

    def _count(self, numbers: Numbers, number: int, lost: str) -> None:
        for missing in range(numbers.last + 1, number):
            numbers.missing[missing] = lost
            numbers.found[missing] = self._step
        numbers.last = max(numbers.last, number)
        if number in numbers.missing:
            numbers.missing[number] = "closed"

    # Balances

    def _state(self, arrival: Arrival, said: Said, conversation: str, *, whole: bool, late: bool) -> None:
        known = self.known
        time_ns = arrival.received_ns if said.time_ns is None else said.time_ns
        for asset_id, parts in [*said.balances.items(), *((each, None) for each in said.removed)]:
            asset = said.account, asset_id
            stated = Stated(time_ns, self._step, parts, arrival.message)
            if late:
                known.vague.add(asset)
                if asset not in known.statements:
                    known.compared += [
                        Compared(asset, None, each.time_ns, each.time_ns, each.messages, late=False)
                        for each in known.wholes[said.account]
                        if asset_id not in each.named and each.time_ns > time_ns
                    ]
            if whole or said.answer:
                assert parts is not None
                until_ns = arrival.received_ns if said.answer else time_ns
                self._compare(asset, parts, time_ns, until_ns, arrival.message.baseline_pages)
                known.fulls[asset].append(stated)
            known.statements[asset].append(stated)
            known.heard_by[asset].add(conversation)
        if whole:
            self._absent(said.account, set(said.balances), time_ns, time_ns, arrival.message.baseline_pages)
            known.vague |= {asset for asset in known.statements if late and asset[0] == said.account}
        if whole or said.answer:
            known.answered[said.account].append(arrival.received_ns)
            self._blind.pop(said.account, None)

    def _page(self, arrival: Arrival, baseline: Baseline, conversation: str, *, late: bool) -> None:
        """Where the baseline is whole now, compare it; what was missing before it matters no more."""
        account, known = self.run.exchange.account, self.known
        pages = self._pages[baseline, conversation]
        pages[arrival.message] = (self._step, arrival.received_ns)
        for asset_id, parts in arrival.message.said[
            0
        ].balances.items():  # of a page the rest of which never came
            asset, sent_ns = (account, asset_id), arrival.message.sent_ns
            compared = Compared(asset, parts, sent_ns, sent_ns, baseline.pages, late)
            known.early.append(compared)
            early = self._difference(compared)
            known.possible[asset] += [] if early is None else [early]
            known.fulls[asset].append(Stated(sent_ns, self._step, parts, arrival.message))
        if len(pages) < len(baseline.pages):
            return
        named: set[str] = set()
        for page in baseline.pages:
            for asset_id, parts in page.said[0].balances.items():
                named.add(asset_id)
                self._compare((account, asset_id), parts, page.sent_ns, page.sent_ns, baseline.pages)
        begun_ns, ended_ns = baseline.pages[0].sent_ns, baseline.pages[-1].sent_ns
        self._absent(account, named, begun_ns, ended_ns, baseline.pages)
        first_step = min(step for step, _ in pages.values())
        if late:
            known.vague |= {asset for asset in known.statements if asset[0] == account}
        for (_, name), numbers in known.numbers.items():
            for number, state in numbers.missing.items():
                if state == "closed" or (name == conversation and number > 1):
                    continue  # within the baseline itself: what its pages say may be older
                certain = numbers.found[number] < first_step and not late
                numbers.missing[number] = "closed" if certain else "either"
        (self.known.late_wholes if late else known.answered[account]).append(
            min(received_ns for _, received_ns in pages.values())
        )
        self._blind.pop(account, None)

    def latest(self, asset: Asset, upto_ns: int, but: Any = ()) -> Stated | None:
        """The newest statement of an asset up to a time: one that names it, or a whole that does not."""
        told = list(self.known.statements[asset])
        told += [
            Stated(whole.time_ns, whole.step, None, whole.messages[0])
            for whole in self.known.wholes[asset[0]]
            if asset[1] not in whole.named
        ]
        upto = (each for each in told if each.time_ns <= upto_ns and each.message not in but)
        return max(upto, key=lambda each: (each.time_ns, each.step), default=None)

    def _compare(self, asset: Asset, parts: Parts | None, begun_ns: int, ended_ns: int, but: Any) -> None:
        """A full statement is made of an asset: keep how it differs."""
        compared = Compared(asset, parts, begun_ns, ended_ns, but, self._late)
        self.known.compared.append(compared)
        difference = self._difference(compared)
        if difference is not None:
            self.known.differences.append(difference)

    def _difference(self, compared: Compared) -> Difference | None:
        """How a full statement differs from what the other statements had come to, as far as they are known now."""
        asset, stated = compared.asset, compared.parts
        then = self.latest(asset, compared.begun_ns, compared.but)
        if stated is None and then != self.latest(asset, compared.ended_ns, compared.but):
            return None  # not held: a change while the pages came is no difference
        if then is None:
            return None  # nothing was said that could agree
        was = {} if then.parts is None else then.parts
        now = {} if stated is None else stated
        differs = _first({part: now.get(part, NONE) - was.get(part, NONE) for part in (*was, *now)})
        meanwhile = [
            each.parts
            for each in self.known.statements[asset]
            if compared.begun_ns < each.time_ns <= compared.ended_ns and each.message not in compared.but
        ]
        if stated is not None and meanwhile and differs:
            if stated not in meanwhile:
                self.known.loose.add(asset)
            return None
        if not differs:
            return None
        return Difference(asset, differs, bool(was and now), self._explained(asset[0], then.step))

    def _explained(self, account: str, since: int) -> bool | None:
        """Whether a gap of the account is open, found after a step; None: only older ones are."""
        found = [
            numbers.found[number]
            for (name, _), numbers in self.known.numbers.items()
            for number, state in numbers.missing.items()
            if name == account and state != "closed"
        ]
        found += [self._blind[account]] if account in self._blind else []
        return None if found and max(found) <= since else bool(found)

    def _absent(self, account: str, named: set[str], begun_ns: int, ended_ns: int, but: Any) -> None:
        """A statement of the whole account says of what it does not name that it is not held."""
        for asset in [each for each in self.known.statements if each[0] == account and each[1] not in named]:
            self._compare(asset, None, begun_ns, ended_ns, but)
        self.known.wholes[account].append(Whole(begun_ns, self._step, frozenset(named), but))

    def _again(self) -> None:
        """What came late may make statements agree, or differ, that were compared before."""
        for compared in self.known.compared:
            if compared.asset in self.known.vague:
                difference = self._difference(compared)
                if difference is not None:
                    self.known.possible[compared.asset].append(difference)

    def left(self, asset: Asset, *, surely: bool = True) -> list[Difference]:
        """The differences that are left, with all that came in its place; or those that may be."""
        known = self.known
        of = [each for each in (*known.compared, *(() if surely else known.early)) if each.asset == asset]
        found = (self._difference(each) for each in of if not (surely and each.late))
        return [each for each in found if each is not None]

    # Blind intervals

    def blind(self, *, silent: bool = True) -> dict[str, list[tuple[int, int, str]]]:
        """By account: between which sessions nobody listened, and whether the whole was stated since. `silent`: also a
        session in which nothing came was listened to."""
        blind: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        if self.run.venue == "pacifica":
            return blind
        spans = sorted(
            (opened_ns, end_ns) for opened_ns, end_ns, heard in self.known.spans if heard or silent
        )
        until_ns = spans[0][1] if spans else 0
        for opened_ns, end_ns in spans[1:]:
            if opened_ns > until_ns:
                for account, first_ns in self.known.heard_ns.items():
                    if first_ns <= until_ns:
                        closed = any(each >= opened_ns for each in self.known.answered[account])
                        either = any(each >= opened_ns for each in self.known.late_wholes)
                        state = "closed" if closed else "either" if either else "open"
                        blind[account].append((until_ns, opened_ns, state))
            until_ns = max(until_ns, end_ns)
        return blind

    def moments(self) -> list[int]:
        """Times to ask about: when a frame was true that came, or of which is known that it did not; a little later,
        where history rows are missing; and times at which nobody listened."""
        times: set[int] = set()
        if self.run.venue == "pacifica":
            known = [self.run.exchange.rows[place].at_ms * MS for place in sorted(self.known.rows)]
            times |= {*known, *(each + MS for each in known[:-1])}
        else:
            times |= {each.sent_ns for each in self.run.sent if each.said and self._is_numbered_or_read(each)}
        some = self.random.sample(sorted(times), min(len(times), 2))
        return [*some, *((begun_ns + end_ns) // 2 for begun_ns, end_ns in sorted(self.blind_spans())[:1])]

    def _is_numbered_or_read(self, message: Message) -> bool:
        if message.payload in self._seen:
            return True
        reqid, number = message.number or (0, 0)
        return any(
            number in numbers.missing and name.endswith(f"/{reqid}")
            for (_, name), numbers in self.known.numbers.items()
        )

    def blind_spans(self) -> set[tuple[int, int]]:
        """The times in which nobody listened, whoever counts."""
        spans = [
            {each[:2] for told in self.blind(silent=silent).values() for each in told}
            for silent in (True, False)
        ]
        return spans[0] & spans[1]


# The verdict ---------------------------------------------------------------------------------------------------------


def taken_in(run: Run) -> Ledger:
    """A ledger that was given all the recordings of a run, in their order."""
    ledger = Ledger()
    venue: Any = import_module(f"ledger.venues.{run.venue}")
    for recording in run.recordings:
        intake = ledger.intake(venue, run.label, session=recording.session, opened_ns=recording.opened_ns)
        intake.receive_all(
            (each.payload, each.received_ns, each.message.asked) for each in recording.arrivals
        )
        if recording.closed_ns is not None:
            intake.close("end", recording.closed_ns)
    return ledger


def disagreements(run: Run) -> list[str]:
    """Every point in which gaps, breaks and completeness are not what follows from the truth."""
    oracle = Oracle(run)
    with taken_in(run) as ledger:
        gaps, breaks, balances = Gaps(ledger).rows(), Breaks(ledger).rows(), Balances(ledger)
        rows = balances.rows()
        then = {moment_ns: balances.at(time_text(moment_ns)).rows() for moment_ns in oracle.moments()}
    return [
        *_sequences(oracle, gaps),
        *_blinds(oracle, gaps),
        *_chains(oracle, gaps),
        *_fills(oracle, gaps, breaks),
        *_snapshots(oracle, breaks),
        *_completeness(oracle, gaps, breaks, rows),
        *(each for moment_ns, rows in then.items() for each in _as_of(oracle, moment_ns, rows)),
    ]


def _sequences(oracle: Oracle, gaps: list[Any]) -> list[str]:
    wrong: list[str] = []
    told: dict[tuple[str, str], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for gap in gaps:
        if gap.kind == "sequence":
            for number in range(int(gap.start), int(gap.end) + 1):
                told[gap.account, gap.subscription][number].add(gap.state)
    for place in sorted({*told, *oracle.known.numbers}):
        numbers = oracle.known.numbers[place].missing if place in oracle.known.numbers else {}
        for number in sorted({*numbers, *told[place]}):
            expected, actual = numbers.get(number), told[place].get(number, set())
            right = {expected} == actual or (expected == "either" and actual in ({"open"}, {"closed"}))
            if not right:
                wrong.append(
                    f"number {number} of {place[1]}: expected {expected}, told {sorted(actual) or None}"
                )
    return wrong


def _blinds(oracle: Oracle, gaps: list[Any]) -> list[str]:
    told: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for gap in gaps:
        if gap.kind == "blind":
            told[gap.account].append((parse_time(gap.start), parse_time(gap.end), gap.state))
    expected, without_silent = oracle.blind(), oracle.blind(silent=False)
    return [
        f"blind intervals of {account}: expected {sorted(expected[account])}, told {sorted(told[account])}"
        for account in sorted({*expected, *told})
        if not any(_same(each[account], told[account]) for each in (expected, without_silent))
    ]


def _same(expected: list[tuple[int, int, str]], told: list[tuple[int, int, str]]) -> bool:
    pairs = zip(sorted(expected), sorted(told), strict=False)
    return len(expected) == len(told) and all(
        each[:2] == other[:2] and each[2] in (other[2], "either") for each, other in pairs
    )


def _chains(oracle: Oracle, gaps: list[Any]) -> list[str]:
    told = [gap for gap in gaps if gap.kind == "chain"]
    is_open = [gap for gap in told if gap.state == "open"]
    exchange, known = oracle.run.exchange, oracle.known
    expected: list[Decimal] = []
    wrong: list[str] = []
    for asset, rows, have in (
        ("USDC", exchange.rows, known.rows),
        ("dlta_points", exchange.points, known.points),
    ):
        missing = chain(rows, have)
        expected += missing
        actual = [gap.missing for gap in is_open if asset.upper() in gap.missing.split()]
        amounts = [Decimal(text.rsplit(" ", 1)[1]) for text in actual]
        instants = Counter(row.at_ms for row in rows)
        have_at = Counter(rows[place].at_ms for place in have)
        split = any(
            have_at[at] != instants[at] for at in have_at
        )  # in what order such rows come, nobody can tell
        if Counter(amounts) != Counter(missing) and not (split and sum(amounts) == sum(missing)):
            wrong.append(f"chain of {asset}: expected {sorted(map(str, missing))} open, told {actual}")
    if len(told) > len(is_open) and not known.torn:
        wrong.append("chain gaps told as closed, where no frame ever left one")
    if known.torn and not told:
        wrong.append("no chain gap is told, not as closed either, where frames left one for a while")
    return wrong


def _fills(oracle: Oracle, gaps: list[Any], breaks: list[Any]) -> list[str]:
    wrong: list[str] = []
    told: dict[str, list[Any]] = defaultdict(list)
    for each in breaks:
        if each.kind == "fills":
            told[each.subject].append(each)
    known = oracle.known
    for order in sorted({*known.executed, *told}):
        seen = [each for each in known.deficits[order] if each]
        state = None if not seen else "open" if oracle.deficit(order) else "closed"
        if state != _state(told[order]):
            wrong.append(f"fills breaks of {order}: expected {state}, told {told[order]}")
        wrong += [
            f"fills break of {order}: expected a difference of {seen[-1]}, told {found.difference}"
            for found in told[order]
            if found.state == "open" and state == "open" and abs(Decimal(found.difference)) != seen[-1]
        ]
        in_gaps = [gap for gap in gaps if gap.kind == "fills" and _names(gap, order)]
        if _state(in_gaps) != state:
            wrong.append(f"fills gaps of {order}: expected {state}, told {in_gaps}")
    wrong_quotes = {
        each for fills in known.fills.values() for each in fills
    } & oracle.run.exchange.wrong_quotes
    quotes = sorted(each.subject for each in breaks if each.kind == "quote")
    if sorted(wrong_quotes) != quotes:
        wrong.append(f"quote breaks: expected {sorted(wrong_quotes)}, told {quotes}")
    return wrong


def _state(found: list[Any]) -> str | None:
    return "open" if any(each.state == "open" for each in found) else "closed" if found else None


def _names(gap: Any, order: str) -> bool:
    texts = (gap.missing, gap.suspect, gap.start, gap.end)
    return any(order in text.replace(",", " ").replace(":", " ").split() for text in texts)


def _snapshots(oracle: Oracle, breaks: list[Any]) -> list[str]:
    wrong: list[str] = []
    told: dict[Asset, list[Any]] = defaultdict(list)
    for each in breaks:
        if each.kind == "snapshot":
            told[each.account, each.subject].append(each)
        elif each.kind not in ("fills", "quote"):
            wrong.append(f"a break of kind {each.kind}")
    expected: dict[Asset, list[Difference]] = defaultdict(list)
    for difference in oracle.known.differences:
        expected[difference.asset].append(difference)
    for asset in sorted({*told, *oracle.known.vague} - oracle.known.loose):
        if asset not in oracle.known.vague:
            continue
        possible = [*expected[asset], *oracle.known.possible[asset]]
        values = {(part, value) for each in possible for part, value in each.parts.items()}
        left = oracle.left(asset)
        wrong += [
            f"break that never was: {each}"
            for each in told[asset]
            if (each.part, Decimal(each.difference)) not in values
        ]
        if left and not told[asset]:
            wrong.append(f"breaks of {asset}: expected {left}, told none")
        may_be_left = left or oracle.left(asset, surely=False)
        if not may_be_left and any(each.state == "open" for each in told[asset]):
            wrong.append(f"breaks of {asset}: what came late resolves them, told open")
    for asset in sorted({*expected, *told} - oracle.known.vague - oracle.known.loose):
        parts = Counter((part, value) for each in expected[asset] for part, value in each.parts.items())
        needed = parts.copy()
        for each in expected[asset]:
            if not each.strict:  # told of one part is told
                needed -= Counter([(part, value) for part, value in each.parts.items()][1:])
        actual = Counter((each.part, Decimal(each.difference)) for each in told[asset])
        allowed = parts | Counter(
            (part, value) for each in oracle.known.possible[asset] for part, value in each.parts.items()
        )
        if not needed <= actual <= allowed and not (
            actual <= allowed and _one_of_each(expected[asset], actual)
        ):
            wrong.append(f"breaks of {asset}: expected {dict(parts)}, told {dict(actual)}")
        for each in told[asset]:
            same = {
                it.explained for it in expected[asset] if it.parts.get(each.part) == Decimal(each.difference)
            }
            if same and None not in same and (each.explained_by is not None) not in same:
                wrong.append(f"break of {asset}: expected explained {same}, told {each.explained_by!r}")
    return wrong


def _one_of_each(expected: list[Difference], actual: Counter[tuple[str, Decimal]]) -> bool:
    return all(
        (all if each.strict else any)(actual[part, value] for part, value in each.parts.items())
        for each in expected
    )


def _completeness(oracle: Oracle, gaps: list[Any], breaks: list[Any], rows: list[Any]) -> list[str]:
    wrong: list[str] = []
    truth = oracle.run.exchange.at(oracle.known.last_ns)
    if oracle.run.venue == "pacifica" and oracle.known.rows:
        truth = {
            asset: {"total": oracle.run.exchange.rows[max(oracle.known.rows)].balance} for asset in truth
        }
    touched = {
        account
        for account in {each.account for each in (*gaps, *breaks)}
        if any(each.account == account and each.state == "open" for each in (*gaps, *breaks))
    }
    if oracle.run.venue != "pacifica":
        newest = {
            asset: oracle.latest(asset, oracle.run.exchange.now_ns + LATENCY_NS)
            for asset in oracle.known.statements
        }
        held = {asset for asset, each in newest.items() if each is not None and each.parts is not None}
        if held != (told := {(row.account, row.asset_id) for row in rows}):
            wrong.append(f"held: told besides {sorted(told - held)}, not told {sorted(held - told)}")
    for row in rows:
        asset = row.account, row.asset_id
        stated = {part: Decimal(getattr(row, part)) for part in oracle.run.exchange.parts}
        said = f"{row.account} {row.asset_id}: {row.completeness} ({row.reason})"
        if not row.reason:
            wrong.append(f"{said}: no reason")
        if row.completeness == "proven" and stated != truth.get(asset):
            wrong.append(f"{said}: it is {stated}, in truth {truth.get(asset)}")
        if row.completeness == "consistent":
            fulls = oracle.known.fulls[asset]
            last = max(fulls, key=lambda each: (each.time_ns, each.step), default=None)
            then = None if last is None else oracle.run.exchange.at(last.message.sent_ns).get(asset)
            if stated != then:
                wrong.append(f"{said}: it is {stated}, in truth {then} when all was stated last")
        if row.completeness not in ("proven", "consistent", "unprovable", "gap"):
            wrong.append(f"{said}: no such word")
        if row.completeness == "gap" and row.account not in touched:
            wrong.append(f"{said}: but no gap and no break of the account is open")
        if (reason := _must_be_gap(oracle, asset)) and row.completeness != "gap":
            wrong.append(f"{said}: {reason}")
    return wrong


def _as_of(oracle: Oracle, moment_ns: int, rows: list[Any]) -> list[str]:
    """What must not be said of a past moment: that a balance is proven which was another, or that somebody listened."""
    wrong: list[str] = []
    truth = oracle.run.exchange.at(moment_ns)
    blind = {
        account
        for account, told in oracle.blind().items()
        if any(
            begun_ns < moment_ns < end_ns and (begun_ns, end_ns) in oracle.blind_spans()
            for begun_ns, end_ns, _ in told
        )
    }
    for row in rows:
        asset = row.account, row.asset_id
        stated = {part: Decimal(getattr(row, part)) for part in oracle.run.exchange.parts}
        said = f"{row.account} {row.asset_id} as of {time_text(moment_ns)}: {row.completeness} ({row.reason})"
        if row.completeness == "proven" and stated != truth.get(asset):
            wrong.append(f"{said}: it is {stated}, in truth {truth.get(asset)}")
        if row.completeness == "consistent" and asset not in oracle.known.loose:
            fulls = [each for each in oracle.known.fulls[asset] if each.time_ns <= moment_ns]
            last = max(fulls, key=lambda each: (each.time_ns, each.step), default=None)
            if last is None or stated != last.parts:
                wrong.append(f"{said}: it is {stated}, {last} when all was stated last")
        if row.account in blind and row.completeness != "gap":
            wrong.append(f"{said}: nobody listened")
    return wrong


def _must_be_gap(oracle: Oracle, asset: Asset) -> str:
    known = oracle.known
    for (account, name), numbers in known.numbers.items():
        if account == asset[0] and name in known.heard_by[asset] and "open" in numbers.missing.values():
            return f"numbers of {name} are missing"
    if any(state == "open" for _, _, state in oracle.blind()[asset[0]]):
        return "a blind interval is not over"
    if asset[1] == "USDC" and chain(oracle.run.exchange.rows, known.rows):
        return "rows are missing"
    return ""


def false_alarms(run: Run) -> list[str]:
    """What is told of a run of which nothing was lost, besides what is so; and completeness that is not the best."""
    oracle = Oracle(run)
    with taken_in(run) as ledger:
        gaps, breaks, rows = Gaps(ledger).rows(), Breaks(ledger).rows(), Balances(ledger).rows()
    # A walk goes from the newest page back: until its last page is there, there is a hole, and it closes.
    wrong = [f"{each}" for each in gaps if not (each.kind == "chain" and each.state == "closed")]
    wrong += [f"{each}" for each in breaks]
    told = {(row.account, row.asset_id): row for row in rows}
    if run.exchange.at(oracle.known.last_ns).keys() != told.keys():
        wrong.append(f"held: {sorted(told)}, in truth {sorted(run.exchange.held)}")
    for asset, row in told.items():
        expected = _best(oracle, asset)
        if row.completeness not in expected:
            wrong.append(
                f"{asset}: {row.completeness} ({row.reason}), expected {' or '.join(sorted(expected))}"
            )
    return wrong


def _best(oracle: Oracle, asset: Asset) -> set[str]:
    """How complete a balance is of which nothing was lost."""
    if oracle.run.venue in ("kraken_prime", "pacifica"):
        return {"proven"}
    said = oracle.known.statements[asset]
    full = max(oracle.known.fulls[asset], key=lambda each: (each.time_ns, each.step), default=None)
    if full is None:
        return {"unprovable"}
    if any(each.time_ns > full.time_ns and each.step < full.step for each in said):
        return {"unprovable", "consistent"}  # said while the question was on its way
    since = any(each.time_ns > full.time_ns for each in said)
    before = any(each.step < full.step for each in said)
    return {"consistent"} if before and not since else {"unprovable"}


def show(run: Run) -> None:
    """Print a run, frame by frame, what is told of it, and what is wrong with that."""
    for recording in run.recordings:
        closed = "a crash" if recording.closed_ns is None else time_text(recording.closed_ns)
        print(f"{recording.session}: {time_text(recording.opened_ns)} to {closed}")
        for place, each in enumerate(recording.arrivals):
            late = " late" if place in recording.late else ""
            asked = f" asked {time_text(each.message.asked.at_ns)}" if each.message.asked else ""
            print(f"  {place + 1:3}{late}{asked} {time_text(each.received_ns)} {each.payload.decode()}")
    print("planted:", *run.plants, sep="\n  ")
    with taken_in(run) as ledger:
        for row in (*Gaps(ledger).rows(), *Breaks(ledger).rows(), *Balances(ledger).rows()):
            print(row)
    print("wrong:", *disagreements(run), *(() if run.plants else false_alarms(run)), sep="\n  ")
