"""Quarantine: every frame no event could be made of, whole, with the reason and its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger import Frame, Ledger, Malformed, Recorded
from ledger.decoding import released
from ledger.events import Statement
from ledger.venues import kraken_prime
from projections import Balances, Breaks, Gaps, Orders, Quarantine
from projections.quarantine import QuarantineRow
from projections.tables import Cell, Table
from tests import scripted
from tests.scripted import MAIN, RECEIVED_NS, delta, fault, feed, fill, order, said, says, snapshot
from tests.tampering import LATE, LATER


def test_an_unreadable_frame_is_kept_whole_with_its_reason(tmp_path: Path) -> None:
    garbage = b"\xff\x00garbage"
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})), garbage, says(delta(2, {"A": "2"})))
        (row,) = Quarantine(ledger).rows()
        assert (MAIN, 3, "s1", 2, RECEIVED_NS) == (
            row.account,
            row.version,
            row.session,
            row.ordinal,
            row.received_ns,
        )
        assert row.reason
        assert sha256(garbage).hexdigest() == row.evidence_sha256
        assert garbage == ledger.frame_bytes(row.session, row.ordinal)
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert [row] == Quarantine(ledger).rows()


def test_an_empty_frame_is_quarantined_too() -> None:
    with Ledger() as ledger:
        feed(ledger, b"")
        (row,) = Quarantine(ledger).rows()
        assert b"" == ledger.frame_bytes(row.session, row.ordinal)
        assert sha256(b"").hexdigest() == row.evidence_sha256


def test_the_same_garbage_twice_is_two_frames() -> None:
    with Ledger() as ledger:
        feed(ledger, b"x", b"x")
        assert [1, 2] == [row.ordinal for row in Quarantine(ledger).rows()]


def test_an_error_that_the_venue_said_is_kept_with_its_words() -> None:
    with Ledger() as ledger:
        feed(ledger, says(fault(1, "7", "venue error 42: no")))
        assert ["venue error 42: no"] == [row.reason for row in Quarantine(ledger).rows()]


def test_quarantined_frames_come_by_account_and_version() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            *(says(fault(number, "7", f"m{number}")) for number in range(12)),
            says(fault(1, "7", "other"), account="scripted:b"),
        )
        found: list[QuarantineRow] = Quarantine(ledger).rows()
        assert ["other", *(f"m{number}" for number in range(12))] == [row.reason for row in found]
        assert found[1:] == Quarantine(ledger).rows(MAIN)
        assert [] == Quarantine(ledger).rows("scripted:c")


def test_what_is_understood_is_not_in_quarantine() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"})), says())
        assert [] == Quarantine(ledger).rows()


# Second chance -------------------------------------------------------------------------------------------------------

NOW_NS = RECEIVED_NS + 10**9


def retry(ledger: Ledger, version: int = 2, now_ns: int = NOW_NS) -> tuple[str, int]:
    retried = ledger.retry([LATER], MAIN, version, now_ns=lambda: now_ns)
    return retried.result, retried.events


def test_what_reads_today_becomes_late_events_and_leaves_the_quarantine(tmp_path: Path) -> None:
    frame = LATE + said(
        (MAIN, delta(1, {"A": "1"})), (MAIN, delta(1, {"A": "1"})), ("scripted:b", fill("f", 2, key="f"))
    )
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, frame, b"\xff")
        assert ("read", 3) == retry(ledger)
        late = list(ledger.replay())[-3:]
        assert [(MAIN, 5), (MAIN, 6), ("scripted:b", 1)] == [(each.account, each.version) for each in late]
        assert {NOW_NS} == {each.event.source.late_ns for each in late}
        assert {RECEIVED_NS} == {each.event.source.received_ns for each in late}
        assert {frame} == {ledger.evidence(each) for each in late}
        assert ["", ""] != [each.event.key for each in late[:2]]
        assert [2] == [row.ordinal for row in Quarantine(ledger).rows()]
        assert [] == list(ledger.verify([LATER]))


def test_a_second_retry_changes_nothing_also_after_a_restart(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, LATE + says(delta(1, {"A": "1"}), delta(2, {"A": "2"})))
        assert ("read", 2) == retry(ledger)
        assert ("known", 0) == retry(ledger, now_ns=NOW_NS + 1)
    with Ledger(tmp_path / "a.db") as ledger:
        assert ("known", 0) == retry(ledger, now_ns=NOW_NS + 2)
        assert 5 == ledger.position()
        assert [] == list(ledger.verify([LATER]))


def test_a_frame_that_says_nothing_or_nothing_new_is_known() -> None:
    with Ledger() as ledger:
        feed(ledger, LATE + says(), LATE + says(fill("f", 1, key="f")), says(fill("f", 1, key="f")))
        quarantine = Quarantine(ledger)
        assert ("known", 0) == retry(ledger, 2)
        assert [2] == [row.ordinal for row in quarantine.rows()]
        assert ("known", 0) == retry(ledger, 3)
        assert [] == quarantine.rows()
        assert [] == list(ledger.verify([LATER]))
        position = ledger.position()
        assert [("known", 0)] * 2 == [retry(ledger, version, NOW_NS + 1) for version in (2, 3)]
        assert position == ledger.position()


def test_that_a_frame_is_released_counts_in_no_sequence() -> None:
    quarantine = fault(9, "s", "the venue says no")
    account, event = released(Recorded(MAIN, 3, quarantine, 4), NOW_NS)
    source = quarantine.source
    assert (MAIN, f"late:{source.session}:{source.ordinal}:0") == (account, event.key)
    assert (9, "s") == (source.sequence, source.subscription)
    assert replace(source, late_ns=NOW_NS, sequence=None) == event.source


def test_of_a_frame_that_is_known_in_part_the_rest_is_recorded() -> None:
    with Ledger() as ledger:
        feed(ledger, LATE + says(fill("f", 1, key="f"), fill("g", 2, key="g")), says(fill("f", 1, key="f")))
        assert ("read", 1) == retry(ledger)
        assert [] == list(ledger.verify([LATER]))


def test_what_still_cannot_be_read_stays_with_the_reason_of_today() -> None:
    with Ledger() as ledger:
        feed(ledger, b"\xff", LATE + b"\xff")
        assert ("stays", 0) == retry(ledger, 2)
        assert ("stays", 0) == retry(ledger, 3)
        nobody = ledger.retry([], MAIN, 2)
        assert ("stays", "no venue module") == (nobody.result, nobody.reason)
        assert 4 == ledger.position()


def test_a_frame_that_was_changed_or_is_gone_stays_and_nothing_is_made_of_it() -> None:
    frame = LATE + says(delta(1, {"A": "1"}))
    with Ledger() as ledger:
        feed(ledger, frame)
        for change, reason in (
            (("UPDATE evidence SET payload=?", [(LATE + says(delta(1, {"A": "9"})),)]), "was changed since"),
            (("DELETE FROM evidence", [()]), "is gone"),
        ):
            ledger.write([change])
            retried = ledger.retry([LATER], MAIN, 2)
            assert ("stays", 0, True) == (retried.result, retried.events, reason in str(retried.reason))
        assert 3 == ledger.position()


def test_only_a_quarantined_frame_can_be_retried() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        for account, version in ((MAIN, 1), (MAIN, 2), (MAIN, 99), (MAIN, 0), ("scripted:none", 1)):
            with pytest.raises(ValueError, match="no quarantined frame"):
                ledger.retry([LATER], account, version)


def test_the_last_frame_before_the_end_of_a_conversation_is_retried_too() -> None:
    """Its closing is recorded at the same place of the conversation."""
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"})), LATE + says(delta(2, {"A": "2"})))
        assert ("read", 1) == retry(ledger, 3)


def test_the_same_recording_told_again_after_a_retry_changes_nothing() -> None:
    frames = [says(delta(1, {"A": "1"})), LATE + says(delta(2, {"A": "2"})), b"\xff"]
    with Ledger() as ledger:
        feed(ledger, *frames)
        retry(ledger, 3)
        before = list(ledger.replay())
        for venue in (scripted.VENUE, LATER):
            with ledger.intake(
                venue, "main", session="s1", opened_ns=RECEIVED_NS, now_ns=lambda: RECEIVED_NS
            ) as intake:
                intake.receive_all([(frame, RECEIVED_NS) for frame in frames])
        assert before == list(ledger.replay())


def test_a_number_that_was_missing_is_filled_late() -> None:
    def numbered(number: int) -> bytes:
        return says(delta(number, {"A": str(number)}, sequence=number, subscription="b"))

    with Ledger() as ledger:
        feed(ledger, numbered(1), LATE + numbered(2), numbered(3))
        assert ("read", 1) == retry(ledger, 3)
        late = list(ledger.replay())[-1].event.source
        assert (2, "b", NOW_NS) == (late.sequence, late.subscription, late.late_ns)


A1, A2 = delta(5, {"A": "1"}), delta(5, {"A": "2"})


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([LATE + says(A1), says(A2)], {"A": "2"}),
        ([says(A2), LATE + says(A1)], {"A": "1"}),
        (
            [LATE + says(snapshot(5, {"A": "1", "B": "1"})), says(delta(5, {"A": "2", "C": "3"}))],
            {"A": "2", "B": "1", "C": "3"},
        ),
        ([says(delta(5, {"A": "2", "C": "3"})), LATE + says(snapshot(5, {"A": "1"}))], {"A": "1"}),
        ([LATE + says(delta(5, {}, ["A"])), says(A2)], {"A": "2"}),
        ([says(A2), LATE + says(delta(5, {}, ["A"]))], {}),
        ([LATE + says(A2), says(delta(5, {}, ["A"]))], {}),
        ([LATE + says(A1), says(A2), says(snapshot(9, {"A": "2"}))], {"A": "2"}),
    ],
)
def test_of_one_instant_what_is_read_late_is_no_newer_than_what_came_after_it(
    frames: list[bytes], expected: dict[str, str]
) -> None:
    with Ledger() as ledger:
        feed(ledger, *frames)
        balances = Balances(ledger)
        balances.rows()
        (row,) = Quarantine(ledger).rows()
        assert ("read", 1) == retry(ledger, row.version)
        assert expected == {each.asset_id: each.total for each in balances.rows()}
        assert expected == {each.asset_id: each.total for each in balances.at("2200-01-01").rows()}
        assert [] == Breaks(ledger).rows()
        rows = balances.rows()
        balances.subscription.reset()
        assert rows == balances.rows()


def test_of_one_instant_an_order_that_is_read_late_is_no_newer_than_what_came_after_it() -> None:
    def state(status: str) -> bytes:
        return says(order("o1", 5, status=status))

    for frames, expected in (
        ((LATE + state("building"), state("open")), "open"),
        ((state("open"), LATE + state("building")), "building"),
        ((LATE + state("new"), LATE + state("building"), state("open")), "open"),
    ):
        with Ledger() as ledger:
            feed(ledger, *frames)
            orders = Orders(ledger)
            orders.rows()
            for row in Quarantine(ledger).rows():
                assert ("read", 1) == retry(ledger, row.version)
                assert [expected] == [each.status for each in orders.rows()]


def test_a_frame_that_is_read_late_counts_within_the_conversation_that_the_venue_named() -> None:
    def numbered(number: int, of_ms: int, **more: object) -> bytes:
        held = [{"Currency": "USD", "Amount": str(number), "AvailableAmount": "0"}]
        said = {"reqid": 1, "type": "Balance", "ts": f"2025-11-21T08:00:00.{of_ms:03}000Z", "seqNum": number}
        return json.dumps({**said, "data": held, **more}).encode()

    hello = b'{"type":"hello","ts":"2025-11-21T08:00:00.000000Z","session_id":"theirs"}'
    frames = [hello, numbered(1, 0, initial=True), numbered(2, 1), numbered(3, 1)]

    class Older:
        """That could not read number 2."""

        NAME = kraken_prime.NAME
        conversation = staticmethod(kraken_prime.conversation)

        def decode(self, frame: Frame, /) -> Sequence[Statement]:
            if frame.payload == frames[2]:
                raise Malformed("not yet")
            return kraken_prime.decode(frame)

    with Ledger() as ledger:
        with ledger.intake(Older(), "main") as intake:
            intake.receive_all([(frame, RECEIVED_NS) for frame in frames])
        assert ["theirs/1"] == [gap.subscription for gap in Gaps(ledger).rows(open_only=True)]
        (row,) = Quarantine(ledger).rows()
        assert [] == list(ledger.verify([Older()]))
        assert "read" == ledger.retry([kraken_prime], row.account, row.version).result
        assert [] == Gaps(ledger).rows(open_only=True)
        assert ["3"] == [each.total for each in Balances(ledger).rows()]
        assert [] == list(ledger.verify([kraken_prime]))


def test_a_rebuilt_quarantine_is_the_same() -> None:
    with Ledger() as ledger:
        feed(ledger, LATE + says(delta(1, {"A": "1"}), account="scripted:main/0"), b"\xff")
        assert ("read", 1) == retry(ledger)
        found = Quarantine(ledger)
        rows = found.rows()
        found.subscription.reset()
        assert rows == found.rows()
        assert [2] == [row.ordinal for row in rows]


OTHER = "scripted:b"


def retried(ledger: Ledger, frames: int, *, session: str = "s1") -> Quarantine:
    """A projection that knows so many frames, which are read late then: each is one event of its login, and two of
    another account."""
    payloads = [
        LATE
        + said((MAIN, delta(n, {"A": "1"})), (OTHER, delta(n, {"A": "1"})), (OTHER, delta(n, {"B": "1"})))
        for n in range(frames)
    ]
    feed(ledger, *payloads, b"\xff", session=session)
    found = Quarantine(ledger)
    for row in found.rows()[-1 - frames : -1]:
        assert ("read", 3) == retry(ledger, row.version)
    return found


@pytest.mark.parametrize("stored", [True, False])
def test_frames_that_are_read_late_are_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stored: bool
) -> None:
    """No more rows are read than there are, whatever the number of their events and accounts."""
    with Ledger(tmp_path / "a.db" if stored else None) as ledger:
        found = retried(ledger, 20)
        read: list[object] = []

        def rows(table: Table[QuarantineRow], account: str | None = None) -> Iterator[QuarantineRow]:
            for row in all_rows(table, account):
                read.append(row)
                yield row

        def of(table: Table[QuarantineRow], account: str) -> dict[tuple[Cell, ...], QuarantineRow | None]:
            there = of_account(table, account)
            read.extend(there)
            return there

        all_rows, of_account = Table.rows, Table.of
        monkeypatch.setattr(Table, "rows", rows)
        monkeypatch.setattr(Table, "of", of)
        found.subscription.catch_up()
        assert 21 == len(read)
        monkeypatch.undo()
        assert [21] == [row.ordinal for row in found.rows()]


@pytest.mark.parametrize("held", [0, 2, 50_000])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_in_whatever_batches_and_after_whatever_restarts_the_same_frames_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, held: int
) -> None:
    """Also where a batch, or a process, ends between two events of one frame."""
    monkeypatch.setattr("projections.quarantine.ROWS_CACHED_MAX", held)
    with Ledger(tmp_path / "a.db") as ledger:
        retried(ledger, 3)
        retried(ledger, 2, session="s2")
        expected = [(row.session, row.ordinal) for row in Quarantine(ledger).rows()]
        assert [("s1", 4), ("s2", 3)] == expected
        events = list(ledger.replay())
        for restarted in (False, True):
            found = Quarantine(ledger)
            found.subscription.reset()
            for start in range(0, len(events), batch):
                if restarted:
                    found = Quarantine(ledger)
                for each in events[start : start + batch]:
                    found.subscription.apply(each)
                found.subscription.flush()
                assert len(found._frames or ()) <= held
            assert len(events) == found.subscription.position
            assert expected == [(row.session, row.ordinal) for row in found.rows()]


def test_a_frame_that_another_process_folded_leaves_when_it_is_read_late(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        found = retried(ledger, 1)
        assert [("s1", 2)] == [(row.session, row.ordinal) for row in found.rows()]
        retried(ledger, 1, session="s2")  # another folds what was quarantined
        assert [("s1", 2), ("s2", 2)] == [(row.session, row.ordinal) for row in found.rows()]
