"""The commands on PostgreSQL say what they say on a file: the same rows, the same words, the same exit codes."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg
import pytest

from ledger import Ledger, postgres_recorder
from ledger import run as run_module
from ledger.cli import VENUES, main, seals
from ledger.cli.options import bring_up_all
from ledger.memory import TABLE, remember, row_of
from projections.view_columns import CURRENT_BALANCES
from projections.view_sql import MARK, sql_of
from projections.views import Shown, told_again
from tests import tampering
from tests.databases import Schemas
from tests.scripted import delta, feed, says
from tests.terminal import run
from tests.test_postgres import in_role
from tests.test_run import DEMO, TAPES, served


class Said(NamedTuple):
    """What a command said, and how it ended."""

    code: object
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command of this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ran(*args: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(args)
        said = capsys.readouterr()
        return Said(ended.value.code, said.out, said.err)

    return ran


@pytest.fixture(scope="module")
def fed(schemas: Schemas, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The demo's tapes in a file and in PostgreSQL: the places of both."""
    places = str(tmp_path_factory.mktemp("demo") / "a.db"), schemas.kept()
    for place in places:
        for tape in sorted(TAPES.glob("*.tape")):
            head = json.loads(tape.read_text().partition("\n")[0])
            with pytest.raises(SystemExit) as ended:
                main(["ingest", "--db", place, head["venue"], head["account"], str(tape)])
            assert ended.value.code in (0, 1)
    return places


WALLET = "cascade:0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f/0"
ASKED: tuple[tuple[str, ...], ...] = (
    ("accounts", "--json"),
    ("accounts",),
    ("balances", "--json"),
    ("balances", "--at", "2026-11-21T00:00:00Z", "--json"),
    ("balances", "bitopro:main", "--at", "3", "--json"),
    ("orders", "--json"),
    ("fills", "--json"),
    ("history", "--json"),
    ("gaps", "--json"),
    ("breaks", "--json"),
    ("quarantine", "--json"),
    ("coverage", "--json"),
    ("audit", "bitopro:main", "--json"),
    ("statement", "bitopro:main", "--from", "2020-01-01", "--to", "2030-01-01", "--json"),
    ("why", "bitopro:main", "TWD", "--json"),
    ("balances", "nobody:nowhere", "--json"),
    ("quarantine", "retry", "--json"),
    ("replay",),
    ("replay", "--rebuild"),
    ("verify", "--json"),
    ("verify",),
)


def told(said: Said, place: str, name: str) -> Said:
    """Without what is the place's own: its name, and times of a clock."""
    text = said.out.replace(name, "DB").replace(place, "DB")
    text = re.sub(r"\b\d+(\.\d+)? ?m?s\b", "SOON", text)
    return Said(said.code, text, said.err.replace(name, "DB").replace(place, "DB"))


@pytest.mark.parametrize("asked", ASKED, ids=" ".join)
def test_a_command_says_the_same_of_both(
    fed: tuple[str, str], command: Command, asked: tuple[str, ...]
) -> None:
    said = []
    for place in fed:
        with Ledger(place, read_only=True) as ledger:
            name = ledger.name
        said.append(told(command(*asked, "--db", place), place, name))
    assert said[0] == said[1]
    assert said[0].code in (0, 1) or "no account" in said[0].err
    assert said[0].out or said[0].err


def test_what_is_fed_again_is_known_and_a_checkpoint_is_signed_and_holds(
    fed: tuple[str, str], command: Command
) -> None:
    _, url = fed
    again = command("ingest", "--db", url, "bitopro", "main", str(TAPES / "bitopro.tape"))
    assert re.search(r"4 frames: 0 recorded, 4 duplicates", again.out), again
    assert 0 == command("keygen").code
    assert 0 == command("checkpoint", "--db", url).code
    held = ("--checkpoint", "postgres.checkpoint", "--public-key", "accountledger.pub")
    assert 0 == command("verify", "--db", url, *held).code
    command("ingest", "--db", url, "bitopro", "other", str(TAPES / "bitopro.tape"))
    assert 0 == command("verify", "--db", url, *held).code
    assert 0 == command("checkpoint", "--db", url).code
    with Ledger(url) as ledger:
        ledger.write([("DELETE FROM stored_events WHERE notification_id>?", [(ledger.position() - 1,)])])
    bad = command("verify", "--db", url, "--json", *held)
    assert (1, True) == (bad.code, bool(json.loads(bad.out)))


@pytest.fixture
def whole(new_schema: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger of every kind of event with every projection stored, and what conversations remember."""
    monkeypatch.setattr(seals, "VENUES", {**VENUES, tampering.LATER.NAME: tampering.LATER})
    with Ledger(new_schema) as ledger:
        tampering.record(ledger)
        bring_up_all(ledger)
        remember(ledger, [row_of("a:b", b"123")])
    return new_schema


def other(random: Random, cell: Any) -> Any:
    """A cell with one bit flipped, or of a text one character: no text that is no text is in PostgreSQL."""
    if isinstance(cell, bool):
        return not cell
    if not isinstance(cell, str):
        return tampering.flipped(random, cell)
    at = random.randrange(len(cell))
    return f"{cell[:at]}{'1' if cell[at] == '0' else '0'}{cell[at + 1 :]}"


def test_a_cell_changed_in_what_projections_stored_or_conversations_remember_is_found(
    whole: str, command: Command
) -> None:
    assert (0, "") == command("verify", "--db", whole)[::2]
    random, missed, tried = Random(7), [], set[str]()
    with psycopg.connect(whole, autocommit=True) as server:
        columns: dict[str, list[str]] = {}
        for table, column in server.execute(
            "SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables "
            "USING (table_schema, table_name) WHERE table_schema=current_schema() AND table_type='BASE TABLE'"
        ):
            columns.setdefault(table, []).append(column)
        for table in sorted(set(columns) - {*tampering.TABLES, "ledger_schema"}):
            column = random.choice(columns[table])
            sql = f"SELECT ctid, {column} FROM {table} WHERE {column} IS NOT NULL AND {column}::text<>''"
            cells = server.execute(sql.encode()).fetchall()
            if not cells:
                continue
            place, cell = random.choice(cells)
            change = f"UPDATE {table} SET {column}=%s WHERE ctid=%s RETURNING ctid".encode()
            try:
                moved = server.execute(change, [other(random, cell), place]).fetchone()
            except psycopg.Error:  # a constraint or a type that does not take it
                continue
            tried.add(table)
            said = command("verify", "--db", whole)
            if (said.code, said.err) != (1, ""):
                missed.append((table, column, cell, said))
            assert moved is not None
            server.execute(change, [cell, moved[0]])
    assert [] == missed
    assert len(tried) > 10
    assert (0, "") == command("verify", "--db", whole)[::2]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM projection_positions WHERE name='balances'",
        "UPDATE projection_positions SET version=99 WHERE name='balances'",
        "UPDATE projection_positions SET position=9999 WHERE name='balances'",
        "ALTER TABLE balances ADD COLUMN more TEXT",
        f"UPDATE {TABLE} SET account='a:c'",
    ],
)
def test_rows_of_a_projection_whose_place_is_gone_are_a_finding(
    whole: str, command: Command, statement: str
) -> None:
    with psycopg.connect(whole) as server:
        server.execute(statement.encode())
    said = command("verify", "--db", whole)
    assert (1, "") == (said.code, said.err)
    assert "1 finding" in said.out


def test_a_primary_key_that_somebody_dropped_is_a_finding_and_made_again_by_a_rebuild(
    whole: str, command: Command
) -> None:
    """Without it no row can be written over: whoever folds could not go on."""
    sql = (
        "SELECT conrelid::regclass::text, conname::text FROM pg_constraint WHERE contype = 'p' "
        "AND connamespace = to_regnamespace(current_schema()) AND obj_description(conrelid, 'pg_class') = ? ORDER BY 1"
    )
    with Ledger(whole) as ledger:
        keys = [(str(table), str(key)) for table, key in ledger.select(sql, (MARK,))]
        assert {"balances", "history", "shown_balances"} < {table for table, _ in keys}
        ledger.write([(f"ALTER TABLE {table} DROP CONSTRAINT {key}", [()]) for table, key in keys])
    code, out, _ = command("verify", "--db", whole, "--json")
    assert 1 == code
    named = {each["reason"] for each in json.loads(out)}
    assert {f"the table {table} is not defined as it was made" for table, _ in keys} == named
    code, out, _ = command("replay", "--db", whole, "--rebuild")
    assert 1 == code
    assert "history: the table is not as it was made" in out
    assert (0, "") == command("verify", "--db", whole)[::2]
    with Ledger(whole, read_only=True) as ledger:
        assert keys == ledger.select(sql, (MARK,))


def test_a_ledger_whose_projections_lag_behind_raises_no_alarm(whole: str, command: Command) -> None:
    with Ledger(whole) as ledger:
        feed(ledger, says(delta(999, {"A": "1"})), session="later")
    assert (0, "") == command("verify", "--db", whole)[::2]
    with psycopg.connect(whole) as server:  # as another version would have left it
        server.execute(
            "UPDATE projection_positions SET version=version-1 WHERE name='balances' AND version>1"
        )
    assert (0, "") == command("verify", "--db", whole)[::2]


def test_a_fold_that_takes_longer_than_a_transaction_may_be_idle_raises_no_alarm(
    whole: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*args: Any) -> Shown:
        time.sleep(0.5)
        return told_again(*args)

    hurried = postgres_recorder._SETTINGS.replace("'60s'", "'100ms'")
    assert hurried != postgres_recorder._SETTINGS
    monkeypatch.setattr(postgres_recorder, "_SETTINGS", hurried)
    monkeypatch.setattr("ledger.cli.proof.told_again", slowly)
    for asked in ("verify", "replay"):
        said = command(asked, "--db", whole)
        assert (0, "") == (said.code, said.err), said.out


def test_who_may_only_read_finds_a_view_that_is_defined_otherwise(whole: str, command: Command) -> None:
    """Also where no object can be made at all, as on a standby server."""
    reader = f"{whole}%20-cdefault_transaction_read_only%3Don"
    assert 0 == command("verify", "--db", reader).code
    sql = sql_of(CURRENT_BALANCES, server=True).replace("t.total", "'42'")
    with psycopg.connect(whole) as server:
        server.execute(sql.replace("CREATE", "CREATE OR REPLACE").encode())
    said = command("verify", "--db", reader)
    assert (1, "") == (said.code, said.err)
    assert "the view current_balances is not defined as it was made" in said.out
    assert 0 == command("views", "--db", whole).code
    assert 0 == command("verify", "--db", reader).code


def test_a_changed_event_is_named_and_nothing_is_signed(whole: str, command: Command, tmp_path: Path) -> None:
    assert 0 == command("keygen").code
    with psycopg.connect(whole) as server:
        server.execute("UPDATE stored_events SET state=state || '\\xc0' WHERE notification_id=2")
    said = command("verify", "--db", whole)
    assert (1, "") == (said.code, said.err)
    assert said.out.splitlines()[-1].endswith("first bad event: scripted:main version 2 (position 2)")
    said = command("checkpoint", "--db", whole, "--out", "new")
    assert (1, False, 1) == (said.code, (tmp_path / "new").exists(), len(said.err.splitlines()))


def test_a_ledger_that_lost_its_natural_keys_is_a_finding_and_nothing_is_recorded_again(
    new_schema: str, command: Command
) -> None:
    fed = ("ingest", "--db", new_schema, "pacifica", "main", str(TAPES / "pacifica.tape"))
    command(*fed)
    with psycopg.connect(new_schema) as server:
        before = server.execute("SELECT count(*) FROM stored_events").fetchall()
        server.execute("DROP TABLE natural_keys")
    for asked in (("balances", "--db", new_schema), fed):
        said = command(*asked)
        assert (2, "", 1) == (said.code, said.out, len(said.err.splitlines()))
        assert "a damaged ledger (it lost the tables natural_keys)" in said.err
    said = command("verify", "--db", new_schema, "--json")
    (found,) = json.loads(said.out)
    assert (1, "", "file") == (said.code, said.err, found["what"])
    assert "a damaged ledger (it lost the tables natural_keys)" in found["reason"]
    with psycopg.connect(new_schema) as server:
        assert before == server.execute("SELECT count(*) FROM stored_events").fetchall()
        assert [(None,)] == server.execute("SELECT to_regclass('natural_keys')").fetchall()


def test_the_events_that_are_there_are_counted_not_their_positions(whole: str, command: Command) -> None:
    with psycopg.connect(whole) as server:
        ((count,),) = server.execute("SELECT count(*) FROM stored_events").fetchall()
        server.execute(
            "UPDATE stored_events SET notification_id=notification_id+100 WHERE notification_id=%s", (count,)
        )
    assert command("verify", "--db", whole).out.splitlines()[-1].startswith(f"{count} events: 1 finding")


@pytest.mark.parametrize("forged", ["edited", "other key", "not one"])
def test_a_checkpoint_that_our_key_did_not_sign_is_a_finding(
    whole: str, command: Command, tmp_path: Path, forged: str
) -> None:
    assert 0 == command("keygen", "--name", "ours").code
    assert 0 == command("checkpoint", "--db", whole).code
    note = tmp_path / "postgres.checkpoint"
    if forged == "edited":
        note.write_bytes(note.read_bytes().replace(b"scripted", b"scribbled", 1))
    elif forged == "not one":
        note.write_bytes(b"\xff")
    else:
        assert 0 == command("keygen", "--key", "k", "--public-key", "p", "--name", "ours").code
        assert 0 == command("checkpoint", "--db", whole, "--key", "k", "--out", "theirs").code
        note.write_bytes((tmp_path / "theirs").read_bytes())
    held = ("--checkpoint", str(note), "--public-key", "accountledger.pub")
    said = command("verify", "--db", whole, "--json", *held)
    assert (1, ["checkpoint"]) == (said.code, [each["what"] for each in json.loads(said.out)])
    said = command("checkpoint", "--db", whole)
    assert (2, 1) == (said.code, len(said.err.splitlines()))


def test_a_feed_runs_into_postgresql(
    schemas: Schemas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in DEMO.items():
        monkeypatch.setenv(name, value)
    url = schemas.url()
    with served("bitopro") as feeds:
        (tmp_path / "FEEDS.toml").write_text(feeds)
        ran = run(tmp_path, "run", "FEEDS.toml", "--db", url, "--for", "2")
    assert (ran.code, ran.err) == (0, "")
    assert "bitopro:main  4 frames: 4 recorded" in ran.out
    held: list[dict[str, Any]] = json.loads(run(tmp_path, "balances", "--db", url, "--json").out)
    assert "1140000" in {row["total"] for row in held}
    schemas.forget()


def test_the_demo_shows_where_it_wrote_and_no_password(schemas: Schemas, tmp_path: Path) -> None:
    url = schemas.url()
    secret = "password=hunter3&ssl%70assword=hunter4"
    said = f"{url.replace('//postgres@', '//postgres:hunter2@')}&{secret}&application_name=demo"
    assert "hunter2" in said
    ran = run(tmp_path, "demo", "--db", said)
    assert (ran.code, ran.err) == (0, "")
    assert "hunter" not in ran.out
    named = next(line for line in ran.out.splitlines() if " verify --db " in line).split(" --db ")[1]
    assert f"{url}&application_name=demo" == shlex.split(named)[0]
    assert run(tmp_path, "verify", "--db", shlex.split(named)[0]).code == 0
    schemas.forget()


def test_the_tapes_are_the_demos() -> None:
    assert Path(run_module.__file__).parent / "demo" == TAPES
    assert 5 == len(list(TAPES.glob("*.tape")))


def test_what_a_role_may_not_do_is_told_in_a_line(command: Command, schemas: Schemas) -> None:
    url = schemas.kept()
    with Ledger(url) as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        bring_up_all(ledger)
        ledger.write([("UPDATE balances SET total='2'", [()])])
    reads = in_role(url, "ledger_reads", "SELECT", "SELECT")
    assert [0, 0, 1] == [command(each, "--db", reads).code for each in ("balances", "gaps", "replay")]
    more = ": that takes more rights than this role has\n"
    for args in (("views",), ("ingest", "bitopro", "main", "-"), ("quarantine", "retry")):
        ran = command(args[0], "--db", reads, *args[1:])
        assert (2, "", 1) == (ran.code, ran.out, ran.err.count("\n"))
        assert ran.err.endswith(f"permission denied for table projection_positions{more}")
    ran = command("replay", "--db", reads, "--rebuild")
    assert (2, 1, True) == (ran.code, ran.err.count("\n"), ran.err.endswith(more))
    assert "balances: stored " in ran.out
    ran = command("balances", "--db", f"{url}%20-crole%3Dpg_monitor")
    assert (2, "") == (ran.code, ran.out)
    assert ran.err.endswith(": the schema of its search_path is not there, or not for this role\n")
    ran = command("views", "--db", f"{url}%20-cdefault_transaction_read_only%3Don")
    assert (2, "") == (ran.code, ran.out)
    assert ran.err.endswith("in a read-only transaction: it can only be read here\n")
    for role in (url, in_role(url, "ledger_feeds")):
        with Ledger(url) as ledger:
            ledger.write([("UPDATE balances SET total='2'", [()])])
        assert 1 == command("replay", "--db", role, "--rebuild").code
        assert 0 == command("replay", "--db", reads).code  # who might read the tables still may
