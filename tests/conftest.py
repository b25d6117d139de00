"""The suite is deterministic: hypothesis tries the same examples each time. HYPOTHESIS_PROFILE=explore: new ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest
from hypothesis import settings

from tests.databases import Schemas, route, server

_recursion = sys.getrecursionlimit()
import_module("eth_account")  # a library below it lifts the limit; here, before any test imports it

sys.setrecursionlimit(_recursion)

settings.register_profile("house", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-postgres", action="store_true")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server, in a hurry: what it acknowledges need not survive the machine."""
    with server(
        "fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 300"
    ) as url:
        yield url


@pytest.fixture(autouse=True)
def routed_to_postgres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not request.config.getoption("--all-postgres"):
        yield
        return
    url = request.getfixturevalue("postgres_server")
    schemas = Schemas(url)
    route(monkeypatch, schemas)
    yield
    schemas.drop()
