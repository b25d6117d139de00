"""Tables: rows in key order whatever of them is stored, changed or gone; against a dictionary that does the same."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from ledger import Ledger
from projections import tables
from projections.tables import Database, Table


class Row(Struct):
    account: str
    name: str
    number: int
    amount: str | None = None
    flag: bool | None = None


Key = tuple[str, str, int]
Op = tuple[str, Key, str]

ACCOUNTS = ["v:a", "v:b", "v:é", "v:ﬀ", "v:😀"]
keys = st.tuples(
    st.sampled_from(ACCOUNTS), st.sampled_from(["9", "10", "ß", "z"]), st.sampled_from([-1, 2, 10])
)
ops = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "change", "drop", "get", "fetch", "of", "rows", "write", "forget"]),
        keys,
        st.sampled_from(["1", "2.50", "-0.1"]),
    ),
    max_size=40,
)


def table(database: Database | None, *, create: bool = True) -> Table[Row]:
    made = Table(database, "things", Row, key=3)
    if database is not None and create:
        database.write([(made.create, [()])])
    return made


def key_of(row: Row) -> Key:
    return (row.account, row.name, row.number)


def in_order(rows: dict[Key, Row]) -> list[Row]:
    """As SQLite orders them: text by its UTF-8 bytes, numbers by value."""
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0].encode(), key[1].encode(), key[2]))]


def write(database: Database, made: Table[Row]) -> None:
    database.write(made.changes())


class Model:
    """What a table should answer: what is stored, and what is seen before it is stored."""

    def __init__(self, stored: dict[Key, Row]) -> None:
        self.stored = stored
        self.seen = dict(stored)

    def check(self, made: Table[Row], account: str) -> None:
        assert in_order(self.seen) == list(made.rows())
        named = {key: row for key, row in self.seen.items() if key[1] in ("10", "ß")}
        assert in_order(named) == made.among("name", ["ß", "10", "no"])
        of_account = {key: row for key, row in self.seen.items() if key[0] == account}
        assert in_order(of_account) == list(made.rows(account))

    def play(self, made: Table[Row], script: list[Op], write: Callable[[], None] | None) -> None:
        for op, key, amount in script:
            row = Row(*key, amount, flag=amount == "1")
            if op == "put":
                made.put(row)
                self.seen[key] = Row(*key, amount, flag=amount == "1")
            elif op == "change":
                known = made.get(*key)
                assert self.seen.get(key) == known
                if known is not None:
                    known.amount = amount
                    made.put(known)
                    self.seen[key] = Row(*key, amount, known.flag)
            elif op == "drop":
                made.drop(row)
                self.seen.pop(key, None)
            elif op == "get":
                assert self.seen.get(key) == made.get(*key)
            elif op == "fetch":
                made.fetch(
                    (key[0], name, number) for name in ("9", "10", "z", key[1]) for number in (-1, 2, 10)
                )
            elif op == "of":
                of_account = {k: held for k, held in made.of(key[0]).items() if held is not None}
                assert {k: held for k, held in self.seen.items() if k[0] == key[0]} == of_account
            elif op == "rows":
                self.check(made, key[0])
            elif op == "write" and write is not None:
                write()
                self.stored = dict(self.seen)
            elif op == "forget":
                made.forget()
                self.seen = dict(self.stored)


@contextmanager
def small_pages(rows: int, cached: int = 5) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PAGE_ROWS_MAX", rows)
        patch.setattr(tables, "ROWS_CACHED_MAX", cached)
        yield


@settings(max_examples=150, deadline=None, derandomize=True)
@given(script=ops, page=st.integers(1, 4))
def test_a_table_of_a_database_answers_like_a_dictionary(script: list[Op], page: int) -> None:
    with Ledger() as ledger, small_pages(page):
        made = table(ledger)
        model = Model({})
        model.play(made, script, lambda: write(ledger, made))
        for account in ACCOUNTS:
            model.check(made, account)
        write(ledger, made)
        assert in_order(model.seen) == list(table(ledger).rows())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(script=ops)
def test_a_table_without_a_database_answers_like_a_dictionary(script: list[Op]) -> None:
    made = table(None)
    model = Model({})
    model.play(made, script, None)
    model.check(made, "v:é")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(stored=st.lists(keys, unique=True), script=ops)
def test_a_detached_table_reads_no_stored_row(stored: list[Key], script: list[Op]) -> None:
    with Ledger() as ledger:
        for key in stored:
            ledger.write([(table(ledger).insert, [(*key, "7", None)])])
        made = table(ledger)
        made.detach()
        model = Model({})
        model.play(made, script, None)
        model.check(made, "v:é")


@pytest.fixture(scope="module")
def shelf() -> Iterator[Path]:
    """A ledger file with some stored rows."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.db"
        with Ledger(path) as ledger:
            made = table(ledger)
            for account in ACCOUNTS:
                for name in ("9", "10", "z"):
                    made.put(Row(account, name, 2, "3"))
            write(ledger, made)
        yield path


@pytest.mark.sqlite
@settings(max_examples=60, deadline=None, derandomize=True)
@given(script=ops, page=st.integers(1, 4))
def test_a_read_only_table_shows_what_was_put_and_writes_nothing(
    shelf: Path, script: list[Op], page: int
) -> None:
    stored = {(a, n, 2): Row(a, n, 2, "3") for a in ACCOUNTS for n in ("9", "10", "z")}
    with Ledger(shelf, read_only=True) as ledger, small_pages(page):
        made = table(ledger, create=False)
        model = Model(dict(stored))
        model.play(made, script, None)
        model.check(made, "v:é")
        assert in_order(stored) == list(table(ledger, create=False).rows())


def test_numbers_come_before_texts_where_damage_left_both_in_one_place() -> None:
    made = table(None)
    damaged: list[Any] = ["x", 7, "10", 3]
    for name in damaged:
        made.put(Row("v:a", name, 1))
    assert [3, 7, "10", "x"] == [row.name for row in made.rows()]


def test_numbers_come_by_value_and_text_by_its_bytes(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        made = table(ledger)
        expected = [
            Row(account, name, number)
            for account in ("v:a", "v:é", "v:\uffff", "v:😀")
            for name in ("10", "9", "é")
            for number in (-5, 9, 10, 100)
        ]
        for row in expected[::2]:
            made.put(row)
        write(ledger, made)
        for row in expected[1::2]:
            made.put(row)
        assert expected == list(made.rows())
        assert [row for row in expected if row.account == "v:é"] == list(made.rows("v:é"))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_pages_end_where_the_rows_end(count: int) -> None:
    with Ledger() as ledger, small_pages(2):
        made = table(ledger)
        expected = [Row("v:a", "x", number) for number in range(count)]
        for row in expected:
            made.put(row)
        write(ledger, made)
        assert expected == list(made.rows()) == list(made.rows("v:a"))
        assert [] == list(made.rows("v:b"))


def test_truth_comes_back_as_truth(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        made = table(ledger)
        for number, flag in enumerate((True, False, None)):
            made.put(Row("v:a", "x", number, flag=flag))
        write(ledger, made)
        fresh = table(ledger)
        found = [fresh.get("v:a", "x", number) for number in range(3)]
        assert ["True", "False", "None"] == [repr(row.flag) for row in found if row is not None]
        assert ["True", "False", "None"] == [repr(row.flag) for row in fresh.rows()]


def test_changes_are_given_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        made = table(ledger)
        made.put(Row("v:a", "x", 1))
        made.drop(Row("v:a", "x", 2))
        (_, kept), (_, gone) = made.changes()
        assert ([("v:a", "x", 1, None, None)], [("v:a", "x", 2)]) == (kept, gone)
        assert [[], []] == [rows for _, rows in made.changes()]


def test_the_cache_is_dropped_when_it_grows_past_its_bound_and_not_before() -> None:
    with Ledger() as ledger, small_pages(2, cached=3):
        made = table(ledger)
        for number in range(3):
            for _ in range(5):  # the same row again is one row
                made.put(Row("v:a", "x", number, "1"))
        write(ledger, made)
        ledger.write([("UPDATE things SET amount='9'", [()])])
        kept = made.get("v:a", "x", 0)
        assert kept is not None
        assert "1" == kept.amount
        made.put(Row("v:a", "x", 3, "1"))
        write(ledger, made)
        read_again = made.get("v:a", "x", 0)
        assert read_again is not None
        assert "9" == read_again.amount


def test_rows_being_read_outlive_a_dropped_cache() -> None:
    with Ledger() as ledger, small_pages(2, cached=1):
        made = table(ledger)
        expected = [Row("v:a", "x", number) for number in range(6)]
        for row in expected:
            made.put(row)
        reading = made.rows()
        first = list(islice(reading, 2))
        write(ledger, made)
        assert expected == first + list(reading)


def test_a_row_that_was_handed_out_does_not_change_any_more() -> None:
    made = table(None)
    made.put(Row("v:a", "x", 1, "1"))
    (handed_out,) = made.rows()
    held = made.get("v:a", "x", 1)
    assert held is not None
    held.amount = "2"
    made.put(held)
    assert "1" == handed_out.amount


def test_a_table_in_memory_keeps_its_rows_when_its_changes_are_taken() -> None:
    made = table(None)
    one, other = Row("v:a", "9", 1, "1"), Row("v:b", "9", 2, "2", True)
    made.put(one)
    made.put(other)
    made.changes()
    made.put(Row("v:a", "9", 1, "3"))
    made.drop(other)
    (_, kept), (_, gone) = made.changes()
    assert ([("v:a", "9", 1, "3", None)], [("v:b", "9", 2)]) == (kept, gone)
    assert [Row("v:a", "9", 1, "3")] == list(made.rows()) == list(made.rows("v:a"))
    assert [] == list(made.rows("v:b")) == list(made.rows("v:other"))


def test_a_table_in_memory_keeps_more_rows_than_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_CACHED_MAX", 2)
    made = table(None)
    for number in range(5):
        made.put(Row("v:a", "9", number))
    made.changes()
    assert [0, 1, 2, 3, 4] == [row.number for row in made.rows()]


def test_rows_that_were_fetched_are_not_asked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("v:a", name, number, "1") for name in ("x", "y") for number in range(5)]
    monkeypatch.setattr(tables, "FETCHED_MAX", 3)
    with Ledger() as ledger:
        first = table(ledger)
        for row in rows:
            first.put(row)
        write(ledger, first)
        made = table(ledger, create=False)
        changed = Row("v:a", "y", 4, "2")
        made.put(changed)
        made.fetch([*map(key_of, rows), ("v:a", "x", 99), ("v:b", "x", 1)])
        asked: list[str] = []
        monkeypatch.setattr(type(ledger), "select", lambda *_: asked.append("once more"))
        assert [*rows[:-1], changed] == [made.get(*key_of(row)) for row in rows]
        assert made.get("v:a", "x", 99) is None
        assert made.get("v:b", "x", 1) is None
        made.fetch(map(key_of, rows))
        assert not asked


def test_what_changed_can_be_taken_in_by_another_table() -> None:
    made, again = table(None), table(None)
    for number in range(3):
        made.put(Row("v:a", "9", number, "1", number == 1))
    again.restore(made.changes()[0][1], made.changes()[1][1])
    made.drop(Row("v:a", "9", 1))
    made.put(Row("v:a", "9", 2, "5"))
    changes = made.changes()
    again.restore(changes[0][1], [*changes[1][1], ("v:a", "9", 77)])
    assert (
        [Row("v:a", "9", 0, "1", False), Row("v:a", "9", 2, "5")] == list(made.rows()) == list(again.rows())
    )
