"""Which history row follows which, and the order of rows of one instant: found where there is one, bounded always."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise, permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from ledger.chain import links, ordered


class Row(Struct, frozen=True):
    """One row of a history."""

    amount: str
    balance: str
    cause: str = "trade"
    pending: str | None = None


def chain(*amounts: str, start: str = "0", cause: str = "trade") -> list[Row]:
    """Rows of these amounts, each following the one before."""
    balance, rows = Decimal(start), list[Row]()
    for amount in amounts:
        balance += Decimal(amount)
        rows.append(Row(amount, format(balance, "f"), cause))
    return rows


def chains(rows: list[Row], start: Row | None = None) -> bool:
    first = [start] if start is not None else []
    return all(links(last, row) for last, row in pairwise([*first, *rows]))


# One row after another ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "row", "follows"),
    [
        (Row("1", "10"), Row("5", "15"), True),
        (Row("1", "10"), Row("-5", "5"), True),
        (Row("1", "10"), Row("5.00", "15.0"), True),
        (Row("1", "0.1"), Row("0.2", "0.3"), True),
        (Row("1", "1e2"), Row("-1E+1", "90"), True),
        (Row("1", "-5"), Row("5", "-0"), True),
        (Row("1", "10"), Row("0", "10"), True),
        (Row("1", "10"), Row("5", "15.00000000000000000001"), False),
        (Row("1", "10"), Row("5", "10"), False),
        (Row("1", "10"), Row("5", "5"), False),
        (Row("1", "10"), Row("5", "16"), False),
        (Row("1", "9" * 78), Row("1", "1" + "0" * 78), True),
        (Row("1", "9" * 78), Row("0.1", "9" * 78 + ".1"), True),
        (Row("1", "9" * 78), Row("0.1", "9" * 78), False),
        (Row("1", "1e99"), Row("1e-99", "1e99"), False),
    ],
)
def test_a_row_follows_where_its_balance_is_the_last_one_and_its_amount(
    last: Row, row: Row, follows: bool
) -> None:
    assert follows is links(last, row)


@pytest.mark.parametrize(
    ("cause", "amount", "balance", "follows"),
    [
        ("withdraw", "3", "7", True),
        ("withdraw", "-3", "7", True),
        ("withdraw", "3", "6", False),
        ("withdraw", "3", "10", False),
        ("trade", "3", "7", False),
        ("withdrawal", "3", "7", False),
    ],
)
def test_only_a_withdrawal_may_be_written_without_its_sign(
    cause: str, amount: str, balance: str, follows: bool
) -> None:
    assert follows is links(Row("1", "10"), Row(amount, balance, cause))


@pytest.mark.parametrize(
    ("cause", "was", "now", "balance", "follows"),
    [
        ("deposit", "0", "3", "10", True),
        ("deposit", "1.5", "4.5", "10", True),
        ("deposit", "0", "2", "10", False),
        ("deposit", "0", "3", "9", False),
        ("deposit", None, "3", "10", False),
        ("deposit", "0", None, "10", False),
        ("trade", "0", "3", "10", False),
    ],
)
def test_only_a_deposit_may_move_the_pending_balance_instead(
    cause: str, was: str | None, now: str | None, balance: str, follows: bool
) -> None:
    last = Row("1", "10", pending=was)
    assert follows is links(last, Row("3", balance, cause, now))


# An order of rows --------------------------------------------------------------------------------------------------


def in_chain_order(rows: Sequence[Row], start: Row | None, later: Sequence[Row] = ()) -> list[Row]:
    return ordered(rows, start, [later] if later else [])[0]


@pytest.mark.parametrize("start", [None, Row("0", "0")])
@pytest.mark.parametrize("shuffled", list(permutations(range(4))))
def test_the_one_order_that_chains_is_restored_from_any(shuffled: tuple[int, ...], start: Row | None) -> None:
    rows = chain("5", "-1", "20", "-3")
    assert rows == in_chain_order([rows[index] for index in shuffled], start)


def test_rows_that_chain_as_given_stay_as_given() -> None:
    rows = chain("1", "-1", "1", "-1", "0", "0")
    assert all(one is other for one, other in zip(rows, in_chain_order(rows, None), strict=True))
    assert rows == in_chain_order(rows, Row("0", "0"))


def test_no_rows_and_one_row_are_in_order_as_they_are() -> None:
    lone = Row("5", "1000")
    for start in (None, Row("0", "0")):
        assert [] == in_chain_order([], start)
        assert [lone] == in_chain_order([lone], start)


def test_two_genuinely_equal_rows_both_stay() -> None:
    rows = chain("5", "-5", "5", "-5", "2")
    found = in_chain_order(rows[::-1], None)
    assert chains(found)
    assert sorted(rows, key=repr) == sorted(found, key=repr)


def test_where_the_chain_starts_decides_between_two_orders() -> None:
    up, down = Row("1", "1"), Row("-1", "0")
    assert [up, down] == in_chain_order([down, up], Row("9", "0"))
    assert [down, up] == in_chain_order([up, down], Row("9", "1"))


def test_the_liberties_are_used_to_find_an_order() -> None:
    rows = [
        Row("10", "10", "deposit", "0"),
        Row("3", "7", "withdraw", "0"),
        Row("5", "7", "deposit", "5"),
        Row("1", "8", "trade", "5"),
    ]
    for shuffled in permutations(rows):
        assert rows == in_chain_order(shuffled, Row("0", "0", "trade", "0"))


def test_rows_that_cannot_chain_stay_as_given() -> None:
    rows = [Row("1", "100"), Row("1", "300"), Row("1", "200")]
    assert rows == in_chain_order(rows, None)
    assert rows == in_chain_order(rows, Row("0", "0"))


def test_rows_after_a_missing_one_are_still_put_in_the_order_they_have_among_themselves() -> None:
    rows = chain("5", "-1", "20", start="1000")
    assert rows == in_chain_order(rows[::-1], Row("0", "0"))


def test_where_rows_lead_back_to_their_beginning_the_later_ones_tell_where_that_is() -> None:
    up, down = Row("1", "1"), Row("-1", "0")
    for rows in ([up, down], [down, up]):
        assert [up, down] == in_chain_order(rows, None, [Row("5", "5")])
        assert [down, up] == in_chain_order(rows, None, [Row("5", "6")])
        assert [up, down] == in_chain_order(rows, Row("9", "0"), [Row("5", "6")])
        assert [up, down] == in_chain_order(rows, Row("9", "77"), [Row("5", "5")])
        assert rows == in_chain_order(rows, None, [Row("5", "77")])


def test_where_the_later_rows_are_several_their_own_beginning_tells() -> None:
    up, down = Row("1", "1"), Row("-1", "0")
    later = chain("5", "2", "-7", "3", start="1")
    for shuffled in permutations(later):
        assert [down, up] == in_chain_order([up, down], None, shuffled)


def test_later_rows_that_change_nothing_tell_the_balance_they_leave() -> None:
    up, down = Row("1", "1"), Row("-1", "0")
    assert [down, up] == in_chain_order([up, down], None, [Row("0", "1"), Row("0", "1")])


def test_of_several_orders_the_one_nearest_to_the_given_is_taken() -> None:
    one, two = chain("1", "-1"), chain("2", "-2")
    assert one + two == in_chain_order([one[0], two[0], one[1], two[1]], Row("0", "0"))
    assert two + one == in_chain_order([two[0], one[0], one[1], two[1]], Row("0", "0"))


amounts = st.integers(-3, 3).map(str)


@given(st.lists(amounts, min_size=1, max_size=40), st.randoms(use_true_random=False), st.booleans())
@example(["1", "-1"] * 20, random.Random(3), True)
@settings(deadline=None)
def test_a_shuffled_true_chain_comes_back_as_some_order_that_chains(
    steps: list[str], shuffle: random.Random, started: bool
) -> None:
    rows = chain(*steps, start="7")
    shuffled = rows.copy()
    shuffle.shuffle(shuffled)
    start = Row("7", "7") if started else None
    found = in_chain_order(shuffled, start)
    assert chains(found, start)
    assert sorted(rows, key=repr) == sorted(found, key=repr)


@given(
    st.lists(st.tuples(amounts, st.sampled_from(["trade", "withdraw", "deposit"])), max_size=6),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_a_short_chain_with_unsigned_withdrawals_and_pending_deposits_comes_back_too(
    steps: list[tuple[str, str]], shuffle: random.Random
) -> None:
    balance, pending, rows = 0, 0, list[Row]()
    for amount, cause in steps:
        if cause == "deposit":
            pending += int(amount)
        elif cause == "withdraw":
            balance -= int(amount)
        else:
            balance += int(amount)
        rows.append(Row(amount, str(balance), cause, str(pending)))
    shuffled = rows.copy()
    shuffle.shuffle(shuffled)
    start = Row("0", "0", "trade", "0")
    assert chains(in_chain_order(shuffled, start), start)


@given(st.lists(st.builds(Row, amounts, st.integers(-3, 3).map(str)), max_size=12))
@settings(deadline=None)
def test_whatever_the_rows_none_is_lost_and_none_made_up(rows: list[Row]) -> None:
    for start in (None, Row("0", "0")):
        assert sorted(map(id, rows)) == sorted(map(id, in_chain_order(rows, start)))


HOSTILE = {
    "equal and chaining": [Row("0", "5")] * 1_000,
    "equal and not chaining": [Row("1", "5")] * 1_000,
    "there and back, one astray": [Row("1", "1"), Row("-1", "0")] * 500 + [Row("5", "77")],
    "loops and islands": [Row("0", "5")] * 500 + [Row("1", str(1_000 + 2 * n)) for n in range(500)],
    "unsigned withdrawals": [Row(str(n % 7), str(n % 5), "withdraw", "0") for n in range(1_000)],
    "a true chain backwards": chain(*(str(n % 9 - 4) for n in range(1_000)))[::-1],
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("start", [None, Row("0", "5"), Row("0", "0")])
def test_a_thousand_hostile_rows_take_bounded_time(case: str, start: Row | None) -> None:
    rows = HOSTILE[case]
    began = time.process_time()
    found = in_chain_order(rows, start)
    assert 1.0 > time.process_time() - began
    assert sorted(map(id, rows)) == sorted(map(id, found))
