"""A connection to PostgreSQL that is cut at a commit: before the server has it, while it works, or before its answer is
read. Whether it was stored is looked up, not guessed.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from ledger import Ledger
from ledger.errors import MomentLost, StoreError
from ledger.postgres import Postgres
from ledger.postgres_view import PostgresView
from ledger.rows import Cell
from ledger.venues import bitopro
from projections.views import Views
from tests.contending import frame
from tests.databases import Schemas

APPEND = b"accountledger_append"
CUTS = 60


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.postgres.RETRY_S", 0.02)


class Cutting:
    """Stands between a ledger and its server. Of the appends, it cuts as it is told: `before` the server has it,
    `after` the server answered, `at once` when it was passed on."""

    def __init__(self, url: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._folder = parse_qs(urlsplit(url).query)["host"][0]
        self._rest = urlsplit(url).query
        self.plan: list[str] = []
        self.cuts: list[str] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def url(self) -> str:
        options = quote(parse_qs(self._rest)["options"][0], safe="")
        host, port = self._listener.getsockname()
        return f"postgresql://postgres@{host}:{port}/postgres?options={options}&sslmode=disable"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self._folder}/.s.PGSQL.5432")
            self._open += [client, server]
            told: list[str] = []
            for work in (self._up, self._down):
                self._start(work, client, server, told)

    def _up(self, client: socket.socket, server: socket.socket, told: list[str]) -> None:
        """From the ledger to the server. Once prepared, an append is known by its statement's name."""
        names: set[bytes] = set()
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if APPEND in data and data[:1] == b"P":
                    names.add(data[5 : data.index(b"\0", 5)])
                appends = APPEND in data or any(name and b"\0" + name + b"\0" in data for name in names)
                if appends and self.plan:
                    how = self.plan.pop(0)
                    self.cuts.append(how)
                    if how == "before":
                        break
                    if how == "at once":
                        server.sendall(data)
                        break
                    if how == "after":
                        told.append(how)
                server.sendall(data)
        _end(client, server)

    def _down(self, client: socket.socket, server: socket.socket, told: list[str]) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if told:
                    break
                client.sendall(data)
        _end(client, server)

    def close(self) -> None:
        _end(self._listener, *self._open)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(schemas: Schemas) -> Generator[tuple[Cutting, str]]:
    url = schemas.url()
    Ledger(url).close()
    proxy = Cutting(url)
    try:
        yield proxy, url
    finally:
        proxy.close()


def test_wherever_the_connection_is_cut_what_is_acknowledged_is_stored_once(
    schemas: Schemas, caplog: pytest.LogCaptureFixture
) -> None:
    rand = random.Random(5)
    with cutting(schemas) as (proxy, url), Ledger(proxy.url) as ledger:
        with caplog.at_level(logging.WARNING, "accountledger"), ledger.intake(bitopro, "main") as intake:
            for number in range(CUTS):
                proxy.plan = [rand.choice(["before", "at once", "after"]) for _ in range(rand.randint(0, 2))]
                tally = intake.receive_all([(frame("main", number * 3 + each), number) for each in range(3)])
                assert (3, 3) == (tally.frames, tally.recorded)
        assert {"before", "at once", "after"} == set(proxy.cuts)
        assert CUTS > len(proxy.cuts) > CUTS // 2
        assert any("tried again for up to" in each.message for each in caplog.records)  # it says so
    with Ledger(url, read_only=True) as ledger:
        assert not list(ledger.verify([bitopro]))
        assert CUTS * 3 + 2 == ledger.position()


def test_what_is_not_looked_up_is_told_as_a_conflict_or_doubled_and_it_is_seen(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted defect: an answer that was lost is taken for a commit that failed."""
    patiently = Postgres._patiently

    def guesses(self: Postgres, work: Callable[[object], object], unsure: object = None) -> object:
        return patiently(self, work)

    with (
        cutting(schemas) as (proxy, _),
        Ledger(proxy.url) as ledger,
        ledger.intake(bitopro, "main") as intake,
    ):
        monkeypatch.setattr(Postgres, "_patiently", guesses)
        proxy.plan = ["after"]
        tally = intake.receive(frame("main", 1))
        assert 0 == tally.recorded  # it was: it is called a duplicate
        monkeypatch.undo()
        proxy.plan = ["after"]
        assert 1 == intake.receive(frame("main", 2)).recorded


def test_where_the_server_stays_away_it_is_told_when_the_patience_is_over(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ledger.postgres.PATIENCE_S", 0.7)
    with cutting(schemas) as (proxy, url):
        ledger = Ledger(proxy.url)
        intake = ledger.intake(bitopro, "main")
        proxy.close()
        with (
            caplog.at_level(logging.WARNING, "accountledger"),
            pytest.raises(StoreError, match=r"tried again for \d s"),
        ):
            intake.receive(frame("main", 1))
        with pytest.raises(StoreError):
            ledger.position()
        ledger.close()
    with Ledger(url, read_only=True) as ledger:
        assert 1 == ledger.position()


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57P01", "57P03", "53300"])
def test_what_passes_is_tried_again(schemas: Schemas, code: str) -> None:
    """A serialization failure, a deadlock, a lock that is held, a server that ends, starts, or is full: each of them
    three times, told by the server itself."""
    url = schemas.url()
    with Ledger(url) as ledger, ledger.intake(bitopro, "main") as intake:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SEQUENCE planted")  # keeps counting where a transaction is rolled back
            connection.execute(
                "CREATE FUNCTION plant() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF nextval('planted') <= 3 THEN RAISE EXCEPTION 'planted' USING ERRCODE = '{code}'; END IF; "
                "RETURN NEW; END $$".encode()
            )
            connection.execute(
                "CREATE TRIGGER planted BEFORE INSERT ON evidence FOR EACH ROW EXECUTE FUNCTION plant()"
            )
        assert 1 == intake.receive(frame("main", 1)).recorded
    with Ledger(url, read_only=True) as ledger:
        assert 3 == ledger.position()


def test_a_moment_that_begins_while_the_server_is_away_waits_for_it(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(schemas.url()) as ledger:
        connect, away = Postgres._connect, [psycopg.OperationalError("connection refused")] * 2

        def refused(self: Postgres) -> object:
            if away:
                raise away.pop()
            return connect(self)

        monkeypatch.setattr(Postgres, "_connect", refused)
        with caplog.at_level(logging.WARNING, "accountledger"), ledger.view() as view:
            assert [] == list(view.events())
    assert 2 == caplog.text.count("asked again")


def test_sql_views_whose_moment_is_cut_off_in_the_middle_are_told_of_another(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, cuts = schemas.url(), [0, 1]
    select = PostgresView.select

    def cut(self: PostgresView, sql: str, params: Sequence[Cell] = ()) -> list[tuple[Cell, ...]]:
        if cuts and self._cursors >= cuts[0]:
            cuts.pop(0)
            with psycopg.connect(url, autocommit=True) as killer:
                killer.execute("SELECT pg_terminate_backend(%s)", [self._connection.info.backend_pid])
        return select(self, sql, params)

    monkeypatch.setattr(PostgresView, "select", cut)
    with Ledger(url) as ledger:
        with ledger.intake(bitopro, "main") as intake:
            intake.receive(frame("main", 1))
        Views(ledger).bring_up()
        rows = ledger.select("SELECT asset FROM current_balances", ())
    assert not cuts
    assert rows


def test_who_reads_a_moment_is_told_that_its_server_went_away(schemas: Schemas) -> None:
    url = schemas.url()
    with Ledger(url) as ledger, ledger.view() as view:
        assert isinstance(view, PostgresView)
        with psycopg.connect(url, autocommit=True) as killer:
            killer.execute("SELECT pg_terminate_backend(%s)", [view._connection.info.backend_pid])
        with pytest.raises(MomentLost, match="terminating connection"):
            view.select("SELECT 1")


def test_a_query_that_is_cancelled_ends_no_moment(schemas: Schemas) -> None:
    with Ledger(schemas.url()) as ledger, ledger.view() as view:
        view.select("SELECT set_config('statement_timeout', '20', true)")
        with pytest.raises(StoreError, match="statement timeout") as caught:
            view.select("SELECT pg_sleep(5)")
    assert not isinstance(caught.value, MomentLost)
