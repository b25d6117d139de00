"""Balances as they are shown: found by id and by label, as numbers."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Final

import pytest

from ledger import Intake, Ledger
from ledger.events import Balance, BalanceSnapshot
from projections import Balances
from tests.scripted import MAIN, RECEIVED_NS, VENUE, delta, feed, imported, says, snapshot


def labelled(*pairs: tuple[str, str, str]) -> bytes:
    said = tuple(Balance(asset_id, label, total) for asset_id, label, total in pairs)
    return says(BalanceSnapshot(delta(1, {}).source, "", said))


def test_a_balance_is_found_by_its_id_and_by_its_label() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("unit1", "ADA", "1.50"), ("unit2", "BTC", "2")))
        for found in (Balances(ledger)[MAIN], Balances(ledger).at(9)[MAIN]):
            assert Decimal("1.50") == found["ADA"].total == found["unit1"].total
            assert "1.50" == str(found["ADA"].total)
            assert "ADA" in found
            assert "ETH" not in found


def test_what_an_account_holds_is_counted_once_whatever_it_is_called() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("unit1", "ADA", "1.50"), ("unit2", "BTC", "2")))
        found = Balances(ledger)[MAIN]
        assert ["unit1", "unit2"] == list(found)
        assert Decimal("3.50") == sum(each.total or 0 for each in found.values())
        assert 2 == len(found)


def test_a_label_of_two_assets_names_neither() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("unit1", "ADA", "1"), ("unit2", "ADA", "2")))
        found = Balances(ledger)[MAIN]
        assert {"unit1", "unit2"} == set(found)
        assert "ADA" not in found


def test_an_id_goes_before_another_assets_label() -> None:
    with Ledger() as ledger:
        feed(ledger, labelled(("ADA", "fake", "1"), ("unit2", "ADA", "2")))
        assert Decimal(1) == Balances(ledger)[MAIN]["ADA"].total


def test_an_asset_no_longer_held_is_not_found_and_leaves_its_label() -> None:
    with Ledger() as ledger:
        gone = delta(2, {}, ["unit1"])
        feed(ledger, labelled(("unit1", "ADA", "1"), ("unit2", "ADA", "2")), says(gone))
        found = Balances(ledger)[MAIN]
        assert {"unit2"} == set(found)
        assert Decimal(2) == found["ADA"].total
        assert {} == Balances(ledger)["scripted:nobody"]


# What is remembered from one reading to the next

ACCOUNTS: Final = ("scripted:a", "scripted:b", "scripted:l0")
S: Final = 1_000_000_000


class Listener:
    """Conversations of two logins that open, hear and close in any order, at any times."""

    def __init__(self, ledger: Ledger, dice: random.Random) -> None:
        self._ledger = ledger
        self._dice = dice
        self._open: list[tuple[Intake, list[int]]] = []
        self._opened = 0

    def step(self) -> None:
        """Something happens."""
        does = self._dice.choice(("open", *["hear"] * 10, "close"))
        if does == "open" or not self._open:
            self._listen()
        elif does == "hear":
            self._hear(*self._dice.choice(self._open))
        else:
            intake, now = self._open.pop(self._dice.randrange(len(self._open)))
            now[0] += self._dice.randrange(3) * S
            intake.close()

    def _listen(self) -> None:
        self._opened += 1
        now = [RECEIVED_NS + self._dice.randrange(60) * S]
        kind = "file-" if self._dice.random() < 0.2 else "s"
        intake = self._ledger.intake(
            VENUE,
            f"l{self._dice.randrange(2)}",
            session=f"{kind}{self._opened}",
            opened_ns=now[0],
            now_ns=lambda: now[0],
        )
        self._open.append((intake, now))

    def _hear(self, intake: Intake, now: list[int]) -> None:
        dice = self._dice
        now[0] += dice.choice((0, 0, 1, 2, 20)) * S
        held = {
            asset: str(dice.randrange(3)) for asset in dice.sample(("A", "B", "USDC"), dice.randrange(1, 3))
        }
        at_ns = dice.choice((None, now[0] - dice.randrange(20) * S))
        account, number = dice.choice(ACCOUNTS), dice.randrange(1, 9)
        made: bytes = dice.choice(
            [
                *[says(delta(at_ns, held), account=account)] * 6,
                *[says(snapshot(at_ns, held), account=account)] * 2,
                says(delta(at_ns, held, sequence=number, subscription="p"), account=account),
                says(imported(now[0], "1", held.popitem()[1]), account=ACCOUNTS[0]),
                b"junk",
            ]
        )
        intake.receive(made, now[0] - dice.choice((0, 0, 0, 30)) * S)


@pytest.mark.few
@pytest.mark.parametrize("seed", range(40))
def test_balances_read_after_every_frame_are_judged_as_if_read_for_the_first_time(seed: int) -> None:
    dice = random.Random(seed)
    with Ledger() as ledger:
        listener, kept = Listener(ledger, dice), Balances(ledger)
        for _ in range(60):
            listener.step()
            asked = dice.choice((None, *ACCOUNTS))
            found = kept.rows(
                asked
            )  # first: who comes second finds rows that somebody else wrote, and forgets his
            assert Balances(ledger).rows(asked) == found


def second_session(ledger: Ledger) -> Intake:
    """Another conversation of the account, 20 seconds after the first."""
    return ledger.intake(
        VENUE, "main", session="two", opened_ns=RECEIVED_NS + 20 * S, now_ns=lambda: RECEIVED_NS
    )


def test_what_is_heard_first_of_an_account_of_another_time_is_no_blind_interval_of_it() -> None:
    """Until it turns out that it was heard before, too."""
    with Ledger() as ledger:
        balances = Balances(ledger)
        feed(
            ledger,
            says(delta(None, {"A": "1"}), account="scripted:b"),
            session="one",
            received_ns=RECEIVED_NS,
        )
        with second_session(ledger) as intake:
            intake.receive(says(delta(None, {"A": "1"})), RECEIVED_NS + 25 * S)
            assert ["unprovable"] == [row.completeness for row in balances.rows(MAIN)]
            intake.receive(says(delta(None, {"A": "1"})), RECEIVED_NS - 5 * S)
            assert ["gap"] == [row.completeness for row in balances.rows(MAIN)]


def test_a_blind_interval_is_over_for_who_kept_the_balances_when_the_whole_account_is_stated() -> None:
    with Ledger() as ledger:
        balances = Balances(ledger)
        feed(ledger, says(delta(None, {"A": "1"})), session="one")
        with second_session(ledger) as intake:
            intake.receive(says(delta(None, {"A": "1"})), RECEIVED_NS + 25 * S)
            assert ["gap"] == [row.completeness for row in balances.rows(MAIN)]
            intake.receive(says(snapshot(None, {"A": "1"})), RECEIVED_NS + 26 * S)
            assert ["consistent"] == [row.completeness for row in balances.rows(MAIN)]


def test_a_blind_interval_is_none_for_who_kept_the_balances_when_the_account_turns_out_to_have_a_history() -> (
    None
):
    with Ledger() as ledger:
        balances = Balances(ledger)
        feed(ledger, says(delta(None, {"A": "1"})), session="one")
        with second_session(ledger) as intake:
            intake.receive(says(delta(None, {"A": "1"})), RECEIVED_NS + 25 * S)
            assert [("A", "gap")] == [(row.asset_id, row.completeness) for row in balances.rows(MAIN)]
            intake.receive(says(imported(RECEIVED_NS, "1", "1")), RECEIVED_NS + 26 * S)
            assert [("A", "unprovable"), ("USDC", "proven")] == [
                (row.asset_id, row.completeness) for row in balances.rows(MAIN)
            ]


def test_who_kept_the_balances_sees_the_gap_that_somebody_else_found() -> None:
    with Ledger() as ledger:
        kept, other = Balances(ledger), Balances(ledger)
        feed(ledger, says(delta(None, {"A": "1"})), session="one")
        assert ["unprovable"] == [row.completeness for row in kept.rows(MAIN)]
        feed(ledger, says(delta(None, {"A": "1"})), session="two", received_ns=RECEIVED_NS + 20 * S)
        assert ["gap"] == [row.completeness for row in other.rows(MAIN)]
        assert ["gap"] == [row.completeness for row in kept.rows(MAIN)]


def test_what_is_read_after_a_frame_does_not_grow_with_the_sessions_of_the_account(
    rows_read: list[int],
) -> None:
    found: list[int] = []
    for sessions in (3, 30):
        with Ledger() as ledger:
            balances = Balances(ledger)
            for at in range(sessions):
                says_so = says(snapshot(None, {"A": str(at)}))
                feed(ledger, says_so, session=f"s{at}", received_ns=RECEIVED_NS + at * S)
            with ledger.intake(VENUE, "main", opened_ns=RECEIVED_NS + 99 * S) as intake:
                for at in range(2):
                    intake.receive(says(delta(None, {"A": str(at)})), RECEIVED_NS + 100 * S)
                    balances.rows(MAIN)
                rows_read[0] = 0
                intake.receive(says(delta(None, {"A": "2"})), RECEIVED_NS + 100 * S)
                assert ["2"] == [row.total for row in balances.rows(MAIN)]
                found.append(rows_read[0])
    assert found[0] == found[1]
