"""Balances as of a moment, from checkpoints: the same answers as from folding every event from the first on."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from heapq import merge
from itertools import count
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings

from ledger import Ledger, Malformed, Recorded
from ledger.events import Asked, Event, FrameQuarantined, SessionClosed, SessionOpened, known_ns, time_of
from ledger.wire import parse_time, time_text
from projections import Balances, checkpoints, holdings, subscription
from projections.balances_fold import BalancesFold
from projections.checkpoints import Checkpoints
from projections.completeness import Later
from projections.gaps import Gap, Gaps, GapsFold
from projections.holdings import HeldRow, by_account, judged
from tests.judging import taken_in
from tests.planting import VENUES, planted
from tests.scripted import MAIN, VENUE, delta, feed, fill, imported, said, says, snapshot
from tests.tampering import LATE, LATER
from tests.test_properties import T0_MS, Session, arrivals, conversations

SECOND_NS = 1_000_000_000
T = 1_790_000_000 * SECOND_NS
Held = dict[str, str | None]


# What the answers ought to be: every event folded, one by one


class _Refold:
    """Balances as of a moment as they were worked out before there were checkpoints."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sessions = Gaps(ledger)

    def rows(
        self, moment: int | str, account: str | None = None, known_at: str | None = None
    ) -> list[HeldRow]:
        version = moment if isinstance(moment, int) else None
        at_ns = None if isinstance(moment, int) else parse_time(moment)
        known = None if known_at is None else parse_time(known_at)
        fold, gaps, nexts, over = BalancesFold(None), GapsFold(fills=False), dict[str, int](), False
        for recorded in self._events(account):
            event, name = recorded.event, recorded.account
            if version is not None and recorded.version > version and account in (None, name):
                if account is None:
                    continue
                break
            if known is None or known_ns(event) <= known:
                if at_ns is not None and time_of(event) > at_ns:
                    over = True
                    if not isinstance(event, SessionOpened | SessionClosed):
                        nexts[name] = min(time_of(event), nexts.get(name, time_of(event)))
                    if event.source.late_ns is not None:
                        fold.unread.apply(recorded)
                else:
                    (fold.apply if account in (None, name) else fold.unread.apply)(recorded)
                    gaps.apply(recorded)
            if (version, account) == (recorded.version, name):
                break
        later: dict[str, Later] = {}
        if at_ns is not None:
            ever = by_account(self._ever(account, known) if over else gaps.rows(account))
            later = {name: Later(at_ns, ever[name], nexts.get(name, at_ns)) for name in {*ever}}
        return judged(fold, holdings.known(fold, *gaps.with_logins(account), account), account, later=later)

    def _ever(self, account: str | None, known: int | None) -> Sequence[Gap]:
        gaps = GapsFold(fills=False)
        for recorded in self._events(account):
            if known is None or known_ns(recorded.event) <= known:
                gaps.apply(recorded)
        return gaps.rows(account)

    def _events(self, account: str | None) -> Iterator[Recorded]:
        if account is None:
            return self._ledger.replay()
        self._sessions.sessions.subscription.catch_up()
        names = {account}.union(*self._sessions.logins(account).values())
        return merge(*map(self._ledger.replay, sorted(names)), key=attrgetter("position"))


def differences(ledger: Ledger, dice: Random, *, most: int = 30) -> list[tuple[Any, ...]]:
    """The moments of a ledger at which the answers are not those of a refold."""
    events = list(ledger.replay())
    refold, balances = _Refold(ledger), Balances(ledger)
    times = sorted({time_of(each.event) + by for each in events for by in (-1, 0, 1)} - {-1})
    knowns = sorted({known_ns(each.event) + by for each in events for by in (-1, 0)})
    names: list[str | None] = [*sorted({each.account for each in events}), None]
    wrong: list[tuple[Any, ...]] = []
    asked: list[tuple[int | str, str | None, str | None]] = []
    for name in names:
        last = max((each.version for each in events if name in (None, each.account)), default=0)
        versions = list(range(last + 2))
        moments: list[int | str] = [*versions, *map(time_text, times)]
        asked += [(moment, name, None) for moment in moments]
        asked += [(moment, name, time_text(dice.choice(knowns))) for moment in moments if knowns]
    for moment, name, known in asked if len(asked) <= most else dice.sample(asked, most):
        expected = refold.rows(moment, name, known)
        actual = balances.at(moment, name, known_at=known).rows(name)
        if expected != actual:
            wrong.append((moment, name, known, expected, actual))
    return wrong


# Random histories ----------------------------------------------------------------------------------------------------


class _Script:
    """A random history of two logins and the accounts heard through them: late, in pages, numbered with holes, asked
    for, and frames that can be read later only."""

    accounts = (MAIN, "scripted:main/0", "scripted:main/1", "scripted:b")

    def __init__(self, dice: Random, *, history: bool, memos: bool) -> None:
        self.dice = dice
        self.now_ns = T
        self.number = count(1)
        self.history, self.memos = history, memos
        self.kept = dice.sample(self.accounts, dice.randint(1, 4))

    def tick(self) -> int:
        self.now_ns += self.dice.choice((0, 1, 1, 1, 5)) * SECOND_NS
        return self.now_ns

    def time_ns(self) -> int | None:
        """Mostly of now; now and then late, or of no time."""
        chance = self.dice.random()
        if chance < 0.1:
            return None
        return self.now_ns - (self.dice.randint(1, 40) * SECOND_NS if chance < 0.3 else 0)

    def held(self) -> dict[str, str]:
        return {asset: str(self.dice.randint(0, 3)) for asset in "ABC" if self.dice.random() < 0.6}

    def row(self, **more: Any) -> Event:
        return imported(self.now_ns, str(self.dice.randint(1, 3)), str(self.dice.randint(1, 9)), **more)

    def event(self) -> Event:
        dice, held = self.dice, self.held()
        kind = dice.random()
        sub = dice.choice("78")
        if self.history and kind < 0.1:
            return self.row(asset=dice.choice("AB"))
        if self.memos and kind < 0.15:
            return self.row(asset=dice.choice("PPPA"), memo=True)
        if kind < 0.35:
            removed = [asset for asset in "ABC" if asset not in held and dice.random() < 0.3]
            return delta(self.time_ns(), held, removed)
        if kind < 0.55:
            number = next(self.number) + dice.choice((0, 0, 0, 1, -2))
            return delta(self.time_ns(), held, sequence=max(number, 1), subscription=sub)
        if kind < 0.7:
            return snapshot(self.time_ns(), held)
        more, begins = dice.random() < 0.5, dice.random() < 0.6
        sequence = dice.choice((None, max(next(self.number) - dice.randint(0, 3), 1)))
        return snapshot(self.time_ns(), held, part=sub, more=more, begins=begins, sequence=sequence)

    def frame(self) -> bytes:
        statements = [
            (self.dice.choice(self.kept), self.event()) for _ in range(self.dice.choice((1, 1, 1, 2, 3)))
        ]
        chance = self.dice.random()
        if chance < 0.05:
            return b"garbage %d" % next(self.number)
        return LATE + said(*statements) if chance < 0.2 else said(*statements)

    def converse(self, ledger: Ledger, name: str, frames: int) -> None:
        login = self.dice.choice(("main", "main", "b"))
        intake = ledger.intake(VENUE, login, session=name, opened_ns=self.tick())
        for _ in range(frames):
            asked = Asked("GET", self.now_ns) if self.dice.random() < 0.15 else None
            intake.receive_all([(self.frame(), self.tick(), asked)])
            if self.dice.random() < 0.1:
                self.read_late(ledger)
        if self.dice.random() < 0.6:
            intake.close("end", self.tick())
        self.now_ns += self.dice.choice((0, 0, 7)) * SECOND_NS

    def read_late(self, ledger: Ledger) -> None:
        late = [each for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        if late:
            found = self.dice.choice(late)
            ledger.retry([LATER], found.account, found.version, now_ns=self.tick)


def script(ledger: Ledger, seed: int, between: Callable[[], object] = lambda: None) -> None:
    dice = Random(seed)
    told = _Script(dice, history=seed % 4 == 0, memos=seed % 3 == 0)
    for number in range(dice.randint(1, 4)):
        told.converse(ledger, f"s{number}", dice.randint(1, 25))
        between()


@pytest.fixture(params=[1, 3, 7])
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many events between checkpoints."""
    events: int = request.param
    monkeypatch.setattr(checkpoints, "EVENTS_APART", events)
    return events


@pytest.mark.few
@pytest.mark.parametrize("seed", range(15))
def test_as_of_any_moment_of_a_random_history_the_answer_is_that_of_a_refold(seed: int, apart: int) -> None:
    with Ledger() as ledger:
        script(ledger, seed)
        assert [] == differences(ledger, Random(seed))


@pytest.mark.few
@pytest.mark.parametrize("venue", VENUES)
def test_as_of_any_moment_of_a_venues_history_the_answer_is_that_of_a_refold(venue: str, apart: int) -> None:
    for seed in range(apart, 4 + apart):
        with taken_in(planted(venue, seed)) as ledger:
            assert [] == differences(ledger, Random(seed), most=15)


@settings(max_examples=25, deadline=None)
@given(sessions=conversations())
def test_as_of_any_moment_of_any_conversations_the_answer_is_that_of_a_refold(
    sessions: list[Session],
) -> None:
    with pytest.MonkeyPatch.context() as patched, Ledger() as ledger:
        patched.setattr(checkpoints, "EVENTS_APART", 3)
        for venue, name, frames in sessions:
            with ledger.intake(venue, "main", session=name, opened_ns=T0_MS * 10**6) as intake:
                intake.receive_all(arrivals((venue, name, frames)))
        assert [] == differences(ledger, Random(0), most=20)


@pytest.mark.few
@pytest.mark.parametrize("seed", range(8))
def test_a_reader_answers_by_the_checkpoints_there_are_however_old_they_are(
    tmp_path: Path, seed: int, apart: int
) -> None:
    """The writing process made some, or none, and has recorded more since."""
    path, dice = tmp_path / "a.db", Random(seed)
    with Ledger(path) as ledger:

        def between() -> None:
            if dice.random() < 0.5:
                Checkpoints(ledger).subscription.catch_up()

        script(ledger, seed, between)
    with Ledger(path, read_only=True) as reader:
        assert [] == differences(reader, dice, most=25)


@pytest.mark.few(1)
def test_a_reader_knows_what_could_be_read_and_what_could_not_since_the_checkpoints(
    tmp_path: Path, apart: int
) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        unread = [LATE + says(delta(each, {"C": "9"})) for each in (3, 4)]
        frames = [says(snapshot(each, {"A": "1"})) for each in range(1, 8)]
        feed(ledger, *frames, *unread, *(says(delta(each, {"B": "2"})) for each in range(8, 12)))
        Checkpoints(ledger).subscription.catch_up()
        late = [each for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        for each in late[::-1]:
            assert "read" == ledger.retry([LATER], MAIN, each.version, now_ns=lambda: T + SECOND_NS).result
            with Ledger(path, read_only=True) as reader:
                assert [] == differences(reader, Random(0), most=1_000)
        feed(ledger, b"garbage", session="s2", received_ns=T + 2 * SECOND_NS)
        with Ledger(path, read_only=True) as reader:
            assert [] == differences(reader, Random(0), most=1_000)


def test_a_reader_sees_the_checkpoints_that_are_made_while_it_reads(tmp_path: Path, apart: int) -> None:
    with Ledger(tmp_path / "a.db") as ledger, Ledger(tmp_path / "a.db", read_only=True) as reader:
        feed(ledger, *(says(delta(each, {"A": str(each)})) for each in range(1, 30)))
        balances = Balances(reader)
        for _ in range(2):
            found = [balances.at(version, MAIN)[MAIN]["A"].total for version in (2, 15, 30)]
            assert [1, 14, 29] == found
            Checkpoints(ledger).subscription.catch_up()
        Balances(ledger).at(1)
        feed(ledger, says(delta(99, {"A": "99"})), session="s2")
        assert (
            99 == balances.at(33, MAIN)[MAIN]["A"].total == balances.at("2030-01-01", MAIN)[MAIN]["A"].total
        )


class Counted:
    """A ledger that counts the events it gives."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.events = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def replay(self, *args: Any, **more: Any) -> Iterator[Recorded]:
        for recorded in self._ledger.replay(*args, **more):
            self.events += 1
            yield recorded


@pytest.mark.few(1)
@pytest.mark.parametrize("known", [None, 700])
def test_how_many_events_are_folded_does_not_grow_with_the_history(known: int | None) -> None:
    def folded(events: int, *, late: bool) -> int:
        with Ledger() as ledger:
            intake = ledger.intake(VENUE, "main", session="s1", opened_ns=T)
            for each in range(1, events):
                time_ns = T + (each - 90 * (late and each == 900)) * SECOND_NS
                intake.receive(says(delta(time_ns, {"A": str(each)})), T + each * SECOND_NS)
            counted = Counted(ledger)
            balances = Balances(counted)  # type: ignore[arg-type]
            balances.at(1)
            counted.events = 0
            by = None if known is None else time_text(T + known * SECOND_NS)
            found = balances.at(time_text(T + 500 * SECOND_NS), MAIN, known_at=by)
            assert 500 == found[MAIN]["A"].total
            assert 699 == balances.at(700, MAIN)[MAIN]["A"].total
            return counted.events

    apart = checkpoints.EVENTS_APART
    assert folded(1_000, late=False) <= folded(3_000, late=False) + apart <= 5 * apart
    assert folded(3_000, late=True) <= 5 * apart


def test_a_reader_without_checkpoints_folds_from_the_first_event(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *(says(delta(each, {"A": str(each)})) for each in range(1, 200)))
    with Ledger(tmp_path / "a.db", read_only=True) as reader:
        assert [1, 149] == [Balances(reader).at(version, MAIN)[MAIN]["A"].total for version in (2, 150)]


# What was said by then ------------------------------------------------------------------------------------------------


@pytest.fixture
def moments() -> Iterable[Ledger]:
    """Versions 2 to 5; venue times 10 s, 30 s, 20 s (late) and 40 s."""
    with Ledger() as ledger:
        feed(
            ledger,
            says(snapshot(10 * SECOND_NS, {"A": "1", "B": "1"})),
            says(delta(30 * SECOND_NS, {"A": "3"})),
            says(delta(20 * SECOND_NS, {"A": "2", "B": "2"})),
            says(delta(40 * SECOND_NS, {}, ["B"])),
            says(snapshot(1, {"Z": "9"}), account="scripted:other"),
        )
        yield ledger


def as_of(ledger: Ledger, moment: int | str | datetime, account: str | None = MAIN) -> Held:
    return {row.asset_id: row.total for row in Balances(ledger).at(moment, account).rows(MAIN)}


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (0, {}),
        (1, {}),
        (2, {"A": "1", "B": "1"}),
        (3, {"A": "3", "B": "1"}),
        (4, {"A": "3", "B": "2"}),
        (5, {"A": "3"}),
        (99, {"A": "3"}),
    ],
)
def test_as_of_a_version_the_statements_up_to_it_count(moments: Ledger, version: int, expected: Held) -> None:
    assert expected == as_of(moments, version) == as_of(moments, version, None)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("1970-01-01T00:00:09.999999999Z", {}),
        ("1970-01-01T00:00:10Z", {"A": "1", "B": "1"}),
        ("1970-01-01T00:00:19.999999999Z", {"A": "1", "B": "1"}),
        ("1970-01-01T00:00:20Z", {"A": "2", "B": "2"}),
        ("1970-01-01T00:00:30Z", {"A": "3", "B": "2"}),
        ("1970-01-01T01:00:30+01:00", {"A": "3", "B": "2"}),
        ("1970-01-01T00:00:40", {"A": "3"}),
        ("2030-01-01", {"A": "3"}),
        (datetime(1970, 1, 1, 0, 0, 20, tzinfo=UTC), {"A": "2", "B": "2"}),
        (datetime(1970, 1, 1, 0, 0, 19, 999_999), {"A": "1", "B": "1"}),
        (datetime(1970, 1, 1, 2, 0, 20, tzinfo=timezone(timedelta(hours=2))), {"A": "2", "B": "2"}),
    ],
)
def test_as_of_a_time_what_was_true_by_then_counts_however_late_it_came(
    moments: Ledger, moment: str | datetime, expected: Held
) -> None:
    assert expected == as_of(moments, moment) == as_of(moments, moment, None)


def test_as_of_a_moment_every_account_has_its_own_version(moments: Ledger) -> None:
    rows = Balances(moments).at(1).rows()
    assert [("scripted:other", "Z")] == [(row.account, row.asset_id) for row in rows]
    assert [] == Balances(moments).at(1, MAIN).rows()


def test_balances_of_one_account_say_nothing_of_another(moments: Ledger) -> None:
    held = Balances(moments).at(9, MAIN)
    assert [MAIN] == list(held)
    with pytest.raises(ValueError, match="of scripted:main, not of scripted:other"):
        held["scripted:other"]


def test_as_of_a_moment_nothing_is_written(moments: Ledger) -> None:
    Balances(moments).at(3).rows()
    assert [] == moments.select("SELECT * FROM balances")


@pytest.mark.parametrize("moment", ["", "yesterday", "12", "2026-13-01"])
def test_what_is_no_time_is_refused(moments: Ledger, moment: str) -> None:
    with pytest.raises(Malformed, match="not a time"):
        Balances(moments).at(moment)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["rows", "fills"])
def test_how_much_is_remembered_of_a_history_does_not_grow_with_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        subscription, "BATCH_EVENTS_MAX", 1_000
    )  # so much is remembered while checkpoints are made

    def peak(events: int) -> int:
        with Ledger() as ledger:
            said = [
                imported(each, "1", str(each), key=f"k{each}")
                if kind == "rows"
                else fill(f"f{each}", each, key=f"f{each}")
                for each in range(1, events + 1)
            ]
            feed(
                ledger,
                *(says(*said[at : at + 50]) for at in range(0, events, 50)),
                says(snapshot(None, {"A": "1"})),
            )
            Balances(ledger).rows()
            gc.collect()  # Python keeps freed tuples to use them again: those it does not have would count
            tracemalloc.start()
            try:
                assert Balances(ledger).at("2026-09-21T14:13:20Z", MAIN).rows()
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    peak(3_000)  # what is made once
    assert peak(9_000) < 1.3 * peak(3_000)
