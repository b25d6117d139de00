"""How complete a balance is said to be, and why: now, as of a moment, and with the venues' real frames."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.events import Asked, Event, FrameQuarantined
from ledger.venue import Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from projections import Balances, Breaks
from projections.sessions import Sessions
from tests.scripted import MAIN, VENUE, delta, fault, feed, fill, imported, says
from tests.tampering import LATE, LATER
from tests.terminal import rows as printed
from tests.terminal import run
from tests.test_breaks import SECOND_NS, T, answer, listen, push, row, whole

T_TEXT = "2026-09-21T14:13:{}Z"
"""T is its second 20."""

Verdict = tuple[str, str]


def verdicts(ledger: Ledger, account: str = MAIN) -> dict[str, Verdict]:
    return {each.asset_id: (each.completeness, each.reason) for each in Balances(ledger).rows(account)}


def words(ledger: Ledger, account: str = MAIN) -> dict[str, str]:
    return {asset: word for asset, (word, _) in verdicts(ledger, account).items()}


def after(*frames: Event | bytes | tuple[Event, Asked]) -> dict[str, str]:
    """The words of a conversation that is still open."""
    with Ledger() as ledger:
        listen(ledger, *frames, closed=False)
        return words(ledger)


def numbered(number: int, held: dict[str, str], of: str = "7") -> Event:
    return delta(T + number * SECOND_NS, held, sequence=number, subscription=of)


def base(number: int, held: dict[str, str], of: str = "7", **more: Any) -> Event:
    return whole(number, held, part=of, sequence=more.pop("sequence", 1), **more)


# Unnumbered: consistent, or no evidence ------------------------------------------------------------------------------


def test_what_was_said_once_is_unprovable() -> None:
    assert {"A": "unprovable"} == after(whole(1, {"A": "1"}))
    assert {"A": "unprovable"} == after(push(1, {"A": "1"}))


def test_a_full_statement_that_says_the_same_makes_it_consistent_until_something_is_said() -> None:
    assert {"A": "consistent"} == after(whole(1, {"A": "1"}), whole(2, {"A": "1.0"}))
    assert {"A": "consistent"} == after(push(1, {"A": "1"}), whole(2, {"A": "1.0"}))
    assert {"A": "consistent"} == after(push(1, {"A": "1"}), answer(1.5, {"A": "1"}))
    assert {"A": "unprovable", "B": "consistent"} == after(
        whole(1, {"A": "1", "B": "1"}), whole(2, {"A": "1", "B": "1"}), push(3, {"A": "2"})
    )


def test_of_a_late_full_statement_nothing_newer_is_said_to_be_stated_with_it() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1", "B": "1"}), push(3, {"B": "2"}), whole(2, {"A": "1"}), closed=False)
        found = verdicts(ledger)
        assert ("unprovable", False) == (found["B"][0], "with the whole account" in found["B"][1])


def test_the_reason_names_both_versions() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}), whole(2, {"A": "1"}), closed=False)
        assert (
            "the full statement of version 3 says exactly what had been stated by version 2, "
            "and nothing was said of it since"
        ) == verdicts(ledger)["A"][1]


def test_what_is_said_at_the_same_instant_is_no_evidence() -> None:
    assert {"A": "unprovable"} == after(push(2, {"A": "1"}), whole(2, {"A": "1"}))


def test_a_frame_that_could_not_be_read_may_have_said_something() -> None:
    both = [whole(1, {"A": "1"}), whole(2, {"A": "1"})]
    with Ledger() as ledger:
        listen(ledger, *both, b"garbage", closed=False)
        word, reason = verdicts(ledger)["A"]
        assert ("unprovable", True) == (word, "version 4" in reason)
    assert {"A": "consistent"} == after(*both, b"garbage", whole(3, {"A": "1"}))


def test_a_full_statement_that_differs_and_is_not_explained_is_a_gap_for_that_asset() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1", "B": "1"}), whole(2, {"A": "3", "B": "1"}), closed=False)
        found = verdicts(ledger)
        assert ("gap", "consistent") == (found["A"][0], found["B"][0])
        assert all(each in found["A"][1] for each in ("version 3", "version 2", "total 3", "1", "2 is not"))


def test_an_old_break_is_no_gap_once_a_later_full_statement_agreed_but_stays_in_the_reason() -> None:
    with Ledger() as ledger:
        frames = [whole(1, {"A": "1"}), whole(2, {"A": "3"}), whole(3, {"A": "3"})]
        listen(ledger, *frames, closed=False)
        word, reason = verdicts(ledger)["A"]
        assert "consistent" == word
        assert reason.endswith(
            "and nothing was said of it since; before version 4 agreed, version 3 (of 2026-09-21T14:13:22Z) states "
            "total 3 where the statements before it came to 1 (version 2): the difference of 2 is not explained"
        )
        assert ["open"] == [each.state for each in Breaks(ledger).rows()]
        listen(ledger, push(4, {"A": "4"}), session="s2", since_s=3, closed=False)
        word, reason = verdicts(ledger)["A"]
        assert ("unprovable", True) == (word, "before version 4 agreed, version 3" in reason)
        listen(ledger, whole(9, {"A": "5"}), session="s3", since_s=3, closed=False)
        word, reason = verdicts(ledger)["A"]
        assert ("gap", True) == (word, "the difference of 1 is not explained" in reason)
        listen(ledger, whole(10, {"A": "5"}), session="s4", since_s=3, closed=False)
        assert verdicts(ledger)["A"][1].endswith("the difference of 1 is not explained (2 such)")


def test_a_break_that_is_resolved_is_no_gap_any_more() -> None:
    """What came late is what was stated next."""
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}), whole(5, {"A": "3"}), push(3, {"A": "3"}), closed=False)
        word, reason = verdicts(ledger)["A"]
        assert ("consistent", True) == (word, "by version 4, and" in reason)


def test_what_comes_late_may_take_the_agreement_away() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}), whole(5, {"A": "1"}), push(3, {"A": "3"}), closed=False)
        assert {"A": "gap"} == words(ledger)


# Blind intervals -----------------------------------------------------------------------------------------------------


def test_after_a_blind_interval_every_balance_is_a_gap_until_the_whole_is_stated() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1", "B": "1"}))
        assert {"A": "unprovable", "B": "unprovable"} == words(ledger)  # the end of listening is none
        listen(ledger, push(11, {"B": "2"}), session="s2", since_s=10, closed=False)
        assert {"A": "gap", "B": "gap"} == words(ledger)
        assert "blind interval 2026-09-21T14:13:22Z" in verdicts(ledger)["A"][1]
        listen(ledger, whole(13, {"A": "1", "B": "3"}), session="s3", since_s=10.5, closed=False)
        assert {"A": "consistent", "B": "gap"} == words(ledger)  # B: a break within the session


def test_an_answer_ends_a_blind_interval_for_the_assets_it_names() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1", "B": "1", "C": "1"}))
        listen(ledger, answer(10.5, {"A": "1"}), push(12, {"C": "2"}), session="s2", since_s=10, closed=False)
        assert {"A": "consistent", "B": "gap", "C": "unprovable"} == words(ledger)
        assert "the answer of version 5 does not name it" in verdicts(ledger)["B"][1]


def test_an_answer_that_is_late_names_it_all_the_same() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}))
        listen(ledger, push(12, {"A": "2"}), answer(10.5, {"A": "1"}), session="s2", since_s=10, closed=False)
        assert {"A": "unprovable"} == words(ledger)


# Numbered ------------------------------------------------------------------------------------------------------------


def test_numbers_without_a_hole_since_the_whole_was_stated_prove_it() -> None:
    assert {"A": "proven", "B": "proven"} == after(base(1, {"A": "1", "B": "1"}), numbered(2, {"A": "2"}))
    with Ledger() as ledger:
        listen(ledger, base(1, {"A": "1"}), closed=False)
        expected = "the venue's sequence has no hole since it stated the whole account (version 2)"
        assert ("proven", expected) == verdicts(ledger)["A"]


def test_a_hole_in_the_sequence_is_a_gap_for_every_asset_until_the_whole_is_stated_anew() -> None:
    frames = [base(1, {"A": "1", "B": "1"}), numbered(2, {"A": "2"}), numbered(4, {"B": "4"})]
    assert {"A": "gap", "B": "gap"} == after(*frames)
    assert {"A": "gap", "B": "gap"} == after(*frames, numbered(5, {"A": "5"}))
    anew = base(6, {"A": "2", "B": "4"}, "8")
    assert {"A": "proven", "B": "proven"} == after(*frames, anew)
    assert {"A": "proven", "B": "proven"} == after(*frames, numbered(3, {"A": "3"}))  # what was missing came


def test_a_baseline_that_has_not_arrived_whole_proves_nothing() -> None:
    first = base(1, {"A": "1"}, more=True)
    assert {"A": "unprovable"} == after(first)
    last = base(2, {"B": "1"}, sequence=2, begins=False)
    assert {"A": "proven", "B": "proven"} == after(first, last)
    torn = base(3, {"B": "1"}, sequence=3, begins=False)
    assert {"gap"} == set(after(first, torn).values())


def test_an_unreadable_frame_after_the_last_number_may_be_the_next() -> None:
    frames = [base(1, {"A": "1"}), numbered(2, {"A": "2"}), b"garbage"]
    assert {"A": "unprovable"} == after(*frames)
    assert {"A": "proven", "B": "proven"} == after(*frames, numbered(3, {"B": "1"}))
    assert {"A": "proven"} == after(*frames[:2], says(fault(3, "7")))


def test_where_numbers_begin_again_they_prove_nothing_until_another_subscription_is_whole() -> None:
    frames = [base(1, {"A": "1"}), numbered(2, {"A": "2"}), numbered(3, {"A": "4"})]
    again = whole(5, {"A": "5"}, part="7", sequence=1)
    with Ledger() as ledger:
        listen(ledger, *frames, again, closed=False)
        word, reason = verdicts(ledger)["A"]
        assert ("unprovable", True) == (word, "the numbers of 7 began again (version 5)" in reason)
        assert {"A": "unprovable"} == words(ledger)
    later = [numbered(number, {"A": "6"}) for number in (2, 3, 4)]
    assert {"A": "unprovable"} == after(*frames, again, *later)
    assert {"A": "gap"} == after(*frames, again, base(9, {"A": "7"}, "8"))  # proven, but for what differs
    assert {"A": "proven"} == after(*frames, again, base(9, {"A": "4"}, "8"))
    assert {"A": "proven"} == after(*frames, base(1, {"A": "1"}))  # the same again, of the same time
    assert {"A": "proven"} == after(*frames, whole(5, {"A": "4"}, part="7", sequence=4))


def test_what_is_of_another_sequence_is_not_proven() -> None:
    found = after(base(1, {"A": "1", "B": "1"}), numbered(1, {"B": "2"}, "9"))
    assert {"A": "proven", "B": "unprovable"} == found


# Histories -----------------------------------------------------------------------------------------------------------


def test_a_history_that_closes_proves_its_last_balance() -> None:
    with Ledger() as ledger:
        listen(ledger, row(-9, "5", "5"), row(-8, "2", "7"), closed=False)
        expected = "the running balance closes over all 2 rows of the venue's own history, to version 3"
        assert ("proven", expected) == verdicts(ledger)["USDC"]
        listen(ledger, row(-6, "2", "10"), session="s2", since_s=20, closed=False)
        word, reason = verdicts(ledger)["USDC"]
        assert ("gap", True) == (word, "change USDC by 1 are missing" in reason)
        listen(ledger, row(-7, "1", "8"), session="s3", since_s=40)  # nobody listened between: no matter here
        assert {"USDC": "proven"} == words(ledger)


def test_a_hole_in_a_history_touches_its_own_asset_only() -> None:
    points = [imported(T + at, "1", str(at), asset="points", memo=True) for at in (1, 3)]
    with Ledger() as ledger:
        listen(
            ledger, whole(1, {"A": "1"}), says(*points), whole(5, {"A": "1"}), row(9, "5", "5"), closed=False
        )
        assert {"A": "consistent", "USDC": "proven"} == words(ledger)


def test_the_account_and_its_history_prove_each_other() -> None:
    with Ledger() as ledger:
        listen(ledger, row(-9, "5", "5"), row(-8, "2", "7"), answer(2.5, {"USDC": "7.0"}), closed=False)
        (held,) = Balances(ledger).rows()
        assert ("7.0", "proven", True) == (
            held.total,
            held.completeness,
            "what the venue's own history comes to by version 3" in held.reason,
        )
        listen(ledger, answer(12, {"USDC": "8"}), session="s2", since_s=12, closed=False)
        assert {"USDC": "gap"} == words(ledger)
        listen(ledger, row(11, "1", "8"), session="s3", since_s=14, closed=False)
        assert {"USDC": "proven"} == words(ledger)


# For whoever embeds it, as of a moment -------------------------------------------------------------------------------


def test_a_holding_says_how_complete_it_is() -> None:
    with Ledger() as ledger:
        listen(ledger, push(1, {"A": "1"}), whole(2, {"A": "1"}), closed=False)
        for found in (Balances(ledger)[MAIN]["A"], Balances(ledger).at(3)[MAIN]["A"]):
            assert ("consistent", verdicts(ledger)["A"][1]) == (found.completeness, found.reason)
        assert "unprovable" == Balances(ledger).at(2)[MAIN]["A"].completeness


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Three sessions with blind intervals between; a hole in a sequence, a break, a history; and another account."""
    with Ledger(tmp_path / "a.db") as ledger:
        listen(ledger, whole(1, {"A": "1", "B": "1"}), push(2, {"A": "2"}), whole(3, {"A": "3", "B": "1"}))
        frames = [
            whole(11, {"A": "3"}),
            push(12, {"A": "4"}),
            says(whole(1, {"Z": "1"}), account="scripted:z"),
        ]
        listen(ledger, *frames, push(12.5, {"A": "3"}), session="s2", since_s=10)
        more = [
            base(31, {"A": "3"}, "31"),
            numbered(33, {"A": "5"}, "31"),
            row(35, "1", "1"),
            row(39, "1", "9"),
        ]
        listen(ledger, *more, answer(39, {"USDC": "9"}), session="s3", since_s=30, closed=False)
    return tmp_path


def test_as_of_a_version_is_what_it_was_when_that_was_the_last(told: Path) -> None:
    """For every version: the rows as of it, and those of a ledger in which nothing came after."""
    with Ledger(told / "a.db") as ledger:
        events = list(ledger.replay())
        for account in (MAIN, "scripted:z"):
            for last in (each for each in events if each.account == account):
                with Ledger() as prefix:
                    of = Balances(_Upto(ledger, last.position), prefix)  # type: ignore[arg-type]
                    assert of.rows(account) == Balances(ledger).at(last.version, account).rows(account)


class _Upto:
    """A ledger as it was when an event was its last."""

    def __init__(self, ledger: Ledger, position: int) -> None:
        self._ledger = ledger
        self._position = position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def replay(self, account: str | None = None, *, after: int = 0, upto: int | None = None) -> Any:
        upto = self._position if upto is None else min(upto, self._position)
        return self._ledger.replay(account, after=after, upto=upto)

    def runs(self, account: str | None = None, *, after: int = 0, upto: int | None = None) -> Any:
        upto = self._position if upto is None else min(upto, self._position)
        return self._ledger.runs(account, after=after, upto=upto)


def at(ledger: Ledger, at_s: float, **more: Any) -> dict[str, str]:
    moment = datetime.fromtimestamp((T + at_s * SECOND_NS) / SECOND_NS, UTC)
    found = {each.asset_id: each for each in Balances(ledger).at(moment, MAIN, **more).rows(MAIN)}
    assert found == {each.asset_id: each for each in Balances(ledger).at(moment, **more).rows(MAIN)}
    return {asset: each.completeness for asset, each in found.items()}


def test_as_of_a_time_what_was_true_by_then_counts(told: Path) -> None:
    with Ledger(told / "a.db") as ledger:
        assert {"A": "unprovable", "B": "unprovable"} == at(ledger, 1)
        assert {"A": "gap", "B": "consistent"} == at(ledger, 3)  # a break
        assert {"A": "gap", "B": "gap"} == at(ledger, 10.5)  # a session began, and nothing is stated yet
        assert {"A": "unprovable"} == at(ledger, 12)  # a full statement agreed since
        assert {"A": "gap"} == at(ledger, 31)  # the next number was never received


def test_as_of_a_time_at_which_nobody_listened_is_a_gap() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}), whole(2, {"A": "1"}))
        assert {"A": "consistent"} == at(ledger, 6)  # for all we know nobody has listened since
        listen(ledger, whole(11, {"A": "1"}), session="s2", since_s=10)
        assert {"A": "consistent"} == at(ledger, 2.5)
        assert {"A": "gap"} == at(ledger, 6)
        reason = Balances(ledger).at("2026-09-21T14:13:26Z", MAIN)[MAIN]["A"].reason
        assert reason.startswith("nobody was listening at that moment: blind interval 2026-09-21T14:13:23Z")
        assert {"A": "consistent"} == at(ledger, 11)
        assert {"A": "consistent"} == at(ledger, 6, known_at="2026-09-21T14:13:29Z")


def test_as_of_a_time_just_before_a_hole_was_found_is_a_gap() -> None:
    """When the missing number was said, nobody knows."""
    with Ledger() as ledger:
        listen(ledger, base(1, {"A": "1"}), numbered(2, {"A": "2"}), numbered(5, {"A": "5"}), closed=False)
        assert ["proven", "gap", "gap"] == [at(ledger, at_s)["A"] for at_s in (1.5, 4, 6)]
        listen(ledger, numbered(4, {"A": "4"}), numbered(3, {"A": "3"}), session="s2", closed=False)
        assert ["proven"] * 3 == [at(ledger, at_s)["A"] for at_s in (1.5, 4, 6)]


def test_as_of_a_time_between_the_first_numbers_that_were_lost_and_what_was_heard_before_is_a_gap() -> None:
    """A subscription whose first numbers are missing began nobody knows when."""
    with Ledger() as ledger:
        listen(ledger, base(1, {"A": "1"}), numbered(2, {"A": "2"}, "7"), closed=False)
        listen(ledger, numbered(6, {"A": "6"}, "8"), session="s2", since_s=2, closed=False)
        assert ["proven", "gap", "gap"] == [at(ledger, at_s)["A"] for at_s in (1.5, 4, 6)]
        assert ["proven", "proven"] == [
            at(ledger, at_s, known_at="2026-09-21T14:13:22.5Z")["A"] for at_s in (1.5, 4)
        ]
        listen(ledger, numbered(5, {"B": "2"}, "7"), session="s3", since_s=2, closed=False)
        assert "number 3-4" in Balances(ledger).at("2026-09-21T14:13:24Z", MAIN)[MAIN]["A"].reason


def test_as_of_a_time_between_the_rows_around_a_hole_in_a_history_is_a_gap() -> None:
    with Ledger() as ledger:
        listen(ledger, row(1, "1", "1"), row(2, "1", "2"), row(5, "1", "9"), row(6, "1", "10"), closed=False)
        assert ["proven", "gap", "gap", "gap"] == [at(ledger, at_s)["USDC"] for at_s in (1.5, 2, 4.9, 6)]
        reason = Balances(ledger).at("2026-09-21T14:13:24Z", MAIN)[MAIN]["USDC"].reason
        assert reason.startswith("rows that change USDC by 6 are missing from its history around that moment")
        assert "proven" == at(ledger, 4.9, known_at="2026-09-21T14:13:22Z")["USDC"]
        listen(ledger, row(3, "6", "8"), session="s2", closed=False)
        assert ["proven"] * 4 == [at(ledger, at_s)["USDC"] for at_s in (1.5, 2, 4.9, 6)]


def test_as_known_at_a_time_only_what_we_had_by_then_counts() -> None:
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}), whole(5, {"A": "3"}))
        listen(ledger, push(3, {"A": "3"}), push(4.5, {"B": "7"}), session="late", since_s=20)
        moment = "2026-09-21T14:14:00Z"
        known = Balances(ledger).at(moment, known_at="2026-09-21T14:13:30Z").rows()
        assert [("A", "gap")] == [(each.asset_id, each.completeness) for each in known]
        by_now = Balances(ledger).at(moment, known_at=datetime(2027, 1, 1)).rows()
        assert ["A"] == [each.asset_id for each in by_now]
        assert "gap" == by_now[0].completeness  # the blind interval: nothing was stated since
        assert [] == Balances(ledger).at(9, known_at="2026-09-21T14:13:20Z").rows()


def test_as_of_a_moment_of_a_subaccount_the_sessions_of_its_login_count() -> None:
    """The venue states subaccounts; sessions are recorded of the login."""
    with Ledger() as ledger:
        listen(ledger, says(whole(1, {"A": "1"}), account="scripted:main/0"))
        listen(ledger, says(whole(11, {"A": "1"}), account="scripted:main/0"), session="s2", since_s=10)
        found = Balances(ledger).at("2026-09-21T14:13:26Z", "scripted:main/0").rows()
        assert ["gap"] == [each.completeness for each in found]


# What could not be read ----------------------------------------------------------------------------------------------


def test_a_frame_of_the_login_that_nobody_could_read_may_be_of_each_of_its_subaccounts() -> None:
    def held(number: int) -> bytes:
        return says(whole(number, {"A": "1"}), account=name)

    name = "scripted:main/0"
    with Ledger() as ledger:
        listen(ledger, held(1), held(2), b"garbage", closed=False)
        came = "a frame that could not be read came after it (version 2 of scripted:main)"
        expected = f"{came}: what it said is not known"
        assert {"A": ("unprovable", expected)} == verdicts(ledger, name)
        for account in (name, None):
            found = [
                [each.completeness for each in Balances(ledger).at(T_TEXT.format(at_s), account).rows(name)]
                for at_s in (22, 23)
            ]
            assert [["consistent"], ["unprovable"]] == found
        assert ["consistent"] == [each.completeness for each in Balances(ledger).at(2, name).rows()]
        listen(ledger, b"garbage", says(whole(9, {"A": "1"}), account="other:b/0"), session="s2", since_s=3)
        listen(ledger, held(9), session="s3", since_s=8)
        assert {"A": "consistent"} == words(ledger, name)


def test_a_frame_of_another_login_says_nothing_of_an_account() -> None:
    with Ledger() as ledger:
        listen(ledger, says(whole(1, {"A": "1"}), account="scripted:b"), closed=False)
        with ledger.intake(VENUE, "other", session="s2", opened_ns=T, now_ns=lambda: T) as intake:
            intake.receive_all([(says(whole(2, {"A": "1"}), account="scripted:c"), T + 2 * SECOND_NS)])
            intake.receive_all([(says(whole(3, {"A": "1"}), account="scripted:c"), T + 3 * SECOND_NS)])
            listen(ledger, b"garbage", session="s3", since_s=4)
            assert {"A": "consistent"} == words(ledger, "scripted:c")


def test_a_frame_that_is_read_after_all_is_missed_no_more() -> None:
    """As of a time too; as it was known before, it is."""
    with Ledger() as ledger:
        late = LATE + says(delta(T - SECOND_NS, {"B": "1"}), delta(T - SECOND_NS, {"B": "2"}))
        listen(ledger, whole(1, {"A": "1"}), whole(2, {"A": "1"}), late, b"\xff", closed=False)
        balances = Balances(ledger)
        assert {"A": "unprovable"} == words(ledger)
        quarantined = [each.version for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        assert "stays" == ledger.retry([LATER], MAIN, quarantined[1]).result
        assert "read" == ledger.retry([LATER], MAIN, quarantined[0], now_ns=lambda: T + 60 * SECOND_NS).result
        (row,) = balances.rows()
        assert ("unprovable", True) == (row.completeness, f"(version {quarantined[1]})" in row.reason)
        assert {"A": "consistent"} == at(ledger, 3.5)
        assert {"A": "unprovable"} == at(ledger, 3.5, known_at=T_TEXT.format(30))
    with Ledger() as ledger:
        listen(ledger, whole(1, {"A": "1"}), whole(2, {"A": "1"}), late, LATE + says(push(3, {"C": "1"})))
        assert {"A": "unprovable"} == words(ledger)
        for newest in (5, 4):
            assert {"A": "unprovable"} == {"A": words(ledger)["A"]}
            assert "read" == ledger.retry([LATER], MAIN, newest).result
        assert "consistent" == words(ledger)["A"]


@pytest.mark.parametrize(
    "nothing_new", [says(), says(fill("f1", 1, key="fill:f1"))], ids=["nothing", "known"]
)
def test_a_frame_that_says_nothing_new_after_all_is_missed_no_more(nothing_new: bytes) -> None:
    """As of a time too; as it was known before, it is. What was heard in which session is as it was."""
    with Ledger() as ledger:
        told = says(fill("f1", 1, key="fill:f1"))
        listen(ledger, whole(1, {"A": "1"}), whole(2, {"A": "1"}), told, LATE + nothing_new, closed=False)
        (version,) = [each.version for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        balances, heard = Balances(ledger), Sessions(ledger).listening(MAIN)
        assert {"A": "unprovable"} == words(ledger)
        for _ in range(2):
            retried = ledger.retry([LATER], MAIN, version, now_ns=lambda: T + 60 * SECOND_NS)
            assert "known" == retried.result
        assert version + 1 == ledger.position()
        assert ["consistent"] == [each.completeness for each in balances.rows()]
        assert {"A": "consistent"} == words(ledger)
        assert {"A": "consistent"} == at(ledger, 4.5)
        assert {"A": "unprovable"} == at(ledger, 4.5, known_at=T_TEXT.format(30))
        assert heard == Sessions(ledger).listening(MAIN)


# What the venues really say ------------------------------------------------------------------------------------------


def take(
    ledger: Ledger, venue: Venue, label: str, *frames: Any, session: str = "s1", since_s: float = 0
) -> None:
    at_ns = T + round(since_s * SECOND_NS)
    intake = ledger.intake(venue, label, session=session, opened_ns=at_ns)
    for frame in frames:
        at_ns += SECOND_NS
        said, asked = frame if isinstance(frame, tuple) else (frame, None)
        payload = said if isinstance(said, bytes) else json.dumps(said).encode()
        intake.receive_all([(payload, at_ns, None if asked is None else Asked(asked, at_ns - 1000))])
    intake.close("end", at_ns + SECOND_NS)


def bito(at_ms: int, **amounts: str) -> dict[str, Any]:
    data = {
        name: {"currency": name, "amount": amount, "available": amount, "stake": "0", "tradable": True}
        for name, amount in amounts.items()
    }
    return {"event": "ACCOUNT_BALANCE", "timestamp": 1_790_000_000_000 + at_ms, "data": data}


def test_bitopro_is_unprovable_until_a_connection_states_the_same_and_a_difference_is_missed() -> None:
    with Ledger() as ledger:
        take(ledger, bitopro, "main", bito(1, ADA="5", BTC="1"), bito(2, ADA="6"))
        assert {"ADA": "unprovable", "BTC": "unprovable"} == words(ledger, "bitopro:main")
        take(ledger, bitopro, "main", bito(9000, ADA="7", BTC="1.0"), session="s2", since_s=9)
        assert {"ADA": "unprovable", "BTC": "consistent"} == words(ledger, "bitopro:main")
        (only,) = Breaks(ledger).rows()
        assert ("ADA", "6", "7", "closed") == (only.subject, only.expected, only.stated, only.state)
        assert (only.explained_by or "").startswith("blind interval ")


def kraken(number: int, reqid: int, at_s: int, **more: Any) -> dict[str, Any]:
    data = [
        {"Currency": name, "Amount": text, "AvailableAmount": text} for name, text in more.pop("rows").items()
    ]
    ts = f"2026-09-21T14:14:{at_s:02}.000000Z"
    return {"reqid": reqid, "type": "Balance", "ts": ts, "seqNum": number, "data": data, **more}


HELLO = {"type": "hello", "session_id": "X", "ts": "2026-09-21T14:13:21Z"}


def test_kraken_prime_is_proven_by_its_numbers_a_gap_without_one_and_proven_again() -> None:
    name = "kraken_prime:desk"
    first = kraken(1, 1, 1, rows={"BTC": "12.5", "USD": "9"}, initial=True)
    hole = [kraken(2, 1, 2, rows={"BTC": "12.75"}), kraken(4, 1, 4, rows={"USD": "8"})]
    with Ledger() as ledger:
        take(ledger, kraken_prime, "desk", HELLO, first, hole[0])
        assert {"BTC": "proven", "USD": "proven"} == words(ledger, name)
    anew = kraken(1, 2, 5, rows={"BTC": "13", "USD": "8"}, initial=True)
    with Ledger() as ledger:
        take(ledger, kraken_prime, "desk", HELLO, first, *hole)
        assert {"BTC": "gap", "USD": "gap"} == words(ledger, name)
    with Ledger() as ledger:
        take(ledger, kraken_prime, "desk", HELLO, first, *hole, anew)
        assert {"BTC": "proven", "USD": "proven"} == words(ledger, name)
        (only,) = Breaks(ledger).rows()
        assert ("BTC", "12.75", "13", "sequence gap 3") == (
            only.subject,
            only.expected,
            only.stated,
            only.explained_by,
        )


def test_kraken_prime_stating_it_anew_otherwise_without_a_hole_is_a_gap() -> None:
    first = kraken(1, 1, 1, rows={"BTC": "12.5"}, initial=True)
    anew = kraken(1, 2, 5, rows={"BTC": "13"}, initial=True)
    with Ledger() as ledger:
        take(ledger, kraken_prime, "desk", HELLO, first, anew)
        assert {"BTC": "gap"} == words(ledger, "kraken_prime:desk")
        assert ["open"] == [each.state for each in Breaks(ledger).rows()]


def rest(**free: str) -> list[dict[str, str]]:
    return [{"asset": name, "asset_unit": name, "free": text, "locked": "0"} for name, text in free.items()]


def test_deltadefi_is_consistent_where_its_answer_says_what_was_pushed() -> None:
    pushed = {"type": "Account", "sub_type": "balance", "balance": rest(ada="5", usdm="9")}
    asked = (rest(ada="5.0", usdm="8"), "GET /accounts/balance")
    with Ledger() as ledger:
        take(ledger, deltadefi, "main", pushed, asked)
        found = {each.asset: each.completeness for each in Balances(ledger).rows()}
        assert {"ada": "consistent", "usdm": "gap"} == found
        (only,) = Breaks(ledger).rows()
        assert ("total", "9", "8") == (only.part, only.expected, only.stated)


def test_deltadefi_fills_are_held_against_what_was_executed(tmp_path: Path) -> None:
    frames = Path(__file__).parent / "frames" / "deltadefi"
    with Ledger() as ledger:
        for number, name in enumerate(
            ("order_info", "order_info_closed", "order_info_partly_filled_stays_open")
        ):
            take(ledger, deltadefi, "main", (frames / f"{name}.frame").read_bytes(), session=f"s{number}")
        kinds = {(each.kind, each.state) for each in Breaks(ledger).rows()}
        orders = ledger.replay()
        assert kinds <= {("fills", "open"), ("fills", "closed"), ("quote", "open")}, list(orders)


OWNER = "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f"


def test_cascade_is_consistent_where_its_answer_says_what_was_pushed() -> None:
    name = f"cascade:{OWNER}/0"
    told = {"account": OWNER, "subaccountIndex": 0, "balance": "5.5"}
    pushed = {"type": "Balance Update", "data": {**told, "updatedAt": 1_790_000_000_500}}
    ask = f"GET /account/balance?account={OWNER}&subaccountIndex=0"
    with Ledger() as ledger:
        take(ledger, cascade, OWNER, pushed, (told, ask))
        assert {"USDC": "consistent"} == words(ledger, name)
        take(ledger, cascade, OWNER, ({**told, "balance": "7"}, ask), session="s2", since_s=30)
        assert {"USDC": "unprovable"} == words(ledger, name)
        (only,) = Breaks(ledger).rows()
        assert ("5.5", "7", "closed") == (only.expected, only.stated, only.state)


def page(*told: tuple[int, str, str]) -> dict[str, Any]:
    data = [
        {
            "amount": amount,
            "balance": balance,
            "pending_balance": "0",
            "event_type": "trade",
            "created_at": 1_790_000_000_000 + ms,
        }
        for ms, amount, balance in reversed(told)
    ]
    return {"success": True, "data": data, "next_cursor": "", "has_more": False}


def account(balance: str, ms: int) -> tuple[dict[str, Any], str]:
    data = {"balance": balance, "pending_balance": "0", "updated_at": 1_790_000_000_000 + ms}
    return {"success": True, "data": data}, "GET /api/v1/account?account=w"


def test_pacifica_is_proven_where_its_history_closes_and_the_account_agrees() -> None:
    history = page((1, "5", "5"), (2, "2", "7"))
    with Ledger() as ledger:
        take(ledger, pacifica, "w", history, account("7.00", 900))
        assert {"USDC": "proven"} == words(ledger, "pacifica:w")
        assert [] == Breaks(ledger).rows()
        take(ledger, pacifica, "w", account("8", 9000), session="s2", since_s=9)
        assert {"USDC": "gap"} == words(ledger, "pacifica:w")
        assert [("account", "7", "8", "open")] == [
            (each.kind, each.expected, each.stated, each.state) for each in Breaks(ledger).rows()
        ]
        take(ledger, pacifica, "w", page((2, "2", "7"), (8000, "1", "8")), session="s3", since_s=19)
        assert {"USDC": "proven"} == words(ledger, "pacifica:w")
        assert ["closed"] == [each.state for each in Breaks(ledger).rows()]


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_says_it_and_why(told: Path) -> None:
    for more in ([], ["--at", "2026-09-21T14:13:23Z"]):
        found = printed(told, "balances", MAIN, *more)
        assert all({"completeness", "reason"} <= each.keys() for each in found)
        assert all(each["reason"] for each in found)
        ran = run(told, "balances", "--db", "a.db", MAIN, *more)
        for each in found:
            assert (each["completeness"] in ("gap", "unprovable")) == (each["reason"] in ran.out)
            assert ran.out.count(each["reason"]) <= 1
        suspect = [each for each in found if each["completeness"] == "gap"]
        assert 0 < len(suspect) == sum("! gap" in line for line in ran.out.split("\n\n")[0].splitlines())


def test_where_all_is_proven_or_consistent_the_command_gives_no_reasons(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        listen(ledger, push(1, {"A": "1"}), whole(2, {"A": "1"}), closed=False)
    ran = run(tmp_path, "balances", "--db", "a.db")
    assert (0, 2, True) == (ran.code, len(ran.out.splitlines()), "consistent" in ran.out)


def test_a_history_after_which_a_page_could_not_be_read_proves_nothing_until_it_goes_on() -> None:
    with Ledger() as ledger:
        feed(ledger, says(imported(1, "5", "5"), imported(2, "1", "6")), b"a page cut off")
        (held,) = Balances(ledger).rows()
        assert ("unprovable", True) == (held.completeness, "could not be read" in held.reason)
        feed(ledger, says(imported(3, "1", "7")), session="s2")
        assert ["proven"] == [row.completeness for row in Balances(ledger).rows()]
