"""Every frame decoded once more: what is made otherwise today is told, with both sides; what is not raises no alarm."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from ledger import Frame, Ledger, Malformed, redecode
from ledger.events import BalanceDelta, Event, FillRecorded, OrderUpdated, Statement
from ledger.findings import Finding
from ledger.venue import Venue
from tests import scripted
from tests.scripted import MAIN, delta, feed, fill, order, says
from tests.tampering import LATE, LATER


class Doubling:
    """The scripted venue with a defect: it makes the second delta of a frame another one, and adds nothing."""

    NAME = scripted.NAME

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        said = list(scripted.decode(frame))
        for at, (account, event) in enumerate(said[1:], 1):
            if isinstance(event, BalanceDelta):
                said[at] = (account, replace(event, removed=("X",)))
        return said


DOUBLING: Venue = Doubling()


def found(ledger: Ledger, *venues: Venue) -> list[Finding]:
    return list(ledger.verify(venues))


def test_what_is_decoded_the_same_raises_no_alarm_and_of_no_venue_nothing_is_decoded() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"}), order("o1", 2, "1")), says(fill("f1", 3, key="fill:f1")))
        assert [] == found(ledger, scripted.VENUE)
        feed(ledger, says(delta(4, {"A": "1"}), delta(5, {"B": "1"})), session="s2")
        assert [] == found(ledger)


def test_the_event_that_is_decoded_otherwise_is_named_with_both_sides() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"}), delta(2, {"A": "2"})), says(delta(3, {"A": "3"})))
        (finding,) = found(ledger, DOUBLING)
    assert ("decode", MAIN, 3, 3) == (finding.what, finding.account, finding.version, finding.position)
    assert "today's decoder makes a different BalanceDelta of its frame" == finding.reason
    assert finding.stored is not None
    assert finding.decoded is not None
    assert ('"removed":[]' in finding.stored, '"removed":["X"]' in finding.decoded) == (True, True)


def test_a_frame_that_can_be_read_today_is_told_until_it_is_retried() -> None:
    with Ledger() as ledger:
        feed(ledger, LATE + says(delta(1, {"A": "1"})), says(delta(2, {"A": "2"})))
        (finding,) = found(ledger, LATER)
        assert ("decode", 2) == (finding.what, finding.version)
        assert "quarantined, but today's decoder makes a BalanceDelta of it" in finding.reason
        assert [] == found(ledger, scripted.VENUE)
        ledger.retry([LATER], MAIN, 2)
        assert [] == found(ledger, LATER)


def test_a_redecoding_that_takes_every_frame_for_the_same_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redecode.Again, "check", lambda *_: ())
    with pytest.raises(ValueError, match="not enough values"):
        test_the_event_that_is_decoded_otherwise_is_named_with_both_sides()


class Cheaper:
    """The scripted venue with a defect: another price of every fill that is told at 0.6."""

    NAME = scripted.NAME

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        return [
            (account, replace(event, price="0.7"))
            if isinstance(event, FillRecorded) and event.price == "0.6"
            else (account, event)
            for account, event in scripted.decode(frame)
        ]


def test_a_fill_told_again_raises_no_alarm_unless_it_is_decoded_otherwise() -> None:
    first = fill("f1", 3, key="fill:f1")
    dearer = replace(first, price="0.6")
    with Ledger() as ledger:
        feed(
            ledger,
            says(first),
            says(order("o1", 2, "1"), dearer, first),
            says(dearer),
            says(dearer, fill("f2", 4)),
        )
        assert [] == found(ledger, scripted.VENUE)
        (finding,) = found(ledger, Cheaper())
    assert ("decode", 4) == (finding.what, finding.version)
    assert "today's decoder makes a different FillRecorded of its frame" == finding.reason


def test_a_quarantined_frame_that_tells_a_fill_again_is_read_late_and_raises_no_alarm() -> None:
    first = fill("f1", 3, key="fill:f1")
    with Ledger() as ledger:
        feed(ledger, says(first), LATE + says(replace(first, price="0.6")), LATE + says(first))
        assert ["read", "known"] == [ledger.retry([LATER], MAIN, at).result for at in (3, 4)]
        assert ["known", "known"] == [ledger.retry([LATER], MAIN, at).result for at in (3, 4)]
        assert [] == found(ledger, LATER)


class Otherwise:
    """The scripted venue with another idea of what a frame says, given what it said before."""

    NAME = scripted.NAME

    def __init__(self, today: Callable[[list[Statement]], list[Statement]]) -> None:
        self._today = today

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        return self._today(list(scripted.decode(frame)))


def beside(said: Statement, event: Event, account: str = MAIN) -> Statement:
    """Another event of the same frame."""
    return account, replace(event, source=said[1].source)


def test_one_more_event_of_a_frame_is_told_unless_it_is_known() -> None:
    more = (fill("f1", 3, key="fill:f1"), fill("f2", 3, key="fill:f2"), order("o1", 4))

    def today(said: list[Statement]) -> list[Statement]:
        return [*said, *(beside(said[0], event) for event in more if isinstance(said[0][1], BalanceDelta))]

    with Ledger() as ledger:
        feed(ledger, says(fill("f1", 3, key="fill:f1")), says(delta(1, {"A": "1"})), says(order("o2", 5)))
        told = found(ledger, Otherwise(today))
    reason = f"today's decoder makes one more event of its frame, of {MAIN}: "
    assert [f"{reason}FillRecorded", f"{reason}OrderUpdated"] == [each.reason for each in told]
    for each, shown in zip(told, ('"fill_id":"f2"', '"order_id":"o1"'), strict=True):
        assert ("decode", MAIN, 3, 3, None) == (
            each.what,
            each.account,
            each.version,
            each.position,
            each.stored,
        )
        assert shown in (each.decoded or "")


@pytest.mark.parametrize("known", [True, False])
def test_a_quarantined_frame_of_which_all_is_known_by_now_raises_no_alarm(known: bool) -> None:
    said = fill("f1", 3, key="fill:f1")
    with Ledger() as ledger:
        feed(ledger, LATE + says(said), says(said if known else replace(said, key="fill:f2")))
        assert known == ([] == found(ledger, LATER))


def test_a_released_frame_of_which_today_something_is_made_is_told() -> None:
    class Today:
        NAME = scripted.NAME

        def decode(self, frame: Frame, /) -> Sequence[Statement]:
            news = replace(fill("f9", 3, key="fill:f9"), source=frame.source(self.NAME, "fills"))
            return LATER.decode(frame) or [(MAIN, news)]

    with Ledger() as ledger:
        feed(ledger, LATE + says(), says(delta(1, {"A": "1"})))
        assert ("known", "known") == tuple(ledger.retry([LATER], MAIN, 2).result for _ in range(2))
        assert [] == found(ledger, LATER)
        told = [*found(ledger, Today()), *found(ledger, scripted.VENUE)]
    assert [("decode", MAIN, 5, 5)] * 2 == [
        (each.what, each.account, each.version, each.position) for each in told
    ]
    reason = f"today's decoder makes one more event of its frame, of {MAIN}: "
    assert [f"{reason}FillRecorded", f"{reason}FrameQuarantined"] == [each.reason for each in told]


def test_an_event_is_told_beside_the_one_of_its_key_else_of_its_kind_else_the_first() -> None:
    other = f"{MAIN}/0"

    def today(said: list[Statement]) -> list[Statement]:
        event = said[0][1]
        if isinstance(event, FillRecorded):
            return [beside(said[0], fill("f9", 3, key="fill:f9")), (MAIN, replace(event, price="0.7"))]
        if isinstance(event, OrderUpdated):
            return [beside(said[0], delta(1, {"B": "1"}), other)]
        if isinstance(event, BalanceDelta) and event.removed:
            return []
        return [beside(said[0], order("o9", 2), other), (other, event)]

    with Ledger() as ledger:
        feed(
            ledger,
            says(fill("f1", 3, key="fill:f1")),
            says(delta(1, {"A": "1"})),
            says(order("o1", 2)),
            says(delta(2, {}, ["A"])),
        )
        told = found(ledger, Otherwise(today))
    wanted = [
        (2, "a different FillRecorded of its frame", '"price":"0.7"'),
        (2, f"one more event of its frame, of {MAIN}: FillRecorded", '"fill_id":"f9"'),
        (3, "a different BalanceDelta of its frame", f'"account":"{other}"'),
        (3, f"one more event of its frame, of {other}: OrderUpdated", '"order_id":"o9"'),
        (4, "a different BalanceDelta of its frame", '"asset_id":"B"'),
        (5, "no such event of its frame", ""),
    ]
    reason = "today's decoder makes "
    assert [(at, f"{reason}{said}") for at, said, _ in wanted] == [
        (each.version, each.reason) for each in told
    ]
    assert all(shown in (each.decoded or "") for each, (_, _, shown) in zip(told, wanted, strict=True))
    assert [True] * 5 + [False] == [each.decoded is not None for each in told]


def test_events_without_keys_are_told_beside_their_kind_and_account_in_whatever_order_they_are_made() -> None:
    other = f"{MAIN}/0"
    stored: list[Statement] = [(MAIN, delta(1, {"A": "1"})), (MAIN, order("o1", 2)), (other, order("o1", 2))]

    def today(said: list[Statement]) -> list[Statement]:
        return [
            beside(said[0], order("o8", 2), other),
            beside(said[0], order("o9", 2)),
            beside(said[0], delta(1, {"B": "1"})),
        ]

    with Ledger() as ledger:
        feed(ledger, scripted.said(*stored))
        told = found(ledger, Otherwise(today))
    assert [
        (MAIN, "BalanceDelta", '"asset_id":"B"'),
        (MAIN, "OrderUpdated", '"order_id":"o9"'),
        (other, "OrderUpdated", '"order_id":"o8"'),
    ] == [
        (
            each.account,
            each.reason.split()[5],
            re.findall(r'"(?:asset|order)_id":"\w+"', each.decoded or "")[0],
        )
        for each in told
    ]


class Refusing:
    """The scripted venue that reads nothing any more, and says so in other words."""

    NAME = scripted.NAME

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        raise Malformed("in other words")


def test_a_frame_that_is_refused_in_other_words_raises_no_alarm() -> None:
    with Ledger() as ledger:
        feed(ledger, b"\xff nothing", says(fill("f1", 3)))
        (finding,) = found(ledger, Refusing())
    assert ("decode", 3) == (finding.what, finding.version)
    assert "today's decoder makes a different FrameQuarantined of its frame" == finding.reason
