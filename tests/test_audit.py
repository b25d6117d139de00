"""The audit trail: every event of an account, in order, with its source and the bytes it was made from."""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest

from ledger import Ledger, store
from ledger.events import Balance, BalanceDelta, Valuation
from projections import Audit
from projections.audit import AuditRow
from tests.scripted import MAIN, RECEIVED_NS, delta, feed, fill, imported, says, source


def trail(ledger: Ledger, account: str = MAIN) -> list[AuditRow]:
    return list(Audit(ledger).rows(account))


def test_every_event_is_there_in_order_with_its_place(tmp_path: Path) -> None:
    frames = [says(delta(1, {"A": "1"}), fill("f1", 2)), b"garbage", says(imported(3, "1", "1"))]
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, frames[0], says(delta(9, {}), account="scripted:b"), *frames[1:])
        rows = trail(ledger)
        assert [
            (1, 1, "SessionOpened", 0),
            (2, 2, "BalanceDelta", 1),
            (3, 3, "FillRecorded", 1),
            (4, 5, "FrameQuarantined", 3),
            (5, 6, "BalanceEventImported", 4),
            (6, 7, "SessionClosed", 4),
        ] == [(row.version, row.position, row.topic, row.ordinal) for row in rows]
        assert {"s1"} == {row.session for row in rows}
        assert {RECEIVED_NS} == {row.received_ns for row in rows}
        received = RECEIVED_NS
        assert [received, 1, received, received, 3, received] == [row.time_ns for row in rows]
        digests = [sha256(frames[index]).hexdigest() for index in (0, 0, 1, 2)]
        assert [None, *digests, None] == [row.evidence_sha256 for row in rows]
        sizes = [len(frames[index]) for index in (0, 0, 1, 2)]
        assert [None, *sizes, None] == [row.evidence_bytes for row in rows]
        assert [] == trail(ledger, "scripted:c")


def test_the_digest_is_of_the_bytes_it_was_made_from_and_others_in_their_place_are_damage(
    tmp_path: Path,
) -> None:
    frame = says(delta(1, {"A": "1"}))
    digest = sha256(frame).hexdigest()
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, frame)
        ledger.write([("UPDATE evidence SET payload=?", [(b"other",)])])
        opened, row, closed = trail(ledger)
        assert (5, digest) == (row.evidence_bytes, row.evidence_sha256)
        assert f"the frame was changed since: it had SHA-256 {digest}" == row.damage
        assert (None, None) == (opened.damage, closed.damage)


def test_evidence_that_is_gone_is_damage_and_its_digest_stays(tmp_path: Path) -> None:
    frame = says(delta(1, {"A": "1"}))
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, frame)
        ledger.write([("DELETE FROM evidence", [()])])
        opened, row, closed = trail(ledger)
        assert (None, sha256(frame).hexdigest()) == (row.evidence_bytes, row.evidence_sha256)
        assert "the frame it was made of is gone" == row.damage
        assert (None, None) == (opened.damage, closed.damage)


def test_an_empty_frame_is_evidence_of_no_bytes() -> None:
    with Ledger() as ledger:
        feed(ledger, b"")
        row = trail(ledger)[1]
        assert (0, sha256(b"").hexdigest(), None) == (row.evidence_bytes, row.evidence_sha256, row.damage)


def test_an_event_is_told_by_field_name_without_its_source() -> None:
    said = BalanceDelta(
        source(5, sequence=3, subscription="7"),
        "key",
        (Balance("A", "Ada", "1.50", "1", valuation=Valuation("USD", "0.75")),),
        ("B",),
    )
    with Ledger() as ledger:
        feed(ledger, says(said))
        row = trail(ledger)[1]
        balance = {
            "asset_id": "A",
            "asset": "Ada",
            "total": "1.50",
            "available": "1",
            "locked": None,
            "staked": None,
            "pending": None,
            "tradable": None,
            "valuation": {"asset": "USD", "total": "0.75", "available": None},
        }
        assert {"key": "key", "balances": [balance], "removed": ["B"]} == row.event
        assert ("script", 3, 5) == (row.channel, row.sequence, row.time_ns)


def test_a_long_trail_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE_EVENTS_MAX", 3)
    with Ledger() as ledger:
        feed(ledger, *(says(delta(number, {"A": str(number)})) for number in range(10)))
        assert list(range(1, 13)) == [row.version for row in trail(ledger)]
        assert [1, 2] == [row.version for row in islice(Audit(ledger).rows(MAIN), 2)]
