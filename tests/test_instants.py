"""Rows of one instant: one balance, one history and the same gaps, whichever pages they came in and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise, permutations
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.chain import links
from ledger.events import BalanceDelta, BalanceEventImported
from projections import Balances, Gaps, History, checkpoints
from projections.agreement import ROWS_MAX
from projections.completeness import PROVEN, UNPROVABLE
from tests.scripted import delta, feed, imported, says

Rows = Sequence[BalanceEventImported]

OPENED = imported(16, "200", "200", cause="deposit", key="opened")
DOWN = imported(21, "-2", "198", key="down")
UP = imported(21, "2", "200", key="up")
FIRST = imported(1, "1", "1", key="first")
BACK = imported(1, "-1", "0", key="back")
BELOW = imported(3, "-1", "-1", cause="funding", key="below")


def told(*frames: Sequence[BalanceEventImported | BalanceDelta]) -> tuple[str | None, str, str, list[str]]:
    """What is held and how sure that is, where the history ends, and the gaps that are open."""
    with Ledger() as ledger:
        feed(ledger, *(says(*frame) for frame in frames))
        (row,) = Balances(ledger).rows()
        *_, last = History(ledger).rows()
        gaps = [gap.missing for gap in Gaps(ledger).rows(open_only=True)]
        return row.total, row.completeness, last.balance, gaps


@pytest.mark.parametrize(
    "pages",
    [
        [[OPENED, DOWN, UP]],
        [[UP], [OPENED, DOWN]],
        [[UP], [DOWN], [OPENED]],
        [[DOWN], [UP], [OPENED]],
        [[DOWN, UP], [OPENED]],
        [[UP, DOWN], [OPENED]],
        [[OPENED], [UP], [DOWN]],
    ],
)
def test_rows_that_lead_back_to_where_they_begin_end_at_the_balance_before_them(pages: list[Rows]) -> None:
    assert ("200", PROVEN, "200", []) == told(*pages)


@pytest.mark.parametrize(
    "pages",
    [
        [[FIRST, BACK, BELOW]],
        [[BACK, BELOW], [FIRST]],
        [[BELOW], [BACK], [FIRST]],
        [[BACK], [FIRST], [BELOW]],
        [[FIRST], [BACK], [BELOW]],
    ],
)
def test_rows_of_the_oldest_instant_end_where_the_next_one_begins(pages: list[Rows]) -> None:
    assert ("-1", PROVEN, "-1", []) == told(*pages)


def test_what_comes_after_tells_over_several_instants_of_which_each_could_begin_anywhere() -> None:
    around = [imported(2, "5", "5", key="five"), imported(2, "-5", "0", key="none")]
    for order in permutations([[BACK], [FIRST], [around[1]], [around[0]]]):
        assert ("0", PROVEN, "0", []) == told(*order)
    for order in permutations([[BACK, BELOW], [FIRST], around[::-1]]):
        assert ("-1", PROVEN, "-1", []) == told(*order)


def test_a_guess_is_never_said_to_be_proven_and_what_tells_makes_it_so() -> None:
    for rows in ([DOWN, UP], [UP, DOWN]):
        total, word, last, gaps = told(rows)
        assert (rows[-1].balance, UNPROVABLE, total, []) == (total, word, last, gaps)
        assert ("201", PROVEN, "201", []) == told(rows, [imported(22, "1", "201")])
    with Ledger() as ledger:
        feed(ledger, says(DOWN, UP))
        (row,) = Balances(ledger).rows()
        assert row.reason.endswith("it may be 198 as well")


def test_what_the_account_says_is_no_difference_where_its_history_leaves_it_open() -> None:
    said = delta(30, {"USDC": "200"})
    assert isinstance(said, BalanceDelta)
    assert ("200", PROVEN, "198", []) == told([UP], [DOWN], [said])


UPWARDS: Final = [
    imported(21, change, balance, key=balance) for change, balance in (("5", "6"), ("-3", "3"), ("2", "5"))
]
"""Of one instant, in the order in which they follow, after FIRST."""


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("place", range(4))
def test_rows_that_came_on_either_side_of_what_the_account_says_of_their_instant_come_to_it(
    order: Sequence[int], place: int
) -> None:
    said = delta(21, {"USDC": "5"})
    frames: list[Sequence[BalanceEventImported | BalanceDelta]] = [[UPWARDS[at]] for at in order]
    frames.insert(place, [said])
    assert ("5", PROVEN, "5", []) == told([FIRST], *frames)


def test_what_the_account_says_stands_where_rows_that_come_after_lead_to_what_came_before() -> None:
    first, second, last = UPWARDS
    with Ledger() as ledger:
        feed(ledger, *(says(each) for each in (FIRST, last, delta(21, {"USDC": "5"}), first, second)))
        (row,) = Balances(ledger).rows()
    assert ("5", 4, PROVEN) == (row.total, row.version, row.completeness)


def test_what_the_account_says_amid_rows_that_come_to_something_else_is_not_proven_by_them() -> None:
    first, second, last = UPWARDS
    total, word, end, _ = told([FIRST], [last], [delta(21, {"USDC": "9"})], [first], [second])
    assert ("5", True) == (end, word != PROVEN), total


def test_a_withdrawal_of_either_sign_goes_where_the_chain_has_it() -> None:
    before = imported(1, "3", "309", key="before")
    rows = [
        imported(2, "3", "312", cause="payout", key="a"),
        imported(2, "100", "412", cause="withdraw", key="b"),
        imported(2, "1", "413", key="c"),
    ]
    for pages in (
        [rows[1:], [before, rows[0]]],
        [[before, *rows]],
        [[rows[2]], [rows[1]], [rows[0]], [before]],
    ):
        assert ("413", PROVEN, "413", []) == told(*pages)
    taken = imported(21, "50", "150", cause="withdraw", key="taken")
    given_back = imported(21, "50", "200", cause="deposit", key="given back")
    for pages in (
        [[given_back], [OPENED, taken]],
        [[taken, given_back], [OPENED]],
        [[OPENED], [given_back, taken]],
    ):
        assert ("200", PROVEN, "200", []) == told(*pages)


def test_of_more_rows_than_are_remembered_the_end_is_open_until_the_next_row() -> None:
    rows = [imported(5, "1", str(at), key=f"k{at}") for at in range(1, ROWS_MAX + 10)]
    assert UNPROVABLE == told(rows[::-1])[1]
    after = imported(6, "1", str(ROWS_MAX + 10))
    assert (after.balance, PROVEN, after.balance, []) == told(rows[::-1], [after])


def ends(rows: Rows) -> set[str]:
    """The balances that all rows, in any order of those of one instant in which each follows, can end at."""
    before: list[list[BalanceEventImported]] = [[]]
    for _, group in groupby(rows, lambda row: row.time_ns):
        orders = [list(order) for order in permutations(group)]
        lasts = {
            (order[-1].balance, order[-1].pending): order[-1]
            for last in before
            for order in orders
            if all(links(one, other) for one, other in pairwise([*last, *order]))
        }
        before = [[last] for last in lasts.values()]
    return {last.balance for (last,) in before}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[BalanceEventImported], list[list[BalanceEventImported]]]:
    """A history that closes, often over rows that lead back to where they begin; and pages of it, in any order."""
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from([-2, -1, 0, 1, 2]), st.sampled_from(["trade", "trade", "withdraw"])),
            min_size=1,
            max_size=6,
        )
    )
    times = sorted(draw(st.lists(st.integers(1, 4), min_size=len(steps), max_size=len(steps))))
    rows, balance = list[BalanceEventImported](), 0
    for at, ((amount, cause), time_ns) in enumerate(zip(steps, times, strict=True)):
        balance += amount
        unsigned = cause == "withdraw" and amount < 0 and draw(st.booleans())
        written = str(-amount if unsigned else amount)
        rows.append(imported(time_ns, written, str(balance), cause=cause, key=f"k{at}"))
    cuts = sorted({0, *draw(st.lists(st.integers(0, len(rows)), max_size=5))})
    pages = [rows[start:end] for start, end in zip(cuts, [*cuts[1:], len(rows)], strict=True)]
    pages = [page for page in pages if page]
    return rows, draw(st.one_of(st.just(pages[::-1]), st.permutations(pages)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(history=histories())
@example(history=([OPENED, DOWN, UP], [[UP], [OPENED, DOWN]]))
@example(history=([FIRST, BACK, BELOW], [[BACK, BELOW], [FIRST]]))
def test_a_history_in_pages_in_any_order_is_the_history_in_one(
    history: tuple[list[BalanceEventImported], list[list[BalanceEventImported]]],
) -> None:
    rows, pages = history
    found = ends(rows)
    total, word, last, gaps = told(*pages)
    assert (total, []) == (last, gaps)
    assert total in found
    assert (PROVEN if len(found) == 1 else UNPROVABLE) == word
    if len(found) == 1:
        assert (total, word, last, gaps) == told(rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(history=histories())
def test_as_of_every_version_a_history_was_what_it_was_then(
    history: tuple[list[BalanceEventImported], list[list[BalanceEventImported]]],
) -> None:
    _, pages = history
    with pytest.MonkeyPatch.context() as patch, Ledger() as ledger:
        patch.setattr(checkpoints, "EVENTS_APART", 2)
        live, was = Balances(ledger), list[tuple[int, object]]()
        for number, page in enumerate(pages):
            feed(ledger, says(*page), session=f"s{number}")
            was.append((ledger.position(), live.rows()))
        for version, then in was:
            assert then == Balances(ledger).at(version).rows()
        assert live.rows() == Balances(ledger).at("1970-01-01T00:00:00.000000009Z").rows()
