"""A ledger in PostgreSQL: hostile texts, errors that name what failed, and the suite that runs there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Closed, Ledger, LedgerError, NoSuchLedger, ReadOnly, Recorded, StoreError
from ledger.cli import main
from ledger.cli.options import bring_up_all
from ledger.errors import Corrupt, Unstorable
from ledger.events import Event, FillRecorded, FrameQuarantined
from ledger.memory import remember, remembered, row_of
from ledger.postgres import TEXT_BYTES_MAX, Postgres
from ledger.postgres_recorder import TABLES, Recorder
from ledger.store import Store
from projections import Balances
from projections.orders import Orders
from projections.views import Views
from tests import databases, scripted
from tests.databases import STORED, Schemas, fewer_examples, route
from tests.scripted import MAIN, delta, feed, fill, order, says, snapshot
from tests.test_postgres_recorder import forgets_one, stock, stored
from tests.test_store import ACCOUNT, event
from tests.test_store import fill as append

# What texts and numbers may be -------------------------------------------------------------------------------------

ODD = (
    "a\0b",
    "\0",
    "\1",
    "\1\1",
    "\1\2",
    "a\0",
    "a\1\0\2",
    "é",
    "😀",
    "%s",
    "%%",
    "?",
    "'",
    "\\",
    "NULL",
    "{}",
)


def test_any_text_is_stored_and_found_again(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        frames = [says(fill(text, number, key=f"fill:{text}")) for number, text in enumerate(ODD, 1)]
        feed(ledger, *frames)
        found = [each.event for each in ledger.replay() if isinstance(each.event, FillRecorded)]
        assert list(ODD) == [each.fill_id for each in found]
        with ledger.intake(scripted.VENUE, "main", session="again") as intake:
            assert len(ODD) == intake.receive_all([(frame, 1) for frame in frames]).duplicates
        assert [] == list(ledger.verify([scripted.VENUE]))


def test_frames_are_kept_whatever_their_bytes(new_schema: str) -> None:
    payloads = [bytes(range(256)) * 20, b"\0", b"\xff" * 100_000]
    with Ledger(new_schema) as ledger:
        feed(ledger, *payloads)
        found = [each for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        assert payloads == [ledger.evidence(each) for each in found]


LONG = "x" * (TEXT_BYTES_MAX + 1)


@pytest.mark.parametrize(
    "long",
    [
        fill("f2", 2, key=LONG),
        fill("f2", 2, key="é" * (TEXT_BYTES_MAX // 2 + 1)),
        fill(LONG, 2),
        order(LONG, 2),
        snapshot(2, {LONG: "1"}),
        delta(2, {"A": "1", LONG: "1"}),
    ],
)
def test_an_id_that_is_too_long_costs_its_own_frame_only(new_schema: str, long: Event) -> None:
    with Ledger(new_schema) as ledger:
        feed(ledger, says(delta(1, {"A": "1"})), says(long), says(delta(3, {"A": "3"})))
        [bad] = [each for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
        assert isinstance(bad.event, FrameQuarantined)
        assert re.search(r"an id of 50[12] bytes; this database takes 500", bad.event.reason)
        assert says(long) == ledger.evidence(bad)
        assert 3 == Balances(ledger)[MAIN]["A"].total
        assert [] == list(ledger.verify([scripted.VENUE]))
        assert "stays" == ledger.retry([scripted.VENUE], bad.account, bad.version).result


def test_the_longest_id_that_is_taken_is_held_by_every_index(new_schema: str) -> None:
    most = "😀" * (TEXT_BYTES_MAX // 4)
    name = "b" * (TEXT_BYTES_MAX - len("scripted:"))
    with Ledger(new_schema) as ledger:
        frames = [says(each, account=f"scripted:{name}") for each in (order(most, 1), delta(2, {most: "1"}))]
        with ledger.intake(
            scripted.VENUE, name, session="s" * (TEXT_BYTES_MAX - len("session::closed:2"))
        ) as intake:
            intake.receive_all([(frame, 1) for frame in frames])
        assert [most] == [each.order_id for each in Orders(ledger).rows()]
        assert [most] == list(Balances(ledger)[f"scripted:{name}"])


@pytest.mark.parametrize("which", ["account", "session"])
def test_a_name_of_ours_that_is_too_long_is_an_error_in_one_line(new_schema: str, which: str) -> None:
    names = {"account": LONG, "session": "s"} if which == "account" else {"account": "main", "session": LONG}
    with Ledger(new_schema) as ledger:
        with pytest.raises(Unstorable, match=r"an id of 5\d\d bytes"):
            ledger.intake(scripted.VENUE, names["account"], session=names["session"])
        assert 0 == ledger.position()


def test_a_number_that_no_column_holds_stores_nothing_and_the_next_append_goes_on(new_schema: str) -> None:
    with closing(Store(new_schema)) as store:
        with pytest.raises(Exception):  # noqa: B017, PT011 - as in a file: of Python
            store.append([Recorded(ACCOUNT, 1 << 63, event(1).event)], [])
        append(store, 1, 2)
        assert 2 == store.head()


# Opening -----------------------------------------------------------------------------------------------------------


def failed(url: str, *, read_only: bool = False) -> str:
    with pytest.raises(StoreError) as caught:
        Ledger(url, read_only=read_only)
    said = str(caught.value)
    assert "\n" not in said
    assert "secret" not in said
    return said


def with_password(url: str) -> str:
    return url.replace("postgres@", "postgres:secret@")


def test_what_cannot_be_opened_is_told_in_one_line_without_the_password(
    new_schema: str, postgres_server: str
) -> None:
    url = with_password(new_schema)
    assert "there is no ledger here" in failed(url, read_only=True)
    nowhere = with_password(databases.in_schema(postgres_server, "nowhere"))
    assert "the schema of its search_path is not there" in failed(nowhere)
    parts = urlsplit(postgres_server)
    other = with_password(parts._replace(path="/elsewhere").geturl())
    assert 'database "elsewhere" does not exist' in failed(other)
    for wrong in ("postgresql://u:secret@[h/db", "postgresql://u:secret@h/db?nonsense=secret"):
        assert "not the URL of a PostgreSQL database" in failed(wrong)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:secret@h/db",
        "Postgresql://u:secret@h/db",
        " postgresql://u:secret@h/db",
        "mysql://u:secret@h/db",
    ],
)
def test_a_url_of_something_else_is_no_file_and_shows_no_password(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not the URL of a PostgreSQL database" in failed(url)
    with pytest.raises(StoreError, match=r"not the URL of a PostgreSQL database: [^u]*user@"):
        Ledger(Path(url))
    for args in (["balances", "--db", url], ["copy", "--from", url, "--to", url]):
        with pytest.raises(SystemExit) as ended:
            main(args)
        said = capsys.readouterr()
        assert (2, "", 1) == (ended.value.code, said.out, said.err.count("\n"))
        assert "secret" not in said.err


def test_names_are_stored_as_they_are_whatever_encoding_somebody_wishes(
    new_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    for url in (new_schema, f"{new_schema}&client_encoding=SQL_ASCII"):
        with Ledger(url) as ledger:
            feed(ledger, says(delta(1, {"☃": "1.50"}), account="scripted:höst"), session=url[-9:])
            assert {"scripted:höst", MAIN} == {each.account for each in ledger.replay()}
            assert "1.50" == Balances(ledger).rows("scripted:höst")[0].total
            assert [] == list(ledger.verify())


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(postgres_server: str, encoding: str) -> None:
    name = f"d{uuid4().hex}"
    with closing(psycopg.connect(postgres_server, autocommit=True)) as server:
        server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
        try:
            url = urlsplit(with_password(postgres_server))._replace(path=f"/{name}").geturl()
            assert f"a database in {encoding}; a ledger wants one in UTF8" in failed(url)
        finally:
            server.execute(f"DROP DATABASE {name}".encode())


# Whose tables they are ----------------------------------------------------------------------------------------------


OTHERS = ("accounts", "sessions", "history", "balances")


def theirs(server: psycopg.Connection[Any]) -> list[Any]:
    return [
        *(server.execute(f"SELECT what FROM {name}".encode()).fetchall() for name in OTHERS),
        server.execute("SELECT answer FROM gaps").fetchall(),
    ]


def test_what_is_somebody_elses_stays_and_is_told_by_name(new_schema: str) -> None:
    with psycopg.connect(new_schema, autocommit=True) as server:
        for name in OTHERS:
            server.execute(f"CREATE TABLE {name} (what text)".encode())
            server.execute(f"INSERT INTO {name} VALUES ('precious')".encode())
        server.execute("CREATE VIEW gaps AS SELECT 42 AS answer")
        before = theirs(server)
        with Ledger(new_schema) as ledger:
            feed(ledger, says(delta(1, {"A": "1"})))
            with pytest.raises(StoreError, match=r"a table or view (balances|history|sessions) that is not"):
                Balances(ledger).rows()
            with pytest.raises(StoreError, match="that is not the ledger's: rename it"):
                Views(ledger)
            assert before == theirs(server)
            for name in OTHERS:
                server.execute(f"ALTER TABLE {name} RENAME TO their_{name}".encode())
            assert ["1"] == [row.total for row in Balances(ledger).rows()]
            with pytest.raises(StoreError, match="a table or view gaps that is not the ledger's"):
                Views(ledger)
            assert [(42,)] == server.execute("SELECT * FROM gaps").fetchall()
            server.execute("ALTER VIEW gaps RENAME TO their_gaps")
            Views(ledger).bring_up()
            assert [(1,)] == server.execute("SELECT count(*) FROM current_balances").fetchall()


def state(url: str) -> list[Any]:
    """The tables of a schema, with their columns, and how many rows are in the ledger's own."""
    with closing(psycopg.connect(url, autocommit=True)) as server:
        columns = server.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() ORDER BY 1, 2"
        ).fetchall()
        counted = sorted({table for table, _ in columns} & set(TABLES))
        return [columns, *(server.execute(f"SELECT count(*) FROM {t}".encode()).fetchall() for t in counted)]


@pytest.mark.parametrize(
    "lost",
    [
        ["natural_keys"],
        ["evidence"],
        ["stored_events"],
        ["ledger_schema"],
        ["evidence", "natural_keys"],
        ["evidence", "natural_keys", "stored_events"],
        ["evidence", "ledger_schema", "natural_keys"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("how", ["DROP TABLE {0}", "ALTER TABLE {0} RENAME TO other_{0}"])
def test_a_ledger_that_lost_tables_is_damaged_and_gets_none_anew(
    new_schema: str, lost: list[str], how: str
) -> None:
    """Made anew they would be empty: what is told again would be recorded again."""
    with Ledger(new_schema) as ledger:
        feed(ledger, says(fill("f1", 1, key="fill:f1")))
        ledger.write([(how.format(name), [()]) for name in lost])
    before = state(new_schema)
    for read_only in (True, False):
        with pytest.raises(Corrupt, match=rf"a damaged ledger \(it lost the tables {', '.join(lost)}\)$"):
            Ledger(new_schema, read_only=read_only)
    assert before == state(new_schema)


def test_a_ledger_in_which_a_lost_table_is_now_somebody_elses_is_damaged(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        ledger.write([("DROP TABLE evidence", [()]), ("CREATE TABLE evidence (mine text)", [()])])
    before = state(new_schema)
    for read_only in (True, False):
        assert "(it lost the tables evidence)" in failed(new_schema, read_only=read_only)
    assert before == state(new_schema)


def test_a_ledger_whose_seals_are_gone_is_damaged_and_not_sealed_anew(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        ledger.write(
            [("ALTER TABLE stored_events DROP COLUMN seal", [()]), ("DROP TABLE ledger_leases", [()])]
        )
    before = state(new_schema)
    for read_only in (True, False):
        with pytest.raises(Corrupt, match=r"a damaged ledger \(its seals are gone\)"):
            Ledger(new_schema, read_only=read_only)
    assert before == state(new_schema)


def test_the_table_of_stock_eventsourcing_alone_is_no_ledger_and_none_is_made_over_it(
    new_schema: str,
) -> None:
    other = stock(new_schema)
    with closing(other.datastore):
        other.create_table()
        other.insert_events([stored(1)])
        before = state(new_schema)
        assert "there is no ledger here" in failed(new_schema, read_only=True)
        assert "there is a table stored_events that is not the ledger's" in failed(new_schema)
        assert before == state(new_schema)


@pytest.mark.parametrize("name", ["stored_events", "evidence", "natural_keys", "ledger_schema"])
def test_no_ledger_is_made_over_a_table_of_one_of_its_names(new_schema: str, name: str) -> None:
    with psycopg.connect(new_schema, autocommit=True) as server:
        server.execute(f"CREATE TABLE {name} (mine text)".encode())
        assert f"there is a table {name} that is not the ledger's" in failed(with_password(new_schema))
        assert [("mine",)] == server.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        ).fetchall()


def test_a_projection_whose_place_is_gone_is_made_anew_over_its_own_table(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        assert ["1"] == [row.total for row in Balances(ledger).rows()]
        ledger.write([("DELETE FROM projection_positions", [()]), ("UPDATE balances SET total='2'", [()])])
    with Ledger(new_schema) as ledger:
        assert ["1"] == [row.total for row in Balances(ledger).rows()]


@pytest.mark.parametrize(
    ("said", "had"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
def test_what_is_acknowledged_is_on_the_disk_whatever_a_role_or_a_url_says(
    new_schema: str, said: str, had: str
) -> None:
    with Ledger(f"{new_schema}%20-csynchronous_commit%3D{said}") as ledger:
        assert [(had,)] == ledger.select("SHOW synchronous_commit")
        assert isinstance(ledger._store._engine, Postgres)
        writer = ledger._store._engine._writer
        assert writer is not None
        assert (had,) == writer.execute("SHOW synchronous_commit").fetchone()


@pytest.mark.parametrize("said", ["serializable", "repeatable%5C%20read"])
def test_who_waits_for_another_writer_sees_what_that_one_stored_whatever_a_role_or_a_url_says(
    new_schema: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{new_schema}%20-cdefault_transaction_isolation%3D{said}"
    with Ledger(url) as one, Ledger(url) as other, psycopg.connect(new_schema) as holding:
        holding.execute("LOCK TABLE stored_events IN EXCLUSIVE MODE")
        with ThreadPoolExecutor(2) as threads:
            frame = says(delta(1, {"A": "1"}))
            fed = [
                threads.submit(feed, ledger, frame, session=f"s{number}")
                for number, ledger in enumerate((one, other))
            ]
            time.sleep(0.2)
            holding.rollback()
            assert [1, 1] == [each.result().recorded for each in fed]
        assert [("read committed",)] == one.select("SHOW transaction_isolation")
    assert "tried again" not in caplog.text


def test_verify_raises_no_alarm_where_the_server_quotes_every_name(new_schema: str) -> None:
    with Ledger(f"{new_schema}%20-cquote_all_identifiers%3Don") as ledger:
        assert [] == list(ledger.verify())


def test_a_ledger_with_another_behind_it_in_the_search_path_is_one_of_its_own(schemas: Schemas) -> None:
    url, behind = schemas.url("one"), schemas.url("behind")
    both = f"{url},{behind.partition('search_path%3D')[2]}"
    try:
        with Ledger(behind) as ledger:
            feed(ledger, says(delta(1, {"A": "1"})))
            Views(ledger).bring_up()
        assert "there is no ledger here" in failed(with_password(both), read_only=True)
        with Ledger(both) as ledger:
            feed(ledger, says(delta(1, {"B": "2"})))
            Views(ledger).bring_up()
            assert ["B"] == [row.asset_id for row in Balances(ledger).rows()]
        for place, asset in ((behind, "A"), (both, "B"), (url, "B")):
            with Ledger(place, read_only=True) as ledger:
                assert [asset] == [row.asset_id for row in Balances(ledger).rows()]
                assert [(asset,)] == ledger.select("SELECT asset_id FROM current_balances")
                assert [] == list(ledger.verify())
    finally:
        schemas.forget()


def test_a_server_that_is_not_there_or_says_nothing_is_told_in_seconds() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        assert "refused" in failed(f"postgresql://u:secret@127.0.0.1:{port}/db?connect_timeout=2")
        deaf.listen()
        began = time.monotonic()
        assert "timeout" in failed(f"postgresql://u:secret@127.0.0.1:{port}/db?connect_timeout=2")
        assert time.monotonic() - began < 6


def test_the_command_line_tells_it_in_one_line_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["balances", "--db", "postgresql://u:secret@127.0.0.1:1/db"])
    said = capsys.readouterr()
    assert (2, "", 1) == (ended.value.code, said.out, said.err.count("\n"))
    assert said.err.startswith("accountledger: postgresql://u@127.0.0.1:1/db: ")
    assert "secret" not in said.err


def test_without_psycopg_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("ledger.postgres", "ledger.arrays"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        StoreError, match=r"^PostgreSQL needs psycopg: pip install 'accountledger\[postgres\]'$"
    ):
        Ledger("postgresql://u:secret@h/db")


def test_a_wrong_password_is_told_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    if databases.SERVER in os.environ:
        pytest.skip("the rules of that server are not ours to change")
    with databases.of_our_own() as (url, folder):
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("CREATE ROLE me LOGIN PASSWORD 'right'")
            rules = folder / "pg_hba.conf"
            rules.write_text("local all me scram-sha-256\n" + rules.read_text())
            connection.execute("SELECT pg_reload_conf()")
        began = time.monotonic()
        while "failed for user" not in (told := failed(url.replace("postgres@", "me:secret@"))):
            assert time.monotonic() - began < 5, told  # the server reads its rules again in its own time
        assert "password authentication failed" in told


def test_a_ledger_of_a_newer_version_is_refused_by_writers_and_readers(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        ledger.write([("UPDATE ledger_schema SET version=?", [(99,)])])
    for read_only in (False, True):
        assert re.search(
            r"newer version of accountledger \(schema 99", failed(new_schema, read_only=read_only)
        )


def test_a_reader_writes_nothing(new_schema: str) -> None:
    with closing(Store(new_schema)) as store:
        append(store, 1, 1)
    with closing(Store(new_schema, read_only=True)) as store:
        with pytest.raises(ReadOnly, match="opened with read_only=True"):
            append(store, 2, 2)
        with pytest.raises(StoreError, match="read-only transaction"):
            store.select("DELETE FROM stored_events RETURNING 1")
        assert 1 == store.head()


def test_twenty_that_make_the_same_ledger_at_once_make_one(schemas: Schemas) -> None:
    for _ in range(3):
        url, failures = schemas.url(), list[BaseException]()
        ready = threading.Barrier(20)

        def make(
            url: str = url, ready: threading.Barrier = ready, failures: list[BaseException] = failures
        ) -> None:
            try:
                ready.wait()
                Ledger(url).close()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=make) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == failures
        with closing(Store(url)) as store:
            append(store, 1, 2)
            assert [(1,)] == store.select("SELECT version FROM ledger_schema")
    schemas.forget()


def in_role(
    url: str, role: str, rows: str = "SELECT, INSERT, UPDATE, DELETE", numbers: str = "USAGE, UPDATE"
) -> str:
    """The URL of a ledger, for somebody who may do that with its rows and sequences, and no more, in its schema."""
    with closing(psycopg.connect(url, autocommit=True)) as owner:
        ((schema,),) = owner.execute("SELECT current_schema()").fetchall()
        owner.execute(
            f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
            f"GRANT USAGE ON SCHEMA {schema} TO {role}; "
            f"GRANT {rows} ON ALL TABLES IN SCHEMA {schema} TO {role}; "
            f"GRANT {numbers} ON ALL SEQUENCES IN SCHEMA {schema} TO {role}".encode()
        )
    return f"{url}%20-crole%3D{role}"


def test_who_may_make_no_table_feeds_a_ledger_whose_owner_made_them(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        bring_up_all(ledger)
    with Ledger(in_role(new_schema, "ledger_feeds")) as ledger:
        with pytest.raises(StoreError, match="permission denied"):
            ledger.write([("CREATE TABLE mine (a INTEGER)", [()])])
        assert ledger.lease(MAIN) is not None
        feed(ledger, says(delta(1, {"A": "1"})))
        remember(ledger, [row_of(MAIN, b"so far")])
        bring_up_all(ledger)
        assert ([b"so far"], ["1"]) == (
            [memory for _, memory, _ in remembered(ledger)],
            [total for (total,) in ledger.select("SELECT total::text FROM current_balances")],
        )


def test_a_ledger_that_lacks_a_table_is_completed_by_who_may(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        ledger.write([("DROP TABLE ledger_leases", [()])])
    writer = in_role(new_schema, "ledger_feeds")
    assert "not all there, and only who may make them can open it first" in failed(writer)
    Ledger(new_schema).close()
    with Ledger(in_role(new_schema, "ledger_feeds")) as ledger:
        assert ledger.lease(MAIN) is not None


def test_a_closed_ledger_keeps_no_connection(new_schema: str, schemas: Schemas) -> None:
    name = f"t{uuid4().hex}"
    ledger = Ledger(f"{new_schema}&application_name={name}")
    feed(ledger, says(delta(1, {"A": "1"})))
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name=%s"
    assert 0 < schemas.one(asked, name)
    ledger.close()
    with pytest.raises(Closed):
        list(ledger.replay())
    began = time.monotonic()
    while schemas.one(asked, name):
        assert time.monotonic() - began < 5
        time.sleep(0.01)


# The suite runs in PostgreSQL --------------------------------------------------------------------------------------


def test_what_a_test_opens_is_in_postgresql_where_it_is_routed_there(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with monkeypatch.context() as patched:
        route(patched, schemas)
        path = tmp_path / "a.db"
        with Ledger() as memory, Ledger(path) as ledger, Ledger(path, read_only=True) as reader:
            feed(ledger, says(delta(1, {"A": "1"})))
            assert [0, 3, 3] == [each.position() for each in (memory, ledger, reader)]
            assert all(each.name.startswith("postgresql://") for each in (memory, ledger, reader))
        assert not path.exists()
        with pytest.raises(NoSuchLedger):
            Ledger(tmp_path / "b.db", read_only=True)
        schemas.forget()
    with Ledger(path) as ledger:
        assert path.exists()
        assert str(path) == ledger.name


def test_a_defect_of_postgresql_alone_is_found_by_the_tests_as_they_are(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_gaps import test_a_baseline_that_misses_a_page_closes_nothing as routed

    routed()
    with monkeypatch.context() as patched:
        route(patched, schemas)
        routed()
        patched.setattr(Recorder, "append", forgets_one(Recorder.append))
        with pytest.raises((AssertionError, LedgerError)):
            routed()
    schemas.forget()


def test_of_hypothesis_the_first_few_examples_are_tried_and_of_many_cases_the_first_few_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    @settings(max_examples=90, database=None)
    @given(st.integers())
    def counted(number: int) -> None:
        tried.append(number)

    with monkeypatch.context() as patched:
        fewer_examples(patched, counted)
        counted()
    assert 3 == len(tried)
    counted()
    assert 93 == len(tried)

    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", "postgres"]
    files = [f"tests/{name}.py" for name in ("test_history_upto", "test_kill", "test_ledger", "test_view")]
    done = subprocess.run(
        [*command, *files], cwd=databases.HERE.parent, capture_output=True, text=True, timeout=60
    )
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    assert 2 == sum("::test_as_of_any_moment_of_a_history" in each for each in ids)  # marked `few`
    assert {"test_ledger.py", "test_history_upto.py", "test_view.py"} == {
        each.partition("::")[0].removeprefix("tests/") for each in ids
    }
    assert not [each for each in ids if "sqlite" in each or "what_sqlite_finds_wrong" in each]


def test_the_modules_that_also_run_in_postgresql_are_there() -> None:
    there = {path.stem for path in databases.HERE.glob("test_*.py")}
    assert set() == STORED - there


def test_every_module_that_opens_a_ledger_runs_in_postgresql_or_says_why_not() -> None:
    sources = {path.stem: path.read_text() for path in databases.HERE.glob("test_*.py")}
    opening = {name for name, source in sources.items() if re.search(r"\b(Ledger|Store)\(", source)}
    already = {
        name
        for name, source in sources.items()
        if re.search(r"\b(new_schema|postgres_server|schemas|Postmaster)\b", source)
    }
    assert set() == opening - STORED - already - set(databases.AS_WRITTEN)
    assert set() == STORED & set(databases.AS_WRITTEN)


def test_many_rows_are_written_by_the_columns_that_their_table_has_now(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        for kind, cell in (("TEXT", "one"), ("INTEGER", 1), ("BLOB", b"one")):
            ledger.write([("DROP TABLE IF EXISTS odd", [()]), (f"CREATE TABLE odd (cell {kind})", [()])])
            ledger.write([("INSERT INTO odd (cell) VALUES (?)", [(cell,), (cell,)])])
            assert [(cell,), (cell,)] == ledger.select("SELECT cell FROM odd")
