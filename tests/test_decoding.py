"""Decoded again: a changed decoder is reported on exactly the events it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from ledger import Frame, Ledger, Malformed, Recorded, Venue
from ledger.events import (
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    Event,
    FillRecorded,
    FrameQuarantined,
    FrameReleased,
    OrderUpdated,
    Statement,
)
from ledger.findings import Finding
from ledger.venues import bitopro, deltadefi, kraken_prime, pacifica
from tests import scripted
from tests.scripted import MAIN, delta, feed, fill, said, says, snapshot
from tests.tampering import LATE, LATER, VENUES, record

Change = Callable[[Frame, Sequence[Statement]], Sequence[Statement]]


class Changed:
    """A venue as another version of its module might be."""

    def __init__(self, venue: Venue, change: Change) -> None:
        self.NAME: Final = venue.NAME
        self._venue = venue
        self._change = change

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        return self._change(frame, self._venue.decode(frame))


def each(change: Callable[[Event], Event]) -> Change:
    return lambda _, said: [(account, change(event)) for account, event in said]


def ada(event: Event) -> Event:
    """One currency's available read from another field."""
    if not isinstance(event, BalanceSnapshot):
        return event
    return replace(
        event,
        balances=tuple(replace(b, available="0") if b.asset == "ADA" else b for b in event.balances),
    )


def fee(event: Event) -> Event:
    return replace(event, fee="0") if isinstance(event, OrderUpdated | FillRecorded) and event.fee else event


def cause(event: Event) -> Event:
    if isinstance(event, BalanceEventImported) and event.cause == "deposit":
        return replace(event, cause="transfer")
    return event


def role(event: Event) -> Event:
    return replace(event, role="none") if isinstance(event, FillRecorded) else event


def refuses(_: Frame, said: Sequence[Statement]) -> Sequence[Statement]:
    if any(isinstance(event, BalanceSnapshot) for _, event in said):
        raise Malformed("not any more")
    return said


def elsewhere(_: Frame, said: Sequence[Statement]) -> Sequence[Statement]:
    return [("scripted:moved" if isinstance(e, FillRecorded) else account, e) for account, e in said]


def leaves_out(_: Frame, said: Sequence[Statement]) -> Sequence[Statement]:
    return [(account, event) for account, event in said if not isinstance(event, OrderUpdated)]


def place(recorded: Recorded) -> tuple[str | None, int | None]:
    return recorded.account, recorded.version


@pytest.mark.parametrize(
    ("venue", "change"),
    [
        (bitopro, each(ada)),
        (deltadefi, each(fee)),
        (pacifica, each(cause)),
        (kraken_prime, refuses),
        (LATER, each(role)),
        (LATER, elsewhere),
        (LATER, leaves_out),
        (deltadefi, leaves_out),
    ],
    ids=lambda value: getattr(value, "NAME", getattr(value, "__name__", None)),
)
def test_a_changed_decoder_is_reported_on_exactly_the_events_it_changes(venue: Venue, change: Change) -> None:
    with Ledger() as ledger:
        record(ledger)
        planted = Changed(venue, change)
        expected = {
            place(recorded)
            for recorded in ledger.replay()
            if recorded.event.source.venue == venue.NAME
            and recorded.event.source.evidence
            and (recorded.account, plain(recorded.event)) not in again(ledger, planted, recorded)
        }
        assert expected
        found = list(ledger.verify([planted, *(other for other in VENUES if other.NAME != venue.NAME)]))
    assert {"decode"} == {finding.what for finding in found}
    assert Counter(expected) == Counter((finding.account, finding.version) for finding in found)
    assert all(finding.stored and finding.stored != finding.decoded for finding in found)


def plain(event: Event) -> Event:
    """An event without the mark that it was decoded late."""
    if event.source.late_ns is None:
        return event
    key = "" if event.key.startswith("late:") else event.key
    return replace(event, source=replace(event.source, late_ns=None), key=key)


def again(ledger: Ledger, venue: Venue, recorded: Recorded) -> Sequence[Statement]:
    """What a venue makes of the frame of an event; a quarantined one it still cannot read is unchanged."""
    source = recorded.event.source
    payload = ledger.evidence(recorded)
    assert payload is not None
    login = next(o.account for o in ledger.replay() if o.event.key == f"session:{source.session}:opened")
    try:
        made = venue.decode(Frame.of(source, login, payload))
    except Malformed:
        made = []
    if isinstance(recorded.event, FrameQuarantined | FrameReleased):
        return [(recorded.account, plain(recorded.event))]
    return made


def found(ledger: Ledger, *venues: Venue) -> list[Finding]:
    return list(ledger.verify(venues))


def test_venues_that_are_not_given_are_not_decoded_again() -> None:
    with Ledger() as ledger:
        record(ledger)
        assert [] == found(ledger)


def test_a_decoder_that_makes_one_event_more_is_reported_on_its_frame() -> None:
    def more(_: Frame, made: Sequence[Statement]) -> Sequence[Statement]:
        return [*made, *((a, replace(e, key="")) for a, e in made if e.key == "whole-1")]

    with Ledger() as ledger:
        record(ledger)
        (finding,) = found(ledger, Changed(LATER, more))
    assert ("decode", MAIN, 2, None) == (finding.what, finding.account, finding.version, finding.stored)
    assert finding.decoded is not None


def test_what_was_refused_as_known_is_not_missed() -> None:
    """A frame that says something known besides something new."""
    frames = [
        says(fill("f1", 1, key="fill:f1")),
        says(fill("f1", 1, key="fill:f1"), fill("f2", 2, key="fill:f2")),
    ]
    with Ledger() as ledger:
        feed(ledger, *frames, frames[0])
        assert [] == found(ledger, scripted.VENUE)
        (finding, *_) = found(ledger, Changed(scripted.VENUE, each(role)))
        assert (MAIN, 2) == (finding.account, finding.version)


def test_a_frame_of_several_accounts_is_decoded_as_one() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            said(
                (MAIN, delta(1, {"A": "1"})),
                ("scripted:b", delta(1, {"A": "2"})),
                (MAIN, delta(2, {"A": "3"})),
            ),
        )
        assert [] == found(ledger, scripted.VENUE)


def test_two_equal_events_of_one_frame_are_two() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"}), delta(1, {"A": "1"})))
        assert [] == found(ledger, scripted.VENUE)
        (finding,) = found(ledger, Changed(scripted.VENUE, lambda _, made: made[:1]))
        assert (MAIN, 3) == (finding.account, finding.version)


def test_a_quarantined_frame_that_reads_today_is_a_finding_until_it_is_retried() -> None:
    with Ledger() as ledger:
        feed(ledger, LATE + said((MAIN, delta(1, {"A": "1"})), ("scripted:b", delta(2, {"A": "1"}))))
        assert [] == found(ledger, scripted.VENUE)
        assert {(MAIN, 2)} == {(each.account, each.version) for each in found(ledger, LATER)}
        assert "retry" in found(ledger, LATER)[0].reason
        assert 2 == ledger.retry([LATER], MAIN, 2).events
        assert [] == found(ledger, LATER)
        (finding,) = found(ledger, Changed(LATER, lambda _, made: made[:1]))
        assert ("scripted:b", 1) == (finding.account, finding.version)


def test_the_words_in_which_a_frame_is_refused_may_change() -> None:
    class Curt:
        NAME = scripted.NAME

        def decode(self, frame: Frame, /) -> Sequence[Statement]:
            raise Malformed("no")

    with Ledger() as ledger:
        feed(ledger, b"\xff")
        assert [] == found(ledger, Curt())


def test_what_could_not_be_stored_is_no_finding_as_long_as_it_still_cannot() -> None:
    bad = Changed(scripted.VENUE, lambda _, made: [(a, replace(e, key="\ud800")) for a, e in made])
    with Ledger() as ledger:
        with ledger.intake(bad, "main", session="s") as intake:
            intake.receive(says(delta(1, {"A": "1"})))
        assert [FrameQuarantined] == [type(each.event) for each in ledger.replay(MAIN, after=1, upto=2)]
        assert [] == found(ledger, bad)
        assert "stays" == ledger.retry([bad], MAIN, 2).result
        assert [(MAIN, 2)] == [(each.account, each.version) for each in found(ledger, scripted.VENUE)]


def test_a_frame_read_in_part_stays_as_it_was_recorded() -> None:
    """One event, and beside it what could not be told apart: the rest was recorded when it came."""
    fault = scripted.fault(1, "s", "not booked")
    with Ledger() as ledger:
        feed(
            ledger,
            said((MAIN, snapshot(1, {"A": "1"})), (MAIN, fault)),
            said(("scripted:b", delta(1, {"A": "1"})), (MAIN, fault)),
        )
        assert [] == found(ledger, scripted.VENUE)
        for version in (3, 4):
            retried = ledger.retry([LATER], MAIN, version)
            assert ("stays", 0) == (retried.result, retried.events)


def test_a_store_of_every_kind_of_event_reads_the_same_from_a_file(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        record(ledger)
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert [] == found(ledger, *VENUES)


def test_a_late_frame_is_recorded_once_also_where_another_module_reads_another_time() -> None:
    """A statement without a natural key is known by its place, whatever time it is read to be of."""
    with Ledger() as ledger:
        feed(ledger, says(snapshot(5, {"A": "1"}, key="k")), b"not yet")
        (version,) = [each.version for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        results = []
        for time_ns in (7, 9, 7):

            class Later:
                NAME = scripted.NAME

                def decode(self, frame: Frame, /) -> Sequence[Statement]:
                    source = frame.source(scripted.NAME, "script", time_ns=time_ns)  # noqa: B023 - used at once
                    return [(MAIN, BalanceDelta(source, "", delta(1, {"A": "1"}).balances))]

            results.append(ledger.retry([Later()], MAIN, version).result)
        assert ["read", "known", "known"] == results
