"""Sessions: when we listened, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ledger import Ledger
from ledger.events import Asked, Event
from ledger.intake import Arrival
from projections import Coverage, Coverages, Sessions, compare
from projections.sessions import SessionsFold
from tests.scripted import MAIN, VENUE, delta, order, says, snapshot

S = 1_000_000_000
T0 = 1_790_000_000 * S
ASKED = Asked("GET /balances", T0)


def session(
    ledger: Ledger, name: str, since: int, until: int | None, *frames: tuple[Event | bytes, int]
) -> None:
    """A conversation from `since` to `until` (s from T0; None: it crashed), its frames and when they came."""
    intake = ledger.intake(VENUE, "main", session=name, opened_ns=T0 + since * S)
    arrivals: list[Arrival] = [
        (frame if isinstance(frame, bytes) else says(frame), T0 + at * S) for frame, at in frames
    ]
    intake.receive_all(arrivals)
    if until is not None:
        intake.close("end", T0 + until * S)


def covered(ledger: Ledger, account: str | None = None) -> Coverage:
    (row,) = Coverages(ledger).rows(account)
    return row


def since(intervals: Any) -> list[tuple[int, ...]]:
    return [tuple((at - T0) // S for at in each[:2]) for each in intervals]


def logins(ledger: Ledger) -> list[str]:
    """Three logins, of which two are told things of one account and one is told nothing; all accounts."""
    shared, other = "scripted:shared", "scripted:other"
    for number, (login, accounts) in enumerate(
        (("one", [shared, other]), ("two", [shared]), ("two", [other]), ("one", []), ("three", []))
    ):
        with ledger.intake(
            VENUE, login, session=f"s{number}", opened_ns=T0 + number * S, now_ns=lambda: T0 + 99 * S
        ) as intake:
            for at, account in enumerate(accounts):
                intake.receive(says(delta(None, {"A": str(number)}), account=account), T0 + number * S + at)
    return [shared, other, "scripted:one", "scripted:two", "scripted:three", "scripted:nobody"]


def test_one_account_is_told_of_as_among_all(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        accounts = logins(ledger)
        memory = SessionsFold(None)
        for recorded in ledger.replay():
            memory.apply(recorded)
        stored = Sessions(ledger)
        every = stored.listening()
        for account in accounts:
            found = stored.listening(account)
            assert memory.listening(account) == found
            if account not in (
                "scripted:one",
                "scripted:two",
            ):  # among all, those only others were told of through
                assert [each for each in every if each.account == account] == found, account
            assert [each for each in stored.rows() if each.account == account] == stored.rows(account)
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert every == Sessions(ledger).listening()


def test_what_is_read_of_an_account_does_not_grow_with_the_sessions_of_others(
    tmp_path: Path, rows_read: list[int]
) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        logins(ledger)
        found: list[int] = []
        for number in range(2):
            for at in range(30 * number):
                with ledger.intake(VENUE, "busy", session=f"b{at}", opened_ns=T0) as intake:
                    intake.receive(says(delta(None, {"A": "1"}), account="scripted:busy"), T0)
            sessions = Sessions(ledger)
            sessions.subscription.catch_up()
            rows_read[0] = 0
            assert sessions.listening("scripted:shared")
            found.append(rows_read[0])
        assert found[0] == found[1] > 0


# Sessions


def test_a_session_says_when_it_was_heard_and_what_came_of_its_frames() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 0, 9, (delta(None, {"A": "1"}), 3), (b"garbage", 4), (says(), 5))
        session(ledger, "b", 20, None, (delta(None, {"A": "1"}), 23))
        one, other = Sessions(ledger).rows()
        assert (MAIN, "a", "scripted", 1) == (one.account, one.session, one.venue, one.version)
        assert (0, 4, 9, 9) == tuple(
            (each - T0) // S for each in (one.opened_ns, one.last_ns, one.closed_ns or 0, one.until_ns)
        )
        assert ("end", 3, 1, 0, 1, 1) == (
            one.cause,
            one.frames,
            one.recorded,
            one.duplicates,
            one.control,
            one.quarantined,
        )
        assert (False, True, None, None, 1, 23) == (
            one.open,
            other.open,
            other.closed_ns,
            other.cause,
            other.frames,
            (other.until_ns - T0) // S,
        )
        assert [] == Sessions(ledger).rows("scripted:b")


def test_a_recording_that_goes_on_after_its_closing_is_open_again_until_it_is_closed_again() -> None:
    first = (delta(None, {"A": "1"}), 3)
    more = (delta(None, {"A": "2"}), 14)
    with Ledger() as ledger:
        session(ledger, "a", 0, 5, first)
        session(ledger, "a", 0, None, first, more)
        (row,) = Sessions(ledger).rows()
        assert (True, 14) == (row.open, (row.until_ns - T0) // S)
        session(ledger, "a", 0, 15, first, more)
        (row,) = Sessions(ledger).rows()
        assert (False, 15, 2) == (row.open, (row.until_ns - T0) // S, row.frames)


def test_sessions_are_the_same_live_and_replayed_in_memory_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        live = Sessions(ledger)
        for number in range(4):
            frames: list[tuple[Event | bytes, int]] = [
                (snapshot(None, {"A": "1"}), number * 20 + 1),
                (order(f"o{number}", 1), number * 20 + 2),
            ]
            session(ledger, f"s{number}", number * 20, number * 20 + 5 if number % 2 else None, *frames)
            live.rows()
        with Ledger() as scratch:
            folded = Sessions(ledger, scratch)
            folded.rows()
            assert [] == list(compare(live, folded))
        memory = SessionsFold(None)
        for recorded in ledger.replay():
            memory.apply(recorded)
        assert live.listening() == memory.listening()
        kept, coverage = live.listening(), Coverages(ledger).rows()
        session(ledger, "s9", 900, 950, (snapshot(None, {"A": "1"}), 910))
        assert kept != live.listening()
    with Ledger(path, read_only=True) as ledger:
        assert 5 == len(Sessions(ledger).rows())
        assert coverage != Coverages(ledger).rows()
        assert 4 == len(covered(ledger, MAIN).blind)
