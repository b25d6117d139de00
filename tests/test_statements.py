"""Full statements: one snapshot, every page of one however they come, or an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.events import Asked, BalanceSnapshot, Event
from projections.statements import RANGES_MAX, Statements
from tests.scripted import VENUE, delta, says, snapshot


def full(*events: Event, asked: Asked | None = None) -> list[tuple[int, int, bool]]:
    """The version at which a statement is full, when it began, and whether it is an answer; a frame for each event."""
    with Ledger() as ledger, ledger.intake(VENUE, "main", session="s1") as intake:
        intake.receive_all([(says(event), 1, asked) for event in events])
        statements = Statements(None, "pages")
        found = [statements.apply(recorded) for recorded in ledger.replay()]
        return [(each.version, each.since_ns, each.answer) for each in found if each is not None]


def page(number: int, of: int, *, part: str = "7") -> BalanceSnapshot:
    return snapshot(
        number, {f"P{number}": "1"}, part=part, more=number < of, begins=number == 1, sequence=number
    )


def test_a_snapshot_is_full_and_a_delta_is_where_it_was_asked_for() -> None:
    assert [(2, 5, False)] == full(snapshot(5, {"A": "1"}))
    assert [] == full(delta(5, {"A": "1"}))
    assert [(2, 5, True)] == full(delta(5, {"A": "1"}), asked=Asked("GET /balances", 1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pages=st.permutations([page(number, 4) for number in range(1, 5)]), lost=st.integers(0, 4))
def test_numbered_pages_are_full_when_the_last_has_come_in_whatever_order(
    pages: list[BalanceSnapshot], lost: int
) -> None:
    came = [each for each in pages if each.source.sequence != lost]
    assert ([] if lost else [(5, 1, False)]) == full(*came)


def test_what_is_numbered_between_the_pages_counts() -> None:
    update = delta(2, {"A": "1"}, sequence=2, subscription="7")
    pages = [page(1, 3), page(3, 3)]
    assert [(4, 1, False)] == full(pages[0], update, pages[1])
    assert [] == full(*pages)
    assert [(4, 1, False)] == full(*pages, update)


def test_statements_of_two_subscriptions_arrive_side_by_side() -> None:
    one, other = ([page(number, 2, part=part) for number in (1, 2)] for part in "78")
    assert [(4, 1, False), (5, 1, False)] == full(one[0], other[0], other[1], one[1])


def test_unnumbered_pages_may_each_say_that_they_begin() -> None:
    pages = [snapshot(time_ns, {"A": "1"}, part="p", more=time_ns < 3) for time_ns in (1, 2, 3)]
    assert [(4, 1, False)] == full(*pages)


@pytest.mark.parametrize("holes", [RANGES_MAX, RANGES_MAX + 1])
def test_a_statement_with_too_many_holes_never_becomes_whole(holes: int) -> None:
    last = 2 * holes + 1
    odd = [page(number, last) for number in range(1, last + 1, 2)]
    even = [page(number, last) for number in range(2, last + 1, 2)]
    assert (holes == RANGES_MAX) == bool(full(*odd, *even))
