"""Views are made where they are not, and anew where they are of another version; who may read them may read no more."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg
import pytest

from ledger import Ledger
from ledger.errors import StoreError
from projections import Fills, Orders, Quarantine, catch_up, view_sql, views
from projections.orders import OrderRow
from projections.tables import Scratch, Table
from projections.view_columns import VIEWS, View
from projections.view_sql import is_made, on_server, relations, role_script
from projections.views import Views
from tests.scripted import feed, fill, order, says

GOLDEN: Final = Path(__file__).parent / "golden_store"
NAMES: Final = [view.name for view in VIEWS]


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may be: a file, and a PostgreSQL database."""
    if request.param == "file":
        return str(tmp_path / "a.db")
    url: str = request.getfixturevalue("new_schema")
    return url


def count(ledger: Ledger, name: str) -> object:
    return ledger.select(f"SELECT count(*) FROM {name}")[0][0]


def test_views_are_made_once_and_stay(place: str) -> None:
    with Ledger(place) as ledger:
        assert not is_made(ledger)
        feed(ledger, says(order("o1", 1)))
        Views(ledger).bring_up()
        assert is_made(ledger)
        assert dict.fromkeys(NAMES, "view") == {name: relations(ledger)[name] for name in NAMES}
    with Ledger(place) as ledger:
        assert is_made(ledger)
        assert 1 == count(ledger, "orders")
        assert Views(ledger).position == ledger.position()


def test_a_ledger_without_views_has_none() -> None:
    with Ledger() as ledger:
        catch_up(ledger, [Orders(ledger), Fills(ledger), Quarantine(ledger)])
        assert {"order_rows", "fill_rows", "quarantine_rows"} < set(relations(ledger))
        assert [] == [name for name in NAMES if name in relations(ledger)]


def test_a_scratch_database_is_a_file() -> None:
    with Scratch() as scratch:
        assert not on_server(scratch)
        assert {} == relations(scratch)


# Versions


def test_views_of_another_version_are_made_anew(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(place) as ledger:
        feed(ledger, says(order("o1", 1)), b"junk")
        Views(ledger).bring_up()
    monkeypatch.setattr(view_sql, "VERSION", 2)
    monkeypatch.setattr(views.Shown, "version", 2)  # read when the module was
    changed = [*VIEWS]
    changed[0] = views_with_one_column_less()
    monkeypatch.setattr(view_sql, "VIEWS", changed)
    with Ledger(place) as ledger:
        assert "reason" in ledger.columns("current_balances")
        Views(ledger).bring_up()
        assert "reason" not in ledger.columns("current_balances")
        assert (1, 1) == (count(ledger, "orders"), count(ledger, "quarantine"))
        stored = ledger.select("SELECT version FROM projection_positions WHERE name='views'")
        assert [(2,)] == stored


def views_with_one_column_less() -> View:
    first = VIEWS[0]
    return View(first.name, first.meaning, first.rows, first.columns[:-1], first.projection)


@pytest.mark.parametrize("projection", [Orders, Fills, Quarantine])
def test_a_projection_of_another_version_takes_its_views_away_until_they_are_made(
    place: str, monkeypatch: pytest.MonkeyPatch, projection: type[Orders]
) -> None:
    """Whoever opens it first, with views or without."""
    with Ledger(place) as ledger:
        feed(ledger, says(order("o1", 1), fill("f1", 1)), b"junk")
        Views(ledger).bring_up()
    monkeypatch.setattr(projection, "version", 99)
    with Ledger(place) as ledger:
        projection(ledger).rows()
        assert not is_made(ledger)
        Views(ledger).bring_up()
        assert is_made(ledger)
        assert [1, 1, 1] == [count(ledger, name) for name in ("orders", "fills", "quarantine")]


def old(ledger: Ledger) -> None:
    """Let a ledger be as version 0.4.0 left it: tables with the names that views have now."""
    feed(ledger, says(order("o1", 1)))
    Orders(ledger).rows()
    table = Table(ledger, "orders", OrderRow, key=2)
    ledger.write(
        [
            (table.create, [()]),
            ("INSERT INTO orders SELECT * FROM order_rows", [()]),
            ("DROP TABLE order_rows", [()]),
            ("UPDATE projection_positions SET version=1 WHERE name='orders'", [()]),
        ]
    )


def test_tables_of_a_version_that_called_them_otherwise_are_replaced(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        old(ledger)
        assert "table" == relations(ledger)["orders"]
        assert ["o1"] == [row.order_id for row in Orders(ledger).rows()]
        assert "orders" not in relations(ledger)
        Views(ledger).bring_up()
        assert 1 == count(ledger, "orders")


def test_a_reader_of_such_a_ledger_writes_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        old(ledger)
    with Ledger(tmp_path / "a.db", read_only=True) as reader:
        before = relations(reader)
        assert ["o1"] == [row.order_id for row in Orders(reader).rows()]
        assert before == relations(reader)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sql")), ids=lambda path: str(path.stem))
def test_a_store_of_every_version_gets_views(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    with closing(sqlite3.connect(place)) as made:
        made.executescript(path.read_text())
    with Ledger(place) as ledger:
        Views(ledger).bring_up()
        assert len(Orders(ledger).rows()) == count(ledger, "orders")
        assert len(Fills(ledger).rows()) == count(ledger, "fills")
        assert [(0,)] == ledger.select("SELECT DISTINCT behind FROM freshness")


@pytest.mark.parametrize("name", ["gaps", "orders"])
def test_a_table_of_somebody_elses_is_left_alone(place: str, name: str) -> None:
    """An application may keep its own orders beside the ledger, in one schema."""
    with Ledger(place) as ledger:
        ledger.write([(f"CREATE TABLE {name} (mine TEXT)", [()])])
        feed(ledger, says(order("o1", 1)))
        assert 1 == len(Orders(ledger).rows())
        with pytest.raises(StoreError, match=f"there is a table {name} that is not the ledger's; rename it"):
            Views(ledger)
        assert {"mine"} == ledger.columns(name)


def test_a_server_never_had_tables_of_the_former_names(
    new_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(new_schema) as ledger:
        Orders(ledger).rows()
        ledger.write([("CREATE TABLE orders (mine TEXT)", [()])])
    monkeypatch.setattr(Orders, "version", 99)
    with Ledger(new_schema) as ledger:
        Orders(ledger).rows()
        assert {"mine"} == ledger.columns("orders")


# Several at once


def test_processes_that_start_at_once_make_them_once(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        feed(ledger, says(order("o1", 1), fill("f1", 1)))
    together = threading.Barrier(6)

    def start(_: int) -> int:
        with Ledger(new_schema) as ledger:
            together.wait()
            made = Views(ledger)
            made.bring_up()
            return made.position

    with ThreadPoolExecutor(6) as pool:
        assert {4} == {*pool.map(start, range(6))}
    with Ledger(new_schema, read_only=True) as ledger:
        assert is_made(ledger)
        assert (1, 1) == (count(ledger, "orders"), count(ledger, "fills"))


# Who may read them


def test_a_role_reads_the_views_and_nothing_else(new_schema: str) -> None:
    role = 'b"i of t' + new_schema[-8:]
    named = '"' + role.replace('"', '""') + '"'
    with Ledger(new_schema) as ledger:
        feed(ledger, says(order("o1", 1)))
        Views(ledger).bring_up()
        ((database, schema),) = ledger.select("SELECT current_database()::text, current_schema()::text")
        script = role_script(role, str(database), str(schema))
    assert "password" not in script.lower().replace("it sets no password", "")
    with psycopg.connect(new_schema, autocommit=True) as owner:
        try:
            for _ in range(2):  # it may be run again
                owner.execute(script.encode())
            settings = owner.execute(
                "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_roles ON oid = setrole WHERE rolname = %s",
                (role,),
            ).fetchall()
            assert {
                ("default_transaction_read_only=on",),
                ("statement_timeout=60s",),
                ("idle_in_transaction_session_timeout=60s",),
            } < set(settings)
            found = owner.execute("SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = %s", (role,))
            assert (True, False) == found.fetchone()
            assert_reads_only(owner, named)
            with Ledger(new_schema) as ledger:  # what is made anew may be read by the same
                ledger.write([("REVOKE SELECT ON fills FROM " + named, [()])])
                ledger.write(view_sql.making(ledger))
                Orders.version += 1
                try:
                    Orders(ledger).rows()
                    assert not is_made(ledger)
                    Views(ledger).bring_up()
                finally:
                    Orders.version -= 1
            owner.execute(f"SET ROLE {named}".encode())
            assert (1,) == owner.execute("SELECT count(*) FROM orders").fetchone()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute("SELECT * FROM fills")
            owner.execute("RESET ROLE")
        finally:
            owner.execute("RESET ROLE")
            owner.execute(f"DROP OWNED BY {named}".encode())
            owner.execute(f"DROP ROLE {named}".encode())


def assert_reads_only(owner: psycopg.Connection[tuple[object, ...]], named: str) -> None:
    tables = owner.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() "
        "AND table_type = 'BASE TABLE'"
    ).fetchall()
    assert {("stored_events",), ("evidence",), ("shown_balances",), ("order_rows",)} < set(tables)
    owner.execute(f"SET ROLE {named}".encode())
    for name in NAMES:
        owner.execute(f"SELECT * FROM {name}".encode())
    for (table,) in tables:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(f"SELECT * FROM {table}".encode())
    for statement in (
        "DELETE FROM orders",
        "CREATE TABLE mine (a int)",
        "INSERT INTO quarantine VALUES ('a')",
    ):
        with pytest.raises(psycopg.Error):
            owner.execute(statement.encode())
    owner.execute("RESET ROLE")


def test_postgresql_keeps_what_each_view_and_column_means(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        Views(ledger)
        said = ledger.select(
            "SELECT c.relname::text, coalesce(a.attname::text, ''), d.description FROM pg_description AS d "
            "JOIN pg_class AS c ON c.oid = d.objoid LEFT JOIN pg_attribute AS a "
            "ON a.attrelid = c.oid AND a.attnum = d.objsubid AND d.objsubid > 0 "
            "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v'"
        )
    wanted = {(view.name, "", view.meaning) for view in VIEWS}
    wanted |= {(view.name, each.name, each.meaning) for view in VIEWS for each in view.columns}
    assert wanted == set(said)


def test_columns_are_of_the_types_they_are_said_to_be(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        Views(ledger)
        found = ledger.select(
            "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns "
            "WHERE table_schema = current_schema()"
        )
    wanted = {(view.name, each.name, view_sql.TYPES[each.kind][0]) for view in VIEWS for each in view.columns}
    assert wanted == {row for row in found if row[0] in NAMES}
