"""One moment of a store, row by row: what is appended meanwhile is not seen, and what is damaged is still read."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from ledger import Ledger
from ledger import view as view_module
from ledger.errors import StoreError
from ledger.seal import genesis, leaf, seal
from ledger.view import SQLiteView as View
from tests.proving import place_of_seals
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
            assert (3, 0) == (len(list(view.events())), view.orphaned_seals())
            assert [1] == [ordinal for _, _, ordinal, _ in view.frames()]
        assert (MAIN, 1) == first[:2]
        with ledger._store.view() as view:
            assert (6, 0) == (len(list(view.events())), view.orphaned_seals())


@pytest.mark.sqlite
def test_text_that_became_none_is_still_read_and_every_row_is_given_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *(says(delta(n, {"A": "1"})) for n in range(9)))
        ledger.write([("UPDATE stored_events SET topic=CAST(x'ff41' AS TEXT) WHERE rowid=5", [()])])
        with ledger._store.view() as view:
            frames = view.frames()
            ordinals = [next(frames)[2]]
            rows = list(view.events())
            assert list(range(1, 12)) == [row[4] for row in rows]
            assert ["\\xffA"] == sorted({row[2] for row in rows})[-1:]
            assert list(range(1, 10)) == ordinals + [row[2] for row in frames]
        found = [(each.what, each.position) for each in ledger.verify()]
        assert [("seal", 5), ("event", 5)] == found  # the event of its frame is there, if unread
        assert [(MAIN,)] == ledger.select("SELECT originator_id FROM stored_events WHERE rowid=1")


def test_a_number_that_no_row_can_hold_is_not_there(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger)
        with ledger._store.view() as view:
            assert view.frame("s1", 1 << 63) is None
            assert not view.has_key(MAIN, 1 << 63, "k")


def damaged_index(path: Path) -> None:
    """A row that its index does not have: a quick look over the file finds nothing wrong with it."""
    with closing(sqlite3.connect(path)) as store:
        store.executescript(
            "CREATE TABLE mine (a); CREATE INDEX mine_a ON mine (a); PRAGMA writable_schema=ON"
        )
        index = store.execute("SELECT * FROM sqlite_master WHERE name='mine_a'").fetchall()
        store.execute("DELETE FROM sqlite_master WHERE name='mine_a'")
        store.commit()
    with closing(sqlite3.connect(path)) as store:
        store.execute("INSERT INTO mine VALUES (7)")
        store.execute("PRAGMA writable_schema=ON")
        store.executemany("INSERT INTO sqlite_master VALUES (?,?,?,?,?)", index)
        store.commit()
    with closing(sqlite3.connect(path)) as store:
        assert [("ok",)] == store.execute("PRAGMA quick_check").fetchall()


@pytest.mark.sqlite
@pytest.mark.parametrize("second", [True, False], ids=["beside", "where there is one connection only"])
def test_what_sqlite_finds_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
    damaged_index(tmp_path / "a.db")
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        if not second:
            monkeypatch.setattr(View, "_file", "/nowhere/a.db")
        found = list(ledger.verify())
    assert [("file", None)] * 2 == [(each.what, each.position) for each in found]
    assert "row 1 missing from index mine_a" == found[0].reason


def test_a_look_over_the_file_that_nobody_waits_for_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
    monkeypatch.setattr(view_module, "_INTEGRITY", endless)
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        table, place = place_of_seals(ledger)
        ledger.write([(f"UPDATE {table} SET seal=? WHERE {place}=1", [(b"",)])])
        assert "seal" == next(ledger.verify()).what
        with pytest.raises(StoreError, match="not signed"):
            ledger.checkpoint("log")
    assert [] == [each.name for each in threading.enumerate() if "inspection" in each.name]


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


@pytest.mark.sqlite
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


@pytest.mark.sqlite
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


@pytest.mark.sqlite
@pytest.mark.parametrize("damage", ["name='sealr'", "tbl_name='sealr'", "sql=replace(sql, 'seals', 'sealr')"])
def test_seals_under_another_name_are_damage_and_not_made_anew(tmp_path: Path, damage: str) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
    redefine(tmp_path / "a.db", f"{damage} WHERE name='seals'")
    for read_only in (True, False):
        with pytest.raises(StoreError, match="damaged ledger"):
            Ledger(tmp_path / "a.db", read_only=read_only)


@pytest.mark.sqlite
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
