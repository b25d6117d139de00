"""Breaks: where two statements should agree and do not, what explains or resolves them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from ledger import Ledger
from ledger.events import Asked, Balance, BalanceDelta, BalanceSnapshot, Event, FillRecorded, OrderUpdated
from projections import Balances, Breaks, Gaps, catch_up, compare
from projections.agreement import FULLS_MAX, BreakRow
from projections.breaks import Break
from projections.completeness import Missed
from tests.scripted import (
    MAIN,
    RECEIVED_NS,
    VENUE,
    delta,
    feed,
    fill,
    imported,
    order,
    says,
    snapshot,
    source,
)
from tests.terminal import rows as printed
from tests.terminal import run

SECOND_NS = 1_000_000_000
T = RECEIVED_NS

Told = tuple[str, str, str | None, str, str, str]


def told(found: Break) -> Told:
    return (found.kind, found.subject, found.part, found.expected, found.stated, found.difference)


def breaks(ledger: Ledger) -> list[Break]:
    return Breaks(ledger).rows(now_ns=T + 90 * SECOND_NS)


def found(*frames: Event | bytes) -> list[Break]:
    """The breaks of one conversation, each a frame received a second after the last."""
    with Ledger() as ledger:
        listen(ledger, *frames)
        return breaks(ledger)


def listen(
    ledger: Ledger,
    *frames: Event | bytes | tuple[Event | bytes, Asked],
    session: str = "s1",
    since_s: float = 0,
    closed: bool = True,
) -> None:
    """One conversation that begins so many seconds after T; a frame each second; closed a second after the last."""
    at_ns = T + round(since_s * SECOND_NS)
    intake = ledger.intake(VENUE, "main", session=session, opened_ns=at_ns)
    for frame in frames:
        at_ns += SECOND_NS
        asked = None
        if isinstance(frame, tuple):
            frame, asked = frame
        intake.receive_all([(frame if isinstance(frame, bytes) else says(frame), at_ns, asked)])
    if closed:
        intake.close("end", at_ns + SECOND_NS)


def asked(at_s: float) -> Asked:
    return Asked("GET /balance", T + round(at_s * SECOND_NS))


def answer(at_s: float, held: dict[str, str]) -> tuple[Event, Asked]:
    """The answer to a question of so many seconds after T."""
    return delta(T + round(at_s * SECOND_NS), held), asked(at_s)


def push(at_s: float, held: dict[str, str], *removed: str) -> Event:
    return delta(T + round(at_s * SECOND_NS), held, removed)


def whole(at_s: float, held: dict[str, str], **more: object) -> Event:
    return snapshot(T + round(at_s * SECOND_NS), held, **more)  # type: ignore[arg-type]


# A full statement and what came before it ----------------------------------------------------------------------------


def test_a_first_full_statement_is_no_break() -> None:
    assert [] == found(whole(1, {"A": "1"}))
    assert [] == found(push(1, {"A": "1"}), whole(2, {"A": "1.00", "B": "7"}))


def test_a_full_statement_that_says_otherwise_is_a_break_of_that_asset() -> None:
    (only,) = found(whole(1, {"A": "1", "B": "5"}), push(2, {"A": "2.50"}), whole(3, {"A": "2", "B": "5.0"}))
    assert (
        Break(
            MAIN,
            "snapshot",
            "A",
            "total",
            "2.50",
            "2",
            "-0.50",
            3,
            4,
            T + 3 * SECOND_NS,
            87,
            None,
            "open",
            None,
            None,
            None,
        )
        == only
    )


def test_an_asset_that_a_full_statement_does_not_name_is_stated_as_zero() -> None:
    (only,) = found(whole(1, {"A": "1", "B": "5"}), whole(2, {"B": "5"}))
    assert ("snapshot", "A", "total", "1", "0", "-1") == told(only)
    assert (2, 3) == (only.expected_version, only.stated_version)
    assert [] == found(whole(1, {"A": "0.00", "B": "5"}), whole(2, {"B": "5"}))
    assert [] == found(whole(1, {"A": "1"}), push(2, {}, "A"), whole(3, {}))


def test_an_asset_that_no_statement_before_named_was_expected_to_be_zero() -> None:
    (only,) = found(whole(1, {"A": "1"}), whole(2, {"A": "1", "B": "5"}))
    assert ("snapshot", "B", "total", "0", "5", "5") == told(only)
    assert (2, 3) == (only.expected_version, only.stated_version)
    assert [] == found(whole(1, {"A": "1"}), whole(2, {"A": "1", "B": "0.0"}))
    (again,) = found(whole(1, {"A": "1"}), push(2, {}, "A"), whole(3, {"A": "1"}))
    assert ("snapshot", "A", "total", "0", "1", "1") == told(again)


def parts(time_s: float, **said: str) -> Event:
    return BalanceSnapshot(source(T + round(time_s * SECOND_NS)), "", (Balance("A", "A", **said),))  # type: ignore[arg-type]


def test_where_the_total_differs_it_is_told_alone_else_each_part_that_does() -> None:
    was = parts(1, total="10", available="7", staked="3")
    (only,) = found(was, parts(2, total="9", available="6", staked="3"))
    assert ("snapshot", "A", "total", "10", "9", "-1") == told(only)
    two = found(was, parts(2, total="10", available="6", staked="4"))
    assert {("available", "-1"), ("staked", "1")} == {(each.part, each.difference) for each in two}
    assert [] == found(was, parts(2, total="10.0", available="7", pending="4"))  # both state no pending


def test_a_total_that_is_the_sum_of_its_parts_is_compared() -> None:
    (only,) = found(parts(1, available="7", locked="3"), parts(2, available="7", locked="2.5"))
    assert ("snapshot", "A", "total", "10", "9.5", "-0.5") == told(only)
    found_parts = found(parts(1, available="7", locked="3"), parts(2, available="6", locked="4"))
    assert {"available", "locked"} == {each.part for each in found_parts}


def test_of_one_instant_no_statement_is_later() -> None:
    assert [] == found(whole(5, {"A": "5"}), whole(5, {"A": "6"}))
    assert [] == found(push(5, {"A": "5"}), whole(5, {"A": "6"}))


def test_a_statement_told_again_makes_no_break() -> None:
    assert [] == found(*[whole(each, {"A": "1"}) for each in range(1, 6)])
    with Ledger() as ledger:
        listen(ledger, *[answer(each, {"A": "1"}) for each in range(1, 6)])
        assert [] == breaks(ledger)


def test_each_full_statement_that_differs_is_a_break_of_its_own_and_none_closes_another() -> None:
    frames = [whole(1, {"A": "1"}), whole(2, {"A": "2"}), whole(3, {"A": "2"}), whole(4, {"A": "1"})]
    assert [("1", "2", "open"), ("2", "1", "open")] == [
        (each.expected, each.stated, each.state) for each in found(*frames)
    ]


# Pages


def paged(at_s: float, held: dict[str, str], *, first: bool = False, last: bool = False) -> Event:
    return whole(at_s, held, part="7", more=not last, begins=first)


def test_an_asset_is_compared_when_its_page_comes_and_absence_when_all_are_there() -> None:
    before = whole(1, {"A": "1", "B": "2", "X": "9"})
    first, last = paged(2, {"A": "1.5"}, first=True), paged(3, {"B": "2"}, last=True)
    assert ["A"] == [each.subject for each in found(before, first)]
    both = found(before, first, last)
    assert [("A", "0.5", 3), ("X", "-9", 4)] == [
        (each.subject, each.difference, each.stated_version) for each in both
    ]


def test_a_statement_of_which_a_page_is_missing_says_nothing_of_absent_assets() -> None:
    def numbered(number: int, held: dict[str, str], of: str, **more: bool) -> Event:
        return whole(number, held, part=of, sequence=number % 10, **more)

    whole_one = [
        numbered(11, {"A": "1"}, "7", more=True),
        numbered(12, {"B": "2"}, "7", begins=False),
    ]
    torn = [numbered(21, {"A": "1"}, "8", more=True), numbered(23, {"C": "0"}, "8", begins=False)]
    assert [] == found(*whole_one, *torn)
    again = [numbered(31, {"A": "1"}, "9", more=True), numbered(32, {"B": "2"}, "9", begins=False)]
    assert [] == found(*whole_one, *torn, *again)
    (only,) = found(*whole_one, *torn, numbered(31, {"A": "1", "B": "3"}, "9"))
    assert ("B", "2", "3") == (only.subject, only.expected, only.stated)
    assert 3 == only.expected_version


# What explains a break


def test_a_difference_found_after_a_blind_interval_is_explained_by_it_and_closed_at_once() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}))
        listen(ledger, whole(11, {"A": "3"}), session="s2", since_s=10)
        (only,) = breaks(ledger)
        assert "blind interval 2026-09-21T14:13:22Z–2026-09-21T14:13:30Z" == only.explained_by
        assert ("closed", 5, T + 11 * SECOND_NS, 0) == (
            only.state,
            only.closed_by,
            only.closed_ns,
            only.age_s,
        )
        assert "missed in the gap; the statement counts" == only.closed_how
        assert [] == Breaks(ledger).rows(open_only=True)


def test_a_difference_found_in_a_later_session_with_the_asset_stated_since_is_not_explained() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}))
        listen(ledger, push(11, {"A": "2"}), whole(12, {"A": "3"}), session="s2", since_s=10)
        (only,) = breaks(ledger)
        assert ("2", "3", None, "open") == (only.expected, only.stated, only.explained_by, only.state)


def numbered(number: int, held: dict[str, str], of: str = "7") -> Event:
    return delta(T + number * SECOND_NS, held, sequence=number, subscription=of)


def test_a_difference_found_after_a_hole_in_the_sequence_is_explained_by_it() -> None:
    base = whole(1, {"A": "1", "B": "1"}, part="7", sequence=1)
    frames = [base, numbered(2, {"A": "2"}), numbered(4, {"B": "4"})]
    anew = whole(5, {"A": "3", "B": "4"}, part="8", sequence=1)
    (only,) = found(*frames, anew)
    assert ("A", "sequence gap 3", "closed") == (only.subject, only.explained_by, only.state)
    # what the asset was stated as since the hole is not explained by it
    (other,) = found(*frames, numbered(5, {"A": "5"}), whole(6, {"A": "3", "B": "4"}, part="8", sequence=1))
    assert ("5", "3", None, "open") == (other.expected, other.stated, other.explained_by, other.state)


def test_a_new_baseline_without_a_hole_before_it_that_differs_is_not_explained() -> None:
    base = whole(1, {"A": "1"}, part="7", sequence=1)
    (only,) = found(base, numbered(2, {"A": "2"}), whole(3, {"A": "3"}, part="8", sequence=1))
    assert (None, "open") == (only.explained_by, only.state)


# What resolves a break


def test_a_statement_that_arrives_late_and_agrees_resolves_it() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}), whole(5, {"A": "3"}))
        listen(ledger, push(3, {"A": "3.0"}), session="s2", since_s=20)
        (only,) = breaks(ledger)
        assert ("closed", 6, T + 21 * SECOND_NS, 19) == (
            only.state,
            only.closed_by,
            only.closed_ns,
            only.age_s,
        )
        assert "arrived late: version 6 says the same" == only.closed_how


def test_a_removal_that_arrives_late_resolves_that_it_is_gone() -> None:
    (only,) = found(whole(1, {"A": "1"}), whole(5, {}), push(3, {}, "A"))
    assert ("-1", "closed", 4) == (only.difference, only.state, only.closed_by)


@pytest.mark.parametrize(
    "late",
    [
        push(3, {"A": "2"}),  # says something else
        push(3, {"B": "3"}),  # of another asset
        push(1, {"B": "3"}),  # of the instant of what was expected, and of another asset
        push(9, {"A": "3"}),  # later than what was stated
        whole(5, {"A": "3", "B": "3"}),  # told no more than the one that found it
        whole(9, {"A": "3"}),
    ],
)
def test_nothing_else_resolves_it(late: Event) -> None:
    held = found(whole(1, {"A": "1", "B": "3"}), whole(5, {"A": "3", "B": "3"}), late)
    assert [("A", "open")] == [(each.subject, each.state) for each in held if each.subject == "A"]


# What comes late


def sides(*frames: Event | bytes) -> list[tuple[str, str, int | None, int | None, str]]:
    return [
        (each.expected, each.stated, each.expected_version, each.stated_version, each.state)
        for each in found(*frames)
        if each.subject == "A"
    ]


def test_a_late_statement_that_a_full_one_after_it_differs_from_is_a_break() -> None:
    assert [] == sides(whole(5, {"A": "7"}))
    assert [("5", "7", 3, 2, "open")] == sides(whole(5, {"A": "7"}), push(3, {"A": "5"}))
    assert [("5", "7", 4, 3, "open")] == sides(
        whole(1, {"A": "7"}), whole(5, {"A": "7"}), push(3, {"A": "5"})
    )
    assert [("0", "7", 4, 3, "open")] == sides(whole(1, {"A": "7"}), whole(5, {"A": "7"}), push(3, {}, "A"))
    assert [] == sides(whole(5, {"A": "7"}), push(3, {"A": "7.0"}))
    assert [] == sides(push(5, {"A": "7"}), push(3, {"A": "5"}))  # none of these is full


def test_it_is_compared_with_the_first_full_statement_after_it_alone() -> None:
    frames = [whole(2, {"A": "2"}), whole(4, {"A": "4"}), whole(6, {"A": "6"})]
    both = [("2", "4", 2, 3, "open"), ("4", "6", 3, 4, "open")]
    assert both == sides(*frames)
    assert [both[0], ("5", "6", 5, 4, "open")] == sides(*frames, push(5, {"A": "5"}))
    assert [("3", "4", 5, 3, "open"), both[1]] == sides(*frames, push(3, {"A": "3"}))
    assert [("1", "2", 5, 2, "open"), *both] == sides(*frames, push(1, {"A": "1"}))
    assert both == sides(*frames, push(7, {"A": "7"}))
    assert both == sides(*frames, push(7, {"A": "7"}), push(6.5, {"A": "9"}))


def test_only_the_newest_before_the_full_one_counts_whichever_comes_first() -> None:
    full, one, other = whole(5, {"A": "7"}), push(3, {"A": "3"}), push(4, {"A": "4"})
    assert [("4", "7", 4, 2, "open")] == sides(full, one, other)
    assert [("4", "7", 3, 2, "open")] == sides(full, other, one)
    closed = sides(full, one, push(4, {"A": "7"}))
    assert [("3", "7", 3, 2, "closed")] == closed
    again = sides(full, one, push(3.5, {"A": "7"}), other)
    assert [("4", "7", 5, 2, "open")] == again


def test_a_full_statement_that_comes_late_is_compared_with_what_was_before_it_too() -> None:
    early, late, last = whole(1, {"A": "1"}), whole(3, {"A": "3"}), whole(5, {"A": "5"})
    assert [("1", "3", 2, 4, "open"), ("3", "5", 4, 3, "open")] == sides(early, last, late)
    assert [("1", "3", 2, 4, "open"), ("3", "5", 4, 3, "open"), ("3", "4", 4, 5, "open")] != sides(
        early, last, late, push(4, {"A": "4"})
    )
    assert [("1", "3", 2, 4, "open"), ("4", "5", 5, 3, "open")] == sides(
        early, last, late, push(4, {"A": "4"})
    )
    assert [("2", "3", 5, 4, "open"), ("3", "5", 4, 3, "open")] == sides(
        early, last, late, push(2, {"A": "2"})
    )


def test_a_late_statement_of_a_whole_account_says_what_it_does_not_name_is_not_held() -> None:
    frames = [whole(1, {"A": "1"}), whole(5, {"A": "1"})]
    assert [] == sides(*frames)
    found = sides(*frames, whole(3, {}))
    assert [("1", "0", 2, 4, "open"), ("0", "1", 4, 3, "open")] == found


def test_an_asset_heard_of_late_was_held_before_a_whole_statement_without_it() -> None:
    assert [("5", "0", 3, 2, "open")] == sides(whole(5, {"B": "1"}), push(3, {"A": "5"}))
    assert [("5", "0", 3, 2, "closed")] == sides(whole(5, {"B": "1"}), push(3, {"A": "5"}), push(4, {}, "A"))
    assert [("6", "0", 4, 2, "open")] == sides(whole(5, {"B": "1"}), push(3, {"A": "5"}), push(4, {"A": "6"}))
    assert [] == sides(whole(5, {"B": "1"}), push(3, {"A": "0.0"}))


def test_within_a_subscription_the_number_says_which_is_older() -> None:
    base = whole(9, {"A": "7"}, part="7", sequence=2)
    assert [("5", "7", 3, 2, "open")] == sides(
        base, delta(T + 9 * SECOND_NS, {"A": "5"}, sequence=1, subscription="7")
    )


def test_a_recording_ingested_later_is_compared_and_the_blind_interval_between_explains_it() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(21, {"A": "7"}), session="s2", since_s=20)
        assert [] == breaks(ledger)
        listen(ledger, whole(1, {"A": "5"}), session="s1")
        (only,) = breaks(ledger)
        assert ("5", "7", "2") == (only.expected, only.stated, only.difference)
        assert "blind interval 2026-09-21T14:13:22Z–2026-09-21T14:13:40Z" == only.explained_by
        assert ("closed", 2) == (only.state, only.closed_by)
    with Ledger() as ledger:  # said after the interval: that explains nothing
        listen(ledger, whole(1, {"A": "7"}))
        listen(ledger, whole(25, {"A": "7"}), session="s2", since_s=20)
        listen(ledger, push(23, {"A": "5"}), session="s2-again", since_s=20)
        (only,) = breaks(ledger)
        assert (None, "open") == (only.explained_by, only.state)


def test_a_blind_interval_that_began_after_the_answer_explains_nothing() -> None:
    """Nor one of a login by which another account is heard: it is found at that account's last version."""
    for account in (MAIN, "scripted:b"):

        def of(event: Event, account: str = account) -> bytes:
            return says(event, account=account)

        with Ledger() as ledger:
            listen(ledger, of(push(1, {"A": "5"})), (of(push(1.5, {"A": "7"})), asked(1.5)))
            assert ["open"] == [each.state for each in breaks(ledger)]
            listen(ledger, session="s2", since_s=5)
            assert [("blind", account)] == [(gap.kind, gap.account) for gap in Gaps(ledger).rows()]
            assert ["open"] == [each.state for each in breaks(ledger)]
            listen(ledger, (of(push(9, {"A": "7"})), asked(9)), session="s3", since_s=9)
            assert [(None, "open")] == [(each.explained_by, each.state) for each in breaks(ledger)]


def test_a_number_that_came_late_does_not_explain_what_differs_from_it_but_what_is_missing_still_does() -> (
    None
):
    frames = [whole(1, {"A": "1"}, part="7", sequence=1), numbered(5, {"B": "1"})]
    anew = whole(6, {"A": "9", "B": "1"}, part="8", sequence=1)
    three, four = numbered(3, {"A": "3"}), numbered(4, {"A": "3"})
    for came, left in (
        ([*frames, three, anew], "sequence gap 4"),
        ([*frames, anew, three], "sequence gap 2-4"),
        ([*frames, four, anew], None),
        ([*frames, anew, four], None),
    ):
        (only,) = [each for each in found(*came) if each.subject == "A"]
        assert ("3", "9", left) == (only.expected, only.stated, only.explained_by)


def test_only_the_last_full_statements_are_compared_with_what_comes_late() -> None:
    many = [whole(10 * each, {"A": "1"}) for each in range(1, FULLS_MAX + 2)]
    assert [] == sides(*many, push(5, {"A": "5"}), push(15, {"A": "1"}))  # the first is forgotten
    assert 1 == len(sides(*many, push(15, {"A": "5"})))
    assert 1 == len(sides(*many, push(10 * FULLS_MAX + 5, {"A": "5"})))


def test_how_many_breaks_are_open_costs_a_statement_nothing() -> None:
    """Ever different, and never explained: the thousandth costs what the tenth does."""
    with Ledger() as ledger:
        frames = [whole(each, {"A": str(each)}) for each in range(1, 400)]
        listen(ledger, *frames, closed=False)
        fold = Balances(ledger)
        fold.rows()
        reads: list[object] = []
        table = fold.fold.agreement.breaks
        get = table.get

        def noted(*key: Any) -> Any:
            reads.append(key)
            return get(*key)

        table.get = noted  # type: ignore[method-assign]
        listen(ledger, push(500, {"A": "1"}), whole(501, {"A": "2"}), session="s2", closed=False)
        fold.rows()
        assert 399 == len(list(table.rows()))
        assert len(reads) <= 10


def test_what_explains_a_break_is_found_without_looking_at_every_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    lies_between = Missed._lies_between

    def noted(self: Missed, row: BreakRow, place: int) -> bool:
        looked.append(place)
        return lies_between(self, row, place)

    monkeypatch.setattr(Missed, "_lies_between", noted)
    with Ledger() as ledger:
        for number in range(40):
            held = {"A": str(number), "B": str(number)}
            listen(ledger, whole(10 * number, held), session=f"s{number}", since_s=10 * number)
        assert 78 == len([each for each in Breaks(ledger).rows() if each.explained_by is not None])
        assert 78 == len(looked)


def test_what_an_answer_says_may_be_pushed_just_after_it() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}), answer(1.5, {"A": "3"}))
        assert ["open"] == [each.state for each in breaks(ledger)]
        listen(ledger, push(4, {"A": "3"}), session="s2", since_s=3)
        (only,) = breaks(ledger)
        assert ("closed", "said by the venue just after: version 6 says the same") == (
            only.state,
            only.closed_how,
        )
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}), answer(1.5, {"A": "3"}))
        listen(ledger, push(30, {"A": "3"}), session="s2", since_s=29)
        assert ["open"] == [each.state for each in breaks(ledger)]


def test_another_answer_does_not_explain_the_one_before() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}), answer(1.5, {"A": "3"}), answer(2.5, {"A": "3"}))
        assert ["open"] == [each.state for each in breaks(ledger)]


def test_an_answer_is_not_the_whole_account() -> None:
    with Ledger() as ledger:
        listen(ledger, answer(0, {"A": "1"}), whole(3, {"A": "1", "B": "2"}))
        assert [] == breaks(ledger)


def test_an_answer_that_is_older_than_what_was_pushed_meanwhile_makes_no_break() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}), push(2, {"A": "2"}), answer(1.5, {"A": "1"}))
        assert [] == breaks(ledger)


def test_an_answer_says_nothing_of_what_it_does_not_name() -> None:
    with Ledger() as ledger:
        listen(ledger, answer(0, {"A": "1"}), push(2, {"B": "2"}), answer(2.5, {"A": "1"}))
        assert [] == breaks(ledger)
        listen(ledger, answer(9.5, {"A": "1", "C": "4"}), session="s2", since_s=9)
        (only,) = breaks(ledger)
        assert ("C", "0", "4") == (only.subject, only.expected, only.stated)


# Fills ---------------------------------------------------------------------------------------------------------------


def test_fewer_fills_than_executed_is_a_break_until_they_come() -> None:
    with Ledger() as ledger:
        listen(ledger, order("o1", T, "3"), fill("f1", T, quantity="1"))
        (only,) = breaks(ledger)
        assert ("fills", "o1", None, "3", "1", "-2") == told(only)
        assert (2, 3, "open", 89) == (
            only.expected_version,
            only.stated_version,
            only.state,
            only.age_s,
        )
        listen(ledger, fill("f2", T, quantity="2.0"), session="s2", since_s=10)
        (only,) = breaks(ledger)
        assert ("closed", 6, "version 6 makes them equal") == (only.state, only.closed_by, only.closed_how)
        assert 10 == only.age_s


def test_more_fills_than_executed_is_a_break_until_the_order_says_so() -> None:
    with Ledger() as ledger:
        both = says(order("o1", T, "1"), fill("f1", T, quantity="1"))
        listen(ledger, both, fill("f2", T, quantity="1.5"))
        (only,) = breaks(ledger)
        assert ("fills", "o1", None, "1", "2.5", "1.5") == told(only)
        listen(ledger, order("o1", T + 1, "2.5"), session="s2", since_s=10)
        assert ["closed"] == [each.state for each in breaks(ledger)]


def test_an_order_and_its_fills_in_one_frame_were_never_apart() -> None:
    filled: list[Event] = [fill("f1", T, quantity="1"), fill("f2", T, quantity="2")]
    assert [] == found(says(order("o1", T, "3"), *filled))
    assert [] == found(says(*filled, order("o1", T, "3")))
    assert [] == found(says(order("o1", T, "3"), *filled), order("o1", T, "3"))
    assert 1 == len(found(says(order("o1", T, "3"), filled[0])))


def test_a_break_that_closes_shows_the_difference_as_the_frame_before_left_it() -> None:
    """What is summed up within a frame was never told."""
    fills = [fill(f"f{each}", each) for each in range(3)]
    (only,) = found(order("o1", 1, "3"), says(*fills))
    assert ("3", "0", "-3") == (only.expected, only.stated, only.difference)
    assert ("closed", 5, 2, None) == (only.state, only.closed_by, only.expected_version, only.stated_version)
    frames = [says(order("o1", 1, "3")), says(fills[0])]
    (only,) = found(*frames, says(*fills[1:], order("o1", 2, "3")))
    assert ("3", "1", "-2") == (only.expected, only.stated, only.difference)
    assert ("closed", 2, 3) == (only.state, only.expected_version, only.stated_version)
    (only,) = found(*frames, says(fills[1]))  # while it is open, as it is now
    assert ("2", "open", 4) == (only.stated, only.state, only.stated_version)


def test_an_order_that_comes_apart_again_is_another_break() -> None:
    frames: list[Event] = [order("o1", T, "1"), fill("f1", T), order("o1", T + 1, "2"), fill("f2", T + 1)]
    assert [("closed", 2), ("closed", 4)] == [(each.state, each.expected_version) for each in found(*frames)]


def test_an_older_state_of_an_order_and_one_without_quantity_say_nothing() -> None:
    unknown = OrderUpdated(source(), "", "o1", "ADAUSD", "buy", "limit", "open", False, updated_ns=T + 9)
    assert [] == found(says(order("o1", T, "1"), fill("f1", T)), order("o1", T - 1, "0"))
    assert [] == found(unknown, fill("f1", T))
    assert [] == found(fill("f1", T))


def test_orders_and_accounts_are_summed_apart() -> None:
    other = says(order("o1", T, "5"), account="scripted:b")
    subjects = [
        (each.account, each.subject) for each in found(says(order("o1", T, "1"), fill("f1", T)), other)
    ]
    assert [("scripted:b", "o1")] == subjects


# Quote quantities ----------------------------------------------------------------------------------------------------


def quoted(price: str, quantity: str, quote: str | None) -> Event:
    return FillRecorded(source(), "", "f1", "o9", "ADAUSD", "buy", price, quantity, quote, time_ns=T)


@pytest.mark.parametrize(
    ("quote", "differs"),
    [
        ("100", False),
        ("100.01", False),
        ("99.99", False),
        ("100.0100001", True),
        ("99.98", True),
        ("25", True),
    ],
)
def test_a_quote_quantity_is_held_against_price_times_quantity(quote: str, differs: bool) -> None:
    assert differs == bool(found(quoted("0.5", "200", quote)))
    assert differs == bool(found(quoted("-0.5", "200", f"-{quote}")))


def test_a_quote_break_says_both_and_stays() -> None:
    (only,) = found(quoted("0.5", "200", "25.5"), quoted("1", "1", None))
    assert ("quote", "f1", None, "100.0", "25.5", "-74.5") == told(only)
    assert (2, 2, "open") == (only.expected_version, only.stated_version, only.state)
    assert [] == found(quoted("0", "200", "0"))
    assert 1 == len(found(quoted("0", "200", "1")))


# The account and its history -----------------------------------------------------------------------------------------


def row(at_s: float, amount: str, balance: str) -> Event:
    return imported(T + round(at_s * SECOND_NS), amount, balance)


ROWS = [row(-30, "5", "5"), row(-20, "2", "7")]


def test_an_account_that_holds_what_its_history_comes_to_is_no_break() -> None:
    with Ledger() as ledger:
        listen(ledger, *ROWS, answer(2, {"USDC": "7.00"}))
        assert [] == breaks(ledger)


def test_an_account_that_holds_something_else_is_a_break_until_the_row_comes() -> None:
    with Ledger() as ledger:
        listen(ledger, *ROWS, answer(2, {"USDC": "8"}))
        (only,) = breaks(ledger)
        assert ("account", "USDC", "total", "7", "8", "1") == told(only)
        assert (3, 4, None, "open") == (
            only.expected_version,
            only.stated_version,
            only.explained_by,
            only.state,
        )
        listen(ledger, row(1, "1", "8"), session="s2", since_s=10)
        (only,) = breaks(ledger)
        assert ("closed", 7) == (only.state, only.closed_by)
        assert "arrived late: with the row of version 7 the history comes to it" == only.closed_how


def test_a_row_of_later_or_one_that_does_not_lead_there_leaves_it_open() -> None:
    for late in (row(20, "1", "8"), row(1, "2", "9"), row(-25, "3", "8")):
        with Ledger() as ledger:
            listen(ledger, *ROWS, answer(2, {"USDC": "8"}))
            listen(ledger, late, session="s2", since_s=30)
            assert ["open"] == [each.state for each in breaks(ledger)]


def test_an_account_is_compared_with_its_history_as_of_its_time_until_it_came() -> None:
    """The venue's time of an account may be older than what it says of it."""
    with Ledger() as ledger:
        listen(ledger, *ROWS, row(1.5, "1", "8"), answer(-25, {"USDC": "5"}), answer(-25, {"USDC": "8"}))
        assert [] == breaks(ledger)
        listen(ledger, answer(-25, {"USDC": "6"}), session="s2", since_s=20)
        (only,) = breaks(ledger)
        assert ("account", "USDC", "total", "5", "6", "1") == told(only)


def test_an_account_without_a_history_is_compared_with_itself_and_a_row_explains_it() -> None:
    with Ledger() as ledger:
        listen(ledger, answer(0, {"USDC": "0"}), answer(1.5, {"USDC": "5"}))
        assert [("snapshot", "USDC", "total", "0", "5", "5")] == list(map(told, breaks(ledger)))
        listen(ledger, row(1, "5", "5"), session="s2", since_s=10)
        assert ["closed"] == [each.state for each in breaks(ledger)]


# Any batching, restart -----------------------------------------------------------------------------------------------


def scripted(dice: Random) -> list[list[Event]]:
    """Frames of all kinds of event, of any time."""
    frames: list[list[Event]] = []
    for number in range(40):
        at_s, kind = dice.randint(0, 60), dice.randint(0, 6)
        stated = {asset: str(dice.randint(0, 2)) for asset in "AB" if dice.random() < 0.7}
        events: list[Event] = []
        if kind == 0:
            events = [whole(at_s, stated)]
        elif kind == 1:
            events = [paged(at_s, stated, first=dice.random() < 0.6, last=dice.random() < 0.6)]
        elif kind == 2:
            events = [push(at_s, stated, *[asset for asset in "AB" if asset not in stated][:1])]
        elif kind == 3:
            events = [row(at_s, "1", str(dice.randint(0, 2)))]
        elif kind == 4:
            events = [push(at_s, {"USDC": str(dice.randint(0, 2))})]
        else:
            name = dice.choice(["o1", "o2"])
            filled = FillRecorded(
                source(), "", f"f{number}", name, "X", "buy", "1", "1", dice.choice(["1", "2"])
            )
            updated = order(name, dice.randint(0, 9), str(dice.randint(0, 5)))
            both: list[Event] = [filled, updated]
            events = both[dice.randint(0, 1) :]
        frames.append(events)
    return frames


@pytest.mark.few
@pytest.mark.parametrize("seed", range(15))
def test_any_batching_and_restart_gives_the_breaks_of_a_fold_from_zero(tmp_path: Path, seed: int) -> None:
    dice = Random(seed)
    path = tmp_path / "a.db"
    ledger = Ledger(path)
    live = Breaks(ledger)
    for number, events in enumerate(scripted(dice)):
        at = asked(number) if dice.random() < 0.3 else None
        with ledger.intake(VENUE, "main", session=f"s{number}", opened_ns=T + number * SECOND_NS) as intake:
            intake.receive_all([(says(*events), T + number * SECOND_NS, at)])
        if dice.random() < 0.3:
            live.rows()
        if dice.random() < 0.1:
            ledger.close()
            ledger = Ledger(path)
            live = Breaks(ledger)
    now_ns = T + 100 * SECOND_NS
    with ledger, Ledger() as scratch:
        folded = Breaks(ledger, scratch)
        assert folded.rows(now_ns=now_ns) == live.rows(now_ns=now_ns)
        assert 3 < len(live.rows())
        for one, other in zip(live.projections, folded.projections, strict=True):
            assert [] == list(compare(one, other))
        with Ledger(path, read_only=True) as reader:
            assert folded.rows(now_ns=now_ns) == Breaks(reader).rows(now_ns=now_ns)


def test_reading_balances_first_or_breaks_first_is_the_same() -> None:
    frames: Sequence[Event] = [whole(1, {"A": "1"}), whole(2, {"A": "2"}), order("o1", T, "3")]
    told_of: list[Iterable[Told]] = []
    for first in (Balances, Breaks):
        with Ledger() as ledger:
            listen(ledger, *frames)
            catch_up(ledger, first(ledger).projections)
            told_of.append([told(each) for each in breaks(ledger)])
    assert told_of[0] == told_of[1]
    assert 2 == len(list(told_of[0]))


# The command ---------------------------------------------------------------------------------------------------------


FIELDS = [
    "account",
    "kind",
    "subject",
    "part",
    "expected",
    "stated",
    "difference",
    "expected_version",
    "stated_version",
    "time",
    "age_s",
    "explained_by",
    "state",
    "closed_by",
    "closed",
    "closed_how",
]


def test_the_command_prints_them_and_says_by_its_code_whether_one_is_open(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        listen(ledger, whole(1, {"A": "1"}))
        listen(ledger, whole(11, {"A": "3"}), session="s2", since_s=10, closed=False)
    (only,) = printed(tmp_path, "breaks")
    assert FIELDS == list(only)
    assert ("1", "3", "2", "closed", 0) == (
        only["expected"],
        only["stated"],
        only["difference"],
        only["state"],
        only["age_s"],
    )
    assert (0, "[]\n") == run(tmp_path, "breaks", "--db", "a.db", "--open", "--json")[:2]
    with Ledger(tmp_path / "a.db") as ledger:
        listen(ledger, whole(12, {"A": "4"}), session="s3", since_s=10.5)
    assert ["open", "closed"] == [each["state"] for each in printed(tmp_path, "breaks", MAIN)]
    ran = run(tmp_path, "breaks", "--db", "a.db", "--open")
    assert (1, True) == (ran.code, "OPEN" in ran.out)
    assert 2 == run(tmp_path, "breaks", "--db", "a.db", "nobody").code


def test_a_balance_delta_of_another_kind_of_event_is_nothing_to_it() -> None:
    with Ledger() as ledger:
        feed(ledger, b"garbage", says(BalanceDelta(source(T), "", ())))
        assert [] == breaks(ledger)


def test_a_statement_without_an_executed_quantity_is_compared_with_nothing() -> None:
    silent = replace(order("o1", 5), executed=None)
    assert [] == [each for each in found(order("o1", 4, "5"), silent, again()) if each.state == "open"]
    assert [("fills", "o1", None, "5", "0", "-5")] == [
        told(each) for each in found(order("o1", 4, "5"), silent)
    ]


# -- fills told again


def again(**changed: object) -> FillRecorded:
    return replace(fill("f1", 3, key="fill:f1", quantity="5"), **changed)


def test_a_fill_told_again_otherwise_is_a_break_of_each_part_and_no_second_execution() -> None:
    state = order("o1", 4, "5", closed=True)
    expected = [
        ("retold", "f1", "fee", "0.1", "0.2", "0.1"),
        ("retold", "f1", "price", "0.5", "0.6", "0.1"),
        ("retold", "f1", "side", "5", "0", "-5"),
    ]
    first, other = again(fee="0.1"), again(price="0.6", fee="0.2", side="sell")
    runs: list[list[Event]] = [
        [first, state, other],
        [first, other, state, first, again(), again(fee="0.10")],
    ]
    for frames in runs:
        assert expected == sorted(map(told, found(*frames)), key=lambda each: str(each[2]))


def test_a_break_of_a_fill_names_both_versions_and_the_time_of_the_later_one() -> None:
    (only,) = found(again(), order("o1", 4, "5", closed=True), again(price="0.6"))
    assert (2, 4, T + 3 * SECOND_NS, "open") == (
        only.expected_version, only.stated_version, only.time_ns, only.state,
    )  # fmt: skip


def test_a_fill_told_again_of_another_order_counts_for_the_one_it_was_told_of_first() -> None:
    breaks = found(again(), order("o1", 4, "5"), again(order_id="o2"), order("o2", 4, "5"))
    assert [("fills", "o2", None, "5", "0", "-5"), ("retold", "f1", "order_id", "5", "0", "-5")] == sorted(
        map(told, breaks)
    )


def test_what_was_told_more_of_a_fill_is_what_the_next_telling_is_compared_with() -> None:
    breaks = found(again(), again(fee="0.1"), again(fee="0.2"), again(fee="0.1", price="0.50"))
    assert [("retold", "f1", "fee", "0.1", "0.2", "0.1")] == [told(each) for each in breaks]


def test_a_quote_quantity_told_later_is_judged_once() -> None:
    quote = ("quote", "f1", None, "2.5", "9", "6.5")
    for frames in ([again(), again(quote_quantity="9"), again(quote_quantity="9", fee="0.1")],
                   [again(quote_quantity="9"), again(quote_quantity="9", fee="0.1")]):  # fmt: skip
        assert [quote] == [told(each) for each in found(*frames)]


def test_a_removal_of_the_moment_of_the_whole_statement_without_the_asset_explains_it() -> None:
    (only,) = found(push(1, {"A": "5"}), whole(2, {"B": "1"}), push(2, {}, "A"))
    assert ("snapshot", "A", "total", "5", "0", "-5") == told(only)
    assert "closed" == only.state
    assert "arrived late: version 4 says the same" == only.closed_how
