"""What makes an event usual, and how much of a history waits."""

from __future__ import annotations

from ledger import Recorded
from projections.newest import SUBSCRIPTIONS_MAX, TAIL_EVENTS, Front, Tail, last_instants
from tests.scripted import MAIN, delta, imported


def front(*, arriving: bool = False, number: int = 5) -> Front:
    return Front(0, 0, 0, arriving, {"7": 3}, "7", number)


def takes(place: Front, sequence: int | None, subscription: str | None = "7", position: int = 9) -> bool:
    recorded = Recorded(MAIN, 1, delta(1, {}, sequence=sequence, subscription=subscription), position)
    return place.counts(recorded, recorded.event.source)


def test_a_number_not_below_those_of_its_subscription_is_usual() -> None:
    assert [False, True, True] == [takes(front(), number) for number in (2, 3, 4)]
    assert takes(front(), 0, "8")
    assert takes(front(), None)
    place = front()
    assert [True, False] == [takes(place, 6), takes(place, 5)]


def test_no_number_is_usual_while_a_statement_in_pages_is_under_way() -> None:
    assert [False, True] == [takes(front(arriving=True), number) for number in (9, None)]


def test_the_last_number_of_the_whole_accounts_subscription_waits() -> None:
    for sequence, subscription, expected in (
        (4, "7", (5, 0)),
        (5, "7", (5, 9)),
        (6, "7", (6, 9)),
        (6, "8", (5, 0)),
    ):
        place = front()
        assert takes(place, sequence, subscription)
        assert expected == (place.number, place.position)
        assert bool(expected[1]) == place.waits()


def test_no_more_subscriptions_are_remembered_than_a_bound() -> None:
    place = front()
    taken = [takes(place, 1, f"s{number}") for number in range(2 * SUBSCRIPTIONS_MAX)]
    assert SUBSCRIPTIONS_MAX == sum(taken) == len(place.numbers) - 1


def rows(*times: int) -> list[Recorded]:
    return [Recorded(MAIN, version, imported(time_ns, "1", "1")) for version, time_ns in enumerate(times, 1)]


def test_the_last_instants_are_whole() -> None:
    events = rows(1, 2, 2, 3, 3)
    found = [[each.version for each in last_instants(events, count)] for count in (1, 2, 3, 4)]
    assert [[4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]] == found
    assert [] == last_instants([], 1)


def test_all_rows_are_counted_and_only_the_last_wait() -> None:
    tail = Tail()
    for recorded in rows(*range(10 * TAIL_EVENTS)):
        tail.add(recorded, 3)
        assert len(tail.events) <= TAIL_EVENTS + 3
    assert 10 * TAIL_EVENTS == tail.count
    assert [10 * TAIL_EVENTS] == [each.version for each in last_instants(tail.events, 1)]


def test_of_one_instant_all_rows_wait() -> None:
    tail = Tail()
    for recorded in rows(*[1] * 3 * TAIL_EVENTS):
        tail.add(recorded, 1)
    assert 3 * TAIL_EVENTS == tail.count == len(tail.events)
