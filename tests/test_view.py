"""One moment of a store, row by row: what is appended meanwhile is not seen, and what is damaged is still read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.errors import StoreError
from ledger.seal import genesis, leaf, seal
from tests.scripted import MAIN, delta, feed, says
from tests.tampering import resealed


def test_what_is_appended_meanwhile_is_not_seen(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        with ledger._store.view() as view:
            events = view.events()
            first = next(events)
            feed(ledger, says(delta(2, {"A": "2"})), session="s2")
            assert 3 == 1 + len(list(events))
            assert (3, 3) == view.counts()
            assert [1] == [kept.ordinal for kept in view.frames()]
        assert (MAIN, 1) == (first.account, first.version)
        with ledger._store.view() as view:
            assert (6, 6) == view.counts()


def test_verify_of_a_ledger_that_is_written_to_meanwhile_raises_no_alarm(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *(says(delta(n, {"A": "1"})) for n in range(1500)))
        told: list[int] = []

        def write(events: int) -> None:
            told.append(events)
            feed(ledger, says(delta(9999, {"A": "2"})), session="meanwhile")

        assert [] == list(ledger.verify(advance=write))
        assert [1000] == told
        made = ledger.checkpoint("log")
        assert [] == list(ledger.verify(checkpoints=[made]))


def test_the_seals_of_an_account_are_given_with_what_they_seal(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *(says(delta(n, {"A": "1"})) for n in range(1200)))
        whole = list(ledger.sealed(MAIN))
        assert list(range(1, 1203)) == [each.version for each in whole]
        before = genesis(MAIN)
        for each in whole:
            before = seal(before, leaf(each.version, each.topic, each.state))
            assert before == each.seal
        assert whole[10:20] == list(ledger.sealed(MAIN, after=10, upto=20))
        assert [] == list(ledger.sealed("scripted:nobody"))


def test_the_seals_go_on_where_another_process_stopped(tmp_path: Path) -> None:
    for number in range(3):
        with Ledger(tmp_path / "a.db") as ledger:
            feed(ledger, says(delta(number, {"A": "1"})), session=f"s{number}")
    with Ledger(tmp_path / "a.db") as ledger:
        assert [] == list(ledger.verify())
    with closing(sqlite3.connect(tmp_path / "a.db")) as store:
        before = store.execute("SELECT * FROM seals").fetchall()
        resealed(store)
        assert before == store.execute("SELECT * FROM seals").fetchall()


def test_a_file_that_lost_a_table_is_told_as_damaged(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
    with closing(sqlite3.connect(tmp_path / "a.db")) as store:
        store.execute("ALTER TABLE evidence RENAME TO elsewhere")
    with pytest.raises(StoreError, match="damaged ledger"):
        Ledger(tmp_path / "a.db", read_only=True)
    before = sha256((tmp_path / "a.db").read_bytes()).digest()
    with pytest.raises(StoreError, match="damaged ledger"):
        Ledger(tmp_path / "a.db")
    assert before == sha256((tmp_path / "a.db").read_bytes()).digest()


@pytest.mark.parametrize("damage", ["name='sealr'", "tbl_name='sealr'", "sql=replace(sql, 'seals', 'sealr')"])
def test_seals_under_another_name_are_damage_and_not_made_anew(tmp_path: Path, damage: str) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
    redefine(tmp_path / "a.db", f"{damage} WHERE name='seals'")
    for read_only in (True, False):
        with pytest.raises(StoreError, match="damaged ledger"):
            Ledger(tmp_path / "a.db", read_only=read_only)


def test_seals_whose_name_became_bytes_are_damage_and_not_made_anew(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
    redefine(tmp_path / "a.db", "name=CAST(name AS BLOB) WHERE name='seals'")
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert ["the table seals is not defined as it was made"] == [f.reason for f in ledger.verify()]


def redefine(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA writable_schema=ON")
        store.execute(f"UPDATE sqlite_master SET {change}")
        store.commit()
