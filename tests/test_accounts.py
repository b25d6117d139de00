"""Accounts: which there are, and when we first and last heard of them."""

from __future__ import annotations

from pathlib import Path

from ledger import Ledger
from projections import Accounts
from projections.accounts import AccountRow
from tests.scripted import MAIN, NAME, delta, feed, said, says


def test_an_account_is_known_by_what_was_first_and_last_received_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        accounts = Accounts(ledger)
        assert [] == accounts.rows()
        feed(ledger, says(delta(1, {"A": "1"})), session="s1", received_ns=20)
        feed(ledger, says(delta(2, {"A": "2"})), session="earlier", received_ns=10)
        assert [AccountRow(MAIN, NAME, 6, 10, 20, True)] == accounts.rows()
        feed(ledger, session="later", received_ns=30)
        assert [AccountRow(MAIN, NAME, 8, 10, 30, True)] == accounts.rows()
    with Ledger(path, read_only=True) as ledger:
        assert [AccountRow(MAIN, NAME, 8, 10, 30, True)] == Accounts(ledger).rows()


def test_a_login_of_which_nothing_was_stated_is_no_account_but_is_known() -> None:
    with Ledger() as ledger:
        feed(ledger, said((f"{NAME}:b", delta(1, {"A": "1"})), (f"{NAME}:a", delta(1, {"A": "1"}))))
        accounts = Accounts(ledger)
        assert [f"{NAME}:a", f"{NAME}:b"] == [row.account for row in accounts.rows()]
        assert MAIN in accounts
        assert f"{NAME}:a" in accounts
        assert f"{NAME}:c" not in accounts
        feed(ledger, says(delta(1, {})), session="s2")
        assert [f"{NAME}:a", f"{NAME}:b", MAIN] == [row.account for row in accounts.rows()]


def test_an_account_of_which_only_garbage_came_is_an_account() -> None:
    with Ledger() as ledger:
        feed(ledger, b"garbage")
        assert [MAIN] == [row.account for row in Accounts(ledger).rows()]
