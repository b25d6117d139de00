"""Events folded many at once make the rows they make one by one, whatever comes in whatever order.

What those rows must be: test_balances, test_breaks, test_completeness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import pytest
from msgspec.structs import astuple, replace

from ledger import Recorded
from ledger.events import (
    Asked,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    Event,
    FillRecorded,
    FrameQuarantined,
    OrderUpdated,
    SessionOpened,
    Source,
)
from projections import balances_fold
from projections.agreement import INSTANTS_MAX
from projections.balances_fold import BalancesFold
from projections.tables import Scratch
from tests.scripted import MAIN, delta, fill, imported, order, snapshot, source

SEEDS = 120
Rows = list[tuple[object, ...]]


class Teller:
    """Events as venues might say them; mostly each newer than the one before."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)
        self._now = 1_000
        self._rising = self._dice.choice((0.5, 0.9, 1))
        self._numbered = self._dice.choice((0.0, 0.3, 0.9))
        self._numbers = {"p": 0, "q": 0}
        self._assets = "ABCDU"[: self._dice.randint(1, 5)]
        self._accounts = ("s:one", "s:two")[: self._dice.randint(1, 2)]
        self._held = 0

    def events(self, count: int) -> Iterator[Recorded]:
        versions = dict.fromkeys(self._accounts, 0)
        for position in range(1, count + 1):
            account = self._dice.choice(self._accounts)
            versions[account] += 1
            yield Recorded(account, versions[account], self._event(position), position)

    def _event(self, position: int) -> Event:
        kind = self._dice.random()
        said = self._source(position)
        if kind < 0.6:
            removed = self._some() if self._dice.random() < 0.05 else ()
            return BalanceDelta(said, "", self._balances(), removed)
        if kind < 0.68:
            part, alone = self._dice.choice(("p", "q", "u")), self._dice.random() < 0.6
            more, begins = (not alone and self._dice.random() < 0.6), (alone or self._dice.random() < 0.6)
            return BalanceSnapshot(said, "", self._balances(), None if alone else part, more, begins)
        if kind < 0.82:
            change = self._dice.choice((0, 1, 2, -1))
            self._held += change
            row = imported(self._when(), str(change), str(self._held), asset=self._dice.choice("UA"))
            memo = self._dice.random() < 0.1
            return replace(row, source=said, memo=memo)
        if kind < 0.88:
            return replace(order("o", self._when()), source=said)
        if kind < 0.94:
            return replace(fill("f", self._when()), source=said)
        return SessionOpened(said, "") if kind < 0.97 else FrameQuarantined(said, "", "no")

    def _source(self, position: int) -> Source:
        said = source(self._when() if self._dice.random() < 0.95 else None)
        if self._dice.random() < self._numbered:
            subscription = self._dice.choice("pq")
            step = self._dice.choice((1, 1, 1, 1, 2, -2))
            self._numbers[subscription] = number = max(0, self._numbers[subscription] + step)
            said = replace(said, sequence=number, subscription=subscription)
        return replace(
            said,
            session="s1",
            ordinal=position // 2,
            received_ns=self._now,
            evidence=b"e",
            asked=Asked("GET", self._now - 5) if self._dice.random() < 0.05 else None,
            late_ns=self._now if self._dice.random() < 0.03 else None,
        )

    def _when(self) -> int:
        if self._dice.random() < self._rising:
            self._now += self._dice.choice((0, 1, 1, 3))
            return self._now
        return self._now - self._dice.randint(0, 40)

    def _some(self) -> tuple[str, ...]:
        return tuple(self._dice.sample(self._assets, self._dice.randint(0, len(self._assets))))

    def _balances(self) -> tuple[Balance, ...]:
        found = [Balance(asset, asset, *self._parts()) for asset in self._some()]
        if found and self._dice.random() < 0.05:
            found.append(replace(found[0], total="7"))
        return tuple(found)

    def _parts(self) -> tuple[str | None, str | None, str | None]:
        one, other = self._dice.choice(("0", "1", "1.0", "2.5")), str(self._dice.randint(0, 2))
        return self._dice.choice(((one, None, None), (None, one, other), (one, other, None)))


def rows(fold: BalancesFold) -> dict[str, Rows]:
    return {table.name: [astuple(row) for row in table.rows()] for table in fold.tables}


def one_by_one(events: Sequence[Recorded]) -> dict[str, Rows]:
    fold = BalancesFold(None)
    for recorded in events:
        fold.apply(recorded)
    return rows(fold)


def in_runs(events: Sequence[Recorded], *sizes: int) -> dict[str, Rows]:
    fold = BalancesFold(None)
    at = 0
    for size in sizes or (len(events),):
        fold.apply_all(events[at : at + size])
        at += size
    fold.apply_all(events[at:])
    fold.settle()
    return rows(fold)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_events_in_runs_make_the_rows_they_make_one_by_one(seed: int) -> None:
    events = list(Teller(seed).events(150))
    expected = one_by_one(events)
    assert expected == in_runs(events)
    dice = Random(seed)
    fold = BalancesFold(None)
    at = 0
    while at < len(events):
        size = dice.randint(1, 30)
        if dice.random() < 0.2:
            fold.apply(events[at])
            size = 1
        else:
            fold.apply_all(events[at : at + size])
        at += size
        if dice.random() < 0.3:
            fold.settle()
    fold.settle()
    assert expected == rows(fold)


@pytest.mark.parametrize("seed", range(0, SEEDS, 10))
def test_rows_that_were_written_and_forgotten_are_gone_on_from(seed: int) -> None:
    events = list(Teller(seed).events(150))
    with Scratch() as scratch:
        fold = BalancesFold(scratch)
        scratch.write([(table.create, [()]) for table in fold.tables])
        for at in range(0, len(events), 20):
            fold.apply_all(events[at : at + 20])
            fold.settle()
            scratch.write([change for table in fold.tables for change in table.changes() if change[1]])
            fold.apply_all(events[at + 20 : at + 30])  # not written: folded again
            fold.forget()
            for table in fold.tables:
                table.forget()
        assert one_by_one(events) == rows(fold)


def numbered(events: Sequence[Event], account: str = MAIN) -> list[Recorded]:
    return [Recorded(account, version, event, version) for version, event in enumerate(events, 1)]


@pytest.mark.parametrize("apart", [1, 2, 5])
@pytest.mark.parametrize("instants", [1, INSTANTS_MAX, INSTANTS_MAX + 1, 5 * INSTANTS_MAX])
def test_of_a_long_history_as_much_is_remembered_in_a_run(instants: int, apart: int) -> None:
    history = numbered(
        [imported(10 + at // apart, "1", str(at)) for at in range(instants * apart)]
        + [snapshot(9, {"USDC": "1"}), delta(10 + instants, {"USDC": "1"})]
    )
    assert one_by_one(history) == in_runs(history)
    assert one_by_one(history[:-2]) == in_runs(history[:-2])


@pytest.mark.parametrize(
    "event",
    [
        delta(8, {"A": "2"}),
        delta(9, {"A": "2"}, sequence=1, subscription="7"),
        delta(9, {}, ["A"]),
        delta(9, {"B": "2"}),
        snapshot(9, {"B": "1"}),
        imported(9, "1", "2", asset="A"),
        replace(delta(9, {"A": "2"}), source=replace(source(9), asked=Asked("GET", 1))),
        replace(delta(9, {"A": "2"}), source=replace(source(9), late_ns=9)),
        FrameQuarantined(source(), "", "no"),
    ],
)
def test_what_is_not_usual_finds_the_rows_of_what_came_before_it(event: Event) -> None:
    usual = delta(9, {"A": "1", "C": "1"}, sequence=2, subscription="7")
    events = numbered([snapshot(5, {"A": "1"}), usual, event, delta(10, {"C": "3"})])
    assert one_by_one(events) == in_runs(events) == in_runs(events, 2, 1)


def test_what_is_older_than_a_whole_statement_of_nothing_is_not_held() -> None:
    events = numbered([snapshot(5, {}), delta(4, {"A": "1"})])
    assert [] == [row for row in in_runs(events)["balances"] if row[9]]
    assert one_by_one(events) == in_runs(events)


def test_the_sequence_goes_before_the_time_also_of_what_was_settled() -> None:
    unusual = FrameQuarantined(source(), "", "no")
    newer = delta(5, {"A": "5"}, sequence=5, subscription="7")
    older = delta(6, {"A": "6"}, sequence=4, subscription="7")
    for events in (numbered([newer, unusual, older]), numbered([newer, older])):
        found = in_runs(events)
        assert ["5"] == [row[3] for row in found["balances"]]
        assert one_by_one(events) == found


def test_a_frame_that_is_read_late_is_unread_no_more() -> None:
    late = delta(9, {"A": "2"})
    late = replace(late, source=replace(late.source, late_ns=9))
    found = in_runs(numbered([delta(1, {"A": "1"}), FrameQuarantined(source(), "", "no"), late]))
    assert [] == found["unread_frames"]
    assert ["2"] == [row[3] for row in found["balances"]]


def test_statements_and_rows_of_a_history_keep_their_order() -> None:
    events = numbered(
        [delta(1, {"A": "1"}), imported(1, "1", "2", asset="A"), delta(2, {"A": "3", "B": "1"})]
    )
    for count in (1, 2, 3):
        assert one_by_one(events[:count]) == in_runs(events[:count])


def test_what_waits_is_no_row_before_it_is_settled() -> None:
    fold = BalancesFold(None)
    fold.apply_all(numbered([delta(1, {"A": "1"})]))
    assert [] == fold.held(MAIN)
    fold.settle()
    assert ["1"] == [row.total for row in fold.held(MAIN)]


def test_events_that_say_nothing_of_balances_leave_no_row() -> None:
    found = in_runs(numbered([order("o", 1), fill("f", 1), imported(1, "1", "1", memo=True)]))
    assert [] == [row for made in found.values() for row in made]


def test_the_teller_says_what_is_usual_and_what_is_not() -> None:
    told = [recorded.event for seed in range(20) for recorded in Teller(seed).events(150)]
    kinds = (
        BalanceDelta,
        BalanceSnapshot,
        BalanceEventImported,
        OrderUpdated,
        FillRecorded,
        FrameQuarantined,
    )
    for kind in kinds:
        assert 50 < sum(isinstance(event, kind) for event in told)
    made = one_by_one(list(Teller(1).events(150)))
    assert all(made[name] for name in ("balances", "balance_subjects", "balance_fulls"))


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("first", [1, 2])
def test_where_rows_of_an_instant_end_does_not_depend_on_the_version_they_begin_with(
    first: int, at_once: bool
) -> None:
    rows = [imported(1_000, *said) for said in (("0", "1"), ("2", "2"), ("2", "0"))]
    told = [Recorded(MAIN, at, row, at) for at, row in enumerate(rows, first)]
    fold = BalancesFold(None)
    if at_once:
        fold.apply_all(told)
        fold.settle()
    else:
        for each in told:
            fold.apply(each)
    (held,) = fold.held(MAIN)
    assert ("0", first + 2, 0) == (held.total, held.version, held.since)


def test_how_far_accounts_are_known_is_remembered_of_so_many_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balances_fold, "FRONTS_MAX", 2)
    fold = BalancesFold(None)
    for number in range(1, 9):
        fold.apply_all([Recorded(f"s:{number}", 1, delta(1_000, {"A": "1"}), number)])
        fold.settle()
        assert len(fold._fronts) <= 2
    assert ["1"] * 8 == [row.total for row in fold.held(None)]
