"""Gaps: what was never received, since when, and what closed it; and nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.events import Asked, Event
from ledger.intake import Arrival
from ledger.wire import parse_time
from projections import Gaps, GapsFold, catch_up
from projections.gaps import Gap
from projections.tables import Scratch
from tests.scripted import (
    MAIN,
    RECEIVED_NS,
    VENUE,
    delta,
    fault,
    feed,
    fill,
    imported,
    order,
    said,
    says,
    snapshot,
)

Sequences = list[int]


def number(sequence: int, subscription: str = "7") -> bytes:
    return says(delta(sequence, {"A": str(sequence)}, sequence=sequence, subscription=subscription))


def gaps(*frames: bytes) -> list[Gap]:
    """The open gaps after these frames."""
    with Ledger() as ledger:
        feed(ledger, *frames)
        return Gaps(ledger).rows(open_only=True)


def life(gap: Gap) -> tuple[str, int | None, int | None, str | None]:
    return (gap.state, gap.closed_by, gap.closed_ns, gap.closed_how)


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
        for gap in live.rows(open_only=True):
            named += range(int(gap.start), int(gap.end) + 1)
        assert sorted(set(range(1, max(sequence) + 1)) - set(sequence)) == named


def found(ledger: Ledger) -> list[tuple[str | None, str]]:
    return [(gap.subscription, gap.missing) for gap in Gaps(ledger).rows(open_only=True)]


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
        assert [("s2", "5", "open"), ("s1", "2", "closed")] == [
            (gap.session, gap.missing, gap.state) for gap in Gaps(ledger).rows()
        ]


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
    assert ["1", "2"] == missing(number(1), says(fault(2, "8")), number(3))  # of another subscription


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
        assert [("5", "open"), ("3", "closed")] == [(gap.missing, gap.state) for gap in Gaps(ledger).rows()]
    with Ledger(path, read_only=True) as ledger:
        assert [("5", "open"), ("3", "closed")] == [(gap.missing, gap.state) for gap in Gaps(ledger).rows()]


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
            asset="USDC",
        )
        == gap
    )


def test_the_missing_row_arriving_later_closes_the_gap() -> None:
    with Ledger() as ledger:
        live = Gaps(ledger)
        feed(ledger, says(ONE), says(THREE))
        (found,) = live.rows()
        assert ("open", 3, None) == (found.state, found.version, found.closed_by)
        feed(ledger, says(TWO), session="s2", received_ns=RECEIVED_NS + 1)
        (closed,) = live.rows()
        assert (3, "rows that change USDC by 2.5") == (closed.version, closed.missing)
        assert ("closed", 6, RECEIVED_NS + 1, "arrived late") == life(closed)


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


# What closes a hole in a sequence


def sequence_lives(*frames: bytes) -> list[tuple[str, str, int | None, str | None]]:
    """The life of every hole: missing, state, closed by, how; live, where every frame is looked at, as afterwards."""
    with Ledger() as ledger, ledger.intake(VENUE, "main", session="s1", now_ns=lambda: RECEIVED_NS) as intake:
        live, memory = Gaps(ledger), GapsFold()
        for frame in frames:
            intake.receive(frame, RECEIVED_NS)
            live.rows()
        for recorded in ledger.replay():
            memory.apply(recorded)
        with Ledger() as other:
            assert live.rows() == memory.rows() == Gaps(ledger, other).rows()
        return [(gap.missing, gap.state, gap.closed_by, gap.closed_how) for gap in live.rows()]


HOLE = (number(1), number(2), number(4))  # versions 2 to 4, of the times 1, 2 and 4
ASKED = Asked("GET /balances", 1)
AGAIN = "the whole account was stated again"
LATE = "arrived late"


def page(
    time_ns: int, sequence: int | None, part: str = "8", *, more: bool = False, begins: bool = True
) -> bytes:
    return says(
        snapshot(time_ns, {f"P{sequence}": "1"}, part=part, more=more, begins=begins, sequence=sequence)
    )


@pytest.mark.parametrize(
    ("late", "closed_by"),
    [
        ([number(1), number(2), page(5, 1), number(4)], 4),
        ([number(1), number(2), page(4, 1), number(4)], None),  # of the same instant, and it came before
        ([number(1), number(2), page(5, 1, more=True), page(6, 2, begins=False), number(4)], 5),
        ([number(1), number(2), page(5, 1, more=True), number(4)], None),
        ([number(1), number(2), says(snapshot(5, {"A": "1"})), number(4)], 4),
        (
            [number(1), number(2), page(9, 1), page(5, 1, "9"), number(4)],
            4,
        ),  # the newest, whichever came last
        ([page(1, 1, "7"), number(2), number(4)], None),
    ],
)
def test_a_hole_that_shows_when_the_whole_account_was_stated_since_is_closed_by_that(
    late: list[bytes], closed_by: int | None
) -> None:
    how = ("open", None, None) if closed_by is None else ("closed", closed_by, AGAIN)
    assert ("3", *how) in sequence_lives(*late)


def test_a_late_number_closes_its_part_of_the_hole() -> None:
    assert [
        ("3-5", "open", None, None),
        ("7-8", "open", None, None),
        ("2", "closed", 5, LATE),
        ("6", "closed", 4, LATE),
    ] == sequence_lives(number(1), number(9), number(6), number(2))


@pytest.mark.parametrize(
    ("again", "closes"),
    [
        ([says(snapshot(5, {"A": "1"}))], True),
        ([says(snapshot(4, {"A": "1"}))], True),  # of the same instant, and it came later
        ([says(snapshot(3, {"A": "1"}))], False),  # an older statement, come late
        ([page(5, 1)], True),
        ([page(3, 1)], False),
        ([page(5, 5, "7")], True),  # the same subscription: the numbers tell
        ([page(3, 5, "7")], True),
        ([page(5, 1, more=True)], False),
        ([page(5, 1, more=True), page(6, 2, begins=False)], True),
        ([page(5, 1, more=True), page(6, 2, begins=False, more=True)], False),
        ([page(3, 1, more=True), page(6, 2, begins=False)], False),  # it began before the hole was found
        ([page(6, 2, begins=False)], False),  # its first page is missing
        ([page(6, 1, begins=False)], False),
        ([page(6, 2, begins=False), page(5, 1, more=True)], True),  # and came late
        ([page(5, 1, more=True), page(7, 3, begins=False), page(6, 2, begins=False, more=True)], True),
        ([page(5, None, more=True), page(6, None, begins=False)], True),
        ([page(5, None, begins=False)], False),
        ([says(delta(5, {"A": "1"}))], False),
    ],
)
def test_only_a_whole_statement_that_began_after_a_hole_closes_it(again: list[bytes], closes: bool) -> None:
    expected = ("3", "closed", 4 + len(again), AGAIN) if closes else ("3", "open", None, None)
    assert expected in sequence_lives(*HOLE, *again)


def test_an_answer_is_full_for_the_assets_it_names_only_and_closes_no_hole() -> None:
    with Ledger() as ledger:
        feed(ledger, *HOLE)
        session(ledger, "s2", RECEIVED_NS, RECEIVED_NS + 5, (*moved(RECEIVED_NS + 1), ASKED))
        assert [("3", "open")] == [(gap.missing, gap.state) for gap in Gaps(ledger).rows()]


def test_a_baseline_that_misses_a_page_closes_nothing() -> None:
    torn = [page(5, 1, more=True), page(7, 3, begins=False)]
    assert [("3", "open", None, None), ("2", "open", None, None)] == sequence_lives(*HOLE, *torn)
    update = says(delta(6, {"A": "1"}, sequence=2, subscription="8"))
    assert [("3", "closed", 7, AGAIN)] == sequence_lives(*HOLE, torn[0], update, torn[1])


def test_the_missing_page_of_a_baseline_makes_it_whole_when_it_comes() -> None:
    torn = [page(5, 1, more=True), page(7, 3, begins=False), page(6, 2, begins=False, more=True)]
    assert {("3", "closed", 7, AGAIN), ("2", "closed", 7, LATE)} == set(sequence_lives(*HOLE, *torn))


def test_a_baseline_made_whole_by_a_late_page_closes_no_hole_behind_it() -> None:
    pages = [page(1, 1, "7", more=True), number(4), page(2, 2, "7", begins=False)]
    assert [("3", "open", None, None), ("2", "closed", 4, LATE)] == sequence_lives(*pages)


def test_a_statement_that_shows_a_hole_in_its_own_sequence_closes_it() -> None:
    assert [("2-4", "closed", 3, AGAIN)] == sequence_lives(number(1), page(5, 5, "7"))


def test_a_closed_hole_stays_closed_and_a_number_of_it_that_comes_is_nothing() -> None:
    again = says(snapshot(5, {"A": "1"}))
    assert [("3", "closed", 5, AGAIN)] == sequence_lives(*HOLE, again, number(3), again)


def test_a_statement_closes_the_holes_of_its_account_only() -> None:
    with Ledger() as ledger:
        other = "scripted:b"
        hole = [
            said((other, delta(time_ns, {"A": "1"}, sequence=time_ns, subscription="7")))
            for time_ns in (1, 3)
        ]
        feed(ledger, *HOLE, *hole, says(snapshot(9, {"A": "1"})))
        assert [(other, "2", "open"), (MAIN, "3", "closed")] == [
            (gap.account, gap.missing, gap.state) for gap in Gaps(ledger).rows()
        ]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    frames=st.lists(
        st.one_of(
            st.builds(number, st.integers(1, 8)),
            st.builds(
                page,
                st.integers(1, 9),
                st.integers(1, 4),
                st.sampled_from(["7", "8"]),
                more=st.booleans(),
                begins=st.booleans(),
            ),
            st.builds(lambda time_ns: says(snapshot(time_ns, {"A": "1"})), st.integers(1, 9)),
        ),
        max_size=12,
    )
)
def test_every_number_is_in_one_hole_at_most_and_live_is_replay(frames: list[bytes]) -> None:
    sequence_lives(*frames)
    with Ledger() as ledger:
        feed(ledger, *frames)
        came = {
            (recorded.event.source.subscription, recorded.event.source.sequence)
            for recorded in ledger.replay()
        }
        missed: list[tuple[str | None, int]] = []
        for gap in Gaps(ledger).rows():
            numbers = [(gap.subscription, each) for each in range(int(gap.start), int(gap.end) + 1)]
            missed += numbers
        assert len(missed) == len(set(missed))
        assert not came & {
            (gap.subscription, each)
            for gap in Gaps(ledger).rows(open_only=True)
            for each in range(int(gap.start), int(gap.end) + 1)
        }


# Times when nobody listened


def session(ledger: Ledger, name: str, since: int, until: int | None, *frames: Arrival) -> None:
    """A conversation from `since` to `until` (None: it crashed), its frames and when they came."""
    intake = ledger.intake(VENUE, "main", session=name, opened_ns=since)
    intake.receive_all(frames)
    if until is not None:
        intake.close("end", until)


def moved(at_ns: int) -> tuple[bytes, int]:
    return says(delta(None, {"A": str(at_ns)})), at_ns


def stated(at_ns: int) -> tuple[bytes, int]:
    return says(snapshot(None, {"A": str(at_ns)})), at_ns


def blind(ledger: Ledger, account: str = MAIN) -> list[tuple[int, int, str, int | None]]:
    """From, to, the session after it, and what closed it."""
    rows = [gap for gap in Gaps(ledger).rows(account) if gap.kind == "blind"]
    assert all((gap.state == "closed") == (gap.closed_by is not None) for gap in rows)
    memory = GapsFold()
    for recorded in ledger.replay():
        memory.apply(recorded)
    assert rows == [gap for gap in memory.rows(account) if gap.kind == "blind"]
    found = [(parse_time(gap.start), parse_time(gap.end), gap.session or "", gap.closed_by) for gap in rows]
    return sorted(found)


def test_between_two_sessions_nobody_listened_until_the_whole_account_is_stated() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 10, 20, stated(12))
        assert [] == blind(ledger)  # the end of listening is not a gap
        session(ledger, "b", 30, 40, moved(31))
        assert [(20, 30, "b", None)] == blind(ledger)
        (gap,) = Gaps(ledger).rows()
        assert (
            Gap(
                MAIN,
                "blind",
                "1970-01-01T00:00:00.000000020Z",
                "1970-01-01T00:00:00.000000030Z",
                "whatever happened while nobody listened",
                "every balance of the account, until the venue states it again",
                "b",
                None,
                4,
                30,
            )
            == gap
        )
        session(ledger, "c", 40, 50, stated(41), stated(45))
        assert [(20, 30, "b", 8)] == blind(ledger)
        (gap,) = Gaps(ledger).rows()
        assert ("closed", 8, 41, AGAIN) == life(gap)


def test_an_answer_closes_a_blind_time_too() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 10, 20, stated(12))
        session(ledger, "b", 30, 40, moved(31), (*moved(33), ASKED))
        assert [(20, 30, "b", 6)] == blind(ledger)


def test_a_crash_ends_listening_with_the_last_frame() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 10, None, stated(12), moved(17))
        session(ledger, "b", 30, None, stated(30))
        assert [(17, 30, "b", 5)] == blind(ledger)


def test_sessions_that_touch_or_overlap_leave_nothing_blind() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 10, 20, stated(12))
        session(ledger, "b", 20, 30, moved(22))
        session(ledger, "c", 5, 60, moved(23))
        session(ledger, "d", 40, 50, moved(43))
        assert [] == blind(ledger)


def test_an_older_recording_taken_in_later_shows_what_was_heard_after_all() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 10, 20, stated(12))
        session(ledger, "c", 50, 60, stated(53))
        assert [(20, 50, "c", 5)] == blind(ledger)
        session(ledger, "b", 30, 40, moved(33))
        assert [(20, 30, "b", 5), (40, 50, "c", 5)] == blind(ledger)
        session(ledger, "d", 18, 45, moved(33))
        assert [(45, 50, "c", 5)] == blind(ledger)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    spans=st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 12), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    order=st.randoms(use_true_random=False),
)
def test_what_is_blind_does_not_depend_on_the_order_of_recordings(
    spans: list[tuple[int, int, bool, bool]], order: random.Random
) -> None:
    def told(numbered: list[tuple[int, tuple[int, int, bool, bool]]]) -> list[tuple[int, int, bool]]:
        with Ledger() as ledger:
            for number, (since, length, crashed, whole) in numbered:
                frame = stated(since) if whole else moved(since)
                last = moved(since + length)
                session(ledger, f"s{number}", since, None if crashed else since + length, frame, last)
            return [(since, until, closed is not None) for since, until, _, closed in blind(ledger)]

    numbered = list(enumerate(spans))
    heard = {at for since, length, _, _ in spans for at in range(since, since + length)}
    first = min(since for since, _, _, _ in spans)
    found = told(numbered)
    dark = {at for since, until, _ in found for at in range(since, until)}
    assert {at for at in range(first, max(since for since, *_ in spans))} - heard == dark
    for since, until, closed in found:
        assert closed == any(whole and begun >= until for begun, _, _, whole in spans), (since, until)
    order.shuffle(numbered)
    assert found == told(numbered)


def test_blind_times_are_of_every_account_heard_through_the_login_before() -> None:
    with Ledger() as ledger:
        one, two = "scripted:main/1", "scripted:main/2"
        session(ledger, "a", 10, 20, (said((one, delta(None, {"A": "1"}))), 12))
        session(ledger, "b", 30, 40, (said((two, delta(None, {"A": "1"}))), 31))
        session(ledger, "c", 50, 60, (said((one, snapshot(None, {"A": "1"}))), 51))
        assert [(20, 30, "b", 2), (40, 50, "c", 2)] == blind(ledger, one)
        assert [(40, 50, "c", None)] == blind(ledger, two)
        assert [] == blind(ledger, MAIN)  # the login has no account of its own
        assert 3 == len(Gaps(ledger).rows())


def test_where_a_history_is_imported_the_running_balance_is_the_evidence() -> None:
    with Ledger() as ledger:
        for number in (1, 2):
            rows = (says(imported(number, "1", str(number), key=f"k{number}")), number * 20)
            session(ledger, f"s{number}", number * 20, number * 20 + 5, rows, moved(number * 20 + 3))
        assert [] == Gaps(ledger).rows()


def test_a_login_that_was_told_nothing_is_not_blind_and_unreadable_frames_are_nothing() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 10, 20)
        session(ledger, "b", 30, 40, (b"garbage", 33))
        session(ledger, "c", 50, 60, moved(51))
        assert [] == blind(ledger)
        session(ledger, "d", 70, 80)
        assert [(60, 70, "d", None)] == blind(ledger)


def test_a_recording_without_times_was_read_not_listened_to() -> None:
    with Ledger() as ledger:
        session(ledger, "file-0123-1", 10, 20, stated(12))
        session(ledger, "file-4567-1", 30, 40, stated(31))
        assert [] == blind(ledger)
        session(ledger, "a", 60, 70, moved(61))
        session(ledger, "b", 80, 90, moved(81))
        session(ledger, "file-89ab-1", 100, 110, stated(101))
        assert [(70, 80, "b", None)] == blind(ledger)


# As of a moment


def anything(random: random.Random) -> bytes:
    time_ns, asset = random.randint(1, 9) * 10**9, random.choice("AB")
    return random.choice(
        [
            number(random.randint(1, 20)),
            number(random.randint(1, 20), "8"),
            says(imported(time_ns, "1", str(time_ns // 10**9 + 1), asset=asset, key=f"{asset}{time_ns}")),
            says(order(random.choice(["o1", "o2"]), time_ns, str(random.randint(1, 3)))),
            says(fill(f"f{random.randint(1, 5)}", time_ns, key=f"f{random.randint(1, 5)}")),
            says(snapshot(time_ns, {"A": "1"})),
            says(number_and(time_ns, asset), delta(time_ns, {"B": "1"})),
            says(
                order("o1", time_ns, "3"),
                *(fill(f"f{each}", time_ns, key=f"f{each}") for each in range(6, 9)),
            ),
            b"garbage",
        ]
    )


def number_and(time_ns: int, asset: str) -> Event:
    return delta(time_ns, {asset: "1"}, sequence=time_ns // 10**9, subscription="9")


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fold_with_a_scratch_database_finds_the_same(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.gaps.WAITING_EVENTS_MAX", batch)
    for seed in range(20):
        of = random.Random(seed)
        with Ledger() as ledger, Scratch() as scratch:
            for name in "abc":
                feed(ledger, *(anything(of) for _ in range(15)), session=name)
            written, memory, neither = GapsFold(scratch), GapsFold(), GapsFold(fills=False)
            for recorded in ledger.replay():
                written.apply(recorded)
                memory.apply(recorded)
                neither.apply(recorded)
            assert Gaps(ledger).rows() == memory.rows() == written.rows()
            assert [gap for gap in memory.rows() if gap.kind != "fills"] == neither.rows()
            assert Gaps(ledger).logins() == written.with_logins()[1]


def test_how_many_holes_are_open_costs_an_event_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger() as ledger:
        feed(ledger, *(number(2 * each) for each in range(1, 301)))
        live = Gaps(ledger)
        live.rows()
        table = live._fold._holes
        reads: list[str] = []

        def noted(name: str, rows: int) -> None:
            method = getattr(table, name)

            def reading(*key: Any) -> Any:
                reads.extend([name] * rows)
                return method(*key)

            monkeypatch.setattr(table, name, reading)

        noted("get", 1)
        noted("of", 300)
        noted("rows", 300)
        again = [says(*(number_of(600),) * 50)]
        feed(ledger, *again, *(number(each) for each in (3, 5, 8, 599)), session="s2")
        catch_up(ledger, live.projections)
        assert len(reads) <= 300 + 4  # once to put them in order
        monkeypatch.undo()
        assert 297 == len(live.rows(open_only=True))


def number_of(number: int) -> Event:
    return delta(number, {"A": "1"}, sequence=number, subscription="7")


def test_the_gaps_of_a_prefix_are_those_of_that_moment() -> None:
    with Ledger() as ledger:
        feed(ledger, *HOLE, says(snapshot(9, {"A": "1"})))
        states: list[list[str]] = []
        for upto in range(1, 7):
            fold = GapsFold()
            for recorded in ledger.replay(upto=upto):
                fold.apply(recorded)
            states.append([gap.state for gap in fold.rows()])
        assert [[], [], [], ["open"], ["closed"], ["closed"]] == states


def test_open_gaps_come_first_and_alone_where_asked_for() -> None:
    with Ledger() as ledger:
        feed(ledger, number(1), number(3), number(2), number(5))
        live = Gaps(ledger)
        assert [("4", "open"), ("2", "closed")] == [(gap.missing, gap.state) for gap in live.rows()]
        assert ["4"] == [gap.missing for gap in live.rows(MAIN, open_only=True)]
        assert [] == live.rows("scripted:b")
