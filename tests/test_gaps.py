"""Gaps: what was never received, as long as it was not; and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.events import Event
from projections import Gaps
from projections.gaps import Gap
from tests.scripted import MAIN, delta, fault, feed, imported, says, snapshot

Sequences = list[int]


def number(sequence: int, subscription: str = "7") -> bytes:
    return says(delta(sequence, {"A": str(sequence)}, sequence=sequence, subscription=subscription))


def gaps(*frames: bytes) -> list[Gap]:
    with Ledger() as ledger:
        feed(ledger, *frames)
        return Gaps(ledger).rows()


def missing(*frames: bytes) -> list[str]:
    return [gap.missing for gap in gaps(*frames)]


# Holes in a sequence


def test_one_two_four_names_three() -> None:
    (gap,) = gaps(number(1), number(2), number(4))
    assert (
        Gap(
            MAIN,
            "sequence",
            "3",
            "3",
            "3",
            "every balance of the account, until the venue states the whole account again",
            "s1",
            "7",
            4,
            4,
        )
        == gap
    )


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([1, 2, 3], []),
        ([], []),
        ([0, 1], []),
        ([1, 4], ["2-3"]),
        ([4], ["1-3"]),
        ([148191], ["1-148190"]),
        ([1, 3, 5], ["2", "4"]),
        ([1, 3, 2], []),
        ([3, 1, 2], []),
        ([1, 9, 5], ["2-4", "6-8"]),
        ([1, 9, 2], ["3-8"]),
        ([1, 9, 8], ["2-7"]),
        ([1, 9, 5, 5, 9, 1], ["2-4", "6-8"]),
        ([1, 9, 5, 2, 8, 3, 4], ["6-7"]),
        ([1, 1, 1], []),
        ([1, 2**53], [f"2-{2**53 - 1}"]),
    ],
)
def test_holes_are_ranges_that_late_numbers_split_and_close(sequence: Sequences, expected: list[str]) -> None:
    assert expected == missing(*map(number, sequence))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sequence=st.lists(st.integers(1, 12), min_size=1, max_size=14), cut=st.integers(0, 14))
def test_the_holes_are_the_numbers_up_to_the_highest_that_never_came(sequence: Sequences, cut: int) -> None:
    with Ledger() as ledger:
        intake_frames = [number(each) for each in sequence]
        feed(ledger, *intake_frames[:cut], session="s1")
        live = Gaps(ledger)
        live.rows()
        feed(ledger, *intake_frames[cut:], session="s2")
        named: list[int] = []
        for gap in live.rows():
            named += range(int(gap.start), int(gap.end) + 1)
        assert sorted(set(range(1, max(sequence) + 1)) - set(sequence)) == named


def found(ledger: Ledger) -> list[tuple[str | None, str]]:
    return [(gap.subscription, gap.missing) for gap in Gaps(ledger).rows()]


def test_every_subscription_counts_for_itself() -> None:
    with Ledger() as ledger:
        feed(ledger, number(1, "7"), number(1, "8"), number(2, "7"), number(3, "8"), number(2, "9"))
        assert [("8", "2"), ("9", "1")] == found(ledger)
        feed(ledger, number(2, "7"), number(1, "7"), session="s2")
        assert [("8", "2"), ("9", "1")] == found(ledger)


def test_a_subscription_counts_on_from_session_to_session() -> None:
    with Ledger() as ledger:
        feed(ledger, number(1), number(3), session="s1")
        feed(ledger, number(4), number(6), session="s2")
        assert [("s1", "2"), ("s2", "5")] == [(gap.session, gap.missing) for gap in Gaps(ledger).rows()]
        feed(ledger, number(2), session="s3")
        assert [("s2", "5")] == [(gap.session, gap.missing) for gap in Gaps(ledger).rows()]


def test_every_account_counts_for_itself() -> None:
    with Ledger() as ledger:
        other = says(delta(1, {"A": "1"}, sequence=2, subscription="7"), account="scripted:b")
        feed(ledger, number(1), other)
        assert [("scripted:b", "1")] == [(gap.account, gap.missing) for gap in Gaps(ledger).rows()]
        assert [] == Gaps(ledger).rows(MAIN)


def test_several_events_of_one_number_are_one_number() -> None:
    one = says(
        delta(1, {"A": "1"}, sequence=1, subscription="7"),
        delta(1, {"B": "1"}, sequence=1, subscription="7"),
    )
    assert [] == missing(one, number(2))


def test_a_venue_error_uses_up_its_number() -> None:
    assert [] == missing(number(1), says(fault(2, "7")), number(3))
    assert ["2", "1"] == missing(number(1), says(fault(2, "8")), number(3))  # of another subscription


def test_an_unreadable_frame_leaves_a_hole() -> None:
    assert ["2"] == missing(number(1), b"garbage", number(3))


def test_a_statement_without_number_or_subscription_counts_nothing() -> None:
    nameless: Event = delta(1, {"A": "1"}, sequence=5)
    assert [] == missing(says(nameless), says(delta(1, {"A": "1"}, subscription="7")), says(snapshot(1, {})))


def test_a_hole_is_still_known_after_a_restart_and_closes_then(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, number(1), number(2), number(4), session="s1")
        assert ["3"] == [gap.missing for gap in Gaps(ledger).rows()]
    with Ledger(path) as ledger:
        feed(ledger, number(1), number(2), number(4), number(3), number(6), session="s1")
        assert ["5"] == [gap.missing for gap in Gaps(ledger).rows()]
    with Ledger(path, read_only=True) as ledger:
        assert ["5"] == [gap.missing for gap in Gaps(ledger).rows()]


# Breaks of a running balance


def chain_gaps(*rows: Event) -> list[tuple[str, str]]:
    return [(gap.kind, gap.missing) for gap in gaps(*map(says, rows))]


ONE, TWO, THREE = (
    imported(10**9, "5", "5"),
    imported(2 * 10**9, "2.50", "7.5"),
    imported(3 * 10**9, "1", "8.5"),
)


def test_a_missing_row_is_one_gap_and_says_what_it_changed() -> None:
    (gap,) = gaps(says(ONE, THREE))
    assert (
        Gap(
            MAIN,
            "chain",
            "1970-01-01T00:00:01Z",
            "1970-01-01T00:00:03Z",
            "rows that change USDC by 2.5",
            "the history of USDC between these rows",
            None,
            None,
            3,
            3 * 10**9,
        )
        == gap
    )


def test_the_missing_row_arriving_later_closes_the_gap() -> None:
    with Ledger() as ledger:
        live = Gaps(ledger)
        feed(ledger, says(ONE), says(THREE))
        assert 1 == len(live.rows())
        feed(ledger, says(TWO), session="s2")
        assert [] == live.rows()


def test_two_assets_and_two_accounts_are_chains_of_their_own() -> None:
    other = imported(2 * 10**9, "100", "100", asset="A")
    assert [] == chain_gaps(ONE, other, TWO)
    with Ledger() as ledger:
        feed(ledger, says(ONE), says(imported(2 * 10**9, "7", "7"), account="scripted:b"))
        assert [] == Gaps(ledger).rows()
        feed(ledger, says(imported(4 * 10**9, "1", "9"), account="scripted:b"), says(THREE), session="s2")
        found = Gaps(ledger).rows()
        assert [("scripted:b", "rows that change USDC by 1"), (MAIN, "rows that change USDC by 2.5")] == [
            (gap.account, gap.missing) for gap in found
        ]
        assert found[1:] == Gaps(ledger).rows(MAIN)


def test_a_chain_of_memo_rows_breaks_too() -> None:
    rows = [
        imported(time_ns, "1", balance, asset="points", memo=True)
        for time_ns, balance in ((1, "1"), (2, "2"), (3, "4"))
    ]
    assert [] == chain_gaps(*rows[:2])
    assert [("chain", "rows that change points by 1")] == chain_gaps(*rows)


def test_withdrawals_without_sign_and_pending_deposits_are_no_gaps() -> None:
    assert [] == chain_gaps(
        imported(1, "10", "10", cause="deposit", pending="0"),
        imported(2, "4", "6", cause="withdraw", pending="0"),
        imported(3, "-1", "5", cause="withdraw", pending="0"),
        imported(4, "7", "5", cause="deposit", pending="7"),
        imported(5, "7", "12", cause="deposit_release", pending="0"),
    )


def test_sequence_holes_come_before_breaks_of_each_account() -> None:
    with Ledger() as ledger:
        feed(ledger, says(ONE, THREE), number(2), says(ONE, THREE, account="scripted:b"))
        found = [(gap.account, gap.kind) for gap in Gaps(ledger).rows()]
        assert [("scripted:b", "chain"), (MAIN, "sequence"), (MAIN, "chain")] == found
        assert found[:1] == [(gap.account, gap.kind) for gap in Gaps(ledger).rows("scripted:b")]
