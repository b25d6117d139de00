"""Frames nobody could read count as long as nobody can."""

from __future__ import annotations

from ledger import Ledger
from ledger.events import FrameQuarantined
from projections.unread import Unread
from tests.scripted import MAIN, delta, feed, says
from tests.tampering import LATE, LATER


def folded(ledger: Ledger) -> Unread:
    unread = Unread(None)
    for recorded in ledger.replay():
        unread.apply(recorded)
    return unread


def test_the_newest_frame_that_cannot_be_read_counts_until_it_can() -> None:
    with Ledger() as ledger:
        assert folded(ledger).newest([MAIN]) is None
        frames = (LATE + says(delta(1, {"A": "1"})), b"never", LATE + says(delta(2, {"A": "2"})))
        feed(ledger, *frames)
        first, never, last = (r.version for r in ledger.replay() if isinstance(r.event, FrameQuarantined))
        for version, newest in ((None, last), (last, never), (first, never)):
            if version is not None:
                assert "read" == ledger.retry([LATER], MAIN, version).result
            row = folded(ledger).newest([MAIN, "scripted:other"])
            assert row is not None
            assert (MAIN, newest) == (row.account, row.version)
        assert folded(ledger).newest(["scripted:other"]) is None
