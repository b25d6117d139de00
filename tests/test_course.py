"""The course of an account: at each instant what `Balances.at` folds, in whatever order the events came."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ledger import Ledger, Recorded
from ledger.events import Event, time_of
from projections import course as course_module
from projections.balances_fold import BalancesFold
from projections.course import NOTHING, Course, standing
from tests.scripted import MAIN, delta, feed, imported, says, snapshot


def recorded(*events: Event) -> list[Recorded]:
    with Ledger() as ledger:
        feed(ledger, *map(says, events))
        return [each for each in ledger.replay(MAIN) if each.event.source.channel != "session"]


def by_time(events: Sequence[Recorded]) -> list[Recorded]:
    return sorted(events, key=lambda each: (time_of(each.event), each.version))


def held(fold: BalancesFold) -> dict[str, str]:
    return {row.asset_id: standing(row).amount for row in fold.held(MAIN)}


def as_they_came(events: Sequence[Recorded], until: int) -> dict[str, str]:
    fold = BalancesFold(None)
    for each in events:
        if time_of(each.event) <= until:
            fold.apply(each)
    return held(fold)


CASES: dict[str, list[Event]] = {
    "a page of another sequence stands between": [
        snapshot(5, {}, part="p", more=True, sequence=1),
        snapshot(6, {}, part="p", begins=False, sequence=3),
        delta(4, {"X": "1"}, sequence=2, subscription="p"),
    ],
    "the venue's number beats the time": [
        delta(10, {"X": "1"}, sequence=5, subscription="p"),
        delta(8, {"X": "2"}, sequence=6, subscription="p"),
        delta(9, {"X": "3"}),
    ],
    "a statement in pages is overtaken by one that came later": [
        snapshot(10, {"A": "1"}, part="p", more=True),
        snapshot(5, {"B": "2"}),
        snapshot(10, {"A": "3"}, part="p", begins=False),
        delta(7, {"C": "4"}),
    ],
    "whole statements told backwards": [
        snapshot(tick, {f"A{tick}": "1", "B": str(tick)}) for tick in (9, 6, 3)
    ],
    "a history whose end lies before a statement that names it no more": [
        snapshot(10, {}),
        imported(4, "3", "3", asset="R"),
        imported(10, "-7", "0", asset="R"),
    ],
    "a history and a statement at one instant": [
        imported(10, "5", "5", asset="R"),
        snapshot(10, {}),
        imported(4, "3", "3", asset="R"),
        imported(10, "-5", "0", asset="R"),
    ],
}


@pytest.mark.parametrize("kept_every", [1, 1_000])
@pytest.mark.parametrize("case", sorted(CASES))
def test_at_each_instant_it_is_what_the_events_up_to_it_come_to(
    case: str, kept_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course_module, "KEPT_EVERY_EVENTS", kept_every)
    events = recorded(*CASES[case])
    course = Course(MAIN)
    stood: dict[str, str] = {}
    ordered = by_time(events)
    for index, each in enumerate(ordered):
        for asset_id, (_, now) in course.take(each).items():
            stood[asset_id] = now.amount if now.held else "-"
        until = time_of(each.event)
        if index + 1 == len(ordered) or time_of(ordered[index + 1].event) > until:
            expected = as_they_came(events, until)
            assert (until, expected) == (until, {key: said for key, said in stood.items() if said != "-"})


def test_an_event_told_in_order_is_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    monkeypatch.setattr(Course, "_fold_again", lambda self: again.append(1))
    new = [delta(tick, {"A": str(tick)}, sequence=tick, subscription="n") for tick in range(50, 100)]
    old = [delta(tick, {"A": str(tick)}, sequence=tick, subscription="o") for tick in range(1, 50)]
    course = Course(MAIN)
    for each in by_time(
        recorded(*new, *old, *(imported(tick, "1", "1", asset="R") for tick in range(99, 0, -1)))
    ):
        course.take(each)
    assert [] == again


def test_what_was_never_stated_stands_at_nothing() -> None:
    (first, second) = recorded(delta(1, {"A": "5"}), delta(2, {}, ["A", "B"]))
    course = Course(MAIN)
    assert ["A"] == list(course.take(first))
    changed = course.take(second)
    assert (["A", "B"], NOTHING) == (sorted(changed), changed["B"][0])
    assert ("0", False, "0", False) == (
        changed["A"][1].amount,
        changed["A"][1].held,
        changed["B"][1].amount,
        changed["B"][1].held,
    )


def test_a_venue_without_totals_stands_at_the_part_it_states() -> None:
    (first,) = recorded(delta(1, {"A": "5"}))
    fold = BalancesFold(None)
    fold.apply(first)
    (row,) = fold.held(MAIN)
    row.total, row.available, row.locked = None, "3", "2"
    assert "3" == standing(row).amount
