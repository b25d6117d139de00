"""Both databases are what a store asks for, and mean the same by it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from ledger.errors import Conflict
from ledger.postgres import Postgres
from ledger.rows import Cell, Engine, Rows
from ledger.sqlite import SQLite

SEAL = b"s" * 32


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine
    if request.param == "postgres":
        made = Postgres(request.getfixturevalue("new_schema"), read_only=False)
    elif request.param == "sqlite":
        made = SQLite(request.getfixturevalue("tmp_path") / "a.db", read_only=False)
    else:
        made = SQLite(None, read_only=False)
    with closing(made):
        yield made


def rows(*versions: int) -> Rows:
    """Events of one account, each with a frame and a key."""
    found = Rows()
    for version in versions:
        found.events += ("a:1", version, "topic", b"state %d" % version)
        found.seals.append(SEAL)
        found.evidence += ("s", version, b"frame")
        found.keys += ("a:1", version, f"key {version}")
    return found


def test_every_member_is_there_with_the_same_parameters() -> None:
    asked = [name for name, value in vars(Engine).items() if name[0] != "_" and callable(value)]
    assert 10 < len(asked)
    for name in asked:
        said: list[Any] = [inspect.signature(getattr(each, name)) for each in (Engine, SQLite, Postgres)]
        assert 1 == len({tuple(each.parameters) for each in said}), name


def test_rows_of_one_commit_share_nothing_with_others() -> None:
    one = Rows()
    one.events.append("a:1")
    assert [] == Rows().events


def test_what_is_inserted_is_selected_and_committing_is_called_once(engine: Engine) -> None:
    called: list[int] = []
    engine.insert(rows(1, 2), lambda: called.append(1))
    assert [1] == called
    place = engine.POSITION
    assert [("a:1", 1, 1), ("a:1", 2, 2)] == engine.select(
        f"SELECT originator_id, originator_version, {place} FROM stored_events ORDER BY {place}"
    )
    sealed = engine.select(f"{engine.EVENTS} ORDER BY e.{place}")
    assert [(1, SEAL), (2, SEAL)] == [(position, seal) for *_, position, seal in sealed]
    assert {(1, "key 1"), (2, "key 2")} == set(
        engine.known("a:1", [(1, "key 1"), (2, "key 2"), (2, "key 1"), (3, "key 3")])
    )


def test_a_conflict_leaves_nothing_and_no_hole_in_the_positions(engine: Engine) -> None:
    engine.insert(rows(1), lambda: None)
    with pytest.raises(Conflict):
        engine.insert(rows(2, 1), lambda: None)
    engine.insert(rows(2), lambda: None)
    assert [(1,), (2,)] == engine.select(f"SELECT {engine.POSITION} FROM stored_events ORDER BY 1")


@pytest.mark.parametrize(
    "kind", ["texts", "numbers", "bytes", "wide numbers", "one of each", "of another type"]
)
def test_rows_are_selected_by_a_list(engine: Engine, kind: str) -> None:
    engine.insert(rows(1, 2, 3), lambda: None)
    asked: dict[str, tuple[str, Sequence[Cell], set[int]]] = {
        "texts": ("topic", ["topic", "nul\x00"], {1, 2, 3}),
        "numbers": ("originator_version", [1, 3, 3, 9], {1, 3}),
        "bytes": ("state", [b"state 2", b""], {2}),
        "wide numbers": ("originator_version", [2, 1 << 63], {2}),
        "one of each": ("originator_version", [2, None], {2}),
        "of another type": ("originator_version", [True, 3], {1, 3}),
    }
    column, cells, found = asked[kind]
    marks = ", ".join("?" * len(cells))
    sql = f"SELECT originator_version FROM stored_events WHERE originator_id=? AND {column} IN ({marks})"
    if kind == "wide numbers" and engine.FILE:
        with pytest.raises(OverflowError):
            engine.select(sql, ("a:1", *cells))
        return
    assert {(each,) for each in found} == set(engine.select(sql, ("a:1", *cells)))


def test_tables_are_made_changed_and_told_of(engine: Engine) -> None:
    assert set() == engine.columns("mine")
    engine.write([("CREATE TABLE mine (a TEXT, n INTEGER, b BLOB, PRIMARY KEY (a))", [()])])
    assert {"a", "n", "b"} == engine.columns("mine")
    put = (
        "INSERT INTO mine (a, n, b) VALUES (?, ?, ?) ON CONFLICT (a) DO UPDATE SET n=excluded.n, b=excluded.b"
    )
    many = [(f"é{number}", number, bytes([number])) for number in range(50)]
    engine.write([(put, many), (put, [("é1", None, None)])])
    assert 50 == engine.select("SELECT count(*) FROM mine")[0][0]
    assert [("é1", None, None)] == engine.select("SELECT a, n, b FROM mine WHERE a=?", ("é1",))
    engine.write([("DELETE FROM mine WHERE a=?", [(each[0],) for each in many[2:]])])
    assert [("é0",), ("é1",)] == engine.select("SELECT a FROM mine ORDER BY a")
    before = engine.definition("mine")
    engine.write([("ALTER TABLE mine ADD COLUMN more INTEGER", [()])])
    assert before != engine.definition("mine")
    assert before
    engine.write([("DROP TABLE mine", [()])])
    assert set() == engine.columns("mine")


def test_what_must_change_one_row_and_does_not_stops_all_of_it(engine: Engine) -> None:
    engine.write([("CREATE TABLE mine (n INTEGER)", [()]), ("INSERT INTO mine (n) VALUES (?)", [(1,)])])
    move = "UPDATE mine SET n=? WHERE n=?"
    engine.write([("INSERT INTO mine (n) VALUES (?)", [(7,)])], [(move, (2, 1))])
    with pytest.raises(Conflict):
        engine.write([("INSERT INTO mine (n) VALUES (?)", [(8,)])], [(move, (3, 1))])
    assert [(2,), (7,)] == engine.select("SELECT n FROM mine ORDER BY n")
