"""Quarantine: every frame no event could be made of, whole, with the reason and its place."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from ledger import Ledger
from projections import Quarantine
from projections.quarantine import QuarantineRow
from tests.scripted import MAIN, RECEIVED_NS, delta, fault, feed, says


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
