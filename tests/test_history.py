"""Histories: the venue's rows by account, asset and time; rows of one instant as their balances follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.events import BalanceEventImported
from projections import Gaps, History, compare, subscription, tables
from projections.history import HistoryFold
from tests.scripted import MAIN, feed, imported, says


def balances(*rows: BalanceEventImported) -> list[str]:
    """The balances in the order of the history, each row a frame of its own."""
    with Ledger() as ledger:
        feed(ledger, *map(says, rows))
        return [row.balance for row in History(ledger).rows()]


def breaks(*rows: BalanceEventImported) -> list[tuple[str, str]]:
    with Ledger() as ledger:
        feed(ledger, *map(says, rows))
        return [(each.before.balance, each.after.balance) for each in History(ledger).breaks()]


def test_rows_come_by_account_asset_and_time() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            says(imported(2, "1", "2"), imported(1, "1", "1"), imported(1, "7", "7", asset="A")),
            says(imported(1, "9", "9"), account="scripted:b"),
        )
        history = History(ledger)
        every = [("scripted:b", "USDC", 1), (MAIN, "A", 1), (MAIN, "USDC", 1), (MAIN, "USDC", 2)]
        assert every == [(row.account, row.asset, row.time_ns) for row in history.rows()]
        assert every[1:] == [(row.account, row.asset, row.time_ns) for row in history.rows(MAIN)]
        assert [] == list(history.rows("scripted:c"))


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[BalanceEventImported], list[BalanceEventImported]]:
    """A history that closes, many rows of it of one instant; and the same rows as they might arrive."""
    amounts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    times = sorted(draw(st.lists(st.integers(1, 3), min_size=len(amounts), max_size=len(amounts))))
    rows = [
        imported(time, str(amount), str(sum(amounts[: index + 1])))
        for index, (time, amount) in enumerate(zip(times, amounts, strict=True))
    ]
    return rows, draw(st.permutations(rows))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(chain=chains())
def test_rows_of_one_instant_follow_one_another_in_any_order_of_arrival(
    chain: tuple[list[BalanceEventImported], list[BalanceEventImported]],
) -> None:
    rows, arrived = chain
    assert [row.balance for row in rows] == balances(*arrived)
    assert [] == breaks(*arrived)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chain=chains(), missing=st.data())
def test_one_missing_instant_is_one_break(
    chain: tuple[list[BalanceEventImported], list[BalanceEventImported]], missing: st.DataObject
) -> None:
    """All rows of one instant are missing between two others: within those the order is still found."""
    rows, arrived = chain
    gone = missing.draw(st.sampled_from(sorted({row.time_ns or 0 for row in rows})))
    kept = [row for row in rows if row.time_ns != gone]
    inside = any((row.time_ns or 0) < gone for row in kept) and any((row.time_ns or 0) > gone for row in kept)
    came = [row for row in arrived if row.time_ns != gone]
    assert [row.balance for row in kept] == balances(*came)
    assert int(inside) == len(breaks(*came))


def test_two_equal_rows_both_stand() -> None:
    assert ["5", "3", "5", "3"] == balances(
        imported(1, "5", "5"), imported(2, "-2", "3"), imported(3, "2", "5"), imported(4, "-2", "3")
    )
    equal = imported(2, "0", "5")
    assert ["5", "5", "5"] == balances(imported(1, "5", "5"), equal, equal)


def test_rows_of_one_instant_that_do_not_follow_stay_as_they_came() -> None:
    assert ["9", "4"] == balances(imported(1, "1", "9"), imported(1, "1", "4"))


def test_a_break_names_the_rows_around_it() -> None:
    one, two, three = imported(1, "5", "5"), imported(2, "2", "7"), imported(3, "1", "8")
    assert [] == breaks(one, two, three)
    assert [("5", "8")] == breaks(one, three)
    assert [("5", "8")] == breaks(three, one)
    assert [] == breaks(three)


def test_histories_of_different_assets_and_accounts_do_not_follow_one_another() -> None:
    with Ledger() as ledger:
        feed(ledger, says(imported(1, "5", "5")), says(imported(2, "7", "9", asset="A")))
        feed(ledger, says(imported(3, "7", "9"), account="scripted:b"), session="s2")
        assert [] == list(History(ledger).breaks())


@pytest.mark.parametrize(
    ("row", "closes"),
    [
        (imported(2, "-3", "7", cause="withdraw"), True),
        (imported(2, "3", "7", cause="withdraw"), True),  # written without its sign
        (imported(2, "3", "7", cause="trade"), False),
        (imported(2, "-3.000", "7.0", cause="trade"), True),
        (imported(2, "4", "10", cause="deposit", pending="5"), True),  # above the cap: pending moves
        (imported(2, "4", "10", cause="deposit", pending="4"), False),
        (imported(2, "4", "10", cause="deposit"), False),
        (imported(2, "4", "10", cause="trade", pending="5"), False),
    ],
)
def test_what_may_follow_a_balance_of_ten_and_one_pending(row: BalanceEventImported, closes: bool) -> None:
    assert ([] if closes else [("10", row.balance)]) == breaks(imported(1, "10", "10", pending="1"), row)


def test_a_row_says_what_the_venue_said() -> None:
    with Ledger() as ledger:
        feed(ledger, says(imported(3, "+1.50", "2.50", cause="points", pending="0.0", asset="P", memo=True)))
        (row,) = History(ledger).rows()
        found = (row.account, row.asset_id, row.time_ns, row.version, row.asset, row.cause, row.reference)
        assert (MAIN, "P", 3, 2, "P", "points", None) == found
        assert ("+1.50", "2.50", "0.0", True) == (row.amount, row.balance, row.pending, row.memo)


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_a_history_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(tables, "PAGE_ROWS_MAX", page)
    rows = [imported(index // 3, "1", str(index + 1)) for index in range(10)]
    assert [str(number) for number in range(1, 11)] == balances(*reversed(rows))


def test_the_first_rows_need_not_wait_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGE_ROWS_MAX", 10)
    with Ledger() as ledger:
        feed(ledger, says(*(imported(index, "1", str(index + 1)) for index in range(100))))
        reads: Sequence[str] = []
        history = History(ledger)
        history.subscription.catch_up()
        rows = history.rows()
        assert "1" == next(rows).balance
        ledger.write([("DELETE FROM history WHERE time_ns >= 50", [()])])
        reads = [row.balance for row in rows]
        assert [str(number) for number in range(2, 51)] == reads
        assert all(int(one) + 1 == int(other) for one, other in pairwise(reads))


# The life of a break


def lives(history: HistoryFold) -> list[tuple[str, str, int | None]]:
    """Every break: how much is missing, whether it is open, what closed it."""
    now = [(row.difference, "open", None) for row in history.open()]
    return [*now, *((row.difference, "closed", row.closed_by) for row in history.closed())]


def pages(*frames: Sequence[BalanceEventImported]) -> list[tuple[str, str, int | None]]:
    """The lives of the breaks when these pages came, in this order."""
    with Ledger() as ledger:
        feed(ledger, *(says(*frame) for frame in frames))
        history = History(ledger)
        history.subscription.catch_up()
        return lives(history.fold)


TEN: Sequence[BalanceEventImported] = tuple(
    imported(index * 10, "1", str(index), key=f"k{index}") for index in range(1, 11)
)


def test_rows_of_one_page_are_no_break_whatever_their_order() -> None:
    assert [] == pages(TEN[::-1])
    assert [] == pages([TEN[0], TEN[4], TEN[2], TEN[1], TEN[3]])


def test_a_break_is_closed_by_the_row_that_fills_it() -> None:
    assert [("1", "closed", 4)] == pages([TEN[0], TEN[2]], [TEN[1]])


def test_a_break_filled_in_part_is_what_is_left_and_told_as_it_was_found_when_it_is_closed() -> None:
    assert [("5", "open", None)] == pages([TEN[0], TEN[6]])
    assert [("3", "open", None)] == pages([TEN[0], TEN[6]], [TEN[1], TEN[5]])
    assert [("5", "closed", 8)] == pages([TEN[0], TEN[6]], [TEN[1], TEN[5]], TEN[2:5])[:1]


def test_what_is_left_of_a_break_was_found_when_the_break_was() -> None:
    with Ledger() as ledger:
        feed(ledger, says(TEN[0], TEN[6]), says(TEN[1]), says(TEN[4]))
        assert [(3, 70), (3, 70)] == [(gap.version, gap.time_ns) for gap in Gaps(ledger).rows()]


def test_a_row_in_the_middle_splits_a_break_and_each_part_has_its_own_life() -> None:
    assert [("2", "open", None)] * 2 == pages([TEN[0], TEN[6]], [TEN[3]])
    assert [("2", "open", None), ("2", "closed", 6)] == pages([TEN[0], TEN[6]], [TEN[3]], TEN[4:6])


def test_a_row_before_all_others_is_a_break_too_and_found_by_itself() -> None:
    with Ledger() as ledger:
        feed(ledger, says(TEN[4]), says(TEN[0]))
        (gap,) = Gaps(ledger).rows()
        assert (3, "rows that change USDC by 3", 50) == (gap.version, gap.missing, gap.time_ns)


def test_a_row_told_again_changes_nothing() -> None:
    with Ledger() as ledger:
        for session in ("s1", "s2", "s3"):
            feed(ledger, says(TEN[0], TEN[2]), says(TEN[0]), session=session)
        assert [("open", 3)] == [(gap.state, gap.version) for gap in Gaps(ledger).rows()]


def test_a_row_that_changes_the_order_of_one_instant_is_felt_far_behind_it() -> None:
    """Rows of one instant that lead back to where they begin could begin anywhere: the row before tells."""
    around = [imported(2, "1", "1"), imported(2, "-1", "0"), imported(3, "1", "1"), imported(3, "-1", "0")]
    for first in (imported(1, "0", "0"), imported(1, "0", "1")):
        with Ledger() as ledger:
            feed(ledger, says(*around), says(imported(4, "0", "1")), says(first))
            history = History(ledger)
            history.subscription.catch_up()
            assert len(list(history.breaks())) == len(history.fold.open())


rows = st.builds(
    imported,
    st.integers(1, 5),
    st.integers(-2, 2).map(str),
    st.integers(0, 3).map(str),
    cause=st.sampled_from(["trade", "withdraw", "deposit"]),
    pending=st.sampled_from([None, "0", "1"]),
    asset=st.sampled_from(["USDC", "USDC", "A"]),
)


@st.composite
def walks(draw: st.DrawFn) -> list[list[BalanceEventImported]]:
    """Pages of a history that closes, each row under a key of its own, in any order, overlapping, some of them lost."""
    amounts = draw(st.lists(st.integers(-2, 3), min_size=1, max_size=14))
    times = sorted(draw(st.lists(st.integers(1, 8), min_size=len(amounts), max_size=len(amounts))))
    told = [
        imported(time, str(amount), str(sum(amounts[: index + 1])), key=f"k{index}")
        for index, (time, amount) in enumerate(zip(times, amounts, strict=True))
    ]
    starts = draw(st.lists(st.integers(0, len(told) - 1), min_size=1, max_size=8))
    return [
        told[start : start + draw(st.integers(1, 4))][:: draw(st.sampled_from([1, -1]))] for start in starts
    ]


def check_breaks(frames: list[list[BalanceEventImported]], stops: set[int], chunk: int) -> None:
    """The open breaks are those a look at every row finds, and lives are the same however often they are looked at."""
    with pytest.MonkeyPatch.context() as patch, Ledger() as ledger:
        patch.setattr(subscription, "BATCH_EVENTS_MAX", 3)
        patch.setattr(tables, "CHUNK_KEYS_MAX", chunk)
        patch.setattr(tables, "NEAR_ROWS_MAX", chunk)
        live, memory = History(ledger), HistoryFold(None)
        for number, frame in enumerate(frames):
            feed(ledger, says(*frame), session=f"s{number}")
            if number in stops:
                found = [(each.before.version, each.after.version) for each in live.breaks()]
                assert found == [(row.before_version, row.after_version) for row in live.fold.open()]
                for row in live.fold.open():
                    assert row.first_before_ns <= row.before_ns <= row.after_ns <= row.first_after_ns
        live.subscription.catch_up()
        for recorded in ledger.replay():
            memory.apply(recorded)
        memory.settle()
        found = [(each.before.version, each.after.version) for each in memory.breaks()]
        assert found == [(row.before_version, row.after_version) for row in memory.open()]
        with Ledger() as scratch:
            folded = History(ledger, scratch)
            folded.subscription.catch_up()
            assert lives(memory) == lives(live.fold) == lives(folded.fold)
            assert [] == list(compare(live, folded))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    frames=st.lists(st.lists(rows, min_size=1, max_size=5), min_size=1, max_size=7),
    stops=st.sets(st.integers(0, 6)),
    chunk=st.integers(1, 4),
)
def test_open_breaks_are_what_a_look_at_every_row_finds_whatever_the_rows(
    frames: list[list[BalanceEventImported]], stops: set[int], chunk: int
) -> None:
    check_breaks(frames, stops, chunk)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(frames=walks(), stops=st.sets(st.integers(0, 7)), chunk=st.integers(1, 4))
def test_open_breaks_are_what_a_look_at_every_row_finds_however_pages_come(
    frames: list[list[BalanceEventImported]], stops: set[int], chunk: int
) -> None:
    check_breaks(frames, stops, chunk)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(frames=walks())
def test_when_everything_has_come_no_break_is_open(frames: list[list[BalanceEventImported]]) -> None:
    told = {row.key: row for frame in frames for row in frame}
    whole = sorted(told.values(), key=lambda row: int(row.key[1:]))
    first, last = int(whole[0].key[1:]), int(whole[-1].key[1:])
    if len(whole) != last - first + 1:
        return  # rows in between came with no page
    with Ledger() as ledger:
        feed(ledger, *(says(*frame) for frame in frames))
        assert [] == Gaps(ledger).rows(open_only=True)


def test_a_reader_settles_what_it_folds_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, says(TEN[0], TEN[2]), session="s1")
        History(ledger).subscription.catch_up()
        feed(ledger, says(TEN[1]), says(TEN[5]), session="s2")
    with Ledger(path, read_only=True) as ledger:
        history = History(ledger)
        history.subscription.catch_up()
        assert [("2", "open", None), ("1", "closed", 6)] == lives(history.fold)


def test_where_a_history_begins_with_a_balance_that_is_not_zero_is_known() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            says(imported(5, "-2", "8"), imported(7, "1", "9"), imported(5, "1", "1", asset="A")),
            says(imported(3, "4", "6", cause="withdraw", asset="B"), account="scripted:b"),
        )
        history = History(ledger)
        history.subscription.catch_up()
        assert [("A", 5, "0"), ("USDC", 5, "10")] == [
            (row.asset, row.time_ns, opening) for row, opening in history.fold.beginnings(MAIN)
        ]
        assert ["10"] == [opening for _, opening in history.fold.beginnings("scripted:b")]
